"""What a gateway process holds while it runs."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from shop_common.health import Check
from shop_common.redis import open_redis
from shop_common.tokens import KeyCache, TokenVerifier
from shop_gateway.models import Owner
from shop_gateway.rate_limit.limiter import RateLimiter, open_rate_limiter
from shop_gateway.rate_limit.shared import SCRIPT
from shop_gateway.service import Dashboards
from shop_gateway.settings import Settings
from shop_gateway.upstreams.calls import Upstream, open_key_source, open_upstream


@dataclass(frozen=True, slots=True)
class Resources:
    upstreams: Mapping[Owner, Upstream]
    dashboards: Dashboards
    tokens: TokenVerifier
    limiter: RateLimiter
    checks: Mapping[str, Check] = field(default_factory=dict)
    """None: the gateway is ready without Redis and without any upstream, and says in its answers what is missing."""


@asynccontextmanager
async def open_resources(settings: Settings) -> AsyncIterator[Resources]:
    """Open the pools; nothing is asked of anybody yet, so an upstream that is down does not keep the gateway down."""
    async with AsyncExitStack() as stack:
        users = await stack.enter_async_context(open_upstream("users", settings.users_url, settings.upstream))
        orders = await stack.enter_async_context(open_upstream("orders", settings.orders_url, settings.upstream))
        fetch_keys = await stack.enter_async_context(open_key_source(settings.jwks_url, settings.upstream))
        redis = await stack.enter_async_context(open_redis(settings.redis))
        script = redis.register_script(SCRIPT)
        limiter = await stack.enter_async_context(open_rate_limiter(settings.rate_limit, script))
        yield Resources(
            upstreams={"users": users, "orders": orders},
            dashboards=Dashboards(users, orders, settings.deadlines),
            tokens=TokenVerifier(settings.tokens, KeyCache(fetch_keys)),
            limiter=limiter,
        )

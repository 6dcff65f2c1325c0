"""What a gateway process holds while it runs."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from shop_common.health import Check, Degraded
from shop_common.kafka.follower import Follower
from shop_common.redis import open_redis
from shop_common.tokens import KeyCache, TokenVerifier
from shop_gateway.cache import SectionCache
from shop_gateway.changes import LOOK_BACK_SECONDS, RecentChanges
from shop_gateway.freshness import Freshness, Levels
from shop_gateway.models import Owner
from shop_gateway.rate_limit.limiter import RateLimiter, open_rate_limiter
from shop_gateway.rate_limit.shared import SCRIPT
from shop_gateway.revocations import Revocations
from shop_gateway.service import Dashboards
from shop_gateway.settings import Settings
from shop_gateway.shared_cache import open_shared_cache
from shop_gateway.streams import Streams, open_streams
from shop_gateway.upstreams.calls import Upstream, open_key_source, open_upstream

_STOP_SECONDS, _SETTLE_SECONDS = 6.0, 5.0


@dataclass(frozen=True, slots=True)
class Resources:
    upstreams: Mapping[Owner, Upstream]
    dashboards: Dashboards
    tokens: TokenVerifier
    limiter: RateLimiter
    freshness: Freshness
    revocations: Revocations
    streams: Streams
    checks: Mapping[str, Check]
    """It is ready without Redis, Kafka and any upstream; answers say what is missing."""


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
        shared = await stack.enter_async_context(open_shared_cache(redis, settings.cache))
        recent, revocations = RecentChanges(), Revocations()
        memory = SectionCache(settings.cache.max_bytes, recent=recent.versions)

        def is_told() -> bool:
            return follower.lag_seconds <= settings.cache.lag_seconds

        async def kafka() -> None:
            if not is_told():
                raise Degraded("changes are not heard of in time")

        async def redis_in_use() -> None:
            if shared.is_away:
                raise Degraded("nothing is shared with other gateways")

        levels = Levels(memory, shared, settings.cache, is_told)
        dashboards = Dashboards(users, orders, settings.deadlines, levels)
        stack.push_async_callback(dashboards.close)
        streams = await stack.enter_async_context(open_streams(settings.streams, recent, dashboards.has_statistics))
        freshness = Freshness(levels, recent, revocations, streams)
        follower = Follower(settings.kafka, LOOK_BACK_SECONDS, freshness.on_begin, freshness.on_records)
        await stack.enter_async_context(_following(follower))
        yield Resources(
            upstreams={"users": users, "orders": orders},
            dashboards=dashboards,
            tokens=TokenVerifier(settings.tokens, KeyCache(fetch_keys)),
            limiter=limiter,
            freshness=freshness,
            revocations=revocations,
            streams=streams,
            checks={"kafka": kafka, "redis": redis_in_use},
        )


@asynccontextmanager
async def _following(follower: Follower) -> AsyncIterator[None]:
    """Follow the topics meanwhile; at first, give them a moment to tell who is revoked."""
    stop = asyncio.Event()
    running = asyncio.create_task(follower.run(stop))
    try:
        await follower.settle(_SETTLE_SECONDS)
        yield
    finally:
        stop.set()
        await asyncio.wait([running], timeout=_STOP_SECONDS)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

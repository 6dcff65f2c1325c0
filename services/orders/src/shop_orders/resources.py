"""What an orders process holds while it runs."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from shop_common.cursors import CursorCodec
from shop_common.health import Check
from shop_common.http import open_http_client
from shop_common.mongo import open_mongo
from shop_common.settings import HttpClientSettings
from shop_common.tokens import KeyCache, TokenVerifier, fetch_keys_from
from shop_orders.service import OrderService
from shop_orders.settings import Settings
from shop_orders.store.orders import OrderStore
from shop_orders.store.outbox import OrderOutbox
from shop_orders.store.users import UserReplica


@dataclass(frozen=True, slots=True)
class Resources:
    checks: Mapping[str, Check]
    tokens: TokenVerifier
    orders: OrderService
    outbox: OrderOutbox


@asynccontextmanager
async def open_resources(settings: Settings) -> AsyncIterator[Resources]:
    """Of the API and of the worker alike. Neither the users service nor Kafka need be up."""
    async with AsyncExitStack() as stack:
        mongo = await stack.enter_async_context(open_mongo(settings.mongo, "orders"))
        client = await stack.enter_async_context(open_http_client(HttpClientSettings()))
        orders = OrderService(
            OrderStore(mongo.database), UserReplica(mongo.database), CursorCodec("orders", settings.cursor_key)
        )
        yield Resources(
            checks={"mongo": mongo.check},
            tokens=TokenVerifier(settings.tokens, KeyCache(fetch_keys_from(client, settings.tokens.jwks_url))),
            orders=orders,
            outbox=OrderOutbox(mongo.database, orders.settle),
        )

"""What the API holds while it runs, opened and closed in order."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from shop_common.cursors import CursorCodec
from shop_common.health import Check
from shop_common.postgres import open_postgres
from shop_common.tokens import KeyCache, TokenVerifier
from shop_users.keys import KeyRing, open_key_ring
from shop_users.passwords import open_passwords
from shop_users.service.accounts import Accounts
from shop_users.service.sessions import Sessions
from shop_users.service.statistics import OrderStatistics
from shop_users.settings import Settings
from shop_users.store.outbox import open_nudge
from shop_users.store.sessions import SessionStore
from shop_users.store.statistics import StatisticsStore
from shop_users.store.users import UserStore


@dataclass(frozen=True, slots=True)
class Resources:
    checks: Mapping[str, Check]
    tokens: TokenVerifier
    keys: KeyRing
    cursors: CursorCodec
    accounts: Accounts
    sessions: Sessions
    statistics: OrderStatistics


@asynccontextmanager
async def open_resources(settings: Settings) -> AsyncIterator[Resources]:
    async with AsyncExitStack() as stack:
        keys = await open_key_ring(settings)
        passwords = await stack.enter_async_context(open_passwords())
        postgres = await stack.enter_async_context(open_postgres(settings.postgres, "users"))
        nudge = await stack.enter_async_context(open_nudge(postgres))
        yield Resources(
            checks={"postgres": postgres.check},
            tokens=TokenVerifier(settings.tokens, KeyCache(keys.jwks)),
            keys=keys,
            cursors=CursorCodec("users", settings.cursor_key),
            accounts=Accounts(UserStore(postgres, nudge), passwords),
            sessions=Sessions(SessionStore(postgres), passwords, keys, settings.tokens),
            statistics=OrderStatistics(StatisticsStore(postgres)),
        )

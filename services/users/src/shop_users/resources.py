"""The composition root: what the API and the worker hold while they run, opened and closed in order."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from shop_common.cursors import CursorCodec
from shop_common.health import Check
from shop_common.kafka.producer import EventProducer, open_producer
from shop_common.outbox import OutboxRelay
from shop_common.postgres import open_postgres
from shop_common.tokens import KeyCache, TokenVerifier
from shop_users.keys import KeyRing, open_key_ring
from shop_users.mail import Mailer
from shop_users.passwords import open_passwords
from shop_users.service.accounts import Accounts
from shop_users.service.sessions import Sessions
from shop_users.service.statistics import OrderStatistics
from shop_users.service.welcome import WelcomeMails
from shop_users.settings import Settings
from shop_users.store.mails import MailStore
from shop_users.store.outbox import open_nudge
from shop_users.store.relay import open_outbox
from shop_users.store.sessions import SessionStore
from shop_users.store.statistics import StatisticsStore
from shop_users.store.users import UserStore


@dataclass(frozen=True, slots=True)
class Resources:
    """Of the API."""

    checks: dict[str, Check]
    tokens: TokenVerifier
    keys: KeyRing
    cursors: CursorCodec
    accounts: Accounts
    sessions: Sessions
    statistics: OrderStatistics


@dataclass(frozen=True, slots=True)
class WorkerResources:
    """Of the worker."""

    checks: dict[str, Check]
    settings: Settings
    producer: EventProducer
    relay: OutboxRelay
    statistics: OrderStatistics
    welcome_mails: WelcomeMails


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


@asynccontextmanager
async def open_worker_resources(settings: Settings) -> AsyncIterator[WorkerResources]:
    async with AsyncExitStack() as stack:
        postgres = await stack.enter_async_context(open_postgres(settings.postgres, "users-worker"))
        producer = await stack.enter_async_context(open_producer(settings.kafka))
        outbox = await stack.enter_async_context(open_outbox(postgres, settings.postgres))
        relay = OutboxRelay(outbox, producer)
        outbox.listen(relay.nudge)
        yield WorkerResources(
            checks={"postgres": postgres.check, "kafka": producer.ready},
            settings=settings,
            producer=producer,
            relay=relay,
            statistics=OrderStatistics(StatisticsStore(postgres)),
            welcome_mails=WelcomeMails(MailStore(postgres), Mailer(settings.smtp) if settings.smtp else None),
        )

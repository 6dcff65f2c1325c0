"""The users worker: publishes the outbox, counts orders, sends welcome mails; `python -m shop_users.worker` runs it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI

from shop_common.events import orders, users
from shop_common.kafka.consumer import EventConsumer
from shop_common.kafka.producer import open_producer
from shop_common.outbox import OutboxRelay
from shop_common.postgres import POSTGRES_TRANSIENT, open_postgres
from shop_common.service import WorkerResources, run_worker, worker_app
from shop_common.settings import load_settings
from shop_users.consumers import Consumers
from shop_users.mail import Mailer
from shop_users.service.statistics import OrderStatistics
from shop_users.service.welcome import WelcomeMails
from shop_users.settings import Settings
from shop_users.store.mails import MailStore
from shop_users.store.relay import open_outbox
from shop_users.store.statistics import StatisticsStore

ORDERS_GROUP = "users-worker"
MAIL_GROUP = "users-mail"
"""A group of its own, so that a mail server that is away holds up nothing else."""


@asynccontextmanager
async def open_worker_resources(settings: Settings) -> AsyncIterator[WorkerResources]:
    async with AsyncExitStack() as stack:
        postgres = await stack.enter_async_context(open_postgres(settings.postgres, "users-worker"))
        producer = await stack.enter_async_context(open_producer(settings.kafka))
        outbox = await stack.enter_async_context(open_outbox(postgres, settings.postgres))
        relay = OutboxRelay(outbox, producer)
        outbox.listen(relay.nudge)
        consumers = Consumers(
            OrderStatistics(StatisticsStore(postgres)),
            WelcomeMails(MailStore(postgres), Mailer(settings.smtp) if settings.smtp else None),
        )
        counting = EventConsumer(
            settings.kafka,
            group=ORDERS_GROUP,
            topics=[orders.TOPIC],
            handlers=consumers.of_orders,
            producer=producer,
            transient=POSTGRES_TRANSIENT,
        )
        mailing = EventConsumer(
            settings.kafka,
            group=MAIL_GROUP,
            topics=[users.TOPIC],
            handlers=consumers.of_registrations,
            producer=producer,
            transient=POSTGRES_TRANSIENT,
        )
        checks = {
            "postgres": postgres.check,
            "kafka": producer.ready,
            ORDERS_GROUP: counting.ready,
            MAIL_GROUP: mailing.ready,
        }
        yield WorkerResources(checks, (counting, mailing, relay))


def create_worker(settings: Settings | None = None) -> FastAPI:
    return worker_app("users-worker", settings or load_settings(Settings), open_worker_resources)


if __name__ == "__main__":
    loaded = load_settings(Settings)
    run_worker(create_worker(loaded), loaded)

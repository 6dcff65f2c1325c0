"""The users worker: publishes the outbox, counts orders, sends welcome mails; `python -m shop_users.worker` runs it."""

from collections.abc import Sequence

from fastapi import FastAPI

from shop_common.events import orders, users
from shop_common.events.orders import OrderCancelled, OrderConfirmed, OrderPaid, OrderPlaced, OrderRejected
from shop_common.events.users import UserRegistered
from shop_common.kafka.consumer import EventConsumer
from shop_common.postgres import POSTGRES_TRANSIENT
from shop_common.service import Job, run_worker, worker_app
from shop_common.settings import load_settings
from shop_users.consumers import Consumers
from shop_users.resources import WorkerResources, open_worker_resources
from shop_users.settings import Settings

ORDERS_GROUP = "users-worker"
MAIL_GROUP = "users-mail"
"""A group of its own, so that a mail server that is away holds up nothing else."""


def create_jobs(resources: WorkerResources) -> Sequence[Job]:
    """Consumers first, since that is the order in which they are stopped."""
    consumers = Consumers(resources.statistics, resources.welcome_mails)
    kafka, producer = resources.settings.kafka, resources.producer
    counting = EventConsumer(
        kafka,
        group=ORDERS_GROUP,
        topics=[orders.TOPIC],
        handlers=dict.fromkeys(
            (OrderPlaced, OrderConfirmed, OrderPaid, OrderCancelled, OrderRejected), consumers.on_order_changed
        ),
        producer=producer,
        transient=POSTGRES_TRANSIENT,
    )
    mailing = EventConsumer(
        kafka,
        group=MAIL_GROUP,
        topics=[users.TOPIC],
        handlers={UserRegistered: consumers.on_user_registered},
        producer=producer,
        transient=POSTGRES_TRANSIENT,
    )
    resources.checks.update({ORDERS_GROUP: counting.ready, MAIL_GROUP: mailing.ready})
    return [counting, mailing, resources.relay]


def create_worker(settings: Settings | None = None) -> FastAPI:
    return worker_app("users-worker", settings or load_settings(Settings), open_worker_resources, create_jobs)


if __name__ == "__main__":
    loaded = load_settings(Settings)
    run_worker(create_worker(loaded), loaded)

"""The orders worker: `python -m shop_orders.worker` follows users' events and publishes orders' events."""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Final

from fastapi import FastAPI

from shop_common.events import users
from shop_common.kafka.consumer import EventConsumer
from shop_common.kafka.producer import open_producer
from shop_common.mongo import MONGO_TRANSIENT
from shop_common.outbox import OutboxRelay
from shop_common.service import WorkerResources, run_worker, worker_app
from shop_common.settings import load_settings
from shop_orders.consumers import UserEvents
from shop_orders.errors import OrderContended
from shop_orders.resources import open_resources
from shop_orders.settings import Settings

GROUP: Final = "orders-worker"
_IDLE_POLL_SECONDS: Final = 0.25  # the API's process has no way to nudge this one


@asynccontextmanager
async def open_worker_resources(settings: Settings) -> AsyncIterator[WorkerResources]:
    async with (
        open_resources(settings) as resources,
        open_producer(settings.kafka) as producer,
        aclosing(resources.outbox) as outbox,
    ):
        relay = OutboxRelay(outbox, producer, idle_poll_seconds=_IDLE_POLL_SECONDS)
        consumer = EventConsumer(
            settings.kafka,
            group=GROUP,
            topics=[users.TOPIC],
            handlers=UserEvents(resources.orders, relay.nudge).handlers,
            producer=producer,
            transient=(*MONGO_TRANSIENT, OrderContended),
        )
        checks = {**resources.checks, "kafka": producer.ready, GROUP: consumer.ready}
        yield WorkerResources(checks, (consumer, relay))


def create_worker(settings: Settings | None = None) -> FastAPI:
    return worker_app(GROUP, settings or load_settings(Settings), open_worker_resources)


if __name__ == "__main__":
    loaded = load_settings(Settings)
    run_worker(create_worker(loaded), loaded)

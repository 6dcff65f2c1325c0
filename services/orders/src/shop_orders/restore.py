"""`python -m shop_orders.restore`: bring a database that comes from a backup up to what was published since.

Every event carries an order's full state, so the log holds all orders as they were last published: each is written
where the database has an older version of it or none. Nothing else may write meanwhile; safe to repeat.
"""

import asyncio
import logging
import sys
import time
from dataclasses import dataclass
from typing import Final

from aiokafka.errors import KafkaError
from pydantic import ValidationError
from pymongo.errors import PyMongoError

from shop_common.errors import StartupError
from shop_common.events.contracts import parse
from shop_common.events.envelope import Event, KafkaRecord, MalformedEvent
from shop_common.events.orders import TOPIC, OrderState
from shop_common.kafka.log_reader import open_reader
from shop_common.mongo import open_mongo
from shop_common.settings import load_settings
from shop_orders.models import Order, published_order
from shop_orders.settings import RestoreSettings
from shop_orders.store.orders import OrderStore

_AT_ONCE: Final = 500
_PROGRESS_SECONDS: Final = 1.0


@dataclass(slots=True)
class Tally:
    read: int = 0
    written: int = 0
    """Orders of which the database knew less."""
    malformed: int = 0

    def __str__(self) -> str:
        return f"read {self.read} events, wrote {self.written} orders, skipped {self.malformed} malformed events"


async def restore(settings: RestoreSettings) -> Tally:
    """Raises StartupError, KafkaError, PyMongoError or OSError; what was written until then is right, and stays."""
    tally, latest, shown_at = Tally(), dict[str, Order](), time.monotonic()
    servers = settings.kafka.bootstrap_servers
    async with open_mongo(settings.mongo, "orders-restore") as mongo, open_reader(servers) as reader:
        if not reader.has(TOPIC):
            raise StartupError(f"there is no topic {TOPIC} at {servers}")
        store, turns = OrderStore(mongo.database), asyncio.Semaphore(settings.mongo.max_size)
        async for record in reader.records(await reader.ends(TOPIC)):
            tally.read += 1
            order = _parse(record)
            if order is None:
                tally.malformed += 1
            elif order.id not in latest or latest[order.id].version < order.version:
                latest[order.id] = order
            if len(latest) >= _AT_ONCE:
                tally.written += await _write(store, turns, latest)
            if time.monotonic() - shown_at >= _PROGRESS_SECONDS:
                shown_at = time.monotonic()
                print(tally, file=sys.stderr)  # noqa: T201 - long work shows its progress
        tally.written += await _write(store, turns, latest)
    return tally


def _parse(record: KafkaRecord) -> Order | None:
    try:
        state = parse(Event.from_kafka(record))
    except (MalformedEvent, ValidationError):
        return None
    return published_order(state) if isinstance(state, OrderState) else None


async def _write(store: OrderStore, turns: asyncio.Semaphore, latest: dict[str, Order]) -> int:
    async def write(order: Order) -> bool:
        async with turns:
            return await store.overtake(order)

    written = await asyncio.gather(*map(write, latest.values()))
    latest.clear()
    return sum(written)


def main() -> int:
    settings = load_settings(RestoreSettings)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what went wrong is said once, below
    try:
        tally = asyncio.run(restore(settings))
    except StartupError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the command line's answer
        return 1
    except (KafkaError, PyMongoError, OSError) as error:
        print(f"not restored ({type(error).__name__}); start it again, nothing is done twice", file=sys.stderr)  # noqa: T201 - as above
        return 1
    print(tally)  # noqa: T201 - as above
    return 0


if __name__ == "__main__":
    sys.exit(main())

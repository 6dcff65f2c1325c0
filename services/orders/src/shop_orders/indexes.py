"""The indexes that serve every query: `python -m shop_orders.indexes` creates them; safe to repeat."""

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from pymongo import ASCENDING, DESCENDING
from pymongo.errors import OperationFailure, PyMongoError

from shop_common.errors import StartupError
from shop_common.mongo import MONGO_TRANSIENT, Database, open_mongo
from shop_common.settings import MongoSettings, load_settings
from shop_common.startup import once_up
from shop_orders.settings import IndexSettings
from shop_orders.store.orders import COLLECTION


@dataclass(frozen=True, slots=True)
class Index:
    name: str
    keys: tuple[tuple[str, int], ...]
    options: Mapping[str, Any] = field(default_factory=dict)


_NEWEST_FIRST: Final = (("created_at", DESCENDING), ("_id", DESCENDING))

INDEXES: Final = (
    Index("newest", _NEWEST_FIRST),
    Index("by_status", (("status", ASCENDING), *_NEWEST_FIRST)),
    Index("by_user", (("user_id", ASCENDING), *_NEWEST_FIRST)),
    Index("by_user_and_status", (("user_id", ASCENDING), ("status", ASCENDING), *_NEWEST_FIRST)),
    # As small as the outbox is: an order is in it only until its events are published.
    Index(
        "outbox_by_shard",
        (("shard", ASCENDING), ("pending_at", ASCENDING)),
        {"partialFilterExpression": {"pending_at": {"$exists": True}}},
    ),
)
"""Of the orders; users are only ever asked for by their ids."""


async def create_indexes(database: Database) -> list[str]:
    """Create what is missing; returns the names of all. StartupError where an index of that name is another one."""
    for index in INDEXES:
        try:
            await database[COLLECTION].create_index(list(index.keys), name=index.name, **index.options)
        except OperationFailure as error:
            raise StartupError(f"index {index.name} cannot be created (code {error.code}); drop the old one") from error
    return [index.name for index in INDEXES]


async def _connect_and_create(settings: MongoSettings) -> list[str]:
    async with open_mongo(settings, "orders-indexes") as mongo:
        return await create_indexes(mongo.database)


def main() -> int:
    settings = load_settings(IndexSettings)
    try:
        names = asyncio.run(once_up(partial(_connect_and_create, settings.mongo), MONGO_TRANSIENT))
    except StartupError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the command line's answer
        return 1
    except PyMongoError as error:
        print(f"MongoDB did not create the indexes: {type(error).__name__}; try again", file=sys.stderr)  # noqa: T201 - as above
        return 1
    print("\n".join(names))  # noqa: T201 - as above
    return 0


if __name__ == "__main__":
    sys.exit(main())

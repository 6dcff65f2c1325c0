"""Indexes: created once and for all, and every query has one."""

import asyncio
import os
import sys
import uuid
from asyncio.subprocess import PIPE
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from shop_cluster.pytest_plugin import Server
from shop_common.events.orders import OrderStatus
from shop_common.mongo import Database
from shop_common.settings import MongoSettings
from shop_orders.indexes import INDEXES, create_indexes
from shop_orders.models import User
from shop_orders.service import OrderService
from shop_orders.store.orders import OrderStore
from shop_orders.store.outbox import OrderOutbox

Indexed = Callable[[str, Mapping[str, Any], Mapping[str, int]], bool]
NEWEST = {"created_at": -1, "_id": -1}


async def test_creating_is_repeatable(database: Database) -> None:
    assert await create_indexes(database) == [index.name for index in INDEXES]
    assert await create_indexes(database) == [index.name for index in INDEXES]
    there = await database["orders"].index_information()
    assert {name: information["key"] for name, information in there.items() if name != "_id_"} == {
        index.name: list(index.keys) for index in INDEXES
    }


async def test_every_query_of_the_store_is_served(database: Database, service: OrderService, queries: Any) -> None:
    """All of them, with each filter present and absent; the other tests check whatever else they send."""
    store, user_id, position = OrderStore(database), str(uuid.uuid4()), (datetime.now(UTC), str(uuid.uuid4()))
    queries.seen.clear()
    statuses: tuple[OrderStatus | None, ...] = (None, "paid")
    for user in (None, user_id):
        for status in statuses:
            for after in (None, position):
                await store.find_page(user, status, after, 51)
    await store.find(position[1])
    await service.follow_user(User(user_id, is_active=True, version=1), "event")
    await service.follow_user(User(user_id, is_active=False, version=2), "event")
    await OrderOutbox(database, service.settle).pending(500)
    shapes = {(collection, *query, "sort", *sort) for collection, query, sort in queries.seen}
    assert len(shapes) >= 12


@pytest.mark.parametrize(
    ("collection", "query", "sort"),
    [
        ("orders", {"total.amount": 5}, {}),
        ("orders", {"fingerprint": b"x"}, NEWEST),
        ("orders", {"user_id": "u", "status": {"$in": ["paid"] * 201}}, NEWEST),
        ("orders", {"user_id": "u"}, {"created_at": -1, "_id": 1}),
        ("orders", {"user_id": "u"}, {"updated_at": -1}),
        ("orders", {"version": {"$gt": 1}}, {}),
        ("orders", {"status": {"$gt": "a"}}, NEWEST),
        ("orders", {"pending_at": {"$ne": None}}, {"pending_at": 1}),
        ("users", {"is_active": True}, {}),
        ("orders", {"not": "aggregate"}, {}),
    ],
)
def test_a_query_without_an_index_is_told(
    indexed: Indexed, collection: str, query: Mapping[str, Any], sort: Mapping[str, int]
) -> None:
    assert not indexed(collection, query, sort)


def test_a_query_with_an_index_is_told(indexed: Indexed) -> None:
    assert indexed("orders", {"user_id": "u"}, {"created_at": 1, "_id": 1})
    assert indexed("orders", {"user_id": "u", "status": {"$in": ["paid"]}}, NEWEST)
    assert indexed("orders", {"_id": "o", "version": 1}, {})


async def run_command(settings: MongoSettings, **changes: str) -> tuple[int | None, str, str]:
    environment = os.environ | {
        "ORDERS_MONGO__URL": settings.url.get_secret_value(),
        "ORDERS_MONGO__DATABASE": settings.database,
        "ORDERS_MONGO__CONNECT_SECONDS": "1",
    }
    command = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "shop_orders.indexes", env=environment | changes, stdout=PIPE, stderr=PIPE
    )
    out, err = await asyncio.wait_for(command.communicate(), 60)
    return command.returncode, out.decode(), err.decode()


async def test_the_command_needs_only_the_database(mongo_settings: MongoSettings) -> None:
    names = "".join(f"{index.name}\n" for index in INDEXES)
    for _ in range(2):
        assert await run_command(mongo_settings) == (0, names, "")


async def test_the_command_waits_for_a_server_that_is_starting(
    mongo_settings: MongoSettings, mongo_server: Server
) -> None:
    refused = 0

    async def starting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal refused
        if refused < 6:
            refused += 1
            writer.close()
            return
        server_reader, server_writer = await asyncio.open_connection(mongo_server.host, mongo_server.port)
        await asyncio.gather(copy(reader, server_writer), copy(server_reader, writer))

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            target.write(data)
        target.close()

    async with await asyncio.start_server(starting, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        code, _, err = await run_command(
            mongo_settings, ORDERS_MONGO__URL=f"mongodb://127.0.0.1:{port}/?directConnection=true"
        )
    assert (code, err, refused) == (0, "", 6)


async def test_a_bad_address_is_one_line_at_once(mongo_settings: MongoSettings) -> None:
    code, _, err = await run_command(mongo_settings, ORDERS_MONGO__URL="nonsense://u:secret@h")
    assert (code, len(err.splitlines())) == (1, 1)
    assert "secret" not in err


async def test_missing_settings_are_one_line(mongo_settings: MongoSettings) -> None:
    code, _, err = await run_command(mongo_settings, ORDERS_MONGO__DATABASE="a b")
    assert (code, len(err.splitlines())) == (78, 1)
    assert err.startswith("ORDERS_MONGO__DATABASE")

"""The MongoDB pool: bounded, named when it cannot start, seen in traces only when recorded."""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import REGISTRY
from pydantic import SecretStr
from pymongo.errors import OperationFailure, ServerSelectionTimeoutError, WaitQueueTimeoutError

from shop_common.context import request_scope, set_deadline
from shop_common.errors import StartupError
from shop_common.mongo import MONGO_TRANSIENT, Mongo, open_mongo
from shop_common.settings import MongoSettings
from shop_common.testing import recorded_spans
from shop_common.tracing import entry_span

SAMPLED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def settings(mongo_database: Any) -> MongoSettings:
    return MongoSettings(url=SecretStr(mongo_database.url), database=mongo_database.name, min_size=0, max_size=2)


@pytest.fixture
async def mongo(settings: MongoSettings) -> AsyncIterator[Mongo]:
    async with open_mongo(settings, "pool-test") as opened:
        await opened.database["notes"].delete_many({})
        yield opened


def metric(name: str) -> float:
    return REGISTRY.get_sample_value(f"shop_pool_{name}", {"pool": "mongo"}) or 0


async def test_documents_round_trip_and_the_check_passes(mongo: Mongo) -> None:
    await mongo.check()
    await mongo.database["notes"].insert_one({"_id": 1, "text": "a"})
    assert await mongo.database["notes"].find_one({"_id": 1}) == {"_id": 1, "text": "a"}


async def test_writes_are_acknowledged_by_the_majority_and_times_are_aware(mongo: Mongo) -> None:
    assert mongo.database.write_concern.document == {"w": "majority", "j": True}
    assert mongo.database.read_concern.document == {"level": "majority"}
    assert mongo.database.codec_options.tz_aware


async def test_connections_are_counted_and_gone_in_the_end(settings: MongoSettings) -> None:
    size, waits = metric("connections"), metric("wait_seconds_count")
    async with open_mongo(settings, "pool-test") as mongo:
        await asyncio.gather(*(mongo.check() for _ in range(20)))
        assert size + 1 <= metric("connections") <= size + 2
        assert metric("connections_in_use") == 0
        assert metric("wait_seconds_count") >= waits + 21
    assert metric("connections") == size


@pytest.fixture
async def frozen(settings: MongoSettings, proxy: Any) -> AsyncIterator[tuple[Mongo, Any]]:
    """A pool of one connection, and what stands before its server: silent for now, and patiently waited for."""
    url = settings.url.get_secret_value()
    parts = urlsplit(url)
    before = await proxy(parts.hostname, parts.port)
    changes = {
        "url": SecretStr(url.replace(f":{parts.port}", f":{before.port}", 1)),
        "max_size": 1,
        "acquire_seconds": 0.1,
        "command_seconds": 60,
    }
    async with open_mongo(settings.model_copy(update=changes), "pool-test") as mongo:
        before.freeze()
        yield mongo, before
        before.thaw()


async def lent() -> bool:
    return metric("connections_in_use") == 1


async def all_returned() -> bool:
    return metric("connections_in_use") == 0


async def test_a_full_pool_ends_the_wait_in_time_and_recovers(frozen: tuple[Mongo, Any], until: Any) -> None:
    mongo, before = frozen
    timeouts = metric("timeouts_total")
    holding = asyncio.create_task(mongo.check())
    await until(lent)
    async with asyncio.timeout(10):
        outcomes = await asyncio.gather(*(mongo.check() for _ in range(20)), return_exceptions=True)
    assert [type(each) for each in outcomes] == [WaitQueueTimeoutError] * 20
    assert isinstance(outcomes[0], MONGO_TRANSIENT)
    assert metric("timeouts_total") == timeouts + 20
    before.thaw()
    await holding
    await mongo.check()
    assert metric("connections_in_use") == 0


async def test_a_cancelled_call_keeps_its_place_until_it_has_ended(frozen: tuple[Mongo, Any], until: Any) -> None:
    mongo, before = frozen
    cancelled = asyncio.create_task(mongo.check())
    await until(lent)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    with pytest.raises(WaitQueueTimeoutError):
        await mongo.check()
    before.thaw()
    await until(all_returned)
    await mongo.check()


async def test_a_call_ends_with_the_request_it_is_for(frozen: tuple[Mongo, Any], until: Any) -> None:
    mongo, before = frozen
    with request_scope("brief"):
        set_deadline(0.2)
        brief = asyncio.create_task(mongo.check())
    await until(lent)
    brief.cancel()
    async with asyncio.timeout(30):  # and not with the 60 s a call may take by itself
        await until(all_returned)
    with request_scope("late"):
        set_deadline(0)
        with pytest.raises(MONGO_TRANSIENT):
            await mongo.check()
    before.thaw()
    await mongo.check()


async def test_every_connection_can_be_used_at_once(settings: MongoSettings, proxy: Any, until: Any) -> None:
    many = 5 * (os.cpu_count() or 1) + 5
    parts = urlsplit(settings.url.get_secret_value())
    before = await proxy(parts.hostname, parts.port)
    url = SecretStr(settings.url.get_secret_value().replace(f":{parts.port}", f":{before.port}", 1))

    async def all_lent() -> bool:
        return metric("connections_in_use") == many

    async def all_ready() -> bool:
        """Greeted, too: one that is only open would be greeted by nobody while nothing passes."""
        servers = mongo.database.client.delegate._topology._servers.values()
        return metric("connections") == size + many and sum(len(server.pool.conns) for server in servers) == many

    sizes = {"url": url, "min_size": many, "max_size": many}
    # Nobody is to leave before all are there.
    patience = {"connect_seconds": 60, "acquire_seconds": 60, "command_seconds": 60}
    size = metric("connections")
    async with open_mongo(settings.model_copy(update=sizes | patience), "pool-test") as mongo:
        await until(all_ready)
        before.freeze()
        calls = [asyncio.ensure_future(mongo.database["notes"].find_one({})) for _ in range(many)]
        await until(all_lent)
        before.thaw()
        await asyncio.gather(*calls)


async def test_a_refused_connection_is_one_line_without_the_password(settings: MongoSettings) -> None:
    url = SecretStr("mongodb://u:hunter2@127.0.0.1:1/?directConnection=true")
    wrong = settings.model_copy(update={"url": url, "connect_seconds": 0.2})
    with pytest.raises(StartupError) as refused:
        async with asyncio.timeout(10), open_mongo(wrong, "pool-test"):
            raise AssertionError("must not open")
    assert str(refused.value) == (
        "MongoDB at 127.0.0.1:1/ refuses: ServerSelectionTimeoutError; start it or correct the URL"
    )
    assert isinstance(refused.value.__cause__, ServerSelectionTimeoutError)
    assert isinstance(refused.value.__cause__, MONGO_TRANSIENT)


async def test_a_server_that_says_nothing_is_given_up(settings: MongoSettings, silent_port: int) -> None:
    url = SecretStr(f"mongodb://127.0.0.1:{silent_port}/?directConnection=true")
    silent = settings.model_copy(update={"url": url, "connect_seconds": 0.2, "command_seconds": 0.2})
    with pytest.raises(StartupError):
        async with asyncio.timeout(20), open_mongo(silent, "pool-test"):
            raise AssertionError("must not open")


@pytest.mark.parametrize("url", ["redis://u:hunter2@h", "mongodb://u:hun@ter2@h", "mongodb://h:hunter2", "mongodb://"])
async def test_an_unusable_url_is_one_line_without_it(url: str, settings: MongoSettings) -> None:
    with pytest.raises(StartupError, match=r"^the MongoDB URL is not usable: ") as refused:
        async with open_mongo(settings.model_copy(update={"url": SecretStr(url)}), "pool-test"):
            raise AssertionError("must not open")
    assert "hunter2" not in str(refused.value)


async def test_commands_of_recorded_work_are_client_spans(mongo: Mongo) -> None:
    notes = mongo.database["notes"]
    with recorded_spans() as spans, entry_span("in", SpanKind.SERVER, SAMPLED):
        await notes.insert_one({"email": "alice@example.com"})
        await notes.find_one({"email": "alice@example.com"})
        await mongo.check()
        with pytest.raises(OperationFailure):
            await mongo.database.command("noSuchCommand", 1)
    insert, find, failed, outer = spans.get_finished_spans()
    assert [span.name for span in (insert, find, failed)] == ["mongo insert", "mongo find", "mongo noSuchCommand"]
    assert insert.kind is SpanKind.CLIENT
    assert insert.attributes == {
        "db.system.name": "mongodb",
        "db.operation.name": "insert",
        "db.collection.name": "notes",
    }
    assert outer.context is not None
    for span in (insert, find, failed):
        assert span.parent is not None
        assert span.parent.span_id == outer.context.span_id
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.attributes is not None
    assert "db.collection.name" not in failed.attributes
    assert "alice" not in "".join(span.to_json() for span in spans.get_finished_spans())


@pytest.mark.parametrize("incoming", [None, SAMPLED[:-1] + "0"])
async def test_other_commands_make_no_spans(mongo: Mongo, incoming: str | None) -> None:
    with recorded_spans() as spans, entry_span("in", SpanKind.SERVER, incoming):
        await mongo.database["notes"].find_one({})
        with pytest.raises(OperationFailure):
            await mongo.database.command("noSuchCommand", 1)
    assert spans.get_finished_spans() == ()

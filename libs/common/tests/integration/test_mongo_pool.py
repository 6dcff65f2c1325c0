"""The MongoDB pool: bounded, named when it cannot start, seen in traces only when recorded."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import REGISTRY
from pydantic import SecretStr
from pymongo import monitoring
from pymongo.errors import OperationFailure, ServerSelectionTimeoutError, WaitQueueTimeoutError

from shop_common.errors import StartupError
from shop_common.mongo import MONGO_TRANSIENT, Mongo, _PoolMetrics, open_mongo
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


async def test_a_full_pool_ends_the_wait_in_time_and_recovers(settings: MongoSettings) -> None:
    brief = settings.model_copy(update={"max_size": 1, "acquire_seconds": 0.1})
    timeouts = metric("timeouts_total")
    async with open_mongo(brief, "pool-test") as mongo:
        pool = next(iter(mongo.database.client.delegate._topology._servers.values())).pool
        with pool.checkout():
            assert metric("connections_in_use") == 1
            with pytest.raises(WaitQueueTimeoutError) as full:
                await mongo.check()
        assert isinstance(full.value, MONGO_TRANSIENT)
        assert metric("timeouts_total") == timeouts + 1
        await mongo.check()
    assert metric("connections_in_use") == 0


def test_a_connection_that_fails_is_no_timeout_of_the_pool() -> None:
    timeouts = metric("timeouts_total")
    reason = monitoring.ConnectionCheckOutFailedReason.CONN_ERROR
    _PoolMetrics().connection_check_out_failed(monitoring.ConnectionCheckOutFailedEvent(("db", 1), reason, 0.1))
    assert metric("timeouts_total") == timeouts


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

"""The relay: each version after the one before it, only what was acked is marked, and it outlives every failure."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from prometheus_client import REGISTRY

from shop_common import outbox as outbox_module
from shop_common.events.envelope import Event, event_id
from shop_common.kafka.backoff import happens_within
from shop_common.outbox import OutboxRecord, OutboxRelay


def an_event(aggregate: UUID, version: int) -> Event:
    return Event(
        id=event_id(aggregate, version),
        type="users.user_updated.v1",
        source="users",
        subject=str(aggregate),
        sequence=version,
        time=datetime.now(UTC),
        key=str(aggregate),
        data=b"{}",
    )


class Store:
    """An outbox in memory, that fails when told."""

    def __init__(self, *events: Event) -> None:
        self.records = [OutboxRecord(position, "topic", event) for position, event in enumerate(events)]
        self.reads = 0
        self.read_errors: list[Exception] = []
        self.mark_errors: list[Exception] = []
        self.marks: list[list[int]] = []

    def add(self, event: Event) -> None:
        self.records.append(OutboxRecord(1_000_000 + len(self.records), "topic", event))

    async def pending(self, limit: int) -> Sequence[OutboxRecord]:
        self.reads += 1
        if self.read_errors:
            raise self.read_errors.pop(0)
        return self.records[:limit]

    async def mark_sent(self, records: Sequence[OutboxRecord]) -> None:
        if self.mark_errors:
            raise self.mark_errors.pop(0)
        positions = [record.position for record in records]
        self.marks.append(positions)
        self.records = [record for record in self.records if record.position not in positions]


class Log:
    """Stands for Kafka: keeps what it acked, by aggregate; `before` may fail or hold a send."""

    def __init__(self, before: Callable[[Event], Awaitable[None]] | None = None) -> None:
        self.before = before
        self.acked: dict[str, list[int]] = defaultdict(list)
        self.running: dict[str, int] = defaultdict(int)
        self.peak = 0

    async def send(self, event: Event, topic: str) -> None:
        assert topic == "topic"
        self.running[event.subject] += 1
        assert self.running[event.subject] == 1, "two versions of an aggregate at once"
        self.peak = max(self.peak, sum(self.running.values()))
        try:
            await asyncio.sleep(0)
            if self.before is not None:
                await self.before(event)
            self.acked[event.subject].append(event.sequence)
        finally:
            self.running[event.subject] -= 1


@asynccontextmanager
async def relaying(store: Store, log: Log, idle_poll_seconds: float = 3600.0) -> AsyncIterator[OutboxRelay]:
    relay, stop = OutboxRelay(store, log, idle_poll_seconds=idle_poll_seconds), asyncio.Event()
    running = asyncio.create_task(relay.run(stop))
    try:
        yield relay
    finally:
        stop.set()
        async with asyncio.timeout(10):
            await running


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the fakes have no event for each condition
            await asyncio.sleep(0.001)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "_BACKOFF_SECONDS", (0.001, 0.01))
    monkeypatch.setattr(outbox_module, "_POLL_SECONDS", 0.001)


async def test_versions_are_in_order_and_aggregates_beside_each_other() -> None:
    aggregates = [uuid4() for _ in range(40)]
    store, log = Store(*(an_event(aggregate, version) for version in range(1, 6) for aggregate in aggregates)), Log()
    async with relaying(store, log):
        await until(lambda: not store.records)

    assert log.acked == {str(aggregate): [1, 2, 3, 4, 5] for aggregate in aggregates}
    assert log.peak == 40
    assert len(store.marks) == 1


async def test_sends_at_once_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "_SENDS_AT_ONCE", 7)
    store, log = Store(*(an_event(uuid4(), 1) for _ in range(50))), Log()
    async with relaying(store, log):
        await until(lambda: not store.records)

    assert log.peak == 7


async def test_a_failure_stops_the_later_versions_of_its_aggregate_only() -> None:
    bad, good = uuid4(), uuid4()
    is_broken = True

    async def fails_in_the_middle(event: Event) -> None:
        if is_broken and event.subject == str(bad) and event.sequence == 2:
            raise ConnectionError

    store = Store(*(an_event(aggregate, version) for version in (1, 2, 3) for aggregate in (bad, good)))
    log = Log(fails_in_the_middle)
    async with relaying(store, log):
        await until(lambda: len(log.acked[str(good)]) == 3 and store.reads > 3)
        assert log.acked == {str(bad): [1], str(good): [1, 2, 3]}
        assert [record.event.sequence for record in store.records] == [2, 3], "only what was acked is marked"
        is_broken = False
        await until(lambda: not store.records)

    assert log.acked[str(bad)] == [1, 2, 3]


async def test_a_store_that_fails_is_asked_again() -> None:
    store, log = Store(an_event(uuid4(), 1)), Log()
    store.read_errors = [ConnectionError(), KeyError(), TimeoutError()]
    async with relaying(store, log):
        await until(lambda: not store.records)

    assert store.reads >= 4


async def test_what_could_not_be_marked_is_marked_again_and_not_sent_again() -> None:
    aggregate = uuid4()
    store, log = Store(an_event(aggregate, 1)), Log()
    store.mark_errors = [ConnectionError(), KeyError()]
    async with relaying(store, log):
        await until(lambda: not store.records)

    assert log.acked == {str(aggregate): [1]}


async def test_a_store_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "_STORE_SECONDS", 0.01)
    store, log = Store(an_event(uuid4(), 1)), Log()
    hanging, pending = [True], store.pending

    async def hangs_once(limit: int) -> Sequence[OutboxRecord]:
        if hanging:
            hanging.pop()
            await asyncio.Event().wait()
        return await pending(limit)

    store.pending = hangs_once  # type: ignore[method-assign] # a failure of this one store
    async with relaying(store, log):
        await until(lambda: not store.records)


async def test_a_full_batch_is_followed_at_once_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "_BATCH", 10)
    monkeypatch.setattr(outbox_module, "_POLL_SECONDS", 3600.0)
    store, log = Store(*(an_event(uuid4(), 1) for _ in range(35))), Log()
    async with relaying(store, log):
        await until(lambda: not store.records)

    assert [len(marks) for marks in store.marks] == [10, 10, 10, 5]


async def test_a_nudge_ends_the_wait_for_the_next_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "_POLL_SECONDS", 3600.0)
    store, log = Store(), Log()
    async with relaying(store, log) as relay:
        await until(lambda: store.reads == 1)
        store.add(an_event(uuid4(), 1))
        relay.nudge()
        await until(lambda: not store.records)


async def test_a_nudge_during_a_round_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "_POLL_SECONDS", 3600.0)
    store, sending, gate = Store(an_event(uuid4(), 1)), asyncio.Event(), asyncio.Event()

    async def waits(event: Event) -> None:
        sending.set()
        await gate.wait()

    async with relaying(store, Log(waits)) as relay:
        await sending.wait()
        store.add(an_event(uuid4(), 1))
        relay.nudge()
        gate.set()
        await until(lambda: not store.records)


async def test_polling_slows_down_while_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def noted(event: asyncio.Event, seconds: float) -> bool:
        waits.append(seconds)
        return await happens_within(event, seconds / 100)

    monkeypatch.setattr(outbox_module, "_POLL_SECONDS", 0.25)
    monkeypatch.setattr(outbox_module, "happens_within", noted)
    store = Store(an_event(uuid4(), 1))
    async with relaying(store, Log(), idle_poll_seconds=1.0):
        await until(lambda: len(waits) >= 5)

    assert waits[:5] == [0.25, 0.5, 1.0, 1.0, 1.0]


async def test_a_stop_ends_the_round_after_the_sends_under_way() -> None:
    aggregate, other = uuid4(), uuid4()
    sending, gate = asyncio.Event(), asyncio.Event()

    async def waits(event: Event) -> None:
        sending.set()
        await gate.wait()

    store = Store(an_event(aggregate, 1), an_event(aggregate, 2), an_event(other, 1))
    log = Log(waits)
    async with relaying(store, log):
        await sending.wait()
        asyncio.get_running_loop().call_later(0.05, gate.set)

    assert log.acked == {str(aggregate): [1], str(other): [1]}
    assert [record.event.sequence for record in store.records] == [2], "what was acked is marked before the end"


async def test_a_stop_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "_LAST_ROUND_SECONDS", 0.05)
    sending = asyncio.Event()

    async def hangs(event: Event) -> None:
        sending.set()
        await asyncio.Event().wait()

    store = Store(an_event(uuid4(), 1))
    async with relaying(store, Log(hangs)):
        await sending.wait()

    assert len(store.records) == 1
    assert store.marks == []


async def test_a_stop_gives_up_a_store_that_cannot_mark() -> None:
    store = Store(an_event(uuid4(), 1))
    store.mark_errors = [ConnectionError() for _ in range(1_000_000)]
    log = Log()
    async with relaying(store, log):
        await until(lambda: bool(log.acked))

    assert len(store.records) == 1


async def test_a_cancelled_relay_ends_with_its_sends() -> None:
    sending, ended = asyncio.Event(), []

    async def hangs(event: Event) -> None:
        sending.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(event.sequence)

    running = asyncio.create_task(OutboxRelay(Store(an_event(uuid4(), 1)), Log(hangs)).run(asyncio.Event()))
    await sending.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended == [1]


async def test_what_waits_and_how_long_is_measured() -> None:
    def value(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(name, labels) or 0

    async def refuses(event: Event) -> None:
        if is_broken:
            raise ConnectionError

    is_broken, published = True, value("shop_outbox_published_total", topic="topic")
    failed = value("shop_outbox_failures_total", step="send")
    old = replace(an_event(uuid4(), 1), time=datetime.now(UTC) - timedelta(minutes=5))
    store = Store(old, an_event(uuid4(), 1))
    async with relaying(store, Log(refuses)):
        await until(lambda: store.reads > 1 and value("shop_outbox_pending") == 2)
        assert 300 <= value("shop_outbox_oldest_seconds") < 400
        assert value("shop_outbox_failures_total", step="send") >= failed + 2
        is_broken = False
        await until(lambda: not store.records)
        await until(lambda: value("shop_outbox_pending") == 0)

    assert value("shop_outbox_oldest_seconds") == 0
    assert value("shop_outbox_published_total", topic="topic") == published + 2

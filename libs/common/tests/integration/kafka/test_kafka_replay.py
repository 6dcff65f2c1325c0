"""Dead letters sent back: the same events to the same topics, once, and only those asked for."""

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.structs import TopicPartition

from shop_common.errors import StartupError
from shop_common.events.envelope import Event
from shop_common.events.users import UserUpdated
from shop_common.kafka.deadletter import dead_letter_headers
from shop_common.kafka.delivery import Poison
from shop_common.kafka.producer import EventProducer, SendFailed
from shop_common.kafka.replay import Selection, Tally, main, replay

Until = Callable[..., Awaitable[None]]
Create = Callable[..., UserUpdated]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def counts(tally: Tally) -> tuple[int, int, int, int]:
    return tally.selected, tally.replayed, tally.skipped, tally.failed


async def replayed(kafka: Any, rate: int = 1000, **selection: Any) -> tuple[int, int, int, int]:
    return counts(await replay(kafka.settings(), kafka.group, Selection(**selection), rate))


async def put_letters(kafka: Any, topic: str, *states: UserUpdated, at: datetime = NOON) -> None:
    """Dead letters of these events as if each had failed at `at`."""
    async with kafka.raw_producer() as producer:
        for state in states:
            key, value, headers = state.to_event().to_kafka()
            record = FakeRecord(topic, key, value, headers)
            await producer.send_and_wait(
                kafka.dead_letters, value=value, key=key, headers=dead_letter_headers(record, Poison("no"), 3, at)
            )


class FakeRecord:
    def __init__(self, topic: str, key: bytes, value: bytes, headers: Any) -> None:
        self.topic, self.partition, self.offset = topic, 0, 0
        self.key, self.value, self.headers = key, value, headers


async def test_what_was_poison_is_handled_once_it_is_replayed(
    kafka: Any, wait_until: Until, user_event: Create
) -> None:
    """Poison → dead letter → mended → replayed: the same events, in order per key, each with one effect."""
    topic, dead = await kafka.topic(partitions=2), await kafka.topic(kafka.dead_letters)
    users = [uuid4() for _ in range(3)]
    states = [user_event(user, version, note=f"bad{version}") for version in (1, 2) for user in users]
    ids = {state.to_event().id for state in states}
    applied: dict[UUID, list[int]] = {user: [] for user in users}
    seen: list[UUID] = []
    is_mended = False

    async def on_user_updated(event: Event, data: UserUpdated) -> None:
        if not is_mended and data.username.startswith("bad"):
            raise Poison
        seen.append(event.id)
        if data.version > max(applied[data.id], default=0):  # the version guard that every handler has
            applied[data.id].append(data.version)

    await kafka.put(topic, *states)
    async with kafka.consuming(topic, {UserUpdated: on_user_updated}):
        before = await kafka.read(dead, 6)
        assert seen == []
        is_mended = True
        assert await replayed(kafka) == (6, 6, 0, 0)
        await wait_until(lambda: len(seen) == 6)
        assert set(seen) == ids
        assert applied == {user: [1, 2] for user in users}

        assert await replayed(kafka) == (0, 0, 6, 0), "the second run finds them marked"
        assert await replayed(kafka, with_replayed=True) == (6, 6, 0, 0)
        await wait_until(lambda: len(seen) == 12)
        assert applied == {user: [1, 2] for user in users}, "once more is a duplicate, and dropped"
    sent = await kafka.read(topic, 18)
    assert Counter((r.key, r.value, tuple(r.headers)) for r in sent) == Counter(
        {(key, value, tuple(headers)): 3 for key, value, headers in (state.to_event().to_kafka() for state in states)}
    )
    assert len(before) == 6


async def test_a_letter_that_fails_again_is_a_new_letter(kafka: Any, wait_until: Until, user_event: Create) -> None:
    topic, dead = await kafka.topic(partitions=1), await kafka.topic(kafka.dead_letters)

    async def on_user_updated(event: Event, data: UserUpdated) -> None:
        raise Poison

    await kafka.put(topic, user_event())
    async with kafka.consuming(topic, {UserUpdated: on_user_updated}):
        await kafka.read(dead, 1)
        assert await replayed(kafka) == (1, 1, 0, 0)
        await kafka.read(dead, 3)  # the letter, its mark, and the new one
    assert await replayed(kafka) == (1, 1, 1, 0)


async def test_each_filter_selects_and_loses_nothing(kafka: Any, user_event: Create) -> None:
    topic = await kafka.topic(partitions=1)
    await kafka.topic(kafka.dead_letters)
    user = uuid4()
    early, late = user_event(user, 1), user_event(user, 2)
    other = user_event()
    await put_letters(kafka, topic, early, other)
    await put_letters(kafka, topic, late, at=NOON + timedelta(hours=2))

    async def dry(**selection: Any) -> int:
        return (await replay(kafka.settings(), kafka.group, Selection(**selection), None)).selected

    ids = [state.to_event().id for state in (early, late, other)]
    assert await dry() == 3
    assert [await dry(ids=frozenset(ids[:count])) for count in (1, 2, 3)] == [1, 2, 3]
    assert (await dry(type=UserUpdated.TYPE), await dry(type="users.user_moved.v1")) == (3, 0)
    assert (await dry(key=str(user)), await dry(key="nobody")) == (2, 0)
    assert (await dry(since=NOON), await dry(since=NOON + timedelta(seconds=1))) == (3, 1)
    assert (await dry(until=NOON), await dry(until=NOON + timedelta(seconds=1))) == (0, 2)
    assert await dry(key=str(user), since=NOON + timedelta(hours=1), until=NOON + timedelta(hours=3)) == 1

    assert await replayed(kafka, ids=frozenset(ids[1:2])) == (1, 1, 2, 0)
    assert await replayed(kafka) == (2, 2, 1, 0), "what a filter skipped is still there"
    sent = [Event.from_kafka(record).id for record in await kafka.read(topic, 3)]
    assert sorted(sent) == sorted(ids)


async def test_a_dry_run_sends_nothing_and_lists_all(
    kafka: Any, user_event: Create, capsys: pytest.CaptureFixture[str]
) -> None:
    topic, dead = await kafka.topic(partitions=1), await kafka.topic(kafka.dead_letters)
    state = user_event()
    await put_letters(kafka, topic, state)
    async with kafka.raw_producer() as producer:  # whose author would like to write to a terminal
        headers = dead_letter_headers(FakeRecord(topic, b"", b"", []), Poison("a\x1b[2J\tb"), 1, NOON)
        await producer.send_and_wait(dead, key=b"\x1b]0;k", value=b"x", headers=headers)

    code = await asyncio.to_thread(main, [kafka.group, "--bootstrap-servers", kafka.bootstrap, "--dry-run"])
    out, err = capsys.readouterr()
    *lines, summary = out.splitlines()
    rows = {fields[0].partition("/")[2] + fields[2]: fields for fields in (line.split("\t") for line in lines)}
    assert len(rows) == len(lines) == 2
    [known] = [fields for fields in rows.values() if fields[2] != "-"]
    assert known[1:] == [
        str(state.to_event().id),
        UserUpdated.TYPE,
        str(state.id),
        "Poison: no",
        "3",
        "2026-03-01T12:00:00+00:00",
    ]
    [strange] = [fields for fields in rows.values() if fields[2] == "-"]
    assert strange[1:5] == ["-", "-", "?]0;k", "Poison: a?[2J?b"]
    assert (code, err, summary) == (0, "", "selected 2, replayed 0, skipped 0, failed 0")
    await kafka.read(topic, 0)
    assert len(await kafka.read(dead, 2)) == 2


async def test_a_cut_letter_is_replayed_from_its_topic_or_told_to_be_gone(
    kafka: Any, wait_until: Until, user_event: Create, capsys: pytest.CaptureFixture[str]
) -> None:
    topic = await kafka.topic(partitions=1)
    dead = await kafka.topic(kafka.dead_letters, **{"max.message.bytes": "20000"})
    state = user_event()
    key, _, headers = state.to_event().to_kafka()
    async with kafka.raw_producer() as producer:
        await producer.send_and_wait(topic, value=b"x" * 100_000, key=key, headers=headers)
        async with kafka.consuming(topic, kafka.noting([])):
            [letter] = await kafka.read(dead, 1)
            assert letter.value == b""
        assert await replayed(kafka, ids=frozenset([uuid4()])) == (0, 0, 1, 0)
        assert await replayed(kafka, ids=frozenset([state.to_event().id])) == (1, 1, 0, 0)
        first, again = await kafka.read(topic, 2)
        assert (first.key, first.value, first.headers) == (again.key, again.value, again.headers)
        assert await replayed(kafka) == (0, 0, 1, 0)

    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=2)})
    await admin.close()
    assert await replayed(kafka, with_replayed=True) == (0, 0, 0, 1)
    assert capsys.readouterr().err.endswith(f"only its story was kept, and the record {topic}/0/0 is gone\n")


async def test_what_cannot_be_sent_back_is_told_and_the_rest_goes_on(
    kafka: Any, user_event: Create, capsys: pytest.CaptureFixture[str]
) -> None:
    topic = await kafka.topic(partitions=1)
    small = await kafka.topic(f"{kafka.prefix}small", partitions=1, **{"max.message.bytes": "100"})
    dead = await kafka.topic(kafka.dead_letters)
    await put_letters(kafka, f"{kafka.prefix}none", user_event())
    await put_letters(kafka, small, user_event())
    async with kafka.raw_producer() as producer:
        await producer.send_and_wait(dead, key=b"k", value=b"not ours")
        story = dead_letter_headers(FakeRecord(topic, b"", b"", []), Poison("no"), 3, NOON)
        broken = [(name, b"noon" if name == "dlq_first_failed_at" else text) for name, text in story]
        await producer.send_and_wait(dead, key=b"k", value=b"x", headers=broken)
    await put_letters(kafka, topic, user_event())

    assert await replayed(kafka) == (2, 1, 0, 4)
    told = capsys.readouterr().err
    for reason in (
        f"topic {kafka.prefix}none is gone",
        "takes no record of this size",
        "no dead letter: header 'dlq_first_failed_at' is missing",
        "no dead letter: Invalid isoformat string: 'noon'",
    ):
        assert reason in told
    assert len(await kafka.read(topic, 1)) == 1


async def test_the_rate_is_kept(kafka: Any, user_event: Create) -> None:
    topic = await kafka.topic(partitions=1)
    await kafka.topic(kafka.dead_letters)
    await put_letters(kafka, topic, *(user_event() for _ in range(8)))

    started = time.monotonic()
    assert await replayed(kafka, rate=5) == (8, 8, 0, 0)
    assert time.monotonic() - started >= 8 / 5


async def test_a_broker_that_goes_away_ends_the_run_and_the_next_one_goes_on(
    kafka: Any, user_event: Create, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = await kafka.topic(partitions=1)
    await kafka.topic(kafka.dead_letters)
    await put_letters(kafka, topic, *(user_event() for _ in range(5)))
    real, sends = EventProducer.send_record, 0

    async def fails_later(self: Any, *record: Any) -> None:
        nonlocal sends
        sends += 1
        if sends > 4:
            raise SendFailed
        await real(self, *record)

    with monkeypatch.context() as patch:
        patch.setattr(EventProducer, "send_record", fails_later)
        with pytest.raises(StartupError, match=r"selected 3, replayed 2, skipped 0, failed 0; start it again"):
            await replayed(kafka, rate=10)
    assert await replayed(kafka) == (3, 3, 2, 0)


async def test_a_broker_that_falls_silent_while_reading_is_an_error(
    kafka: Any, user_event: Create, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = await kafka.topic(partitions=1)
    await kafka.topic(kafka.dead_letters)
    await put_letters(kafka, topic, user_event())

    async def nothing(*_: Any, **__: Any) -> dict[Any, Any]:
        return {}

    monkeypatch.setattr(AIOKafkaConsumer, "getmany", nothing)
    with pytest.raises(StartupError, match=r"does not answer \(KafkaTimeoutError\); is it running there"):
        await replayed(kafka)


async def test_no_dead_letters_topic_is_one_line(kafka: Any, capsys: pytest.CaptureFixture[str]) -> None:
    code = await asyncio.to_thread(main, [kafka.group, "--bootstrap-servers", kafka.bootstrap])

    name = kafka.group
    assert (code, capsys.readouterr().err) == (
        1,
        f"there is no topic {name}.dlq at {kafka.bootstrap}; is {name} the group's name?\n",
    )


def test_no_broker_is_one_line_that_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code = main(["orders-worker", "--bootstrap-servers", address])

    expected = f"Kafka at {address} does not answer (KafkaConnectionError); is it running there?\n"
    assert (code, capsys.readouterr().err) == (1, expected)

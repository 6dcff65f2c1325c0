"""What cannot be handled is put aside, once, with its story; what only meets broken infrastructure is not."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from shop_common.events.envelope import MAX_DATA_BYTES, Event
from shop_common.events.users import UserUpdated
from shop_common.kafka.delivery import Poison

Until = Callable[..., Awaitable[None]]
Create = Callable[..., UserUpdated]


async def test_poison_goes_to_the_dead_letters_and_the_rest_goes_on(
    kafka: Any, wait_until: Until, user_event: Create
) -> None:
    topic, dead = await kafka.topic(partitions=2), await kafka.topic(kafka.dead_letters)
    good = [user_event(note=f"good{number}") for number in range(20)]
    seen: list[str] = []

    key, value, headers = user_event().to_event().to_kafka()
    bad = {
        "not JSON": (key, b"{", headers),
        "another shape": (key, b'{"id": 1}', headers),
        "no id": (key, value, [item for item in headers if item[0] != "ce_id"]),
        "unknown major": (key, value, [(n, b"users.user_updated.v2" if n == "ce_type" else v) for n, v in headers]),
        "no headers": (key, value, []),
        "no key": (None, value, headers),
        "no value": (key, None, headers),
        "oversize": (key, b"x" * (MAX_DATA_BYTES + 1), headers),
    }
    async with kafka.raw_producer() as producer:
        for name, (key_, value_, headers_) in bad.items():
            await producer.send(topic, value=value_, key=key_, headers=[*headers_, ("name", name.encode())])
    await kafka.put(topic, *good)
    async with kafka.consuming(topic, kafka.noting(seen)):
        await wait_until(lambda: len(seen) == 20)
        letters = await kafka.read(dead, len(bad))

    assert sorted(seen) == sorted(state.username for state in good)
    assert sum((await kafka.committed(topic)).values()) == len(good) + len(bad)
    found = {dict(letter.headers)["name"].decode(): letter for letter in letters}
    assert {name: (letter.key, letter.value) for name, letter in found.items()} == {
        name: (key_, value_) for name, (key_, value_, _) in bad.items()
    }
    errors = {name: dict(letter.headers)["dlq_error"].decode() for name, letter in found.items()}
    assert errors["no id"] == "MalformedEvent: header ce_id is missing or empty"
    assert errors["unknown major"] == "MalformedEvent: users.user_updated.v2 is of a major version not known here"
    assert errors["another shape"].startswith(
        "MalformedEvent: the data is not users.user_updated.v1: created_at, email"
    )


async def test_a_dead_letter_tells_its_story(kafka: Any, wait_until: Until, user_event: Create) -> None:
    topic, dead = await kafka.topic(partitions=1), await kafka.topic(kafka.dead_letters)
    tries: Counter[str] = Counter()

    async def on_user_updated(event: Event, data: UserUpdated) -> None:
        tries[data.username] += 1
        match data.username:
            case "poison":
                raise Poison("no such colour")
            case "validation":
                UserUpdated.model_validate({})
            case "bug":
                raise KeyError("é" * 5000)

    states = [user_event(note=note) for note in ("poison", "validation", "bug")]
    before = datetime.now(UTC)
    await kafka.put(topic, *states)
    async with kafka.consuming(topic, {UserUpdated: on_user_updated}):
        letters = await kafka.read(dead, 3)

    assert tries == {"poison": 3, "validation": 3, "bug": 5}
    for letter in letters:
        state = states[int(dict(letter.headers)["dlq_offset"])]
        original = state.to_event().to_kafka()
        assert (letter.key, letter.value, list(letter.headers[:8])) == original
        story = {name: text.decode() for name, text in letter.headers[8:]}
        assert list(story) == [
            "dlq_topic",
            "dlq_partition",
            "dlq_offset",
            "dlq_error",
            "dlq_stack",
            "dlq_attempts",
            "dlq_first_failed_at",
        ]
        assert (story["dlq_topic"], story["dlq_partition"]) == (topic, "0")
        assert story["dlq_attempts"] == str(tries[state.username])
        assert "in on_user_updated" in story["dlq_stack"]
        assert len(story["dlq_error"]) <= 1000
        assert before <= datetime.fromisoformat(story["dlq_first_failed_at"]) <= datetime.now(UTC)
        if state.username == "poison":
            assert story["dlq_error"] == "Poison: no such colour"


async def test_trouble_with_infrastructure_burns_no_tries(kafka: Any, wait_until: Until, user_event: Create) -> None:
    class DriverError(Exception):
        pass

    topic, user = await kafka.topic(partitions=1), uuid4()
    dead = await kafka.topic(kafka.dead_letters)
    seen: list[int] = []
    tries: Counter[int] = Counter()

    async def on_user_updated(event: Event, data: UserUpdated) -> None:
        tries[data.version] += 1
        if data.version == 1 and tries[1] <= 7:
            raise (ConnectionRefusedError, TimeoutError, DriverError)[tries[1] % 3]
        if data.version == 2 and tries[2] <= 6:
            raise (DriverError if tries[2] % 2 else ValueError)  # three of each: fewer than five that count
        seen.append(data.version)

    await kafka.put(topic, *(user_event(user, version) for version in (1, 2, 3)))
    async with kafka.consuming(topic, {UserUpdated: on_user_updated}, transient=(DriverError,)):
        await wait_until(lambda: len(seen) == 3)
        await kafka.read(dead, 0)

    assert seen == [1, 2, 3]
    assert tries == {1: 8, 2: 7, 3: 1}


async def test_a_handler_that_hangs_is_given_up_and_tried_again(
    kafka: Any, wait_until: Until, user_event: Create
) -> None:
    topic = await kafka.topic(partitions=1)
    tries: list[str] = []

    async def on_user_updated(event: Event, data: UserUpdated) -> None:
        tries.append(data.username)
        if len(tries) < 3:
            await asyncio.Event().wait()

    await kafka.put(topic, user_event())
    async with kafka.consuming(topic, {UserUpdated: on_user_updated}, handler_timeout_seconds=0.1):
        await wait_until(lambda: len(tries) == 3)
    assert await kafka.committed(topic) == {0: 1}


async def test_the_offset_waits_for_the_ack_of_the_dead_letter(
    kafka: Any, wait_until: Until, user_event: Create
) -> None:
    topic, reached = await kafka.topic(partitions=1), asyncio.Event()

    async def on_user_updated(event: Event, data: UserUpdated) -> None:
        reached.set()

    async with kafka.raw_producer() as producer:
        await producer.send_and_wait(topic, value=b"{}", key=b"bad")
    await kafka.put(topic, user_event())
    async with kafka.consuming(topic, {UserUpdated: on_user_updated}, send_timeout_seconds=0.5, drain_seconds=0.5):
        await reached.wait()
    assert await kafka.committed(topic) == {}, "there is no topic for the dead letter, so it is not done"

    await kafka.topic(kafka.dead_letters)
    async with kafka.consuming(topic, {UserUpdated: on_user_updated}):
        await kafka.read(kafka.dead_letters, 1)
    assert await kafka.committed(topic) == {0: 2}


async def test_a_dead_letter_too_large_for_its_topic_still_says_where_the_record_lies(
    kafka: Any, wait_until: Until
) -> None:
    topic = await kafka.topic(partitions=1)
    dead = await kafka.topic(kafka.dead_letters, **{"max.message.bytes": "20000"})

    async with kafka.raw_producer() as producer:
        await producer.send_and_wait(topic, value=b"x" * 100_000, key=b"k" * 2000, headers=[("colour", b"red")])
    async with kafka.consuming(topic, {}):
        [letter] = await kafka.read(dead, 1)

    headers = dict(letter.headers)
    assert (letter.key, letter.value) == (b"k" * 255, b"")
    assert (headers["dlq_topic"], headers["dlq_offset"]) == (topic.encode(), b"0")
    assert "colour" not in headers

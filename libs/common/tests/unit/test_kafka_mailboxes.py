"""Mailboxes: order inside a key, keys beside each other, bounds, and an orderly end."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from shop_common.events.envelope import Headers, KafkaRecord
from shop_common.kafka.backoff import full_jitter, happens_within
from shop_common.kafka.mailboxes import HIGH_WATER, LOW_WATER, Mailboxes


@dataclass
class Record:
    offset: int
    key: bytes | None = b"ann"
    topic: str = "users.events.v1"
    partition: int = 0
    value: bytes | None = b"{}"
    headers: Headers = ()  # type: ignore[assignment] # nobody changes it


class Partition:
    """Mailboxes whose deliveries wait until the test lets each one end."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.gates: dict[int, asyncio.Future[bool]] = {}
        self.paused: list[bool] = []
        self.bugs: list[BaseException] = []
        self.boxes = Mailboxes(self.deliver, self.paused.append, self.bugs.append)

    async def deliver(self, boxes: Mailboxes, record: KafkaRecord) -> bool:
        self.begun.append(record.offset)
        self.gates[record.offset] = asyncio.get_running_loop().create_future()
        return await self.gates[record.offset]

    async def end(self, offset: int, outcome: Any = True) -> None:  # noqa: FBT002 - what a delivery answers
        await settle()
        if isinstance(outcome, BaseException):
            self.gates[offset].set_exception(outcome)
        else:
            self.gates[offset].set_result(outcome)
        await settle()


async def settle() -> None:
    """Let every task go as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_key_waits_for_itself_and_for_no_other() -> None:
    partition = Partition()
    for record in (Record(0, b"ann"), Record(1, b"ann"), Record(2, b"bob"), Record(3, None)):
        partition.boxes.post(record)
    await settle()
    assert partition.begun == [0, 2, 3]

    await partition.end(2)
    assert partition.boxes.tracker.position == 0
    await partition.end(0)
    assert partition.begun == [0, 2, 3, 1]
    assert partition.boxes.tracker.position == 1

    await partition.end(1)
    await partition.end(3)
    assert partition.boxes.tracker.position == 4
    assert partition.boxes.backlog == 0
    assert partition.boxes._boxes == {}, "a key that is done leaves nothing behind"


async def test_fetching_pauses_above_one_mark_and_goes_on_below_the_other() -> None:
    partition = Partition()
    for offset in range(HIGH_WATER - 1):
        partition.boxes.post(Record(offset, str(offset).encode()))
    assert partition.paused == []
    partition.boxes.post(Record(HIGH_WATER, b"one more"))
    assert partition.paused == [True]

    await settle()
    for offset in range(HIGH_WATER - LOW_WATER - 1):
        partition.gates[offset].set_result(True)
    await settle()
    assert partition.paused == [True]
    await partition.end(HIGH_WATER - LOW_WATER - 1)
    assert partition.paused == [True, False]
    await partition.boxes.close(0)


async def test_waiting_for_infrastructure_pauses_the_partition() -> None:
    partition = Partition()

    assert await partition.boxes.wait_for_infrastructure(0.01)
    assert partition.paused == [True, False]
    assert await partition.boxes.wait(0.01)
    assert partition.paused == [True, False], "one event's own trouble holds up nobody else"


async def test_closing_wakes_who_waits_between_tries() -> None:
    partition = Partition()
    waiting = [asyncio.create_task(partition.boxes.wait(3600))]
    waiting.append(asyncio.create_task(partition.boxes.wait_for_infrastructure(3600)))
    await settle()
    await partition.boxes.close(0)

    assert await asyncio.gather(*waiting) == [False, False]


async def test_closing_starts_nothing_and_takes_nothing() -> None:
    partition = Partition()
    for offset in range(3):
        partition.boxes.post(Record(offset))
    await settle()
    closing = asyncio.create_task(partition.boxes.close(5))
    await settle()
    partition.boxes.post(Record(3))
    await partition.end(0)
    await closing

    assert partition.begun == [0]
    assert partition.boxes.tracker.to_commit() == 1


async def test_closing_cancels_what_does_not_end_and_does_not_complete_it() -> None:
    partition = Partition()
    partition.boxes.post(Record(0))
    await settle()
    await partition.boxes.close(0.01)

    assert partition.gates[0].cancelled()
    assert partition.boxes.tracker.to_commit() is None
    assert partition.bugs == []


async def test_a_delivery_given_up_is_not_completed_and_holds_back_its_key() -> None:
    partition = Partition()
    partition.boxes.post(Record(0))
    partition.boxes.post(Record(1))
    await partition.end(0, outcome=False)

    assert partition.begun == [0]
    assert partition.boxes.tracker.to_commit() is None


async def test_a_bug_is_reported_and_completes_nothing() -> None:
    partition = Partition()
    partition.boxes.post(Record(0))
    bug = ZeroDivisionError()
    await partition.end(0, bug)

    assert partition.bugs == [bug]
    assert partition.boxes.tracker.to_commit() is None


@pytest.mark.parametrize("attempt", [0, 1, 5, 40, 10_000])
def test_jitter_grows_to_its_ceiling(attempt: int) -> None:
    drawn = [full_jitter(attempt, 0.5, 8) for _ in range(200)]

    assert all(0 <= seconds <= min(8, 0.5 * 2 ** min(attempt, 9)) for seconds in drawn)
    assert len(set(drawn)) > 100


async def test_a_sleep_ends_with_its_event() -> None:
    event = asyncio.Event()
    assert not await happens_within(event, 0.01)

    waiting = asyncio.create_task(happens_within(event, 3600))
    event.set()
    assert await waiting
    assert await happens_within(event, 0)

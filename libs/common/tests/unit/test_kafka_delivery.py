"""What becomes of a record, with a producer that fails when the test says so."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import pytest
from prometheus_client import REGISTRY
from pydantic import ValidationError

from shop_common.events.envelope import Event, Headers
from shop_common.events.users import UserUpdated
from shop_common.kafka import delivery as delivery_module
from shop_common.kafka.delivery import Budget, Delivery, Handler, Poison
from shop_common.kafka.mailboxes import Mailboxes
from shop_common.kafka.producer import EventProducer, EventTooLarge, SendFailed

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
USER = UserUpdated(
    id=UUID(int=7),
    version=3,
    created_at=NOW,
    updated_at=NOW,
    email="ann@example.com",
    username="ann",
    full_name=None,
    role="customer",
    is_active=True,
)


@dataclass
class Record:
    key: bytes | None
    value: bytes | None
    headers: Headers
    topic: str = "users.events.v1"
    partition: int = 4
    offset: int = 17


def a_record() -> Record:
    return Record(*USER.to_event().to_kafka())


class DeadLetters:
    """Stands for the producer: fails as often as told, then keeps what it is sent."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.sent: list[tuple[str, bytes | None, bytes | None, Headers]] = []

    async def send_record(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.sent.append((topic, key, value, headers))


def a_delivery(group: str, handler: Handler, letters: DeadLetters, *transient: type[Exception]) -> Delivery:
    producer = cast("EventProducer", letters)
    return Delivery(group, {UserUpdated: handler}, producer, transient=transient, at_once=2, handler_seconds=5)


def some_mailboxes() -> tuple[Mailboxes, list[bool]]:
    async def deliver(*_: Any) -> bool:
        raise AssertionError("nothing is posted here")

    paused: list[bool] = []
    return Mailboxes(deliver, paused.append, lambda _: None), paused


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_module, "_RETRY_SECONDS", (0.0001, 0.001))


def raising(*errors: Exception) -> tuple[Handler, Counter[str]]:
    """A handler that raises these in turn, and then works."""
    tries: Counter[str] = Counter()
    left = list(errors)

    async def on_user_updated(event: Event, data: UserUpdated) -> None:
        tries["all"] += 1
        if left:
            raise left.pop(0)

    return on_user_updated, tries


class DriverError(Exception):
    pass


def invalid() -> ValidationError:
    with pytest.raises(ValidationError) as failure:
        UserUpdated.model_validate({})
    return failure.value


@pytest.mark.parametrize(
    ("errors", "tries", "is_dead"),
    [
        ([], 1, False),
        ([Poison()] * 2, 3, False),
        ([Poison()] * 3, 3, True),
        ([invalid()] * 3, 3, True),
        ([KeyError()] * 4, 5, False),
        ([KeyError()] * 5, 5, True),
        ([ConnectionError(), TimeoutError(), OSError(), DriverError()] * 10, 41, False),
        ([DriverError(), KeyError()] * 4, 9, False),
        ([KeyError(), Poison(), Poison()], 3, True),
    ],
)
async def test_how_often_a_failing_event_is_tried(errors: Sequence[Exception], tries: int, is_dead: bool) -> None:  # noqa: FBT001 - a table of cases
    handler, tried = raising(*errors)
    letters = DeadLetters()

    assert await a_delivery("tries", handler, letters, DriverError).deliver(some_mailboxes()[0], a_record())
    assert tried["all"] == tries
    assert len(letters.sent) == is_dead
    if is_dead:
        assert dict(letters.sent[0][3])["dlq_attempts"] == str(tries).encode()


async def test_a_budget_of_time_is_spent_before_its_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_module, "UNCLASSIFIED", Budget("unclassified", 1000, 0.05))
    handler, tried = raising(*[KeyError()] * 999)
    letters = DeadLetters()

    assert await a_delivery("time", handler, letters).deliver(some_mailboxes()[0], a_record())
    assert 1 < tried["all"] < 999
    assert len(letters.sent) == 1


async def test_only_infrastructure_pauses_the_partition() -> None:
    for error, expected in ((ConnectionError(), [True, False]), (KeyError(), [])):
        mailboxes, paused = some_mailboxes()
        handler, _ = raising(error)
        assert await a_delivery("paused", handler, DeadLetters()).deliver(mailboxes, a_record())
        assert paused == expected


@pytest.mark.parametrize("error", [ConnectionError(), KeyError()])
async def test_a_partition_given_up_ends_the_tries(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_module, "_RETRY_SECONDS", (3600.0, 3600.0))
    mailboxes, _ = some_mailboxes()
    handler, tried = raising(error)
    delivering = asyncio.create_task(a_delivery("given up", handler, DeadLetters()).deliver(mailboxes, a_record()))
    while not tried:  # noqa: ASYNC110 - one turn of the loop at a time
        await asyncio.sleep(0)
    await mailboxes.close(0)

    assert not await delivering
    assert tried["all"] == 1


async def test_the_dead_letter_is_sent_until_it_is_acked() -> None:
    handler, _ = raising(*[Poison("no such colour")] * 3)
    letters = DeadLetters(SendFailed(), SendFailed())
    mailboxes, paused = some_mailboxes()

    assert await a_delivery("acked", handler, letters).deliver(mailboxes, a_record())
    [(topic, key, value, headers)] = letters.sent
    assert topic == "acked.dlq"
    assert (key, value, headers[:8]) == USER.to_event().to_kafka()
    assert dict(headers)["dlq_error"] == b"Poison: no such colour"
    assert paused == [True, False, True, False]


async def test_a_partition_given_up_before_the_ack_is_not_done() -> None:
    handler, _ = raising(*[Poison()] * 3)
    mailboxes, _ = some_mailboxes()
    await mailboxes.close(0)
    letters = DeadLetters(SendFailed())

    assert not await a_delivery("lost", handler, letters).deliver(mailboxes, a_record())
    assert letters.sent == []


async def test_a_dead_letter_too_large_is_sent_without_the_record_itself() -> None:
    handler, _ = raising(*[Poison()] * 3)
    letters = DeadLetters(EventTooLarge())

    assert await a_delivery("large", handler, letters).deliver(some_mailboxes()[0], a_record())
    [(_, key, value, headers)] = letters.sent
    assert (key, value) == (str(USER.id).encode(), b"")
    assert all(name.startswith("dlq_") for name, _ in headers)
    assert dict(headers)["dlq_offset"] == b"17"


async def test_a_replayed_record_tells_of_its_last_failure_only() -> None:
    record = a_record()
    record.headers = [*record.headers, ("dlq_error", b"an old one"), ("dlq_attempts", b"9"), ("colour", b"red")]
    handler, _ = raising(*[Poison("new")] * 3)
    letters = DeadLetters()

    assert await a_delivery("replayed", handler, letters).deliver(some_mailboxes()[0], record)
    headers = letters.sent[0][3]
    assert [text for name, text in headers if name == "dlq_error"] == [b"Poison: new"]
    assert dict(headers)["dlq_attempts"] == b"3"
    assert dict(headers)["colour"] == b"red"


async def test_a_flood_of_poison_leaves_the_producer_to_others_too() -> None:
    class Slow(DeadLetters):
        running = peak = 0

        async def send_record(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers) -> None:
            self.running += 1
            self.peak = max(self.peak, self.running)
            await asyncio.sleep(0.001)
            self.running -= 1
            await super().send_record(topic, key, value, headers)

    handler, _ = raising()
    letters = Slow()
    delivery, (mailboxes, _) = a_delivery("flood", handler, letters), some_mailboxes()
    done = await asyncio.gather(*(delivery.deliver(mailboxes, Record(None, None, [])) for _ in range(100)))
    assert (all(done), len(letters.sent), letters.peak) == (True, 100, 4)


async def test_a_cancellation_from_within_a_handler_is_a_failed_try() -> None:
    """As of a driver whose own task was cancelled: nobody has told this delivery to end."""
    handler, tried = raising(*[asyncio.CancelledError()] * 2)  # type: ignore[arg-type] # it is raised, that is all
    assert await a_delivery("cancelled", handler, DeadLetters()).deliver(some_mailboxes()[0], a_record())
    assert tried["all"] == 3


async def test_an_outage_is_told_once_a_record(caplog: pytest.LogCaptureFixture) -> None:
    handler, _ = raising(*[ConnectionError()] * 50, KeyError())
    await a_delivery("outage", handler, DeadLetters()).deliver(some_mailboxes()[0], a_record())
    told = [(entry.getMessage(), vars(entry)["kind"]) for entry in caplog.records if entry.levelname == "WARNING"]
    assert told == [("event failed", "infrastructure"), ("event failed", "unclassified")]


async def test_waiting_between_tries_holds_no_handler_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two slots, both would be taken by the two that wait for an hour."""
    monkeypatch.setattr(delivery_module, "_RETRY_SECONDS", (3600.0, 3600.0))
    seen: list[int] = []
    failed = 0

    async def on_user_updated(event: Event, data: UserUpdated) -> None:
        nonlocal failed
        if failed < 2:
            failed += 1
            raise (ConnectionError if failed == 1 else KeyError)
        seen.append(data.version)

    delivery, (mailboxes, _) = a_delivery("slots", on_user_updated, DeadLetters()), some_mailboxes()
    waiting = [asyncio.create_task(delivery.deliver(mailboxes, a_record())) for _ in range(2)]
    while failed < 2:  # noqa: ASYNC110 - one turn of the loop at a time
        await asyncio.sleep(0)
    assert await delivery.deliver(mailboxes, a_record())
    await mailboxes.close(0)
    assert (seen, await asyncio.gather(*waiting)) == ([3], [False, False])


async def test_data_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    record = a_record()
    record.value = b'{"email": "secret@example.com"}'
    letters = DeadLetters()
    handler, tried = raising()

    assert await a_delivery("private", handler, letters).deliver(some_mailboxes()[0], record)
    assert tried["all"] == 0
    assert "secret" not in caplog.text + "".join(str(vars(entry)) for entry in caplog.records)
    assert b"secret" not in dict(letters.sent[0][3])["dlq_error"]


async def test_handlers_run_at_once_up_to_the_limit() -> None:
    running = peak = 0

    async def on_user_updated(event: Event, data: UserUpdated) -> None:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await asyncio.sleep(0.005)
        running -= 1

    delivery = a_delivery("limit", on_user_updated, DeadLetters())
    await asyncio.gather(*(delivery.deliver(some_mailboxes()[0], a_record()) for _ in range(6)))
    assert peak == 2


async def test_what_happened_is_counted() -> None:
    handler, _ = raising(KeyError(), ConnectionError())
    delivery = a_delivery("counted", handler, DeadLetters())
    await delivery.deliver(some_mailboxes()[0], a_record())
    await delivery.deliver(some_mailboxes()[0], Record(None, None, []))

    def value(name: str, **labels: str) -> float | None:
        return REGISTRY.get_sample_value(name, {"group": "counted"} | labels)

    kind = USER.TYPE
    assert value("shop_events_consumed_total", type=kind, outcome="handled") == 1
    assert value("shop_events_consumed_total", type="unknown", outcome="dead_lettered") == 1
    assert value("shop_event_failures_total", type=kind, kind="unclassified") == 1
    assert value("shop_event_failures_total", type=kind, kind="infrastructure") == 1
    assert value("shop_dead_letters_total", error="MalformedEvent") == 1
    assert value("shop_event_handler_seconds_count", type=kind) == 3
    assert value("shop_event_age_seconds_count") == 1
    assert value("shop_events_in_flight") == 0

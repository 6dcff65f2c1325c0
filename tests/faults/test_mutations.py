"""Each mutation still finds what it breaks, and breaks it: an oracle is judged by nothing less."""

import asyncio
import inspect
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from aiokafka.structs import ConsumerRecord

from shop_common import outbox
from shop_common.events.money import Money
from shop_common.events.orders import OrderItem
from shop_common.kafka.delivery import Delivery
from shop_common.kafka.mailboxes import Mailboxes
from shop_common.kafka.producer import EventProducer
from shop_common.kafka.tracker import OffsetTracker
from shop_faults import patch
from shop_faults.failpoints import FAILPOINTS, ORDERS_API, ORDERS_WORKER, USERS_API, USERS_WORKER
from shop_faults.mutations import MUTATIONS, REPLAY, Fault

NAMES = sorted(MUTATIONS)
OF_THE_SPECIFICATION = {
    "commit_before_processing",
    "statistics_without_guard",
    "publish_before_write",
    "skip_outbox",
    "send_in_parallel",
}
Break = Callable[[str], None]


@pytest.fixture(name="break_")
def _break(monkeypatch: pytest.MonkeyPatch) -> Break:
    """Apply a mutation until the test's end."""

    def break_(name: str) -> None:
        for owner, attribute, value in MUTATIONS[name].patches():
            monkeypatch.setattr(owner, attribute, value)

    return break_


@pytest.fixture(name="original")
def _original(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], None]:
    """Put something in the place of a target before a mutation is laid around it."""

    def put(target: str, value: Any) -> None:
        owner, name, _ = patch.find_target(target)
        monkeypatch.setattr(owner, name, value)

    return put


def test_the_specification_is_covered() -> None:
    assert set(MUTATIONS) >= OF_THE_SPECIFICATION


@pytest.mark.parametrize("name", NAMES)
def test_it_speaks_of_what_there_is(name: str) -> None:
    mutation = MUTATIONS[name]
    assert set(mutation.processes) <= {USERS_API, USERS_WORKER, ORDERS_API, ORDERS_WORKER, REPLAY}
    assert mutation.fault in get_args(Fault)
    assert {FAILPOINTS[failpoint].process for failpoint in mutation.failpoints} <= set(mutation.processes)
    assert (mutation.fault != "failpoint") or mutation.failpoints


@pytest.mark.parametrize("name", NAMES)
def test_each_part_it_replaces_is_there_and_is_called_as_before(name: str) -> None:
    patches = MUTATIONS[name].patches()
    assert patches
    for owner, attribute, value in patches:
        current = getattr(owner, attribute)
        assert value != current
        assert type(value) is type(current)
        if callable(value):
            assert list(inspect.signature(value).parameters) == list(inspect.signature(current).parameters)
            assert inspect.iscoroutinefunction(value) == inspect.iscoroutinefunction(current)


def _dispatched(*offsets: int) -> tuple[OffsetTracker, list[Any]]:
    tracker = OffsetTracker()
    return tracker, [tracker.dispatch(offset) for offset in offsets]


def test_commit_before_processing(break_: Break) -> None:
    assert _dispatched(5, 6)[0].position == 5
    break_("commit_before_processing")
    tracker, entries = _dispatched(5, 6)
    assert tracker.position == 7
    tracker.complete(entries[0])
    assert tracker.position == 7


def test_commit_highest_done(break_: Break) -> None:
    break_("commit_highest_done")
    tracker, entries = _dispatched(5, 6, 7)
    for done in (1, 0):
        tracker.complete(entries[done])
        assert tracker.position == 7


def _record(offset: int) -> Any:
    return ConsumerRecord("topic", 0, offset, 0, 0, b"key", b"{}", None, 3, 2, [])


async def test_revoke_commits_fetched(break_: Break) -> None:
    break_("revoke_commits_fetched")

    async def deliver(mailboxes: Mailboxes, record: Any) -> bool:
        return False

    mailboxes = Mailboxes(deliver, lambda paused: None, lambda error: None)
    for offset in (5, 6):
        mailboxes.post(_record(offset))
    await mailboxes.close(1)
    assert mailboxes.tracker.to_commit() == 7


async def test_drain_without_end(break_: Break, original: Callable[[str, Any], None]) -> None:
    waited = []

    async def close(self: Any, drain_seconds: float) -> None:
        waited.append(drain_seconds)

    original("shop_common.kafka.mailboxes:Mailboxes.close", close)
    break_("drain_without_end")
    await Mailboxes.close(SimpleNamespace(), 10)  # type: ignore[arg-type] # nothing of it is used
    assert waited[0] > 600


async def test_unkeyed(break_: Break) -> None:
    break_("unkeyed")
    together = asyncio.Barrier(3)

    async def deliver(mailboxes: Mailboxes, record: Any) -> bool:
        assert record.key.decode() == "key"
        await together.wait()
        return True

    mailboxes = Mailboxes(deliver, lambda paused: None, lambda error: None)
    mailboxes.post(_record(5))
    mailboxes.post(_record(6))
    async with asyncio.timeout(30):
        await together.wait()
    await mailboxes.close(1)
    assert mailboxes.tracker.position == 7


async def test_dead_letter_dropped(break_: Break) -> None:
    break_("dead_letter_dropped")
    nothing: Any = None
    assert await Delivery._put_aside(nothing, nothing, nothing, "", ValueError(), nothing)


def test_outage_spends_tries(break_: Break) -> None:
    break_("outage_spends_tries")
    nothing: Any = None
    delivery = Delivery("group", {}, nothing, transient=(LookupError,), at_once=1, handler_seconds=1)
    assert delivery._transient == ()


def test_send_in_parallel(break_: Break) -> None:
    records: Any = [SimpleNamespace(event=SimpleNamespace(subject="a", sequence=version)) for version in (1, 2)]
    assert outbox._by_aggregate(records) == [records]
    break_("send_in_parallel")
    assert outbox._by_aggregate(records) == [[records[1]], [records[0]]]


@pytest.mark.parametrize(
    "target", ["shop_users.store.relay:PostgresOutbox", "shop_orders.store.outbox:OrderOutbox"], ids=["users", "orders"]
)
async def test_mark_before_ack(break_: Break, original: Callable[[str, Any], None], target: str) -> None:
    steps: list[str] = []

    async def pending(self: Any, limit: int) -> list[str]:
        steps.append("read")
        return ["record"]

    async def mark_sent(self: Any, records: list[str]) -> None:
        steps.extend(["mark", *records])

    original(f"{target}.pending", pending)
    original(f"{target}.mark_sent", mark_sent)
    break_("mark_before_ack")
    owner, _, read = patch.find_target(f"{target}.pending")
    assert await read(owner.__new__(owner), 1) == ["record"]
    await owner.mark_sent(None, ["record"])
    assert steps == ["read", "mark", "record"]


async def test_poll_past_the_last_seen(break_: Break, original: Callable[[str, Any], None]) -> None:
    rows = [SimpleNamespace(position=(0, 5)), SimpleNamespace(position=(1, 7))]

    async def pending(self: Any, limit: int) -> list[Any]:
        return rows

    original("shop_users.store.relay:PostgresOutbox.pending", pending)
    break_("poll_past_the_last_seen")
    owner, _, read = patch.find_target("shop_users.store.relay:PostgresOutbox.pending")
    relay = owner.__new__(owner)
    assert await read(relay, 1) == rows
    rows.append(SimpleNamespace(position=(2, 8)))
    assert await read(relay, 1) == rows[2:]


def test_never_poll(break_: Break) -> None:
    break_("never_poll")
    nothing: Any = None
    assert outbox.OutboxRelay(nothing, nothing, idle_poll_seconds=0.25)._idle_poll_seconds > 600
    assert outbox._POLL_SECONDS > 600


@pytest.mark.parametrize(
    ("name", "steps"),
    [("publish_before_write", ["publish", "insert"]), ("skip_outbox", ["insert", "publish"])],
)
async def test_publishing_from_the_api(
    break_: Break,
    original: Callable[[str, Any], None],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    steps: list[str],
) -> None:
    done: list[str] = []

    async def insert(self: Any, user: Any, password_hash: str, event: Any) -> None:
        done.append("insert")

    async def send(self: Any, event: Any, topic: str) -> None:
        done.append("publish")

    original("shop_users.store.users:UserStore.insert", insert)
    original("shop_common.kafka.producer:EventProducer.send", send)
    monkeypatch.setenv("USERS_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1")
    break_(name)
    _, _, register = patch.find_target("shop_users.store.users:UserStore.insert")
    await register(None, None, "", None)
    assert done == steps


async def test_mail_without_inbox(break_: Break, original: Callable[[str, Any], None]) -> None:
    async def claim(self: Any, event_id: Any, seconds: float) -> bool:
        return False

    original("shop_users.store.mails:MailStore.claim", claim)
    break_("mail_without_inbox")
    _, _, mutated = patch.find_target("shop_users.store.mails:MailStore.claim")
    assert await mutated(None, None, 1)


async def test_replica_without_guard(break_: Break) -> None:
    asked: list[Any] = []

    async def update_one(*arguments: Any, **options: Any) -> None:
        asked.extend([arguments[0], options])

    break_("replica_without_guard")
    _, _, put = patch.find_target("shop_orders.store.users:UserReplica.put")
    user = SimpleNamespace(id="a", version=1, is_active=True)
    assert await put(SimpleNamespace(_users=SimpleNamespace(update_one=update_one)), user) is user
    assert asked == [{"_id": "a"}, {"upsert": True}]


def test_random_order_id(break_: Break) -> None:
    break_("random_order_id")
    _, _, create = patch.find_target("shop_orders.service:create_order")
    item = OrderItem(sku="a", quantity=1, unit_price=Money(amount=1, currency="EUR"))
    user = "8c5f0d6e-3a52-4a57-9b0c-7f1f6a2f4c11"
    made = {create(user, "key", [item], datetime.now(UTC)).id for _ in range(2)}
    assert len(made) == 2


def test_producer_kept(break_: Break) -> None:
    break_("producer_kept")
    producer: Any = SimpleNamespace(_producer="kept")
    EventProducer._discard(producer, "kept", "timeout")
    assert producer._producer == "kept"


async def test_replay_with_new_id(break_: Break, original: Callable[[str, Any], None]) -> None:
    sent: list[Any] = []

    async def send_record(self: Any, topic: str, key: Any, value: Any, headers: Any) -> None:
        sent.append(headers)

    original("shop_common.kafka.producer:EventProducer.send_record", send_record)
    break_("replay_with_new_id")
    nothing: Any = None
    await EventProducer.send_record(nothing, "topic", None, None, [("ce_id", b"old"), ("ce_type", b"t")])
    assert sent[0][0][0] == "ce_id"
    assert sent[0][0][1] != b"old"
    assert sent[0][1] == ("ce_type", b"t")


def test_a_statement_that_changed_is_noticed() -> None:
    with pytest.raises(ValueError, match="0 times"):
        patch.text_replacement("shop_users.store.statistics:APPLY", "no such text", "")

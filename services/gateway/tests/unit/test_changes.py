"""What the gateway reads from a record, and what it remembers of those who changed lately."""

import uuid
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from shop_common.events.envelope import Event, event_id
from shop_gateway.changes import Change, RecentChanges, find_change
from shop_gateway.revocations import Revocations

ADA = str(uuid.uuid4())
ORDER = str(uuid.uuid4())


@dataclass
class Record:
    topic: str
    key: bytes
    value: bytes
    headers: Any
    offset: int
    partition: int = 0
    others: dict[str, Any] = field(default_factory=dict)


def record(kind: str, topic: str, subject: str, offset: int = 7, **changes: Any) -> Record:
    event = Event(event_id(subject, 3), kind, topic.partition(".")[0], subject, 3, datetime.now(UTC), ADA, b"{}")
    key, value, headers = replace(event, **changes).to_kafka()
    return Record(topic, key, value, headers, offset)


@pytest.mark.parametrize("what", ["placed", "confirmed", "paid", "cancelled", "rejected"])
def test_an_orders_record_is_about_its_user(what: str) -> None:
    change = find_change(record(f"orders.order_{what}.v1", "orders.events.v1", ORDER))
    assert change == Change(ADA, "orders.events.v1", 7, ORDER, 3, deactivated=False)
    assert change is not None
    assert change.is_order


@pytest.mark.parametrize(("what", "deactivated"), [("registered", False), ("updated", False), ("deactivated", True)])
def test_a_users_record_tells_whether_they_may_still_do_anything(what: str, deactivated: bool) -> None:  # noqa: FBT001
    change = find_change(record(f"users.user_{what}.v1", "users.events.v1", ADA))
    assert change == Change(ADA, "users.events.v1", 7, ADA, 3, deactivated=deactivated)


def test_what_nobody_knows_or_can_read_is_passed_over() -> None:
    assert find_change(record("orders.order_gift_wrapped.v1", "orders.events.v1", ORDER)) is None
    broken = record("orders.order_paid.v1", "orders.events.v1", ORDER)
    broken.headers = broken.headers[:-2]
    assert find_change(broken) is None


def change(user_id: str, topic: str, offset: int) -> Change:
    return Change(user_id, topic, offset, ORDER, 1, deactivated=False)


def test_the_last_offset_of_each_topic_is_remembered() -> None:
    recent = RecentChanges()
    for topic, offset in (("orders.events.v1", 5), ("orders.events.v1", 9), ("users.events.v1", 2)):
        recent.add(change("ada", topic, offset))
    assert recent.offsets("ada") == {"orders.events.v1": 9, "users.events.v1": 2}
    assert recent.offsets("bob") == {}
    assert (recent.versions("ada"), recent.versions("bob")) == ({"projection": 10}, {})


def test_read_again_from_before_nothing_goes_back() -> None:
    recent = RecentChanges()
    for offset in (9, 5):
        recent.add(change("ada", "orders.events.v1", offset))
    assert recent.offsets("ada") == {"orders.events.v1": 9}


def test_those_silent_the_longest_are_forgotten() -> None:
    recent = RecentChanges(2)
    for user_id in ("ada", "bob", "ada", "cyd"):
        recent.add(change(user_id, "users.events.v1", 1))
    assert [bool(recent.offsets(user_id)) for user_id in ("ada", "bob", "cyd")] == [True, False, True]


def test_a_revocation_is_kept_until_no_token_can_be_good() -> None:
    now = [1000.0]
    revocations = Revocations(lambda: now[0])
    revocations.add("ada")
    assert ("ada" in revocations, "bob" in revocations) == (True, False)
    now[0] += 3599
    revocations.add("bob")
    assert "ada" in revocations
    now[0] += 2
    revocations.add("cyd")
    assert ("ada" in revocations, "bob" in revocations) == (False, True)

"""The contracts: one golden JSON schema per event, and only additions pass.

`python libs/common/tests/unit/test_events_contracts.py` writes the golden schemas anew, and refuses what breaks those
who read or wrote events of the same major version.
"""

import json
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from shop_common.events import orders, users
from shop_common.events.contract import Contract
from shop_common.events.contracts import CONTRACTS, parse
from shop_common.events.envelope import Event, MalformedEvent, event_id
from shop_common.events.money import Money

GOLDEN = Path(__file__).parents[1] / "golden"
USER, ORDER = UUID(int=1), UUID(int=2)
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def a_user(**changes: Any) -> users.UserRegistered:
    state: dict[str, Any] = {"id": USER, "version": 1, "created_at": NOW, "updated_at": NOW, "email": "ann@example.com"}
    state |= {"username": "ann", "full_name": None, "role": "customer", "is_active": True}
    return users.UserRegistered(**state | changes)


def an_order(**changes: Any) -> orders.OrderPlaced:
    price = Money(amount=1999, currency="EUR")
    item = orders.OrderItem(sku="mug", quantity=2, unit_price=price)
    state: dict[str, Any] = {"id": ORDER, "version": 1, "created_at": NOW, "updated_at": NOW, "user_id": USER}
    state |= {"status": "pending", "items": (item,), "total": Money(amount=3998, currency="EUR")}
    return orders.OrderPlaced(**state | changes)


def schema_of(event_type: str) -> dict[str, Any]:
    return CONTRACTS[event_type].model_json_schema()


def golden_of(event_type: str) -> dict[str, Any]:
    golden: dict[str, Any] = json.loads((GOLDEN / f"{event_type}.json").read_text())
    return golden


def breaking_changes(old: Any, new: Any, path: str = "#") -> list[str]:
    """What in `new` is not merely more than `old`; descriptions and titles may change."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return [] if old == new else [f"{path} changed from {old!r} to {new!r}"]
    found = []
    for name in sorted({*old, *new} - {"title", "description", "required", "properties", "$defs"}):
        if name not in old or name not in new:
            found.append(f"{path}/{name} {'appeared' if name in new else 'went away'}")
        else:
            found += breaking_changes(old[name], new[name], f"{path}/{name}")
    for group in ("properties", "$defs"):
        for name, part in old.get(group, {}).items():
            if name not in new.get(group, {}):
                found.append(f"{path}/{group}/{name} went away")
            else:
                found += breaking_changes(part, new[group][name], f"{path}/{group}/{name}")
    if lost := sorted(set(old.get("required", [])) ^ set(new.get("required", []))):
        found.append(f"{path}: {', '.join(lost)} must stay as required or optional as before")
    return found


@pytest.mark.parametrize("event_type", CONTRACTS)
def test_the_contract_is_the_golden_one(event_type: str) -> None:
    new, old = schema_of(event_type), golden_of(event_type)

    assert new == old, (
        f"the contract of {event_type} changed: {breaking_changes(old, new) or 'an addition'}. An addition is allowed: "
        f"run `python {Path(__file__).name}` of this folder and commit. Anything else is a new major version."
    )


def test_there_is_no_golden_schema_without_a_contract() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(CONTRACTS)


def changed(**properties: Any) -> dict[str, Any]:
    golden = schema_of("users.user_registered.v1")
    return golden | {"properties": golden["properties"] | properties}


def test_an_optional_field_more_is_no_breaking_change() -> None:
    golden = schema_of("users.user_registered.v1")

    assert breaking_changes(golden, changed(phone={"type": "string", "default": ""})) == []
    assert breaking_changes(golden, golden | {"description": "other words"}) == []


@pytest.mark.parametrize(
    "new",
    [
        changed(email={"type": "integer"}),
        changed(role={"enum": ["customer"], "type": "string", "title": "Role"}),
        {**changed(), "properties": {}},
        {**changed(phone={"type": "string"}), "required": [*changed()["required"], "phone"]},
        {**changed(), "required": changed()["required"][1:]},
        {**changed(), "type": "array"},
        {name: part for name, part in changed().items() if name != "type"},
    ],
)
def test_anything_else_is_a_breaking_change(new: dict[str, Any]) -> None:
    assert breaking_changes(schema_of("users.user_registered.v1"), new)


@pytest.mark.parametrize("state", [a_user(), an_order()], ids=["user", "order"])
def test_a_state_survives_the_journey_as_an_event(state: Contract) -> None:
    event = state.to_event("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")

    assert parse(event) == state
    assert (event.id, event.sequence, event.time) == (event_id(state.id, 1), 1, NOW)
    assert (event.subject, event.key) == (str(state.id), str(USER))
    assert event.source == event.type.split(".")[0] == state.TOPIC.split(".")[0]
    assert event.traceparent == "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_times_are_utc_and_end_in_z() -> None:
    later = NOW.astimezone(timezone(timedelta(hours=5)))

    assert json.loads(a_user(updated_at=later).to_event().data)["updated_at"] == "2026-03-01T12:00:00Z"


def test_every_type_is_of_its_producer_and_there_are_eight() -> None:
    assert len(CONTRACTS) == 8
    for event_type, contract in CONTRACTS.items():
        assert event_type == contract.TYPE
        assert event_type.startswith(contract.SOURCE + ".")
        assert f"{contract.SOURCE}.events.v1" == contract.TOPIC


def with_data(**changes: Any) -> Event:
    event = a_user().to_event()
    return Event(
        **{name: getattr(event, name) for name in event.__slots__}
        | {"data": json.dumps(json.loads(event.data) | changes).encode()}
    )


def test_fields_of_a_newer_producer_are_passed_over() -> None:
    assert parse(with_data(phone="+31 6 1234 5678")) == a_user()


def test_an_unknown_type_has_no_contract() -> None:
    event = a_user().to_event()

    assert parse(Event(**{name: getattr(event, name) for name in event.__slots__} | {"type": "users.moved.v1"})) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "1"},
        {"version": 0},
        {"version": 1.0},
        {"is_active": "yes"},
        {"is_active": 1},
        {"role": "root"},
        {"email": None},
        {"id": "17"},
        {"updated_at": "2026-03-01T12:00:00"},
        {"updated_at": 1772366400},
    ],
)
def test_types_are_strict(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        parse(with_data(**changes))


def test_data_of_another_aggregate_or_version_is_malformed() -> None:
    for changes in ({"version": 2}, {"id": str(ORDER)}):
        with pytest.raises(MalformedEvent, match="are not the data's id, version and user"):
            parse(with_data(**changes))


def test_what_is_wrong_is_said_without_the_values() -> None:
    with pytest.raises(ValidationError) as failure:
        parse(with_data(role="secret-value"))

    assert "secret-value" not in str(failure.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"items": ()},
        {"status": "lost"},
        {"total": Money.model_construct(amount=-1, currency="EUR").model_dump()},
    ],
)
def test_an_order_is_checked(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        an_order(**changes)


@pytest.mark.parametrize(("quantity", "is_good"), [(0, False), (1, True), (1000, True), (1001, False)])
def test_a_quantity_is_from_1_to_1000(quantity: int, is_good: bool) -> None:  # noqa: FBT001 - a table of cases
    item = {"sku": "mug", "quantity": quantity, "unit_price": {"amount": 1, "currency": "EUR"}}
    if is_good:
        assert orders.OrderItem.model_validate(item).quantity == quantity
    else:
        with pytest.raises(ValidationError):
            orders.OrderItem.model_validate(item)


@pytest.mark.parametrize(
    ("amount", "currency"),
    [
        (-1, "EUR"),
        (1.5, "EUR"),
        ("1", "EUR"),
        (True, "EUR"),
        (2**53, "EUR"),
        (1, "eur"),
        (1, "EURO"),
        (1, "XXX"),
        (1, "HRK"),
    ],
)
def test_money_is_whole_minor_units_of_a_known_currency(amount: Any, currency: str) -> None:
    with pytest.raises(ValidationError):
        Money(amount=amount, currency=currency)


def test_money_is_a_value() -> None:
    assert Money(amount=0, currency="JPY") == Money.model_validate_json('{"amount": 0, "currency": "JPY"}')
    with pytest.raises(ValidationError):
        Money(amount=1, currency="EUR").amount = 2  # type: ignore[misc] # the point of the test


def write_golden() -> int:
    broken = []
    for event_type in CONTRACTS:
        path, new = GOLDEN / f"{event_type}.json", schema_of(event_type)
        if path.exists() and (problems := breaking_changes(golden_of(event_type), new)):
            broken += [f"{event_type}: {problem}" for problem in problems]
        else:
            path.write_text(json.dumps(new, indent=2, sort_keys=True) + "\n")
    if broken:
        print(*broken, "That is a new major version: a class and a type of its own.", sep="\n", file=sys.stderr)  # noqa: T201 - a command
    return len(broken)


if __name__ == "__main__":
    sys.exit(1 if write_golden() else 0)

"""The projection of orders: whatever the order and however often events come, it is the fold of the latest versions."""

import asyncio
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shop_common.events.money import MAX_AMOUNT, Money
from shop_common.events.orders import OrderItem, OrderState, OrderStatus
from shop_common.postgres import Postgres
from shop_users.models import Spending, Statistics
from shop_users.store.statistics import StatisticsStore

NOW = datetime.now(UTC)
STATUSES: list[OrderStatus] = ["pending", "confirmed", "paid", "cancelled", "rejected"]

histories = st.lists(
    st.tuples(
        st.sampled_from(["EUR", "USD", "JPY"]),
        st.lists(st.tuples(st.sampled_from(STATUSES), st.integers(0, 10**9)), min_size=1, max_size=5),
    ),
    max_size=4,
)


def order(
    user_id: uuid.UUID, version: int, status: OrderStatus, amount: int, currency: str, order_id: uuid.UUID
) -> OrderState:
    total = Money(amount=amount, currency=currency)
    return OrderState(
        id=order_id,
        user_id=user_id,
        status=status,
        items=(OrderItem(sku="sku", quantity=1, unit_price=total),),
        total=total,
        version=version,
        created_at=NOW,
        updated_at=NOW,
    )


def fold(orders: Sequence[Sequence[OrderState]], offset: int | None) -> Statistics:
    latest = [versions[-1] for versions in orders]
    spent: dict[str, int] = {}
    for each in latest:
        if each.status == "paid":
            spent[each.total.currency] = spent.get(each.total.currency, 0) + each.total.amount
    return Statistics(
        orders=len(latest),
        paid=sum(each.status == "paid" for each in latest),
        cancelled=sum(each.status == "cancelled" for each in latest),
        spent=tuple(Spending(amount, currency) for currency, amount in sorted(spent.items()) if amount),
        projected_offset=offset,
    )


async def insert_user(postgres: Postgres) -> uuid.UUID:
    user_id = uuid.uuid4()
    await postgres.execute(
        "INSERT INTO users VALUES ($1, $2, $2, NULL, 'customer', '', true, 1, now(), now())", user_id, str(user_id)
    )
    return user_id


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # each example has a user of its own
)
@given(histories=histories, data=st.data())
async def test_shuffled_duplicates_give_the_fold_of_the_latest_versions_and_the_greatest_offset(
    postgres: Postgres, histories: Any, data: st.DataObject
) -> None:
    store, user_id = StatisticsStore(postgres), await insert_user(postgres)
    orders = []
    for currency, states in histories:
        order_id = uuid.uuid4()
        orders.append(
            [
                order(user_id, version, status, amount, currency, order_id)
                for version, (status, amount) in enumerate(states, start=1)
            ]
        )
    events = [event for versions in orders for event in versions]
    twice = events + data.draw(st.lists(st.sampled_from(events), max_size=5) if events else st.just([]))
    for offset, event in data.draw(st.permutations(list(enumerate(twice)))):
        await store.apply(event, offset)
    assert await store.find(user_id) == fold(orders, len(twice) - 1 if twice else None)


async def test_the_same_events_many_times_at_once_count_once(postgres: Postgres) -> None:
    store, user_id = StatisticsStore(postgres), await insert_user(postgres)
    statuses: list[OrderStatus] = ["pending", "paid"]
    events = [
        order(user_id, version, status, 700, "EUR", order_id)
        for order_id in [uuid.uuid4() for _ in range(3)]
        for version, status in enumerate(statuses, start=1)
    ]
    await asyncio.gather(*(store.apply(event, offset) for offset, event in enumerate(events * 4)))
    assert await store.find(user_id) == Statistics(3, 3, 0, (Spending(2100, "EUR"),), 23)


async def test_large_amounts_and_the_answer(
    client: httpx.AsyncClient, register: Any, postgres: Postgres, admin: dict[str, str]
) -> None:
    ada = await register("ada")
    answer = await client.get(f"{ada.path}/stats", headers=ada.bearer)
    assert answer.json() == {"orders": 0, "paid": 0, "cancelled": 0, "spent": []}
    store = StatisticsStore(postgres)
    assert "projected-offset" not in answer.headers
    for offset, (currency, status) in enumerate(
        (
            ("USD", "paid"),
            ("EUR", "paid"),
            ("EUR", "paid"),
            ("EUR", "cancelled"),
            ("EUR", "pending"),
        )
    ):
        placed = order(uuid.UUID(ada.id), 1, status, MAX_AMOUNT, currency, uuid.uuid4())  # type: ignore[arg-type]
        await store.apply(placed, offset)
    changed = await client.get(f"{ada.path}/stats", headers=ada.bearer | {"If-None-Match": answer.headers["etag"]})
    assert changed.status_code == 200
    assert changed.json() == {
        "orders": 5,
        "paid": 3,
        "cancelled": 1,
        "spent": [
            {"amount": 2 * MAX_AMOUNT, "currency": "EUR"},
            {"amount": MAX_AMOUNT, "currency": "USD"},
        ],
    }
    same = await client.get(f"{ada.path}/stats", headers=admin | {"If-None-Match": changed.headers["etag"]})
    assert (same.status_code, same.headers["projected-offset"]) == (304, "4")


async def test_what_a_user_spends_in_all_may_pass_64_bits(postgres: Postgres) -> None:
    store, user_id = StatisticsStore(postgres), await insert_user(postgres)
    await postgres.execute("INSERT INTO user_spending VALUES ($1, 'EUR', $2)", user_id, 2**63)
    await store.apply(order(user_id, 1, "paid", MAX_AMOUNT, "EUR", uuid.uuid4()), 0)
    statistics = await store.find(user_id)
    assert statistics is not None
    assert statistics.spent == (Spending(2**63 + MAX_AMOUNT, "EUR"),)
    assert type(statistics.spent[0].amount) is int


async def test_an_order_of_an_unknown_user_is_kept_for_later(postgres: Postgres) -> None:
    """Events of both topics arrive in any order, so a user's order may be heard of before the user's row is here."""
    store, user_id = StatisticsStore(postgres), uuid.uuid4()
    await store.apply(order(user_id, 1, "pending", 1, "EUR", uuid.uuid4()), 0)
    assert await store.find(user_id) is None
    assert await postgres.fetchval("SELECT orders FROM user_statistics WHERE user_id = $1", user_id) == 1


@pytest.mark.parametrize("late", [1, 2])
async def test_versions_five_three_four_leave_five(postgres: Postgres, late: int) -> None:
    store, user_id, order_id = StatisticsStore(postgres), await insert_user(postgres), uuid.uuid4()
    for offset, (version, status) in enumerate(((5, "paid"), (3, "cancelled"), (4, "pending"), (late, "pending"))):
        await store.apply(order(user_id, version, status, 5, "EUR", order_id), offset)  # type: ignore[arg-type]
    assert await store.find(user_id) == Statistics(1, 1, 0, (Spending(5, "EUR"),), 3)


async def test_what_was_counted_before_offsets_were_kept_is_of_an_unknown_one_until_the_next(
    postgres: Postgres,
) -> None:
    store, user_id = StatisticsStore(postgres), await insert_user(postgres)
    await postgres.execute("INSERT INTO user_statistics (user_id, orders) VALUES ($1, 1)", user_id)
    assert await store.find(user_id) == Statistics(1, 0, 0, (), None)
    await store.apply(order(user_id, 1, "pending", 1, "EUR", uuid.uuid4()), 0)
    assert await store.find(user_id) == Statistics(2, 0, 0, (), 0)

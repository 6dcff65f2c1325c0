"""An order, the moves between its states, and the event that each of them is."""

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from shop_common.events.envelope import Event
from shop_common.events.money import Money
from shop_common.events.orders import (
    OrderCancelled,
    OrderConfirmed,
    OrderItem,
    OrderPaid,
    OrderPlaced,
    OrderRejected,
    OrderState,
    OrderStatus,
)
from shop_orders.errors import MixedCurrencies, OrderStateConflict

OPEN: Final[tuple[OrderStatus, ...]] = ("pending", "confirmed")
MOVES: Final[Mapping[OrderStatus, tuple[OrderStatus, ...]]] = {
    "confirmed": ("pending",),
    "paid": ("confirmed",),
    "cancelled": OPEN,
    "rejected": ("pending",),
}
"""Each state that can be moved to, and from which: no order has more than three versions."""

_CONTRACTS: Final[Mapping[OrderStatus, type[OrderState]]] = {
    "pending": OrderPlaced,
    "confirmed": OrderConfirmed,
    "paid": OrderPaid,
    "cancelled": OrderCancelled,
    "rejected": OrderRejected,
}


@dataclass(frozen=True, slots=True)
class User:
    """What orders need to know of a user: no personal data."""

    id: str
    is_active: bool
    version: int


@dataclass(frozen=True, slots=True)
class Order:
    """One version of an order. Times are UTC with milliseconds, which is what MongoDB keeps."""

    id: str
    user_id: str
    status: OrderStatus
    items: tuple[OrderItem, ...]
    total: Money
    version: int
    created_at: datetime
    updated_at: datetime
    fingerprint: bytes
    """Of the request that placed it."""
    applied: tuple[str, ...] = field(default=())
    """The causes of its last moves, so that one is not applied twice."""

    def moved(self, to: OrderStatus, at: datetime) -> "Order":
        """The next version; OrderStateConflict (409) where this state does not lead there."""
        if self.status not in MOVES[to]:
            raise OrderStateConflict(f"An order that is {self.status} cannot become {to}")
        return replace(self, status=to, version=self.version + 1, updated_at=at)

    def to_event(self, traceparent: str | None) -> Event:
        """The one event of this version."""
        state = _CONTRACTS[self.status](
            id=uuid.UUID(self.id),
            user_id=uuid.UUID(self.user_id),
            status=self.status,
            items=self.items,
            total=self.total,
            version=self.version,
            created_at=self.created_at,
            updated_at=self.updated_at,
        )
        return state.to_event(traceparent)


def create_order(user_id: str, key: str, items: Sequence[OrderItem], at: datetime) -> Order:
    """Version 1; the same user and key give the same id. MixedCurrencies (422) unless all prices are in one."""
    currencies = {item.unit_price.currency for item in items}
    if len(currencies) > 1:
        raise MixedCurrencies("All prices of an order must be in one currency", pointer="#/items")
    # At most 100 items of 1000 pieces at 10^9 each: 10^14, far below Money's bound and int64.
    amount = sum(item.quantity * item.unit_price.amount for item in items)
    return Order(
        id=str(uuid.uuid5(uuid.UUID(user_id), key)),
        user_id=user_id,
        status="pending",
        items=tuple(items),
        total=Money(amount=amount, currency=currencies.pop()),
        version=1,
        created_at=at,
        updated_at=at,
        fingerprint=_fingerprint(items),
    )


def published_order(state: OrderState) -> Order:
    """As one of its events tells it; the causes of its moves are in none."""
    return Order(
        id=str(state.id),
        user_id=str(state.user_id),
        status=state.status,
        items=state.items,
        total=state.total,
        version=state.version,
        created_at=state.created_at,
        updated_at=state.updated_at,
        fingerprint=_fingerprint(state.items),
    )


def _fingerprint(items: Sequence[OrderItem]) -> bytes:
    canonical = json.dumps([item.model_dump() for item in items], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).digest()


def due_move(status: OrderStatus, user: User | None) -> OrderStatus | None:
    """Where an order must go because of what is known of its user; None where it may stay."""
    if user is None:
        return None
    if user.is_active:
        return "confirmed" if status == "pending" else None
    return "cancelled" if status in OPEN else None

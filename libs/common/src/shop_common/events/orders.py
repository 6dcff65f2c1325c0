"""What the orders service tells: an order's full state after each change."""

from typing import Final, Literal
from uuid import UUID

from pydantic import Field

from shop_common.events.contract import Contract, State
from shop_common.events.money import Money

TOPIC: Final = "orders.events.v1"

OrderStatus = Literal["pending", "confirmed", "paid", "cancelled", "rejected"]


class OrderItem(State):
    sku: str = Field(min_length=1, max_length=64)
    quantity: int = Field(ge=1, le=1000)
    unit_price: Money


class OrderState(Contract):
    TOPIC = TOPIC
    SOURCE = "orders"

    user_id: UUID
    status: OrderStatus
    items: tuple[OrderItem, ...] = Field(min_length=1)
    total: Money

    @property
    def user(self) -> UUID:
        return self.user_id


class OrderPlaced(OrderState):
    TYPE = "orders.order_placed.v1"


class OrderConfirmed(OrderState):
    TYPE = "orders.order_confirmed.v1"


class OrderPaid(OrderState):
    TYPE = "orders.order_paid.v1"


class OrderCancelled(OrderState):
    TYPE = "orders.order_cancelled.v1"


class OrderRejected(OrderState):
    TYPE = "orders.order_rejected.v1"

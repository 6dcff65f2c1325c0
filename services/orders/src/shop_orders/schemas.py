"""Orders as JSON: what is taken, strictly, and what is answered."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.json_schema import SkipJsonSchema

from shop_common.events.money import CURRENCIES, Currency, Money
from shop_common.events.orders import OrderItem, OrderStatus

_MAX_ITEMS = 100
_MAX_PRICE = 10**9
_ANY_CURRENCY = {"type": "string", "enum": sorted(CURRENCIES), "title": "ISO 4217 code"}


class _Input(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class PriceIn(_Input):
    amount: int = Field(ge=0, le=_MAX_PRICE, description="In minor units: 1999 is 19.99 EUR", examples=[1999])
    currency: Annotated[Currency, WithJsonSchema(_ANY_CURRENCY)]


class ItemIn(_Input):
    sku: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$", examples=["TEA-EARL-GREY"])
    quantity: int = Field(ge=1, le=1000)
    unit_price: PriceIn


class OrderIn(_Input):
    items: list[ItemIn] = Field(min_length=1, max_length=_MAX_ITEMS, description="Priced in one currency")

    def to_items(self) -> list[OrderItem]:
        return [
            OrderItem(
                sku=item.sku,
                quantity=item.quantity,
                unit_price=Money(amount=item.unit_price.amount, currency=item.unit_price.currency),
            )
            for item in self.items
        ]


class ListQuery(BaseModel):
    """The filters and the page; an unknown name is an error, since a mistyped filter would list too much."""

    model_config = ConfigDict(extra="forbid")

    user_id: UUID | SkipJsonSchema[None] = Field(default=None, description="The caller unless given")
    status: OrderStatus | SkipJsonSchema[None] = None
    limit: int = Field(default=50, ge=1, le=100)
    cursor: str | SkipJsonSchema[None] = Field(
        default=None, max_length=512, description="`next_cursor` of the page before, with the same filters"
    )


class OrderOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    user_id: UUID
    status: OrderStatus
    items: list[OrderItem]
    total: Money
    version: int = Field(ge=1)
    created_at: datetime
    updated_at: datetime


class OrderPage(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    items: list[OrderOut]
    next_cursor: str | None = Field(description="null on the last page")

"""What requests and answers look like, made of the services' own models, so that no example can miss a field."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from pydantic import BaseModel

from shop_common.events.money import Money
from shop_common.events.orders import OrderItem
from shop_gateway.consistency import create_token
from shop_gateway.schemas import DashboardChanged, FailedSection, SectionState, StreamEnd
from shop_orders.schemas import ItemIn, OrderIn, OrderOut, OrderPage, PriceIn
from shop_users.schemas import (
    KeySet,
    LoginForm,
    PasswordChange,
    PublicKey,
    RefreshRequest,
    Registration,
    Spent,
    StatisticsOut,
    TokenPairOut,
    UserOut,
    UserPage,
    UserPatch,
)

REQUEST_ID: Final = "5f0c3a8e9d6b4f27a1c2e3d4b5a69788"
USER_ID: Final = "0d4c9b3e-6f5a-4b7e-9a51-2f1f7e1f0001"
ORDER_ID: Final = "0d4c9b3e-6f5a-4b7e-9a51-2f1f7e1f0002"
TOKEN: Final = create_token(ORDER_ID, 3)
_SECRET = "a long enough secret"  # noqa: S105 - nobody's
_ACCESS_TOKEN = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiIwZDRjOWIzZSJ9.c2lnbmF0dXJl"  # noqa: S105 - nobody's
_REFRESH_TOKEN = "jVvQm3ZbT1x9kq0cYw5n" + "A" * 44
_REGISTERED, _PAID = (datetime(2026, 11, day, 9, 30, tzinfo=UTC) for day in (20, 21))

_USER = UserOut(
    id=UUID(USER_ID),
    email="ada@example.com",
    username="ada",
    full_name="Ada Lovelace",
    role="customer",
    is_active=True,
    version=1,
    created_at=_REGISTERED,
    updated_at=_REGISTERED,
)
_ORDER = OrderOut(
    id=UUID(ORDER_ID),
    user_id=UUID(USER_ID),
    status="paid",
    items=[OrderItem(sku="TEA-EARL-GREY", quantity=3, unit_price=Money(amount=450, currency="EUR"))],
    total=Money(amount=1350, currency="EUR"),
    version=3,
    created_at=_PAID,
    updated_at=_PAID,
)
_ORDERS = OrderPage(items=[_ORDER], next_cursor=None)
_STATISTICS = StatisticsOut(orders=1, paid=1, cancelled=0, spent=[Spent(amount=1350, currency="EUR")])
_KEY = PublicKey(kty="EC", crv="P-256", x="A" * 43, y="B" * 43, kid="2026-11", alg="ES256", use="sig")


class Example(NamedTuple):
    """The one example of a schema, and what an answer that has it is."""

    description: str
    value: Any


def _of_model(description: str, model: BaseModel) -> tuple[str, Example]:
    return type(model).__name__, Example(description, model.model_dump(mode="json", exclude_unset=True))


BY_SCHEMA: Final[Mapping[str, Example]] = dict(
    [
        _of_model("The user", _USER),
        _of_model("Users, newest first", UserPage(items=[_USER], next_cursor=None)),
        _of_model("What the user has ordered and spent", _STATISTICS),
        _of_model("The order", _ORDER),
        _of_model("Orders, newest first", _ORDERS),
        _of_model(
            "Both tokens",
            TokenPairOut(
                access_token=_ACCESS_TOKEN,
                refresh_token=_REFRESH_TOKEN,
                token_type="bearer",  # noqa: S106 - the kind of token
                expires_in=900,
            ),
        ),
        _of_model("The public keys", KeySet(keys=[_KEY])),
        _of_model(
            "Who registers",
            Registration(email="ada@example.com", username="ada", password=_SECRET, full_name="Ada Lovelace"),
        ),
        _of_model("What changes", UserPatch(full_name="Ada King")),
        _of_model("The passwords", PasswordChange(new_password=_SECRET, current_password="the old secret")),  # noqa: S106
        _of_model("The refresh token", RefreshRequest(refresh_token=_REFRESH_TOKEN)),
        _of_model("Who logs in", LoginForm(grant_type="password", username="ada", password=_SECRET)),
        _of_model(
            "What is ordered",
            OrderIn(
                items=[ItemIn(sku="TEA-EARL-GREY", quantity=3, unit_price=PriceIn(amount=450, currency="EUR"))],
            ),
        ),
    ]
)


def _dashboard(stats: StatisticsOut | None, stats_state: SectionState) -> dict[str, Any]:
    fresh = SectionState(state="fresh", as_of=_PAID, problem=None)
    states = {"user": fresh, "orders": fresh, "stats": stats_state}
    return {
        "user": _USER.model_dump(mode="json"),
        "orders": _ORDERS.model_dump(mode="json"),
        "stats": None if stats is None else stats.model_dump(mode="json"),
        "_sections": {name: state.model_dump(mode="json") for name, state in states.items()},
    }


_LATE = FailedSection(status=504, code="upstream_deadline", detail="users did not answer in time")
DASHBOARDS: Final[Mapping[str, Example]] = {
    "whole_dashboard": Example(
        "All sections are fresh", _dashboard(_STATISTICS, SectionState(state="fresh", as_of=_PAID, problem=None))
    ),
    "partial_dashboard": Example(
        "Statistics have failed", _dashboard(None, SectionState(state="failed", as_of=None, problem=_LATE))
    ),
    "stale_dashboard": Example(
        "Statistics could not be read, and are as they were",
        _dashboard(_STATISTICS, SectionState(state="stale", as_of=_REGISTERED, problem=_LATE)),
    ),
}
EVENTS: Final[Mapping[str, Example]] = {
    "ready": Example("First of all", {"retry": 2000, "event": "ready", "id": "17.42", "data": "{}"}),
    "dashboard_changed": Example(
        "An order was placed",
        {
            "event": "dashboard_changed",
            "id": "17.43+",
            "data": DashboardChanged(sections=["orders"]).model_dump_json(),
        },
    ),
    "end": Example("Log in again", {"event": "end", "data": StreamEnd(reason="token_expired").model_dump_json()}),
}
BY_NAME: Final = {**BY_SCHEMA, **DASHBOARDS, **EVENTS}


def example_references(names: Iterable[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/examples/{name}"} for name in names}

"""Every contract by its event type."""

from collections.abc import Mapping
from typing import Final

from shop_common.events.envelope import Event
from shop_common.events.orders import OrderCancelled, OrderConfirmed, OrderPaid, OrderPlaced, OrderRejected
from shop_common.events.users import UserDeactivated, UserRegistered, UserUpdated

UserEvent = UserRegistered | UserUpdated | UserDeactivated
OrderEvent = OrderPlaced | OrderConfirmed | OrderPaid | OrderCancelled | OrderRejected

CONTRACTS: Final[Mapping[str, type[UserEvent | OrderEvent]]] = {
    contract.TYPE: contract
    for contract in (
        UserRegistered,
        UserUpdated,
        UserDeactivated,
        OrderPlaced,
        OrderConfirmed,
        OrderPaid,
        OrderCancelled,
        OrderRejected,
    )
}


def parse(event: Event) -> UserEvent | OrderEvent | None:
    """The event's data; None for a type nobody here knows. Raises ValidationError or MalformedEvent."""
    contract = CONTRACTS.get(event.type)
    return None if contract is None else contract.from_event(event)

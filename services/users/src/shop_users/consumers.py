"""Events in: what the orders service tells, and this service's own registrations."""

from collections.abc import Mapping

from shop_common.events.contract import Contract
from shop_common.events.envelope import Event
from shop_common.events.orders import (
    OrderCancelled,
    OrderConfirmed,
    OrderPaid,
    OrderPlaced,
    OrderRejected,
    OrderState,
)
from shop_common.events.users import UserRegistered
from shop_common.kafka.delivery import Handler
from shop_users.service.statistics import OrderStatistics
from shop_users.service.welcome import WelcomeMails


class Consumers:
    def __init__(self, statistics: OrderStatistics, welcome_mails: WelcomeMails) -> None:
        self._statistics = statistics
        self._welcome_mails = welcome_mails

    @property
    def of_orders(self) -> Mapping[type[Contract], Handler]:
        return dict.fromkeys(
            (OrderPlaced, OrderConfirmed, OrderPaid, OrderCancelled, OrderRejected), self.on_order_changed
        )

    @property
    def of_registrations(self) -> Mapping[type[Contract], Handler]:
        return {UserRegistered: self.on_user_registered}

    async def on_order_changed(self, event: Event, order: OrderState) -> None:
        """Any event of an order: each carries the order's full state."""
        await self._statistics.apply(order, event.offset)

    async def on_user_registered(self, event: Event, user: UserRegistered) -> None:
        await self._welcome_mails.send(event, user)

"""Events in: what the orders service tells, and this service's own registrations."""

from shop_common.events.envelope import Event
from shop_common.events.orders import OrderState
from shop_common.events.users import UserRegistered
from shop_users.service.statistics import OrderStatistics
from shop_users.service.welcome import WelcomeMails


class Consumers:
    def __init__(self, statistics: OrderStatistics, welcome_mails: WelcomeMails) -> None:
        self._statistics = statistics
        self._welcome_mails = welcome_mails

    async def on_order_changed(self, _: Event, order: OrderState) -> None:
        """Any event of an order: each carries the order's full state."""
        await self._statistics.apply(order)

    async def on_user_registered(self, event: Event, user: UserRegistered) -> None:
        await self._welcome_mails.send(event, user)

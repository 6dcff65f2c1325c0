"""Users' events in: each moves the orders that depend on it."""

from collections.abc import Callable, Mapping

from shop_common.events.contract import Contract
from shop_common.events.envelope import Event
from shop_common.events.users import UserDeactivated, UserRegistered, UserState, UserUpdated
from shop_common.kafka.delivery import Handler
from shop_orders.models import User
from shop_orders.service import OrderService


class UserEvents:
    """`moved` is called after each event, so that what it led to is published without waiting for a poll."""

    def __init__(self, orders: OrderService, moved: Callable[[], None]) -> None:
        self._orders = orders
        self._moved = moved

    @property
    def handlers(self) -> Mapping[type[Contract], Handler]:
        """Each event carries the user's full state, so all are handled alike."""
        return dict.fromkeys((UserRegistered, UserUpdated, UserDeactivated), self.on_user_changed)

    async def on_user_changed(self, event: Event, data: UserState) -> None:
        user = User(str(data.id), data.is_active, data.version)
        await self._orders.follow_user(user, f"event {event.id}")
        self._moved()

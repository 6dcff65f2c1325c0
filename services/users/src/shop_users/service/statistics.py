"""Statistics of each user's orders, from what the orders service tells."""

from uuid import UUID

from shop_common.events.orders import OrderState
from shop_common.tokens import Principal
from shop_users.errors import UserNotFound
from shop_users.models import Statistics
from shop_users.store.statistics import StatisticsStore


class OrderStatistics:
    def __init__(self, store: StatisticsStore) -> None:
        self._store = store

    async def get(self, asker: Principal, user_id: UUID) -> Statistics:
        """UserNotFound for a user the asker may not see, as for one who does not exist."""
        statistics = await self._store.find(user_id) if asker.may_see(str(user_id)) else None
        if statistics is None:
            raise UserNotFound
        return statistics

    async def apply(self, order: OrderState, offset: int | None) -> None:
        """Versions may come twice and in any order: the highest counts, once. So does the highest offset."""
        await self._store.apply(order, offset)

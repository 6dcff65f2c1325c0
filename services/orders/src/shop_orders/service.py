"""What one can do with orders, and what users' events do to them.

Users' events and new orders meet without a transaction. `place` reads the replica and then writes the order;
`follow_user` writes the replica and then reads the orders. When the event falls between the two steps of `place`, its
reader finds no order yet, and the order is written by an outdated view of its user: pending for ever, or open though
the user is deactivated. So each order is judged a second time, after it was written: the relay gives every new one to
`settle` before its first event is published. That cannot be lost in a crash, since an order stays in the outbox until
then, and it closes the gap. Either the replica's write is acknowledged before `settle` reads it, and `settle` moves the
order; or it is acknowledged later, and then `follow_user` looks for orders only after this one was written, finds it
and moves it. Both may find it: one compare-and-set wins, and the other sees that nothing is left to do.
"""

import asyncio
import hmac
import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from shop_common.cursors import CursorCodec
from shop_common.events.orders import OrderItem, OrderStatus
from shop_common.preconditions import check_version
from shop_common.tokens import Principal
from shop_orders.errors import IdempotencyKeyReused, OrderContended, OrderNotFound, UserNotFound
from shop_orders.models import OPEN, Order, User, create_order, due_move
from shop_orders.store.orders import OrderStore
from shop_orders.store.users import UserReplica

_TRIES: Final = 5
_JITTER_SECONDS: Final = 0.02
_MOVED_AT_ONCE: Final = 100


@dataclass(frozen=True, slots=True)
class Done:
    """What a command led to; `replayed`: it had been done before, by the same key."""

    order: Order
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    items: list[Order]
    next_cursor: str | None


class OrderService:
    def __init__(self, orders: OrderStore, users: UserReplica, cursors: CursorCodec) -> None:
        self._orders = orders
        self._users = users
        self._cursors = cursors

    async def place(self, principal: Principal, key: str, items: Sequence[OrderItem]) -> Done:
        """Place an order for the caller, confirmed or rejected at once if the user is known; or find it by its key."""
        placed = create_order(principal.user_id, key, items, _now())
        versions = [placed]
        if user := await self._users.find(placed.user_id):
            versions.append(placed.moved("confirmed" if user.is_active else "rejected", placed.created_at))
        if await self._orders.insert(versions):
            return Done(versions[-1])
        stored = await self._get_stored(placed.id)
        if not hmac.compare_digest(stored.fingerprint, placed.fingerprint):
            raise IdempotencyKeyReused("This key was sent with another order before; choose a new one")
        return Done(stored, replayed=True)

    async def get(self, principal: Principal, order_id: str) -> Order:
        """The caller's order, or anybody's for an administrator; OrderNotFound (404) otherwise."""
        order = await self._orders.get(order_id)
        if not principal.may_see(order.user_id):
            raise OrderNotFound("There is no such order")
        return order

    async def list_newest(
        self, principal: Principal, user_id: str | None, status: OrderStatus | None, cursor: str | None, limit: int
    ) -> Page:
        """One user's orders, by default the caller's; everybody's where an administrator names no user."""
        if user_id is None and not principal.is_admin:
            user_id = principal.user_id
        if user_id is not None and not principal.may_see(user_id):
            raise UserNotFound("There is no such user")
        filters = {"user_id": user_id, "status": status}
        found = await self._orders.find_page(user_id, status, self._cursors.decode(cursor, filters), limit + 1)
        return Page(*self._cursors.page(found, limit, filters))

    async def pay(self, principal: Principal, order_id: str, version: int, key: str | None) -> Done:
        return await self._command(principal, order_id, "paid", version, key)

    async def cancel(self, principal: Principal, order_id: str, version: int, key: str | None) -> Done:
        return await self._command(principal, order_id, "cancelled", version, key)

    async def _command(
        self, principal: Principal, order_id: str, to: OrderStatus, version: int, key: str | None
    ) -> Done:
        """Move one version; a command without a key cannot be told from another one that asks for the same."""
        order = await self.get(principal, order_id)
        return await self._move(order, to, f"{to} {key or uuid.uuid4()}", version)

    async def _move(self, order: Order, to: OrderStatus, cause: str, version: int) -> Done:
        for _ in range(_TRIES):
            if cause in order.applied:
                return Done(order, replayed=True)
            check_version(order.version, version)
            after = order.moved(to, _now())
            if await self._orders.move(order, after, cause):
                return Done(after)
            order = await self._read_again(order)
        raise OrderContended("Others keep changing this order; try again shortly")

    async def follow_user(self, user: User, cause: str) -> None:
        """Keep what an event says of a user, and move the orders that wait for it."""
        # An old event is judged by what is known now. One that is known already is followed all the same, since
        # whoever kept it may have ended before the orders were moved.
        known = await self._users.put(user)
        statuses = tuple(status for status in OPEN if due_move(status, known))
        while orders := await self._orders.find_in(user.id, statuses, _MOVED_AT_ONCE):
            for order in orders:
                await self._follow(order, known, cause)

    async def settle(self, orders: Sequence[Order]) -> None:
        """Move those of these new orders whose user was not, when they were placed, what the replica says now."""
        waiting = [order for order in orders if order.status in OPEN]
        if not waiting:
            return
        users = await self._users.find_several(list({order.user_id for order in waiting}))
        for order in waiting:
            await self._follow(order, users.get(order.user_id), "settle")

    async def _follow(self, order: Order, user: User | None, cause: str) -> None:
        """Bring one order in line with its user, whoever else moves it meanwhile; its state tells when that is done."""
        for _ in range(_TRIES):
            to = due_move(order.status, user)
            if to is None or await self._orders.move(order, order.moved(to, _now()), cause):
                return
            order = await self._read_again(order)
        raise OrderContended("Others keep changing this order; try again shortly")

    async def _read_again(self, order: Order) -> Order:
        """After a while: what a majority has may be older than what the primary refused a change for."""
        await _pause()
        return await self._orders.get(order.id)

    async def _get_stored(self, order_id: str) -> Order:
        """An order that the primary has, perhaps not yet with a majority."""
        for _ in range(_TRIES):
            if stored := await self._orders.find(order_id):
                return stored
            await _pause()
        raise OrderContended("The order with this key is being stored; try again shortly")


async def _pause() -> None:
    await asyncio.sleep(random.uniform(0, _JITTER_SECONDS))  # noqa: S311 - spreads load, hides nothing


def _now() -> datetime:
    """UTC in milliseconds, so that what is answered is what MongoDB keeps."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)

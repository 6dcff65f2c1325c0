"""Users' events against orders: in order and out of order, once and often, and between two steps of a placing."""

import asyncio
import itertools
import time
import uuid
from collections.abc import Awaitable, Callable

import pytest
from pydantic import SecretStr

from shop_common.cursors import CursorCodec
from shop_common.errors import PreconditionFailed
from shop_common.events.money import Money
from shop_common.events.orders import OrderItem
from shop_common.mongo import Database
from shop_common.tokens import Principal
from shop_orders.errors import OrderContended
from shop_orders.models import Order, User
from shop_orders.service import OrderService
from shop_orders.store.orders import OrderStore
from shop_orders.store.outbox import OrderOutbox
from shop_orders.store.users import UserReplica

Step = Callable[[], Awaitable[object]]
ITEMS = (OrderItem(sku="TEA", quantity=1, unit_price=Money(amount=5, currency="EUR")),)


async def nothing() -> None: ...


class World:
    """One user. `service` is what handles their events; `slow`, beside it, lets things happen between its steps."""

    def __init__(self, database: Database, service: OrderService, user_id: str) -> None:
        self.service = service
        self.user_id = user_id
        self.store = OrderStore(database)
        self.users = UserReplica(database)
        self.after_reading_user: Step = nothing
        self.before_moving: Step = nothing
        world = self

        class Users(UserReplica):
            async def find_several(self, user_ids: list[str]) -> dict[str, User]:
                found = await super().find_several(user_ids)
                step, world.after_reading_user = world.after_reading_user, nothing
                await step()
                return found

        class Orders(OrderStore):
            async def move(self, before: Order, after: Order, cause: str) -> bool:
                step, world.before_moving = world.before_moving, nothing
                await step()
                return await super().move(before, after, cause)

        self.slow = OrderService(Orders(database), Users(database), CursorCodec("orders", SecretStr("k" * 40)))
        self.outbox = OrderOutbox(database, self.slow.settle)

    async def place(self) -> Order:
        principal = Principal(self.user_id, "customer", int(time.time()) + 900)
        return (await self.slow.place(principal, uuid.uuid4().hex, ITEMS)).order

    async def registered(self) -> None:
        await self.service.follow_user(User(self.user_id, is_active=True, version=1), "event 1")

    async def deactivated(self) -> None:
        await self.service.follow_user(User(self.user_id, is_active=False, version=2), "event 2")

    async def registered_and_deactivated(self) -> None:
        await self.registered()
        await self.deactivated()

    async def relay(self) -> list[str]:
        """What a round of the relay publishes of this user."""
        records = await self.outbox.pending(500)
        await self.outbox.mark_sent(records)
        return [record.event.type.split("_")[1].split(".")[0] for record in records]

    async def state(self, order: Order) -> tuple[str, int]:
        now = await self.store.get(order.id)
        return now.status, now.version


@pytest.fixture
def world(database: Database, service: OrderService, user_id: str) -> World:
    return World(database, service, user_id)


async def test_a_registration_confirms_the_orders_that_wait(world: World) -> None:
    waiting = [await world.place() for _ in range(3)]
    await world.registered()
    assert [await world.state(order) for order in waiting] == [("confirmed", 2)] * 3
    assert sorted(await world.relay()) == ["confirmed"] * 3 + ["placed"] * 3


async def test_a_deactivation_cancels_what_is_open_and_nothing_else(world: World) -> None:
    pending = await world.place()
    await world.users.put(User(world.user_id, is_active=True, version=1))
    confirmed, paid, cancelled = [await world.place() for _ in range(3)]
    owner = Principal(world.user_id, "customer", 0)
    await world.service.pay(owner, paid.id, 2, None)
    await world.service.cancel(owner, cancelled.id, 2, None)
    await world.deactivated()
    assert await world.state(pending) == ("cancelled", 2)
    assert await world.state(confirmed) == ("cancelled", 3)
    assert await world.state(paid) == ("paid", 3)
    assert await world.state(cancelled) == ("cancelled", 3)
    assert (await world.place()).status == "rejected"


async def test_more_orders_than_one_read_takes(world: World) -> None:
    waiting = await asyncio.gather(*(world.place() for _ in range(230)))
    await world.registered()
    assert {await world.state(order) for order in waiting} == {("confirmed", 2)}
    await world.deactivated()
    assert {await world.state(order) for order in waiting} == {("cancelled", 3)}


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
async def test_in_any_order_the_newest_version_decides(world: World, order: tuple[int, ...]) -> None:
    events = [
        User(world.user_id, is_active=True, version=1),
        User(world.user_id, is_active=True, version=2),
        User(world.user_id, is_active=False, version=3),
        User(world.user_id, is_active=False, version=3),
    ]
    waiting = await world.place()
    for index in order:
        await world.service.follow_user(events[index], f"event {index}")
    assert await world.users.find(world.user_id) == events[2]
    assert (await world.state(waiting))[0] == "cancelled"
    assert (await world.place()).status == "rejected"


async def test_repeated_events_change_nothing_more(world: World) -> None:
    waiting = await world.place()
    for _ in range(3):
        await world.registered()
    assert await world.state(waiting) == ("confirmed", 2)
    for _ in range(3):
        await world.deactivated()
    assert await world.state(waiting) == ("cancelled", 3)


async def test_an_event_whose_handler_ended_halfway_is_finished_by_its_repetition(world: World) -> None:
    waiting = await world.place()
    await world.users.put(User(world.user_id, is_active=True, version=1))  # and then the process ended
    await world.registered()
    assert await world.state(waiting) == ("confirmed", 2)


async def test_a_registration_that_comes_again_after_the_deactivation_finishes_that(world: World) -> None:
    waiting = await world.place()
    await world.registered()
    await world.users.put(User(world.user_id, is_active=False, version=2))  # and then the process ended
    await world.registered()
    assert await world.state(waiting) == ("cancelled", 3)


async def test_registered_between_reading_the_user_and_writing_the_order(world: World) -> None:
    world.after_reading_user = world.registered
    order = await world.place()
    assert await world.state(order) == ("pending", 1)
    assert await world.relay() == ["placed"]
    assert await world.state(order) == ("confirmed", 2)
    assert await world.relay() == ["confirmed"]


async def test_deactivated_between_reading_the_user_and_writing_the_order(world: World) -> None:
    await world.registered()
    world.after_reading_user = world.deactivated
    order = await world.place()
    assert await world.state(order) == ("confirmed", 2)
    assert await world.relay() == ["placed", "confirmed"]
    assert await world.state(order) == ("cancelled", 3)
    assert await world.relay() == ["cancelled"]


async def test_both_between_reading_the_user_and_writing_the_order(world: World) -> None:
    world.after_reading_user = world.registered_and_deactivated
    order = await world.place()
    assert await world.state(order) == ("pending", 1)
    await world.relay()
    assert await world.state(order) == ("cancelled", 2)


async def test_deactivated_between_reading_the_user_and_settling(world: World) -> None:
    world.after_reading_user = world.registered
    order = await world.place()
    world.after_reading_user = world.deactivated
    await world.relay()
    assert await world.state(order) == ("cancelled", 2)


async def test_deactivated_between_judging_and_moving_while_settling(world: World) -> None:
    world.after_reading_user = world.registered
    order = await world.place()
    world.before_moving = world.deactivated
    await world.relay()
    assert await world.state(order) == ("cancelled", 2)


async def test_paid_while_the_deactivation_is_about_to_cancel(world: World) -> None:
    await world.registered()
    order = await world.place()

    async def pay() -> None:
        await world.service.pay(Principal(world.user_id, "customer", 0), order.id, 2, None)

    world.before_moving = pay
    await world.slow.follow_user(User(world.user_id, is_active=False, version=2), "event 2")
    assert await world.state(order) == ("paid", 3)


async def test_confirmed_while_its_owner_is_about_to_cancel(world: World) -> None:
    """Both states may be cancelled, so it is the version that tells that the owner saw another one."""
    order = await world.place()
    world.before_moving = world.registered
    with pytest.raises(PreconditionFailed):
        await world.slow.cancel(Principal(world.user_id, "customer", 0), order.id, 1, None)
    assert await world.state(order) == ("confirmed", 2)


async def test_confirmed_while_the_deactivation_is_about_to_cancel(world: World) -> None:
    """As a member of the group does that has lost its partition and does not know it yet."""
    order = await world.place()

    async def confirm() -> None:
        assert await world.store.move(order, order.moved("confirmed", order.created_at), "event 1")

    world.before_moving = confirm
    await world.slow.follow_user(User(world.user_id, is_active=False, version=2), "event 2")
    assert await world.state(order) == ("cancelled", 3)
    assert await world.relay() == ["placed", "confirmed", "cancelled"]


async def test_settling_a_late_relay_changes_nothing(world: World) -> None:
    await world.registered()
    order = await world.place()
    for _ in range(3):  # sent, but never marked
        records = await world.outbox.pending(500)
        assert [record.event.sequence for record in records] == [1, 2]
    assert await world.state(order) == ("confirmed", 2)


async def test_an_order_that_others_keep_changing_is_left_for_later(world: World, database: Database) -> None:
    order = await world.place()

    class Unlucky(OrderStore):
        tries = 0

        async def move(self, before: Order, after: Order, cause: str) -> bool:
            self.tries += 1
            return False

    store = Unlucky(database)
    service = OrderService(store, world.users, CursorCodec("orders", SecretStr("k" * 40)))
    with pytest.raises(OrderContended):
        await service.follow_user(User(world.user_id, is_active=True, version=1), "event 1")
    assert store.tries == 5
    await world.registered()
    assert await world.state(order) == ("confirmed", 2)


async def test_many_at_once_agree_in_the_end(world: World) -> None:
    """Placing, paying, events and two relays, all at the same time."""
    placed: list[Order] = []

    async def buy() -> None:
        placed.extend([await world.place() for _ in range(5)])

    async def relay() -> None:
        for _ in range(10):
            await world.relay()

    await asyncio.gather(*(buy() for _ in range(5)), world.registered_and_deactivated(), relay(), relay())
    await world.relay()
    await world.relay()
    states = {(await world.state(order))[0] for order in placed}
    assert states <= {"cancelled", "rejected"}
    assert await world.relay() == []


async def test_no_personal_data_is_kept(world: World, database: Database) -> None:
    await world.registered()
    assert await database["users"].find_one({"_id": world.user_id}) == {
        "_id": world.user_id,
        "version": 1,
        "is_active": True,
    }

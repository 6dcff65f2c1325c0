"""Orders placed, paid and cancelled while users' events come, and the relay that settles and publishes."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import cast
from unittest.mock import patch
from uuid import UUID

from pydantic import SecretStr
from pymongo.errors import PyMongoError

from interleave.documents import Database, Document
from interleave.kafka_clients import kafka_clients
from interleave.kafka_model import Cluster, Record
from interleave.loop import Process
from interleave.simulation import Simulation
from shop_common.cursors import CursorCodec
from shop_common.errors import Conflict, PreconditionFailed, Unavailable
from shop_common.events.money import Money
from shop_common.events.orders import OrderItem, OrderState
from shop_common.kafka.producer import EventProducer
from shop_common.kafka.settings import KafkaSettings
from shop_common.mongo import Database as MongoDatabase
from shop_common.outbox import OutboxRelay
from shop_common.tokens import Principal
from shop_orders.models import MOVES, OPEN, Order, User
from shop_orders.service import OrderService
from shop_orders.store import leases
from shop_orders.store.orders import COLLECTION, OrderStore
from shop_orders.store.outbox import OrderOutbox
from shop_orders.store.users import UserReplica

_SETTINGS = KafkaSettings(bootstrap_servers="127.0.0.1:9")
_CURSORS = CursorCodec("orders", SecretStr("k" * 32))
_ITEMS = (OrderItem(sku="TEA", quantity=1, unit_price=Money(amount=100, currency="EUR")),)
_USERS = [str(UUID(int=number)) for number in (1, 2)]
_SHARDS = 2
_HISTORIES = ((), (True,), (True, True), (True, False), (True, True, False))
"""Whether the user is active, in each of its versions."""


@dataclass(slots=True)
class Client:
    """One order's story, as the one who wants it knows it; survives everything."""

    user_id: str
    key: str
    wishes: list[str]
    order: Order | None = None
    acked: list[str] = field(default_factory=list)

    @property
    def principal(self) -> Principal:
        return Principal(self.user_id, "customer", 2**31)


def play(simulation: Simulation) -> None:
    run = _Run(simulation)
    simulation.supervise("api", run.api)
    for number in range(simulation.random.choice((1, 1, 2))):
        simulation.supervise(f"worker {number}", run.worker)
    simulation.calm_after(simulation.random.uniform(2, 20))
    with kafka_clients(run.cluster), patch.object(leases, "SHARDS", _SHARDS):
        simulation.run(run.is_quiet, 300)
    run.judge()


class _Run:
    def __init__(self, simulation: Simulation) -> None:
        random = simulation.random
        self._simulation = simulation
        self._database = Database(simulation, self._look)
        self.cluster = Cluster(simulation)
        self.cluster.on_append = self._published
        self._log: dict[str, list[OrderState]] = {}
        """First occurrences, by order."""
        self._histories = {user: random.choice(_HISTORIES) for user in _USERS[: random.randint(1, 2)]}
        self._followed = dict.fromkeys(self._histories, 0)
        wishes = (
            ["place"],
            ["place", "place"],
            ["place", "paid"],
            ["place", "cancelled"],
            ["place", "paid", "cancelled"],
        )
        self._clients = [
            Client(user, f"k{number}", list(random.choice(wishes)))
            for user in self._histories
            for number in range(random.randint(1, 2))
        ]

    def _stored(self) -> list[Document]:
        return self._database.documents[COLLECTION].all() if COLLECTION in self._database.documents else []

    def _service(self) -> tuple[OrderService, OrderOutbox]:
        database = cast("MongoDatabase", self._database)
        orders = OrderService(OrderStore(database), UserReplica(database), _CURSORS)
        return orders, OrderOutbox(database, orders.settle)

    async def api(self, _: Process) -> None:
        service, _unused = self._service()
        async with asyncio.TaskGroup() as clients:
            for client in self._clients:
                clients.create_task(self._serve(service, client))
        await asyncio.sleep(10)

    async def _serve(self, service: OrderService, client: Client) -> None:
        while client.wishes:
            wish = client.wishes[0]
            await asyncio.sleep(self._simulation.random.choice((0, 0, 0.05, 1)))
            try:
                async with asyncio.timeout(5):
                    done = await self._do(service, client, wish)
            except (Conflict, PreconditionFailed) as refused:
                if isinstance(refused, Conflict):
                    client.wishes.pop(0)
                    continue
                await self._read(service, client)
            except (PyMongoError, OSError, Unavailable):
                await asyncio.sleep(0.1)
            else:
                client.order = done
                client.acked.append(wish)
                client.wishes.pop(0)
                self._look()
                self._simulation.check(
                    any(order["_id"] == done.id for order in self._stored()), "what is acked is kept", wish
                )

    async def _do(self, service: OrderService, client: Client, wish: str) -> Order:
        if wish == "place":
            return (await service.place(client.principal, client.key, _ITEMS)).order
        assert client.order is not None
        command = service.pay if wish == "paid" else service.cancel
        return (await command(client.principal, client.order.id, client.order.version, f"{client.key} {wish}")).order

    async def _read(self, service: OrderService, client: Client) -> None:
        assert client.order is not None
        with suppress(PyMongoError, OSError):
            async with asyncio.timeout(5):
                client.order = await service.get(client.principal, client.order.id)

    async def worker(self, _: Process) -> None:
        service, outbox = self._service()
        producer, stop = EventProducer(_SETTINGS), asyncio.Event()
        producer.connect()
        relay = OutboxRelay(outbox, producer, idle_poll_seconds=0.25)
        try:
            async with asyncio.TaskGroup() as jobs:
                jobs.create_task(relay.run(stop))
                for user in self._histories:
                    jobs.create_task(self._follow(service, relay, user))
        finally:
            await producer.close()

    async def _follow(self, service: OrderService, relay: OutboxRelay, user: str) -> None:
        """One user's events in order, each until it is followed; what another worker follows, this one may, too."""
        position = self._followed[user]
        while position < len(self._histories[user]):
            await asyncio.sleep(self._simulation.random.choice((0, 0, 0.1, 2)))
            version = position + 1
            try:
                async with asyncio.timeout(10):
                    await service.follow_user(User(user, self._histories[user][position], version), f"event {version}")
            except (PyMongoError, OSError, Unavailable):
                continue
            relay.nudge()
            position = version
            await asyncio.sleep(0)
            self._followed[user] = max(self._followed[user], position)

    def _published(self, record: Record) -> None:
        state = OrderState.model_validate_json(record.value or b"")
        seen = self._log.setdefault(str(state.id), [])
        if state.version <= len(seen):
            same = seen[state.version - 1] == state
            self._simulation.check(same, "a version is published as one state", f"version {state.version}")
            return
        seen.append(state)
        self._simulation.check(
            state.version == len(seen), "first occurrences are in version order", f"{[one.version for one in seen]}"
        )

    def _look(self) -> None:
        """What holds after every write."""
        for document in self._stored():
            check, version = self._simulation.check, document["version"]
            waiting = sorted(entry["version"] for entry in document["outbox"])
            sent = len(self._log.get(document["_id"], []))
            every = sorted({*waiting, *range(1, sent + 1)})
            check(
                every == list(range(1, version + 1)),
                "each version has one event",
                f"{waiting} and {sent} sent of {version}",
            )
            check(version <= 3, "no order has more than three versions", f"{version}")
            check("pending_at" in document or not waiting, "what waits is found by the relay", f"{waiting}")

    def is_quiet(self) -> bool:
        return (
            all(self._followed[user] == len(history) for user, history in self._histories.items())
            and not any(client.wishes for client in self._clients)
            and not any("pending_at" in order for order in self._stored())
        )

    def judge(self) -> None:
        if self._simulation.violation is not None:
            return
        stored = {order["_id"]: order for order in self._stored()}
        check = self._simulation.check
        for order_id, order in stored.items():
            log = self._log.get(order_id, [])
            check(len(log) == order["version"] and log[-1].status == order["status"], "every version is published", "")
            moves = [(one.status, next_.status) for one, next_ in pairwise(log)]
            check(
                log[0].status == "pending" and all(before in MOVES[after] for before, after in moves),
                "only allowed moves are made",
                f"{moves}",
            )
            history = self._histories[order["user_id"]]
            is_open, is_active = order["status"] in OPEN, bool(history and history[-1])
            check(
                not (history and not is_active and is_open), "no order of a deactivated user is open", order["status"]
            )
            check(not (is_active and order["status"] == "pending"), "no order of an active user waits", order["status"])
        for client in self._clients:
            order = stored[client.order.id] if client.order else {}
            final = [wish for wish in client.acked if wish != "place"]
            check(
                not final or order["status"] == final[-1], "what is acked is kept", f"{final} of {order.get('status')}"
            )
        keys = {(client.user_id, client.key) for client in self._clients}
        check(len(stored) == len(keys), "a key makes one order", f"{len(stored)} of {len(keys)}")

"""The platform's mechanisms, each broken on purpose, and the oracles that have to notice."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import interleave.cache
import interleave.consumer
import interleave.orders
import interleave.relay
from interleave.consumer import Effects
from shop_common.events.envelope import Event, KafkaRecord
from shop_common.kafka import consumer as consumer_module
from shop_common.kafka import mailboxes as mailboxes_module
from shop_common.kafka.delivery import Delivery
from shop_common.kafka.mailboxes import Mailboxes
from shop_common.kafka.tracker import OffsetTracker
from shop_common.outbox import OutboxRecord, OutboxRelay
from shop_gateway.cache import Lease, SectionCache
from shop_gateway.models import Answer
from shop_orders.models import Order, User
from shop_orders.service import OrderService
from shop_orders.store.outbox import OrderOutbox
from shop_orders.store.users import UserReplica


class MarksBeforeTheAck(OutboxRelay):
    async def _send(self, aggregates: Iterator[list[OutboxRecord]], sent: list[OutboxRecord], stop: Any) -> None:
        for records in aggregates:
            sent.extend(records)
            await super()._send(iter([records]), [], stop)


class GoesOnAfterAFailure(OutboxRelay):
    async def _send(self, aggregates: Iterator[list[OutboxRecord]], sent: list[OutboxRecord], stop: Any) -> None:
        for records in aggregates:
            await super()._send(iter([[record] for record in records]), sent, stop)


class SendsVersionsAtOnce(OutboxRelay):
    async def _send(self, aggregates: Iterator[list[OutboxRecord]], sent: list[OutboxRecord], stop: Any) -> None:
        for records in aggregates:
            await asyncio.gather(
                *(super(SendsVersionsAtOnce, self)._send(iter([[one]]), sent, stop) for one in records)
            )


class LeavesATask(OutboxRelay):
    async def run(self, stop: asyncio.Event) -> None:
        self._forgotten = asyncio.create_task(asyncio.sleep(3600))
        await super().run(stop)


class CommitsTheHighest(OffsetTracker):
    @property
    def position(self) -> int | None:
        return None if self._last is None else self._last + 1


class _Forgetful(dict[Any, Any]):
    def get(self, key: Any, default: Any = None) -> Any:
        return default

    def __delitem__(self, key: Any) -> None: ...


class KeysAreNotSerial(Mailboxes):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._boxes = _Forgetful()


class WorksOn(Mailboxes):
    """Neither stops nor drains when its partition goes."""

    async def close(self, drain_seconds: float) -> None: ...


async def done_in_any_case(self: Delivery, mailboxes: Mailboxes, record: KafkaRecord) -> bool:
    await _deliver(self, mailboxes, record)
    return True


_deliver = Delivery.deliver


async def no_letter(self: Delivery, *_: Any) -> bool:
    return True


class HasNoInbox(Effects):
    def _is_new(self, event: Event) -> bool:
        super()._is_new(event)
        return True


class IgnoresLeases(SectionCache):
    def fill(self, lease: Lease, answer: Answer, versions: Any, as_of: float | None = None) -> bool:
        anybodys = Lease(lease.key, self._users.get(lease.key.user_id, lease.user), 0)
        return super().fill(anybodys, answer, versions, as_of)


class IgnoresVersions(SectionCache):
    def fill(self, lease: Lease, answer: Answer, versions: Any, as_of: float | None = None) -> bool:
        if user := self._users.get(lease.key.user_id):
            user.entries.clear()
            user.seen.clear()
        return super().fill(lease, answer, versions, as_of)


class NeverSettles(OrderService):
    async def settle(self, orders: Sequence[Order]) -> None: ...


class ForgetsWhatCameMeanwhile(OrderOutbox):
    async def mark_sent(self, records: Sequence[OutboxRecord]) -> None:
        order_ids = list({record.position for record in records})
        await self._orders.update_many(
            {"_id": {"$in": order_ids}}, {"$set": {"outbox": []}, "$unset": {"pending_at": ""}}
        )


class KeepsTheLatestHeard(UserReplica):
    async def put(self, user: User) -> User:
        await self._users.update_one(
            {"_id": user.id}, {"$set": {"version": user.version, "is_active": user.is_active}}, upsert=True
        )
        return user


@dataclass(frozen=True, slots=True)
class Mutation:
    name: str
    scenario: str
    broken: Callable[[], AbstractContextManager[Any]]
    oracles: frozenset[str]


def _mutation(name: str, scenario: str, where: Any, what: str, broken: Any, *oracles: str) -> Mutation:
    return Mutation(name, scenario, lambda: patch.object(where, what, broken), frozenset(oracles))


ORDER, ONCE, COMMITTED = (
    "first occurrences are in version order",
    "an event has its effect once",
    "only what is done is committed",
)
FENCED = ("nothing is begun after a revocation", "nothing runs on after a revocation")
FRESH = "nothing older than what was told is answered"
ONE_EVENT = "each version has one event"

MUTATIONS = [
    _mutation(
        "mark before the ack",
        "relay",
        interleave.relay,
        "OutboxRelay",
        MarksBeforeTheAck,
        "only what is in the log is marked",
        "everything is published",
    ),
    _mutation("go on after a failed send", "relay", interleave.relay, "OutboxRelay", GoesOnAfterAFailure, ORDER),
    _mutation("send v2 before the ack of v1", "relay", interleave.relay, "OutboxRelay", SendsVersionsAtOnce, ORDER),
    _mutation(
        "leave a task behind",
        "relay",
        interleave.relay,
        "OutboxRelay",
        LeavesATask,
        "a program that ends leaves no task",
    ),
    _mutation("commit the highest seen", "consumer", mailboxes_module, "OffsetTracker", CommitsTheHighest, COMMITTED),
    _mutation("drop the inbox", "consumer", interleave.consumer, "Effects", HasNoInbox, ONCE),
    _mutation("dispatch across a revocation", "consumer", consumer_module, "Mailboxes", WorksOn, *FENCED),
    _mutation(
        "a task per record",
        "consumer",
        consumer_module,
        "Mailboxes",
        KeysAreNotSerial,
        "one event of a key at a time",
        "effects are in order of the key",
    ),
    _mutation("done though given up", "consumer", Delivery, "deliver", done_in_any_case, COMMITTED),
    _mutation("done before the letter's ack", "consumer", Delivery, "_put_aside", no_letter, COMMITTED),
    _mutation(
        "commit for an epoch that is over",
        "takeover",
        consumer_module._Membership,
        "_current_epoch",
        lambda _: (0, ""),
        "nobody commits over a later owner",
    ),
    _mutation("fill without comparing the lease", "cache", interleave.cache, "SectionCache", IgnoresLeases, FRESH),
    _mutation(
        "fill without comparing versions",
        "cache",
        interleave.cache,
        "SectionCache",
        IgnoresVersions,
        "answers from the cache never go back",
    ),
    _mutation(
        "never settle",
        "orders",
        interleave.orders,
        "OrderService",
        NeverSettles,
        "no order of an active user waits",
        "no order of a deactivated user is open",
    ),
    _mutation(
        "mark what came meanwhile", "orders", interleave.orders, "OrderOutbox", ForgetsWhatCameMeanwhile, ONE_EVENT
    ),
    _mutation(
        "drop the version guard",
        "orders",
        interleave.orders,
        "UserReplica",
        KeepsTheLatestHeard,
        "no order of a deactivated user is open",
        "no order of an active user waits",
    ),
]

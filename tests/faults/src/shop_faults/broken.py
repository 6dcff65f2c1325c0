"""The product's mechanisms, each broken from outside in one place; `mutations` says what each of these is to prove."""

import asyncio
import os
import random
import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final
from uuid import UUID, uuid4

from shop_common.events.envelope import Event, Headers
from shop_common.events.users import TOPIC
from shop_common.kafka.delivery import Poison
from shop_common.kafka.mailboxes import Mailboxes
from shop_common.kafka.producer import EventProducer
from shop_common.kafka.settings import KafkaSettings
from shop_common.kafka.tracker import OffsetTracker, Pending
from shop_common.outbox import OutboxRecord
from shop_faults.patch import Patch, find_target, replacement, text_replacement
from shop_orders.store.leases import SHARDS

_OUTBOXES: Final = ("shop_users.store.relay:PostgresOutbox", "shop_orders.store.outbox:OrderOutbox")
_APPLY: Final = "shop_users.store.statistics:APPLY"
_FOR_EVER_SECONDS: Final = 3600.0
_UNKEYED_SECONDS: Final = 0.05
_REFUSED_ONE_IN: Final = 4


def commit_before_processing() -> list[Patch]:
    owner, name, dispatch = find_target("shop_common.kafka.tracker:OffsetTracker.dispatch")

    def done_at_once(self: OffsetTracker, offset: int) -> Pending:
        entry: Pending = dispatch(self, offset)
        self.complete(entry)
        return entry

    return [Patch(owner, name, done_at_once)]


def commit_highest_done() -> list[Patch]:
    def complete(self: OffsetTracker, entry: Pending) -> None:
        entry.done = True
        while self._pending and self._pending[0].offset <= entry.offset:
            self._pending.popleft()

    return [replacement("shop_common.kafka.tracker:OffsetTracker.complete", complete)]


def revoke_commits_fetched() -> list[Patch]:
    owner, name, close = find_target("shop_common.kafka.mailboxes:Mailboxes.close")

    async def close_as_done(self: Mailboxes, drain_seconds: float) -> None:
        await close(self, drain_seconds)
        for entry in list(self.tracker._pending):
            self.tracker.complete(entry)

    return [Patch(owner, name, close_as_done)]


def drain_without_end() -> list[Patch]:
    owner, name, close = find_target("shop_common.kafka.mailboxes:Mailboxes.close")

    async def close_when_done(self: Mailboxes, drain_seconds: float) -> None:
        await close(self, _FOR_EVER_SECONDS if drain_seconds else 0.0)

    return [Patch(owner, name, close_when_done)]


_GUARD: Final = "    WHERE known.version < excluded.version\n"


def statistics_without_guard() -> list[Patch]:
    return [text_replacement(_APPLY, _GUARD, "")]


def statistics_count_twice() -> list[Patch]:
    unguarded = text_replacement(_APPLY, _GUARD, "")
    before = "FROM user_orders WHERE order_id = $1\n"
    if unguarded.value.count(before) != 1:
        raise ValueError(f"{_APPLY} has changed")
    return [unguarded._replace(value=unguarded.value.replace(before, f"{before.rstrip()} AND version < $3\n"))]


def replica_without_guard() -> list[Patch]:
    async def put(self: Any, user: Any) -> Any:
        known = {"version": user.version, "is_active": user.is_active}
        await self._users.update_one({"_id": user.id}, {"$set": known}, upsert=True)
        return user

    return [replacement("shop_orders.store.users:UserReplica.put", put)]


def mail_without_inbox() -> list[Patch]:
    owner, name, claim = find_target("shop_users.store.mails:MailStore.claim")

    async def claim_anyway(self: Any, event_id: UUID, seconds: float) -> bool:
        await claim(self, event_id, seconds)
        return True

    return [Patch(owner, name, claim_anyway)]


class _Publisher:
    """A producer in the API's process, which the product does not have."""

    def __init__(self) -> None:
        self._producer: EventProducer | None = None

    async def publish(self, event: Event) -> None:
        if self._producer is None:
            servers = os.environ["USERS_KAFKA__BOOTSTRAP_SERVERS"]
            self._producer = EventProducer(KafkaSettings(bootstrap_servers=servers))
        await self._producer.send(event, TOPIC)


def publish_before_write() -> list[Patch]:
    owner, name, insert = find_target("shop_users.store.users:UserStore.insert")
    publisher = _Publisher()

    async def publish_and_insert(self: Any, user: Any, password_hash: str, event: Event) -> None:
        await publisher.publish(event)
        await insert(self, user, password_hash, event)

    return [Patch(owner, name, publish_and_insert)]


def skip_outbox() -> list[Patch]:
    owner, name, insert = find_target("shop_users.store.users:UserStore.insert")
    publisher = _Publisher()

    async def insert_and_publish(self: Any, user: Any, password_hash: str, event: Event) -> None:
        await insert(self, user, password_hash, event)
        await publisher.publish(event)

    without_event = text_replacement("shop_users.store.users:INSERT", "FROM inserted\n", "FROM inserted WHERE false\n")
    return [without_event, Patch(owner, name, insert_and_publish)]


def mark_before_ack() -> list[Patch]:
    return [each for outbox in _OUTBOXES for each in _marking(outbox)]


def _marking(outbox: str) -> list[Patch]:
    owner, name, pending = find_target(f"{outbox}.pending")
    _, mark_name, mark = find_target(f"{outbox}.mark_sent")

    async def read_and_mark(self: Any, limit: int) -> Sequence[OutboxRecord]:
        records: Sequence[OutboxRecord] = await pending(self, limit)
        if records:
            await mark(self, records)
        return records

    async def leave(self: Any, records: Sequence[OutboxRecord]) -> None:
        """Done already."""

    return [Patch(owner, name, read_and_mark), Patch(owner, mark_name, leave)]


def poll_past_the_last_seen() -> list[Patch]:
    owner, name, pending = find_target(f"{_OUTBOXES[0]}.pending")
    last_seen: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    async def newer(self: Any, limit: int) -> Sequence[OutboxRecord]:
        seen = last_seen.get(self, 0)
        records = [record for record in await pending(self, limit) if record.position[1] > seen]
        last_seen[self] = max((record.position[1] for record in records), default=seen)
        return records

    return [Patch(owner, name, newer)]


def never_poll() -> list[Patch]:
    owner, name, create = find_target("shop_common.outbox:OutboxRelay.__init__")

    def create_patient(self: Any, outbox: Any, publisher: Any, *, idle_poll_seconds: float = 1.0) -> None:
        create(self, outbox, publisher, idle_poll_seconds=_FOR_EVER_SECONDS)

    def nudge(self: Any) -> None:
        """Lost on its way."""

    return [
        Patch(owner, name, create_patient),
        replacement("shop_common.outbox:_POLL_SECONDS", _FOR_EVER_SECONDS),
        replacement("shop_common.outbox:OutboxRelay.nudge", nudge),
    ]


def send_in_parallel() -> list[Patch]:
    def apart(records: Sequence[OutboxRecord]) -> list[list[OutboxRecord]]:
        """The newest first: nothing says who of several wins, and this is the worst of it."""
        return [[record] for record in reversed(records)]

    return [replacement("shop_common.outbox:_by_aggregate", apart)]


def random_order_id() -> list[Patch]:
    owner, name, create_order = find_target("shop_orders.service:create_order")

    def create_another(user_id: str, key: str, items: Any, at: Any) -> Any:
        return replace(create_order(user_id, key, items, at), id=str(uuid4()))

    return [Patch(owner, name, create_another)]


def dead_letter_dropped() -> list[Patch]:
    async def drop(self: Any, mailboxes: Any, record: Any, label: str, error: Exception, trouble: Any) -> bool:
        return True

    return [replacement("shop_common.kafka.delivery:Delivery._put_aside", drop)]


def outage_spends_tries() -> list[Patch]:
    owner, name, create = find_target("shop_common.kafka.delivery:Delivery.__init__")

    def create_impatient(
        self: Any,
        group: str,
        handlers: Any,
        producer: Any,
        *,
        transient: Any,
        at_once: int,
        handler_seconds: float,
    ) -> None:
        create(self, group, handlers, producer, transient=(), at_once=at_once, handler_seconds=handler_seconds)

    return [Patch(owner, name, create_impatient), replacement("shop_common.kafka.delivery:_INFRASTRUCTURE", ())]


def producer_kept() -> list[Patch]:
    def keep(self: EventProducer, producer: Any, reason: str) -> None:
        """Go on with it as if nothing had been in doubt."""

    return [replacement("shop_common.kafka.producer:EventProducer._discard", keep)]


def replay_with_new_id() -> list[Patch]:
    owner, name, send_record = find_target("shop_common.kafka.producer:EventProducer.send_record")

    async def send_another(self: Any, topic: str, key: bytes | None, value: bytes | None, headers: Headers) -> None:
        fresh = str(uuid4()).encode()
        renamed = [(header, fresh if header == "ce_id" else text) for header, text in headers]
        await send_record(self, topic, key, value, renamed)

    return [Patch(owner, name, send_another)]


def claims_ignored() -> list[Patch]:
    async def all_of_them(self: Any) -> Sequence[int]:
        return [*range(SHARDS)]

    everybodys = text_replacement(
        "shop_users.store.relay:CLAIM", "WHERE pg_try_advisory_lock($1::int, shard)", "WHERE $1::int > 0"
    )
    return [everybodys, replacement("shop_orders.store.leases:ShardLeases.held", all_of_them)]


def handlers_refuse() -> list[Patch]:
    owner, name, handle = find_target("shop_common.kafka.delivery:Delivery._handle")

    async def refuse_some(self: Any, mailboxes: Mailboxes, event: Event) -> str:
        if event.id.int % _REFUSED_ONE_IN == 0:
            raise Poison("refused")
        outcome: str = await handle(self, mailboxes, event)
        return outcome

    return [Patch(owner, name, refuse_some)]


class _OwnKey(bytes):
    """Equal to no other, so that each record gets a mailbox of its own; its text is still the key's."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


def unkeyed() -> list[Patch]:
    owner, name, post = find_target("shop_common.kafka.mailboxes:Mailboxes.post")
    delivery, deliver_name, deliver = find_target("shop_common.kafka.delivery:Delivery.deliver")

    def post_alone(self: Mailboxes, record: Any) -> None:
        post(self, replace(record, key=_OwnKey(record.key or b"")))

    async def deliver_somewhen(self: Any, mailboxes: Mailboxes, record: Any) -> bool:
        await asyncio.sleep(random.uniform(0, _UNKEYED_SECONDS))  # noqa: S311 - any schedule may come, so any does
        done: bool = await deliver(self, mailboxes, record)
        return done

    return [Patch(owner, name, post_alone), Patch(delivery, deliver_name, deliver_somewhen)]


def unkeyed_without_guard() -> list[Patch]:
    return [*unkeyed(), *statistics_without_guard()]

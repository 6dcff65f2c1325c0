"""What the databases, the topics and the consumer groups hold at one moment, read past every proxy."""

import asyncio
import mailbox
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from pymongo import AsyncMongoClient

from shop_cluster.databases import superuser_connection
from shop_cluster.ports import HOST
from shop_cluster.readiness import mongo_url
from shop_cluster.state import State
from shop_common.events import orders, users
from shop_common.events.envelope import Event, MalformedEvent
from shop_common.kafka.deadletter import PREFIX, dead_letter_topic
from shop_common.kafka.letters import REPLAYED
from shop_common.kafka.topics import GROUPS, all_partitions

_READ_SECONDS: Final = 60.0

USERS = "SELECT id, email, full_name, is_active, version FROM users"
USER_ORDERS = "SELECT order_id, user_id, version, status, amount, currency FROM user_orders"
STATISTICS = "SELECT user_id, orders, paid, cancelled FROM user_statistics"
SPENDING = "SELECT user_id, currency, amount FROM user_spending WHERE amount <> 0"
OUTBOX = "SELECT count(*) FROM outbox"
MAILS = "SELECT event_id, sent_at FROM welcome_mails"
SESSIONS = """
SELECT count(*) FILTER (WHERE state LIKE 'idle in transaction%') AS idle_in_transaction,
  count(*) FILTER (WHERE application_name = 'users') AS of_the_api
FROM pg_stat_activity WHERE datname = 'users' AND pid <> pg_backend_pid()
"""


@dataclass(frozen=True, slots=True)
class Logged:
    """One record of a topic; `event` is None where it is not one of ours."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    headers: Mapping[str, bytes]
    event: Event | None

    @property
    def version(self) -> tuple[str, int]:
        """The aggregate and its version."""
        if self.event is None:
            raise ValueError("no event")
        return self.event.subject, self.event.sequence


Offsets = Mapping[tuple[str, int], int]


@dataclass(frozen=True, slots=True)
class Databases:
    users: Mapping[str, Mapping[str, Any]]
    user_orders: Mapping[str, Mapping[str, Any]]
    statistics: Mapping[str, Mapping[str, Any]]
    spending: Mapping[tuple[str, str], int]
    mails_sent: frozenset[str]
    orders: Mapping[str, Mapping[str, Any]]
    replica: Mapping[str, Mapping[str, Any]]
    outbox: int
    """Events of both services that are not published, and documents that say they have some."""
    mails: Counter[str]
    """How many of each the mail server has caught, by the event in their Message-ID."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    databases: Databases
    log: tuple[Logged, ...]
    """Of both topics, each partition's records in order."""
    dead: Mapping[str, tuple[Logged, ...]]
    """The dead letters of each group."""
    committed: Mapping[str, Offsets]
    """By group, topic and partition."""

    def without(self, forged: Collection[str]) -> "Snapshot":
        """As if these users and orders, which no service wrote, had never been heard of."""
        kept = self.databases
        return replace(
            self,
            log=tuple(record for record in self.log if record.event is None or record.event.subject not in forged),
            databases=replace(
                kept,
                user_orders={key: row for key, row in kept.user_orders.items() if key not in forged},
                statistics={key: row for key, row in kept.statistics.items() if key not in forged},
                spending={key: amount for key, amount in kept.spending.items() if key[0] not in forged},
                replica={key: row for key, row in kept.replica.items() if key not in forged},
            ),
        )


def open_postgres(state: State) -> AbstractAsyncContextManager[Any]:
    """The users database, as the superuser."""
    return superuser_connection(state, "users")


async def read_databases(state: State) -> Databases:
    async with open_postgres(state) as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        found = {query: await connection.fetch(query) for query in (USERS, USER_ORDERS, STATISTICS, SPENDING, MAILS)}
        outbox = await connection.fetchval(OUTBOX)
    async with AsyncMongoClient[dict[str, Any]](mongo_url(state), serverSelectionTimeoutMS=10_000) as client:
        database = client["orders"]
        documents = await database["orders"].find().to_list(None)
        replica = await database["users"].find().to_list(None)
    return Databases(
        users={str(row["id"]): dict(row) for row in found[USERS]},
        user_orders={str(row["order_id"]): dict(row) for row in found[USER_ORDERS]},
        statistics={str(row["user_id"]): dict(row) for row in found[STATISTICS]},
        spending={(str(row["user_id"]), row["currency"]): int(row["amount"]) for row in found[SPENDING]},
        mails_sent=frozenset(str(row["event_id"]) for row in found[MAILS] if row["sent_at"] is not None),
        orders={document["_id"]: document for document in documents},
        replica={document["_id"]: document for document in replica},
        outbox=outbox + sum(max(len(each["outbox"]), "pending_at" in each) for each in documents),
        mails=await asyncio.to_thread(_read_mails, state),
    )


def _read_mails(state: State) -> Counter[str]:
    if not state.mailbox.exists():
        return Counter()
    return Counter(mail["Message-ID"][1:].partition("@")[0] for mail in mailbox.Maildir(state.mailbox, create=False))


async def read_topics(state: State, topics: tuple[str, ...]) -> tuple[Logged, ...]:
    """Each partition from its first record to its last as of now."""
    bootstrap = f"{HOST}:{state.ports['kafka']}"
    # Without a group there is nothing committed, so it begins where the reset says; seeking would race with that.
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest", enable_auto_commit=False)
    records: list[Logged] = []
    try:
        async with asyncio.timeout(_READ_SECONDS):
            await consumer.start()
            partitions = all_partitions(*topics)
            consumer.assign(partitions)
            ends = await consumer.end_offsets(partitions)
            while any([await consumer.position(partition) < end for partition, end in ends.items()]):
                for batch in (await consumer.getmany(timeout_ms=500, max_records=5000)).values():
                    records += [_logged(record) for record in batch if record.offset < ends[_partition(record)]]
    finally:
        await consumer.stop()
    return tuple(records)


def _partition(record: Any) -> TopicPartition:
    return TopicPartition(record.topic, record.partition)


def _logged(record: Any) -> Logged:
    try:
        event = Event.from_kafka(record)
    except MalformedEvent:
        event = None
    headers = dict(record.headers)
    return Logged(record.topic, record.partition, record.offset, record.key, headers, event)


async def read_offsets(state: State) -> tuple[Mapping[str, Offsets], Offsets]:
    """What each group has committed, and where the topics end."""
    bootstrap = f"{HOST}:{state.ports['kafka']}"
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap)
    try:
        async with asyncio.timeout(_READ_SECONDS):
            await admin.start()
            await consumer.start()
            committed: dict[str, Offsets] = {}
            for group in GROUPS:
                offsets = await admin.list_consumer_group_offsets(group)
                committed[group] = {(each.topic, each.partition): at.offset for each, at in offsets.items()}
            ends = await consumer.end_offsets(all_partitions(*set(GROUPS.values())))
            return committed, {(each.topic, each.partition): offset for each, offset in ends.items()}
    finally:
        await admin.close()
        await consumer.stop()


def lag(group: str, committed: Mapping[str, Offsets], ends: Offsets) -> int:
    """Records of the group's topic that it has not committed."""
    own = committed[group]
    return sum(end - max(own.get(where, 0), 0) for where, end in ends.items() if where[0] == GROUPS[group])


async def read_snapshot(state: State) -> Snapshot:
    """Committed offsets first: what is read after them can only be further."""
    committed, _ = await read_offsets(state)
    databases = await read_databases(state)
    log = await read_topics(state, (users.TOPIC, orders.TOPIC))
    dead = {group: await _read_letters(state, group) for group in GROUPS}
    return Snapshot(databases, log, dead, committed)


async def _read_letters(state: State, group: str) -> tuple[Logged, ...]:
    """Without the marks that a replay leaves among them."""
    records = await read_topics(state, (dead_letter_topic(group),))
    return tuple(record for record in records if REPLAYED not in record.headers)


def origin(letter: Logged) -> tuple[str, int, int]:
    """Topic, partition and offset of the record that a dead letter is about."""
    topic, partition, offset = (letter.headers[PREFIX + name].decode() for name in ("topic", "partition", "offset"))
    return topic, int(partition), int(offset)

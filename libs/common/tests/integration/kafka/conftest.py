"""A real broker, and short ways to put records in, read them back and see what a group has committed."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from shop_cluster.running import ensure_server
from shop_cluster.state import State
from shop_cluster.supervise import Supervisor
from shop_cluster.throw_away import close_state, open_state
from shop_common.events.contract import Contract
from shop_common.events.envelope import Event
from shop_common.events.users import UserUpdated
from shop_common.kafka.consumer import EventConsumer
from shop_common.kafka.delivery import Handler
from shop_common.kafka.producer import open_producer
from shop_common.kafka.settings import KafkaSettings

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@dataclass
class Kafka:
    """One test's corner of a broker."""

    bootstrap: str
    prefix: str

    @property
    def group(self) -> str:
        return f"{self.prefix}worker"

    @property
    def dead_letters(self) -> str:
        return f"{self.group}.dlq"

    def settings(self, **changes: Any) -> KafkaSettings:
        return KafkaSettings(bootstrap_servers=self.bootstrap, **{"session_timeout_ms": 6000} | changes)

    async def topic(self, name: str | None = None, *, partitions: int = 2, **configs: str) -> str:
        """Create a topic, and wait until it can be written."""
        topic = name or f"{self.prefix}events"
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(topic, partitions, 1, topic_configs=configs)])
            await until(lambda: self._has_leaders(admin, topic))
        finally:
            await admin.close()
        return topic

    @staticmethod
    async def _has_leaders(admin: Any, topic: str) -> bool:
        [described] = await admin.describe_topics([topic])
        return not described["error_code"] and all(part["leader"] >= 0 for part in described["partitions"])

    @asynccontextmanager
    async def raw_producer(self) -> AsyncIterator[Any]:
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap, max_request_size=4 * 1024 * 1024)
        await producer.start()
        try:
            yield producer
        finally:
            await producer.stop()

    async def put(
        self, topic: str, *states: Contract, traceparent: str | None = None, partition: int | None = None
    ) -> None:
        """Write events as they are, by a producer that is not the one under test."""
        async with self.raw_producer() as producer:
            for state in states:
                key, value, headers = state.to_event(traceparent).to_kafka()
                await producer.send(topic, value=value, key=key, headers=headers, partition=partition)

    async def read(self, topic: str, count: int) -> list[Any]:
        """All records of the topic, of which there must be exactly so many."""
        consumer: Any = AIOKafkaConsumer(bootstrap_servers=self.bootstrap, auto_offset_reset="earliest")
        await consumer.start()
        try:
            await consumer._client._wait_on_metadata(topic)
            partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)]
            consumer.assign(partitions)
            records: list[Any] = []
            async with asyncio.timeout(20):
                while len(records) < count:
                    records += [r for batch in (await consumer.getmany(timeout_ms=500)).values() for r in batch]
            ends = sum((await consumer.end_offsets(partitions)).values())
            assert len(records) == ends == count
            return records
        finally:
            await consumer.stop()

    @staticmethod
    def noting(seen: list[str]) -> Mapping[type[Contract], Handler]:
        """Handlers that keep the username of each user who changed."""

        async def on_user_updated(_: Event, data: UserUpdated) -> None:
            seen.append(data.username)

        return {UserUpdated: on_user_updated}

    async def committed(self, topic: str) -> dict[int, int]:
        """Partition → the offset this test's group has committed."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            offsets = await admin.list_consumer_group_offsets(self.group)
        finally:
            await admin.close()
        return {tp.partition: meta.offset for tp, meta in offsets.items() if tp.topic == topic and meta.offset >= 0}

    @asynccontextmanager
    async def consuming(
        self,
        topic: str,
        handlers: Mapping[type[Contract], Handler],
        *,
        transient: tuple[type[Exception], ...] = (),
        **changes: Any,
    ) -> AsyncIterator[EventConsumer]:
        """A consumer that runs, has its partitions, and is stopped the graceful way."""
        settings, stop = self.settings(**changes), asyncio.Event()
        async with open_producer(settings) as producer:
            consumer = EventConsumer(
                settings, group=self.group, topics=[topic], handlers=handlers, producer=producer, transient=transient
            )
            running = asyncio.create_task(consumer.run(stop))
            try:
                await until(consumer.ready, watching=running)
                yield consumer
            finally:
                stop.set()
                await asyncio.wait([running], timeout=30)
                assert running.done(), "the consumer does not stop"
                running.result()


class Broker:
    """A broker of one test's own, which it may kill; whoever supervises it starts it again."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._supervisor = Supervisor(state)
        self.bootstrap = f"127.0.0.1:{state.ports['kafka']}"

    async def start(self) -> None:
        await ensure_server(self._state, "kafka")

    def stop(self) -> None:
        """Gone, and not started again."""
        self._supervisor.stop(["kafka"])

    def signal(self, number: int) -> None:
        os.kill(self._supervisor.processes()["kafka"]["pid"], number)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    folder = tmp_path / "broker"
    yield Broker(open_state(folder, os.getpid()))
    close_state(folder)


async def until(
    condition: Callable[[], Any], *, seconds: float = 40, watching: "asyncio.Task[None] | None" = None
) -> None:
    """Wait until the condition is not false and does not raise."""
    last: BaseException | None = None
    deadline = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < deadline:
        if watching is not None and watching.done():
            watching.result()
        try:
            found = condition()
            if isinstance(found, Awaitable):
                found = await found
            if found is not False:
                return
        except Exception as error:  # noqa: BLE001 - a condition that raises does not hold yet
            last = error
        await asyncio.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {condition}") from last


@pytest.fixture
def kafka(kafka_bootstrap: str, topic_prefix: str) -> Kafka:
    return Kafka(kafka_bootstrap, topic_prefix)


@pytest.fixture
def wait_until() -> Callable[..., Awaitable[None]]:
    return until


@pytest.fixture
def user_event() -> Callable[..., UserUpdated]:
    """Makes the event of one version of one user; the username can carry what the test wants to tell."""

    def create(user: UUID | None = None, version: int = 1, note: str = "ann") -> UserUpdated:
        return UserUpdated(
            id=user or uuid4(),
            version=version,
            created_at=NOW,
            updated_at=NOW,
            email="ann@example.com",
            username=note,
            full_name=None,
            role="customer",
            is_active=True,
        )

    return create

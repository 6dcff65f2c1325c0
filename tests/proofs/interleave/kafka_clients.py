"""What stands where aiokafka's clients stand, and does what those do at their worst.

An idempotent producer that is wedged for good, a consumer that falls silent, records of the last assignment handed out
until the next one begins, commits of one that is no member any more.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any, Final
from unittest.mock import patch

from aiokafka import TopicPartition
from aiokafka.errors import IllegalStateError, KafkaConnectionError

from interleave.kafka_model import NO_EPOCH, REBALANCE_SECONDS, Cluster, Epoch, Partitions, Record
from interleave.loop import current_process
from shop_common.events.envelope import Headers
from shop_common.kafka import consumer as consumer_module
from shop_common.kafka import producer as producer_module

_numbers: Final = count(1)


class FakeProducer:
    """Stands for AIOKafkaProducer."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._wedged = False
        self._unacked: list[asyncio.Future[None]] = []
        self.client = self

    async def start(self) -> None:
        await self._cluster.simulation.ask(lambda: None, KafkaConnectionError)

    async def fetch_all_metadata(self) -> None: ...

    async def flush(self) -> None: ...

    async def send_and_wait(self, topic: str, *, value: bytes, key: bytes, headers: Headers) -> None:
        simulation = self._cluster.simulation
        if simulation.has_faults and simulation.chance(0.02):
            self._wedged = True  # aio-libs/aiokafka#1017
        acked: asyncio.Future[None] = simulation.loop.create_future()
        self._unacked.append(acked)
        if self._wedged:
            await acked
        await simulation.ask(lambda: self._cluster.append(topic, key, value, headers), KafkaConnectionError, "send")
        self._unacked.remove(acked)

    async def discard(self) -> None:
        for acked in self._unacked:
            if not acked.done():
                acked.set_exception(KafkaConnectionError("thrown away"))
                acked.exception()


class FakeConsumer:
    """Stands for AIOKafkaConsumer with a subscription, which is aiokafka's eager protocol: revoke all, join, assign."""

    def __init__(self, cluster: Cluster, group: str) -> None:
        self._cluster = cluster
        self._simulation = cluster.simulation
        self._group_name = group
        self._listener: Any = None
        self._coordinating: asyncio.Task[None] | None = None
        self._rejoin = asyncio.Event()
        self._assignment: dict[TopicPartition, int | None] = {}
        """The positions of the newest assignment, None while they are asked for."""
        self._asked: dict[TopicPartition, int] = {}
        """What was asked to be committed of this assignment; a request that comes late may undo that on the broker."""
        self._paused: set[TopicPartition] = set()
        self._reassigning = False
        self._silent = False
        self._process = current_process()
        self._stopped = False
        self._number = next(_numbers)
        self.epoch = NO_EPOCH
        """What it knows of; `granted` is the generation that the group last told it."""
        self.granted = 0
        self.newest_commit = 0
        self.owned: frozenset[TopicPartition] = frozenset()
        """What may be worked on: from the assignment's callback to the end of the revocation's."""
        self.on_revoked: Callable[[frozenset[TopicPartition]], None] = lambda _: None

    # What the platform calls.

    async def start(self) -> None:
        await self._ask(lambda: None)

    def subscribe(self, *, topics: list[str], listener: Any) -> None:
        self._listener = listener
        self._group = self._cluster.group(self._group_name, topics)
        self._coordinating = asyncio.create_task(self._coordinate())

    async def getmany(self, *, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[Record]]:
        if self._simulation.has_faults and self._simulation.chance(0.002):
            self._silent = True  # aio-libs/aiokafka#712
        if self._silent:
            await asyncio.sleep(timeout_ms / 1000)
            return {}
        # A wait that began before a revocation ends with what had been fetched of the old assignment.
        assignment = self._assignment
        if self._reassigning:
            await asyncio.sleep(timeout_ms / 1000)
            return {}
        await asyncio.sleep(self._simulation.random.choice((0, 0, 0.01)))
        if not (batches := self._drain(assignment, max_records)):
            await asyncio.sleep(timeout_ms / 1000)
            batches = self._drain(assignment, max_records)
        return batches

    def _drain(self, assignment: dict[TopicPartition, int | None], most: int) -> dict[TopicPartition, list[Record]]:
        batches = {}
        if assignment is not self._assignment:
            return {}
        for partition, position in assignment.items():
            if position is not None and partition not in self._paused:
                count = self._simulation.random.randint(1, min(most, 4))
                if records := self._cluster.log(partition)[position : position + count]:
                    batches[partition] = records
                    assignment[partition] = position + len(records)
        return batches

    async def commit(self, offsets: dict[TopicPartition, Any]) -> None:
        for partition in offsets:
            if partition not in self._assignment:
                raise IllegalStateError(f"{partition} is not assigned")
        epoch, number = self.epoch, next(_numbers)
        for partition, offset in offsets.items():
            before = self._asked.get(partition, 0)
            where = f"{partition.partition}@{offset.offset} after {before}"
            self._simulation.check(offset.offset >= before, "commits of an assignment never go back", where)
            self._asked[partition] = offset.offset
        await self._ask(lambda: self._group.commit(self, number, epoch, offsets))

    def assignment(self) -> frozenset[TopicPartition]:
        return Partitions(self._assignment)

    def highwater(self, partition: TopicPartition) -> int:
        return len(self._cluster.log(partition))

    async def end_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        ends: dict[TopicPartition, int] = await self._ask(lambda: {tp: len(self._cluster.log(tp)) for tp in partitions})
        return ends

    async def position(self, partition: TopicPartition) -> int:
        while True:
            if partition not in self._assignment:
                raise IllegalStateError(f"{partition} is not assigned")
            if (position := self._assignment[partition]) is not None:
                return position
            await asyncio.sleep(0.01)

    def pause(self, partition: TopicPartition) -> None:
        self._known(partition)
        self._paused.add(partition)

    def resume(self, partition: TopicPartition) -> None:
        self._known(partition)
        self._paused.discard(partition)

    def _known(self, partition: TopicPartition) -> None:
        if partition not in self._assignment:
            raise IllegalStateError(f"{partition} is not assigned")

    async def stop(self) -> None:
        self._stopped = True
        if self._coordinating is not None:
            self._coordinating.cancel()
            with suppress(asyncio.CancelledError):
                await self._coordinating
            self.expire_after(0)

    # What the group and the scenario call.

    @property
    def is_gone(self) -> bool:
        return self._stopped or self._process.dead

    def hear_of_rebalance(self) -> None:
        self._rejoin.set()

    def hear_of_loss(self) -> None:
        self.epoch = NO_EPOCH
        self._rejoin.set()

    @property
    def _coordinator(self) -> Epoch:
        """What the platform reads of aiokafka's coordinator: `generation` and `member_id`."""
        return self.epoch

    def expire_after(self, seconds: float) -> None:
        """The group does without this member from then on; the member hears of it later."""
        if self._listener is not None:
            self._simulation.loop.outside(seconds, self._group.remove, self)

    async def _coordinate(self) -> None:
        revoked: frozenset[TopicPartition] = frozenset()
        while True:
            self._rejoin.clear()
            self._reassigning = True
            await self._listener.on_partitions_revoked(set(revoked))
            self.on_revoked(self.owned)
            self.owned = frozenset()
            try:
                joining = await self._ask(lambda: self._group.join(self))
                async with asyncio.timeout(REBALANCE_SECONDS + 10):
                    generation, assigned = await joining
            except (OSError, KafkaConnectionError, TimeoutError):
                await asyncio.sleep(0.25)
                continue
            self.epoch = Epoch(generation, f"member {self._number}")
            self._assignment = dict.fromkeys(assigned)
            self._asked.clear()
            self._paused.clear()
            self._reassigning = False
            # Nothing is awaited before the callback that lets the positions be known: they are asked of the broker.
            fetching = asyncio.create_task(self._fetch_positions(self._assignment))
            self.owned = revoked = assigned
            await self._listener.on_partitions_assigned(assigned)
            try:
                await self._rejoin.wait()
            finally:
                fetching.cancel()
                await asyncio.wait([fetching])

    async def _fetch_positions(self, assignment: dict[TopicPartition, int | None]) -> None:
        while True:
            try:
                committed = await self._ask(lambda: dict(self._group.committed))
            except KafkaConnectionError:
                await asyncio.sleep(0.25)
                continue
            for partition in assignment:
                assignment[partition] = self._asked[partition] = committed.get(partition, 0)
            return

    async def _ask(self, effect: Callable[[], Any]) -> Any:
        """Like aiokafka's own requests, with a deadline of its own."""
        try:
            async with asyncio.timeout(10):
                return await self._simulation.ask(effect, KafkaConnectionError)
        except TimeoutError:
            raise KafkaConnectionError("no answer") from None


@contextmanager
def kafka_clients(cluster: Cluster, made: Callable[[FakeConsumer], None] = lambda _: None) -> Iterator[None]:
    """The platform's producers and consumers talk to this cluster."""

    def create_consumer(**settings: Any) -> FakeConsumer:
        client = FakeConsumer(cluster, settings["group_id"])
        made(client)
        return client

    async def discard_producer(producer: FakeProducer) -> None:
        await producer.discard()

    async def discard_consumer(client: FakeConsumer, *_: Any) -> None:
        await client.stop()

    def of(module: Any, name: str, value: Callable[..., Awaitable[None] | Any]) -> Any:
        return patch.object(module, name, value)

    with (
        of(producer_module, "AIOKafkaProducer", lambda **_: FakeProducer(cluster)),
        of(producer_module, "discard_producer", discard_producer),
        of(consumer_module, "AIOKafkaConsumer", create_consumer),
        of(consumer_module, "discard_consumer", discard_consumer),
    ):
        yield

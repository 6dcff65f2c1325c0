"""A model of Kafka as far as its clients can tell: a log that keeps what arrives, and groups with generations."""

import asyncio
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError

from interleave.simulation import Simulation
from shop_common.events.envelope import Headers

if TYPE_CHECKING:
    from interleave.kafka_clients import FakeConsumer

SESSION_SECONDS: Final = 10.0
REBALANCE_SECONDS: Final = 30.0
_HEARTBEAT_SECONDS: Final = 3.0


@dataclass(frozen=True, slots=True)
class Record:
    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class Partitions(frozenset[TopicPartition]):
    """In one order whatever PYTHONHASHSEED says."""

    def __iter__(self) -> Iterator[TopicPartition]:
        return iter(sorted(frozenset.__iter__(self)))


class Cluster:
    """The brokers: everything here happens at once, in the environment."""

    def __init__(self, simulation: Simulation, partitions: int = 2) -> None:
        self.simulation = simulation
        self.partitions = partitions
        self.logs: dict[TopicPartition, list[Record]] = {}
        self.groups: dict[str, Group] = {}
        self.on_append: Callable[[Record], None] = lambda _: None

    def append(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers) -> Record:
        partition = TopicPartition(topic, zlib.crc32(key or b"") % self.partitions)
        log = self.logs.setdefault(partition, [])
        record = Record(topic, partition.partition, len(log), key, value, headers)
        log.append(record)
        self.on_append(record)
        return record

    def log(self, partition: TopicPartition) -> list[Record]:
        return self.logs.get(partition, [])

    def records(self, topic: str) -> list[Record]:
        return [
            record for partition in sorted(self.logs) if partition.topic == topic for record in self.logs[partition]
        ]

    def group(self, name: str, topics: Iterable[str]) -> "Group":
        if name not in self.groups:
            tps = [TopicPartition(topic, number) for topic in topics for number in range(self.partitions)]
            self.groups[name] = Group(self.simulation, tps)
        return self.groups[name]


@dataclass(frozen=True, slots=True)
class Epoch:
    """As what a consumer speaks to its group; aiokafka forgets it when it hears that the group has replaced it."""

    generation: int
    member_id: str


NO_EPOCH = Epoch(-1, "")


class Group:
    """The coordinator: who owns what since which generation, and what was committed."""

    def __init__(self, simulation: Simulation, partitions: list[TopicPartition]) -> None:
        self._simulation = simulation
        self.partitions = partitions
        self.committed: dict[TopicPartition, int] = {}
        self.generation = 0
        self._members: list[FakeConsumer] = []
        self._joined: dict[FakeConsumer, asyncio.Future[tuple[int, Partitions]]] = {}
        self._round = 0
        self.on_commit: Callable[[TopicPartition, int], None] = lambda _tp, _offset: None

    def join(self, member: "FakeConsumer") -> "asyncio.Future[tuple[int, Partitions]]":
        if member not in self._members:
            self._members.append(member)
        if member.is_gone:  # its request was under way for long
            self._simulation.loop.outside(SESSION_SECONDS, self.remove, member)
        waiting = self._joined[member] = self._simulation.loop.create_future()
        if len(self._joined) == 1:
            self._round += 1
            self._simulation.loop.outside(REBALANCE_SECONDS, self._end_round, self._round)
            for other in self._members:
                if other is not member:
                    self._simulation.loop.outside(
                        self._simulation.random.uniform(0, _HEARTBEAT_SECONDS), other.hear_of_rebalance
                    )
        self._complete()
        return waiting

    def remove(self, member: "FakeConsumer") -> None:
        """It left, or was not heard of for a session."""
        if member not in self._members:
            return
        self._members.remove(member)
        self._joined.pop(member, None)
        self._simulation.loop.outside(self._simulation.random.uniform(0, _HEARTBEAT_SECONDS), member.hear_of_loss)
        for other in self._members:
            self._simulation.loop.outside(
                self._simulation.random.uniform(0, _HEARTBEAT_SECONDS), other.hear_of_rebalance
            )
        self._complete()

    def _end_round(self, number: int) -> None:
        if number == self._round and self._joined:
            self._members = [member for member in self._members if member in self._joined]
            self._complete()

    def _complete(self) -> None:
        if not self._joined or len(self._joined) < len(self._members):
            return
        self.generation += 1
        self._round += 1
        joined, self._joined = self._joined, {}
        for index, (member, waiting) in enumerate(joined.items()):
            share = Partitions(self.partitions[index :: len(joined)])
            if not waiting.done():
                waiting.set_result((self.generation, share))
            member.granted = self.generation
            self._simulation.loop.outside(_HEARTBEAT_SECONDS, self._heartbeat, member)

    def _heartbeat(self, member: "FakeConsumer") -> None:
        """One that does not know of its newest generation, since the answer was lost."""
        if member.epoch.generation != member.granted and member in self._members:
            member.hear_of_rebalance()

    def commit(self, member: "FakeConsumer", number: int, epoch: "Epoch", offsets: dict[TopicPartition, Any]) -> None:
        """Of a member in its generation, or of nobody in an empty group: that is how the broker has it."""
        if number < member.newest_commit:
            return  # it lay in a connection that is closed: requests of one client do not overtake each other
        member.newest_commit = number
        is_current = member in self._members and epoch.generation == member.granted == self.generation
        if not is_current and (self._members or epoch != NO_EPOCH):
            self._simulation.loop.outside(0, member.hear_of_loss)
            raise CommitFailedError
        for partition, offset in offsets.items():
            before = self.committed.get(partition, 0)
            self._simulation.check(
                offset.offset >= before,
                "nobody commits over a later owner",
                f"{partition.partition}@{offset.offset} after {before}",
            )
            self.on_commit(partition, offset.offset)
            self.committed[partition] = offset.offset

"""Members of one group come, stall, die and go, while every event has to have its effect exactly once."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from aiokafka import TopicPartition

from interleave.kafka_clients import FakeConsumer, kafka_clients
from interleave.kafka_model import SESSION_SECONDS, Cluster, Record
from interleave.loop import Process, current_process
from interleave.simulation import Simulation
from shop_common.events.envelope import Event
from shop_common.events.users import UserDeactivated, UserUpdated
from shop_common.kafka.consumer import ConsumerStuck, EventConsumer
from shop_common.kafka.delivery import Poison
from shop_common.kafka.producer import EventProducer
from shop_common.kafka.settings import KafkaSettings

GROUP = "readers"
TOPIC = UserUpdated.TOPIC
SETTINGS = KafkaSettings(bootstrap_servers="127.0.0.1:9", stuck_seconds=20, drain_seconds=2, handler_timeout_seconds=5)
_TIME = datetime(2026, 1, 1, tzinfo=UTC)
_USERS = [UUID(int=number) for number in range(1, 5)]


def _event(user: UUID, version: int, contract: type[UserUpdated | UserDeactivated] = UserUpdated) -> Event:
    state = contract(
        id=user,
        version=version,
        created_at=_TIME,
        updated_at=_TIME,
        email="ann@example.com",
        username="ann",
        full_name=None,
        role="customer",
        is_active=True,
    )
    return state.to_event()


_EVENTS = {(user, version): _event(user, version).to_kafka() for user in _USERS for version in range(1, 5)}
_IGNORED = {user: _event(user, 5, UserDeactivated).to_kafka() for user in _USERS}
_POISONED = 2
"""The version that a poisoned key's handler never takes."""
_GARBAGE = (b"nobody", b"{", [("ce_id", b"no")])


class Effects:
    """The database of the consuming service: an inbox and what each event did, in one transaction."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._of_key: dict[str, list[int]] = {}
        self.done: set[str] = set()

    def apply(self, event: Event) -> None:
        if self._is_new(event):
            self._count(event)

    def _is_new(self, event: Event) -> bool:
        """The inbox row, which a second one of the same id cannot join."""
        is_new = str(event.id) not in self.done
        self.done.add(str(event.id))
        return is_new

    def _count(self, event: Event) -> None:
        applied = self._of_key.setdefault(event.key, [])
        applied.append(event.sequence)
        detail = f"{event.key[-4:]}: {applied}"
        self._simulation.check(len(set(applied)) == len(applied), "an event has its effect once", detail)
        self._simulation.check(applied == sorted(applied), "effects are in order of the key", detail)


def play(simulation: Simulation) -> None:
    _play(_Run(simulation), simulation.random.choice((1, 2, 2)))


def play_takeover(simulation: Simulation) -> None:
    """One stands still until the other has its partitions, and goes on when that one has just left."""
    run = _Run(simulation)
    run.replace_one_that_comes_back()
    _play(run, 2)


def _play(run: "_Run", members: int) -> None:
    run.produce()
    for number in range(members):
        run.simulation.supervise(f"member {number}", run.member)
    run.simulation.calm_after(run.simulation.random.uniform(5, 40))
    with kafka_clients(run.cluster, run.made):
        run.simulation.run(run.is_quiet, 900)


class _Run:
    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self._effects = Effects(simulation)
        self._clients: dict[Process, FakeConsumer] = {}
        self._running: dict[Process, dict[str, TopicPartition]] = {}
        """The keys being handled."""
        self._unrest = 0.3
        """How likely an incarnation ends by itself, or is given up by the group."""
        self._pauses: tuple[float, ...] = (0, 0, 0, 0.02, 3)
        self._stops: dict[str, asyncio.Event] = {}
        self._records: dict[str, Record] = {}
        self._letters: set[tuple[int, int]] = set()
        self._to_come = 0
        self._poison = {str(_USERS[0])} if simulation.chance(0.2) else set()
        self.cluster = Cluster(simulation)
        self.cluster.on_append = self._appended
        self._group = self.cluster.group(GROUP, [TOPIC])
        self._group.on_commit = self._committed

    def produce(self) -> None:
        random = self.simulation.random
        users = _USERS[: random.randint(1, 4)]
        records = [_EVENTS[user, version] for version in range(1, random.randint(3, 5)) for user in users]
        if self.simulation.chance(0.3):  # a duplicate, as a relay makes them
            first = random.randrange(len(records))
            records.insert(random.randint(first + 1, len(records)), records[first])
        if self.simulation.chance(0.3):
            records.insert(random.randint(0, len(records)), random.choice((_IGNORED[users[0]], _GARBAGE)))
        self._to_come = len(records)
        self._append(records, 0)

    def _append(self, records: list[Any], index: int) -> None:
        self._to_come -= 1
        self.cluster.append(TOPIC, *records[index])
        if index + 1 < len(records):
            pause = self.simulation.random.choice(self._pauses)
            self.simulation.loop.outside(pause, self._append, records, index + 1)

    def _appended(self, record: Record) -> None:
        headers = dict(record.headers)
        if record.topic == TOPIC:
            self._records.setdefault(headers["ce_id"].decode(), record)
        else:
            self._letters.add((int(headers["dlq_partition"]), int(headers["dlq_offset"])))

    def replace_one_that_comes_back(self) -> None:
        self._unrest = self.simulation.crash_rate = 0.0
        self._pauses = (0, 2, 4)  # there is something to do for both
        began, frozen = self.simulation.random.uniform(2, 8), self.simulation.random.uniform(12, 25)
        left = began + frozen - self.simulation.random.uniform(0, 2)
        self.simulation.loop.outside(began, self.simulation.freeze, "member 0", frozen)
        self.simulation.loop.outside(left, self._stop, "member 1")

    def _stop(self, name: str) -> None:
        if name in self._stops:
            self._stops[name].set()

    def made(self, client: FakeConsumer) -> None:
        process = current_process()
        self._clients[process] = client

        def revoked(owned: frozenset[TopicPartition]) -> None:
            left = [key[-4:] for key, partition in self._running[process].items() if partition in owned]
            self.simulation.check(not left, "nothing runs on after a revocation", f"{process.name}: {left}")

        client.on_revoked = revoked

    async def member(self, process: Process) -> None:
        simulation, running = self.simulation, self._running.setdefault(process, {})
        producer, stop = EventProducer(SETTINGS), asyncio.Event()
        self._stops[process.name] = stop
        producer.connect()

        async def handle(event: Event, _: UserUpdated) -> None:
            record = self._records[str(event.id)]
            partition = TopicPartition(record.topic, record.partition)
            simulation.check(
                partition in self._clients[process].owned,
                "nothing is begun after a revocation",
                f"{process.name}: {record.partition}@{record.offset}",
            )
            simulation.check(event.key not in running, "one event of a key at a time", event.key[-4:])
            running[event.key] = partition
            try:
                if event.key in self._poison and event.sequence == _POISONED:
                    raise Poison("never")
                await simulation.ask(lambda: self._effects.apply(event))
            finally:
                running.pop(event.key, None)

        def expire() -> None:
            if process in self._clients:
                self._clients[process].expire_after(SESSION_SECONDS)

        process.on_death.append(expire)
        process.on_freeze.append(expire)
        if not simulation.calm and simulation.chance(self._unrest):
            asyncio.get_running_loop().call_later(simulation.random.uniform(0, 20), stop.set)
        if simulation.has_faults and simulation.chance(self._unrest):  # not heard of, and does not know it
            asyncio.get_running_loop().call_later(simulation.random.uniform(0, 20), expire)
        consumer = EventConsumer(
            SETTINGS, group=GROUP, topics=[TOPIC], handlers={UserUpdated: handle}, producer=producer
        )
        try:
            with suppress(ConsumerStuck):
                await consumer.run(stop)
        finally:
            await producer.close()

    def _is_done(self, record: Record) -> bool:
        headers = dict(record.headers)
        return (
            headers["ce_id"].decode() in self._effects.done
            or (record.partition, record.offset) in self._letters
            or headers.get("ce_type") == UserDeactivated.TYPE.encode()
        )

    def _committed(self, partition: TopicPartition, offset: int) -> None:
        before = self._group.committed.get(partition, 0)
        done = all(map(self._is_done, self.cluster.log(partition)[:offset]))
        self.simulation.check(done, "only what is done is committed", f"{partition.partition}@{offset} after {before}")

    def is_quiet(self) -> bool:
        ends = {tp: len(self.cluster.log(tp)) for tp in self._group.partitions}
        if self._to_come or any(self._group.committed.get(tp, 0) < end for tp, end in ends.items()):
            return False
        done = all(map(self._is_done, self.cluster.records(TOPIC)))
        self.simulation.check(done, "every event has its effect", "committed, and not done")
        return True

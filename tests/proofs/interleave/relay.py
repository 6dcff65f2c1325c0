"""Two relays that share one outbox without any claim, through the platform's own producer, into one log."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from interleave.kafka_clients import kafka_clients
from interleave.kafka_model import Cluster, Record
from interleave.loop import Process
from interleave.simulation import Simulation
from shop_common.events.envelope import Event, event_id
from shop_common.kafka.producer import EventProducer
from shop_common.kafka.settings import KafkaSettings
from shop_common.outbox import OutboxRecord, OutboxRelay

TOPIC = "things.events.v1"
SETTINGS = KafkaSettings(bootstrap_servers="127.0.0.1:9")
_TIME = datetime(2026, 1, 1, tzinfo=UTC)
AGGREGATES = [str(UUID(int=number)) for number in range(1, 4)]


def _event(aggregate: str, version: int) -> Event:
    return Event(
        id=event_id(aggregate, version),
        type="things.thing_changed.v1",
        source="things",
        subject=aggregate,
        sequence=version,
        time=_TIME,
        key=aggregate,
        data=b"{}",
    )


EVENTS = {(aggregate, version): _event(aggregate, version) for aggregate in AGGREGATES for version in range(1, 10)}


class PublishedLog:
    """Watches what is appended."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self.versions: dict[str, list[int]] = {}
        """First occurrences, by aggregate."""

    def note(self, record: Record) -> None:
        headers = dict(record.headers)
        subject, version = headers["ce_subject"].decode(), int(headers["ce_sequence"])
        seen = self.versions.setdefault(subject, [])
        if version not in seen:
            seen.append(version)
            self._simulation.check(
                seen == sorted(seen) and version == len(seen),
                "first occurrences are in version order",
                f"{subject[-4:]}: {seen}",
            )


class ModelOutbox:
    """Rows that survive; a read sees what is committed at that moment."""

    def __init__(self, simulation: Simulation, log: PublishedLog) -> None:
        self._simulation = simulation
        self._log = log
        self.rows: list[OutboxRecord] = []
        self.written = 0

    def write(self, event: Event) -> None:
        self.written += 1
        self.rows.append(OutboxRecord(self.written, TOPIC, event))

    async def pending(self, limit: int) -> Sequence[OutboxRecord]:
        return await self._simulation.ask(lambda: self.rows[:limit], kind="read")

    async def mark_sent(self, records: Sequence[OutboxRecord]) -> None:
        sent = {record.position for record in records}
        await self._simulation.ask(lambda: self._delete(sent), kind="mark")

    def _delete(self, positions: set[int]) -> None:
        for row in self.rows:
            if row.position in positions:
                self._simulation.check(
                    row.event.sequence in self._log.versions.get(row.event.subject, ()),
                    "only what is in the log is marked",
                    f"{row.event.subject[-4:]}: {row.event.sequence}",
                )
        self.rows = [row for row in self.rows if row.position not in positions]


class Relays:
    """An outbox that is written to, the relays that share it, and the log they send to."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._log = PublishedLog(simulation)
        self._cluster = Cluster(simulation)
        self._cluster.on_append = self._log.note
        self._outbox = ModelOutbox(simulation, self._log)
        self._relays: dict[str, OutboxRelay] = {}

    def start(self, number: int) -> None:
        self._simulation.supervise(f"relay {number}", self._main)

    async def _main(self, process: Process) -> None:
        producer, stop = EventProducer(SETTINGS), asyncio.Event()
        producer.connect()
        relay = self._relays[process.name] = OutboxRelay(self._outbox, producer)
        if not self._simulation.calm and self._simulation.chance(0.3):
            asyncio.get_running_loop().call_later(self._simulation.random.uniform(0, 10), stop.set)
        try:
            await relay.run(stop)
        finally:
            await producer.close()

    def write(self, aggregate: str, version: int) -> None:
        self._outbox.write(EVENTS[aggregate, version])
        for relay in self._relays.values():
            relay.nudge()

    def run(self, seconds: float) -> None:
        with kafka_clients(self._cluster):
            self._simulation.loop.run(lambda: self._simulation.violation is not None, 3000, seconds)

    def run_until_quiet(self, written: int) -> None:
        def is_quiet() -> bool:
            return self._outbox.written == written and not self._outbox.rows

        with kafka_clients(self._cluster):
            self._simulation.run(is_quiet, 300)
        published = sum(len(versions) for versions in self._log.versions.values())
        self._simulation.check(published == written, "everything is published", f"{published} of {written}")


def play(simulation: Simulation) -> None:
    relays, random = Relays(simulation), simulation.random
    aggregates, versions = AGGREGATES[: random.randint(1, 3)], random.randint(2, 3)

    def write(aggregate: str, version: int) -> None:
        relays.write(aggregate, version)
        if version < versions:
            simulation.loop.outside(random.choice((0, 0, 0.3, 3)), write, aggregate, version + 1)

    for aggregate in aggregates:
        simulation.loop.outside(random.choice((0, 0, 0.5)), write, aggregate, 1)
    for number in range(random.choice((1, 2, 2))):
        relays.start(number)
    simulation.calm_after(random.uniform(3, 15))
    relays.run_until_quiet(len(aggregates) * versions)

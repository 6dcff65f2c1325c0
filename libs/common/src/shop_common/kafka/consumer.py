"""Consuming events as a member of a group: per-key order, contiguous commits, and nothing lost at a rebalance."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, OffsetAndMetadata, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError
from prometheus_client import Counter, Gauge

from shop_common.events.contract import Contract
from shop_common.kafka.backoff import full_jitter, happens_within
from shop_common.kafka.delivery import Delivery, Handler
from shop_common.kafka.discard import LEAVE_SECONDS, discard_consumer
from shop_common.kafka.jobs import until_first
from shop_common.kafka.mailboxes import Mailboxes
from shop_common.kafka.producer import EventProducer
from shop_common.kafka.settings import KafkaSettings
from shop_common.metrics import from_zero

log = logging.getLogger(__name__)

LAG = Gauge("shop_consumer_lag", "Records not done", ["group", "topic", "partition"], multiprocess_mode="livemax")
REBUILDS = Counter("shop_consumer_rebuilds_total", "Consumers thrown away", ["group", "reason"])

_POLL_MS: Final = 500
_POLL_RECORDS: Final = 500
_COMMIT_EVERY_SECONDS: Final = 1.0
_COMMIT_SECONDS: Final = 5.0
_REBALANCE_MS: Final = 30_000
_GROUP_REQUEST_MS: Final = 40_000  # a member's request to join is answered when the rebalance ends
_START_SECONDS: Final = 45.0  # later than aiokafka's own deadlines, since it leaks a socket where it is cancelled
_METADATA_MS: Final = 30_000
_RETRY_MS: Final = 250
_BACKOFF_SECONDS: Final = (0.5, 15.0)


class ConsumerStuck(RuntimeError):
    """A rebuilt consumer made no progress either: let the process end and be started again."""


class _Stuck(Exception):
    """Lag, and no progress."""


class EventConsumer:
    """Gives the events of `topics` to `handlers`, each event at least once, in order per key.

    An event whose type has no handler is acknowledged and counted. What a handler may raise: see `delivery`.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        group: str,
        topics: Sequence[str],
        handlers: Mapping[type[Contract], Handler],
        producer: EventProducer,
        transient: tuple[type[Exception], ...] = (),
    ) -> None:
        self._settings = settings
        self._group = group
        self._topics = list(topics)
        self._delivery = Delivery(
            group,
            handlers,
            producer,
            transient=transient,
            at_once=settings.handlers_at_once,
            handler_seconds=settings.handler_timeout_seconds,
        )
        self._membership: _Membership | None = None
        from_zero(REBUILDS, group, "Stuck")

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until `stop` is set, then drain, commit and leave; cancelled, the same without draining.

        Outlives brokers that come and go. Raises ConsumerStuck, or what a bug raised.
        """
        failures = strikes = 0
        while not stop.is_set():
            membership = self._membership = _Membership(self._settings, self._group, self._topics, self._delivery)
            reason: BaseException
            try:
                await membership.run(stop)
            except (_Stuck, KafkaError, OSError) as error:
                reason = error
            else:
                return
            failures, strikes = (0, 0) if membership.progressed else (failures + 1, strikes)
            strikes += isinstance(reason, _Stuck)
            if strikes > 1:
                raise ConsumerStuck(f"group {self._group} has lag and makes no progress") from reason
            REBUILDS.labels(self._group, type(reason).__name__.strip("_")).inc()
            log.warning("Kafka consumer is replaced", extra={"group": self._group, "reason": type(reason).__name__})
            await happens_within(stop, full_jitter(failures, *_BACKOFF_SECONDS))

    async def ready(self) -> None:
        """Raises where the group has not given this member its partitions yet; for `/readyz`."""
        if self._membership is None or not self._membership.assigned:
            raise ConnectionError(f"not a member of group {self._group}")


class _Membership(ConsumerRebalanceListener):  # type: ignore[misc] # aiokafka ships no types
    """One aiokafka consumer, from joining the group to leaving it."""

    def __init__(self, settings: KafkaSettings, group: str, topics: list[str], delivery: Delivery) -> None:
        self._settings = settings
        self._group = group
        self._topics = topics
        self._delivery = delivery
        self._boxes: dict[TopicPartition, Mailboxes] = {}
        self._epoch: tuple[int, str] | None = None
        self._committing = asyncio.Lock()  # between commits only: getmany never waits for it
        self._bug: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._rebalancing_since = time.monotonic()
        self.assigned = False
        self.progressed = False
        self._consumer: Any = AIOKafkaConsumer(
            bootstrap_servers=settings.bootstrap_servers,
            client_id=settings.client_id,
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            request_timeout_ms=_GROUP_REQUEST_MS,
            session_timeout_ms=settings.session_timeout_ms,
            heartbeat_interval_ms=min(3000, settings.session_timeout_ms // 3),
            rebalance_timeout_ms=_REBALANCE_MS,
            metadata_max_age_ms=_METADATA_MS,
            retry_backoff_ms=_RETRY_MS,
        )

    async def run(self, stop: asyncio.Event) -> None:
        drain_seconds = 0.0
        try:
            await until_first(stop.wait(), self._fetch(), self._commit_often(), self._watch(), self._bugs())
            drain_seconds = self._settings.drain_seconds
        finally:
            answers = await self._give_up(drain_seconds)
            await discard_consumer(self._consumer, LEAVE_SECONDS if answers else 0)

    async def _bugs(self) -> None:
        await self._bug

    async def _fetch(self) -> None:
        async with asyncio.timeout(_START_SECONDS):
            await self._consumer.start()
        # Only now: a start with a subscription waits for the assignment, for ever if need be.
        self._consumer.subscribe(topics=self._topics, listener=self)
        while True:
            batches = await self._consumer.getmany(timeout_ms=_POLL_MS, max_records=_POLL_RECORDS)
            for partition, records in batches.items():
                # Until the next assignment aiokafka goes on returning what it had fetched of the last one. Whoever gets
                # the partition reads that again; of a new assignment nothing can come before its callback, since its
                # positions are asked of the broker first.
                if box := self._boxes.get(partition):
                    for record in records:
                        box.post(record)
            await asyncio.sleep(0)  # what is fetched already is returned without a pause

    def _create_mailboxes(self, partition: TopicPartition) -> Mailboxes:
        def set_paused(paused: bool) -> None:  # noqa: FBT001 - the state itself
            with suppress(IllegalStateError):  # the partition has just been taken away
                (self._consumer.pause if paused else self._consumer.resume)(partition)

        def failed(error: BaseException) -> None:
            log.error("a delivery ended with a bug", exc_info=error)
            if not self._bug.done():
                self._bug.set_exception(error)

        return Mailboxes(self._delivery.deliver, set_paused, failed)

    async def _commit_often(self) -> None:
        while True:
            await asyncio.sleep(_COMMIT_EVERY_SECONDS)
            await self._commit()
            for partition, box in self._boxes.items():
                high = self._consumer.highwater(partition) if partition in self._consumer.assignment() else None
                if high is not None and box.tracker.position is not None:
                    LAG.labels(self._group, partition.topic, partition.partition).set(high - box.tracker.position)

    async def _commit(self) -> bool:
        """Whether there was nothing to commit, or the broker has it."""
        async with self._committing:
            boxes = {tp: (box, box.tracker.to_commit()) for tp, box in self._boxes.items()}
            offsets = {tp: OffsetAndMetadata(offset, "") for tp, (_, offset) in boxes.items() if offset is not None}
            if not offsets:
                return True
            if self._epoch != self._current_epoch():
                # The group has given the partitions away already. aiokafka would commit all the same, as one that is no
                # member, and the broker takes that while the group is empty: over what a later owner has committed.
                log.warning("offsets not committed: this member was replaced", extra={"group": self._group})
                return False
            try:
                async with asyncio.timeout(_COMMIT_SECONDS):
                    await self._consumer.commit(offsets)
            except (KafkaError, OSError) as error:
                log.warning("offsets not committed", extra={"group": self._group, "error": type(error).__name__})
                return False
            self.progressed = True
            for box, offset in boxes.values():
                if offset is not None:
                    box.tracker.committed(offset)
            return True

    def _current_epoch(self) -> tuple[int, str]:
        coordinator = self._consumer._coordinator  # noqa: SLF001 - aiokafka tells its generation nowhere else
        return coordinator.generation, coordinator.member_id

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Runs in aiokafka's own task, which keeps the membership alive meanwhile."""
        self.assigned = False
        self._rebalancing_since = time.monotonic()
        if revoked:
            is_lost = self._epoch != self._current_epoch()  # and not asked for: others have begun with them
            await self._give_up(0 if is_lost else self._settings.drain_seconds)

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self.assigned = True
        self._epoch = self._current_epoch()
        self._boxes.update((partition, self._create_mailboxes(partition)) for partition in assigned)
        log.info("partitions assigned", extra={"group": self._group, "partitions": len(assigned)})

    async def _give_up(self, drain_seconds: float) -> bool:
        """End what runs, commit what is done, and forget: nothing commits for this assignment afterwards.

        False where the commit was refused or not answered, so that nothing more need be asked of the group.
        """
        try:
            await asyncio.gather(*(box.close(drain_seconds) for box in self._boxes.values()))
            return await self._commit()
        finally:
            for partition in self._boxes:
                with suppress(KeyError):
                    LAG.remove(self._group, partition.topic, str(partition.partition))
            self._boxes.clear()

    async def _watch(self) -> None:
        """End with _Stuck where a partition has lag and has not moved for too long, or a rebalance does not end.

        aiokafka's consumer can fall silent without an error (aio-libs/aiokafka#712, #847, #1037), so the lag is asked
        of the broker. A broker that does not answer is no reason to end; a new connection does no harm, though.
        """
        patience = self._settings.stuck_seconds
        answered_at = time.monotonic()
        while True:
            await asyncio.sleep(patience / 6)
            now = time.monotonic()
            if not self.assigned:
                if now - self._rebalancing_since > max(patience, 2 * _REBALANCE_MS / 1000):
                    raise _Stuck
                continue
            try:
                async with asyncio.timeout(self._settings.request_timeout_ms / 1000):
                    behind = await self._behind()
            except (KafkaError, OSError):
                if now - answered_at > patience:
                    raise
                continue
            answered_at = now
            for box in self._boxes.values():
                if box not in behind:
                    box.moved_at = time.monotonic()
                elif box.moved_at < now - patience and not self._delivery.is_busy:
                    raise _Stuck

    async def _behind(self) -> list[Mailboxes]:
        """Those with records under way, or in the log and not fetched. The last offsets of a log may hold no record."""
        partitions = list(self._boxes)
        ends = await self._consumer.end_offsets(partitions)
        read = {partition: await self._consumer.position(partition) for partition in partitions}
        boxes = self._boxes.items()
        return [box for tp, box in boxes if box.backlog or (tp in read and read[tp] < ends[tp])]

"""Following topics as they grow, as a member of no group: every process that follows hears everything."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from prometheus_client import Counter, Gauge

from shop_common.kafka.backoff import full_jitter, happens_within
from shop_common.kafka.discard import discard_consumer
from shop_common.kafka.jobs import until_first
from shop_common.kafka.settings import KafkaSettings
from shop_common.kafka.topics import find_partitions
from shop_common.metrics import from_zero

FOLLOWER_LAG = Gauge(
    "shop_follower_lag_seconds", "Since when it is not known that everything was heard", multiprocess_mode="livemax"
)
FOLLOWER_REBUILDS = Counter("shop_follower_rebuilds_total", "Connections thrown away", ["reason"])
from_zero(FOLLOWER_REBUILDS, "Stuck")

_POLL_MS: Final = 500
_POLL_RECORDS: Final = 1000
_LOOK_SECONDS: Final = 0.25
_START_SECONDS: Final = 20.0
_STUCK_SECONDS: Final = 10.0
_BACKOFF_SECONDS: Final = (0.25, 5.0)

log = logging.getLogger(__name__)


class _Stuck(Exception):
    """There is more to hear, and nothing comes."""


class Follower:
    """Gives every record of some topics to `on_records`, in order inside a partition, and knows how far behind it is.

    It begins so many seconds ago, per topic, as `topics` says. `on_begin` is called before the first record, and again
    where records may have been missed since, because the log has them no more. Both must not raise.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topics: Mapping[str, float],
        on_begin: Callable[[], Awaitable[None]],
        on_records: Callable[[Sequence[Any]], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._topics = topics
        self._on_begin = on_begin
        self._on_records = on_records
        self._positions: dict[TopicPartition, int] = {}
        self._heard_all_at = -math.inf
        self._moved_at = 0.0
        self._is_lost = False
        self._settled = asyncio.Event()

    @property
    def lag_seconds(self) -> float:
        """For how long there may be something that was not heard: a fraction of a second while all is well."""
        return time.monotonic() - self._heard_all_at

    async def settle(self, seconds: float) -> None:
        """Wait until all there was has been heard, or a first try has failed, or so long."""
        await happens_within(self._settled, seconds)

    async def run(self, stop: asyncio.Event) -> None:
        """Follow until `stop` is set; outlives brokers that come and go."""
        failures = 0
        while not stop.is_set():
            begun = time.monotonic()
            try:
                await self._follow(stop)
            except OffsetOutOfRangeError as error:
                self._positions.clear()
                reason: BaseException = error
            except (KafkaError, OSError, _Stuck) as error:
                reason = error
            except Exception as error:
                log.exception("a bug keeps Kafka from being followed")
                reason = error
            else:
                return
            failures = 0 if self._heard_all_at > begun else failures + 1
            FOLLOWER_REBUILDS.labels(type(reason).__name__.strip("_")).inc()
            if not self._is_lost:
                log.warning("Kafka is not followed for now", extra={"reason": type(reason).__name__})
            self._is_lost = True
            self._settled.set()
            FOLLOWER_LAG.set(self.lag_seconds)
            await happens_within(stop, full_jitter(failures, *_BACKOFF_SECONDS))

    async def _follow(self, stop: asyncio.Event) -> None:
        common = {
            "bootstrap_servers": self._settings.bootstrap_servers,
            "client_id": self._settings.client_id,
            "request_timeout_ms": self._settings.request_timeout_ms,
        }
        consumer: Any = AIOKafkaConsumer(
            **common, group_id=None, enable_auto_commit=False, auto_offset_reset="none", retry_backoff_ms=_POLL_MS // 2
        )
        try:
            async with asyncio.timeout(_START_SECONDS):
                partitions = await self._find_partitions(common)
                await consumer.start()
                await self._take_positions(consumer, partitions)
            consumer.assign(partitions)
            for partition in partitions:  # at once, or aiokafka would look for positions itself
                consumer.seek(partition, self._positions[partition])
            await until_first(stop.wait(), self._hear(consumer), self._watch(consumer))
        finally:
            await discard_consumer(consumer)

    async def _find_partitions(self, common: Mapping[str, Any]) -> list[TopicPartition]:
        admin = AIOKafkaAdminClient(**common)
        try:
            await admin.start()
            found = await find_partitions(admin)
        finally:
            await admin.close()
        missing = self._topics.keys() - found.keys()
        if missing:
            raise ConnectionError(f"topics are missing: {', '.join(sorted(missing))}")
        return [partition for topic in self._topics for partition in found[topic]]

    async def _take_positions(self, consumer: Any, partitions: Sequence[TopicPartition]) -> None:
        new = [partition for partition in partitions if partition not in self._positions]
        if not new:
            return
        ends = await consumer.end_offsets(new)
        now = time.time()
        times = {partition: int((now - self._topics[partition.topic]) * 1000) for partition in new}
        since = await consumer.offsets_for_times(times)
        for partition in new:
            found = since.get(partition)
            self._positions[partition] = ends[partition] if found is None else found.offset
        await self._on_begin()

    async def _hear(self, consumer: Any) -> None:
        self._moved_at = time.monotonic()
        while True:
            batches = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_POLL_RECORDS)
            if batches:
                await self._on_records([record for batch in batches.values() for record in batch])
                self._positions |= {partition: batch[-1].offset + 1 for partition, batch in batches.items()}
                self._moved_at = time.monotonic()
            await asyncio.sleep(0)  # what is fetched already is returned without a pause

    async def _watch(self, consumer: Any) -> None:
        """Ask the broker where the log ends: what was heard up to there was everything at the time of the question."""
        while True:
            asked_at = time.monotonic()
            async with asyncio.timeout(self._settings.request_timeout_ms / 1000):
                ends = await consumer.end_offsets(list(self._positions))
            while not all(self._positions[partition] >= end for partition, end in ends.items()):
                if time.monotonic() - max(self._moved_at, asked_at) > _STUCK_SECONDS:
                    raise _Stuck
                FOLLOWER_LAG.set(self.lag_seconds)
                await asyncio.sleep(_LOOK_SECONDS / 5)
            self._heard_all_at = asked_at
            if self._is_lost:
                log.warning("Kafka is followed again")
            self._is_lost = False
            self._settled.set()
            FOLLOWER_LAG.set(self.lag_seconds)
            await asyncio.sleep(_LOOK_SECONDS)

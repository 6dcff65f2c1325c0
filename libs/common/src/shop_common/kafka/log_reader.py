"""Reading a topic from its first record to its last as of now, as commands do that look at all there is."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaTimeoutError

from shop_common.kafka.discard import discard_consumer
from shop_common.kafka.topics import find_partitions

_REQUEST_MS: Final = 10_000
_START_SECONDS: Final = 15.0
_POLL_MS: Final = 500


class LogReader:
    """Reads on its own, as a member of no group; made by `open_reader`."""

    def __init__(self, consumer: Any, finder: Any, partitions: dict[str, list[TopicPartition]]) -> None:
        self._consumer = consumer
        self._finder = finder
        self._partitions = partitions

    def has(self, topic: str) -> bool:
        return topic in self._partitions

    async def ends(self, topic: str) -> dict[TopicPartition, int]:
        """Where the topic ends now."""
        ends: dict[TopicPartition, int] = await self._consumer.end_offsets(self._partitions[topic])
        return ends

    async def records(self, ends: dict[TopicPartition, int]) -> AsyncIterator[Any]:
        """What lies before these ends, in order inside a partition. KafkaTimeoutError where the broker falls silent."""
        self._consumer.assign(list(ends))
        begins = await self._consumer.beginning_offsets(list(ends))
        for partition, begin in begins.items():
            self._consumer.seek(partition, begin)
        left = {partition for partition, begin in begins.items() if begin < ends[partition]}
        while left:
            batches = await _next(self._consumer, left)
            for partition, batch in batches.items():
                for record in batch:
                    if record.offset < ends[partition]:
                        yield record
            for partition in list(left):
                if await self._consumer.position(partition) >= ends[partition]:
                    left.discard(partition)

    async def find_record(self, topic: str, partition: int, offset: int) -> Any:
        """The record itself, or None where the topic has it no more."""
        place = TopicPartition(topic, partition)
        if place not in self._partitions.get(topic, ()):
            return None
        [begin] = (await self._finder.beginning_offsets([place])).values()
        [end] = (await self._finder.end_offsets([place])).values()
        if not begin <= offset < end:
            return None
        self._finder.assign([place])
        self._finder.seek(place, offset)
        first = (await _next(self._finder, {place}))[place][0]
        return first if first.offset == offset else None


async def _next(consumer: Any, partitions: set[TopicPartition]) -> dict[TopicPartition, Sequence[Any]]:
    for _ in range(_REQUEST_MS // _POLL_MS):
        batches: dict[TopicPartition, Sequence[Any]] = await consumer.getmany(*partitions, timeout_ms=_POLL_MS)
        if batches:
            return batches
    raise KafkaTimeoutError("no answer to a fetch")


@asynccontextmanager
async def open_reader(bootstrap_servers: str) -> AsyncIterator[LogReader]:
    """Raises KafkaError or OSError where there is no broker."""
    common = {"bootstrap_servers": bootstrap_servers, "request_timeout_ms": _REQUEST_MS}
    admin = AIOKafkaAdminClient(**common)
    consumer, finder = (AIOKafkaConsumer(**common, auto_offset_reset="earliest") for _ in range(2))
    try:
        async with asyncio.timeout(_START_SECONDS):
            await admin.start()
            partitions = await find_partitions(admin)
            await consumer.start()
            await finder.start()
        yield LogReader(consumer, finder, partitions)
    finally:
        await discard_consumer(consumer)
        await discard_consumer(finder)
        await admin.close()

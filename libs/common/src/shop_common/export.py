"""Spans leave the process over OTLP (protobuf by HTTP), in batches, by the process's own loop.

The SDK's exporter has a thread, which holds the interpreter for as long as it encodes a batch. Here a few spans are
encoded in each turn of the loop, and whoever waits for an answer does not notice.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

from shop_common.connections import HttpPool, open_pool
from shop_common.http1 import CallFailed
from shop_common.otlp import SpanEncoder
from shop_common.settings import HttpClientSettings

_PAUSE_SECONDS: Final = 0.5
_SEND_SECONDS: Final = 10.0
"""Tried again meanwhile: a collector may be restarted."""
_RETRY_SECONDS: Final = 0.5
_FLUSH_SECONDS = 3.0
_MOST_WAITING: Final = 2048
_BATCH: Final = 512
_IN_ONE_TURN: Final = 8
_BAD_REQUEST: Final = 400
_RETRYABLE: Final = frozenset({429, 502, 503, 504})
"""As OTLP has it."""
_HEADERS: Final = {"Content-Type": "application/x-protobuf"}
_POOL: Final = HttpClientSettings(max_connections=1)
_ANSWER_BYTES: Final = 64 * 1024

_logger = logging.getLogger(__name__)


class SpanExporter(SpanProcessor):
    """Keeps what has ended until it is sent; what is too much is lost, and how much of it is logged."""

    def __init__(self, pool: HttpPool, resource: Resource) -> None:
        self._pool = pool
        self._encoder = SpanEncoder(resource)
        self._waiting: deque[ReadableSpan] = deque()
        self._lost = 0

    def on_end(self, span: ReadableSpan) -> None:
        if len(self._waiting) < _MOST_WAITING:
            self._waiting.append(span)
        else:
            self._lost += 1

    async def run(self, stop: asyncio.Event) -> None:
        """Send until `stop` is set, and then what is left."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_PAUSE_SECONDS):
                    await stop.wait()
            is_last = stop.is_set()
            while count := min(len(self._waiting), _BATCH):
                batch = await self._encode(count)
                if not await self._send(batch):
                    self._lost += count
                if len(self._waiting) < _BATCH and not is_last:
                    break
            if self._lost:
                _logger.warning("spans were lost", extra={"spans": self._lost})
                self._lost = 0
            if is_last:
                return

    async def _encode(self, count: int) -> bytes:
        """One message of protobuf: what is put behind another is added to it."""
        parts = []
        while count > 0:
            few = [self._waiting.popleft() for _ in range(min(count, _IN_ONE_TURN))]
            parts.append(self._encoder.encode(few))
            count -= len(few)
            await asyncio.sleep(0)
        return b"".join(parts)

    async def _send(self, batch: bytes) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(_SEND_SECONDS):
                while True:
                    with suppress(CallFailed):
                        answer = await self._pool.call(
                            "POST", "/v1/traces", _HEADERS, batch, seconds=_POOL.total_seconds
                        )
                        if answer.status not in _RETRYABLE:
                            return answer.status < _BAD_REQUEST
                    await asyncio.sleep(_RETRY_SECONDS)
        return False


@asynccontextmanager
async def open_exporter(endpoint: str, resource: Resource) -> AsyncIterator[SpanExporter]:
    """To be given the spans of `resource` until closed; what is left then has 3 s."""
    async with open_pool(endpoint, _POOL, _ANSWER_BYTES) as pool:
        exporter, stop = SpanExporter(pool, resource), asyncio.Event()
        running = asyncio.create_task(exporter.run(stop))
        try:
            yield exporter
        finally:
            stop.set()
            await asyncio.wait([running], timeout=_FLUSH_SECONDS)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

"""Prometheus metrics that add up over the workers of one process group."""

import asyncio
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    generate_latest,
    start_http_server,
)
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.requests import Request
from starlette.responses import Response

_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

HTTP_REQUESTS = Counter("shop_http_requests_total", "Requests answered", ["method", "route", "status"])
HTTP_SECONDS = Histogram(
    "shop_http_request_seconds",
    "Seconds from the request's head to the answer's end",
    ["method", "route"],
    buckets=_BUCKETS,
)


@lru_cache(maxsize=4096)
def count_of(counter: Counter, *labels: str) -> Counter:
    """`counter.labels(…)`, which takes longer than counting."""
    return counter.labels(*labels)


@lru_cache(maxsize=4096)
def times_of(histogram: Histogram, *labels: str) -> Histogram:
    """`histogram.labels(…)`, likewise."""
    return histogram.labels(*labels)


def from_zero(counter: Counter, *labels: str) -> None:
    """Have it told before it counts for the first time: its first increase would not be seen."""
    counter.labels(*labels)


# Of one process the library tells it by itself. Of several the first one's is told, which recycled workers leave alone.
Gauge(
    "process_start_time_seconds",
    "Start of the first worker, in seconds of Unix time",
    registry=None,
    multiprocess_mode="min",
).set_to_current_time()
HTTP_IN_PROGRESS = Gauge("shop_http_requests_in_progress", "Requests under way", multiprocess_mode="livesum")
POOL_SIZE = Gauge("shop_pool_connections", "Open connections", ["pool"], multiprocess_mode="livesum")
POOL_IN_USE = Gauge("shop_pool_connections_in_use", "Connections lent out", ["pool"], multiprocess_mode="livesum")
POOL_WAIT = Histogram("shop_pool_wait_seconds", "Seconds waited for a connection", ["pool"], buckets=_BUCKETS)
POOL_TIMEOUTS = Counter("shop_pool_timeouts_total", "Waits for a connection that ended in 503", ["pool"])


@contextmanager
def share_metrics_between_workers() -> Iterator[None]:
    """Start the workers inside: their counters then live in files that any of them can add up."""
    with TemporaryDirectory(prefix="shop-metrics-") as directory:
        os.environ[_DIRECTORY] = directory
        try:
            yield
        finally:
            del os.environ[_DIRECTORY]


async def metrics_endpoint(_: Request) -> Response:
    """`GET /metrics` in the Prometheus text format."""
    text = await asyncio.to_thread(generate_latest, _registry())  # the workers' files are read from disk
    return Response(text, media_type=CONTENT_TYPE_LATEST)


def serve_metrics(host: str, port: int) -> None:
    """Serve them from a thread of this process on a port of their own."""
    start_http_server(port, host, _registry())


def _registry() -> CollectorRegistry:
    directory = os.environ.get(_DIRECTORY)
    if directory is None:
        return REGISTRY
    registry = CollectorRegistry()
    registry.register(_LiveWorkers(directory))
    return registry


class _LiveWorkers(MultiProcessCollector):
    """Adds up the workers' files, without the live gauges of those that ended without a goodbye."""

    def __init__(self, directory: str) -> None:
        super().__init__(None, directory)  # type: ignore[no-untyped-call] # the library leaves it unannotated
        self._directory = Path(directory)

    def collect(self) -> Iterable[Metric]:
        for file in self._directory.glob("gauge_live*_*.db"):
            if not _is_running(int(file.stem.rpartition("_")[2])):
                file.unlink(missing_ok=True)
        return super().collect()  # type: ignore[no-untyped-call, no-any-return] # as above


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's, so it runs
        return True
    return True

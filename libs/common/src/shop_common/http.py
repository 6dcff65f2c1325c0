"""HTTP calls onward: pyreqwest's pool where throughput matters, httpx over the same pool where it does not."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import httpx
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.compatibility.httpx import HttpxTransport

from shop_common.settings import HttpClientSettings


@asynccontextmanager
async def open_http_pool(settings: HttpClientSettings) -> AsyncIterator[Client]:
    """A bounded keep-alive pool; no redirects, no proxies from the environment, no decompression.

    A request whose task is cancelled goes on inside, and keeps its place, until its own timeout: give each a short one.
    """
    builder = (
        ClientBuilder()
        .connect_timeout(timedelta(seconds=settings.connect_seconds))
        .pool_timeout(timedelta(seconds=settings.connect_seconds))
        .timeout(timedelta(seconds=settings.total_seconds))
        .max_connections(settings.max_connections)
        .pool_max_idle_per_host(settings.max_idle_per_host)
        .pool_idle_timeout(timedelta(seconds=settings.idle_seconds))
        .tcp_nodelay(enabled=True)
        .follow_redirects(enable=False)
        .gzip(enable=False)
        .brotli(enable=False)
        .deflate(enable=False)
        .zstd(enable=False)
        .http1_only()
        .no_proxy()
    )
    async with builder.build() as pool:
        yield pool


@asynccontextmanager
async def open_http_client(pool: Client) -> AsyncIterator[httpx.AsyncClient]:
    """httpx's interface over a pool that somebody else owns."""
    transport = HttpxTransport(pool, close_client=False)
    # httpx's own timeouts would be added up and take the place of the pool's.
    async with httpx.AsyncClient(transport=transport, timeout=None, trust_env=False) as client:  # noqa: S113 - see above
        yield client

"""HTTP calls where throughput does not matter, through httpx; `connections` is for the others."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import httpx
from pyreqwest.client import Client, ClientBuilder

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
async def open_http_client(settings: HttpClientSettings) -> AsyncIterator[httpx.AsyncClient]:
    """A bounded keep-alive pool; no redirects, no proxies from the environment.

    httpx bounds the steps of a call by `total_seconds`, not the whole: whoever awaits it does.
    """
    timeout = httpx.Timeout(settings.total_seconds, connect=settings.connect_seconds, pool=settings.connect_seconds)
    limits = httpx.Limits(
        max_connections=settings.max_connections,
        max_keepalive_connections=settings.max_idle_per_host,
        keepalive_expiry=settings.idle_seconds,
    )
    async with httpx.AsyncClient(timeout=timeout, limits=limits, trust_env=False) as client:
        yield client

"""HTTP calls where throughput does not matter, through httpx; `connections` is for the others."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from shop_common.settings import HttpClientSettings


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

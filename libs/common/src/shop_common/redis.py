"""Redis through redis-py: a bounded pool whose every wait has an end."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import RedisError

from shop_common.settings import RedisSettings

REDIS_TRANSIENT: tuple[type[Exception], ...] = (RedisError, OSError, TimeoutError)
"""Whoever asks Redis must have an answer for its absence."""


@asynccontextmanager
async def open_redis(settings: RedisSettings) -> AsyncIterator["Redis"]:
    """Open a pool; connections are made when first needed, since no answer of ours depends on Redis being up."""
    pool = BlockingConnectionPool.from_url(
        settings.url.get_secret_value(),
        max_connections=settings.max_connections,
        timeout=settings.acquire_seconds,
        socket_timeout=settings.command_seconds,
        socket_connect_timeout=settings.command_seconds,
        health_check_interval=settings.idle_check_seconds,
    )
    client = Redis.from_pool(pool)
    try:
        yield client
    finally:
        await client.aclose()

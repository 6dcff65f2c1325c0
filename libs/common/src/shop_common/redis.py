"""Redis through redis-py: a bounded pool whose every wait has an end."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import RedisError
from redis.maint_notifications import MaintNotificationsConfig

from shop_common.errors import StartupError
from shop_common.settings import RedisSettings

REDIS_TRANSIENT: tuple[type[Exception], ...] = (RedisError, OSError, TimeoutError)
"""Whoever asks Redis must have an answer for its absence."""


@asynccontextmanager
async def open_redis(settings: RedisSettings) -> AsyncIterator["Redis"]:
    """Open a pool; connections are made when first needed, since no answer of ours depends on Redis being up."""
    try:
        pool = BlockingConnectionPool.from_url(
            settings.url.get_secret_value(),
            max_connections=settings.max_connections,
            timeout=settings.acquire_seconds,
            socket_timeout=settings.command_seconds,
            socket_connect_timeout=settings.command_seconds,
            health_check_interval=settings.idle_check_seconds,
            maint_notifications_config=MaintNotificationsConfig(enabled=False),  # would stretch the timeouts to 10 s
        )
    except ValueError:  # its message quotes the URL, which may hold a password
        raise StartupError("the Redis URL is not usable; correct it, as in redis://127.0.0.1:6379/0") from None
    client = Redis.from_pool(pool)
    try:
        yield client
    finally:
        await client.aclose()

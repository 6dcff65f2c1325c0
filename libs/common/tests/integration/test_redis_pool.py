"""The Redis pool: every wait has an end, whatever Redis does."""

import asyncio
import time
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr
from redis.exceptions import ConnectionError as RedisConnectionError

from shop_common.errors import StartupError
from shop_common.redis import REDIS_TRANSIENT, open_redis
from shop_common.settings import RedisSettings


@pytest.fixture
def settings(redis_url: str) -> RedisSettings:
    return RedisSettings(url=SecretStr(redis_url), max_connections=2, acquire_seconds=0.1, command_seconds=0.5)


async def test_what_is_set_can_be_read(settings: RedisSettings) -> None:
    async with open_redis(settings) as redis:
        await redis.set("pool-test", b"\xff", px=10_000)
        assert await redis.get("pool-test") == b"\xff"


async def test_more_callers_than_connections_share_them(settings: RedisSettings) -> None:
    patient = settings.model_copy(update={"acquire_seconds": 20, "command_seconds": 20})
    async with open_redis(patient) as redis:
        assert await asyncio.gather(*(redis.incr("pool-test-count") for _ in range(50)))
        assert len(redis.connection_pool._available_connections) <= 2
        await redis.delete("pool-test-count")


async def test_a_full_pool_ends_the_wait_in_time_and_recovers(settings: RedisSettings) -> None:
    patient = settings.model_copy(update={"command_seconds": 20})
    async with open_redis(patient) as redis, asyncio.timeout(30):
        waiting = [asyncio.ensure_future(redis.blpop(["pool-test-empty"], timeout=1)) for _ in range(2)]
        await asyncio.sleep(0.05)
        with pytest.raises(REDIS_TRANSIENT, match="No connection available"):
            await redis.get("x")
        assert await asyncio.gather(*waiting) == [None, None]
        await redis.ping()


async def test_a_cancelled_command_does_not_leave_its_answer_to_the_next(settings: RedisSettings) -> None:
    async with open_redis(settings) as redis:
        await redis.set("pool-test", "mine")
        for _ in range(20):
            task = asyncio.ensure_future(redis.echo("theirs"))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert await redis.get("pool-test") == b"mine"


async def test_an_answer_that_comes_after_its_cancellation_is_nobodys(settings: RedisSettings, proxy: Any) -> None:
    url = settings.url.get_secret_value()
    parts = urlsplit(url)
    before = await proxy(parts.hostname, parts.port)
    changes = {"url": SecretStr(url.replace(f":{parts.port}", f":{before.port}", 1)), "max_connections": 1}
    async with open_redis(settings.model_copy(update=changes | {"command_seconds": 30})) as redis:
        await redis.set("pool-test", "mine")
        for _ in range(5):
            before.freeze()
            late = asyncio.ensure_future(redis.echo("theirs"))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await asyncio.shield(late)
            late.cancel()
            await asyncio.gather(late, return_exceptions=True)
            before.thaw()
            assert await redis.get("pool-test") == b"mine"


async def test_a_connection_the_server_closed_is_replaced_unnoticed(settings: RedisSettings) -> None:
    async with open_redis(settings) as redis, open_redis(settings) as other:
        await redis.ping()
        await other.client_kill_filter(_id=str(await redis.client_id()))
        await redis.ping()


async def test_an_absent_server_is_an_error_at_once(settings: RedisSettings) -> None:
    absent = settings.model_copy(update={"url": SecretStr("redis://127.0.0.1:1/0")})
    async with open_redis(absent) as redis, asyncio.timeout(5):
        before = time.monotonic()
        for _ in range(10):
            with pytest.raises(RedisConnectionError):
                await redis.get("x")
        assert time.monotonic() - before < 1  # no waits between tries, of which the library has some to offer


async def test_a_server_that_says_nothing_is_an_error_in_time(settings: RedisSettings, silent_port: int) -> None:
    silent = settings.model_copy(update={"url": SecretStr(f"redis://127.0.0.1:{silent_port}/0")})
    async with open_redis(silent) as redis, asyncio.timeout(5):
        with pytest.raises(REDIS_TRANSIENT):
            await redis.get("x")


@pytest.mark.parametrize("url", ["http://u:hunter2@h", "redis://u:hunter2@h:port/0", "redis://u:hun@[ter2"])
async def test_an_unusable_url_is_one_line_without_it(url: str, settings: RedisSettings) -> None:
    with pytest.raises(StartupError, match=r"^the Redis URL is not usable") as refused:
        async with open_redis(settings.model_copy(update={"url": SecretStr(url)})):
            raise AssertionError("must not open")
    assert "ter2" not in str(refused.value)


async def test_connections_are_closed_in_the_end(settings: RedisSettings, until: Any) -> None:
    async with open_redis(settings) as redis:
        own = await redis.client_id()
    async with open_redis(settings) as other:

        async def gone() -> bool:
            return own not in {int(client["id"]) for client in await other.client_list()}

        await until(gone)

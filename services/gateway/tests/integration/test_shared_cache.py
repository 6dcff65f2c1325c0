"""The second level on a real Redis: what it gives, what it refuses, and what it does without a Redis to trust."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from redis.asyncio import Redis

from shop_common.redis import open_redis
from shop_common.settings import RedisSettings
from shop_gateway.settings import CacheSettings
from shop_gateway.shared_cache import Found, SharedCache, open_shared_cache

ADA, BOB = "ada", "bob"
Open = Callable[..., Awaitable[SharedCache]]


@pytest.fixture
def prefix() -> str:
    return f"{uuid.uuid4()}:"


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with open_redis(RedisSettings(url=redis_url, acquire_seconds=30, command_seconds=30)) as client:
        yield client


@pytest.fixture
async def gateway(redis: Redis, prefix: str) -> AsyncIterator[Open]:
    """Another gateway on the same Redis."""
    async with AsyncExitStack() as stack:

        async def open_one(client: Any = redis) -> SharedCache:
            settings = CacheSettings(key_prefix=prefix, redis_seconds=30)
            return await stack.enter_async_context(open_shared_cache(client, settings))

        yield open_one


async def found(shared: SharedCache, user_id: str, *sections: str) -> Found:
    answer = await shared.look_up(user_id, sections)
    assert answer is not None
    return answer


async def fill(shared: SharedCache, answer: Found, section: str, body: bytes, **versions: int) -> None:
    shared.fill_later(answer.lease, section, body, versions)
    await shared.close()


async def bodies(shared: SharedCache, user_id: str) -> dict[str, bytes]:
    entries = (await found(shared, user_id, "user", "orders")).entries
    return {name: entry.body for name, entry in entries.items()}


async def test_what_one_fills_another_finds_with_its_age_and_versions(gateway: Open) -> None:
    one, other = await gateway(), await gateway()
    asked = await found(one, ADA, "user", "orders")
    assert asked.entries == {}
    await fill(one, asked, "user", b'{"a":\n1}', ada=3)
    [(name, entry)] = (await found(other, ADA, "orders", "user")).entries.items()
    assert (name, entry.body, entry.versions) == ("user", b'{"a":\n1}', {"ada": 3})
    assert 0 < entry.age < 30
    assert await bodies(other, BOB) == {}


async def test_several_fills_are_one_call(gateway: Open) -> None:
    shared = await gateway()
    for user_id in (ADA, BOB):
        asked = await found(shared, user_id, "user", "orders")
        shared.fill_later(asked.lease, "user", user_id.encode(), {})
        shared.fill_later(asked.lease, "orders", b"{}", {})
    await shared.close()
    assert await bodies(shared, ADA) == {"user": b"ada", "orders": b"{}"}
    assert await bodies(shared, BOB) == {"user": b"bob", "orders": b"{}"}


async def test_a_change_clears_its_user_and_refuses_what_was_read_before(gateway: Open) -> None:
    one, other = await gateway(), await gateway()
    await fill(one, await found(one, ADA, "user"), "user", b"old")
    await fill(one, await found(one, BOB, "user"), "user", b"bob")
    slow = await found(one, ADA, "orders")
    await other.tell({ADA})
    assert await bodies(one, ADA) == {}
    assert await bodies(one, BOB) == {"user": b"bob"}
    await fill(one, slow, "orders", b"read before the change")
    assert await bodies(one, ADA) == {}
    await fill(one, await found(one, ADA, "orders"), "orders", b"new")
    assert await bodies(other, ADA) == {"orders": b"new"}


async def test_a_lease_of_before_is_worth_nothing_even_if_nobody_asked_since(gateway: Open) -> None:
    shared = await gateway()
    slow = await found(shared, ADA, "user")
    await shared.tell({ADA})
    await fill(shared, slow, "user", b"old")
    assert await bodies(shared, ADA) == {}


async def test_a_gateway_believes_nothing_from_before_it_began_to_listen(gateway: Open) -> None:
    one = await gateway()
    await fill(one, await found(one, ADA, "user"), "user", b"old")
    newcomer = await gateway()
    asked = await found(newcomer, ADA, "user")
    assert asked.entries == {}, "it may have missed a change"
    await fill(newcomer, asked, "user", b"new")
    assert await bodies(one, ADA) == {"user": b"new"}
    await newcomer.begin()
    assert await bodies(newcomer, ADA) == {}


async def test_a_redis_that_has_forgotten_what_it_was_told_is_not_believed(
    gateway: Open, redis: Redis, prefix: str
) -> None:
    """As after a restart from an older copy: what was cleared is there again."""
    shared = await gateway()
    await fill(shared, await found(shared, ADA, "user"), "user", b"old")
    before = {key: await redis.dump(key) for key in await redis.keys(f"{prefix}*")}
    await shared.tell({ADA})
    for key, value in before.items():
        await redis.restore(key, 0, value, replace=True)  # type: ignore[arg-type] # each was there
    assert await shared.look_up(ADA, ["user"]) is None
    assert shared.is_away
    await shared.begin()
    assert await bodies(shared, ADA) == {}


@pytest.mark.parametrize("lost", ["count", "everything"])
async def test_nor_is_one_that_is_empty(lost: str, gateway: Open, redis: Redis, prefix: str) -> None:
    shared = await gateway()
    keys = await redis.keys(f"{prefix}{'told:' if lost == 'count' else ''}*")
    await redis.delete(*keys)
    await shared.tell({ADA})
    assert shared.is_away
    assert await shared.look_up(ADA, ["user"]) is None


async def test_many_who_tell_at_once_are_all_heard(gateway: Open) -> None:
    shared = await gateway()
    users = [f"user-{number}" for number in range(50)]
    for user_id in users:
        await fill(shared, await found(shared, user_id, "user"), "user", b"old")
    await asyncio.gather(*(shared.tell({user_id}) for user_id in users))
    assert not shared.is_away
    assert [await bodies(shared, user_id) for user_id in users] == [{}] * 50


async def test_without_redis_nothing_is_found_and_nothing_raised(prefix: str, mute_redis: str) -> None:
    settings = CacheSettings(key_prefix=prefix, redis_seconds=0.05)
    mute = RedisSettings(url=mute_redis, acquire_seconds=30, command_seconds=30)
    async with open_redis(mute) as silent, open_shared_cache(silent, settings) as shared:
        assert shared.is_away
        assert await shared.look_up(ADA, ["user"]) is None
        await shared.tell({ADA})


async def test_one_that_comes_back_is_used_from_then_on(
    gateway: Open, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = await gateway()
    await fill(shared, await found(shared, ADA, "user"), "user", b"old")
    with monkeypatch.context() as patch:
        patch.setattr(shared, "_tell", _refused)
        await shared.tell({ADA})
    assert shared.is_away
    assert await shared.look_up(ADA, ["user"]) is None, "not asked again at once"
    shared._begin_again_at = 0
    assert await shared.look_up(ADA, ["user"]) is None, "it begins to listen now"
    assert await bodies(shared, ADA) == {}, "what was to be cleared and was not is too old"


async def _refused(*_: Any) -> None:
    raise ConnectionRefusedError


async def test_nothing_stays_for_long(gateway: Open, redis: Redis, prefix: str) -> None:
    shared = await gateway()
    await fill(shared, await found(shared, ADA, "user"), "user", json.dumps({}).encode())
    assert 0 < await redis.pttl(f"{prefix}{ADA}") <= 60_000

"""The second level: sections in Redis, which all gateways fill and every gateway clears when it hears of a change.

What Redis holds is believed only by a gateway that has cleared from it all it has heard since, and only as far as it
was read from its owner after that gateway began to listen. A gateway counts what it has told in a key of its own:
where Redis has forgotten some of it, after a restart or in the place of a lost primary, the count tells.
"""

import asyncio
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from redis.asyncio import Redis

from shop_common.redis import REDIS_TRANSIENT
from shop_gateway.cache import FILLS
from shop_gateway.settings import CacheSettings

LOOK_UP: Final = """
if tonumber(redis.call('GET', KEYS[2]) or -1) < tonumber(ARGV[1]) then return {} end
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local answer = {string.format('%.0f', now), redis.call('HGET', KEYS[1], 'lease')}
if not answer[2] then
    redis.call('HSET', KEYS[1], 'lease', ARGV[3])
    redis.call('PEXPIRE', KEYS[1], ARGV[4])
    answer[2] = ARGV[3]
end
for i = 5, #ARGV do
    local kept = redis.call('HGET', KEYS[1], ARGV[i]) or ''
    if (tonumber(string.sub(kept, 1, 16)) or 0) < tonumber(ARGV[2]) then kept = '' end
    answer[i - 2] = kept
end
return answer
"""
"""KEYS: the user, the gateway's count. ARGV: the count, µs since which it has listened, a lease to give, ms to keep it,
then sections. Returns nothing where the count is lost, else the time, the lease and each section or an empty string."""

FILL: Final = """
if redis.call('HGET', KEYS[1], 'lease') ~= ARGV[1] then return 0 end
for i = 3, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""
"""KEYS: the user. ARGV: the lease, ms to keep it, then sections with what they are."""

TELL: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
for i = 2, #KEYS do redis.call('DEL', KEYS[i]) end
return 1
"""
"""KEYS: the gateway's count, users. ARGV: the count before and after, ms to keep it. Returns 0 where it is lost."""

_COUNT_MS: Final = 24 * 3600 * 1000
_TIME_DIGITS: Final = 16
_WRITES_WAITING: Final = 1000
_PROBE_SECONDS: Final = 1.0
_CLOSE_SECONDS: Final = 1.0
_MICROSECONDS: Final = 1_000_000

_logger = logging.getLogger(__name__)


class SharedEntry(NamedTuple):
    body: bytes
    versions: Mapping[str, int]
    age: float
    """Seconds since its owner was asked, at least."""


class SharedLease(NamedTuple):
    """The right to fill what was not there."""

    user_id: str
    token: bytes
    taken_at: bytes


class Found(NamedTuple):
    entries: Mapping[str, SharedEntry]
    lease: SharedLease


@dataclass(slots=True)
class _Epoch:
    """As long as this gateway has told Redis everything it heard."""

    key: str
    since: int
    told: int = 0


class _Write(NamedTuple):
    lease: SharedLease
    section: str
    value: bytes


class SharedCache:
    """Redis away: nothing is found and nothing kept; never raises for its sake."""

    def __init__(self, redis: "Redis", settings: CacheSettings) -> None:
        self._redis = redis
        self._look_up = redis.register_script(LOOK_UP)
        self._fill = redis.register_script(FILL)
        self._tell = redis.register_script(TELL)
        self._prefix = settings.key_prefix
        self._keep_ms = int(settings.shared_seconds * 1000)
        self._seconds = settings.redis_seconds
        self._epoch: _Epoch | None = None
        self._begin_again_at = 0.0
        self._untold: set[str] = set()
        self._telling = asyncio.Lock()
        self._writes: dict[tuple[SharedLease, str], bytes] = {}
        self._writing: asyncio.Task[None] | None = None

    @property
    def is_away(self) -> bool:
        return self._epoch is None

    async def begin(self) -> None:
        """Trust nothing that was read from an owner before now."""
        self._epoch = None
        self._begin_again_at = time.monotonic() + _PROBE_SECONDS
        key = f"{self._prefix}told:{secrets.token_hex(8)}"
        try:
            async with asyncio.timeout(self._seconds):
                await self._redis.set(key, 0, px=_COUNT_MS)
                seconds, microseconds = await self._redis.time()
        except REDIS_TRANSIENT:
            return
        self._epoch = _Epoch(key, seconds * _MICROSECONDS + microseconds)

    async def tell(self, user_ids: Collection[str]) -> None:
        """Something of these users has changed. When this returns, this gateway will not be given what was before."""
        self._untold.update(user_ids)
        async with self._telling:  # one at a time, which tells for all that wait
            if self._untold.isdisjoint(user_ids):
                return
            users, self._untold = self._untold, set()
            if self._epoch is not None:
                await self._tell_all(self._epoch, users)

    async def _tell_all(self, epoch: _Epoch, users: Collection[str]) -> None:
        keys = [epoch.key, *(self._prefix + user_id for user_id in users)]
        try:
            async with asyncio.timeout(self._seconds):
                known = await self._tell(keys, [epoch.told, epoch.told + 1, _COUNT_MS])
        except REDIS_TRANSIENT as error:
            self._lose(type(error).__name__)
            return
        if known:
            epoch.told += 1
        else:
            self._lose("what was told is forgotten")

    async def look_up(self, user_id: str, sections: Sequence[str]) -> Found | None:
        """What is kept of these sections, and a lease for the others; None without Redis."""
        epoch = self._epoch
        if epoch is None:
            if time.monotonic() >= self._begin_again_at:
                await self.begin()
            return None
        token = secrets.token_hex(8)
        args: list[int | str] = [epoch.told, epoch.since, token, self._keep_ms, *sections]
        try:
            async with asyncio.timeout(self._seconds):
                answer = await self._look_up([self._prefix + user_id, epoch.key], args)
        except REDIS_TRANSIENT as error:
            self._lose(type(error).__name__)
            return None
        if not answer:
            self._lose("what was told is forgotten")
            return None
        now, lease, *kept = answer
        entries = {
            name: entry
            for name, value in zip(sections, kept, strict=True)
            if (entry := _decode(value, int(now))) is not None
        }
        return Found(entries, SharedLease(user_id, lease, now))

    def fill_later(self, lease: SharedLease, section: str, body: bytes, versions: Mapping[str, int]) -> None:
        """Keep this for all, unless something of the user changes first."""
        if len(self._writes) < _WRITES_WAITING:
            self._writes[lease, section] = _encode(lease, body, versions)
            if self._writing is None:
                self._writing = asyncio.create_task(self._write())

    async def close(self) -> None:
        if self._writing is not None:
            await asyncio.wait([self._writing], timeout=_CLOSE_SECONDS)
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.wait([self._writing])

    async def _write(self) -> None:
        try:
            while self._writes:
                writes, self._writes = self._writes, {}
                fills: dict[SharedLease, list[Any]] = {}
                for (lease, section), value in writes.items():
                    fills.setdefault(lease, [lease.token, self._keep_ms]).extend((section, value))
                async with asyncio.timeout(self._seconds), self._redis.pipeline(transaction=False) as pipeline:
                    for lease, args in fills.items():
                        await self._fill([self._prefix + lease.user_id], args, client=pipeline)
                    for is_kept in await pipeline.execute():
                        FILLS.labels("redis", "kept" if is_kept else "refused").inc()
        except REDIS_TRANSIENT:
            self._writes = {}  # worth nothing later
        finally:
            self._writing = None

    def _lose(self, reason: str) -> None:
        if self._epoch is not None:
            _logger.warning("the shared cache is not used for now", extra={"reason": reason})
        self._epoch = None
        self._begin_again_at = time.monotonic() + _PROBE_SECONDS


def _encode(lease: SharedLease, body: bytes, versions: Mapping[str, int]) -> bytes:
    return b"%b%b\n%b" % (lease.taken_at.zfill(_TIME_DIGITS), json.dumps(versions).encode(), body)


def _decode(value: bytes, now: int) -> SharedEntry | None:
    head, _, body = value.partition(b"\n")
    if not body:
        return None
    age = max(0, now - int(head[:_TIME_DIGITS])) / _MICROSECONDS
    return SharedEntry(body, json.loads(head[_TIME_DIGITS:]), age)


@asynccontextmanager
async def open_shared_cache(redis: "Redis", settings: CacheSettings) -> AsyncIterator[SharedCache]:
    shared = SharedCache(redis, settings)
    try:
        await shared.begin()
        yield shared
    finally:
        await shared.close()

"""Passwords: argon2id in threads of its own, never more of it than can be done in time.

A queue that is longer than its clients' patience does work for those who have left, and then for nobody else: what
would wait too long, by what the work has taken lately on this machine, is refused at once.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from shop_users.errors import PasswordsBusy

THREADS: Final = 2
"""Each takes 64 MiB while it works, and four cores if it can get them."""
MAX_AT_ONCE: Final = 32
"""Running and waiting, however fast."""
MAX_WAIT_SECONDS: Final = 1.0
"""With the work itself, a connection and a statement still below what the gateway waits for an answer."""
_LATEST_WEIGHT: Final = 0.2

Result = TypeVar("Result")


class Passwords:
    """Made by `open_passwords`. Every method raises PasswordsBusy (503) when too many wait already."""

    def __init__(self, threads: ThreadPoolExecutor, hasher: PasswordHasher) -> None:
        self._threads = threads
        self._hasher = hasher
        self._lock = threading.Lock()
        self._at_once = 0
        started = time.perf_counter()
        self._nobodys = hasher.hash("the password of a user who does not exist")
        self._seconds = time.perf_counter() - started
        """What one takes: a moving average, since it depends on what else the machine does."""

    async def hash(self, password: str) -> str:
        return await self._in_thread(partial(self._hasher.hash, password))

    async def verify(self, password_hash: str | None, password: str) -> bool:
        """Whether it is the one; always False for None, at the same cost."""
        is_right = await self._in_thread(partial(self._is_right, password_hash or self._nobodys, password))
        return is_right and password_hash is not None

    def is_outdated(self, password_hash: str) -> bool:
        """Whether it was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(password_hash)

    def _is_right(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        with self._lock:
            if self._at_once >= MAX_AT_ONCE or self._at_once // THREADS * self._seconds > MAX_WAIT_SECONDS:
                raise PasswordsBusy
            self._at_once += 1
        future = self._threads.submit(self._timed, work)
        future.add_done_callback(self._ended)  # and not before: what runs goes on when nobody waits for it any more
        return await asyncio.wrap_future(future)

    def _timed(self, work: Callable[[], Result]) -> Result:
        started = time.perf_counter()
        try:
            return work()
        finally:
            with self._lock:
                self._seconds += _LATEST_WEIGHT * (time.perf_counter() - started - self._seconds)

    def _ended(self, _: object) -> None:
        with self._lock:
            self._at_once -= 1


@asynccontextmanager
async def open_passwords(hasher: PasswordHasher | None = None) -> AsyncIterator[Passwords]:
    """With argon2-cffi's current recommendation unless told otherwise."""
    with ThreadPoolExecutor(THREADS, "argon2") as threads:
        try:
            yield await asyncio.to_thread(Passwords, threads, hasher or PasswordHasher())
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

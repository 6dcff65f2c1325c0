"""Passwords: the algorithm, the same work for users who do not exist, and a bound on what waits."""

import asyncio
import threading
import time

import pytest
from argon2 import PasswordHasher, extract_parameters
from argon2.low_level import Type

from shop_users.errors import PasswordsBusy
from shop_users.passwords import MAX_AT_ONCE, MAX_WAIT_SECONDS, THREADS, open_passwords

QUICK = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


async def test_a_hash_verifies_its_password_and_no_other() -> None:
    async with open_passwords(QUICK) as passwords:
        password_hash = await passwords.hash("correct horse")
        assert await passwords.verify(password_hash, "correct horse")
        assert not await passwords.verify(password_hash, "wrong horse")
        assert not await passwords.verify("no hash at all", "correct horse")
        assert not await passwords.verify(None, "the password of a user who does not exist")


async def test_production_uses_the_current_recommendation() -> None:
    async with open_passwords() as passwords:
        password_hash = await passwords.hash("correct horse")
        parameters = extract_parameters(password_hash)
        assert parameters == extract_parameters(PasswordHasher().hash("x"))
        # OWASP's least: 19 MiB and two passes, one lane.
        assert (parameters.type, parameters.memory_cost >= 19 * 1024) == (Type.ID, True)
        assert (parameters.time_cost >= 2, parameters.parallelism >= 1) == (True, True)
        assert (parameters.hash_len >= 32, parameters.salt_len >= 16) == (True, True)
        assert not passwords.is_outdated(password_hash)
        assert passwords.is_outdated(QUICK.hash("correct horse"))


class Slow(PasswordHasher):
    """Works until it is let go, and counts."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.go = threading.Event()
        self.begun = threading.Semaphore(0)
        self.verified: list[str | bytes] = []

    def verify(self, hash: str | bytes, password: str | bytes) -> bool:  # type: ignore[override] # noqa: A002 - argon2's name
        self.verified.append(hash)
        self.begun.release()
        self.go.wait(10)
        return False


async def test_one_too_many_is_refused_and_room_comes_back() -> None:
    hasher = Slow()
    async with open_passwords(hasher) as passwords, asyncio.TaskGroup() as group:
        tasks = [group.create_task(passwords.verify(None, "x")) for _ in range(MAX_AT_ONCE)]
        await asyncio.sleep(0)  # each has started
        with pytest.raises(PasswordsBusy) as busy:
            await passwords.verify(None, "x")
        assert busy.value.headers["Retry-After"] == "1"
        tasks[-1].cancel()  # what waits and is not wanted any more is never worked on
        await asyncio.wait([tasks[-1]])
        hasher.go.set()
        assert await passwords.verify(None, "x") is False
    assert len(hasher.verified) == MAX_AT_ONCE
    assert THREADS < MAX_AT_ONCE


class Measured(PasswordHasher):
    """Takes as long as it is told."""

    def __init__(self, seconds: float) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.seconds = seconds

    def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
        time.sleep(self.seconds)
        return super().hash(password, salt=salt)


async def test_what_would_wait_longer_than_a_client_is_refused_and_speed_makes_room() -> None:
    hasher = Measured(MAX_WAIT_SECONDS * 0.6)
    async with open_passwords(hasher) as passwords:
        admitted = 2 * THREADS  # as many at work, and as many who wait for 0.6 s; the next would wait for 1.2 s
        tasks = [asyncio.create_task(passwords.hash("x")) for _ in range(admitted)]
        await asyncio.sleep(0)  # each has started
        with pytest.raises(PasswordsBusy):
            await passwords.hash("x")
        await asyncio.gather(*tasks)
        hasher.seconds = 0
        for _ in range(20):
            await passwords.hash("x")
        await asyncio.gather(*(passwords.hash("x") for _ in range(4 * admitted)))


async def test_work_that_nobody_waits_for_any_more_still_takes_its_place() -> None:
    hasher = Slow()
    async with open_passwords(hasher) as passwords:
        tasks = [asyncio.create_task(passwords.verify(None, "x")) for _ in range(MAX_AT_ONCE)]
        for _ in range(THREADS):
            await asyncio.to_thread(hasher.begun.acquire)
        tasks[0].cancel()
        tasks[1].cancel()
        await asyncio.wait(tasks[:2])
        with pytest.raises(PasswordsBusy):
            await passwords.verify(None, "x")
        hasher.go.set()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_an_unknown_user_costs_a_verification_too() -> None:
    hasher = Slow()
    hasher.go.set()
    async with open_passwords(hasher) as passwords:
        await passwords.verify(None, "x")
    assert extract_parameters(str(hasher.verified[0])) == extract_parameters(hasher.hash("x"))

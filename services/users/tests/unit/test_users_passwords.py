"""Passwords: the algorithm, the same work for users who do not exist, and a bound on what waits."""

import asyncio
import threading

import pytest
from argon2 import PasswordHasher, extract_parameters
from argon2.low_level import Type

from shop_users.errors import PasswordsBusy
from shop_users.passwords import MAX_AT_ONCE, THREADS, open_passwords

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
        assert (parameters.type, parameters.memory_cost >= 19 * 1024) == (Type.ID, True)
        assert not passwords.is_outdated(password_hash)
        assert passwords.is_outdated(QUICK.hash("correct horse"))


class Slow(PasswordHasher):
    """Works until it is let go, and counts."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.go = threading.Event()
        self.verified: list[str | bytes] = []

    def verify(self, hash: str | bytes, password: str | bytes) -> bool:  # type: ignore[override] # noqa: A002 - argon2's name
        self.verified.append(hash)
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


async def test_an_unknown_user_costs_a_verification_too() -> None:
    hasher = Slow()
    hasher.go.set()
    async with open_passwords(hasher) as passwords:
        await passwords.verify(None, "x")
    assert extract_parameters(str(hasher.verified[0])) == extract_parameters(hasher.hash("x"))

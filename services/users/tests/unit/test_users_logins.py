"""What a login costs: the same hashing for whatever name it is tried with, so that time tells nothing of accounts."""

import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from argon2 import PasswordHasher, extract_parameters

from shop_common.settings import TokenSettings
from shop_users.errors import InvalidCredentials
from shop_users.keys import KeyRing, add_key, read_keys
from shop_users.models import Credentials
from shop_users.passwords import open_passwords
from shop_users.service.sessions import Sessions

PASSWORD = "correct horse battery"


class Counting(PasswordHasher):
    """Notes each hashing, and by which parameters."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.worked: list[object] = []

    def verify(self, hash: str | bytes, password: str | bytes) -> bool:  # type: ignore[override] # noqa: A002 - as argon2-cffi has it
        self.worked.append(extract_parameters(str(hash)))
        return super().verify(hash, password)


class Store:
    """Two accounts, one of them deactivated."""

    def __init__(self, password_hash: str) -> None:
        self._accounts = {
            "ada": Credentials(uuid.uuid4(), "customer", is_active=True, password_hash=password_hash),
            "gone": Credentials(uuid.uuid4(), "customer", is_active=False, password_hash=password_hash),
        }

    async def find_credentials(self, name: str) -> Credentials | None:
        return self._accounts.get(name)

    async def begin(self, session_id: UUID, credentials: Credentials, token_hash: bytes, expires_at: datetime) -> bool:
        return True


@pytest.fixture
def hasher() -> Counting:
    return Counting()


@pytest.fixture
async def sessions(hasher: Counting, tmp_path: Path) -> AsyncIterator[Sessions]:
    add_key(tmp_path, datetime.now(UTC) - timedelta(days=1))
    keys = KeyRing(tmp_path, 0, read_keys(tmp_path))
    store = Store(hasher.hash(PASSWORD))
    async with open_passwords(hasher) as passwords:
        hasher.worked.clear()
        yield Sessions(store, passwords, keys, TokenSettings())  # type: ignore[arg-type] # the store in memory


@pytest.mark.parametrize(
    ("name", "password"),
    [("ada", "not the one"), ("gone", PASSWORD), ("gone", "not the one"), ("nobody", PASSWORD), ("no@where", "x")],
)
async def test_a_login_that_fails_costs_one_hashing_like_one_that_succeeds(
    sessions: Sessions, hasher: Counting, name: str, password: str
) -> None:
    await sessions.log_in("ada", PASSWORD)
    succeeding, hasher.worked = hasher.worked, []
    with pytest.raises(InvalidCredentials):
        await sessions.log_in(name, password)
    assert hasher.worked == succeeding
    assert len(hasher.worked) == 1

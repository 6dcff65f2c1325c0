"""Use cases with a store in memory: versions, events, and what is refused before anything is written."""

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from argon2 import PasswordHasher

from shop_common.errors import PreconditionFailed
from shop_common.events.envelope import Event
from shop_common.tokens import Principal
from shop_users.errors import UserNotFound, WrongPassword
from shop_users.models import User
from shop_users.passwords import open_passwords
from shop_users.service.accounts import Accounts

FUTURE = datetime.now(UTC) + timedelta(hours=1)


class Store:
    """One user; `overtaken` is how often another change comes first."""

    def __init__(self) -> None:
        self.user = User(uuid.uuid4(), "a@b.co", "ada", None, "customer", True, 1, FUTURE, FUTURE)  # noqa: FBT003 - fields in order
        self.password_hash = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("current one")
        self.events: list[Event] = []
        self.ended_sessions: list[bool] = []
        self.overtaken = False

    async def find(self, user_id: UUID) -> User | None:
        return self.user if user_id == self.user.id else None

    async def find_with_password(self, user_id: UUID) -> tuple[User, str] | None:
        return (self.user, self.password_hash) if user_id == self.user.id else None

    async def update(self, user: User, event: Event, *, password_hash: str | None = None, end_sessions: bool) -> bool:
        if self.overtaken:
            self.user = replace(self.user, version=user.version)
            return False
        self.user = user
        self.ended_sessions.append(end_sessions)
        self.events.append(event)
        return True


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
async def accounts(store: Store) -> Any:
    async with open_passwords(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)) as passwords:
        yield Accounts(store, passwords)  # type: ignore[arg-type] # the store in memory


def owner(store: Store) -> Principal:
    return Principal(str(store.user.id), "customer", 0)


async def test_time_never_goes_back(accounts: Accounts, store: Store) -> None:
    """Another replica's clock may be ahead."""
    changed = await accounts.change(owner(store), store.user.id, 1, {"username": "countess"})
    assert (changed.updated_at, changed.version) == (FUTURE, 2)
    assert [(event.sequence, event.type) for event in store.events] == [(2, "users.user_updated.v1")]


async def test_a_change_that_was_overtaken_is_412_with_the_current_tag(accounts: Accounts, store: Store) -> None:
    store.overtaken = True
    with pytest.raises(PreconditionFailed) as failed:
        await accounts.change(owner(store), store.user.id, 1, {"username": "countess"})
    assert failed.value.headers["ETag"] == '"2"'


async def test_only_what_ends_an_account_or_a_password_ends_sessions(accounts: Accounts, store: Store) -> None:
    await accounts.change(owner(store), store.user.id, 1, {"full_name": "Ada"})
    await accounts.change_password(owner(store), store.user.id, 2, current="current one", new="another one")
    await accounts.deactivate(owner(store), store.user.id, 3)
    assert store.ended_sessions == [False, True, True]
    assert [event.type.split(".")[1] for event in store.events] == ["user_updated", "user_updated", "user_deactivated"]


@pytest.mark.parametrize("current", [None, "", "wrong one"])
async def test_a_wrong_password_writes_nothing(accounts: Accounts, store: Store, current: str | None) -> None:
    with pytest.raises(WrongPassword):
        await accounts.change_password(owner(store), store.user.id, 1, current=current, new="another one")
    assert store.events == []


async def test_a_user_who_is_gone_is_not_found(accounts: Accounts) -> None:
    nobody = uuid.uuid4()
    asker = Principal(str(nobody), "customer", 0)
    with pytest.raises(UserNotFound):
        await accounts.change_password(asker, nobody, 1, current="x", new="another one")
    with pytest.raises(UserNotFound):
        await accounts.deactivate(asker, nobody, 1)

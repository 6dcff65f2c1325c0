"""Accounts: registering, reading, changing and deactivating users; each change is one version and one event."""

import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

from shop_common.events.users import Role, UserDeactivated, UserRegistered, UserState, UserUpdated
from shop_common.preconditions import check_version
from shop_common.tokens import Principal
from shop_users.errors import AccountDeactivated, UserNotFound, WrongPassword
from shop_users.models import User
from shop_users.passwords import Passwords
from shop_users.store.users import UserStore


class Accounts:
    """A user whom the asker may not see is UserNotFound, exactly like one who does not exist."""

    def __init__(self, store: UserStore, passwords: Passwords) -> None:
        self._store = store
        self._passwords = passwords

    async def register(
        self, *, email: str, username: str, password: str, full_name: str | None = None, role: Role = "customer"
    ) -> User:
        """Raises EmailTaken or UsernameTaken."""
        password_hash = await self._passwords.hash(password)
        now = datetime.now(UTC)
        user = User(
            id=uuid.uuid4(),
            email=email,
            username=username,
            full_name=full_name,
            role=role,
            is_active=True,
            version=1,
            created_at=now,
            updated_at=now,
        )
        await self._store.insert(user, password_hash, user.to_event(UserRegistered))
        return user

    async def get(self, asker: Principal, user_id: UUID) -> User:
        _require_visible(asker, user_id)
        return await self._get(user_id)

    async def newest(self, limit: int, after: tuple[datetime, UUID] | None) -> list[User]:
        """All users, newest first, after a position `(created_at, id)`."""
        return await self._store.newest(limit, after)

    async def change(self, asker: Principal, user_id: UUID, expected: int, changes: Mapping[str, str | None]) -> User:
        """Set `email`, `username` or `full_name`. Where nothing differs there is no new version and no event."""
        _require_visible(asker, user_id)
        user = await self._get(user_id)
        _require_changeable(user, expected)
        changed = replace(user, **changes)  # type: ignore[arg-type] # names and types are the schema's
        return user if changed == user else await self._save(changed, UserUpdated)

    async def change_password(
        self, asker: Principal, user_id: UUID, expected: int, *, current: str | None, new: str
    ) -> User:
        """Ends all sessions of the user. Only an administrator may set another's without knowing it."""
        _require_visible(asker, user_id)
        found = await self._store.find_with_password(user_id)
        if found is None:
            raise UserNotFound
        user, password_hash = found
        _require_changeable(user, expected)
        is_own = asker.user_id == str(user_id)
        if is_own and (current is None or not await self._passwords.verify(password_hash, current)):
            raise WrongPassword
        new_hash = await self._passwords.hash(new)
        return await self._save(user, UserUpdated, password_hash=new_hash, end_sessions=True)

    async def deactivate(self, asker: Principal, user_id: UUID, expected: int) -> User:
        """Ends all sessions of the user. Deactivating the version that is deactivated already changes nothing."""
        _require_visible(asker, user_id)
        user = await self._get(user_id)
        check_version(user.version, expected)
        if not user.is_active:
            return user
        return await self._save(replace(user, is_active=False), UserDeactivated, end_sessions=True)

    async def _get(self, user_id: UUID) -> User:
        user = await self._store.find(user_id)
        if user is None:
            raise UserNotFound
        return user

    async def _save(
        self, user: User, contract: type[UserState], *, password_hash: str | None = None, end_sessions: bool = False
    ) -> User:
        """Write `user`, which still has the version it was read with, as the next version."""
        now = max(datetime.now(UTC), user.updated_at)
        saved = replace(user, version=user.version + 1, updated_at=now)
        event = saved.to_event(contract)
        if not await self._store.update(saved, event, password_hash=password_hash, end_sessions=end_sessions):
            current = await self._get(user.id)
            check_version(current.version, user.version)  # raises: versions only go up
        return saved


def _require_visible(asker: Principal, user_id: UUID) -> None:
    if not asker.may_see(str(user_id)):
        raise UserNotFound


def _require_changeable(user: User, expected: int) -> None:
    check_version(user.version, expected)
    if not user.is_active:
        raise AccountDeactivated

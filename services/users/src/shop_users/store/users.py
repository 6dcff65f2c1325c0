"""Users: each change writes the row and its event in one statement."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from uuid import UUID

import asyncpg

from shop_common.events.envelope import Event
from shop_common.events.users import TOPIC
from shop_common.postgres import Postgres
from shop_users.errors import EmailTaken, UsernameTaken
from shop_users.models import User
from shop_users.store.outbox import Nudge, outbox_row

INSERT = """
WITH inserted AS (
  INSERT INTO users (id, email, username, full_name, role, is_active, version, created_at, updated_at, password_hash)
  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING id
)
INSERT INTO outbox (shard, event_id, aggregate_id, version, topic, key, headers, payload)
SELECT $11, $12, $13, $14, $15, $16, $17, $18 FROM inserted
"""
# No row where the version is not the expected one.
UPDATE = """
WITH updated AS (
  UPDATE users SET email = $3, username = $4, full_name = $5, is_active = $6, version = $7, updated_at = $8,
    password_hash = coalesce($9, password_hash)
  WHERE id = $1 AND version = $2 RETURNING id
)
INSERT INTO outbox (shard, event_id, aggregate_id, version, topic, key, headers, payload)
SELECT $10, $11, $12, $13, $14, $15, $16, $17 FROM updated RETURNING version
"""
END_SESSIONS = "DELETE FROM sessions WHERE user_id = $1"
FIND = """
SELECT id, email, username, full_name, role, is_active, version, created_at, updated_at FROM users WHERE id = $1
"""
FIND_WITH_HASH = """
SELECT id, email, username, full_name, role, is_active, version, created_at, updated_at, password_hash
FROM users WHERE id = $1
"""
NEWEST = """
SELECT id, email, username, full_name, role, is_active, version, created_at, updated_at FROM users
ORDER BY created_at DESC, id DESC LIMIT $1
"""
NEWEST_AFTER = """
SELECT id, email, username, full_name, role, is_active, version, created_at, updated_at FROM users
WHERE (created_at, id) < ($2, $3) ORDER BY created_at DESC, id DESC LIMIT $1
"""
HAS_ADMIN = "SELECT EXISTS (SELECT FROM users WHERE role = 'admin')"


class UserStore:
    def __init__(self, postgres: Postgres, nudge: Nudge) -> None:
        self._postgres = postgres
        self._nudge = nudge

    async def insert(self, user: User, password_hash: str, event: Event) -> None:
        """Raises EmailTaken or UsernameTaken, however close the race."""
        row = (
            user.id,
            user.email,
            user.username,
            user.full_name,
            user.role,
            user.is_active,
            user.version,
            user.created_at,
            user.updated_at,
        )
        with _taken():
            await self._postgres.execute(INSERT, *row, password_hash, *outbox_row(event, TOPIC))
        self._nudge()

    async def update(self, user: User, event: Event, *, password_hash: str | None = None, end_sessions: bool) -> bool:
        """Write `user` over the version before it; False where that is not the current one any more."""
        row = (
            user.id,
            user.version - 1,
            user.email,
            user.username,
            user.full_name,
            user.is_active,
            user.version,
            user.updated_at,
            password_hash,
        )
        arguments = (*row, *outbox_row(event, TOPIC))
        with _taken():
            if end_sessions:
                done = await self._update_and_end_sessions(user.id, arguments)
            else:
                done = await self._postgres.fetchval(UPDATE, *arguments) is not None
        if done:
            self._nudge()
        return done

    async def _update_and_end_sessions(self, user_id: UUID, arguments: tuple[object, ...]) -> bool:
        """Two statements: the second must see the sessions that began while the first waited for the user's row."""
        async with self._postgres.transaction() as transaction:
            if await transaction.fetchval(UPDATE, *arguments) is None:
                return False
            await transaction.execute(END_SESSIONS, user_id)
            return True

    async def find(self, user_id: UUID) -> User | None:
        row = await self._postgres.fetchrow(FIND, user_id)
        return None if row is None else _user(row)

    async def find_with_password(self, user_id: UUID) -> tuple[User, str] | None:
        """The user, and the hash of their password."""
        row = await self._postgres.fetchrow(FIND_WITH_HASH, user_id)
        return None if row is None else (_user(row), row["password_hash"])

    async def newest(self, limit: int, after: tuple[datetime, UUID] | None) -> list[User]:
        """Newest first, beginning after that position."""
        if after is None:
            rows = await self._postgres.fetch(NEWEST, limit)
        else:
            rows = await self._postgres.fetch(NEWEST_AFTER, limit, *after)
        return [_user(row) for row in rows]

    async def has_admin(self) -> bool:
        return bool(await self._postgres.fetchval(HAS_ADMIN))


@contextmanager
def _taken() -> Iterator[None]:
    """Two may ask for one name at once, so only the unique indexes decide."""
    try:
        yield
    except asyncpg.UniqueViolationError as error:
        if error.constraint_name == "users_email_key":
            raise EmailTaken from None
        if error.constraint_name == "users_username_key":
            raise UsernameTaken from None
        raise


def _user(row: asyncpg.Record) -> User:
    return User(
        id=row["id"],
        email=row["email"],
        username=row["username"],
        full_name=row["full_name"],
        role=row["role"],
        is_active=row["is_active"],
        version=row["version"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )

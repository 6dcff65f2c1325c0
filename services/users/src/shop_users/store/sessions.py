"""Credentials and sessions. A session is a family of refresh tokens, of which only the latest is good."""

from datetime import datetime, timedelta
from uuid import UUID

import asyncpg

from shop_common.events.users import Role
from shop_common.postgres import Postgres
from shop_users.models import Credentials

FIND_BY_EMAIL = "SELECT id, role, is_active, password_hash FROM users WHERE lower(email) = lower($1)"
FIND_BY_USERNAME = "SELECT id, role, is_active, password_hash FROM users WHERE lower(username) = lower($1)"
# The lock waits for a change of the same user, so no session outlives a password that was just replaced.
INSERT = """
INSERT INTO sessions (id, user_id, token_hash, expires_at)
SELECT $1, id, $4, $5 FROM users WHERE id = $2 AND password_hash = $3 AND is_active FOR SHARE
RETURNING id
"""
# A few of anybody's, at each login: so the table stays small without a job of its own.
DELETE_EXPIRED = """
DELETE FROM sessions WHERE id IN (
  SELECT id FROM sessions WHERE expires_at <= clock_timestamp() ORDER BY expires_at LIMIT 10 FOR UPDATE SKIP LOCKED
)
"""
# The one statement that makes an old token bad and a new one good. However often that happens, a session ends.
ROTATE = """
UPDATE sessions SET token_hash = $3, expires_at = least($4, sessions.created_at + $5)
FROM users
WHERE sessions.id = $1 AND sessions.token_hash = $2 AND sessions.expires_at > clock_timestamp()
  AND users.id = sessions.user_id AND users.is_active
RETURNING users.id, users.role
"""
DELETE = "DELETE FROM sessions WHERE id = $1 RETURNING user_id"
REHASH = "UPDATE users SET password_hash = $3 WHERE id = $1 AND password_hash = $2"


class SessionStore:
    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def find_credentials(self, name: str) -> Credentials | None:
        """By email address or by username, which has no @; case does not matter."""
        row = await self._postgres.fetchrow(FIND_BY_EMAIL if "@" in name else FIND_BY_USERNAME, name)
        return None if row is None else Credentials(row["id"], row["role"], row["is_active"], row["password_hash"])

    async def begin(self, session_id: UUID, credentials: Credentials, token_hash: bytes, expires_at: datetime) -> bool:
        """False where the user was deactivated or the hash replaced meanwhile."""
        user_id, password_hash = credentials.user_id, credentials.password_hash
        await self._postgres.execute(DELETE_EXPIRED)
        begun = await self._postgres.fetchval(INSERT, session_id, user_id, password_hash, token_hash, expires_at)
        return begun is not None

    async def rotate(
        self, session_id: UUID, old_hash: bytes, new_hash: bytes, expires_at: datetime, longest: timedelta
    ) -> tuple[UUID, Role] | None:
        """Whose session it is; None where the old token is not the good one. `longest` is from login to the end."""
        arguments = (session_id, old_hash, new_hash, expires_at, longest)
        row: asyncpg.Record | None = await self._postgres.fetchrow(ROTATE, *arguments)
        return None if row is None else (row["id"], row["role"])

    async def end(self, session_id: UUID) -> bool:
        """False where there was none."""
        return await self._postgres.fetchval(DELETE, session_id) is not None

    async def rehash(self, credentials: Credentials, password_hash: str) -> None:
        """Replace the hash of the same password; no new version, since nobody is told of hashes."""
        await self._postgres.execute(REHASH, credentials.user_id, credentials.password_hash, password_hash)

"""Sessions: a login gives a short access token and a refresh token that is good once.

A refresh token is base64url of 48 bytes: the session's id and 256 random bits. Only its SHA-256 is kept, and only that
of the latest, so any other that names the session was used before: the session ends, whoever of the two was the thief.
"""

import base64
import hashlib
import logging
import secrets
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from shop_common.events.users import Role
from shop_common.settings import TokenSettings
from shop_users.errors import InvalidCredentials, InvalidRefreshToken
from shop_users.keys import ACCESS_TOKEN_SECONDS, KeyRing
from shop_users.models import Credentials, TokenPair
from shop_users.passwords import Passwords
from shop_users.store.sessions import SessionStore

REFRESH_LIFETIME: Final = timedelta(days=14)
SESSION_LIFETIME: Final = timedelta(days=90)
"""After which a password is asked for again, however often its tokens were exchanged."""
_ID_BYTES: Final = 16
_SECRET_BYTES: Final = 32

_logger = logging.getLogger(__name__)


class Sessions:
    def __init__(self, store: SessionStore, passwords: Passwords, keys: KeyRing, tokens: TokenSettings) -> None:
        self._store = store
        self._passwords = passwords
        self._keys = keys
        self._tokens = tokens

    async def log_in(self, name: str, password: str) -> TokenPair:
        """By email address or username. Raises InvalidCredentials, after the same work for whatever reason."""
        session_id = uuid.uuid4()
        refresh_token, token_hash = _new_refresh_token(session_id)
        for _ in range(2):  # the hash may be replaced in between by one of the same password
            credentials = await self._check(name, password)
            if await self._store.begin(session_id, credentials, token_hash, _expiry()):
                break
        else:
            raise InvalidCredentials
        if self._passwords.is_outdated(credentials.password_hash):
            await self._store.rehash(credentials, await self._passwords.hash(password))
        return await self._pair(credentials.user_id, credentials.role, refresh_token)

    async def _check(self, name: str, password: str) -> Credentials:
        credentials = await self._store.find_credentials(name)
        is_right = await self._passwords.verify(credentials.password_hash if credentials else None, password)
        if credentials is None or not is_right or not credentials.is_active:
            raise InvalidCredentials
        return credentials

    async def refresh(self, refresh_token: str) -> TokenPair:
        """Exchange it for a new pair. Raises InvalidRefreshToken; one that was used before also ends its session."""
        session_id, old_hash = _parse(refresh_token)
        new_token, new_hash = _new_refresh_token(session_id)
        owner = await self._store.rotate(session_id, old_hash, new_hash, _expiry(), SESSION_LIFETIME)
        if owner is None:
            if await self._store.end(session_id):
                _logger.warning(
                    "session ended: a refresh token that is not good", extra={"session_id": str(session_id)}
                )
            raise InvalidRefreshToken
        return await self._pair(*owner, new_token)

    async def log_out(self, refresh_token: str) -> None:
        """End its session; nothing where there is none."""
        session_id, _ = _parse(refresh_token)
        await self._store.end(session_id)

    async def _pair(self, user_id: UUID, role: Role, refresh_token: str) -> TokenPair:
        now = int(time.time())
        claims = {
            "iss": self._tokens.issuer,
            "aud": self._tokens.audience,
            "sub": str(user_id),
            "role": role,
            "iat": now,
            "exp": now + ACCESS_TOKEN_SECONDS,
            "jti": uuid.uuid4().hex,
        }
        return TokenPair(await self._keys.sign(claims), refresh_token, ACCESS_TOKEN_SECONDS)


def _expiry() -> datetime:
    return datetime.now(UTC) + REFRESH_LIFETIME


def _new_refresh_token(session_id: UUID) -> tuple[str, bytes]:
    """The token, and what is kept of it."""
    raw = session_id.bytes + secrets.token_bytes(_SECRET_BYTES)
    return base64.urlsafe_b64encode(raw).decode(), hashlib.sha256(raw).digest()


def _parse(refresh_token: str) -> tuple[UUID, bytes]:
    """The session it names, and what is kept of it; the schema has seen that it is 64 characters of base64url."""
    raw = base64.urlsafe_b64decode(refresh_token)
    return UUID(bytes=raw[:_ID_BYTES]), hashlib.sha256(raw).digest()

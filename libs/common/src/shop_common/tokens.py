"""Access tokens: ES256 JWTs checked against a cached JWKS.

The issuer is asked again for a key not known, at most every 30 s, and every five minutes, so that a key it has
withdrawn is forgotten, and with it the tokens that key had signed. While it does not answer, the keys known stay good.
"""

import asyncio
import hashlib
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

import httpx
import jwt
from fastapi import Depends, Request
from fastapi.security import OAuth2PasswordBearer
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shop_common.errors import Forbidden, Unauthenticated, Unavailable
from shop_common.events.users import Role
from shop_common.settings import TokenSettings

ALGORITHM = "ES256"
FetchKeys = Callable[[], Awaitable[Mapping[str, Any]]]

_FETCH_SECONDS = 3.0
_REFETCH_SECONDS = 30.0
_RETRY_SECONDS = 1.0  # after a failure, while there is no key at all
_MAX_AGE_SECONDS = 300.0
_MAX_TOKEN_CHARACTERS = 4096
_REMEMBERED = 10_000
_LEEWAY_SECONDS = 5

_logger = logging.getLogger(__name__)


class _Claims(BaseModel):
    model_config = ConfigDict(strict=True)

    sub: Annotated[UUID, Field(strict=False)]
    role: Role
    exp: int


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks, as their token says."""

    user_id: str
    role: Role
    expires_at: int

    @property
    def is_admin(self) -> bool:
        return self.role == "admin"

    def may_see(self, user_id: str) -> bool:
        """Their own data, or anybody's for an administrator."""
        return self.is_admin or self.user_id == user_id


class KeyCache:
    """The public keys by `kid`. An unknown `kid` causes one fetch per 30 s, however many ask."""

    def __init__(self, fetch: FetchKeys, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._fetch = fetch
        self._clock = clock
        self._keys: dict[str, jwt.PyJWK] = {}
        self._current = False  # what the issuer publishes is known
        self._stale_at = self._next_fetch_at = -math.inf
        self._fetching = asyncio.Lock()

    def is_published(self, kid: str) -> bool:
        """As far as is known without asking; False where it is time to ask."""
        return kid in self._keys and self._clock() < self._stale_at

    async def find(self, kid: str) -> jwt.PyJWK | None:
        """The key, or None where the issuer does not publish it; Unavailable (503) if that cannot be known."""
        key = self._keys.get(kid)
        if key is not None and (self._clock() < self._stale_at or self._fetching.locked()):
            return key
        async with self._fetching:
            if self._clock() >= self._next_fetch_at and (kid not in self._keys or self._clock() >= self._stale_at):
                await self._refresh()
        if kid not in self._keys and not self._current:
            raise Unavailable("Tokens cannot be checked right now")
        return self._keys.get(kid)

    async def _refresh(self) -> None:
        # Set before the fetch: one whose request was cancelled has failed too, and must not be tried by all the others.
        self._current = False
        self._next_fetch_at = self._clock() + (_REFETCH_SECONDS if self._keys else _RETRY_SECONDS)
        try:
            async with asyncio.timeout(_FETCH_SECONDS):
                keys = _usable_keys(await self._fetch())
        except Exception as error:  # noqa: BLE001 - whatever the transport or the document does, the keys are not known
            _logger.warning("the issuer's keys cannot be read", extra={"error": type(error).__name__})
            return
        self._keys, self._current = keys, True
        self._next_fetch_at = self._clock() + _REFETCH_SECONDS
        self._stale_at = self._clock() + _MAX_AGE_SECONDS


def _usable_keys(document: Mapping[str, Any]) -> dict[str, jwt.PyJWK]:
    """By `kid`, without the keys that are for something else; LookupError if that leaves none."""
    keys = {}
    for published in document["keys"]:
        if published.get("kty") == "EC" and published.get("crv") == "P-256" and published.get("kid"):
            key = jwt.PyJWK(published, ALGORITHM)
            keys[str(key.key_id)] = key
    if not keys:
        raise LookupError("no key for " + ALGORITHM)
    return keys


def fetch_keys_from(client: httpx.AsyncClient, jwks_url: str) -> FetchKeys:
    """Read the JWKS over HTTP."""

    async def fetch() -> Mapping[str, Any]:
        response = await client.get(jwks_url)
        response.raise_for_status()
        document: Mapping[str, Any] = response.json()
        return document

    return fetch


class TokenVerifier:
    """Checks signature, algorithm, issuer, audience and expiry; remembers what it has checked until it expires."""

    def __init__(self, settings: TokenSettings, keys: KeyCache) -> None:
        self._settings = settings
        self._keys = keys
        self._remembered: OrderedDict[bytes, tuple[str, Principal]] = OrderedDict()

    async def verify(self, token: str) -> Principal:
        """The principal, or Unauthenticated (401) saying why not."""
        if len(token) > _MAX_TOKEN_CHARACTERS or not token.isascii():
            raise Unauthenticated("The token is not valid", error="invalid_token")
        digest = _digest(token)
        kid, principal = self._remembered.get(digest) or (_key_id(token), None)
        key = await self._keys.find(kid)
        if key is None:
            self._remembered.pop(digest, None)
            raise Unauthenticated("The token's key is not known", error="invalid_token")
        if principal is None:
            principal = await self._check(token, key)
            self._remembered[digest] = kid, principal
            if len(self._remembered) > _REMEMBERED:
                self._remembered.popitem(last=False)
        if principal.expires_at + _LEEWAY_SECONDS <= time.time():
            self._remembered.pop(digest, None)
            raise Unauthenticated("The token has expired", error="invalid_token")
        return principal

    def recall(self, token: str) -> Principal | None:
        """Who it was found to be of, if it is good still, by a key that is known to be published."""
        kid, principal = self._remembered.get(_digest(token), (None, None))
        if kid is None or principal is None or principal.expires_at <= time.time() or not self._keys.is_published(kid):
            return None
        return principal

    def remembers(self, token: str) -> bool:
        """Whether it was found good before, so that verifying it costs no signature check."""
        return _digest(token) in self._remembered

    async def _check(self, token: str, key: jwt.PyJWK) -> Principal:
        try:
            claims = _Claims.model_validate(await asyncio.to_thread(self._decode, token, key))
        except jwt.ExpiredSignatureError:
            raise Unauthenticated("The token has expired", error="invalid_token") from None
        except (jwt.PyJWTError, ValidationError, ValueError):
            raise Unauthenticated("The token is not valid", error="invalid_token") from None
        return Principal(str(claims.sub), claims.role, claims.exp)

    def _decode(self, token: str, key: jwt.PyJWK) -> dict[str, Any]:
        return jwt.decode(
            token,
            key,
            algorithms=[ALGORITHM],
            audience=self._settings.audience,
            issuer=self._settings.issuer,
            leeway=_LEEWAY_SECONDS,
            options={"require": ["exp", "iat", "iss", "aud", "sub"]},
        )


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _key_id(token: str) -> str:
    try:
        kid = jwt.get_unverified_header(token).get("kid")
    except (jwt.PyJWTError, ValueError):
        raise Unauthenticated("The token is not valid", error="invalid_token") from None
    if not isinstance(kid, str):
        raise Unauthenticated("The token names no key", error="invalid_token")
    return kid


_bearer = OAuth2PasswordBearer(tokenUrl="/v1/auth/token", auto_error=False)


async def current_principal(request: Request, token: Annotated[str | None, Depends(_bearer)]) -> Principal:
    """FastAPI dependency: who asks; 401 without a valid token. Needs `resources.tokens` in the application's state."""
    if token is None:
        raise Unauthenticated("Send Authorization: Bearer and an access token")
    verifier: TokenVerifier = request.app.state.resources.tokens
    return await verifier.verify(token)


async def current_admin(principal: Annotated[Principal, Depends(current_principal)]) -> Principal:
    """FastAPI dependency: an administrator; 403 for anybody else."""
    if not principal.is_admin:
        raise Forbidden("Only administrators may do this")
    return principal


CurrentPrincipal = Annotated[Principal, Depends(current_principal)]
CurrentAdmin = Annotated[Principal, Depends(current_admin)]

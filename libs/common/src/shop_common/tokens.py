"""Access tokens: ES256 JWTs checked against a cached JWKS, which is asked for an unknown key at most every 30 s."""

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import httpx
import jwt
from fastapi import Depends, Request
from fastapi.security import OAuth2PasswordBearer
from pydantic import BaseModel, ConfigDict, ValidationError

from shop_common.errors import Forbidden, Unauthenticated, Unavailable
from shop_common.settings import TokenSettings

ALGORITHM = "ES256"
Role = Literal["customer", "admin"]
FetchKeys = Callable[[], Awaitable[Mapping[str, Any]]]

_REFETCH_SECONDS = 30.0
_FETCH_SECONDS = 3.0
_MAX_TOKEN_CHARACTERS = 4096
_REMEMBERED = 10_000
_LEEWAY_SECONDS = 5

_logger = logging.getLogger(__name__)


class _Claims(BaseModel):
    model_config = ConfigDict(strict=True)

    sub: str
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

    def __init__(self, fetch: FetchKeys) -> None:
        self._fetch = fetch
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_at: float | None = None
        self._fetching = asyncio.Lock()

    async def find(self, kid: str) -> jwt.PyJWK | None:
        """The key, or None where the issuer does not publish it; Unavailable (503) if that cannot be known."""
        if key := self._keys.get(kid):
            return key
        async with self._fetching:
            if kid not in self._keys and self._may_fetch():
                await self._refresh()
        return self._keys.get(kid)

    def _may_fetch(self) -> bool:
        return self._fetched_at is None or time.monotonic() - self._fetched_at >= _REFETCH_SECONDS

    async def _refresh(self) -> None:
        try:
            async with asyncio.timeout(_FETCH_SECONDS):
                document = await self._fetch()
            keys = [jwt.PyJWK(key, ALGORITHM) for key in document["keys"]]
        except (
            httpx.HTTPError,
            OSError,
            TimeoutError,
            jwt.PyJWTError,
            LookupError,
            TypeError,
            ValueError,
        ) as error:
            _logger.warning("the issuer's keys cannot be read", extra={"error": type(error).__name__})
            if not self._keys:
                raise Unavailable("Tokens cannot be checked right now") from error
            keys = list(self._keys.values())
        self._keys = {key.key_id: key for key in keys if key.key_id}
        self._fetched_at = time.monotonic()


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
        self._remembered: OrderedDict[bytes, Principal] = OrderedDict()

    async def verify(self, token: str) -> Principal:
        """The principal, or Unauthenticated (401) saying why not."""
        if len(token) > _MAX_TOKEN_CHARACTERS:
            raise Unauthenticated("The token is too long", error="invalid_token")
        digest = hashlib.sha256(token.encode()).digest()
        principal = self._remembered.get(digest)
        if principal is None:
            principal = await self._check(token)
            self._remembered[digest] = principal
            if len(self._remembered) > _REMEMBERED:
                self._remembered.popitem(last=False)
        if principal.expires_at + _LEEWAY_SECONDS <= time.time():
            self._remembered.pop(digest, None)
            raise Unauthenticated("The token has expired", error="invalid_token")
        return principal

    async def _check(self, token: str) -> Principal:
        try:
            kid = jwt.get_unverified_header(token).get("kid")
            key = await self._keys.find(kid) if isinstance(kid, str) else None
            if key is None:
                raise Unauthenticated("The token's key is not known", error="invalid_token")
            payload = await asyncio.to_thread(self._decode, token, key)
            claims = _Claims.model_validate(payload)
        except jwt.ExpiredSignatureError:
            raise Unauthenticated("The token has expired", error="invalid_token") from None
        except (jwt.PyJWTError, ValidationError, ValueError):
            raise Unauthenticated("The token is not valid", error="invalid_token") from None
        return Principal(claims.sub, claims.role, claims.exp)

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

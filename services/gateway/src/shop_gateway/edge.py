"""The edge, as pure ASGI around every route: who asks, whether they may already ask again, and how much is left."""

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shop_common.errors import AppError, Unauthenticated
from shop_common.problems import app_error_response
from shop_common.tokens import Principal
from shop_gateway.errors import RateLimited
from shop_gateway.models import CALLER, Caller
from shop_gateway.rate_limit.limiter import RateLimiter
from shop_gateway.rate_limit.policy import PolicyName, Verdict
from shop_gateway.resources import Resources

_PROBES = frozenset({"/livez", "/readyz", "/health"})
_NETWORK_BITS = 64
STRICTER: Final[Mapping[tuple[str, str], PolicyName]] = {
    ("POST", "/v1/auth/token"): "login",
    ("POST", "/v1/users"): "registration",
}
"""Public routes that count under a second policy, too."""
ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"frame-ancestors 'none'"),
)
"""For what browsers may be made to do with an answer."""
Networks = Sequence[IPv4Network | IPv6Network]


class Edge:
    """Leaves the `Caller` in the scope; whether a route needs a principal is the route's business.

    A user is counted by their token, anybody else by address. So is who asks for a `public` route, given as method and
    path: else each account that one makes oneself would bring a quota of its own for guessing passwords. A 304 is given
    back. What is answered around the edge (408, 413, 431, 503 under load) is not counted and carries no such fields.
    """

    def __init__(self, app: ASGIApp, trusted_proxies: Networks, public: Collection[tuple[str, str]]) -> None:
        self._app = app
        self._trusted_proxies = trusted_proxies
        self._public = frozenset(public)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _PROBES:
            await self._app(scope, receive, send)
            return
        resources: Resources = scope["app"].state.resources
        limiter = resources.limiter
        scope[CALLER], verdicts = await self._admit(scope, resources)

        async def send_with_fields(message: Message) -> None:
            if message["type"] == "http.response.start":
                free = message["status"] == HTTPStatus.NOT_MODIFIED
                counted = [limiter.give_back(verdict) for verdict in verdicts] if free else verdicts
                given = {name for name, _ in message["headers"]}
                fields = [field for field in (*ALWAYS, *limit_fields(counted)) if field[0] not in given]
                message["headers"] = [*message["headers"], *fields]
            await send(message)

        refusing = [verdict for verdict in verdicts if not verdict.allowed]
        if not refusing:
            await self._app(scope, receive, send_with_fields)
            return
        spent = ", ".join(verdict.policy.name for verdict in refusing)
        refused = RateLimited(f"Quota spent: {spent}; the next request may come in {_wait_seconds(refusing)} s")
        await app_error_response(refused)(scope, receive, send_with_fields)

    async def _admit(self, scope: Scope, resources: Resources) -> tuple[Caller, Sequence[Verdict]]:
        """Who asks, and what is left of whose quotas.

        A token that was not found good before costs a signature check, so its address pays in advance, and has it back
        if the token is good: a flood of bad ones is refused like any other.
        """
        arrived = time.monotonic()
        limiter = resources.limiter
        route = scope["method"], scope["path"]
        credentials = "" if route in self._public else _header(scope, b"authorization")
        token = _bearer_token(credentials)
        if token and (known := await _recall(token, resources)):
            return Caller(known, None, arrived), [await limiter.take(f"user:{known.user_id}")]
        peer = scope["client"][0] if scope["client"] else ""
        address = f"address:{client_address(peer, _header(scope, b'x-forwarded-for'), self._trusted_proxies)}"
        if route in STRICTER:
            return Caller(None, None, arrived), await _take_both(limiter, address, STRICTER[route])
        verdict = await limiter.take(address)
        if not credentials or not verdict.allowed:
            return Caller(None, None, arrived), [verdict]
        try:
            if not token:
                raise Unauthenticated("Send Authorization: Bearer and an access token")
            principal = await _verify(token, resources)
        except AppError as refusal:
            return Caller(None, refusal, arrived), [verdict]
        limiter.give_back(verdict)
        return Caller(principal, None, arrived), [await limiter.take(f"user:{principal.user_id}")]


async def _recall(token: str, resources: Resources) -> Principal | None:
    """Whom a token was found good for before; None where it is one more that is not known to be good, or not now."""
    tokens = resources.tokens
    principal = tokens.recall(token)
    if principal is not None:
        return None if principal.user_id in resources.revocations else principal
    if tokens.remembers(token):
        with suppress(AppError):  # expired or withdrawn since
            return await _verify(token, resources)
    return None


async def _verify(token: str, resources: Resources) -> Principal:
    principal = await resources.tokens.verify(token)
    if principal.user_id in resources.revocations:
        raise Unauthenticated("This account has been deactivated", error="invalid_token")
    return principal


async def _take_both(limiter: RateLimiter, client: str, name: PolicyName) -> Sequence[Verdict]:
    """Under the default policy and this one; what only one of them refuses is not counted by the other."""
    verdicts = await asyncio.gather(limiter.take(client), limiter.take(client, name))
    if all(verdict.allowed for verdict in verdicts):
        return verdicts
    return [limiter.give_back(verdict) if verdict.allowed else verdict for verdict in verdicts]


def _bearer_token(credentials: str) -> str:
    scheme, _, token = credentials.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _header(scope: Scope, name: bytes) -> str:
    """All values of a header as one list, as HTTP reads repeated ones."""
    return ", ".join(value.decode("latin-1") for key, value in scope["headers"] if key == name)


def limit_fields(verdicts: Sequence[Verdict]) -> list[tuple[bytes, bytes]]:
    """`RateLimit-Policy` and `RateLimit` as draft-ietf-httpapi-ratelimit-headers-11 has them: lists, a policy each."""
    policies = ", ".join([verdict.policy.field for verdict in verdicts])
    left = ", ".join([f'"{each.policy.name}";r={each.remaining};t={each.wait_seconds}' for each in verdicts])
    fields = [(b"ratelimit-policy", policies.encode()), (b"ratelimit", left.encode())]
    refusing = [verdict for verdict in verdicts if not verdict.allowed]
    return [*fields, (b"retry-after", str(_wait_seconds(refusing)).encode())] if refusing else fields


def _wait_seconds(refusing: Sequence[Verdict]) -> int:
    return max(verdict.wait_seconds for verdict in refusing)


def client_address(peer: str, forwarded_for: str, trusted: Networks) -> str:
    """Who sent it: the nearest address that no trusted proxy has. One IPv6 client has a whole /64."""
    hops = [peer, *(hop.strip() for hop in reversed(forwarded_for.split(",")))] if trusted else [peer]
    nearest = ""
    for hop in hops:
        try:
            address = ip_address(hop)
        except ValueError:
            break
        if isinstance(address, IPv6Address):
            # How a socket for both families names an IPv4 peer; 6to4 would give each IPv4 address 65,536 networks.
            address = address.ipv4_mapped or address.sixtofour or address
        nearest = str(address)
        if isinstance(address, IPv6Address):
            nearest = str(IPv6Network((address, _NETWORK_BITS), strict=False))
        if not any(address in network for network in trusted):
            break
    return nearest or peer

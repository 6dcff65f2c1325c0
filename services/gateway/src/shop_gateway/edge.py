"""The edge, as pure ASGI around every route: who asks, whether they may already ask again, and how much is left."""

import asyncio
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shop_common.errors import AppError, Unauthenticated
from shop_common.problems import app_error_response
from shop_common.tokens import TokenVerifier
from shop_gateway.errors import RateLimited
from shop_gateway.models import CALLER, Caller
from shop_gateway.rate_limit import RateLimiter, Verdict
from shop_gateway.resources import Resources

_PROBES = frozenset({"/livez", "/readyz", "/health"})
_NETWORK_BITS = 64
_ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"frame-ancestors 'none'"),
)
"""For what browsers may be made to do with an answer."""
Networks = Sequence[IPv4Network | IPv6Network]


class Edge:
    """Leaves the `Caller` in the scope; whether a route needs a principal is the route's business.

    A user is counted by their token, anybody else by address. So is who asks for a `public` route, given as method and
    path: else each account that one makes oneself would bring a quota of its own for guessing passwords.
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
        scope[CALLER], verdict = await self._admit(scope, resources.tokens, resources.limiter)
        fields = [*_ALWAYS, *_limit_fields(resources.limiter.policy, verdict)]

        async def send_with_fields(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(field for field in fields if field[0] not in given)]
            await send(message)

        if verdict.allowed:
            await self._app(scope, receive, send_with_fields)
        else:
            refused = RateLimited(f"The quota is spent; the next request may come in {verdict.wait_seconds} s")
            await app_error_response(refused)(scope, receive, send_with_fields)

    async def _admit(self, scope: Scope, tokens: TokenVerifier, limiter: RateLimiter) -> tuple[Caller, Verdict]:
        """Who asks, and what is left of whose quota.

        A token that was not found good before costs a signature check, so its address pays in advance, and has it back
        if the token is good: a flood of bad ones is refused like any other.
        """
        arrived = time.monotonic()
        is_public = (scope["method"], scope["path"]) in self._public
        credentials = "" if is_public else _header(scope, b"authorization")
        token = _bearer_token(credentials)
        if token and tokens.remembers(token):
            with suppress(AppError):  # expired or withdrawn since: then it is one more that is not known to be good
                principal = await tokens.verify(token)
                return Caller(principal, None, arrived), await limiter.take(f"user:{principal.user_id}")
        peer = scope["client"][0] if scope["client"] else ""
        address = f"address:{client_address(peer, _header(scope, b'x-forwarded-for'), self._trusted_proxies)}"
        verdict = await limiter.take(address)
        if not credentials or not verdict.allowed:
            return Caller(None, None, arrived), verdict
        try:
            if not token:
                raise Unauthenticated("Send Authorization: Bearer and an access token")
            principal = await tokens.verify(token)
        except AppError as refusal:
            return Caller(None, refusal, arrived), verdict
        user = f"user:{principal.user_id}"
        verdict, _ = await asyncio.gather(limiter.take(user), limiter.give_back(address))  # one round trip for both
        return Caller(principal, None, arrived), verdict


def _bearer_token(credentials: str) -> str:
    scheme, _, token = credentials.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _header(scope: Scope, name: bytes) -> str:
    """All values of a header as one list, as HTTP reads repeated ones."""
    return ", ".join(value.decode("latin-1") for key, value in scope["headers"] if key == name)


def _limit_fields(policy: str, verdict: Verdict) -> list[tuple[bytes, bytes]]:
    """`RateLimit-Policy` and `RateLimit` as draft-ietf-httpapi-ratelimit-headers-11 has them."""
    left = f'"default";r={verdict.remaining};t={verdict.wait_seconds}'
    fields = [(b"ratelimit-policy", policy.encode()), (b"ratelimit", left.encode())]
    return fields if verdict.allowed else [*fields, (b"retry-after", str(verdict.wait_seconds).encode())]


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
            address = address.ipv4_mapped or address  # how a socket for both families names an IPv4 peer
        nearest = str(address)
        if isinstance(address, IPv6Address):
            nearest = str(IPv6Network((address, _NETWORK_BITS), strict=False))
        if not any(address in network for network in trusted):
            break
    return nearest or peer

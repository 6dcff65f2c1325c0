"""The edge, as pure ASGI around every route: who asks, whether they may already ask again, and how much is left."""

import time
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shop_common.errors import AppError, Unauthenticated
from shop_common.problems import app_error_response
from shop_common.tokens import TokenVerifier
from shop_gateway.errors import RateLimited
from shop_gateway.models import CALLER, Caller
from shop_gateway.rate_limit import Verdict
from shop_gateway.resources import Resources

_PROBES = frozenset({"/livez", "/readyz", "/health"})
_NETWORK_BITS = 64
Networks = Sequence[IPv4Network | IPv6Network]


class Edge:
    """Leaves the `Caller` in the scope; whether a route needs a principal is the route's business."""

    def __init__(self, app: ASGIApp, trusted_proxies: Networks) -> None:
        self._app = app
        self._trusted_proxies = trusted_proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _PROBES:
            await self._app(scope, receive, send)
            return
        resources: Resources = scope["app"].state.resources
        caller = await self._identify(scope, resources.tokens)
        scope[CALLER] = caller
        limiter = resources.limiter
        verdict = await limiter.take(caller.client)
        fields = _limit_fields(limiter.policy, verdict)

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *fields]
            await send(message)

        if verdict.allowed:
            await self._app(scope, receive, send_with_limits)
        else:
            refused = RateLimited(f"The quota is spent; the next request may come in {verdict.wait_seconds} s")
            await app_error_response(refused)(scope, receive, send_with_limits)

    async def _identify(self, scope: Scope, tokens: TokenVerifier) -> Caller:
        arrived = time.monotonic()
        principal, refusal = None, None
        if credentials := _header(scope, b"authorization"):
            scheme, _, token = credentials.partition(" ")
            try:
                if scheme.lower() != "bearer":
                    raise Unauthenticated("Send Authorization: Bearer and an access token")
                principal = await tokens.verify(token.strip())
            except AppError as error:
                refusal = error
        if principal is not None:
            return Caller(principal, None, f"user:{principal.user_id}", arrived)
        peer = scope["client"][0] if scope["client"] else ""
        address = client_address(peer, _header(scope, b"x-forwarded-for"), self._trusted_proxies)
        return Caller(None, refusal, f"address:{address}", arrived)


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
        nearest = hop
        if isinstance(address, IPv6Address):
            nearest = str(IPv6Network((address, _NETWORK_BITS), strict=False))
        if not any(address in network for network in trusted):
            break
    return nearest or peer

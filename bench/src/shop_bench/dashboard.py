"""The one dashboard that is asked for: what the services answer for its parts, and how it must come back."""

import json
from collections.abc import Mapping
from typing import Any, Final

from shop_common.testing import TokenIssuer

USER_ID: Final = "6f0c3d1e-9b7a-4c52-8f6d-2a1b3c4d5e6f"
PATH: Final = f"/v1/users/{USER_ID}/dashboard"
TOKEN_SECONDS: Final = 3600
_HEADERS: Final = (
    "Date: Sat, 21 Nov 2026 09:00:00 GMT",
    "Cache-Control: private, no-cache",
    "Vary: Authorization",
    "X-Request-Id: 0f8fad5bd9cb469fa16570867728950e",
    "X-Process-Time: 0.001234",
)
_USER: Final = {
    "id": USER_ID,
    "email": "ada@example.com",
    "username": "ada",
    "full_name": "Ada Lovelace",
    "role": "customer",
    "is_active": True,
    "version": 3,
    "created_at": "2026-01-02T03:04:05.678901Z",
    "updated_at": "2026-02-03T04:05:06.789012Z",
}
_STATS: Final = {"orders": 3, "paid": 2, "cancelled": 0, "spent": [{"amount": 12_990, "currency": "EUR"}]}


def _order(number: int) -> dict[str, Any]:
    prices = {"TEA-EARL-GREY": 1999, "CUP-WHITE": 1250}
    items = [
        {"sku": sku, "quantity": number, "unit_price": {"amount": amount, "currency": "EUR"}}
        for sku, amount in prices.items()
    ]
    return {
        "id": f"0190c9a2-7a6b-7c11-9d53-00000000000{number}",
        "user_id": USER_ID,
        "status": "paid" if number > 1 else "confirmed",
        "items": items,
        "total": {"amount": number * sum(prices.values()), "currency": "EUR"},
        "version": 3,
        "created_at": "2026-03-04T05:06:07.890123Z",
        "updated_at": "2026-03-04T05:06:08.901234Z",
    }


PARTS: Final[Mapping[str, Any]] = {
    "user": _USER,
    "orders": {"items": [_order(3), _order(2), _order(1)], "next_cursor": None},
    "stats": _STATS,
}


def is_right(body: bytes) -> bool:
    """Whether an answer has all three parts as the services gave them; it may say more."""
    try:
        answer = json.loads(body)
    except ValueError:
        return False
    return isinstance(answer, dict) and {name: answer.get(name) for name in PARTS} == PARTS


async def answers(issuer: TokenIssuer) -> dict[str, str]:
    """What the stub writes, by path: the parts, the key that checks tokens, a sink for traces, an idle stream."""
    return {
        f"/v1/users/{USER_ID}": _response(PARTS["user"], 'ETag: "3"'),
        f"/v1/users/{USER_ID}/stats": _response(PARTS["stats"], 'ETag: "8c1f6a5e0b7d4923a1c5e8f7d6b4a390"'),
        "/v1/orders": _response(PARTS["orders"]),
        "/.well-known/jwks.json": _response(await issuer.jwks()),
        "/v1/traces": "HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n",
        "/v1/me/events": "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n:\n\n",
    }


def _response(document: Any, *more: str) -> str:
    body = json.dumps(document, separators=(",", ":"))
    own = ("Content-Type: application/json", f"Content-Length: {len(body)}")
    return "\r\n".join(["HTTP/1.1 200 OK", *own, *_HEADERS, *more, "", body])

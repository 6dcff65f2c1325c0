"""What is said of the API as a whole."""

from typing import Any, Final

SECURITY: Final = "An access token of `POST /v1/auth/token`, sent as `Authorization: Bearer …`"
_DESCRIPTION: Final = """\
Users, their orders, and both at once.

- **Errors** are problem documents (RFC 9457), all of them: programs read `code`, people `detail`, and `errors` names \
the fields at fault. Besides those listed, a path that is not here is 404, a method 405, and what nobody foresaw 500.
- **Ids** are UUIDs. **Times** are RFC 3339 in UTC and end in `_at`. **Money** is an integer in minor units, with its \
currency.
- **Lists** come newest first, in pages: `next_cursor` goes into `cursor` with the same filters, and is null at the end.
- **Changes** name what they change by `If-Match`, so that nobody overwrites what they have not seen; an \
`Idempotency-Key` makes a second try answer like the first.
- **Quotas** are in `RateLimit-Policy` and `RateLimit`. A 304 is free. Wherever there is a `Retry-After`, heed it.
- **Reading what one has written**: send the `Consistency-Token` of an answer with a request for a dashboard.
- **Deadlines**: `X-Deadline-Ms` goes all the way, so nothing is done for an answer that comes too late."""
HEAD: Final[dict[str, Any]] = {
    "openapi": "3.1.0",
    "info": {
        "title": "Shop API",
        "version": "1.0.0",
        "summary": "Users, their orders, and both at once",
        "description": _DESCRIPTION,
        "contact": {"name": "The shop-platform authors"},
        "license": {"name": "MIT License", "identifier": "MIT"},
    },
    "servers": [{"url": "/", "description": "Where this document comes from"}],
    "tags": [
        {"name": "users", "description": "Accounts, and what the users service has heard of their orders"},
        {"name": "sessions", "description": "Passwords into tokens, and the keys that check them"},
        {"name": "orders", "description": "Placed, confirmed, paid, cancelled or rejected"},
        {"name": "dashboard", "description": "Everything about one user at once, and word of its changes"},
    ],
}

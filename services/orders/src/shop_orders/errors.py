"""What the orders service answers when it does not do what was asked.

NotFound 404 ── OrderNotFound · UserNotFound
BadRequest 400 ── IdempotencyKeyMissing · IdempotencyKeyNotValid
Conflict 409 ── OrderStateConflict
Unprocessable 422 ── IdempotencyKeyReused · MixedCurrencies
Unavailable 503 ── OrderContended
"""

from shop_common.errors import BadRequest, Conflict, NotFound, Unavailable, Unprocessable


class OrderNotFound(NotFound):
    """There is no such order, or it is somebody else's."""

    code = "order_not_found"


class UserNotFound(NotFound):
    """The orders asked for are somebody else's."""

    code = "user_not_found"


class IdempotencyKeyMissing(BadRequest):
    code, title = "idempotency_key_missing", "Idempotency-Key required"


class IdempotencyKeyNotValid(BadRequest):
    code, title = "idempotency_key_not_valid", "Idempotency-Key not valid"


class IdempotencyKeyReused(Unprocessable):
    """The key belongs to another request."""

    code, title = "idempotency_key_reused", "Idempotency-Key used before"


class MixedCurrencies(Unprocessable):
    code = "mixed_currencies"


class OrderStateConflict(Conflict):
    """The order's state does not allow this move."""

    code, title = "order_state_conflict", "Not possible in this state"


class OrderContended(Unavailable):
    """Others kept changing the order; nothing was decided."""

    code = "order_contended"

"""What the gateway itself answers when it cannot pass on somebody else's answer.

UpstreamError (each knows which upstream)
├── UpstreamUnreachable 502 · UpstreamMalformed 502 · UpstreamFailed 502
└── UpstreamBusy 503 · CircuitOpen 503 · UpstreamDeadline 504
RateLimited 429 · TooManyStreams 429 · InvalidPath 422
"""

from shop_common.errors import AppError, TooManyRequests, Unprocessable


class UpstreamError(AppError):
    """No answer that could be passed on."""

    status, code, title = 502, "upstream_error", "Bad gateway"


class UpstreamUnreachable(UpstreamError):
    """No connection, or one that broke before the answer was whole."""

    code = "upstream_unreachable"


class UpstreamMalformed(UpstreamError):
    """An answer that breaks HTTP, is no JSON, or is larger than allowed."""

    code = "upstream_malformed"


class UpstreamFailed(UpstreamError):
    """An error of an optional section, where the client asked for all or nothing."""

    code = "upstream_failed"


class UpstreamBusy(UpstreamError):
    """It has as many calls under way as it can bear, or every connection to it is in use; nothing was sent."""

    status, code, title = 503, "upstream_busy", "Temporarily unavailable"


class CircuitOpen(UpstreamError):
    """It has failed too often to be asked just now; nothing was sent."""

    status, code, title = 503, "circuit_open", "Temporarily unavailable"


class UpstreamDeadline(UpstreamError):
    status, code, title = 504, "upstream_deadline", "Deadline exceeded"


class RateLimited(TooManyRequests):
    code = "rate_limited"


class TooManyStreams(TooManyRequests):
    code, title = "too_many_streams", "Too many streams"


class InvalidPath(Unprocessable):
    """An identifier in the path that is no UUID: the answer the owner would give, without asking it."""

    code = "validation_failed"

"""What the gateway's parts hand each other: who asks, an upstream's answer, a dashboard's sections."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from shop_common.errors import AppError, Unauthenticated
from shop_common.tokens import Principal

Owner = Literal["users", "orders"]
CALLER = "shop.caller"
"""The key of the `Caller` in an ASGI scope."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a principal, or why there is none."""

    principal: Principal | None
    refusal: AppError | None
    arrived: float
    """`time.monotonic()` when the gateway began with the request."""

    def authenticated(self) -> Principal:
        """The principal; otherwise 401, or 503 where tokens cannot be checked."""
        if self.principal is None:
            raise self.refusal or Unauthenticated("Send Authorization: Bearer and an access token")
        return self.principal


class Call(NamedTuple):
    """One request onward."""

    method: str
    route: str
    """The path as the table has it, which names the call in traces."""
    target: str
    """The path and the query to ask for."""
    headers: Mapping[str, str]
    body: bytes | None = None
    repeatable: bool = False
    """Made twice, it does no more than once: a read, or a command with an idempotency key that its owner heeds."""


class Answer(NamedTuple):
    """What an upstream answered: only headers that may be passed on, names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    projected_offset: int | None = None
    """Of statistics: the last record of the orders' topic about the user that is in them."""


class SectionProblem(NamedTuple):
    status: int
    code: str
    detail: str


class SectionOutcome(NamedTuple):
    """One section as it came about: a JSON object's bytes, or what went wrong; a stale one may have both."""

    name: str
    seconds: float
    body: bytes | None
    problem: SectionProblem | None
    as_of: float = 0.0
    """The monotonic clock before its owner was asked."""
    source: Literal["memory", "redis", "owner"] = "owner"
    state: Literal["fresh", "stale", "failed"] = "fresh"


class Ask(NamedTuple):
    """Who wants whose dashboard, and how."""

    user_id: str
    headers: Mapping[str, str]
    """The credentials, to be sent onward."""
    arrived: float
    strict: bool = False
    """All sections or an error."""
    live: bool = False
    """Nothing from memory."""
    at_least: Mapping[str, int] = {}
    """Versions it must not be older than, by aggregate."""


@dataclass(frozen=True, slots=True, eq=False)
class Whole:
    """A dashboard all of whose sections are fresh."""

    body: bytes
    etag: str
    section_status: str
    as_of: float
    """Of its oldest section."""
    answers: dict[tuple[int, bool], tuple[bytes, bytes]] = field(default_factory=dict)
    """Head and body by status, and whether it is compressed: made when first asked for."""

"""What the service is about: users, their credentials and sessions, and the statistics of their orders."""

from dataclasses import asdict, dataclass
from datetime import datetime
from uuid import UUID

from shop_common.events.envelope import Event
from shop_common.events.users import Role, UserState
from shop_common.tracing import current_traceparent


@dataclass(frozen=True, slots=True)
class User:
    id: UUID
    email: str
    username: str
    full_name: str | None
    role: Role
    is_active: bool
    version: int
    created_at: datetime
    updated_at: datetime

    def to_event(self, contract: type[UserState]) -> Event:
        """The event that tells of this version, caused by the work under way."""
        return contract(**asdict(self)).to_event(current_traceparent())


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a login is checked against."""

    user_id: UUID
    role: Role
    is_active: bool
    password_hash: str


@dataclass(frozen=True, slots=True)
class Spending:
    amount: int
    currency: str


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of the orders heard of; `spent` counts the paid ones."""

    orders: int
    paid: int
    cancelled: int
    spent: tuple[Spending, ...]
    projected_offset: int | None
    """Of the last record of `orders.events.v1` about this user that they reflect; None where that is not known."""


@dataclass(frozen=True, slots=True)
class TokenPair:
    access_token: str
    refresh_token: str
    expires_in: int
    """Seconds until the access token expires."""

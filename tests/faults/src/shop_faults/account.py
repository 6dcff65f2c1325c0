"""What a customer has and knows, and what they ask for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shop_faults.ledger import Kind


@dataclass(slots=True)
class Account:
    user_id: str
    email: str
    bearer: dict[str, str]
    refresh_token: str
    version: int = 1
    orders: dict[str, "Order"] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    """The consistency token of the last answer about each aggregate, the newest ones last."""


@dataclass(slots=True)
class Order:
    version: int
    status: str


@dataclass(frozen=True, slots=True)
class Operation:
    """A command that can be given again, with the same key, until its outcome is known."""

    kind: Kind
    key: str
    account: Account | None
    method: str
    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any] | None
    amount: int = 0

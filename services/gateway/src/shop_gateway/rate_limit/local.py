"""Counting in this process alone, while Redis is away."""

from collections import OrderedDict
from itertools import islice
from typing import Final

from shop_gateway.rate_limit.policy import Policy

MAX_CLIENTS: Final = 100_000
_LOOKED_AT: Final = 8


class LocalCounts:
    """When each client's quota will be whole, as the script keeps it; moments are in µs."""

    def __init__(self) -> None:
        self._full_at: OrderedDict[tuple[Policy, str], int] = OrderedDict()

    def take(self, policy: Policy, client: str, now: int) -> tuple[bool, int]:
        """Whether one request more is allowed, and the client's debt."""
        full_at = max(self._full_at.get((policy, client), 0), now)
        if full_at + policy.interval - now > policy.limit:
            return False, full_at - now
        full_at += policy.interval
        self._full_at[policy, client] = full_at
        self._full_at.move_to_end((policy, client))
        if len(self._full_at) > MAX_CLIENTS:
            self._forget_one()
        return True, full_at - now

    def give_back(self, policy: Policy, client: str) -> None:
        if full_at := self._full_at.get((policy, client)):
            self._full_at[policy, client] = full_at - policy.interval

    def _forget_one(self) -> None:
        """Whose quota is whole soonest of a few: a crowd of newcomers does not rid anybody of a debt."""
        looked_at = list(islice(self._full_at, _LOOKED_AT))
        soonest = min(looked_at, key=self._full_at.__getitem__)
        for key in looked_at:
            self._full_at.move_to_end(key)
        del self._full_at[soonest]

"""What this process has taken from Redis for its busy clients, to count in memory for a second.

Who asks again within the second gets a lease, and each one used up is followed by one twice as large, within a tenth of
the quota and what the script gives. Who asks rarely is charged for what it asked and nothing else. Who asks without a
pause gets the next one before this one is used up or over, and so never waits for Redis.
"""

from collections import OrderedDict
from typing import Final

from shop_gateway.rate_limit.policy import MICROSECONDS, Policy

LEASE_SECONDS: Final = 1.0
_LOW_SECONDS: Final = 0.25
_WORTH_RENEWING: Final = 16
MAX_CLIENTS: Final = 10_000
"""Further ones are counted one by one: nobody loses a lease to them."""


class _Lease:
    """Of one client; there is one without anything in it, too, for whoever has asked lately."""

    __slots__ = ("ends", "full_at", "is_low", "left", "size")

    def __init__(self) -> None:
        self.left = 0
        self.size = 0
        """Requests it was taken for, those that waited for it too."""
        self.ends = 0
        self.is_low = False
        """More has been asked for."""
        self.full_at = 0
        """When the quota would be whole if nothing were left."""


class Leases:
    """Moments are in µs of any clock that only goes forward."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._most = policy.requests // 10
        self._held: OrderedDict[str, _Lease] = OrderedDict()  # the first ends first

    def take(self, client: str, now: int) -> int | None:
        """The client's debt with one request more; None where Redis has to be asked."""
        lease = self._held.get(client)
        if lease is None or not lease.left or now >= lease.ends:
            return None
        lease.left -= 1
        lease.full_at = max(lease.full_at, now) + self.policy.interval
        return lease.full_at - now

    def runs_low(self, client: str, now: int) -> bool:
        """Whether to ask for more now, before somebody has to wait for it: true once for each lease."""
        lease = self._held[client]
        if lease.is_low or lease.size < _WORTH_RENEWING:
            return False
        lease.is_low = lease.left * 2 <= lease.size or now >= lease.ends - int(_LOW_SECONDS * MICROSECONDS)
        return lease.is_low

    def give_back(self, client: str, now: int) -> bool:
        """Keep one request more for this client; False where there is no place for it."""
        lease = self._held.get(client)
        if lease is None or now >= lease.ends or lease.left >= self._most:
            return False
        lease.left += 1
        lease.full_at -= self.policy.interval
        return True

    def renew(self, client: str, needed: int, now: int) -> tuple[int, int]:
        """What is to be given back, and how many requests to lease beside those that wait, if any do."""
        lease = self._held.get(client)
        if lease is None:
            return 0, 0
        used, unused = lease.size - lease.left, 0
        if now >= lease.ends:
            unused, wished = lease.left, used - needed
        elif needed or used >= lease.left:
            wished = 2 * lease.size - needed - lease.left
        else:
            unused = max(lease.left - 2 * used, 0)
            wished = 2 * used - lease.left
        lease.left -= unused
        return unused, max(min(wished, self._most - lease.left), 0)

    def grant(self, client: str, counted: int, leased: int, debt: int, now: int) -> None:
        """The script has counted and leased so many, which leaves the client with this debt."""
        lease = self._held.get(client)
        if lease is None:
            if not leased and len(self._held) >= MAX_CLIENTS:
                return
            lease = self._held[client] = _Lease()
        lease.left += leased
        lease.size = counted + lease.left
        lease.is_low = False
        lease.ends = now + int(LEASE_SECONDS * MICROSECONDS)
        lease.full_at = now + debt - lease.left * self.policy.interval
        self._held.move_to_end(client)

    def end(self, now: float) -> list[tuple[str, int]]:
        """Forget the leases that have ended by now; what was left of them, by client."""
        unused = []
        while self._held and next(iter(self._held.values())).ends <= now:
            client, lease = self._held.popitem(last=False)
            if lease.left:
                unused.append((client, lease.left))
        return unused

    @property
    def holders(self) -> int:
        """Clients that could be counted in memory now."""
        return sum(lease.left > 0 for lease in self._held.values())

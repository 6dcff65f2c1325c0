"""What the topics tell the gateway: whose data changed, and up to where each user's changes have been heard."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from shop_common.events import orders, users
from shop_common.events.contracts import CONTRACTS
from shop_common.events.envelope import Event, MalformedEvent
from shop_common.events.users import UserDeactivated

LOOK_BACK_SECONDS: Final = {users.TOPIC: 3600.0, orders.TOPIC: 60.0}
"""How far before its start a gateway reads: for users as long as any access token may live."""
PROJECTION: Final = "projection"
"""Stands for the statistics of a user, which have no version but how far they are projected."""
_USERS_REMEMBERED: Final = 100_000


class Change(NamedTuple):
    """One record about one user."""

    user_id: str
    topic: str
    offset: int
    aggregate_id: str
    version: int
    deactivated: bool

    @property
    def is_order(self) -> bool:
        return self.topic == orders.TOPIC


def find_change(record: Any) -> Change | None:
    """What a record tells; None where it tells nothing that the gateway could show."""
    try:
        event = Event.from_kafka(record)
    except MalformedEvent:
        return None
    if event.type not in CONTRACTS:
        return None
    deactivated = event.type == UserDeactivated.TYPE
    return Change(event.key, record.topic, record.offset, event.subject, event.sequence, deactivated)


class RecentChanges:
    """The last offset heard of each user who changed lately, by topic; the longest silent are forgotten first."""

    def __init__(self, users_remembered: int = _USERS_REMEMBERED) -> None:
        self._users: OrderedDict[str, dict[str, int]] = OrderedDict()
        self._room = users_remembered

    def add(self, change: Change) -> None:
        offsets = self._users.setdefault(change.user_id, {})
        offsets[change.topic] = max(change.offset, offsets.get(change.topic, -1))
        self._users.move_to_end(change.user_id)
        if len(self._users) > self._room:
            self._users.popitem(last=False)

    def clear(self) -> None:
        """The offsets may have been those of another log."""
        self._users.clear()

    def offsets(self, user_id: str) -> Mapping[str, int]:
        return self._users.get(user_id, {})

    def versions(self, user_id: str) -> Mapping[str, int]:
        """What the cache has to know of a user it begins with."""
        offset = self.offsets(user_id).get(orders.TOPIC)
        return {} if offset is None else {PROJECTION: offset + 1}

"""Users' events at the door: what becomes of each, and that the relay hears of it afterwards."""

import uuid
from datetime import UTC, datetime

import pytest

from shop_common.events.users import UserDeactivated, UserRegistered, UserState, UserUpdated
from shop_orders.consumers import UserEvents
from shop_orders.models import User

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Orders:
    def __init__(self, log: list[object], failure: Exception | None = None) -> None:
        self.log = log
        self.failure = failure

    async def follow_user(self, user: User, cause: str) -> None:
        if self.failure:
            raise self.failure
        self.log.append((user, cause))


def state(contract: type[UserState], *, active: bool) -> UserState:
    return contract(
        id=uuid.UUID(int=7),
        email="ada@example.com",
        username="ada",
        full_name=None,
        role="customer",
        is_active=active,
        version=3,
        created_at=NOW,
        updated_at=NOW,
    )


@pytest.mark.parametrize(
    ("contract", "active"),
    [(UserRegistered, True), (UserUpdated, True), (UserUpdated, False), (UserDeactivated, False)],
)
async def test_each_event_is_followed_and_then_the_relay_is_woken(contract: type[UserState], active: bool) -> None:  # noqa: FBT001 - a parameter of the test
    log: list[object] = []
    handlers = UserEvents(Orders(log), lambda: log.append("moved")).handlers  # type: ignore[arg-type] # as much of it as is called
    data = state(contract, active=active)
    event = data.to_event()
    await handlers[contract](event, data)
    assert log == [(User(str(data.id), active, 3), f"event {event.id}"), "moved"]


async def test_a_failure_is_the_consumers() -> None:
    log: list[object] = []
    events = UserEvents(Orders(log, TimeoutError()), lambda: log.append("moved"))  # type: ignore[arg-type] # as above
    data = state(UserRegistered, active=True)
    with pytest.raises(TimeoutError):
        await events.on_user_changed(data.to_event(), data)
    assert log == []

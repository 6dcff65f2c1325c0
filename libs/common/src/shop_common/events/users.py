"""What the users service tells: a user's full state after each change."""

from typing import Final, Literal
from uuid import UUID

from pydantic import Field

from shop_common.events.contract import Contract

TOPIC: Final = "users.events.v1"

Role = Literal["customer", "admin"]


class UserState(Contract):
    TOPIC = TOPIC
    SOURCE = "users"

    email: str = Field(min_length=3, max_length=320)
    username: str = Field(min_length=1, max_length=50)
    full_name: str | None = Field(max_length=200)
    role: Role
    is_active: bool

    @property
    def user(self) -> UUID:
        return self.id


class UserRegistered(UserState):
    TYPE = "users.user_registered.v1"


class UserUpdated(UserState):
    TYPE = "users.user_updated.v1"


class UserDeactivated(UserState):
    TYPE = "users.user_deactivated.v1"

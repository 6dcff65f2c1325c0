"""HTTP shapes of the users service."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from email_validator import SPECIAL_USE_DOMAIN_NAMES
from pydantic import BaseModel, ConfigDict, EmailStr, Field

from shop_common.events.users import Role

_PRINTABLE = r"^[^\x00-\x1f\x7f-\x9f]*$"
_USERNAME = r"^[A-Za-z0-9._-]+$"


def _special_use_names() -> str:
    """`[tT][eE][sS][tT]|…`: patterns of JSON schemas have no flag for ignoring case."""
    return "|".join("".join(f"[{c}{c.upper()}]" for c in name) for name in SPECIAL_USE_DOMAIN_NAMES)


# For readers of the schema only: `format: email` allows top-level domains nobody has, and labels nobody can have.
_DOMAIN = rf"^(?!.*[.@]..--).*\.(?!(?:{_special_use_names()})$)[^.@]+$"

Email = Annotated[EmailStr, Field(max_length=254, examples=["ada@example.com"], json_schema_extra={"pattern": _DOMAIN})]
Username = Annotated[str, Field(min_length=3, max_length=50, pattern=_USERNAME, examples=["ada"])]
FullName = Annotated[str, Field(min_length=1, max_length=200, pattern=_PRINTABLE, examples=["Ada Lovelace"])]
NewPassword = Annotated[str, Field(min_length=8, max_length=128, pattern=_PRINTABLE, examples=["a long enough secret"])]
# What a login or a change is checked against: anything that could once have been set.
GivenPassword = Annotated[str, Field(min_length=1, max_length=128, pattern=_PRINTABLE)]
RefreshToken = Annotated[str, Field(min_length=64, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class Registration(_Body):
    email: Email
    username: Username
    password: NewPassword
    full_name: FullName | None = None


def _hide_defaults(schema: dict[str, Any]) -> None:
    for field in schema["properties"].values():
        field.pop("default", None)


class UserPatch(_Body):
    """A merge patch (RFC 7396): what is absent stays, `full_name: null` clears."""

    # The defaults are never read, since only the fields that were sent count, and never shown.
    model_config = ConfigDict(json_schema_extra=_hide_defaults)

    email: Email = ""
    username: Username = ""
    full_name: FullName | None = None


class PasswordChange(_Body):
    new_password: NewPassword
    current_password: GivenPassword | None = Field(
        default=None, description="Required, except of an administrator who sets another user's"
    )


class RefreshRequest(_Body):
    refresh_token: RefreshToken


class LoginForm(BaseModel):
    """OAuth2's password grant; parameters not named here are ignored, as RFC 6749 asks."""

    grant_type: Literal["password"] = "password"
    username: str = Field(min_length=1, max_length=254, pattern=_PRINTABLE, description="Email address or username")
    password: GivenPassword


class UserOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    email: str
    username: str
    full_name: str | None
    role: Role
    is_active: bool
    version: int = Field(ge=1, description="Also the ETag, in quotes")
    created_at: datetime
    updated_at: datetime


class UserPage(BaseModel):
    """Newest first."""

    model_config = ConfigDict(from_attributes=True)

    items: list[UserOut]
    next_cursor: str | None = Field(description="Null at the end")


class Spent(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    amount: int = Field(description="In minor units: 1999 is 19.99 EUR", examples=[1999])
    currency: str = Field(examples=["EUR"])


class StatisticsOut(BaseModel):
    """Of all orders that the users service has heard of."""

    model_config = ConfigDict(from_attributes=True)

    orders: int
    paid: int
    cancelled: int
    spent: list[Spent] = Field(description="On paid orders, by currency; currencies without spending are left out")


class TokenPairOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    access_token: str = Field(description="A JWT signed with ES256")
    refresh_token: str = Field(description="Good once, for 14 days")
    token_type: Literal["bearer"] = "bearer"  # noqa: S105 - the kind of token, not one
    expires_in: int = Field(description="Seconds until the access token expires", examples=[900])


class PublicKey(BaseModel):
    kty: Literal["EC"]
    crv: Literal["P-256"]
    x: str
    y: str
    kid: str
    alg: Literal["ES256"]
    use: Literal["sig"]


class KeySet(BaseModel):
    """A JSON Web Key Set (RFC 7517)."""

    keys: list[PublicKey]

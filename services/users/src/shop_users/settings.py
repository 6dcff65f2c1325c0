"""Settings of the users service: what each of its commands reads from `USERS_*`."""

from pathlib import Path
from typing import Literal

from pydantic import EmailStr, Field, SecretStr

from shop_common.kafka.settings import KafkaSettings
from shop_common.settings import (
    Block,
    HttpServerSettings,
    Port,
    PostgresSettings,
    Seconds,
    ServiceSettings,
    SigningKey,
    TokenSettings,
    settings_config,
)


class AdminSettings(Block):
    """The first administrator, made by the migrate command."""

    email: EmailStr
    """Their address."""
    username: str = Field(default="admin", pattern=r"^[A-Za-z0-9._-]{3,50}$")
    """Their name."""
    password: SecretStr = Field(min_length=8, max_length=128)
    """Their first one; where there is an administrator already, nothing is changed."""


class SmtpSettings(Block):
    """The mail server."""

    host: str = Field(min_length=1)
    """Its name or address."""
    port: Port = 587
    """Its port."""
    security: Literal["none", "starttls", "tls"] = "none"
    """Whether the conversation is encrypted, and from when on."""
    username: str | None = None
    """For its login; without one there is none."""
    password: SecretStr | None = None
    """For its login."""
    sender: EmailStr = "welcome@shop.example"
    """Whom mails are from."""
    timeout_seconds: Seconds = 5
    """Of each step of the conversation."""


class DatabaseSettings(ServiceSettings):
    model_config = settings_config("USERS_")

    postgres: PostgresSettings


class MigrateSettings(DatabaseSettings):
    """What `python -m shop_users.migrate` reads; the administrator's password is nobody else's business."""

    admin: AdminSettings | None = None


class KeySettings(ServiceSettings):
    """What `python -m shop_users.keys` reads."""

    model_config = settings_config("USERS_")

    signing_keys_dir: Path
    """One `<kid>.pem` per key, where kid is `20261121T010203Z-<random>`."""
    key_activation_seconds: int = Field(default=600, ge=0, le=86_400)
    """How long a new key is only published before it signs; longer than anybody caches the key set."""


class Settings(DatabaseSettings, KeySettings):
    """What the API and the worker read."""

    http: HttpServerSettings = HttpServerSettings(port=8001)
    kafka: KafkaSettings
    tokens: TokenSettings = TokenSettings()
    cursor_key: SigningKey
    """Signs the cursors of lists; the same in all replicas."""
    smtp: SmtpSettings | None = None
    """Where welcome mails go; without it none are sent."""

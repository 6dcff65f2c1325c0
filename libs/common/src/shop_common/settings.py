"""Settings of a process: one frozen class per service, one block per backend, from the environment or secret files.

A service declares `class Settings(ServiceSettings)` with `model_config = settings_config("USERS_")` and reads it with
`load_settings(Settings)`, which turns a bad value into one line and exit code 78 (EX_CONFIG).
"""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

EX_CONFIG = 78
_MIN_KEY_CHARACTERS = 32

Seconds = Annotated[float, Field(gt=0, le=3600)]
Port = Annotated[int, Field(ge=1, le=65535)]


_HOSTS = re.compile(r"[A-Za-z0-9._-]*(:\d{1,5})?(,[A-Za-z0-9._-]*(:\d{1,5})?)*|\[[0-9a-fA-F:.]+\](:\d{1,5})?")


def _http_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # its message quotes what may be a password
        valid = False
    if not valid:
        raise ValueError("must be an http:// or https:// address")
    return value.rstrip("/")


def _http_url_or_nothing(value: str) -> str:
    return _http_url(value) if value else ""


HttpUrlText = Annotated[str, AfterValidator(_http_url), WithJsonSchema({"type": "string", "format": "uri"})]
SigningKey = Annotated[SecretStr, Field(min_length=_MIN_KEY_CHARACTERS)]


class Block(BaseModel):
    """One backend's settings; unknown names are errors so that a typing mistake is seen at start."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class HttpServerSettings(Block):
    host: str = "127.0.0.1"
    """Address listened on; 0.0.0.0 in a container."""
    port: Port = 8000
    """Port listened on."""
    metrics_port: Port | None = None
    """Where `/metrics` is served instead, for a process whose own port is public."""
    workers: int = Field(default=1, ge=1, le=64)
    """Processes that share the port."""
    limit_concurrency: int = Field(default=1000, ge=1)
    """Requests under way per worker above which the next is answered 503."""
    max_connections: int = Field(default=4000, ge=1, le=1_000_000)
    """Per worker; for one more, one on which nothing is under way is closed."""
    limit_max_requests: int = Field(default=1_000_000, ge=1)
    """Requests after which a worker is recycled, plus a tenth of jitter; only with several workers."""
    keep_alive_seconds: int = Field(default=75, ge=1, le=3600)
    """How long a connection may be idle."""
    drain_seconds: float = Field(default=0, ge=0, le=300)
    """Served on, though not ready, after the signal to stop: what a balancer takes to notice."""
    graceful_seconds: int = Field(default=15, ge=1, le=300)
    """What requests under way have after that."""
    max_body_bytes: int = Field(default=256 * 1024, ge=1024, le=16 * 1024 * 1024)
    """A longer body is refused with 413."""
    body_seconds: Seconds = 10
    """How long a client may take to send its body before it gets 408."""
    deadline_seconds: Seconds = 10
    """Total time for one request before it gets 504; a shorter `X-Deadline-Ms` from upstream is honoured."""


class HttpClientSettings(Block):
    """A pool of connections to one upstream, in each process."""

    connect_seconds: Seconds = 0.5
    """Of connecting, and of waiting for a free connection."""
    total_seconds: Seconds = 5
    """Of one call, where its deadline is not nearer."""
    max_connections: int = Field(default=200, ge=1, le=10_000)
    """Connections at most."""
    max_idle_per_host: int = Field(default=100, ge=1, le=10_000)
    """Connections kept for the next call."""
    idle_seconds: Seconds = 4
    """Shorter than servers drain: one that closes tells only those connections that are used meanwhile."""


class _PoolSettings(Block):
    """A pool of connections, in each process."""

    min_size: int = Field(default=2, ge=0, le=500)
    """Connections kept open."""
    max_size: int = Field(default=10, ge=1, le=500)
    """Connections at most; who needs one more waits."""
    connect_seconds: Seconds = 5
    """Of opening a connection."""
    acquire_seconds: Seconds = 2
    """Of waiting for a connection before the answer is 503."""
    command_seconds: Seconds = 5
    """Of one statement or command."""
    idle_seconds: Seconds = 300
    """After which a connection that nobody used is closed."""

    @model_validator(mode="after")
    def _sizes_in_order(self) -> Self:
        if self.min_size > self.max_size:
            raise ValueError("min_size must not be above max_size")
        return self


class PostgresSettings(_PoolSettings):
    dsn: str = Field(pattern=r"^postgres(ql)?://", repr=False)
    """Of PostgreSQL itself or of a pooler in session mode: relays hold locks in their sessions."""
    password: SecretStr | None = None
    """In place of one in the DSN."""


class MongoSettings(_PoolSettings):
    url: SecretStr
    """As in mongodb://mongo:27017/?replicaSet=rs0."""
    database: str = Field(pattern=r"^[A-Za-z0-9_-]{1,63}$")
    """Its name."""
    max_size: int = Field(default=50, ge=1, le=500)
    """Connections at most, each with a thread; who needs one more waits."""


class RedisSettings(Block):
    url: SecretStr
    """As in redis://redis:6379/0."""
    max_connections: int = Field(default=50, ge=1, le=10_000)
    """In each process."""
    acquire_seconds: Seconds = 0.5
    """Of waiting for a connection."""
    command_seconds: Seconds = 0.5
    """Of connecting, and of one command."""
    idle_check_seconds: Seconds = 30
    """A connection idle for so long is tried before it is used."""


class TracingSettings(Block):
    endpoint: Annotated[str, AfterValidator(_http_url_or_nothing)] = ""
    """OTLP over HTTP, for example http://127.0.0.1:4318; empty: spans are not recorded."""
    sample_ratio: float = Field(default=0.1, ge=0, le=1)
    """Share of requests recorded among those that arrive without a sampling decision."""

    @property
    def recorded_share(self) -> float:
        """`sample_ratio` where spans go anywhere."""
        return self.sample_ratio if self.endpoint else 0.0


class TokenSettings(Block):
    issuer: str = Field(default="https://shop.example", min_length=1)
    """The claim `iss`; the same in every service."""
    audience: str = Field(default="shop", min_length=1)
    """The claim `aud`; the same in every service."""


class VerifierSettings(TokenSettings):
    jwks_url: HttpUrlText
    """Where the public keys are: the users service's /.well-known/jwks.json."""


class ServiceSettings(BaseSettings):
    """What every process has; services add their backends."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """The least that is logged; one JSON object a line on standard output."""
    http: HttpServerSettings = HttpServerSettings()
    tracing: TracingSettings = TracingSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - part of the signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments win over the environment, the environment over secret files; `.env` is the cluster's business."""
        return init_settings, env_settings, _SecretFiles(settings_cls)


class _SecretFiles(EnvSettingsSource):
    """Variables as files named in lower case. The directory is shared: only the service's own prefix is read."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        directory = Path(os.environ.get(f"{self.env_prefix}SECRETS_DIR", "/run/secrets"))
        prefix = self.env_prefix.lower()
        files = directory.iterdir() if directory.is_dir() else ()
        return {file.name: _read_secret(file) for file in files if file.name.startswith(prefix) and file.is_file()}


def _read_secret(file: Path) -> str:
    try:
        return file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the secret file {file.name} cannot be read ({type(error).__name__})") from error


def settings_config(prefix: str) -> SettingsConfigDict:
    """The model_config of a service whose variables start with `prefix`, e.g. `USERS_`."""
    return SettingsConfigDict(
        env_prefix=prefix,
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,  # HTTP__HOST alone keeps a service's own default HTTP__PORT
        frozen=True,
    )


SettingsT = TypeVar("SettingsT", bound=BaseSettings)


def load_settings(settings_class: type[SettingsT]) -> SettingsT:
    """Read the settings, or name each bad one on a line of standard error and exit with 78. Values are not shown."""
    prefix = str(settings_class.model_config.get("env_prefix", ""))
    try:
        return settings_class()
    except ValidationError as invalid:
        for error in invalid.errors(include_input=False, include_url=False, include_context=False):
            name = prefix + "__".join(str(part) for part in error["loc"]).upper()
            _complain(f"{name}: {error['msg']}; correct it in the environment or a secret file")
    except SettingsError as unreadable:
        _complain(f"{prefix}*: {unreadable}; see .env.example")
    sys.exit(EX_CONFIG)


def _complain(line: str) -> None:
    print(line.replace("\n", " "), file=sys.stderr)  # noqa: T201 - the command line's answer


def printable_address(url: str) -> str:
    """Hosts, ports and path: what may be printed of an address that may hold a password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "the address given"
    hosts = parts.netloc.rpartition("@")[2]
    return f"{hosts}{parts.path}" if _HOSTS.fullmatch(hosts) and "@" not in parts.path else "the address given"

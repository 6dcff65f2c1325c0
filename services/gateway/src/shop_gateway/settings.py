"""The gateway's settings, from `GATEWAY_*`."""

from ipaddress import IPv4Network, IPv6Network
from typing import Self

from pydantic import Field, model_validator

from shop_common.kafka.settings import KafkaSettings
from shop_common.settings import (
    Block,
    HttpClientSettings,
    HttpServerSettings,
    HttpUrlText,
    RedisSettings,
    Seconds,
    ServiceSettings,
    TokenSettings,
    settings_config,
)


class EdgeTokenSettings(TokenSettings):
    jwks_url: HttpUrlText | None = None
    """Where the public keys are; the users service's well-known path unless set."""


class QuotaSettings(Block):
    requests: int = Field(default=100, ge=1, le=1_000_000)
    """How many may be spent at once; they come back evenly."""
    window_seconds: int = Field(default=60, ge=1, le=86_400)
    """In which a spent quota has come back."""


class RateLimitSettings(QuotaSettings):
    """Requests of a user, or of an address without a token, over all gateways together."""

    login: QuotaSettings = QuotaSettings(requests=10)
    """Logins from one address."""
    registration: QuotaSettings = QuotaSettings(requests=5)
    """Registrations from one address."""
    key_prefix: str = "shop:gateway:rate:"
    """Of its keys in Redis."""
    redis_seconds: Seconds = 0.5
    """How long Redis may take before the process counts by itself."""


class CacheSettings(Block):
    """How old a section of a dashboard may be, in seconds since its owner was asked."""

    max_bytes: int = Field(default=128 * 1024 * 1024, ge=1024 * 1024)
    """In each process."""
    fresh_seconds: Seconds = 2
    """While Kafka does not tell of changes."""
    proven_seconds: Seconds = 30
    """While it does and has told of none."""
    revalidate_seconds: Seconds = 15
    """Older than that by so much, it is still answered, marked as stale, and asked for anew meanwhile."""
    error_seconds: Seconds = 600
    """Answered, marked as stale, where its owner cannot be asked."""
    lag_seconds: Seconds = 2
    """How far behind the topics may be before nothing counts as told."""
    shared_seconds: Seconds = 60
    """How long Redis keeps it."""
    key_prefix: str = "shop:gateway:cache:"
    """Of its keys in Redis."""
    redis_seconds: Seconds = 0.1
    """How long Redis may take before it is done without."""


class StreamSettings(Block):
    """Server-sent events."""

    per_user: int = Field(default=5, ge=1, le=1000)
    """In each process."""
    per_process: int = Field(default=3000, ge=1, le=1_000_000)
    """Each takes a connection: `HTTP__MAX_CONNECTIONS` has to be larger."""
    heartbeat_seconds: Seconds = 15
    """How often a stream that has nothing to tell says that it is there."""


class CorsSettings(Block):
    origins: tuple[str, ...] = ()
    """Origins whose pages may call, such as https://shop.example; none by default."""


class UpstreamSettings(HttpClientSettings):
    max_answer_bytes: int = Field(default=2 * 1024 * 1024, ge=1024, le=64 * 1024 * 1024)
    """A longer answer is refused with 502 before it is taken into memory."""


class DeadlineSettings(Block):
    dashboard_seconds: Seconds = 1.0
    """From the request's arrival to the dashboard's last section."""
    section_seconds: Seconds = 0.8
    """Of one section's call."""


class Settings(ServiceSettings):
    model_config = settings_config("GATEWAY_")

    http: HttpServerSettings = HttpServerSettings(metrics_port=8010)
    """Its own port is public, so its metrics are elsewhere."""
    users_url: HttpUrlText
    """Where the users service is."""
    orders_url: HttpUrlText
    """Where the orders service is."""
    redis: RedisSettings
    tokens: EdgeTokenSettings = EdgeTokenSettings()
    rate_limit: RateLimitSettings = RateLimitSettings()
    cors: CorsSettings = CorsSettings()
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    """Networks whose `X-Forwarded-For` is believed."""
    upstream: UpstreamSettings = UpstreamSettings()
    deadlines: DeadlineSettings = DeadlineSettings()
    cache: CacheSettings = CacheSettings()
    streams: StreamSettings = StreamSettings()
    kafka: KafkaSettings

    @model_validator(mode="after")
    def _leave_room_beside_streams(self) -> Self:
        if self.streams.per_process >= self.http.max_connections:
            raise ValueError("HTTP__MAX_CONNECTIONS must be above STREAMS__PER_PROCESS: each stream takes a connection")
        return self

    @property
    def jwks_url(self) -> str:
        return self.tokens.jwks_url or f"{self.users_url}/.well-known/jwks.json"

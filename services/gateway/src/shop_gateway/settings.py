"""The gateway's settings, from `GATEWAY_*`."""

from ipaddress import IPv4Network, IPv6Network

from pydantic import Field

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
    window_seconds: int = Field(default=60, ge=1, le=86_400)


class RateLimitSettings(QuotaSettings):
    login: QuotaSettings = QuotaSettings(requests=10)
    """Logins from one address."""
    registration: QuotaSettings = QuotaSettings(requests=5)
    """Registrations from one address."""
    key_prefix: str = "shop:gateway:rate:"
    redis_seconds: Seconds = 0.5
    """How long Redis may take before the process counts by itself."""


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


class Settings(ServiceSettings):
    model_config = settings_config("GATEWAY_")

    http: HttpServerSettings = HttpServerSettings(metrics_port=8010)
    """Its own port is public, so its metrics are elsewhere."""
    users_url: HttpUrlText
    orders_url: HttpUrlText
    redis: RedisSettings
    tokens: EdgeTokenSettings = EdgeTokenSettings()
    rate_limit: RateLimitSettings = RateLimitSettings()
    cors: CorsSettings = CorsSettings()
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    """Networks whose `X-Forwarded-For` is believed."""
    upstream: UpstreamSettings = UpstreamSettings()
    deadlines: DeadlineSettings = DeadlineSettings()

    @property
    def jwks_url(self) -> str:
        return self.tokens.jwks_url or f"{self.users_url}/.well-known/jwks.json"

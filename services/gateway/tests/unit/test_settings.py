"""The gateway's settings from the environment."""

import pytest
from pydantic import ValidationError

from shop_gateway.settings import Settings


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("GATEWAY_USERS_URL", "http://127.0.0.1:8001/")
    monkeypatch.setenv("GATEWAY_ORDERS_URL", "http://127.0.0.1:8002")
    monkeypatch.setenv("GATEWAY_REDIS__URL", "redis://127.0.0.1:16379/0")
    monkeypatch.setenv("GATEWAY_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:19092")
    return monkeypatch


def test_the_defaults(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("GATEWAY_HTTP__HOST", "0.0.0.0")  # noqa: S104 - a value to read back
    settings = Settings()
    assert (settings.http.port, settings.http.metrics_port) == (8000, 8010)
    assert (settings.rate_limit.requests, settings.rate_limit.window_seconds) == (100, 60)
    assert (settings.rate_limit.login.requests, settings.rate_limit.registration.requests) == (10, 5)
    assert (settings.deadlines.dashboard_seconds, settings.deadlines.section_seconds) == (1.0, 0.8)
    assert settings.jwks_url == "http://127.0.0.1:8001/.well-known/jwks.json"
    assert settings.trusted_proxies == settings.cors.origins == ()


def test_lists_and_blocks_are_read(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("GATEWAY_CORS__ORIGINS", '["https://shop.example"]')
    environment.setenv("GATEWAY_TRUSTED_PROXIES", '["10.0.0.0/8", "::1/128"]')
    environment.setenv("GATEWAY_TOKENS__JWKS_URL", "http://keys.internal/jwks")
    environment.setenv("GATEWAY_RATE_LIMIT__LOGIN__WINDOW_SECONDS", "30")
    settings = Settings()
    assert settings.cors.origins == ("https://shop.example",)
    assert [str(network) for network in settings.trusted_proxies] == ["10.0.0.0/8", "::1/128"]
    assert settings.jwks_url == "http://keys.internal/jwks"
    assert (settings.rate_limit.login.requests, settings.rate_limit.login.window_seconds) == (10, 30)


def test_streams_leave_room_for_other_connections(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("GATEWAY_STREAMS__PER_PROCESS", "10000")
    with pytest.raises(ValidationError, match="HTTP__MAX_CONNECTIONS must be above STREAMS__PER_PROCESS"):
        Settings()
    environment.setenv("GATEWAY_HTTP__MAX_CONNECTIONS", "10001")
    assert Settings().streams.per_process == 10_000


@pytest.mark.parametrize(
    ("name", "value"),
    [("USERS_URL", "users:8001"), ("RATE_LIMIT__REQUESTS", "0"), ("TRUSTED_PROXIES", '["everyone"]')],
)
def test_a_bad_value_is_refused(environment: pytest.MonkeyPatch, name: str, value: str) -> None:
    environment.setenv(f"GATEWAY_{name}", value)
    with pytest.raises(ValidationError):
        Settings()

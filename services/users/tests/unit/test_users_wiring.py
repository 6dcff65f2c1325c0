"""What the service promises before it serves anything: settings, the OpenAPI document, the order of closing."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from shop_common.errors import StartupError
from shop_common.kafka.settings import KafkaSettings
from shop_common.settings import PostgresSettings
from shop_common.testing import PartsOpened
from shop_users import migrate, resources, worker
from shop_users.app import create_app
from shop_users.keys import KeyRing
from shop_users.resources import open_resources
from shop_users.settings import MigrateSettings, Settings
from shop_users.worker import create_worker, open_worker_resources


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        postgres=PostgresSettings(dsn="postgresql://nobody@127.0.0.1:1/users"),
        kafka=KafkaSettings(bootstrap_servers="127.0.0.1:1"),
        signing_keys_dir=tmp_path,
        cursor_key="k" * 32,
    )


def test_settings_come_from_the_environment_and_from_secret_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "users_postgres__password").write_text("of the database")
    (tmp_path / "users_admin__password").write_text("of the admin")
    for name, value in {
        "SECRETS_DIR": str(tmp_path),
        "POSTGRES__DSN": "postgresql://users@127.0.0.1:15432/users",
        "KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:19092",
        "SIGNING_KEYS_DIR": "/keys",
        "CURSOR_KEY": "k" * 32,
        "SMTP__HOST": "127.0.0.1",
        "SMTP__PORT": "1025",
        "ADMIN__EMAIL": "admin@example.com",
        "HTTP__HOST": "127.0.0.2",
    }.items():
        monkeypatch.setenv(f"USERS_{name}", value)
    settings = Settings()
    assert settings.postgres.password is not None
    assert settings.postgres.password.get_secret_value() == "of the database"
    admin = MigrateSettings().admin
    assert admin is not None
    assert admin.password.get_secret_value() == "of the admin"
    assert not hasattr(settings, "admin"), "what serves requests does not hold the administrator's password"
    assert settings.smtp is not None
    assert (settings.smtp.port, settings.smtp.security) == (1025, "none")
    assert (settings.http.host, settings.http.port) == ("127.0.0.2", 8001)
    assert "of the" not in repr(settings)


def test_a_cursor_key_must_be_long(settings: Settings) -> None:
    with pytest.raises(ValidationError, match="cursor_key"):
        Settings(**settings.model_dump() | {"cursor_key": "short"})


def test_the_document_names_each_route_and_its_problems(settings: Settings) -> None:
    document = create_app(settings).openapi()
    operations = {
        operation["operationId"]: operation for path in document["paths"].values() for operation in path.values()
    }
    assert set(operations) == {
        "register_user",
        "list_users",
        "get_me",
        "get_user",
        "change_user",
        "change_password",
        "deactivate_user",
        "get_user_stats",
        "log_in",
        "refresh_token",
        "log_out",
        "get_jwks",
    }
    for name, operation in operations.items():
        assert {"400", "408", "413", "422", "431", "503", "504"} <= set(operation["responses"]), name
    assert set(operations["register_user"]["responses"]["201"]["headers"]) == {"Location", "ETag"}
    for name in ("change_user", "change_password", "deactivate_user"):
        assert {"401", "404", "412", "428"} <= set(operations[name]["responses"])
        (if_match,) = (each for each in operations[name]["parameters"] if each["name"] == "If-Match")
        assert if_match["required"]
    assert list(operations["change_user"]["requestBody"]["content"]) == ["application/merge-patch+json"]
    assert list(operations["log_in"]["requestBody"]["content"]) == ["application/x-www-form-urlencoded"]


def test_the_worker_serves_no_api(settings: Settings) -> None:
    paths = {getattr(route, "path", "") for route in create_worker(settings).routes}
    assert {"/livez", "/readyz", "/metrics"} <= paths
    assert not any(path.startswith("/v1") for path in paths)


API_PARTS = ["open_passwords", "open_postgres", "open_nudge"]
WORKER_PARTS = ["open_postgres", "open_producer", "open_outbox"]


def fake_parts(monkeypatch: pytest.MonkeyPatch, failing: str) -> PartsOpened:
    parts = PartsOpened(failing)
    for root, names in ((resources, API_PARTS), (worker, WORKER_PARTS)):
        for name in names:
            monkeypatch.setattr(root, name, parts.fake(name))

    async def open_key_ring(_: Settings) -> KeyRing:
        return KeyRing(Path(), 0, [])

    monkeypatch.setattr(resources, "open_key_ring", open_key_ring)
    return parts


@pytest.mark.parametrize("failing", ["opening", "closing"])
@pytest.mark.parametrize(
    ("open_all", "parts"), [(open_resources, API_PARTS), (open_worker_resources, WORKER_PARTS)], ids=["api", "worker"]
)
async def test_whichever_part_fails_all_others_are_closed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, open_all: Any, parts: list[str], failing: str
) -> None:
    for name in parts:
        opened = fake_parts(monkeypatch, f"close {name}" if failing == "closing" else name)
        with pytest.raises(RuntimeError, match=name):
            async with open_all(settings):
                pass
        assert opened.opened == (parts if failing == "closing" else parts[: parts.index(name)])
        assert opened.closed == opened.opened[::-1]


def test_migrating_in_vain_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USERS_POSTGRES__DSN", "postgresql://nobody@127.0.0.1:1/nothing")

    async def refuse(*_: Any) -> None:
        raise StartupError("no server; start it")

    monkeypatch.setattr(migrate, "migrate", refuse)
    with pytest.raises(SystemExit) as failed:
        migrate.main()
    assert failed.value.code == "no server; start it"

"""What the service promises before it serves anything: settings, the OpenAPI document, the order of closing."""

from functools import partial
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError
from pymongo.errors import AutoReconnect, OperationFailure

from shop_common import startup
from shop_common.errors import StartupError
from shop_common.kafka.settings import KafkaSettings
from shop_common.settings import MongoSettings, VerifierSettings
from shop_common.testing import PartsOpened
from shop_orders import indexes, resources, worker
from shop_orders.app import create_app
from shop_orders.indexes import create_indexes
from shop_orders.settings import Settings
from shop_orders.worker import create_worker, open_worker_resources


@pytest.fixture
def settings() -> Settings:
    return Settings(
        mongo=MongoSettings(url=SecretStr("mongodb://127.0.0.1:1"), database="orders"),
        kafka=KafkaSettings(bootstrap_servers="127.0.0.1:1"),
        tokens=VerifierSettings(jwks_url="http://127.0.0.1:1/jwks"),
        cursor_key=SecretStr("k" * 32),
    )


def test_settings_come_from_the_environment_and_from_secret_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "orders_mongo__url").write_text("mongodb://u:hidden@127.0.0.1:37017")
    (tmp_path / "orders_cursor_key").write_text("hidden" * 6)
    for name, value in {
        "SECRETS_DIR": str(tmp_path),
        "MONGO__DATABASE": "orders",
        "KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:19092",
        "TOKENS__JWKS_URL": "http://127.0.0.1:8001/.well-known/jwks.json",
        "HTTP__HOST": "127.0.0.2",
    }.items():
        monkeypatch.setenv(f"ORDERS_{name}", value)
    settings = Settings()
    assert settings.mongo.url.get_secret_value() == "mongodb://u:hidden@127.0.0.1:37017"
    assert (settings.http.host, settings.http.port) == ("127.0.0.2", 8002)
    assert "hidden" not in repr(settings)


def test_a_cursor_key_must_be_long(settings: Settings) -> None:
    with pytest.raises(ValidationError, match="cursor_key"):
        Settings(**settings.model_dump() | {"cursor_key": "short"})


def test_the_document_names_each_route_and_its_problems(settings: Settings) -> None:
    document = create_app(settings).openapi()
    operations = {
        operation["operationId"]: operation for path in document["paths"].values() for operation in path.values()
    }
    assert set(operations) == {"place_order", "list_orders", "get_order", "pay_order", "cancel_order"}
    for name, operation in operations.items():
        assert {"400", "401", "422", "431", "503", "504"} <= set(operation["responses"]), name
        assert operation["security"]
    assert set(operations["place_order"]["responses"]["201"]["headers"]) == {"Location", "ETag", "Idempotency-Replayed"}
    assert "304" in operations["get_order"]["responses"]
    for name in ("pay_order", "cancel_order"):
        assert {"404", "409", "412", "428"} <= set(operations[name]["responses"])
    required = {
        name: {each["name"] for each in operation["parameters"] if each["required"] and each["in"] == "header"}
        for name, operation in operations.items()
    }
    assert required == {
        "place_order": {"Idempotency-Key"},
        "list_orders": set(),
        "get_order": set(),
        "pay_order": {"If-Match"},
        "cancel_order": {"If-Match"},
    }


def test_the_worker_serves_no_api(settings: Settings) -> None:
    paths = {getattr(route, "path", "") for route in create_worker(settings).routes}
    assert {"/livez", "/readyz", "/metrics"} <= paths
    assert not any(path.startswith("/v1") for path in paths)


PARTS = ["open_mongo", "open_http_client", "open_producer"]


def fake_parts(monkeypatch: pytest.MonkeyPatch, failing: str = "") -> PartsOpened:
    parts = PartsOpened(failing)
    for name in PARTS:
        monkeypatch.setattr(worker if name == "open_producer" else resources, name, parts.fake(name))
    return parts


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("when", ["opening", "closing"])
async def test_whichever_part_fails_all_others_are_closed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, name: str, when: str
) -> None:
    parts = fake_parts(monkeypatch, failing=name if when == "opening" else f"close {name}")
    with pytest.raises(RuntimeError, match=name):
        async with open_worker_resources(settings):
            pass
    assert parts.opened == (PARTS[: PARTS.index(name)] if when == "opening" else PARTS)
    assert parts.closed == parts.opened[::-1]


async def test_the_worker_stops_taking_in_before_it_stops_publishing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_parts(monkeypatch)
    async with open_worker_resources(settings) as opened:
        assert [type(job).__name__ for job in opened.jobs] == ["EventConsumer", "OutboxRelay"]
        assert set(opened.checks) == {"mongo", "kafka", "orders-worker"}


class RefusingDatabase:
    """A server that has another index of that name."""

    def __getitem__(self, _: str) -> "RefusingDatabase":
        return self

    async def create_index(self, *_: object, **__: object) -> None:
        raise OperationFailure("An equivalent index already exists", 86)


async def test_another_index_of_that_name_is_told() -> None:
    with pytest.raises(StartupError, match="index newest cannot be created") as refused:
        await create_indexes(RefusingDatabase())  # type: ignore[arg-type] # as much of one as is asked for
    assert "86" in str(refused.value)


class Refusal:
    """Stands for an `open_mongo` that fails."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.tries = 0

    async def __aenter__(self) -> None:
        self.tries += 1
        raise self.error

    async def __aexit__(self, *_: object) -> None: ...


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (StartupError("MongoDB at h:1 refuses"), "MongoDB at h:1 refuses"),
        (OperationFailure("quoted data", 13), "MongoDB did not create the indexes: OperationFailure"),
    ],
)
def test_creating_indexes_in_vain_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, said: str
) -> None:
    monkeypatch.setenv("ORDERS_MONGO__URL", "mongodb://127.0.0.1:1")
    monkeypatch.setenv("ORDERS_MONGO__DATABASE", "orders")

    monkeypatch.setattr(indexes, "open_mongo", lambda *_: Refusal(error))
    assert indexes.main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(said)


def test_waiting_for_a_server_ends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("ORDERS_MONGO__URL", "mongodb://127.0.0.1:1")
    monkeypatch.setenv("ORDERS_MONGO__DATABASE", "orders")
    monkeypatch.setattr(indexes, "once_up", partial(startup.once_up, wait_seconds=0.05))
    monkeypatch.setattr(startup, "_RETRY_SECONDS", 0.01)
    error = StartupError("MongoDB at 127.0.0.1:1 refuses")
    error.__cause__ = AutoReconnect("refused")
    refusal = Refusal(error)
    monkeypatch.setattr(indexes, "open_mongo", lambda *_: refusal)
    assert indexes.main() == 1
    assert refusal.tries > 1
    assert len(capsys.readouterr().err.splitlines()) == 1

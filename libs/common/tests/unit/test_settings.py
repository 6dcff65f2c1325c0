"""Where settings come from, and what an operator reads when one is bad."""

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from shop_common.settings import (
    EX_CONFIG,
    HttpServerSettings,
    HttpUrlText,
    MongoSettings,
    PostgresSettings,
    ServiceSettings,
    SigningKey,
    load_settings,
    printable_address,
    settings_config,
)


class Settings(ServiceSettings):
    model_config = settings_config("DEMO_")

    http: HttpServerSettings = HttpServerSettings(port=8001)
    postgres: PostgresSettings = PostgresSettings(dsn="postgresql://demo@db/demo")
    upstream: HttpUrlText = "http://upstream:80"
    cursor_key: SigningKey = SecretStr("k" * 32)


@pytest.fixture(autouse=True)
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEMO_SECRETS_DIR", str(tmp_path))
    return tmp_path


def refusal(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines load_settings complains with."""
    with pytest.raises(SystemExit) as exit_:
        load_settings(Settings)
    assert exit_.value.code == EX_CONFIG == 78
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_nested_variables_reach_their_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEMO_HTTP__PORT", "9000")
    monkeypatch.setenv("DEMO_POSTGRES__MAX_SIZE", "7")
    settings = load_settings(Settings)
    assert settings.http.port == 9000
    assert settings.postgres.max_size == 7


def test_one_nested_variable_leaves_the_services_other_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEMO_HTTP__HOST", "0.0.0.0")  # noqa: S104 - read, not listened on
    settings = load_settings(Settings)
    assert (settings.http.host, settings.http.port) == ("0.0.0.0", 8001)  # noqa: S104 - as above


def test_arguments_win_over_environment_and_environment_over_files(
    secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (secrets / "demo_log_level").write_text("ERROR")
    assert load_settings(Settings).log_level == "ERROR"
    monkeypatch.setenv("DEMO_LOG_LEVEL", "WARNING")
    assert load_settings(Settings).log_level == "WARNING"
    assert Settings(log_level="DEBUG").log_level == "DEBUG"


def test_secret_files_hold_top_level_and_nested_values(secrets: Path) -> None:
    (secrets / "demo_cursor_key").write_text("c" * 40 + "\n")
    (secrets / "demo_postgres__password").write_text("hunter2\n")
    (secrets / "other_postgres__password").write_text("another service's")
    settings = load_settings(Settings)
    assert settings.cursor_key.get_secret_value() == "c" * 40
    assert settings.postgres.password is not None
    assert settings.postgres.password.get_secret_value() == "hunter2"
    assert settings.postgres.dsn == "postgresql://demo@db/demo"


def test_without_a_secret_directory_the_environment_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEMO_SECRETS_DIR", "/nonexistent")
    assert load_settings(Settings).log_level == "INFO"


def test_secrets_are_not_in_the_representation() -> None:
    settings = Settings(
        postgres=PostgresSettings(dsn="postgresql://demo:inline@db/demo", password=SecretStr("apart")),
        cursor_key=SecretStr("k" * 31 + "!"),
    )
    assert "inline" not in repr(settings)
    assert "apart" not in repr(settings)
    assert "k!" not in repr(settings)


def test_settings_are_frozen() -> None:
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.log_level = "DEBUG"
    with pytest.raises(ValidationError):
        settings.http.port = 1  # type: ignore[misc] # what is refused here


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DEMO_HTTP__PORT", "s3cret"),
        ("DEMO_HTTP__WORKERS", "0"),
        ("DEMO_LOG_LEVEL", "s3cret"),
        ("DEMO_TRACING__ENDPOINT", "ftp://s3cret"),
        ("DEMO_TRACING__ENDPOINT", "http://"),
        ("DEMO_UPSTREAM", "http://user:s3cret/@host"),
        ("DEMO_UPSTREAM", "http://[s3cret"),
        ("DEMO_POSTGRES__DSN", "mysql://s3cret@host/db"),
        ("DEMO_CURSOR_KEY", "s3cret"),
    ],
)
def test_a_bad_value_is_one_line_with_its_name_and_without_its_value(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, value)
    [line] = refusal(capsys)
    assert line.startswith(f"{variable}: ")
    assert "s3cret" not in line


def test_each_bad_value_has_its_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DEMO_HTTP__PRT", "80")
    monkeypatch.setenv("DEMO_POSTGRES__MIN_SIZE", "11")
    monkeypatch.setenv("DEMO_POSTGRES__MAX_SIZE", "10")
    lines = refusal(capsys)
    assert [line.partition(":")[0] for line in lines] == ["DEMO_HTTP__PRT", "DEMO_POSTGRES"]
    assert "min_size" in lines[1]


def test_what_is_no_json_names_the_field(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DEMO_HTTP", "{s3cret")
    [line] = refusal(capsys)
    assert '"http"' in line
    assert "s3cret" not in line


def test_an_unreadable_secret_file_is_one_line(secrets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (secrets / "demo_cursor_key").write_bytes(b"\xff\xfe" * 20)
    [line] = refusal(capsys)
    assert "demo_cursor_key" in line
    assert "UnicodeDecodeError" in line


def test_what_else_lies_in_the_directory_is_left_alone(secrets: Path) -> None:
    (secrets / "other_keystore").write_bytes(b"\xff\xfe" * 20)
    (secrets / "demo_more").mkdir()
    (secrets / "..data").mkdir()
    (secrets / "..data" / "demo_log_level").write_text("ERROR")
    (secrets / "demo_log_level").symlink_to("..data/demo_log_level")  # as Kubernetes mounts them
    assert load_settings(Settings).log_level == "ERROR"


@pytest.mark.parametrize("endpoint", ["", "http://127.0.0.1:4318", "https://collector/"])
def test_the_tracing_endpoint_may_be_empty(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEMO_TRACING__ENDPOINT", endpoint)
    assert load_settings(Settings).tracing.endpoint == endpoint.rstrip("/")


def test_a_mongo_pool_has_its_own_default_and_the_same_order_of_sizes() -> None:
    assert MongoSettings(url=SecretStr("mongodb://db"), database="orders").max_size == 50
    with pytest.raises(ValidationError, match="min_size"):
        MongoSettings(url=SecretStr("mongodb://db"), database="orders", min_size=9, max_size=8)


@pytest.mark.parametrize(
    ("url", "printed"),
    [
        ("postgresql://user:pw@db.example:5432/users?sslmode=require", "db.example:5432/users"),
        ("postgresql://db/users", "db/users"),
        ("mongodb://u:pw@a:27017,b:27018/?directConnection=true", "a:27017,b:27018/"),
        ("postgresql://u:pw@[::1]:5432/users", "[::1]:5432/users"),
        ("postgresql:///users?host=/tmp", "/users"),
        ("postgresql://u:p/w@db/users", "the address given"),
        ("postgresql://u:pa?word@db/users", "the address given"),
        ("postgresql://[pw", "the address given"),
    ],
)
def test_a_printable_address_has_no_password(url: str, printed: str) -> None:
    assert printable_address(url) == printed

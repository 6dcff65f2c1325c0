"""Opening the PostgreSQL pool: a server that cannot be used is one line for an operator, without the password."""

import asyncio
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from shop_common.errors import StartupError
from shop_common.postgres import open_postgres
from shop_common.settings import PostgresSettings


@pytest.fixture
def settings(postgres_dsn: str) -> PostgresSettings:
    return PostgresSettings(dsn=postgres_dsn, min_size=1, max_size=2)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dsn": "postgresql://u@127.0.0.1:1/db"}, "PostgreSQL at 127.0.0.1:1/db refuses: "),
        ({"dsn": "postgresql://u:hunter2@127.0.0.1:x/db"}, "the PostgreSQL DSN is not usable; correct it"),
        ({"dsn": "postgresql://u:hun/ter2@h/db"}, "the PostgreSQL DSN is not usable; correct it"),
    ],
)
async def test_a_server_that_is_not_there_is_one_line_without_the_password(
    change: dict[str, Any], reason: str, settings: PostgresSettings
) -> None:
    wrong = settings.model_copy(update=change | {"password": SecretStr("hunter2"), "connect_seconds": 1})
    with pytest.raises(StartupError) as refused:
        async with open_postgres(wrong, "pool-test"):
            raise AssertionError("must not open")
    assert str(refused.value).startswith(reason)
    assert "hunter2" not in str(refused.value)
    assert "\n" not in str(refused.value)


async def test_an_unknown_database_is_named(settings: PostgresSettings) -> None:
    wrong = settings.model_copy(update={"dsn": settings.dsn.rpartition("/")[0] + "/never_made"})
    with pytest.raises(StartupError, match=r'database "never_made" does not exist; start it or correct the DSN$'):
        async with open_postgres(wrong, "pool-test"):
            raise AssertionError("must not open")


async def test_a_wrong_password_is_one_line_without_it(settings: PostgresSettings) -> None:
    wrong = settings.model_copy(update={"password": SecretStr("hunter2")})
    with pytest.raises(StartupError, match="password authentication failed") as refused:
        async with open_postgres(wrong, "pool-test"):
            raise AssertionError("must not open")
    assert "hunter2" not in str(refused.value)
    assert "hunter2" not in repr(refused.value.__cause__)


async def test_a_server_that_accepts_and_says_nothing_is_given_up(settings: PostgresSettings, silent_port: int) -> None:
    silent = settings.model_copy(update={"dsn": f"postgresql://u@127.0.0.1:{silent_port}/db", "connect_seconds": 0.2})
    with pytest.raises(StartupError, match="refuses: TimeoutError; start it"):
        async with asyncio.timeout(10), open_postgres(silent, "pool-test"):
            raise AssertionError("must not open")


async def test_opening_can_be_cancelled(settings: PostgresSettings, until: Any) -> None:
    async def stay_open() -> None:
        async with open_postgres(settings, "cancelled-opening"):
            await asyncio.Event().wait()

    for delay in (0, 0.005, 0.02, 0.1):
        opening = asyncio.create_task(stay_open())
        await asyncio.sleep(delay)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
    outsider = await asyncpg.connect(settings.dsn)

    async def gone() -> bool:
        sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cancelled-opening'"
        return int(await outsider.fetchval(sessions)) == 0

    try:
        await until(gone)
    finally:
        await outsider.close()

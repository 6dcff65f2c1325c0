"""The migrate command: repeatable, concurrent, bounded, and the first administrator."""

import asyncio
import os
import secrets
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from alembic import command

from shop_cluster.pytest_plugin import Server
from shop_common.errors import StartupError
from shop_common.settings import PostgresSettings
from shop_users.migrate import migrate
from shop_users.settings import AdminSettings, MigrateSettings

ADMIN = AdminSettings(email="root@example.com", password="an admin's secret")


@pytest.fixture
async def empty(postgres_server: Server) -> AsyncIterator[PostgresSettings]:
    name = f"migrate_{secrets.token_hex(4)}"
    server = await asyncpg.connect(postgres_server.url)
    await server.execute(f"CREATE DATABASE {name}")
    yield PostgresSettings(dsn=postgres_server.url.removesuffix("postgres") + name)
    await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await server.close()


async def query(settings: PostgresSettings, statement: str) -> Any:
    connection = await asyncpg.connect(settings.dsn)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def test_several_at_once_and_again_make_one_schema_and_one_administrator(empty: PostgresSettings) -> None:
    settings = MigrateSettings(postgres=empty, admin=ADMIN)
    await asyncio.gather(*(migrate(settings) for _ in range(3)))
    await migrate(settings)
    assert await query(empty, "SELECT count(*) FROM alembic_version") == 1
    assert await query(empty, "SELECT array_agg(email || role || version) FROM users") == ["root@example.comadmin1"]
    events = await query(empty, "SELECT array_agg(headers ->> 'type') FROM outbox")
    assert events == ["users.user_registered.v1"]
    assert await query(empty, "SELECT password_hash LIKE '$argon2id$%' FROM users")


async def test_without_admin_settings_there_is_no_administrator(empty: PostgresSettings) -> None:
    await migrate(MigrateSettings(postgres=empty))
    assert await query(empty, "SELECT count(*) FROM users") == 0


async def test_an_administrator_is_not_made_of_somebody_elses_account(empty: PostgresSettings) -> None:
    await migrate(MigrateSettings(postgres=empty))
    values = "gen_random_uuid(), 'ROOT@example.com', 'x', NULL, 'customer', '', true, 1, now(), now()"
    await query(empty, f"INSERT INTO users VALUES ({values})")  # noqa: S608 - the line above
    with pytest.raises(StartupError, match="email address"):
        await migrate(MigrateSettings(postgres=empty, admin=ADMIN))
    assert await query(empty, "SELECT count(*) FROM users WHERE role = 'admin'") == 0


async def test_the_projected_offset_comes_beside_a_worker_that_does_not_know_of_it(
    empty: PostgresSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade = command.upgrade
    with monkeypatch.context() as patch:
        patch.setattr(command, "upgrade", lambda config, _: upgrade(config, "0001"))
        await migrate(MigrateSettings(postgres=empty))
    worker = await asyncpg.connect(empty.dsn)
    count = await worker.prepare(
        "INSERT INTO user_statistics AS kept (user_id, orders) VALUES ($1, 1)"
        " ON CONFLICT (user_id) DO UPDATE SET orders = kept.orders + 1 RETURNING orders"
    )
    user_id = uuid.uuid4()
    assert await count.fetchval(user_id) == 1
    await migrate(MigrateSettings(postgres=empty))
    assert await count.fetchval(user_id) == 2
    await worker.close()
    assert await query(empty, "SELECT array_agg(projected_offset) FROM user_statistics") == [None]


async def test_a_migration_that_fails_is_rolled_back(empty: PostgresSettings) -> None:
    await query(empty, "CREATE TABLE welcome_mails (id int)")  # the last one the first migration makes
    with pytest.raises(StartupError, match=r"rolled back.*welcome_mails"):
        await migrate(MigrateSettings(postgres=empty))
    assert await query(empty, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 1


async def test_a_server_that_is_not_there_is_waited_for_until_the_bound(empty: PostgresSettings) -> None:
    nowhere = PostgresSettings(dsn="postgresql://nobody@127.0.0.1:1/nothing")
    with pytest.raises(StartupError, match=r"127\.0\.0\.1:1/nothing"):
        await migrate(MigrateSettings(postgres=nowhere), wait_seconds=1)


def test_the_command_answers_in_one_line(postgres_server: Server) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("USERS_")}

    def run(dsn: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "shop_users.migrate"]
        return subprocess.run(  # noqa: S603 - our own command
            command, env=environment | {"USERS_POSTGRES__DSN": dsn}, capture_output=True, text=True, check=False
        )

    wrong_database = run(postgres_server.url.removesuffix("postgres") + "no_such_database")
    assert (wrong_database.returncode, wrong_database.stderr.count("\n")) == (1, 1)
    assert "no_such_database" in wrong_database.stderr
    no_dsn = run("")
    assert no_dsn.returncode == 78
    assert no_dsn.stderr.startswith("USERS_POSTGRES__DSN")

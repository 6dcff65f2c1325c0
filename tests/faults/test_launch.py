"""A launched service dies at its failpoint with a real database behind it, and lives when it is started again."""

import asyncio
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import httpx
import pytest

from shop_common.settings import PostgresSettings
from shop_users.keys import add_key
from shop_users.migrate import migrate
from shop_users.settings import MigrateSettings

SOURCE = Path(__file__).parent / "src"
PATIENCE = 60.0
FIND = "SELECT count(*) FROM users JOIN outbox ON aggregate_id = users.id WHERE email = $1"


@pytest.fixture(name="environment")
async def _environment(postgres_dsn: str, tmp_path: Path) -> Mapping[str, str]:
    """Of a users API that dies when the first registration is written."""
    await migrate(MigrateSettings(postgres=PostgresSettings(dsn=postgres_dsn)))
    add_key(tmp_path, datetime.now(UTC) - timedelta(days=1))
    fuse = tmp_path / "fuse"
    fuse.touch()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    return {
        **os.environ,
        "PYTHONPATH": str(SOURCE),
        "USERS_HTTP__PORT": str(port),
        "USERS_POSTGRES__DSN": postgres_dsn,
        "USERS_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "USERS_SIGNING_KEYS_DIR": str(tmp_path),
        "USERS_CURSOR_KEY": "k" * 32,
        "SHOP_FAULTS_FAILPOINT": "users.register.written",
        "SHOP_FAULTS_AT": "1",
        "SHOP_FAULTS_FUSE": str(fuse),
    }


@asynccontextmanager
async def open_users(environment: Mapping[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "shop_faults.launch", "shop_users.app", env=environment, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(PATIENCE), httpx.AsyncClient(trust_env=False) as client:
            while not await _is_ready(client, environment):
                assert process.returncode is None
                await asyncio.sleep(0.05)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _is_ready(client: httpx.AsyncClient, environment: Mapping[str, str]) -> bool:
    try:
        answer = await client.get(f"http://127.0.0.1:{environment['USERS_HTTP__PORT']}/readyz")
    except httpx.TransportError:
        return False
    return answer.status_code == 200


async def _register(environment: Mapping[str, str], name: str, seconds: float = PATIENCE) -> int:
    url = f"http://127.0.0.1:{environment['USERS_HTTP__PORT']}/v1/users"
    body = {"email": f"{name}@example.com", "username": name, "password": "correct horse battery"}
    async with httpx.AsyncClient(trust_env=False, timeout=seconds) as client:
        return (await client.post(url, json=body)).status_code


async def _count(postgres_dsn: str, name: str) -> int:
    """Users of this name whose event is in the outbox."""
    connection = await asyncpg.connect(postgres_dsn)
    try:
        return int(await connection.fetchval(FIND, f"{name}@example.com"))
    finally:
        await connection.close()


async def test_written_and_the_reply_lost(environment: Mapping[str, str], postgres_dsn: str) -> None:
    name = f"u{secrets.token_hex(6)}"
    async with open_users(environment) as process:
        with pytest.raises(httpx.TransportError):
            await _register(environment, name)
        async with asyncio.timeout(PATIENCE):
            assert await process.wait() == -signal.SIGKILL
    assert await _count(postgres_dsn, name) == 1
    async with open_users(environment):
        assert await _register(environment, name) == 409
        assert await _register(environment, f"{name}x") == 201


async def test_a_mutation_holds_in_the_server(environment: Mapping[str, str], postgres_dsn: str) -> None:
    name = f"u{secrets.token_hex(6)}"
    mutated = {key: value for key, value in environment.items() if key != "SHOP_FAULTS_FAILPOINT"}
    async with open_users({**mutated, "SHOP_FAULTS_MUTATION": "publish_before_write"}):
        with pytest.raises(httpx.ReadTimeout):  # there is no broker, and the product needs none for this
            await _register(environment, name, seconds=3)
    assert await _count(postgres_dsn, name) == 0

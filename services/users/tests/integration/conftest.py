"""The users service against a real PostgreSQL: migrated once, emptied before each test."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from argon2 import PasswordHasher
from fastapi import FastAPI

from shop_common.events.users import Role
from shop_common.kafka.settings import KafkaSettings
from shop_common.postgres import Postgres, open_postgres
from shop_common.settings import PostgresSettings
from shop_common.testing import open_app_client, until
from shop_users.app import create_app
from shop_users.keys import KeyRing, add_key
from shop_users.migrate import migrate
from shop_users.settings import MigrateSettings, Settings

PASSWORD = "correct horse battery"

TABLES = "users, sessions, outbox, user_orders, user_statistics, user_spending, welcome_mails"


@pytest.fixture(autouse=True)
def quick_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real algorithm with parameters that cost next to nothing; what production uses has a test of its own."""
    quick = partial(PasswordHasher, time_cost=1, memory_cost=8, parallelism=1)
    monkeypatch.setattr("shop_users.passwords.PasswordHasher", quick)


@pytest.fixture(scope="session")
def postgres_settings(postgres_dsn: str) -> PostgresSettings:
    settings = PostgresSettings(dsn=postgres_dsn)
    asyncio.run(migrate(MigrateSettings(postgres=settings)))
    return settings


@pytest.fixture(scope="session")
def keys_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("keys")
    add_key(directory, datetime.now(UTC) - timedelta(days=1))
    return directory


@pytest.fixture
async def settings(postgres_settings: PostgresSettings, keys_dir: Path) -> Settings:
    connection = await asyncpg.connect(postgres_settings.dsn)
    await connection.execute(f"TRUNCATE {TABLES}")
    await connection.close()
    return Settings(
        postgres=postgres_settings,
        kafka=KafkaSettings(bootstrap_servers="127.0.0.1:1"),
        signing_keys_dir=keys_dir,
        cursor_key="k" * 32,
    )


@pytest.fixture
async def postgres(settings: Settings) -> AsyncIterator[Postgres]:
    async with open_postgres(settings.postgres, "tests") as opened:
        yield opened


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    return create_app(settings)


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with open_app_client(app) as opened:
        yield opened


@dataclass(frozen=True, slots=True)
class Account:
    """A registered user, and the header that makes a request theirs."""

    user: dict[str, Any]
    bearer: dict[str, str]

    @property
    def id(self) -> str:
        return str(self.user["id"])

    @property
    def path(self) -> str:
        return f"/v1/users/{self.id}"

    def if_match(self, version: int = 1) -> dict[str, str]:
        return self.bearer | {"If-Match": f'"{version}"'}


Bearer = Callable[[str, Role], Awaitable[dict[str, str]]]
Register = Callable[..., Awaitable[Account]]


@pytest.fixture
def bearer_of(app: FastAPI, client: httpx.AsyncClient) -> Bearer:
    """Sign a token with the service's own key."""

    async def sign(user_id: str, role: Role) -> dict[str, str]:
        keys: KeyRing = app.state.resources.keys
        now = int(time.time())
        claims = {"iss": "https://shop.example", "aud": "shop", "sub": user_id, "role": role, "iat": now}
        return {"Authorization": f"Bearer {await keys.sign(claims | {'exp': now + 900, 'jti': uuid.uuid4().hex})}"}

    return sign


@pytest.fixture
def register(client: httpx.AsyncClient, bearer_of: Bearer) -> Register:
    async def make(name: str = "ada", **fields: str) -> Account:
        body = {"email": f"{name}@example.com", "username": name, "password": PASSWORD} | fields
        answer = await client.post("/v1/users", json=body)
        assert answer.status_code == 201, answer.text
        return Account(answer.json(), await bearer_of(answer.json()["id"], "customer"))

    return make


@pytest.fixture
async def admin(bearer_of: Bearer) -> dict[str, str]:
    return await bearer_of(str(uuid.uuid4()), "admin")


Until = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


@pytest.fixture(name="until")
def until_fixture() -> Until:
    return until

"""Fixtures with real servers for every package's tests; each starts when a test first asks for it.

One set of servers per test run, shared by all its workers, each worker with a database of its own.
"""

import asyncio
import os
import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pymongo
import pytest

from shop_cluster import jaeger
from shop_cluster.cluster import Cluster, bring_up_once
from shop_cluster.ports import HOST
from shop_cluster.readiness import mongo_url
from shop_cluster.running import ensure_server
from shop_cluster.servers import SUPERUSER
from shop_cluster.state import State
from shop_cluster.throw_away import close_state, open_state

__all__ = ["Cluster", "MongoDatabase", "Server"]

CLUSTER_SECONDS = 300
JAEGER_BUILD_SECONDS = 1800
RUN = pytest.StashKey[tuple[str, int]]()  # the run's folder prefix and the pid of the process that owns the run


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: where it listens and the URL a client takes."""

    host: str
    port: int
    url: str


@dataclass(frozen=True, slots=True)
class MongoDatabase:
    """A database of this worker's own: the server's URL and the database's name."""

    url: str
    name: str


def pytest_configure(config: pytest.Config) -> None:
    given = getattr(config, "workerinput", {}).get("shop_cluster_run")
    fresh = f"{tempfile.gettempdir()}/shop-test-{os.getpid()}-{secrets.token_hex(3)}"
    config.stash[RUN] = tuple(given) if given else (fresh, os.getpid())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of the whole cluster may wait for its start; where Jaeger must be built, that begins at once."""
    waiting = [item for item in items if "cluster" in getattr(item, "fixturenames", ())]
    if not waiting or config.option.collectonly:
        return
    must_build = jaeger.find_jaeger() is None
    if must_build:
        prefix, owner = config.stash[RUN]
        jaeger.start_build(open_state(Path(f"{prefix}-cluster"), owner))
    for item in waiting:
        item.add_marker(pytest.mark.timeout(JAEGER_BUILD_SECONDS if must_build else CLUSTER_SECONDS))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """xdist's controller tells each worker which run it is part of."""
    node.workerinput["shop_cluster_run"] = list(node.config.stash[RUN])


def pytest_unconfigure(config: pytest.Config) -> None:
    prefix, owner = config.stash[RUN]
    if owner == os.getpid():
        for kind in ("servers", "cluster"):
            close_state(Path(f"{prefix}-{kind}"))


@pytest.fixture(scope="session")
def server_state(request: pytest.FixtureRequest) -> State:
    """The run's servers; those that no test asked for are not running."""
    prefix, owner = request.config.stash[RUN]
    return open_state(Path(f"{prefix}-servers"), owner)


@pytest.fixture(scope="session")
def worker_name() -> str:
    """`gw0`, `gw1`, … under xdist, else `main`."""
    return os.environ.get("PYTEST_XDIST_WORKER", "main")


def _start(state: State, name: str, url: str) -> Server:
    asyncio.run(ensure_server(state, name))
    return Server(HOST, state.ports[name], url)


@pytest.fixture(scope="session")
def postgres_server(server_state: State) -> Server:
    """PostgreSQL; its `url` is a superuser's DSN for the database `postgres`."""
    password = server_state.secret("postgres_superuser")
    url = f"postgresql://{SUPERUSER}:{password}@{HOST}:{server_state.ports['postgres']}/postgres"
    return _start(server_state, "postgres", url)


@pytest.fixture(scope="session")
def redis_server(server_state: State) -> Server:
    """Redis, without a password."""
    return _start(server_state, "redis", f"redis://{HOST}:{server_state.ports['redis']}/0")


@pytest.fixture(scope="session")
def kafka_server(server_state: State) -> Server:
    """One Kafka broker that makes no topic by itself; its `url` is the bootstrap address."""
    return _start(server_state, "kafka", f"{HOST}:{server_state.ports['kafka']}")


@pytest.fixture(scope="session")
def mongo_server(server_state: State) -> Server:
    """MongoDB, or the stand-in where there is no mongod."""
    return _start(server_state, "mongo", mongo_url(server_state))


@pytest.fixture(scope="session")
def mail_server(server_state: State) -> Server:
    """An SMTP server that keeps each mail in the Maildir whose path is its `url`."""
    return _start(server_state, "mail", str(server_state.mailbox))


@pytest.fixture(scope="session")
def postgres_dsn(postgres_server: Server, worker_name: str) -> Iterator[str]:
    """A superuser's DSN for an empty database of this worker's own."""
    name = f"test_{worker_name}_{secrets.token_hex(3)}"
    asyncio.run(_execute(postgres_server.url, f'CREATE DATABASE "{name}"'))
    yield postgres_server.url.removesuffix("postgres") + name
    asyncio.run(_execute(postgres_server.url, f'DROP DATABASE "{name}" WITH (FORCE)'))


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def mongo_database(mongo_server: Server, worker_name: str) -> Iterator[MongoDatabase]:
    """An empty database of this worker's own."""
    database = MongoDatabase(mongo_server.url, f"test_{worker_name}_{secrets.token_hex(3)}")
    yield database
    with pymongo.MongoClient[dict[str, Any]](database.url) as client:
        client.drop_database(database.name)


@pytest.fixture(scope="session")
def redis_url(redis_server: Server, worker_name: str) -> str:
    """A database number of this worker's own (Redis has sixteen)."""
    number = int(worker_name.removeprefix("gw") or 0) if worker_name.startswith("gw") else 0
    return redis_server.url.removesuffix("0") + str(number % 16)


@pytest.fixture(scope="session")
def kafka_bootstrap(kafka_server: Server) -> str:
    """`host:port`."""
    return kafka_server.url


@pytest.fixture
def topic_prefix() -> str:
    """A prefix no other test's topics and groups have."""
    return f"t{secrets.token_hex(5)}."


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Cluster:
    """The whole platform, Jaeger included. The run's workers share it: leave it whole."""
    prefix, owner = request.config.stash[RUN]
    state = open_state(Path(f"{prefix}-cluster"), owner)
    bring_up_once(state)
    return Cluster(state)

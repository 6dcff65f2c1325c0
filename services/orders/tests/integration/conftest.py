"""The orders API and its service on a real MongoDB, and a record of every query that they send."""

import asyncio
import json
import secrets
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from pymongo import MongoClient, monitoring

from shop_cluster.pytest_plugin import MongoDatabase
from shop_common.cursors import CursorCodec
from shop_common.kafka.settings import KafkaSettings
from shop_common.mongo import Database, open_mongo
from shop_common.settings import MongoSettings, VerifierSettings
from shop_common.testing import TokenIssuer, open_app_client, until
from shop_orders.app import create_app
from shop_orders.indexes import INDEXES, create_indexes
from shop_orders.service import OrderService
from shop_orders.settings import Settings
from shop_orders.store.orders import OrderStore
from shop_orders.store.users import UserReplica

CURSOR_KEY = SecretStr("k" * 40)
NO_KAFKA = "127.0.0.1:9"
_MERGED = 200


class QueryRecorder(monitoring.CommandListener):
    """Filters and sorts as they go over the wire; the stand-in would answer any of them by a scan."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, Any], dict[str, int]]] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        command = event.command
        collection = str(command.get(event.command_name))
        if event.command_name == "find":
            self.seen.append((collection, dict(command["filter"]), dict(command.get("sort") or {})))
        elif event.command_name == "findAndModify":
            self.seen.append((collection, dict(command["query"]), dict(command.get("sort") or {})))
        elif event.command_name == "update":
            self.seen.extend((collection, dict(update["q"]), {}) for update in command["updates"])
        elif event.command_name in {"aggregate", "count", "distinct", "delete"}:
            self.seen.append((collection, {"not": event.command_name}, {}))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None: ...
    def failed(self, event: monitoring.CommandFailedEvent) -> None: ...


_recorder = QueryRecorder()
monitoring.register(_recorder)  # before any client exists: it listens to those that are made later


def is_indexed(collection: str, query: Mapping[str, Any], sort: Mapping[str, int]) -> bool:
    """Whether a declared index finds exactly the documents asked for, in the order asked for."""
    if "_id" in query and _is_equality(query["_id"]) and not sort:
        return True
    return collection == "orders" and any(
        _serves(index.keys, index.options.get("partialFilterExpression", {}), query, sort) for index in INDEXES
    )


def _is_equality(condition: Any) -> bool:
    return not isinstance(condition, dict) or set(condition) == {"$in"}


def _serves(
    keys: Sequence[tuple[str, int]], partial: Mapping[str, Any], query: Mapping[str, Any], sort: Mapping[str, int]
) -> bool:
    if any(query.get(field) != condition for field, condition in partial.items()):
        return False
    equal = {field for field, condition in query.items() if field[0] != "$" and _is_equality(condition)}
    prefix, rest = keys[: len(equal)], keys[len(equal) :]
    ordered = list(sort.items())
    if {field for field, _ in prefix} != equal or ordered not in (list(rest[: len(sort)]), _reverse(rest[: len(sort)])):
        return False
    if sort and any(isinstance(query[field], dict) and len(query[field]["$in"]) > _MERGED for field in equal):
        return False  # MongoDB reads a few points of an index side by side, in order; of more it sorts what it found
    ranges = {field for field in query if field[0] != "$"} - equal
    within = {field for branch in query.get("$or", ()) for field in branch}
    return ranges <= {field for field, _ in rest[:1]} and within <= {field for field, _ in keys}


def _reverse(keys: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    return [(field, -direction) for field, direction in keys]


@pytest.fixture
def indexed() -> Callable[[str, Mapping[str, Any], Mapping[str, int]], bool]:
    return is_indexed


@pytest.fixture(autouse=True)
def queries() -> Iterator[QueryRecorder]:
    """What this test sends; each query must be served by an index."""
    _recorder.seen.clear()
    yield _recorder
    scans = [seen for seen in _recorder.seen if not is_indexed(*seen)]
    assert not scans, f"no declared index serves {scans}"


@pytest.fixture
def mongo_settings(mongo_database: MongoDatabase) -> Iterator[MongoSettings]:
    """A database of this test's own."""
    settings = MongoSettings(
        url=SecretStr(mongo_database.url), database=f"{mongo_database.name}_{secrets.token_hex(3)}"
    )
    yield settings
    with MongoClient[dict[str, Any]](mongo_database.url) as client:
        client.drop_database(settings.database)


@pytest.fixture
async def database(mongo_settings: MongoSettings) -> AsyncIterator[Database]:
    async with open_mongo(mongo_settings, "tests") as mongo:
        await create_indexes(mongo.database)
        yield mongo.database


@pytest.fixture
def service(database: Database) -> OrderService:
    return OrderService(OrderStore(database), UserReplica(database), CursorCodec("orders", CURSOR_KEY))


@pytest.fixture(scope="session")
def issuer() -> TokenIssuer:
    return TokenIssuer()


@pytest.fixture(scope="session")
def jwks_url(issuer: TokenIssuer) -> Iterator[str]:
    """The issuer's keys over HTTP, as the users service publishes them."""
    document = json.dumps(asyncio.run(_awaited(issuer.jwks()))).encode()

    class Keys(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(document)))
            self.end_headers()
            self.wfile.write(document)

        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002 - the parent's name

    with ThreadingHTTPServer(("127.0.0.1", 0), Keys) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/jwks.json"
        server.shutdown()
        thread.join()


async def _awaited(result: Awaitable[Mapping[str, Any]]) -> Mapping[str, Any]:
    return await result


@pytest.fixture
def settings(mongo_settings: MongoSettings, jwks_url: str) -> Settings:
    """Of an API whose Kafka is away: it needs none."""
    return Settings(
        mongo=mongo_settings,
        kafka=KafkaSettings(bootstrap_servers=NO_KAFKA),
        tokens=VerifierSettings(jwks_url=jwks_url),
        cursor_key=CURSOR_KEY,
    )


class Shop:
    """The API as its clients see it."""

    def __init__(self, client: httpx.AsyncClient, issuer: TokenIssuer) -> None:
        self.client = client
        self.issuer = issuer

    def bearer(self, user_id: str, *, admin: bool = False) -> dict[str, str]:
        return self.issuer.bearer(user_id, "admin" if admin else "customer")

    async def place(self, user_id: str, key: str | None = None, **changes: Any) -> httpx.Response:
        headers = self.bearer(user_id) | {"Idempotency-Key": key or uuid.uuid4().hex}
        return await self.client.post("/v1/orders", headers=headers, json={"items": [item(**changes)]})

    async def move(self, user_id: str, order: Mapping[str, Any], action: str, **headers: str) -> httpx.Response:
        given = {"If-Match": f'"{order["version"]}"'} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        return await self.client.post(f"/v1/orders/{order['id']}/{action}", headers=self.bearer(user_id) | given)

    async def get(self, caller: str, path: str = "", *, admin: bool = False, **query: Any) -> httpx.Response:
        return await self.client.get(f"/v1/orders{path}", headers=self.bearer(caller, admin=admin), params=query)


def item(sku: str = "TEA", quantity: int = 2, amount: int = 1999, currency: str = "EUR") -> dict[str, Any]:
    return {"sku": sku, "quantity": quantity, "unit_price": {"amount": amount, "currency": currency}}


@pytest.fixture
async def shop(settings: Settings, issuer: TokenIssuer) -> AsyncIterator[Shop]:
    async with open_app_client(create_app(settings)) as client:
        yield Shop(client, issuer)


@pytest.fixture
def user_id() -> str:
    return str(uuid.uuid4())


Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


@pytest.fixture
def eventually() -> Eventually:
    return until

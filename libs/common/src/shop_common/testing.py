"""Test kit: tokens of an issuer of one's own, an application with its lifespan run, recorded spans, fake parts."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any

import httpx
import jwt
from aiokafka import AIOKafkaConsumer
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import FastAPI
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shop_common.events.users import Role
from shop_common.kafka.topics import GROUPS, all_partitions
from shop_common.settings import TokenSettings
from shop_common.tokens import ALGORITHM, KeyCache, TokenVerifier
from shop_common.tracing import recording_by

_PATIENCE_SECONDS = 60
_LOOK_SECONDS = 0.02


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what no event of ours tells of: it is done by another process, or in a database."""
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while not await condition():  # noqa: ASYNC110 - see above
            await asyncio.sleep(_LOOK_SECONDS)


async def move_group(bootstrap: str, group: str, *, to_end: bool) -> None:
    """Let a group that has no member begin behind all that is in its topic, or with the first record once more."""
    consumer: Any = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False)
    partitions = all_partitions(GROUPS[group])
    await consumer.start()
    try:
        consumer.assign(partitions)
        await consumer.commit(await consumer.end_offsets(partitions) if to_end else dict.fromkeys(partitions, 0))
    finally:
        await consumer.stop()


class TokenIssuer:
    """Signs access tokens as the users service does, and publishes the key that checks them."""

    def __init__(self, settings: TokenSettings | None = None) -> None:
        self.settings = settings or TokenSettings()
        self.kid = uuid.uuid4().hex
        self._private_key = ec.generate_private_key(ec.SECP256R1())

    async def jwks(self) -> Mapping[str, Any]:
        public = jwt.algorithms.ECAlgorithm.to_jwk(self._private_key.public_key(), as_dict=True)
        return {"keys": [public | {"kid": self.kid, "alg": ALGORITHM, "use": "sig"}]}

    def token(self, user_id: str, role: Role = "customer", **claims: object) -> str:
        """A token for 15 minutes; `claims` replace the usual ones, None removes one."""
        now = int(time.time())
        usual: dict[str, object] = {
            "iss": self.settings.issuer,
            "aud": self.settings.audience,
            "sub": user_id,
            "role": role,
            "iat": now,
            "exp": now + 900,
        }
        payload = {name: value for name, value in (usual | claims).items() if value is not None}
        return jwt.encode(payload, self._private_key, ALGORITHM, headers={"kid": self.kid})

    def bearer(self, user_id: str, role: Role = "customer") -> dict[str, str]:
        """The header that sends one."""
        return {"Authorization": f"Bearer {self.token(user_id, role)}"}

    def verifier(self) -> TokenVerifier:
        return TokenVerifier(self.settings, KeyCache(self.jwks))


@asynccontextmanager
async def open_app_client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """The application with its lifespan run, and a client that calls it without a socket."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield client


@contextmanager
def recorded_spans() -> Iterator[InMemorySpanExporter]:
    """Keep what is recorded meanwhile; `get_finished_spans()` has it."""
    exporter = InMemorySpanExporter()
    with recording_by(SimpleSpanProcessor(exporter), Resource.get_empty()):
        yield exporter


class FakePart:
    """Stands for whatever was opened; has every attribute, and takes every call and index."""

    def __getattr__(self, _: str) -> "FakePart":
        return self

    def __getitem__(self, _: str) -> "FakePart":
        return self

    def __call__(self, *_: object) -> "FakePart":
        return self


class PartsOpened:
    """Makes fakes of the `open_*` functions of a composition root, which note what is opened and closed.

    `failing` names one that raises RuntimeError, "close " before it one that does so only as it closes.
    """

    def __init__(self, failing: str = "") -> None:
        self.opened: list[str] = []
        self.closed: list[str] = []
        self._failing = failing

    def fake(self, name: str) -> Callable[..., AbstractAsyncContextManager[FakePart]]:
        @asynccontextmanager
        async def open_part(*_: object) -> AsyncIterator[FakePart]:
            if self._failing == name:
                raise RuntimeError(name)
            self.opened.append(name)
            try:
                yield FakePart()
            finally:
                self.closed.append(name)
                if self._failing == f"close {name}":
                    raise RuntimeError(name)

        return open_part

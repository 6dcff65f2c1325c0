"""Test kit: tokens of an issuer of one's own, an application with its lifespan run, spans kept in memory."""

import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import FastAPI
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shop_common.settings import TokenSettings
from shop_common.tokens import ALGORITHM, KeyCache, Role, TokenVerifier
from shop_common.tracing import recording_by


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
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with recording_by(provider):
        yield exporter
    provider.shutdown()

"""What attacks need: raw bytes to the gateway, tokens forged with the cluster's own key, counts of what was asked."""

import asyncio
import json
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from shop_cluster.pytest_plugin import Cluster

Say = Callable[..., Awaitable[bytes]]


@pytest.fixture
def say(cluster: Cluster) -> Say:
    """Send bytes to the gateway on a connection of their own; all that comes back until the gateway closes it."""

    async def exchange(text: bytes, url: str = cluster.gateway_url) -> bytes:
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            writer.write(text)
            async with asyncio.timeout(30):
                return await reader.read()
        finally:
            writer.close()

    return exchange


@dataclass(frozen=True, slots=True)
class Forger:
    """Signs whatever it is told to with the key that the users service signs with: who has that could do anything,
    so each check of a claim is tested by itself."""

    kid: str
    key: Any

    def claims(self, user_id: str) -> dict[str, Any]:
        now = int(time.time())
        usual = {"iss": "https://shop.example", "aud": "shop", "sub": user_id, "role": "customer"}
        return usual | {"iat": now, "exp": now + 900, "jti": uuid.uuid4().hex}

    def sign(self, claims: dict[str, Any], **header: Any) -> str:
        given = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(given, self.key, "ES256", headers={"kid": self.kid} | header)


@pytest.fixture(scope="session")
def forger(cluster: Cluster) -> Forger:
    file = min(cluster.state.place("keys", "any").parent.glob("*.pem"))
    return Forger(file.stem, load_pem_private_key(file.read_bytes(), password=None))


CountRequests = Callable[[str, str], Awaitable[int]]


@pytest.fixture
def count_requests() -> CountRequests:
    """How often a service has been asked for a route, by its own metrics."""

    async def count(service_url: str, route: str) -> int:
        async with httpx.AsyncClient(trust_env=False) as client:
            metrics = (await client.get(f"{service_url}/metrics")).text
        samples = re.findall(
            rf'^shop_http_requests_total{{[^}}]*route="{re.escape(route)}"[^}}]*}} (\S+)$', metrics, re.MULTILINE
        )
        return int(sum(float(sample) for sample in samples))

    return count


@pytest.fixture(scope="session")
def document() -> dict[str, Any]:
    """The public API's."""
    path = Path(__file__).parents[2] / "services/gateway/src/shop_gateway/openapi.json"
    read: dict[str, Any] = json.loads(path.read_bytes())
    return read

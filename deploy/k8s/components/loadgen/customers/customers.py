# ruff: noqa: INP001 - a script in a ConfigMap, in no package
"""Customers of the gateway at GATEWAY: CUSTOMERS at once, each with PAUSE_SECONDS between requests, without end."""

import http.client
import json
import os
import secrets
import sys
import threading
import time
from typing import Any
from urllib.parse import urlencode, urlsplit

AGAIN_SECONDS = 5.0
ITEMS = [{"sku": "tea", "quantity": 2, "unit_price": {"amount": 450, "currency": "EUR"}}]


class Customer:
    """One connection, and the token of who uses it."""

    def __init__(self, gateway: str, pause: float) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(gateway).netloc, timeout=15)
        self._pause = pause
        self._headers: dict[str, str] = {}

    def live(self) -> None:
        """Register, log in, then order, look and pay for less long than a token lives."""
        name, password = f"load-{secrets.token_hex(6)}", secrets.token_hex(12)
        self._ask("POST", "/v1/users", {"email": f"{name}@example.com", "username": name, "password": password})
        form = urlencode({"username": name, "password": password})
        token = self._ask("POST", "/v1/auth/token", form)[1]["access_token"]
        self._headers = {"Authorization": f"Bearer {token}"}
        for _ in range(100):
            self._order()

    def _order(self) -> None:
        key = {"Idempotency-Key": secrets.token_hex(8)}
        path = f"/v1/orders/{self._ask('POST', '/v1/orders', {'items': ITEMS}, key)[1]['id']}"
        self._ask("GET", "/v1/me/dashboard")
        version, placed = self._ask("GET", path)
        if placed["status"] == "confirmed":  # the news of who registered just now may still be on its way
            self._ask("POST", f"{path}/pay", None, {"If-Match": version})

    def _ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[str, Any]:
        """The answer's ETag and JSON. RuntimeError for one that is no success."""
        time.sleep(self._pause)
        form = isinstance(body, str)
        kind = {"Content-Type": "application/x-www-form-urlencoded" if form else "application/json"}
        content = body if form or body is None else json.dumps(body)
        self._connection.request(method, path, content, kind | self._headers | (headers or {}))
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status >= http.client.BAD_REQUEST:
            raise RuntimeError(f"{method} {path}: {answer.status} {text[:200]!r}")
        return answer.headers.get("ETag", ""), json.loads(text)


def live_again(gateway: str, pause: float) -> None:
    """A customer who is refused says why, and another takes their place."""
    while True:
        try:
            Customer(gateway, pause).live()
        except (OSError, http.client.HTTPException, RuntimeError, ValueError) as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            time.sleep(AGAIN_SECONDS)


for _ in range(int(os.environ["CUSTOMERS"])):
    threading.Thread(target=live_again, args=(os.environ["GATEWAY"], float(os.environ["PAUSE_SECONDS"]))).start()

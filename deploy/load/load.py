"""Steady load on the gateway: customers who order and look at their dashboards; Compose's profile `load` and the
Kubernetes component `loadgen` run it in the image of the gateway.

LOAD_URL is the gateway; LOAD_RATE how many orders a second, each followed by two looks at the dashboard; LOAD_SECONDS
for how long, 0 until stopped. A line every ten seconds; exit code 1 if a request failed.
"""  # noqa: INP001 - a script, not a package

import asyncio
import os
import secrets
import sys
import time
from dataclasses import dataclass, field

import httpx

CUSTOMERS = 10
AT_ONCE = 200
REPORT_SECONDS = 10
PASSWORD = secrets.token_urlsafe(16)
UNAUTHORIZED = 401
ITEM = {"sku": "tea", "quantity": 2, "unit_price": {"amount": 450, "currency": "EUR"}}


@dataclass(slots=True)
class Tally:
    """Since the last line, except `failed`, which is of all."""

    milliseconds: list[float] = field(default_factory=list)
    skipped: int = 0
    failed: int = 0

    def line(self, seconds: float) -> str:
        known = sorted(self.milliseconds) or [0.0]
        middle, late = (known[int(len(known) * share)] for share in (0.5, 0.99))
        rate = len(self.milliseconds) / seconds
        figures = f"{rate:.0f} requests/s, p50 {middle:.0f} ms, p99 {late:.0f} ms"
        return f"{figures}, {self.failed} failed so far, {self.skipped} orders left out, the gateway being slow"


@dataclass(slots=True)
class Customer:
    email: str
    token: str = ""


class Load:
    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self.tally = Tally()

    async def register(self) -> Customer:
        name = f"load-{secrets.token_hex(6)}"
        customer = Customer(f"{name}@example.com")
        body = {"email": customer.email, "username": name, "password": PASSWORD}
        (await self._http.post("/v1/users", json=body)).raise_for_status()
        await self._log_in(customer)
        return customer

    async def order(self, customer: Customer) -> None:
        key = {"Idempotency-Key": secrets.token_hex(16)}
        await self._call(customer, "POST", "/v1/orders", json={"items": [ITEM]}, headers=key)
        for _ in range(2):
            await self._call(customer, "GET", "/v1/me/dashboard")

    async def _call(
        self, customer: Customer, method: str, path: str, *, json: object = None, headers: dict[str, str] | None = None
    ) -> None:
        started = time.perf_counter()
        try:
            response = await self._send(customer, method, path, json, headers)
            if response.status_code == UNAUTHORIZED:  # a token lives for 15 minutes
                await self._log_in(customer)
                response = await self._send(customer, method, path, json, headers)
            self.tally.failed += response.is_error
        except httpx.HTTPError:
            self.tally.failed += 1
        self.tally.milliseconds.append((time.perf_counter() - started) * 1000)

    async def _send(
        self, customer: Customer, method: str, path: str, json: object, headers: dict[str, str] | None
    ) -> httpx.Response:
        bearer = {"Authorization": f"Bearer {customer.token}", **(headers or {})}
        return await self._http.request(method, path, json=json, headers=bearer)

    async def _log_in(self, customer: Customer) -> None:
        form = {"username": customer.email, "password": PASSWORD}
        answer = (await self._http.post("/v1/auth/token", data=form)).raise_for_status()
        customer.token = answer.json()["access_token"]


async def run(url: str, rate: float, seconds: float) -> int:
    """Orders at their times, whether or not those before have been answered; returns how many requests failed."""
    async with httpx.AsyncClient(base_url=url, timeout=10, trust_env=False) as http:
        load = Load(http)
        customers = [await load.register() for _ in range(CUSTOMERS)]
        started = reported = time.monotonic()
        under_way: set[asyncio.Task[None]] = set()
        number = 0
        while not seconds or time.monotonic() < started + seconds:
            if len(under_way) < AT_ONCE:
                task = asyncio.create_task(load.order(customers[number % CUSTOMERS]))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
            else:
                load.tally.skipped += 1
            number += 1
            if time.monotonic() >= reported + REPORT_SECONDS:
                print(load.tally.line(time.monotonic() - reported), flush=True)
                load.tally, reported = Tally(failed=load.tally.failed), time.monotonic()
            await asyncio.sleep(max(0.0, started + number / rate - time.monotonic()))
        await asyncio.gather(*under_way)
        print(load.tally.line(time.monotonic() - reported), flush=True)
        return load.tally.failed


def main() -> int:
    try:
        url = os.environ["LOAD_URL"]
        rate, seconds = float(os.environ.get("LOAD_RATE", "10")), float(os.environ.get("LOAD_SECONDS", "0"))
    except (KeyError, ValueError) as bad:
        print(f"{bad}: give LOAD_URL, and LOAD_RATE and LOAD_SECONDS as numbers", file=sys.stderr)
        return 2
    if rate <= 0:
        print("LOAD_RATE must be above 0", file=sys.stderr)
        return 2
    try:
        return min(1, asyncio.run(run(url, rate, seconds)))
    except httpx.HTTPError as error:
        print(f"the gateway at {url} takes no customers: {type(error).__name__}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

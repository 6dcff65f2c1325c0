"""Customers of the gateway at GATEWAY: CUSTOMERS at once, each with PAUSE_SECONDS between requests, without end."""

import asyncio
import os
import secrets
import sys

import httpx

AGAIN_SECONDS = 5.0


async def live(client: httpx.AsyncClient, pause: float) -> None:
    """One customer: registers, logs in, then orders, pays and looks at the dashboard."""
    name = f"load-{secrets.token_hex(6)}"
    password = secrets.token_hex(12)
    await client.post("/v1/users", json={"email": f"{name}@example.com", "username": name, "password": password})
    for _ in range(100):  # a token's life is longer than this takes
        answer = await client.post("/v1/auth/token", data={"username": name, "password": password})
        headers = {"Authorization": f"Bearer {answer.raise_for_status().json()['access_token']}"}
        for _ in range(20):
            await order(client, headers, pause)


async def order(client: httpx.AsyncClient, headers: dict[str, str], pause: float) -> None:
    items = [{"sku": "tea", "quantity": 2, "unit_price": {"amount": 450, "currency": "EUR"}}]
    key = {"Idempotency-Key": secrets.token_hex(8)}
    placed = await client.post("/v1/orders", json={"items": items}, headers=headers | key)
    path = f"/v1/orders/{placed.raise_for_status().json()['id']}"
    await asyncio.sleep(pause)
    await client.get("/v1/me/dashboard", headers=headers)
    await asyncio.sleep(pause)
    confirmed = await client.get(path, headers=headers)
    await client.post(f"{path}/pay", headers=headers | {"If-Match": confirmed.raise_for_status().headers["ETag"]})
    await asyncio.sleep(pause)


async def live_again(client: httpx.AsyncClient, pause: float) -> None:
    """A customer who is refused says why, and another takes their place."""
    while True:
        try:
            await live(client, pause)
        except (httpx.HTTPError, KeyError) as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            await asyncio.sleep(AGAIN_SECONDS)


async def main() -> None:
    pause = float(os.environ["PAUSE_SECONDS"])
    async with httpx.AsyncClient(base_url=os.environ["GATEWAY"], timeout=15) as client, asyncio.TaskGroup() as group:
        for _ in range(int(os.environ["CUSTOMERS"])):
            group.create_task(live_again(client, pause))


asyncio.run(main())

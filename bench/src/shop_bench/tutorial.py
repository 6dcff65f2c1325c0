"""The peer that the usual tutorial would write: every habit the gateway does without. It checks no token.

Tutorials differ in their client: one for all requests with the pool it comes with (`TUTORIAL_CLIENT=shared`), one with
a pool for high load (`large`), or one for each request (`each`).
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI, Request, Response
from fastapi.middleware.gzip import GZipMiddleware
from pydantic import BaseModel
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint

UPSTREAM = os.environ.get("TUTORIAL_UPSTREAM", "http://127.0.0.1:9000")
CLIENT = os.environ.get("TUTORIAL_CLIENT", "shared")
LARGE = httpx.Limits(max_connections=1000, max_keepalive_connections=1000)


class Money(BaseModel):
    amount: int
    currency: str


class Item(BaseModel):
    sku: str
    quantity: int
    unit_price: Money


class User(BaseModel):
    id: str
    email: str
    username: str
    full_name: str | None
    role: str
    is_active: bool
    version: int
    created_at: str
    updated_at: str


class Order(BaseModel):
    id: str
    user_id: str
    status: str
    items: list[Item]
    total: Money
    version: int
    created_at: str
    updated_at: str


class Orders(BaseModel):
    items: list[Order]
    next_cursor: str | None


class Stats(BaseModel):
    orders: int
    paid: int
    cancelled: int
    spent: list[Money]


class Dashboard(BaseModel):
    user: User
    orders: Orders
    stats: Stats


def open_client() -> httpx.AsyncClient:
    if CLIENT == "large":
        return httpx.AsyncClient(base_url=UPSTREAM, limits=LARGE)
    return httpx.AsyncClient(base_url=UPSTREAM)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with open_client() as client:
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)


class ProcessTime(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        started = time.perf_counter()
        response = await call_next(request)
        response.headers["X-Process-Time"] = str(time.perf_counter() - started)
        return response


app.add_middleware(GZipMiddleware, minimum_size=1000)
app.add_middleware(ProcessTime)


@app.get("/v1/users/{user_id}/dashboard", response_model=Dashboard)
async def dashboard(user_id: str, request: Request) -> Any:
    if CLIENT != "each":
        return await gather(user_id, request, request.app.state.client)
    async with open_client() as client:
        return await gather(user_id, request, client)


async def gather(user_id: str, request: Request, client: httpx.AsyncClient) -> Any:
    async def fetch(path: str) -> Any:
        response = await client.get(path, headers={"Authorization": request.headers["Authorization"]})
        response.raise_for_status()
        return response.json()

    user, orders, stats = await asyncio.gather(
        fetch(f"/v1/users/{user_id}"),
        fetch(f"/v1/orders?user_id={user_id}&limit=10"),
        fetch(f"/v1/users/{user_id}/stats"),
    )
    return {"user": user, "orders": orders, "stats": stats}

"""The peer that the usual tutorial would write: every habit the gateway does without. It checks no token."""

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


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with httpx.AsyncClient(base_url=UPSTREAM) as client:
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
    async def fetch(path: str) -> Any:
        response = await request.app.state.client.get(path, headers={"Authorization": request.headers["Authorization"]})
        response.raise_for_status()
        return response.json()

    user, orders, stats = await asyncio.gather(
        fetch(f"/v1/users/{user_id}"),
        fetch(f"/v1/orders?user_id={user_id}&limit=10"),
        fetch(f"/v1/users/{user_id}/stats"),
    )
    return {"user": user, "orders": orders, "stats": stats}

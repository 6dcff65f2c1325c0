"""One person's way through everything: state in both services, and the trace that tells how it came about."""

import uuid
from typing import Any

import httpx

ITEMS = [{"sku": "tea-1", "quantity": 3, "unit_price": {"amount": 450, "currency": "EUR"}}]
TOTAL = {"amount": 1350, "currency": "EUR"}

HTTP_TO_ORDERS = ("server gateway", "client gateway", "server orders")
HTTP_TO_USERS = ("server gateway", "client gateway", "server users")
ORDERS_TO_USERS = ("producer orders-worker", "consumer users-worker")
USERS_TO_ORDERS_TO_USERS = ("producer users-worker", "consumer orders-worker", *ORDERS_TO_USERS)


async def _place(gateway: httpx.AsyncClient, person: Any, **headers: str) -> httpx.Response:
    key = {"Idempotency-Key": str(uuid.uuid4())}
    return await gateway.post("/v1/orders", json={"items": ITEMS}, headers={**person.bearer, **key, **headers})


async def _confirmed(gateway: httpx.AsyncClient, person: Any, order_id: str, eventually: Any) -> httpx.Response:
    async def attempt() -> httpx.Response | None:
        read = await gateway.get(f"/v1/orders/{order_id}", headers=person.bearer)
        return read if read.json()["status"] == "confirmed" else None

    response: httpx.Response = await eventually(attempt, "the order was never confirmed")
    return response


async def _stats(gateway: httpx.AsyncClient, person: Any, expected: dict[str, Any], eventually: Any) -> None:
    async def attempt() -> bool | None:
        read = await gateway.get(f"/v1/users/{person.id}/stats", headers=person.bearer)
        return True if read.status_code == 200 and read.json() == expected else None

    await eventually(attempt, f"the statistics never became {expected}")


async def test_an_order_reaches_the_statistics_and_the_dashboard(
    gateway: httpx.AsyncClient, register: Any, eventually: Any
) -> None:
    person = await register()
    placed = await _place(gateway, person)
    assert placed.status_code == 201, placed.text
    assert placed.json()["total"] == TOTAL
    order_id = placed.json()["id"]

    confirmed = await _confirmed(gateway, person, order_id, eventually)
    paid = await gateway.post(
        f"/v1/orders/{order_id}/pay", headers={**person.bearer, "If-Match": confirmed.headers["ETag"]}
    )
    assert (paid.status_code, paid.json()["status"]) == (200, "paid")

    await _stats(gateway, person, {"orders": 1, "paid": 1, "cancelled": 0, "spent": [TOTAL]}, eventually)
    dashboard = (await gateway.get("/v1/me/dashboard", headers=person.bearer)).json()
    assert dashboard["user"]["id"] == person.id
    assert [order["id"] for order in dashboard["orders"]["items"]] == [order_id]
    assert dashboard["stats"] == {"orders": 1, "paid": 1, "cancelled": 0, "spent": [TOTAL]}
    assert {name: section["state"] for name, section in dashboard["_sections"].items()} == {
        "user": "fresh",
        "orders": "fresh",
        "stats": "fresh",
    }


async def test_the_trace_of_an_order_goes_from_http_through_kafka(
    gateway: httpx.AsyncClient, register: Any, eventually: Any, trace_context: Any, fetch_trace: Any
) -> None:
    person = await register()
    placed = await _place(gateway, person, **trace_context.header)
    assert placed.status_code == 201, placed.text

    def complete(trace: Any) -> bool:
        return bool(trace.has_path(*HTTP_TO_ORDERS, *ORDERS_TO_USERS))

    trace = await fetch_trace(trace_context, complete)
    assert [text for text in (*person.personal_data, ITEMS[0]["sku"]) if str(text) in trace.text] == []


async def test_the_trace_of_a_dashboard_shows_both_services_side_by_side(
    gateway: httpx.AsyncClient, register: Any, trace_context: Any, fetch_trace: Any
) -> None:
    person = await register()
    read = await gateway.get("/v1/me/dashboard", headers={**person.bearer, **trace_context.header})
    assert read.status_code == 200

    def complete(trace: Any) -> bool:
        calls = [span for span in trace.spans.values() if (span.kind, span.service) == ("client", "gateway")]
        return len(calls) == 3 and trace.has_path(*HTTP_TO_USERS) and trace.has_path(*HTTP_TO_ORDERS)

    trace = await fetch_trace(trace_context, complete)
    assert [text for text in person.personal_data if text in trace.text] == []


async def test_deactivation_cancels_open_orders_and_its_trace_goes_to_orders_and_back(
    gateway: httpx.AsyncClient, register: Any, eventually: Any, trace_context: Any, fetch_trace: Any, admin: Any
) -> None:
    person = await register()
    order_id = (await _place(gateway, person)).json()["id"]
    await _confirmed(gateway, person, order_id, eventually)
    me = await gateway.get("/v1/me", headers=person.bearer)

    gone = await gateway.delete(
        f"/v1/users/{person.id}",
        headers={**person.bearer, "If-Match": me.headers["ETag"], **trace_context.header},
    )
    assert gone.status_code == 204, gone.text

    async def cancelled() -> bool | None:
        read = await gateway.get(f"/v1/orders/{order_id}", headers=admin)
        return True if read.json()["status"] == "cancelled" else None

    await eventually(cancelled, "the order was never cancelled")
    assert (await gateway.get(f"/v1/users/{person.id}", headers=admin)).json()["is_active"] is False

    async def counted() -> bool | None:
        stats = await gateway.get(f"/v1/users/{person.id}/stats", headers=admin)
        return True if stats.json() == {"orders": 1, "paid": 0, "cancelled": 1, "spent": []} else None

    await eventually(counted, "the cancellation never reached the statistics")

    def complete(trace: Any) -> bool:
        return bool(trace.has_path(*HTTP_TO_USERS, *USERS_TO_ORDERS_TO_USERS))

    trace = await fetch_trace(trace_context, complete)
    assert [text for text in person.personal_data if text in trace.text] == []


async def test_a_deactivated_person_cannot_log_in(gateway: httpx.AsyncClient, register: Any) -> None:
    person = await register()
    me = await gateway.get("/v1/me", headers=person.bearer)
    await gateway.delete(f"/v1/users/{person.id}", headers={**person.bearer, "If-Match": me.headers["ETag"]})
    refused = await gateway.post("/v1/auth/token", data={"username": person.email, "password": person.password})
    assert (refused.status_code, refused.json()["code"]) == (401, "invalid_credentials")

"""A client of the public API, for the demo data and the traces."""

import secrets
import time
import uuid
from collections.abc import Callable
from typing import Any, Self

import httpx

from shop_cluster.failures import ClusterError
from shop_cluster.ports import HOST
from shop_cluster.state import State

Json = dict[str, Any]


class Gateway:
    """One user's session. Each call may carry a `traceparent`; a refusal becomes a `ClusterError`."""

    def __init__(self, state: State) -> None:
        self._http = httpx.Client(base_url=f"http://{HOST}:{state.ports['gateway']}", timeout=10, trust_env=False)
        self.traceparent = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {**options.pop("headers", {}), **({"traceparent": self.traceparent} if self.traceparent else {})}
        try:
            response = self._http.request(method, path, headers=headers, **options)
        except httpx.TransportError as error:
            raise ClusterError(f"the gateway does not answer ({type(error).__name__})", remedy="make up") from None
        if response.is_error:
            raise Refused(response)
        return response

    def register(self, email: str, username: str, password: str) -> Json:
        body = {"email": email, "username": username, "password": password}
        user: Json = self.call("POST", "/v1/users", json=body).json()
        return user

    def log_in(self, email: str, password: str) -> None:
        """Later calls are this user's."""
        token = self.call("POST", "/v1/auth/token", data={"username": email, "password": password}).json()
        self._http.headers["Authorization"] = f"Bearer {token['access_token']}"

    def place_order(self, items: list[Json], key: str = "") -> Json:
        headers = {"Idempotency-Key": key or str(uuid.uuid4())}
        order: Json = self.call("POST", "/v1/orders", json={"items": items}, headers=headers).json()
        return order

    def move_order(self, order_id: str, action: str) -> Json:
        """Pay or cancel, at whatever version the order has now."""
        headers = {"If-Match": self.etag(f"/v1/orders/{order_id}")}
        order: Json = self.call("POST", f"/v1/orders/{order_id}/{action}", headers=headers).json()
        return order

    def etag(self, path: str) -> str:
        """What `If-Match` must say to change the resource as it is now."""
        return str(self.call("GET", path).headers["ETag"])

    def deactivate(self, user_id: str, etag: str) -> None:
        self.call("DELETE", f"/v1/users/{user_id}", headers={"If-Match": etag})

    def wait_for_order(self, order_id: str, status: str) -> None:
        wait_for(
            lambda: self.call("GET", f"/v1/orders/{order_id}").json()["status"] == status,
            f"order {order_id} does not become {status}",
        )


class Refused(ClusterError):
    """An answer of 4xx or 5xx."""

    def __init__(self, response: httpx.Response) -> None:
        request = response.request
        super().__init__(f"{request.method} {request.url.path} answered {response.status_code}: {response.text[:300]}")
        self.status = response.status_code


def wait_for(condition: Callable[[], object], failure: str, *, seconds: float = 20) -> None:
    """Return as soon as the condition holds; raise with `failure` when it does not within the time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise ClusterError(f"{failure} within {seconds:.0f} s", remedy="make status, make logs s=orders-worker")
        time.sleep(0.1)


def new_traceparent() -> tuple[str, str]:
    """A trace id of our own choice, and the header that asks for it to be recorded."""
    trace_id = secrets.token_hex(16)
    return trace_id, f"00-{trace_id}-{secrets.token_hex(8)}-01"

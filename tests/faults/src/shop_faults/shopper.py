"""One customer, who does one thing at a time and writes down what became of it."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final

import httpx

from shop_faults.account import Account, Operation, Order
from shop_faults.client import Client
from shop_faults.ledger import Entry, Kind, Ledger

PASSWORD: Final = "correct horse battery"
_OK, _UNAUTHENTICATED, _SERVER_ERROR = 200, 401, 500
JOIN_SECONDS: Final = 4.0
_TOKENS: Final = 8
_RETRY_AFTER_SECONDS: Final = 1.0
"""What a 503 of ours asks for; whoever comes back at once keeps a busy service busy."""
_WEIGHTS: Final = {"place": 40, "pay": 18, "cancel": 10, "amend": 12, "read": 16, "renew": 2, "deactivate": 1}
"""Accounts are seldom closed: each new one has two passwords hashed, and cores busy with that hide what is measured."""


class Shopper:
    """Works through a gateway until told to stop; what it does depends on its random numbers alone."""

    def __init__(self, name: str, client: Client, ledger: Ledger, numbers: random.Random) -> None:
        self._name = name
        self._client = client
        self._ledger = ledger
        self._numbers = numbers
        self._counter = 0
        self._registration: Operation | None = None
        self._registered: Entry | None = None
        self.unsettled: list[Operation] = []
        self.wrong_reads: list[str] = []

    @property
    def gateway_url(self) -> str:
        return self._client.url

    async def run(self, stop: asyncio.Event, pause_seconds: float) -> None:
        account: Account | None = None
        # Customers come one after the other: a hundred passwords at once would be a fault of its own.
        await asyncio.sleep(self._numbers.uniform(0, JOIN_SECONDS))
        while not stop.is_set():
            await asyncio.sleep(self._numbers.uniform(0, 2 * pause_seconds))
            if account is None:
                account = await self.join()
                continue
            (what,) = self._numbers.choices([*_WEIGHTS], [*_WEIGHTS.values()])
            step: Callable[[Account], Awaitable[bool]] = getattr(self, what)
            if not await step(account):
                account = None  # it is closed, or nobody knows, or its tokens have ended

    async def join(self) -> Account | None:
        """Register and log in, each until it is answered; None where that has to be gone on with."""
        if self._registered is None:
            operation = self._registration = self._registration or self._create_registration()
            entry = await self._perform(operation)
            if entry.outcome == "unknown":
                return None
            self._registration, self._registered = None, entry
        try:
            account = await self._log_in(self._registered.aggregate_id, self._registered.key)
        except ConnectionError:
            await self._wait_as_told()
            return None
        self._registered = None
        return account

    def _create_registration(self) -> Operation:
        key = f"{self._next_key()}@example.com"
        body = {"email": key, "username": key.partition("@")[0], "password": PASSWORD}
        return Operation("register", key, None, "POST", "/v1/users", {}, body)

    async def place(self, account: Account) -> bool:
        key = self._next_key()
        quantity, price = self._numbers.randint(1, 3), self._numbers.randint(100, 10_000)
        item = {"sku": key, "quantity": quantity, "unit_price": {"amount": price, "currency": "EUR"}}
        headers = {"Idempotency-Key": key}
        amount = quantity * price
        operation = Operation("place", key, account, "POST", "/v1/orders", headers, {"items": [item]}, amount)
        await self._perform(operation)
        return True

    async def pay(self, account: Account) -> bool:
        return await self._move(account, "pay")

    async def cancel(self, account: Account) -> bool:
        return await self._move(account, "cancel")

    async def _move(self, account: Account, kind: Kind) -> bool:
        candidates = [
            order_id for order_id, order in account.orders.items() if order.status in {"pending", "confirmed"}
        ]
        if not candidates:
            return True
        order_id = self._numbers.choice(candidates)
        key = self._next_key()
        headers = {"Idempotency-Key": key, "If-Match": f'"{account.orders[order_id].version}"'}
        entry = await self._perform(
            Operation(kind, key, account, "POST", f"/v1/orders/{order_id}/{kind}", headers, None)
        )
        if entry.outcome == "unknown":
            del account.orders[order_id]  # left in peace until the verdict
        elif entry.outcome == "rejected":
            await self._look_again(account, order_id)
        return True

    async def _look_again(self, account: Account, order_id: str) -> None:
        response = await self._client.ask("read", "GET", f"/v1/orders/{order_id}", headers=account.bearer)
        if response is not None and response.status_code == _OK:
            _keep_token(account, order_id, response)
            account.orders[order_id] = Order(response.json()["version"], response.json()["status"])

    async def amend(self, account: Account) -> bool:
        """Change the profile; where it is not known what became of the last change, ask for that one again instead."""
        unknown = [each for each in self._in_doubt(account) if each.kind == "change"]
        if unknown:
            await self.settle(unknown[0])
        else:
            await self.change(account)
        return True

    async def change(self, account: Account) -> bool:
        """Whether it is known what became of it."""
        key = self._next_key()
        headers = {"If-Match": f'"{account.version}"', "Content-Type": "application/merge-patch+json"}
        path = f"/v1/users/{account.user_id}"
        entry = await self._perform(Operation("change", key, account, "PATCH", path, headers, {"full_name": key}))
        return entry.outcome != "unknown"

    async def deactivate(self, account: Account) -> bool:
        if self._in_doubt(account):
            return True  # of a closed account nobody would be told what became of them
        headers = {"If-Match": f'"{account.version}"'}
        path = f"/v1/users/{account.user_id}"
        await self._perform(Operation("deactivate", self._next_key(), account, "DELETE", path, headers, None))
        return False

    async def renew(self, account: Account) -> bool:
        """Change the refresh token for new ones; who does not hear of those logs in again, the next time."""
        token, account.refresh_token = account.refresh_token, ""
        try:
            if token:
                body = {"refresh_token": token}
                response = await self._require_answer("renew", "POST", "/v1/auth/refresh", json=body)
            else:
                response = await self._ask_for_tokens(account.email)
        except ConnectionError:
            return True
        if response.status_code != _OK:
            return False
        _take_tokens(account, response)
        return True

    async def read(self, account: Account, *, live: bool = False) -> bool:
        """A dashboard must show what this customer was told before, or say that it cannot."""
        version = account.version
        orders = {order_id: order.version for order_id, order in account.orders.items()}
        headers = {**account.bearer, "Consistency-Token": ",".join([*account.tokens.values()][-_TOKENS:])}
        headers |= {"Cache-Control": "no-cache"} if live else {}
        response = await self._client.ask("dashboard", "GET", "/v1/me/dashboard", headers=headers)
        if response is None or response.status_code != _OK:
            return True
        dashboard = response.json()
        if dashboard["user"]["version"] < version:
            self.wrong_reads.append(f"user {account.user_id}: {dashboard['user']['version']} after {version}")
        for shown in (dashboard["orders"] or {"items": []})["items"]:
            if shown["version"] < orders.get(shown["id"], 0):
                self.wrong_reads.append(f"order {shown['id']}: {shown['version']} after {orders[shown['id']]}")
        return True

    async def is_counted(self, account: Account) -> bool:
        """Whether each order of this customer is confirmed or further, and in the statistics."""
        stats = await self._client.ask("read", "GET", f"/v1/users/{account.user_id}/stats", headers=account.bearer)
        if stats is None or stats.status_code != _OK or stats.json()["orders"] < len(account.orders):
            return False
        for order_id in account.orders:
            await self._look_again(account, order_id)
        return all(order.status != "pending" for order in account.orders.values())

    async def settle(self, operation: Operation) -> bool:
        """Give an operation of unknown outcome again; whether there is a verdict now."""
        entry = await self._perform(operation)
        return entry.outcome != "unknown"

    async def _perform(self, operation: Operation) -> Entry:
        account = operation.account
        headers = {**operation.headers, **(account.bearer if account else {})}
        response = await self._client.ask(
            operation.kind, operation.method, operation.path, headers=headers, json=operation.body
        )
        entry = await self._judge(operation, response)
        if entry.outcome == "unknown":
            if operation not in self.unsettled:
                self.unsettled.append(operation)
                await self._ledger.write(entry)
            await self._wait_as_told()
        else:
            if operation in self.unsettled:
                self.unsettled.remove(operation)
            await self._ledger.write(entry)
            _learn(operation, entry, response)
        return entry

    async def _wait_as_told(self) -> None:
        await asyncio.sleep(self._numbers.uniform(0.5, 1.5) * _RETRY_AFTER_SECONDS)

    async def _judge(self, operation: Operation, response: httpx.Response | None) -> Entry:
        user_id = operation.account.user_id if operation.account else ""
        status = "no answer" if response is None else str(response.status_code)
        entry = Entry(operation.kind, operation.key, user_id, "unknown", amount=operation.amount, status=status)
        if response is None or response.status_code >= _SERVER_ERROR:
            return entry
        if response.status_code == _UNAUTHENTICATED and operation in self.unsettled:
            return replace(entry, outcome="untold")
        try:
            done = await self._find_done(operation, response)
        except ConnectionError:
            return entry
        if done is None:
            return replace(entry, outcome="rejected")
        return replace(entry, outcome="acked", aggregate_id=done[0], version=done[1])

    async def _find_done(self, operation: Operation, response: httpx.Response) -> tuple[str, int] | None:
        """The aggregate and the version that the command made, None where it was refused and made none."""
        if response.is_error:
            return await self._find_effect(operation) if operation in self.unsettled else None
        if operation.kind == "deactivate":
            return operation.path.rpartition("/")[2], _tag(response)
        return response.json()["id"], response.json()["version"]

    async def _find_effect(self, operation: Operation) -> tuple[str, int] | None:
        """Commands without an idempotency key: a refusal the second time may mean that the first was obeyed."""
        if operation.kind == "register":
            account = await self._log_in("", operation.key)
        else:
            account = operation.account
        if account is None or operation.kind not in {"register", "change", "deactivate"}:
            return None
        user = (await self._require_answer("read", "GET", "/v1/me", headers=account.bearer)).json()
        obeyed = {"change": user.get("full_name") == operation.key, "deactivate": user.get("is_active") is False}
        return (user["id"], user["version"]) if obeyed.get(operation.kind, True) else None

    async def _require_answer(self, kind: str, method: str, path: str, **options: Any) -> httpx.Response:
        response = await self._client.ask(kind, method, path, **options)
        if response is None or response.status_code >= _SERVER_ERROR:
            raise ConnectionError(f"no answer to {method} {path}")
        return response

    async def _log_in(self, user_id: str, email: str) -> Account | None:
        """None where the password is refused."""
        response = await self._ask_for_tokens(email)
        if response.status_code != _OK:
            return None
        account = Account(user_id, email, {}, "")
        _take_tokens(account, response)
        return account

    async def _ask_for_tokens(self, email: str) -> httpx.Response:
        form = {"username": email, "password": PASSWORD}
        return await self._require_answer("login", "POST", "/v1/auth/token", data=form)

    def _in_doubt(self, account: Account) -> list[Operation]:
        return [operation for operation in self.unsettled if operation.account is account]

    def _next_key(self) -> str:
        self._counter += 1
        return f"{self._name}-{self._counter}"


def _tag(response: httpx.Response) -> int:
    return int(response.headers["ETag"].strip('"'))


def _take_tokens(account: Account, response: httpx.Response) -> None:
    account.refresh_token = response.json()["refresh_token"]
    account.bearer["Authorization"] = f"Bearer {response.json()['access_token']}"


def _keep_token(account: Account, aggregate_id: str, response: httpx.Response) -> None:
    if token := response.headers.get("Consistency-Token"):
        account.tokens.pop(aggregate_id, None)
        account.tokens[aggregate_id] = token


def _learn(operation: Operation, entry: Entry, response: httpx.Response | None) -> None:
    """What the customer knows from now on."""
    account = operation.account
    if account is None or entry.outcome != "acked":
        return
    if response is not None:
        _keep_token(account, entry.aggregate_id, response)
    if operation.kind == "change":
        account.version = max(account.version, entry.version)
    elif operation.kind in {"place", "pay", "cancel"} and response is not None:
        account.orders[entry.aggregate_id] = Order(entry.version, response.json()["status"])

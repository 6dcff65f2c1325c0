"""More than there is room for: pools that are used up, and clients that hang up in the middle."""

import asyncio
from typing import Final

import httpx
from prometheus_client.parser import text_string_to_metric_families

from shop_cluster.ports import HOST
from shop_faults.hangups import http_request, send_all
from shop_faults.lab import Topology
from shop_faults.scenario import Run, Scenario
from shop_faults.snapshot import SESSIONS, open_postgres

LOCK: Final = "LOCK TABLE users IN ACCESS EXCLUSIVE MODE"
_LOCKED_SECONDS: Final = 6.0
_REQUESTS: Final = 3400
"""Per seed, so that three are more than ten thousand."""
_ANSWERED: Final = 0.99
_IDLE_SECONDS: Final = 10.0
_TINY: Final = {
    "USERS_POSTGRES__MIN_SIZE": "1",
    "USERS_POSTGRES__MAX_SIZE": "2",
    "USERS_POSTGRES__ACQUIRE_SECONDS": "1",
    "USERS_POSTGRES__COMMAND_SECONDS": "1",
    "ORDERS_MONGO__MIN_SIZE": "1",
    "ORDERS_MONGO__MAX_SIZE": "2",
}


async def use_up_pools(run: Run) -> None:
    """A lock holds whoever got one of the two connections; the rest is refused in time, and told when to come back."""
    for _ in range(max(1, run.rounds // 2)):
        async with run.fault("users locked"), open_postgres(run.lab.state) as connection, connection.transaction():
            await connection.execute(LOCK)
            await asyncio.sleep(_LOCKED_SECONDS)
    allowed = {"503", "429"}
    # A dashboard has a second in all, which is less than a connection may be waited for.
    wrong = [
        sample
        for sample in run.load.samples
        if (not sample.status.isdigit() or sample.status >= "500")
        and sample.status not in allowed | ({"504"} if sample.kind == "dashboard" else set())
    ]
    refused = [sample for sample in run.load.samples if sample.status == "503"]
    run.check("only 503 and 429", ok=not wrong, detail=f"{len(wrong)} others: {wrong[:3]}")
    run.check("refused", ok=bool(refused), detail=f"{len(refused)} times 503")
    await run.load.stop()
    await check_idle(run)


async def hang_up(run: Run) -> None:
    """Nearly a third of the orders is dropped somewhere between the first byte and the last."""
    _, account = await run.load.newcomer()
    keys = [f"h{run.seed}-{run.numbers.getrandbits(32):x}-{number}" for number in range(_REQUESTS)]
    headers = {**account.bearer, "Content-Type": "application/json"}
    requests = [http_request("POST", "/v1/orders", {**headers, "Idempotency-Key": key}, _order(key)) for key in keys]
    port = httpx.URL(run.lab.gateway_urls[0]).port or 0
    async with run.fault("clients hang up"):
        exchanges = await send_all(port, requests, share_dropped=0.3, seed=run.seed, at_once=30)
    wanted = [each for each in exchanges if each.dropped_at is None]
    answered = [each for each in wanted if each.status == httpx.codes.CREATED]
    enough = len(answered) >= _ANSWERED * len(wanted)
    run.check("the others are answered", ok=enough, detail=f"{len(answered)} of {len(wanted)}")
    run.verify = lambda run, snapshot: _once_each(run, snapshot.databases.orders.values(), keys)
    await run.load.stop()
    await check_idle(run)


def _order(key: str) -> bytes:
    item = f'{{"sku": "{key}", "quantity": 1, "unit_price": {{"amount": 100, "currency": "EUR"}}}}'
    return f'{{"items": [{item}]}}'.encode()


def _once_each(run: Run, orders: object, keys: list[str]) -> None:
    wanted = set(keys)
    made = [order["items"][0]["sku"] for order in orders if order["items"][0]["sku"] in wanted]  # type: ignore[attr-defined]
    run.check("O2 of those", ok=len(made) == len(set(made)), detail=f"{len(made)} orders of {len(set(made))} keys")


async def check_idle(run: Run) -> None:
    """With nothing to do, no connection is out, and no transaction open."""
    seen: dict[str, float] = {}
    try:
        async with asyncio.timeout(_IDLE_SECONDS):
            while not seen or any(seen.values()):
                seen = {**await _in_use(run), "idle in transaction": await _idle_in_transaction(run)}
                await asyncio.sleep(0.2)
    except TimeoutError:
        run.check("pools at rest", ok=False, detail=str(seen))
    else:
        run.check("pools at rest", ok=True, detail="")


async def _in_use(run: Run) -> dict[str, float]:
    used: dict[str, float] = {}
    async with httpx.AsyncClient(trust_env=False) as client:
        for name in ("users", "orders"):
            text = (await client.get(f"http://{HOST}:{run.lab.state.ports[name]}/metrics")).text
            for family in text_string_to_metric_families(text):
                if family.name == "shop_pool_connections_in_use":
                    used |= {f"{name} {sample.labels}": sample.value for sample in family.samples}
    return used


async def _idle_in_transaction(run: Run) -> int:
    async with open_postgres(run.lab.state) as connection:
        row = await connection.fetchrow(SESSIONS)
    return int(row["idle_in_transaction"])


SCENARIOS: Final = (
    Scenario(
        "pool-exhaustion",
        "pool exhaustion",
        use_up_pools,
        30,
        Topology(variables=_TINY),
        customers=20,  # ten for each of the two connections; with more, the cores that hash passwords are waited for
        pause_seconds=0.3,
    ),
    Scenario("hang-ups", "client disconnects", hang_up, 20),
)

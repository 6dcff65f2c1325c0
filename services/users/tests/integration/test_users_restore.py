"""What the runbook has an operator run in a database restored from a backup, exactly as printed there."""

import json
import re
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from shop_common.events.contracts import parse
from shop_common.events.money import Money
from shop_common.events.orders import OrderItem, OrderPlaced
from shop_common.events.users import UserDeactivated, UserUpdated
from shop_common.postgres import Postgres
from shop_users.settings import Settings
from shop_users.store.relay import open_outbox
from shop_users.store.statistics import StatisticsStore

RUNBOOK = Path(__file__).parents[4] / "docs" / "runbook.md"
JUMP = 1_000_000

Register = Callable[[str], Awaitable[Any]]


async def rename(client: httpx.AsyncClient, account: Any, version: int) -> None:
    headers = account.if_match(version) | {"Content-Type": "application/merge-patch+json"}
    answer = await client.patch(account.path, json={"full_name": f"Version {version}"}, headers=headers)
    assert answer.status_code == 200, answer.text


async def run_as_printed(heading: str, settings: Settings) -> None:
    """The one script of that section."""
    section = RUNBOOK.read_text().partition(f"\n{heading}\n")[2].partition("\n### ")[0]
    [script] = re.findall(r"```sql\n(.*?)```", section, re.DOTALL)
    operator = await asyncpg.connect(settings.postgres.dsn)
    await operator.execute(script)
    await operator.close()


async def test_versions_jump_over_all_that_was_published_and_every_user_is_told_again(
    client: httpx.AsyncClient, register: Register, postgres: Postgres, settings: Settings
) -> None:
    ada, bob = await register("ada"), await register("bob")
    await rename(client, ada, 1)
    assert (await client.delete(bob.path, headers=bob.if_match())).is_success
    await client.post("/v1/auth/token", data={"username": "ada", "password": "correct horse battery"})

    await run_as_printed("### users (PostgreSQL)", settings)

    async with open_outbox(postgres, settings.postgres) as outbox:
        told = {record.event.key: record.event for record in await outbox.pending(10)}
    events = {user_id: parse(event) for user_id, event in told.items()}
    assert {type(event) for event in events.values()} == {UserUpdated, UserDeactivated}
    shown = (await client.get(ada.path, headers=ada.bearer)).json()
    assert shown["version"] == JUMP + 2
    assert events[ada.id] == UserUpdated.model_validate_json(json.dumps(shown))
    assert told[bob.id].sequence == JUMP + 2
    assert await postgres.fetchval("SELECT count(*) FROM sessions") == 0
    await rename(client, ada, JUMP + 2)


async def test_offsets_of_a_kafka_that_is_no_more_are_forgotten(
    client: httpx.AsyncClient, register: Register, postgres: Postgres, settings: Settings
) -> None:
    ada, now = await register("ada"), datetime.now(UTC)
    price = Money(amount=5, currency="EUR")
    placed = OrderPlaced(
        id=uuid.uuid4(),
        user_id=uuid.UUID(ada.id),
        status="pending",
        items=(OrderItem(sku="sku", quantity=1, unit_price=price),),
        total=price,
        version=1,
        created_at=now,
        updated_at=now,
    )
    await StatisticsStore(postgres).apply(placed, 41)
    before = await client.get(f"{ada.path}/stats", headers=ada.bearer)
    assert before.headers["projected-offset"] == "41"

    await run_as_printed("### Kafka lost", settings)

    after = await client.get(f"{ada.path}/stats", headers=ada.bearer)
    assert (after.json()["orders"], "projected-offset" in after.headers) == (1, False)
    await StatisticsStore(postgres).apply(placed, 0)
    again = await client.get(f"{ada.path}/stats", headers=ada.bearer)
    assert (again.json()["orders"], again.headers["projected-offset"]) == (1, "0")

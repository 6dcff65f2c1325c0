"""What the runbook has an operator run in a database restored from a backup, exactly as printed there."""

import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from shop_common.events.contracts import parse
from shop_common.events.users import UserDeactivated, UserUpdated
from shop_common.postgres import Postgres
from shop_users.settings import Settings
from shop_users.store.relay import open_outbox

RUNBOOK = Path(__file__).parents[4] / "docs" / "runbook.md"
JUMP = 1_000_000

Register = Callable[[str], Awaitable[Any]]


async def rename(client: httpx.AsyncClient, account: Any, version: int) -> None:
    headers = account.if_match(version) | {"Content-Type": "application/merge-patch+json"}
    answer = await client.patch(account.path, json={"full_name": f"Version {version}"}, headers=headers)
    assert answer.status_code == 200, answer.text


async def test_versions_jump_over_all_that_was_published_and_every_user_is_told_again(
    client: httpx.AsyncClient, register: Register, postgres: Postgres, settings: Settings
) -> None:
    ada, bob = await register("ada"), await register("bob")
    await rename(client, ada, 1)
    assert (await client.delete(bob.path, headers=bob.if_match())).is_success
    await client.post("/v1/auth/token", data={"username": "ada", "password": "correct horse battery"})

    [script] = re.findall(r"```sql\n(.*?)```", RUNBOOK.read_text(), re.DOTALL)
    operator = await asyncpg.connect(settings.postgres.dsn)
    await operator.execute(script)
    await operator.close()

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

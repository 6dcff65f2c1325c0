"""PostgreSQL's role and database for the service that uses it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from shop_cluster.ports import HOST
from shop_cluster.servers import SUPERUSER
from shop_cluster.state import State

# DDL takes no parameters: the server itself quotes the password into the statement.
ROLE_EXISTS = "SELECT true FROM pg_roles WHERE rolname = 'users'"
MAKE_ROLE = "SELECT format('CREATE ROLE users LOGIN PASSWORD %L', $1::text)"
SET_PASSWORD = "SELECT format('ALTER ROLE users PASSWORD %L', $1::text)"  # noqa: S105 - a statement, no password
DATABASE_EXISTS = "SELECT true FROM pg_database WHERE datname = 'users'"
MAKE_DATABASE = "CREATE DATABASE users OWNER users"
SHUT_OTHERS_OUT = "REVOKE ALL ON DATABASE users FROM PUBLIC"


@asynccontextmanager
async def superuser_connection(state: State, database: str = "postgres") -> AsyncIterator[Any]:
    connection = await asyncpg.connect(
        host=HOST,
        port=state.ports["postgres"],
        user=SUPERUSER,
        password=state.secret("postgres_superuser"),
        database=database,
        timeout=10,
    )
    try:
        yield connection
    finally:
        await connection.close(timeout=5)


async def ensure_databases(state: State) -> None:
    """The role `users`, which owns the database `users` and may do nothing else on the server."""
    async with superuser_connection(state) as connection:
        statement = SET_PASSWORD if await connection.fetchval(ROLE_EXISTS) else MAKE_ROLE
        await connection.execute(await connection.fetchval(statement, state.secret("postgres_users")))
        if not await connection.fetchval(DATABASE_EXISTS):
            await connection.execute(MAKE_DATABASE)
            await connection.execute(SHUT_OTHERS_OUT)

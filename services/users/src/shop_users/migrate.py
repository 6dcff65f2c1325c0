"""Brings the database to the current schema and makes the first administrator: `python -m shop_users.migrate`.

Safe to repeat, and safe to run by several at once: all of it happens in one transaction that holds an advisory lock.
"""

import asyncio
import sys
from functools import partial

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from shop_common.errors import Conflict, StartupError
from shop_common.postgres import POSTGRES_TRANSIENT, open_postgres
from shop_common.settings import PostgresSettings, load_settings
from shop_common.startup import WAIT_SECONDS, once_up
from shop_users.passwords import open_passwords
from shop_users.service.accounts import Accounts
from shop_users.settings import AdminSettings, MigrateSettings
from shop_users.store.users import UserStore

# Two may migrate at once: one waits a while for the other, then neither waits long for whoever uses a table.
LOCK = "SET LOCAL lock_timeout = '120s'; SELECT pg_advisory_xact_lock(742600157); SET LOCAL lock_timeout = '5s'"


async def migrate(settings: MigrateSettings, wait_seconds: float = WAIT_SECONDS) -> None:
    """Raises StartupError."""
    await once_up(partial(_connect, settings.postgres), (OSError, *POSTGRES_TRANSIENT), wait_seconds)
    await _upgrade(settings.postgres)
    if settings.admin is not None:
        await _ensure_admin(settings.postgres, settings.admin)


async def _connect(settings: PostgresSettings) -> None:
    async with open_postgres(settings, "users-migrate"):
        return


async def _upgrade(settings: PostgresSettings) -> None:
    url = make_url(settings.dsn).set(drivername="postgresql+asyncpg")
    if settings.password is not None:
        url = url.set(password=settings.password.get_secret_value())
    engine = create_async_engine(url, connect_args={"timeout": settings.connect_seconds})
    try:
        async with engine.begin() as connection:
            await connection.run_sync(_upgrade_on)
    except (DBAPIError, OSError) as error:
        reason = error.orig if isinstance(error, DBAPIError) else error
        raise StartupError(f"the migration was rolled back: {reason}; correct it and run it again") from error
    finally:
        await engine.dispose()


def _upgrade_on(connection: Connection) -> None:
    for statement in LOCK.split(";"):
        connection.execute(text(statement))
    config = Config()
    config.set_main_option("script_location", "shop_users:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


async def _ensure_admin(settings: PostgresSettings, admin: AdminSettings) -> None:
    async with open_postgres(settings, "users-migrate") as postgres, open_passwords() as passwords:
        store = UserStore(postgres, nudge=lambda: None)  # the relay polls
        if await store.has_admin():
            return
        try:
            await Accounts(store, passwords).register(
                email=admin.email, username=admin.username, password=admin.password.get_secret_value(), role="admin"
            )
        except Conflict as taken:
            if not await store.has_admin():  # or another migration was faster
                raise StartupError(f"no administrator was made: {taken.detail}; choose another") from None


def main() -> None:
    try:
        asyncio.run(migrate(load_settings(MigrateSettings)))
    except StartupError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()

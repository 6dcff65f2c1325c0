"""How Alembic runs here: on the connection, and inside the transaction, that `shop_users.migrate` holds."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()

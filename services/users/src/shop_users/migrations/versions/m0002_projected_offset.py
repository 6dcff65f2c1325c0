"""How far each user's statistics are projected; null where that is not known."""

from alembic import op

revision = "0002"
down_revision = "0001"

PROJECTED_OFFSET = "ALTER TABLE user_statistics ADD COLUMN projected_offset bigint"


def upgrade() -> None:
    op.execute(PROJECTED_OFFSET)

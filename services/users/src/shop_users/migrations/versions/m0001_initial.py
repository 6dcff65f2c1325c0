"""Users, sessions, outbox, statistics and the inbox of welcome mails."""

from alembic import op

revision = "0001"
down_revision = None

USERS = """
CREATE TABLE users (
  id uuid PRIMARY KEY,
  email text NOT NULL,
  username text NOT NULL,
  full_name text,
  role text NOT NULL CHECK (role IN ('customer', 'admin')),
  password_hash text NOT NULL,
  is_active boolean NOT NULL,
  version int NOT NULL CHECK (version >= 1),
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL
)
"""
USERS_EMAIL = "CREATE UNIQUE INDEX users_email_key ON users (lower(email))"
USERS_USERNAME = "CREATE UNIQUE INDEX users_username_key ON users (lower(username))"
USERS_NEWEST = "CREATE INDEX users_newest ON users (created_at DESC, id DESC)"

# One row is one family of refresh tokens: its hash is that of the only one that is good.
SESSIONS = """
CREATE TABLE sessions (
  id uuid PRIMARY KEY,
  user_id uuid NOT NULL REFERENCES users,
  token_hash bytea NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  expires_at timestamptz NOT NULL
)
"""
SESSIONS_USER = "CREATE INDEX sessions_user ON sessions (user_id)"
SESSIONS_EXPIRY = "CREATE INDEX sessions_expiry ON sessions (expires_at)"

# Every row is deleted soon, so it is vacuumed by the number of dead rows and not by their share.
OUTBOX = """
CREATE TABLE outbox (
  shard smallint NOT NULL,
  id bigint GENERATED ALWAYS AS IDENTITY,
  event_id uuid NOT NULL,
  aggregate_id uuid NOT NULL,
  version int NOT NULL,
  topic text NOT NULL,
  key bytea NOT NULL,
  headers jsonb NOT NULL,
  payload bytea NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (shard, id),
  UNIQUE (aggregate_id, version)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000)
"""

USER_ORDERS = """
CREATE TABLE user_orders (
  order_id uuid PRIMARY KEY,
  user_id uuid NOT NULL,
  version int NOT NULL,
  status text NOT NULL,
  amount bigint NOT NULL,
  currency text NOT NULL
)
"""
USER_STATISTICS = """
CREATE TABLE user_statistics (
  user_id uuid PRIMARY KEY,
  orders bigint NOT NULL DEFAULT 0,
  paid bigint NOT NULL DEFAULT 0,
  cancelled bigint NOT NULL DEFAULT 0
)
"""
USER_SPENDING = """
CREATE TABLE user_spending (
  user_id uuid NOT NULL,
  currency text NOT NULL,
  amount numeric(38) NOT NULL,
  PRIMARY KEY (user_id, currency)
)
"""

WELCOME_MAILS = """
CREATE TABLE welcome_mails (
  event_id uuid PRIMARY KEY,
  claimed_until timestamptz NOT NULL,
  sent_at timestamptz
)
"""


def upgrade() -> None:
    for statement in (
        USERS,
        USERS_EMAIL,
        USERS_USERNAME,
        USERS_NEWEST,
        SESSIONS,
        SESSIONS_USER,
        SESSIONS_EXPIRY,
        OUTBOX,
        USER_ORDERS,
        USER_STATISTICS,
        USER_SPENDING,
        WELCOME_MAILS,
    ):
        op.execute(statement)

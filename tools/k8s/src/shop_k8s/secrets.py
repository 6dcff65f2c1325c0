"""The files that the local overlay makes Secrets of: random, made once, never committed."""

import secrets
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from shop_cluster.state import write_private
from shop_users.keys import add_key

PASSWORDS: Final = ("users_postgres__password", "users_admin__password", "users_cursor_key", "orders_cursor_key")
SIGNING_KEY: Final = "signing_key.pem"
_BYTES = 32


def make_local_secrets(folder: Path) -> None:
    """Make what is missing in `overlays/local/secrets`; what is there stays."""
    for name in PASSWORDS:
        if not (folder / name).exists():
            write_private(folder / name, secrets.token_urlsafe(_BYTES))
    if not (folder / SIGNING_KEY).exists():
        with TemporaryDirectory() as made:
            kid = add_key(Path(made), datetime.now(UTC))
            write_private(folder / SIGNING_KEY, (Path(made) / f"{kid}.pem").read_text())

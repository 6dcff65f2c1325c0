"""The platform's own processes and one-shots: their commands and their environment."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from shop_cluster.ports import HOST
from shop_cluster.state import State, write_private
from shop_cluster.supervise import Program

ADMIN_EMAIL = "admin@example.com"
_QUOTAS = ("RATE_LIMIT__REQUESTS", "RATE_LIMIT__LOGIN__REQUESTS", "RATE_LIMIT__REGISTRATION__REQUESTS")

SERVICES: Mapping[str, str] = {
    "users": "shop_users.app",
    "orders": "shop_orders.app",
    "users-worker": "shop_users.worker",
    "orders-worker": "shop_orders.worker",
    "gateway": "shop_gateway.app",
}


@dataclass(frozen=True, slots=True)
class OneShot:
    """A command that runs to its end before the services that need it start."""

    name: str
    module: str
    arguments: tuple[str, ...] = ()
    service: str = ""


def one_shots(state: State) -> dict[str, OneShot]:
    bootstrap = f"{HOST}:{state.ports['kafka']}"
    return {
        shot.name: shot
        for shot in (
            OneShot("topics", "shop_common.kafka.topics", ("--bootstrap-servers", bootstrap)),
            OneShot("keys", "shop_users.keys", ("ensure",), "users"),
            OneShot("migrations", "shop_users.migrate", (), "users"),
            OneShot("indexes", "shop_orders.indexes", (), "orders"),
        )
    }


def command(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def environment(state: State, name: str) -> dict[str, str]:
    """What a process of ours reads: made here, unless this command's own environment says otherwise."""
    service = name.removesuffix("-worker")
    prefix = f"{service.upper()}_"
    values = {
        "HTTP__HOST": HOST,
        "HTTP__PORT": str(state.ports[name.replace("-", "_")]),
        "HTTP__WORKERS": "1",
        "KAFKA__BOOTSTRAP_SERVERS": f"{HOST}:{state.ports['kafka']}",
        "TRACING__ENDPOINT": f"http://{HOST}:{state.ports['otlp_http']}",
        "TRACING__SAMPLE_RATIO": "1.0",
        "SECRETS_DIR": str(state.place("secrets", service)),
        **_OWN[service](state),
    }
    defaults = {prefix + key: value for key, value in values.items()}
    return defaults | {key: value for key, value in os.environ.items() if key.startswith(prefix)}


def _users(state: State) -> dict[str, str]:
    return {
        "POSTGRES__DSN": f"postgresql://users@{HOST}:{state.ports['postgres']}/users",
        "SIGNING_KEYS_DIR": str(state.place("keys", "any").parent),
        "SMTP__HOST": HOST,
        "SMTP__PORT": str(state.ports["mail"]),
        "ADMIN__EMAIL": ADMIN_EMAIL,
    }


def _orders(state: State) -> dict[str, str]:
    url = f"mongodb://{HOST}:{state.ports['mongo']}/?directConnection=true"
    return {"MONGO__URL": url, "MONGO__DATABASE": "orders", "TOKENS__JWKS_URL": _jwks_url(state)}


def _gateway(state: State) -> dict[str, str]:
    return {
        "HTTP__METRICS_PORT": str(state.ports["gateway_metrics"]),
        "USERS_URL": f"http://{HOST}:{state.ports['users']}",
        "ORDERS_URL": f"http://{HOST}:{state.ports['orders']}",
        "REDIS__URL": f"redis://{HOST}:{state.ports['redis']}/0",
        "TOKENS__JWKS_URL": _jwks_url(state),
        **dict.fromkeys(_QUOTAS, "1000000"),  # one person's scripts and tests all come from one address
    }


_OWN = {"users": _users, "orders": _orders, "gateway": _gateway}


def _jwks_url(state: State) -> str:
    return f"http://{HOST}:{state.ports['users']}/.well-known/jwks.json"


def write_secret_files(state: State) -> None:
    """Give each service its secrets as files, named as its variables in lower case."""
    files = {
        "users/users_postgres__password": state.secret("postgres_users"),
        "users/users_admin__password": state.secret("admin"),
        "users/users_cursor_key": state.secret("cursor_key_users"),
        "orders/orders_cursor_key": state.secret("cursor_key_orders"),
    }
    for name in _OWN:
        state.place("secrets", name, "any")
        (state.folder / "secrets" / name).chmod(0o700)
    for path, value in files.items():
        target = state.place("secrets", path)
        if not target.exists() or target.read_text() != value:
            write_private(target, value)


def service_program(state: State, name: str) -> Program:
    return Program(name, command(SERVICES[name]), environment(state, name))

"""What the Compose file promises of every service, and that its variables are those the services read."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_settings import BaseSettings

import shop_gateway.settings
import shop_orders.settings
import shop_users.settings
from shop_cluster.docker import SECRETS
from shop_cluster.ports import DEFAULTS, variable

ROOT = Path(__file__).parents[2]
FILE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
OURS = [name for name, service in SERVICES.items() if service["image"].startswith("shop-")]
WRITES_TO_ITS_ROOT = {"kafka"}  # its start script writes its configuration there
WITHOUT_HEALTH = {"jaeger", "mail"}  # one has no program to ask with, the other asks itself
SETTINGS: dict[str, type[BaseSettings]] = {
    "shop_users.app": shop_users.settings.Settings,
    "shop_users.worker": shop_users.settings.Settings,
    "shop_users.migrate": shop_users.settings.MigrateSettings,
    "shop_users.keys": shop_users.settings.KeySettings,
    "shop_orders.app": shop_orders.settings.Settings,
    "shop_orders.worker": shop_orders.settings.Settings,
    "shop_orders.indexes": shop_orders.settings.IndexSettings,
    "shop_orders.restore": shop_orders.settings.RestoreSettings,
    "shop_gateway.app": shop_gateway.settings.Settings,
}


def interpolated(value: str) -> str:
    """As Compose reads it where the environment says nothing."""
    return re.sub(r"\$\{\w+(?::?-([^}]*))?\}", r"\1", value)


def module_of(name: str) -> str:
    """What a service of ours runs."""
    command = SERVICES[name].get("command", [])
    return str(command[2]) if command[:2] == ["python", "-m"] else ""


READS_SETTINGS = [(name, module_of(name)) for name in OURS if module_of(name) in SETTINGS]


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_closed_and_bounded(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    assert service.get("read_only", False) is (name not in WRITES_TO_ITS_ROOT)
    assert re.fullmatch(r"\d+[mg]", service["mem_limit"])
    assert service["logging"]["options"] == {"max-size": "10m", "max-file": "2"}
    assert "privileged" not in service
    assert "network_mode" not in service


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_has_a_version(name: str) -> None:
    tag = SERVICES[name]["image"].rpartition(":")[2]
    assert tag == "local" if name in OURS else re.fullmatch(r"v?\d+\.\d+(\.\d+)?", tag)


def test_ports_are_on_the_loopback_and_can_be_moved() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    matches = [re.fullmatch(r"127\.0\.0\.1:\$\{(SHOP_PORT_\w+):-(\d+)\}:\d+", port) for port in published]
    assert None not in matches
    moved = {match[1]: int(match[2]) for match in matches if match}
    local_only = {"kafka_controller", "jaeger_grpc"}
    assert moved == {variable(name): port for name, port in DEFAULTS.items() if name not in local_only}


def test_everyone_waits_for_what_they_need() -> None:
    """A server until it is healthy, a one-shot until it ended well; one that nobody waits for fails `up --wait`."""
    once = {name for name, service in SERVICES.items() if service["restart"] == "no" and "profiles" not in service}
    conditions = {
        (need, how["condition"]) for service in SERVICES.values() for need, how in service.get("depends_on", {}).items()
    }
    for need, condition in conditions:
        if need in once:
            assert condition == "service_completed_successfully"
        else:
            assert condition == ("service_started" if need in WITHOUT_HEALTH else "service_healthy")
    assert once - {need for need, _ in conditions} == set()


def test_health_can_be_asked_wherever_somebody_waits_for_it() -> None:
    silent = {name for name, service in SERVICES.items() if "test" not in service.get("healthcheck", {})}
    lasting = {name for name, service in SERVICES.items() if service["restart"] != "no"}
    assert silent & lasting == {*WITHOUT_HEALTH, "load"}


@pytest.mark.parametrize(("name", "module"), READS_SETTINGS)
def test_variables_and_secrets_are_the_services_settings(
    name: str, module: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All that is required is there, all that is there is read by somebody of that service."""
    environment = {key: interpolated(str(value)) for key, value in SERVICES[name]["environment"].items()}
    secrets = SERVICES[name].get("secrets", [])
    prefix = str(SETTINGS[module].model_config["env_prefix"])
    for secret in secrets:
        (tmp_path / secret).write_text("x" * 40)
    monkeypatch.setenv(f"{prefix}SECRETS_DIR", str(tmp_path))
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    SETTINGS[module]()
    known = {
        field.upper()
        for settings in SETTINGS.values()
        if settings.model_config["env_prefix"] == prefix
        for field in settings.model_fields
    }
    named = {key.removeprefix(prefix).partition("__")[0] for key in environment if key.startswith(prefix)}
    assert named - known == set()
    assert [key for key in environment if not key.startswith(prefix)] in ([], ["PORT"])
    own = {field.upper() for field in SETTINGS[module].model_fields}
    assert {secret.upper().removeprefix(prefix).partition("__")[0] for secret in secrets} - own == set()


def test_health_is_asked_on_the_port_that_is_served() -> None:
    served = {
        name: SERVICES[name]["environment"][key]
        for name in OURS
        for key in SERVICES[name].get("environment", {})
        if key.endswith("_HTTP__PORT")
    }
    assert served.keys() == {"users", "users-worker", "orders", "orders-worker", "gateway"}
    assert served == {name: SERVICES[name]["environment"]["PORT"] for name in served}


def test_the_secret_files_are_those_that_are_written() -> None:
    assert FILE["secrets"].keys() == SECRETS.keys()
    used = {secret for service in SERVICES.values() for secret in service.get("secrets", [])}
    assert used == SECRETS.keys()

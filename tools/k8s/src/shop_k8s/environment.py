"""What a process of ours is told, by variables and by files of secrets, and the settings it makes of that."""

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, get_args
from unittest import mock

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_settings import SettingsError

import shop_gateway.settings
import shop_orders.settings
import shop_users.settings
from shop_common.settings import ServiceSettings
from shop_k8s.model import ANY_KEY, Build, Object, Pod, dig, many, module_of

SETTINGS: Final[Mapping[str, type[ServiceSettings] | None]] = {
    "shop_gateway.app": shop_gateway.settings.Settings,
    "shop_orders.app": shop_orders.settings.Settings,
    "shop_orders.indexes": shop_orders.settings.IndexSettings,
    "shop_orders.restore": shop_orders.settings.RestoreSettings,
    "shop_orders.worker": shop_orders.settings.Settings,
    "shop_users.app": shop_users.settings.Settings,
    "shop_users.keys": shop_users.settings.KeySettings,
    "shop_users.migrate": shop_users.settings.MigrateSettings,
    "shop_users.worker": shop_users.settings.Settings,
    "shop_common.kafka.replay": None,
    "shop_common.kafka.topics": None,
}
"""Module that a container runs → its settings; None where it reads its arguments alone."""
SECRETS_FOLDER = "/run/secrets"
OTHERS = {"PGSSLMODE", "PGSSLROOTCERT", "PORT"}
"""libpq's, which asyncpg reads too, and what the image's health check reads."""
_PLACEHOLDER = "mongodb://user:some-secret-that-is-long-enough@host:1/database"
_PASSWORD_IN_URL = re.compile(r"://[^/@\s]*:[^/@\s]+@")


@dataclass(frozen=True, slots=True)
class Told:
    """One container's process: the module it runs, its variables, its files of secrets, its command's `$(NAME)`s."""

    where: str
    module: str
    variables: tuple[tuple[str, str], ...]
    files: frozenset[str]
    expanded: frozenset[str] = frozenset()
    shares_variables: bool = False
    """Whether it may be told what another process of its service reads, as in Compose."""

    @property
    def settings_class(self) -> type[ServiceSettings] | None:
        return SETTINGS.get(self.module)

    @property
    def readers(self) -> list[type[ServiceSettings]]:
        """The classes whose variables it may be told."""
        service = self.module.partition(".")[0]
        return [
            found
            for module, found in SETTINGS.items()
            if found and (module == self.module or (self.shares_variables and module.partition(".")[0] == service))
        ]


def told(build: Build, pod: Pod) -> Told:
    return Told(
        pod.name,
        module_of(pod.command),
        tuple(sorted(variables(build, pod.main).items())),
        frozenset(secret_files(build, pod, pod.main)),
        frozenset(re.findall(r"\$\(([^)]+)\)", " ".join(pod.command))),
    )


def variables(build: Build, container: Object) -> dict[str, str]:
    """Those with known values: literal, and from ConfigMaps of the build."""
    found: dict[str, str] = {}
    for source in many(container, "envFrom"):
        data = dig(build.find("ConfigMap", dig(source, "configMapRef", "name")), "data") or {}
        found |= {source.get("prefix", "") + key: str(value) for key, value in data.items()}
    for variable in many(container, "env"):
        key = dig(variable, "valueFrom", "configMapKeyRef")
        value = dig(build.find("ConfigMap", dig(key, "name")), "data", dig(key, "key") or "") if key else None
        found[variable["name"]] = str(variable.get("value", value or ""))
    return found


def secret_sources(pod: Pod) -> Iterator[tuple[str, str, list[Object]]]:
    """Volume, Secret and `items` of each Secret in a volume, projected ones too."""
    for volume in many(pod.spec, "volumes"):
        plain = volume.get("secret")
        if plain:
            yield volume["name"], plain.get("secretName", ""), plain.get("items") or []
        for source in many(volume, "projected", "sources"):
            if "secret" in source:
                yield volume["name"], source["secret"].get("name", ""), source["secret"].get("items") or []


def secret_files(build: Build, pod: Pod, container: Object) -> set[str]:
    """The names of the files in the folder where settings look for secrets."""
    mounted = {m["name"] for m in many(container, "volumeMounts") if m["mountPath"].rstrip("/") == SECRETS_FOLDER}
    files: set[str] = set()
    for volume, name, items in secret_sources(pod):
        if volume in mounted:
            files |= {item["path"] for item in items} or ((build.secret_keys(name) or set()) - {ANY_KEY})
    return files


def settings_of(build: Build, pod: Pod) -> ServiceSettings | None:
    """None where they cannot be read, which the policy `settings` explains."""
    process = told(build, pod)
    return read_settings(process)[0] if process.settings_class else None


def complaints(process: Told) -> Iterator[str]:
    """What of it is no field, what is missing, what is not valid."""
    if process.module not in SETTINGS:
        yield f"runs {process.module or 'no module'}: say which settings that reads in shop_k8s/environment.py"
        return
    for name, _ in process.variables:
        if name not in OTHERS | process.expanded and all(field_of(found, name) is None for found in process.readers):
            yield f"{name} is no field of the settings of {process.module}; correct or remove it"
    for name in sorted(process.files):
        if process.settings_class is None or field_of(process.settings_class, name.upper()) is None:
            yield f"secret file {name} is nothing that {process.module} reads; remove it"
    yield from read_settings(process)[1]


def field_of(settings_class: type[ServiceSettings], name: str) -> Any:
    """The type of the field that a variable sets; None where it sets none."""
    prefix = str(settings_class.model_config["env_prefix"])
    if not name.startswith(prefix):
        return None
    return _field(settings_class, name.removeprefix(prefix).lower().split("__"))


def _field(model: type[BaseModel], path: list[str]) -> Any:
    field = model.model_fields.get(path[0])
    if field is None or len(path) == 1:
        return field and field.annotation
    inner = [kind for kind in _types(field.annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return _field(inner[0], path[1:]) if inner else None


def _types(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) or (annotation,)


def shown_secret(process: Told, name: str, value: str) -> bool:
    """Whether a variable's value is one that belongs into a file. The address of a store without a password is none."""
    field = field_of(process.settings_class, name) if process.settings_class else None
    is_address = "://" in value and "@" not in value
    return bool(_PASSWORD_IN_URL.search(value)) or (SecretStr in _types(field) and not is_address)


@lru_cache(maxsize=1024)
def read_settings(process: Told) -> tuple[ServiceSettings | None, tuple[str, ...]]:
    """The settings as the process would read them, with something long in each file; or what is wrong."""
    settings_class = process.settings_class
    if settings_class is None:
        return None, ()
    prefix = str(settings_class.model_config["env_prefix"])
    with tempfile.TemporaryDirectory() as folder:
        for name in process.files:
            Path(folder, name).write_text(_PLACEHOLDER)
        environment = dict(process.variables) | {f"{prefix}SECRETS_DIR": folder}
        with mock.patch.dict(os.environ, environment, clear=True):
            try:
                return settings_class(), ()
            except ValidationError as invalid:
                errors = invalid.errors(include_input=False, include_url=False, include_context=False)
                return None, tuple(
                    f"{prefix}{'__'.join(map(str, error['loc'])).upper()}: {error['msg']}; correct its ConfigMap"
                    " or Secret"
                    for error in errors
                )
            except SettingsError as unreadable:
                return None, (f"{prefix}*: {unreadable}; correct its ConfigMap",)

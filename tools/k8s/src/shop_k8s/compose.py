"""The same question to Compose: are its variables and secret files those that the processes read?"""

import re
from pathlib import Path
from typing import Any, Final

import yaml

from shop_cluster.state import ROOT
from shop_k8s.environment import Told, complaints
from shop_k8s.model import is_our_image, module_of
from shop_k8s.policy import Failure

COMPOSE: Final = ROOT / "docker-compose.yml"
_DEFAULTED = re.compile(r"\$\{[^}:-]+:?-([^}]*)\}")


def compose_failures(text: str | None = None) -> list[Failure]:
    found = []
    for process in processes(text if text is not None else COMPOSE.read_text()):
        found += [Failure((Path(COMPOSE).name,), process.where, "settings", says) for says in complaints(process)]
    return found


def processes(text: str) -> list[Told]:
    """Of every service that runs one of our modules, profiles included."""
    services: dict[str, Any] = yaml.safe_load(text)["services"]
    return [
        Told(
            f"service {name}",
            module,
            tuple(sorted(_environment(service).items())),
            frozenset(_secret(entry) for entry in service.get("secrets") or []),
            shares_variables=True,
        )
        for name, service in services.items()
        if is_our_image(str(service.get("image", "")))
        and (module := module_of([str(word) for word in [*_words(service, "entrypoint"), *_words(service, "command")]]))
    ]


def _words(service: dict[str, Any], key: str) -> list[Any]:
    words = service.get(key) or []
    return words if isinstance(words, list) else str(words).split()


def _environment(service: dict[str, Any]) -> dict[str, str]:
    entries = service.get("environment") or {}
    if isinstance(entries, list):
        entries = dict(entry.split("=", 1) for entry in entries)
    return {name: _DEFAULTED.sub(r"\1", str(value)) for name, value in entries.items()}


def _secret(entry: str | dict[str, str]) -> str:
    return entry if isinstance(entry, str) else Path(entry.get("target", entry["source"])).name

"""Rules of the house that no linter checks."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [path for folder in ("bench", "libs", "services", "tools", "tests") for path in (ROOT / folder).rglob("*.py")]
SERVICES = ["users", "orders", "gateway"]
MAX_LINES = 320


def test_the_lock_has_hashes_and_no_addresses() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    pinned = re.findall(r"^[a-z0-9].*==.*$", lock, re.MULTILINE)
    assert len(pinned) > 50
    assert [line for line in pinned if not line.endswith("\\")] == []
    assert re.search(r"https?:|index-url|find-links", lock) is None


@pytest.mark.parametrize("manifest", sorted(ROOT.glob("*/*/pyproject.toml")), ids=lambda path: path.parent.name)
def test_every_declared_dependency_is_locked(manifest: Path) -> None:
    project = tomllib.loads(manifest.read_text())["project"]
    extras = project.get("optional-dependencies", {})
    declared = [*project["dependencies"], *(name for extra in extras.values() for name in extra)]
    names = {re.split(r"[\[<>=; ]", text)[0].lower() for text in declared}
    names -= {f"shop-{name}" for name in ("common", "cluster", *SERVICES)}
    locked = set(re.findall(r"^([a-z0-9._-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    assert names - locked == set()


@pytest.mark.parametrize("service", SERVICES)
def test_the_services_look_alike(service: str) -> None:
    package = ROOT / "services" / service / "src" / f"shop_{service}"
    common = {"app", "api", "schemas", "service", "models", "errors", "settings", "resources"}
    own = {"upstreams"} if service == "gateway" else {"store", "worker", "consumers"}
    present = {path.stem for path in package.iterdir()}
    assert (common | own) - present == set()


def test_files_fit_a_reader() -> None:
    long = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in SOURCES}
    assert {name: lines for name, lines in long.items() if lines > MAX_LINES} == {}


def test_every_module_says_what_it_is_for() -> None:
    silent = [path for path in SOURCES if "/src/" in str(path) and not path.read_text().startswith('"""')]
    assert [str(path.relative_to(ROOT)) for path in silent] == []

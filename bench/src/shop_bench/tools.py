"""The programs a comparison needs: from this machine's packages, or compiled here from `bench/go`."""

import os
import shutil
from functools import cache
from pathlib import Path
from typing import Final

from shop_cluster.failures import ClusterError
from shop_cluster.go_programs import find_go
from shop_cluster.missing import apt_get
from shop_cluster.programs import run
from shop_cluster.state import ROOT

BENCH: Final = ROOT / "bench"
FOLDER: Final = ROOT / ".cluster" / "bench"
NGINX_MODULES: Final = Path("/usr/lib/nginx/modules")


@cache
def find_program(name: str, package: str) -> str:
    """From PATH; root on Debian and Ubuntu has it installed."""
    if shutil.which(name) is None:
        _install(package)
    found = shutil.which(name)
    if found is None:
        raise ClusterError(f"{name} is missing", remedy=f"install it (Debian, Ubuntu: apt-get install {package})")
    return found


@cache
def find_nginx() -> str:
    """An nginx whose Lua module is where Debian has it."""
    package = "libnginx-mod-http-lua"
    if not (NGINX_MODULES / "ngx_http_lua_module.so").exists():
        _install(package)
    if not (NGINX_MODULES / "ngx_http_lua_module.so").exists():
        raise ClusterError("nginx with Lua is missing", remedy=f"apt-get install nginx {package} (Debian, Ubuntu)")
    return find_program("nginx", "nginx")


def _install(package: str) -> None:
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"installing {package} with apt-get", flush=True)
        apt_get(package)


@cache
def build(name: str) -> str:
    """The program `bench/go/<name>`; Go itself knows whether anything is left to compile."""
    target = FOLDER / "bin" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [find_go(), "build", "-buildvcs=false", "-trimpath", "-o", str(target), f"./{name}"]
    run(command, f"building {name}", "see the lines above", folder=BENCH / "go", environment={**os.environ})
    return str(target)

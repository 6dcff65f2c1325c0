"""Installing what the Java servers need, where root may do so: on Debian and Ubuntu."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable

from filelock import FileLock

from shop_cluster import programs
from shop_cluster.failures import ClusterError
from shop_cluster.state import cache_folder


def install_missing(server: str) -> None:
    """Have a JDK, and Maven unless the server's jars are there. Elsewhere nothing: what needs them says what to do."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None or (server == "mongo" and programs.find_mongod()):
        return
    with FileLock(cache_folder() / "apt.lock"):
        _install_unless(programs.find_jdk, "default-jdk-headless", f"openjdk-{programs.JAVA_MIN}-jdk-headless")
        if not programs.jars_folder(server).exists():
            _install_unless(programs.find_maven, "maven")


def _install_unless(find: Callable[[], object], *packages: str) -> None:
    for package in packages:
        try:
            find()
        except ClusterError as missing:
            print(f"{missing}: installing {package} with apt-get", flush=True)
            apt_get(package)
        else:
            return


def apt_get(package: str) -> None:
    """Try to install it; whether that worked is for the caller to see."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", package]
    with contextlib.suppress(subprocess.CalledProcessError):  # `find` says then what is missing
        if subprocess.run(install, env=environment, capture_output=True, check=False).returncode:
            subprocess.run(["apt-get", "update", "-qq"], env=environment, capture_output=True, check=True)
            subprocess.run(install, env=environment, capture_output=True, check=True)

"""The images' base, made of Debian's packages and a Python of this machine, for an engine that reaches no registry."""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shop_cluster.failures import ClusterError
from shop_cluster.programs import make_once, run
from shop_cluster.state import ROOT, cache_folder

DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
PACKAGES = "ca-certificates,netbase,tzdata"  # those that the published image adds to Debian's least
LEFT_OUT = ("dev", "usr/share/doc", "usr/share/locale", "usr/share/man", "var/cache/apt", "var/lib/apt/lists")
NOT_COPIED = ("__pycache__", "_tkinter*", "*.a", "idle_test", "site-packages", "test", "tests")  # nor has the published
ASK = "import sys; print(sys.base_prefix, '%d.%d' % sys.version_info[:2], sys.version.split()[0], sep='\\n')"
TRY = "import bz2, ctypes, hashlib, lzma, sqlite3, ssl, uuid, zlib; assert ssl.create_default_context().get_ca_certs()"
VARIABLES = {
    "PATH": "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin",
    "SSL_CERT_FILE": str(CERTIFICATES),
    "PIP_CERT": str(CERTIFICATES),
}


@dataclass(frozen=True, slots=True)
class Python:
    """One that was installed in a folder of its own; `series` as in 3.13."""

    prefix: Path
    series: str
    version: str


def wanted_tag(dockerfile: str) -> str:
    """The tag of `python` that a Dockerfile builds on unless told otherwise."""
    (tag,) = re.findall(r"^ARG PYTHON=(\S+)$", dockerfile, re.MULTILINE)
    return str(tag)


def find_python(series: str) -> Python:
    """A Python of that series that can be copied; else whichever runs this."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    candidates = [*sorted(pyenv.glob(f"{series}.*/bin/python3"), reverse=True), shutil.which(f"python{series}")]
    for candidate in (*candidates, sys.executable):
        done = subprocess.run([candidate or "false", "-I", "-c", ASK], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            prefix, found, version = done.stdout.split("\n")[:3]
            if prefix != "/usr":  # the system's own: its files lie among everybody's
                return Python(Path(prefix), found, version)
    raise ClusterError(
        f"no Python {series} here that could be copied into an image; the system's own cannot be",
        remedy=f"install one with pyenv (pyenv install {series}) and try again",
    )


def make_base() -> tuple[str, Path]:
    """The tag of `python` that it can stand for, and its archive: made once for each Python and set of certificates."""
    if shutil.which("debootstrap") is None:
        raise ClusterError("debootstrap is missing; it makes the images' base", remedy="apt-get install debootstrap")
    release = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    python = find_python(wanted_tag(DOCKERFILE.read_text()).partition("-")[0])
    key = hashlib.sha256(CERTIFICATES.read_bytes() + Path(__file__).read_bytes()).hexdigest()[:12]
    archive = cache_folder() / f"base-{release}-python{python.version}-{key}.tar"

    def make(target: Path) -> None:
        root = Path(tempfile.mkdtemp(prefix="shop-base-"))
        try:
            _fill(root, release, python)
            left = [f"--exclude=./{path}/*" for path in LEFT_OUT]
            run(["tar", "-C", str(root), "--numeric-owner", *left, "-cf", str(target), "."], "packing the base", "")
        finally:
            shutil.rmtree(root, ignore_errors=True)

    make_once(archive, make)
    return f"{python.series}-slim-{release}", archive


def import_options() -> Iterator[str]:
    """What `docker import` is told of the image beside its files."""
    for name, value in VARIABLES.items():
        yield from ("--change", f"ENV {name}={value}")
    yield from ("--change", 'CMD ["python3"]')


def _fill(root: Path, release: str, python: Python) -> None:
    remedy = "see the lines above; debootstrap needs Debian's archive, and root"
    run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", release, str(root)], "debootstrap", remedy)
    local, name = root / "usr" / "local", f"python{python.series}"
    library = local / "lib" / name
    ignored = shutil.ignore_patterns(*NOT_COPIED)
    shutil.copytree(python.prefix / "lib" / name, library, symlinks=True, ignore=ignored)
    (library / "site-packages").mkdir()
    shutil.copy2(python.prefix / "bin" / name, local / "bin")
    for link in ("python3", "python"):
        (local / "bin" / link).symlink_to(name)
    for shared in python.prefix.glob("lib/libpython*.so*"):
        shutil.copy2(shared, local / "lib", follow_symlinks=False)
    for needed in _libraries(local / "bin" / name, *library.glob("lib-dynload/*.so")):
        if not (root / needed.relative_to("/")).exists():
            shutil.copy2(needed, local / "lib" / needed.name)
    shutil.copy2(CERTIFICATES, root / CERTIFICATES.relative_to("/"))
    run(["chroot", str(root), "ldconfig"], "ldconfig in the base", "")
    run(
        ["chroot", str(root), "/usr/local/bin/python3", "-I", "-c", TRY], "the base's Python", "", environment=VARIABLES
    )


def _libraries(*binaries: Path) -> set[Path]:
    """What the machine links them with, without what lies in Python's own folder."""
    done = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False)
    found = {Path(path) for path in re.findall(r"=> (/\S+)", done.stdout)}
    return {path for path in found if not path.name.startswith("libpython")}

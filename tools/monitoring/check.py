"""Checks the alerts with promtool, and the collector's configuration with a collector: `make monitoring-check`.

promtool is taken from PATH (Debian, Ubuntu: package prometheus), else built from its Go module; the collector is built
with what its configuration uses. Both are built once, into the cache, without root.
"""  # noqa: INP001 - a script, not a package

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any, Self

import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from shop_cluster import go
from shop_cluster.failures import ClusterError
from shop_cluster.ports import HOST, pick_free_port
from shop_cluster.processes import end
from shop_cluster.programs import make_once, run
from shop_cluster.state import ROOT, cache_folder

MONITORING = ROOT / "deploy" / "monitoring"
TESTS = ROOT / "tests" / "monitoring" / "rules"
COLLECTOR = MONITORING / "collector"
# Without the many ways to discover targets, which take most of the time to build.
PROMTOOL = go.GoProgram(
    "promtool",
    "github.com/prometheus/prometheus@v0.312.0",
    "./cmd/promtool",
    ("-tags", "remove_all_sd"),
    otherwise="install promtool (Debian, Ubuntu: prometheus)",
)
BUILDER = go.GoProgram("ocb", "go.opentelemetry.io/collector/cmd/builder@v0.139.0")
PATIENCE_SECONDS = 30
FAILED, SLOW = "f" * 32, "e" * 32
ORDINARY = {hashlib.md5(b"%d" % number, usedforsecurity=False).hexdigest() for number in range(200)}


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

    def make(target: Path) -> None:
        started = time.monotonic()
        builder = go.build(BUILDER)
        path = f"{Path(go.find_go()).parent}:{os.environ['PATH']}"
        environment = {**os.environ, "CGO_ENABLED": "0", "PATH": path}
        with TemporaryDirectory(prefix="shop-collector-") as name:
            print("building a collector", flush=True)
            own = yaml.safe_load(manifest.read_text())
            own["dist"]["output_path"] = name
            local = Path(name, "manifest.yaml")
            local.write_text(yaml.safe_dump(own))
            run([str(builder), "--config", str(local)], "building a collector", go.REMEDY, environment=environment)
            shutil.move(Path(name, own["dist"]["name"]), target)
        print(f"built the collector in {time.monotonic() - started:.0f} s", flush=True)

    return make_once(cache_folder() / f"otelcol-{hashlib.sha256(manifest.read_bytes()).hexdigest()[:12]}", make)


def check_collector(collector: Path) -> str:
    """Load it as it is; then start it on free ports, give it traces, and see which ones come out of it."""
    config = str(COLLECTOR / "otel-collector.yaml")
    health, receiver = pick_free_port(), pick_free_port()
    with Sink() as sink:
        environment = {**os.environ, "TRACES_ENDPOINT": f"http://{HOST}:{sink.server_port}"}
        loading = [str(collector), "validate", "--config", config]
        run(loading, "loading the collector's configuration", "", environment=environment)
        moved = [
            f"--set=extensions.health_check.endpoint={HOST}:{health}",
            f"--set=receivers.otlp.protocols.http.endpoint={HOST}:{receiver}",
            "--set=processors.tail_sampling.decision_wait=1s",
            "--set=service.telemetry.metrics.level=none",
        ]
        with TemporaryDirectory(prefix="shop-collector-") as name, Path(name, "log").open("w+") as log:
            process = subprocess.Popen([collector, "--config", config, *moved], env=environment, stdout=log, stderr=log)
            try:
                wait(lambda: ask(f"http://{HOST}:{health}/"), process, "become healthy")
                wait(lambda: ask(f"http://{HOST}:{receiver}/v1/traces", traces()), process, "take traces")
                wait(lambda: {FAILED, SLOW} <= sink.seen, process, "keep what failed and what was slow")
                wait(lambda: sink.seen & ORDINARY, process, "keep a share of the rest")
            except ClusterError as error:
                log.seek(0)
                error.log_lines = log.read().splitlines()[-15:]
                raise
            finally:
                end(process, grace_seconds=PATIENCE_SECONDS)
    kept = len(sink.seen & ORDINARY)
    if kept > len(ORDINARY) / 2:
        raise ClusterError(f"the collector kept {kept} of {len(ORDINARY)} traces that were neither failed nor slow")
    return f"the collector keeps what failed, what was slow, and {kept} of {len(ORDINARY)} others"


def traces() -> bytes:
    """OTLP as JSON: ordinary ones of 10 ms, then one that failed and one that took a second."""
    now = time.time_ns()

    def span(trace_id: str, seconds: float, code: int) -> dict[str, Any]:
        ends = str(now + int(seconds * 1e9))
        times = {"startTimeUnixNano": str(now), "endTimeUnixNano": ends}
        return {
            "traceId": trace_id,
            "spanId": trace_id[:16],
            "name": "GET",
            "kind": 2,
            "status": {"code": code},
        } | times

    spans = [*(span(each, 0.01, 0) for each in sorted(ORDINARY)), span(FAILED, 0.01, 2), span(SLOW, 1, 0)]
    return json.dumps({"resourceSpans": [{"resource": {}, "scopeSpans": [{"spans": spans}]}]}).encode()


class Sink(ThreadingHTTPServer):
    """Where the collector sends what it keeps; `seen` are their ids."""

    def __init__(self) -> None:
        super().__init__((HOST, 0), _Take)
        self.seen: set[str] = set()

    def __enter__(self) -> Self:
        Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Take(BaseHTTPRequestHandler):
    server: Sink

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        message = ExportTraceServiceRequest.FromString(gzip.decompress(body))
        spans = [span for each in message.resource_spans for scope in each.scope_spans for span in scope.spans]
        self.server.seen |= {span.trace_id.hex() for span in spans}
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


def wait(condition: Callable[[], object], process: subprocess.Popen[bytes], what: str) -> None:
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if process.poll() is not None or time.monotonic() > give_up:
            raise ClusterError(f"the collector did not {what}")
        time.sleep(0.05)


def ask(url: str, body: bytes | None = None) -> bool:
    try:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310 - ours
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310 - ours
            return bool(answer.status == HTTPStatus.OK)
    except OSError:
        return False


def main() -> int:
    try:
        print(check_rules(shutil.which("promtool") or str(go.build(PROMTOOL))), flush=True)
        print(check_collector(build_collector()))
    except ClusterError as error:
        print(error, *(line for line in (error.remedy, *error.log_lines) if line), sep="\n", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

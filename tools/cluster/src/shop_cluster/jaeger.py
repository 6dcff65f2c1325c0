"""Jaeger: from PATH, else built once from its Go module, in the background."""

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from shop_cluster import go
from shop_cluster.failures import ClusterError
from shop_cluster.ports import HOST
from shop_cluster.processes import find_marked, marked_environment, spawn_detached
from shop_cluster.state import ROOT, State, checkout_state, temporary_state
from shop_cluster.supervise import Program, Supervisor

PROGRAM = go.GoProgram(
    "jaeger", "github.com/jaegertracing/jaeger@v1.76.0", "./cmd/jaeger", otherwise="put a `jaeger` 2 on PATH"
)
MAX_TRACES = 20_000
LOG = "jaeger-build"


def find_jaeger() -> Path | None:
    """Jaeger 2 from PATH or from an earlier build; None while there is none."""
    on_path = shutil.which("jaeger")
    if on_path:
        return Path(on_path)
    return PROGRAM.path if PROGRAM.path.exists() else None


def require_jaeger() -> Path:
    """That one, or one built now, in minutes; a second caller waits for the first."""
    return find_jaeger() or go.build(PROGRAM)


def jaeger_program(state: State, jaeger: Path) -> Program:
    config = state.place("jaeger", "config.json")
    config.write_text(json.dumps(_config(state), indent=2))
    return Program("jaeger", [str(jaeger), "--config", str(config)], {"GOMEMLIMIT": "400MiB"})


def _config(state: State) -> Mapping[str, object]:
    def endpoint(name: str) -> dict[str, str]:
        return {"endpoint": f"{HOST}:{state.ports[name]}"}

    pages = ROOT / "deploy" / "local" / "jaeger-pages"
    return {
        "service": {
            "extensions": ["healthcheckv2", "jaeger_storage", "jaeger_query"],
            "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["jaeger_storage_exporter"]}},
            "telemetry": {"metrics": {"level": "none"}, "logs": {"level": "warn"}},
        },
        "extensions": {
            "healthcheckv2": {"use_v2": True, "http": endpoint("jaeger_health")},
            "jaeger_storage": {"backends": {"memory": {"memory": {"max_traces": MAX_TRACES}}}},
            "jaeger_query": {
                "storage": {"traces": "memory"},
                "http": endpoint("jaeger"),
                "grpc": endpoint("jaeger_grpc"),
                **({} if shutil.which("jaeger") else {"ui": {"assets_path": str(pages)}}),
            },
        },
        "receivers": {"otlp": {"protocols": {"http": endpoint("otlp_http"), "grpc": endpoint("otlp_grpc")}}},
        "exporters": {"jaeger_storage_exporter": {"trace_storage": "memory"}},
    }


def is_building(state: State) -> bool:
    """Whether the background build for this cluster is under way."""
    return any("shop_cluster.jaeger" in process.cmdline() for process in find_marked(state.folder))


def start_build(state: State) -> None:
    """Build in the background, at the lowest priority, and add Jaeger to this cluster when it is done."""
    spawn_detached(
        ["nice", "-n", "19", sys.executable, "-m", "shop_cluster.jaeger", str(state.folder)],
        environment=marked_environment(state.folder),
        log=state.log(LOG),
    )


def main() -> None:
    """Build, then have the cluster that asked for it run Jaeger."""
    try:
        jaeger = require_jaeger()
    except ClusterError as error:
        print(error, error.remedy, *error.log_lines, sep="\n")
        sys.exit(1)
    folder = Path(sys.argv[1])
    state = checkout_state() if folder == checkout_state().folder else temporary_state(folder)
    supervisor = Supervisor(state)
    if supervisor.is_running():
        supervisor.apply(jaeger_program(state, jaeger))
        print("added to the running cluster")


if __name__ == "__main__":
    main()

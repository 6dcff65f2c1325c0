"""One run of a load generator: wrk for how much goes through, openloop for how long it takes at a given rate."""

import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

import psutil  # type: ignore[import-untyped] # it ships no types

from shop_bench.peers import Peer
from shop_bench.tools import BENCH, build, find_program
from shop_cluster.failures import ClusterError

CONNECTIONS: Final = 32
_WARM_SECONDS: Final = 0.5
"""Connections are taken in meanwhile, and quotas leased."""
_IDLE_SECONDS: Final = 20.0
_LOOK_SECONDS: Final = 0.3
_IDLE_SHARE: Final = 0.1
_OPEN_CONNECTIONS: Final = 256
"""Enough that none is waited for unless the server falls behind."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One run: answers per second, milliseconds, and how busy each core was in percent."""

    rate: float
    p50: float
    p90: float
    p99: float
    max: float
    failures: int
    own: float
    """Percent of a core that the peer itself used."""
    others: float
    """Percent of its core that other programs used."""
    busy: tuple[float, ...]
    """Percent by core, interrupts included, of which the kernel's loopback makes many."""


def closed_loop(peer: Peer, headers: Mapping[str, str], seconds: float) -> Sample:
    """Each connection asks again as soon as it has its answer. Waiting while all wait is not seen in the latencies."""
    wrk = find_program("wrk", "wrk")
    options = ["-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "--timeout", "10s", "-s", str(BENCH / "report.lua")]
    return _run(peer, [wrk, *options, *_header_options(headers)], seconds)


def open_loop(peer: Peer, headers: Mapping[str, str], rate: float, seconds: float) -> Sample:
    """Requests are due at a fixed rate, and their latencies begin when they are due."""
    times = ["-rate", f"{rate:.1f}", "-seconds", f"{seconds:g}", "-warm", str(_WARM_SECONDS)]
    options = [*times, "-connections", str(_OPEN_CONNECTIONS), *_header_options(headers)]
    return _run(peer, [build("openloop"), *options], seconds)


def _header_options(headers: Mapping[str, str]) -> list[str]:
    return [part for name, value in headers.items() for part in ("-H", f"{name}: {value}")]


def _run(peer: Peer, command: Sequence[str], seconds: float) -> Sample:
    process = psutil.Process(peer.pid)
    psutil.cpu_times_percent(percpu=True)
    started, used = time.perf_counter(), sum(process.cpu_times()[:2])
    done = subprocess.run([*command, peer.url], capture_output=True, text=True, timeout=seconds + 30, check=False)
    own = (sum(process.cpu_times()[:2]) - used) / (time.perf_counter() - started) * 100
    cores = psutil.cpu_times_percent(percpu=True)
    others = max(0.0, cores[0].user + cores[0].nice + cores[0].system - own)
    _wait_until_idle(process)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        raise ClusterError(f"{command[0]} failed", log_lines=(done.stdout + done.stderr).splitlines()[-10:])
    seen = json.loads(lines[-1])
    figures = {name: seen[name] for name in ("rate", "p50", "p90", "p99", "max", "failures")}
    return Sample(**figures, own=own, others=others, busy=tuple(100 - core.idle for core in cores))


def _wait_until_idle(process: psutil.Process) -> None:
    """A slow peer goes on with what nobody waits for any more, on the core of whoever is measured next."""
    deadline = time.monotonic() + _IDLE_SECONDS
    while time.monotonic() < deadline:
        before = sum(process.cpu_times()[:2])
        time.sleep(_LOOK_SECONDS)
        if sum(process.cpu_times()[:2]) - before < _LOOK_SECONDS * _IDLE_SHARE:
            return


def spread(values: Sequence[float], digits: int = 0) -> str:
    """`min / **median** / max`."""
    low, middle, high = (f"{value:,.{digits}f}" for value in (min(values), median(values), max(values)))
    return f"{low} / **{middle}** / {high}"

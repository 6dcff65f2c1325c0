"""The gateway beside its peers, one run of each in turn: live, and answered from memory."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Final

import httpx

from shop_bench import dashboard
from shop_bench.load import Sample, closed_loop, open_loop, spread
from shop_bench.peers import Peer, Stage, open_stage, wait_for
from shop_bench.result import Bar, Result
from shop_cluster.failures import ClusterError

ROUNDS: Final = 5
SECONDS: Final = 3.0
WARM_SECONDS: Final = 2.0
OVER_TUTORIAL, OVER_GO = 30.0, 0.4
_KEPT: Final = "/kept" + dashboard.PATH
_LIVE: Final = {"Cache-Control": "no-cache"}
_FROM_MEMORY: Final = "from its memory"
_NOT_MODIFIED: Final = 304
_TUTORIALS: Final = {
    "shared": "httpx's pool as it comes",
    "large": "a pool of 1,000",
    "each": "a client for each request",
}
_DISTURBED: Final = 10
"""Percent of a core."""
_HEADINGS: Final = (
    "peer",
    "answer",
    "requests/s, closed loop",
    "p99 ms, closed loop",
    "rate offered, open loop",
    "p50 ms, open loop",
    "p99 ms, open loop",
    "CPU %: peer / core 0 / core 1",
)


@dataclass(slots=True)
class Line:
    """One row: a peer, what is asked of it, and what was measured."""

    peer: Peer
    headers: Mapping[str, str]
    closed: list[Sample] = field(default_factory=list)
    open: list[Sample] = field(default_factory=list)
    offered: float = 0

    @property
    def rate(self) -> float:
        return median(sample.rate for sample in self.closed)

    @property
    def failures(self) -> int:
        return sum(sample.failures for sample in (*self.closed, *self.open))

    def p99(self, loop: Sequence[Sample]) -> float:
        return median(sample.p99 for sample in loop)

    def busy(self, core: int) -> float:
        return median(sample.busy[core] for sample in self.closed)

    @property
    def disturbance(self) -> float:
        return max(sample.others for sample in (*self.closed, *self.open))

    def row(self) -> list[str]:
        used = [median(sample.own for sample in self.closed), *(self.busy(core) for core in (0, 1))]
        return [
            self.peer.name,
            self.peer.what,
            spread([sample.rate for sample in self.closed]),
            spread([sample.p99 for sample in self.closed], 1),
            f"{self.offered:,.0f}",
            spread([sample.p50 for sample in self.open], 2),
            spread([sample.p99 for sample in self.open], 2),
            " / ".join(f"{percent:.0f}" for percent in used),
        ]


def live() -> Result:
    """Each answer gathered from three calls to services that answer as fast as services do."""
    return _live("live", usual=True)


def fastest() -> Result:
    """Of services that take next to no time."""
    return _live("fastest", usual=False)


def _live(part: str, *, usual: bool) -> Result:
    with open_stage(usual=usual) as stage:
        tutorials = (stage.start_tutorial(client, what) for client, what in _TUTORIALS.items())
        peers = (stage.start_gateway(), stage.start_go(), stage.start_nginx(), *tutorials)
        lines = [Line(asyncio.run(_checked(stage, peer)), stage.bearer | _LIVE) for peer in peers]
        measure(lines)
    ours, go, _, *others = lines
    bars = [_ratio(f"live at least {OVER_GO:g} times Go", ours.rate / go.rate, OVER_GO)]
    bars += [
        _ratio(f"live at least {OVER_TUTORIAL:g} times {other.peer.name}", ours.rate / other.rate, OVER_TUTORIAL)
        for other in others
    ]
    return _result(part, lines, bars, [])


def cached() -> Result:
    """Each answer from memory, whole and as a 304; and what nginx does that has to gather it."""
    with open_stage(usual=True) as stage:
        aggregator = stage.start_nginx()
        started = (stage.start_gateway(), _kept(stage.start_go()), _kept(aggregator))
        peers = [asyncio.run(_checked(stage, peer)) for peer in started]
        for peer in peers:
            closed_loop(peer, stage.bearer, WARM_SECONDS)
        lines, notes = _cached_lines(stage, peers)
        nginx = Line(asyncio.run(_checked(stage, aggregator)), stage.bearer)
        lines.append(nginx)
        measure(lines)
    ours = lines[0]
    bars = [
        _ratio("cached rate at least that of nginx + Lua gathering", ours.rate / nginx.rate, 1),
        _ratio("its p99 no worse, closed loop", ours.p99(nginx.closed) / ours.p99(ours.closed), 1),
        _ratio("its p99 no worse, open loop", ours.p99(nginx.open) / ours.p99(ours.open), 1),
    ]
    if ours.peer.what != _FROM_MEMORY:
        bars = []
        notes.append(
            "The gateway had no cached answer (no `Cache-Status: …; hit`): its row is live, and the bars wait for one."
        )
    return _result("cached", lines, bars, notes)


def measure(lines: Sequence[Line]) -> None:
    """Rounds of one run each, begun by another one each time; then the same at half of what the gateway can do.

    Of those that can do less than the gateway, at half of what they can.
    """
    for line in lines:
        closed_loop(line.peer, line.headers, WARM_SECONDS)
    _rounds(lines, lambda line: line.closed.append(closed_loop(line.peer, line.headers, SECONDS)))
    half = lines[0].rate / 2
    for line in lines:
        line.offered = min(half, line.rate / 2)
    _rounds(lines, lambda line: line.open.append(open_loop(line.peer, line.headers, line.offered, SECONDS)))


def _rounds(lines: Sequence[Line], run: Callable[[Line], None]) -> None:
    for number in range(ROUNDS):
        first = number % len(lines)
        for line in (*lines[first:], *lines[:first]):
            run(line)
            print(".", end="", flush=True)
    print(flush=True)


async def _checked(stage: Stage, peer: Peer) -> Peer:
    response = await wait_for(stage.state, peer.program, peer.url, stage.bearer)
    if not dashboard.is_right(response.content):
        raise ClusterError(f"{peer.name} answers something else: {response.text[:300]}")
    return replace(peer, pid=stage.pid(peer.program))


def _kept(peer: Peer) -> Peer:
    return replace(peer, url=peer.url.replace(dashboard.PATH, _KEPT), what=_FROM_MEMORY)


def _cached_lines(stage: Stage, peers: Sequence[Peer]) -> tuple[list[Line], list[str]]:
    """A line for the whole answer, one for the 304 where there is one; and what a warm gateway does not do yet."""
    lines, conditional, notes = [], [], []
    for peer in peers:
        seen = httpx.get(peer.url, headers=stage.bearer, trust_env=False)
        if peer.program == "gateway":
            status = seen.headers.get("cache-status", "")
            peer = replace(peer, what=_FROM_MEMORY if "hit" in status else peer.what)  # noqa: PLW2901 - the same peer, seen better
        lines.append(Line(peer, stage.bearer))
        headers = stage.bearer | {"If-None-Match": seen.headers.get("etag", '"none"')}
        again = httpx.get(peer.url, headers=headers, trust_env=False)
        if again.status_code == _NOT_MODIFIED:
            conditional.append(Line(replace(peer, what="304 to If-None-Match"), headers))
        else:
            notes.append(f"{peer.name}: no 304 to measure, it answered If-None-Match with {again.status_code}.")
    return lines + conditional, notes


def _ratio(text: str, ratio: float, bound: float) -> Bar:
    return Bar(text, f"{ratio:.2f} times", ratio >= bound)


def _result(part: str, lines: Sequence[Line], bars: Sequence[Bar], notes: Sequence[str]) -> Result:
    remarks = [f"{line.peer.name}: {line.failures} requests failed." for line in lines if line.failures]
    remarks += [
        f"{line.peer.name}: other programs took {line.disturbance:.0f} % of its core in one of the runs."
        for line in lines
        if line.disturbance > _DISTURBED
    ]
    raw = [asdict(line) | {"headers": sorted(line.headers)} for line in lines]
    return Result(part, _HEADINGS, [line.row() for line in lines], [*notes, *remarks], bars, raw)

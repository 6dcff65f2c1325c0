"""A scenario's picture: throughput and latency over time, with the faults and the recoveries from them, as SVG."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from shop_faults.scenario import Fault

_WIDTH: Final = 1000
_LEFT, _RIGHT = 70, 980
_TOP_PANEL: Final = (90, 250)
_LOW_PANEL: Final = (285, 445)
_HEIGHT: Final = 500
_LABEL_PIXELS: Final = 90
"""As much as a fault's name needs; where it does not fit, it is shown under the pointer only."""
_LEAST_MS, _MOST_MS = 1.0, 10_000.0

_ANSWERED, _FAILED, _P99 = "#2563a8", "#c62828", "#6a3d9a"
_FAULT, _RECOVERY, _RECOVERED = "#f6c8a5", "#fbeedd", "#3b8132"
_TEXT, _GRID = "#222222", "#dddddd"
_LEGEND: Final = (
    ("answered", _ANSWERED),
    ("failed", _FAILED),
    ("p99 of the answers", _P99),
    ("fault", _FAULT),
    ("until recovered", _RECOVERY),
    ("recovered", _RECOVERED),
)


@dataclass(frozen=True, slots=True)
class Second:
    """What was asked for in the second from `at` on; `p99` in milliseconds, of the answers."""

    at: int
    answered: int
    failed: int
    p99: float | None


@dataclass(frozen=True, slots=True)
class _Scale:
    """From values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def draw_timeline(title: str, timeline: Sequence[Second], faults: Sequence[Fault]) -> str:
    """Of one scenario; seconds since its start to the right, answers a second and milliseconds (logarithmic) up."""
    start = min((second.at for second in timeline), default=0)
    last = max(
        [second.at + 1 for second in timeline] + [math.ceil(fault.end + fault.recovery) for fault in faults] + [1]
    )
    most = max([second.answered for second in timeline] + [second.failed for second in timeline] + [1])
    across = _Scale(start, max(last, start + 1), _LEFT, _RIGHT)
    count = _Scale(0, _next_step(most) * math.ceil(most / _next_step(most)), _TOP_PANEL[1], _TOP_PANEL[0])
    latency = _Scale(math.log10(_LEAST_MS), math.log10(_MOST_MS), _LOW_PANEL[1], _LOW_PANEL[0])
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}">',
        f'<g font-family="sans-serif" font-size="12" fill="{_TEXT}">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="24" font-size="16">{escape(title)}</text>',
        *_legend(),
        *_shades(faults, across),
        *_time_axis(across),
        *_count_axis(count),
        *_latency_axis(latency),
        _steps(across, count, [(second.at, second.answered) for second in timeline], _ANSWERED),
        _steps(across, count, [(second.at, second.failed) for second in timeline if second.failed], _FAILED),
        *_curve(across, latency, timeline),
        "</g></svg>",
    ]
    return "\n".join(parts) + "\n"


def _legend() -> Iterator[str]:
    x = _LEFT
    for name, colour in _LEGEND:
        yield f'<rect x="{x}" y="36" width="14" height="12" fill="{colour}" stroke="#999999" stroke-width="0.5"/>'
        yield f'<text x="{x + 20}" y="46">{name}</text>'
        x += 45 + 7 * len(name)


def _shades(faults: Sequence[Fault], across: _Scale) -> Iterator[str]:
    free_from = 0.0
    for fault in faults:
        begin, end, recovered = across(fault.begin), across(fault.end), across(fault.end + fault.recovery)
        top, height = _TOP_PANEL[0], _LOW_PANEL[1] - _TOP_PANEL[0]
        name = escape(fault.kind)
        told = f"<title>{name}: {fault.begin:.1f} to {fault.end:.1f} s, recovered {fault.recovery:.1f} s later</title>"
        for left, right, colour in ((begin, end, _FAULT), (end, recovered, _RECOVERY)):
            yield (
                f'<rect x="{left}" y="{top}" width="{max(right - left, 1):.1f}" height="{height}" fill="{colour}">'
                f"{told}</rect>"
            )
        yield f'<path d="M{recovered} {top}V{top + height}" stroke="{_RECOVERED}" stroke-dasharray="4 3">{told}</path>'
        if begin >= free_from:
            yield f'<text x="{begin}" y="{top - 6}" font-size="11">{name}</text>'
            free_from = begin + _LABEL_PIXELS + 5 * max(0, len(fault.kind) - 16)


def _time_axis(across: _Scale) -> Iterator[str]:
    step = _next_step(across.high - across.low)
    for number in range(math.ceil(across.low / step), math.floor(across.high / step) + 1):
        x = across(number * step)
        for top, bottom in (_TOP_PANEL, _LOW_PANEL):
            yield f'<path d="M{x} {top}V{bottom}" stroke="{_GRID}"/>'
        yield f'<text x="{x}" y="{_LOW_PANEL[1] + 18}" text-anchor="middle">{number * step}</text>'
    middle = (_LEFT + _RIGHT) / 2
    yield f'<text x="{middle}" y="{_LOW_PANEL[1] + 38}" text-anchor="middle">seconds since the start</text>'


def _count_axis(count: _Scale) -> Iterator[str]:
    step = _next_step(count.high)
    for value in range(0, int(count.high) + 1, step):
        yield from _tick(count(value), str(value))
    yield _caption(_TOP_PANEL, "requests per second")


def _latency_axis(latency: _Scale) -> Iterator[str]:
    for power in range(int(latency.low), int(latency.high) + 1):
        yield from _tick(latency(power), f"{10**power:,}")
    yield _caption(_LOW_PANEL, "p99, ms")


def _tick(y: float, text: str) -> Iterator[str]:
    yield f'<path d="M{_LEFT} {y}H{_RIGHT}" stroke="{_GRID}"/>'
    yield f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{text}</text>'


def _caption(panel: tuple[int, int], text: str) -> str:
    y = sum(panel) / 2
    return f'<text x="16" y="{y}" text-anchor="middle" transform="rotate(-90 16 {y})">{text}</text>'


def _steps(across: _Scale, up: _Scale, values: Sequence[tuple[int, int]], colour: str) -> str:
    """A bar for each second, without a line between."""
    floor = up(0)
    bars = "".join(f"M{across(at)} {floor}V{up(value)}H{across(at + 1)}V{floor}Z" for at, value in values)
    return (
        f'<path d="{bars}" fill="{colour}" fill-opacity="0.55" stroke="{colour}" stroke-width="0.8"/>' if bars else ""
    )


def _curve(across: _Scale, up: _Scale, timeline: Sequence[Second]) -> Iterator[str]:
    """Through the middle of each second; broken where nothing was answered."""
    path, pen = "", "M"
    for second in timeline:
        if second.p99 is None:
            pen = "M"
            continue
        x, y = across(second.at + 0.5), up(math.log10(max(second.p99, _LEAST_MS)))
        path += f"{pen}{x} {y}"
        pen = "L"
        yield f'<circle cx="{x}" cy="{y}" r="1.8" fill="{_P99}"/>'
    if path:
        yield f'<path d="{path}" fill="none" stroke="{_P99}" stroke-width="1.6"/>'


def _next_step(span: float) -> int:
    """1, 2 or 5 times a power of ten, so that about five to ten of them fill the span."""
    step = 1
    for factor in (2, 2.5, 2) * 8:
        if span / step <= 10:
            break
        step = int(step * factor)
    return step

"""What a scenario came to, kept as JSON: from those files the table of all is made again, and each one's picture."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

from shop_faults.client import Sample
from shop_faults.oracles import Finding
from shop_faults.scenario import Fault, Result
from shop_faults.timeline import Second, draw_timeline

TABLE: Final = "scenarios.md"
_HEADINGS: Final = (
    "scenario",
    "seed",
    "operations",
    "acked",
    "rejected",
    "unknown → acked, rejected, untold",
    "events",
    "twice in the log",
    "faults",
    "slowest recovery, s",
    "quiet after, s",
    "p99 before / during / after, ms",
    "oracles",
)


@dataclass(frozen=True, slots=True)
class ScenarioReport:
    """Times are seconds since the scenario's start; latencies are milliseconds, None where nothing was answered."""

    name: str
    row: str
    seed: int
    operations: int
    acked: int
    """Of the operations, those of unknown outcome at first among them; so for `rejected`."""
    rejected: int
    unknown_acked: int
    unknown_rejected: int
    unknown_untold: int
    events: int
    duplicates: int
    faults: tuple[Fault, ...]
    quiet_seconds: float
    p99_before: float | None
    p99_during: float | None
    """Between a fault's beginning and the recovery from it."""
    p99_after: float | None
    findings: tuple[Finding, ...]
    timeline: tuple[Second, ...]

    @property
    def slowest_recovery(self) -> float | None:
        return max((fault.recovery for fault in self.faults), default=None)

    @property
    def failures(self) -> list[Finding]:
        return [finding for finding in self.findings if not finding.ok]

    @property
    def file_name(self) -> str:
        return f"{self.name}-{self.seed}"

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        values: dict[str, Any] = json.loads(text)
        for field, kind in (("faults", Fault), ("findings", Finding), ("timeline", Second)):
            values[field] = tuple(kind(**each) for each in values[field])
        return cls(**values)


def create_report(result: Result) -> ScenarioReport:
    run = result.run
    entries = list(run.ledger.entries.values())
    outcomes = Counter((entry.outcome, entry.was_unknown) for entry in entries)
    samples = [(sample.at - run.started, sample) for sample in run.load.samples]
    before, during, after = _by_phase(samples, run.faults)
    return ScenarioReport(
        name=run.scenario.name,
        row=run.scenario.row,
        seed=run.seed,
        operations=len(entries),
        acked=outcomes["acked", False] + outcomes["acked", True],
        rejected=outcomes["rejected", False] + outcomes["rejected", True],
        unknown_acked=outcomes["acked", True],
        unknown_rejected=outcomes["rejected", True],
        unknown_untold=outcomes["untold", True],
        events=result.totals.events,
        duplicates=result.totals.duplicates,
        faults=tuple(run.faults),
        quiet_seconds=result.quiet_seconds,
        p99_before=p99(before),
        p99_during=p99(during),
        p99_after=p99(after),
        findings=tuple(result.findings),
        timeline=tuple(seconds(samples)),
    )


def p99(samples: Iterable[Sample]) -> float | None:
    """By nearest rank, of those that were answered."""
    ordered = sorted(sample.milliseconds for sample in samples if is_answered(sample))
    return ordered[math.ceil(0.99 * len(ordered)) - 1] if ordered else None


def is_answered(sample: Sample) -> bool:
    """By the service: neither an error of the server's side nor no answer at all."""
    return sample.status.isdigit() and int(sample.status) < 500


def _by_phase(
    samples: Iterable[tuple[float, Sample]], faults: Sequence[Fault]
) -> tuple[list[Sample], list[Sample], list[Sample]]:
    """Before the first fault, during any, and after the last; what is between two faults is in none."""
    begin = min((fault.begin for fault in faults), default=math.inf)
    end = max((fault.end + fault.recovery for fault in faults), default=math.inf)
    phases: tuple[list[Sample], list[Sample], list[Sample]] = ([], [], [])
    for at, sample in samples:
        if at < begin:
            phases[0].append(sample)
        elif any(fault.begin <= at <= fault.end + fault.recovery for fault in faults):
            phases[1].append(sample)
        elif at > end:
            phases[2].append(sample)
    return phases


def seconds(samples: Iterable[tuple[float, Sample]]) -> list[Second]:
    """What was asked for in each second, from the first to the last."""
    asked: dict[int, list[Sample]] = defaultdict(list)
    for at, sample in samples:
        asked[math.floor(at)].append(sample)
    return [_second(at, asked[at]) for at in range(min(asked), max(asked) + 1)] if asked else []


def _second(at: int, samples: Sequence[Sample]) -> Second:
    answered = sum(map(is_answered, samples))
    return Second(at, answered, len(samples) - answered, p99(samples))


def write_report(report: ScenarioReport, folder: Path) -> None:
    """Its JSON and its picture, and the table anew."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{report.file_name}.json").write_text(report.to_json())
    title = f"{report.row}: {report.name}, seed {report.seed}"
    (folder / f"{report.file_name}.svg").write_text(draw_timeline(title, report.timeline, report.faults))
    (folder / TABLE).write_text(table(read_reports(folder)))


def read_reports(folder: Path) -> list[ScenarioReport]:
    reports = [ScenarioReport.from_json(path.read_text()) for path in folder.glob("*.json")]
    return sorted(reports, key=lambda report: (report.name, report.seed))


def table(reports: Iterable[ScenarioReport]) -> str:
    """In Markdown."""
    rows = [_HEADINGS, ["---"] * len(_HEADINGS), *map(_cells, reports)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _cells(report: ScenarioReport) -> list[str]:
    failures = ", ".join(finding.oracle for finding in report.failures)
    return [
        f"[{report.name}]({report.file_name}.svg)",
        str(report.seed),
        f"{report.operations:,}",
        f"{report.acked:,}",
        f"{report.rejected:,}",
        f"{report.unknown_acked:,}, {report.unknown_rejected:,}, {report.unknown_untold:,}",
        f"{report.events:,}",
        f"{report.duplicates:,}",
        str(len(report.faults)),
        _number(report.slowest_recovery, 1),
        _number(report.quiet_seconds, 1),
        " / ".join(_number(value, 0) for value in (report.p99_before, report.p99_during, report.p99_after)),
        f"**{failures}**" if failures else f"{len(report.findings)} hold",
    ]


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"

"""What a part of the benchmarks came to: kept as JSON, printed, and written into docs/benchmarks.md, all from one."""

import json
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from shop_bench.tools import FOLDER
from shop_cluster.state import ROOT

PAGE: Final = ROOT / "docs" / "benchmarks.md"


def _where() -> str:
    """When, on which commit and on what machine."""
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    cores, cpu = os.cpu_count(), found[1] if found else platform.machine()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    where = f"{cores} cores, {cpu}, Python {platform.python_version()}"
    return f"Measured {datetime.now(UTC):%Y-%m-%d %H:%M} UTC on commit {commit}; {where}."


@dataclass(frozen=True, slots=True)
class Bar:
    """What is aimed at, and whether it was met this time."""

    text: str
    seen: str
    passes: bool


@dataclass(frozen=True, slots=True)
class Result:
    """`raw` is every single measurement behind the rows."""

    part: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    bars: Sequence[Bar] = ()
    raw: Any = None
    where: str = field(default_factory=_where)

    def to_markdown(self) -> str:
        lines = ["| " + " | ".join(row) + " |" for row in (self.headings, ["---"] * len(self.headings), *self.rows)]
        lines += ["", self.where, ""]
        lines += [f"- {note}" for note in self.notes]
        lines += [f"- {'PASS' if bar.passes else 'FAIL'}: {bar.text} ({bar.seen})" for bar in self.bars]
        return "\n".join(lines)


def keep(result: Result) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{result.part}.json").write_text(json.dumps(asdict(result), indent=1))
    PAGE.write_text(with_block(PAGE.read_text(), result.part, result.to_markdown()))


def with_block(page: str, name: str, text: str) -> str:
    """The page with what is between `<!-- name -->` and `<!-- /name -->` replaced."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if begin not in page or end not in page:
        raise ValueError(f"the page has no place for {name}")
    return re.sub(f"{re.escape(begin)}.*{re.escape(end)}", lambda _: f"{begin}\n{text}\n{end}", page, flags=re.DOTALL)

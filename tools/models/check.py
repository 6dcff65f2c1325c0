"""Check docs/models with spin: every whole model holds, and each that lacks one rule fails as its head says.

Exit code 1 where a result is another one, a search did not come to its end, or a statement is never reached.
"""  # noqa: INP001 - a script, not a package

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from shop_cluster import missing

MODELS = Path(__file__).parents[2] / "docs/models"
HEAD = re.compile(r"^ \* (model|broken)((?: [A-Z_]+)*)(?: \((safety|liveness)\))?: ", re.MULTILINE)
SWITCH = re.compile(r"(?:#ifn?def |defined\()([A-Z_]+)")
COMPILE = {"safety": ["-O1", "-DSAFETY", "-DNOCLAIM"], "liveness": ["-O3", "-DNFAIR=3"]}
RUN = {"safety": [], "liveness": ["-a", "-f"]}
FAILS = {"safety": "assertion violated", "liveness": "acceptance cycle"}
DEPTH = 1_000_000
MEGABYTES = 2048
SECONDS = 300


class Failure(Exception):
    """What is wrong, in one line."""


@dataclass(frozen=True, slots=True)
class Case:
    model: Path
    switches: tuple[str, ...]
    search: str
    whole: bool

    @property
    def expected(self) -> str:
        return "holds" if self.whole else FAILS[self.search]


class Result(NamedTuple):
    seen: str
    states: int
    seconds: float


def cases_of(model: Path) -> Iterator[Case]:
    """What a model's head lists; a switch that it does not list, or lists in vain, is a Failure."""
    text = model.read_text()
    listed: set[str] = set()
    for kind, names, search in HEAD.findall(text):
        switches = tuple(names.split())
        listed.update(switches)
        if kind == "broken":
            yield Case(model, switches, search, whole=False)
        else:
            yield Case(model, switches, "safety", whole=True)
            if "\nltl " in text:
                yield Case(model, switches, "liveness", whole=True)
    if unlike := listed ^ set(SWITCH.findall(text)):
        raise Failure(f"{model.name}: its head and its text do not have the same switches: {', '.join(sorted(unlike))}")


def check(case: Case) -> Result:
    with TemporaryDirectory(prefix="shop-models-") as name:
        folder = Path(name)
        shutil.copy(case.model, folder)
        run(folder, "spin", *(f"-D{switch}" for switch in case.switches), "-a", case.model.name)
        run(folder, "cc", "-w", f"-DMEMLIM={MEGABYTES}", *COMPILE[case.search], "-o", "pan", "pan.c")
        started = time.perf_counter()
        report = run(folder, "./pan", f"-m{DEPTH}", *RUN[case.search])
        return Result(verdict(report, case), states(report), time.perf_counter() - started)


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=SECONDS)
    if done.returncode:
        raise Failure(f"{command[0]} ended with {done.returncode}: {(done.stdout + done.stderr).strip()[-500:]}")
    return done.stdout


def verdict(report: str, case: Case) -> str:
    found = re.search(r"^pan:\d+: (assertion violated|acceptance cycle|.*?)(?: \(|$)", report, re.MULTILINE)
    if found:
        return found[1]
    if "errors: 0" not in report or re.search(r"too small|out of memory|not completed", report):
        return "incomplete search"
    never = re.findall(r"\.pml:(\d+), state \d+, \"(?!-end-)", report)
    if never and case.whole and case.search == "safety":
        return f"line {never[0]} is never reached"
    return "holds"


def states(report: str) -> int:
    found = re.search(r"^ *(\S+) states, stored", report, re.MULTILINE)
    return int(float(found[1])) if found else 0


def need(program: str, package: str) -> None:
    if shutil.which(program) is None and os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"no {program}: installing {package} with apt-get", flush=True)
        missing.apt_get(package)
    if shutil.which(program) is None:
        raise Failure(f"{program} is needed to check the models: install it (Debian, Ubuntu: {package})")


def main() -> int:
    need("spin", "spin")
    need("cc", "gcc")
    cases = [case for model in sorted(MODELS.glob("*.pml")) for case in cases_of(model)]
    surprises = 0
    line = "{:<10}{:<28}{:<10}{:<20}{:<20}{:>9}{:>8}".format
    print(line("model", "switches", "search", "expected", "seen", "states", "seconds"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for case, result in zip(cases, pool.map(check, cases), strict=True):
            surprises += result.seen != case.expected
            switches = " ".join(case.switches) or "-"
            figures = f"{result.states:,}", f"{result.seconds:.1f}"
            print(line(case.model.stem, switches, case.search, case.expected, result.seen, *figures), flush=True)
    if surprises:
        print(f"{surprises} of {len(cases)} results are not the expected ones", file=sys.stderr)
    return min(surprises, 1)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        sys.exit(str(failure))

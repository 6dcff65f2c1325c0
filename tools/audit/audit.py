"""Check every locked dependency for known vulnerabilities: `audit.py [LOCK]`, with pip-audit.

An advisory service is asked only if it knows a release that is known to be bad: a mirror of PyPI without advisories
finds nothing wrong with anything, and pip-audit takes that for good news. Exit code 0: nothing is known, or nobody
could be asked, which one line then says. Exit code 1: vulnerabilities, or an audit that is not whole.
"""  # noqa: INP001 - a script, not a package

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

LOCK = Path(__file__).parents[2] / "requirements.lock"
KNOWN_BAD = "jinja2==2.4.1"
SERVICES = ("pypi", "osv")
PIP_AUDIT = Path(sys.executable).with_name("pip-audit")
OPTIONS = ("--disable-pip", "--no-deps", "--format", "json", "--desc", "off", "--progress-spinner", "off")
SOCKET_SECONDS = "5"
PROBE_SECONDS, AUDIT_SECONDS = 20, 300


class NoAnswer(Exception):
    """The service did not tell; why."""


def pinned(lock: str) -> list[str]:
    """Every `name==version`, whatever platform it is for."""
    return re.findall(r"^([A-Za-z0-9][A-Za-z0-9._-]*==[^\s;\\]+)", lock, re.MULTILINE)


def ask(service: str, requirements: list[str], seconds: float) -> list[dict[str, Any]]:
    """What a service knows of each; NoAnswer if it does not say of all of them."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(requirements))
        file.flush()
        command = [str(PIP_AUDIT), "-s", service, "-r", file.name, "--timeout", SOCKET_SECONDS, *OPTIONS]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            raise NoAnswer(f"no answer in {seconds:g} s") from None
    try:
        dependencies: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, LookupError, TypeError):
        last = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        raise NoAnswer(re.split(r"[(:]", last)[0].strip()) from None
    for dependency in dependencies:
        if "skip_reason" in dependency:
            raise NoAnswer(dependency["skip_reason"])
    if len(dependencies) != len(requirements):
        raise NoAnswer(f"it told of {len(dependencies)} packages, not of {len(requirements)}")
    return dependencies


def find_service() -> tuple[str | None, str]:
    """One that tells, or why none does."""
    reasons = []
    for service in SERVICES:
        try:
            (known,) = ask(service, [KNOWN_BAD], PROBE_SECONDS)
        except NoAnswer as reason:
            reasons.append(f"{service}: {reason}")
        else:
            if known["vulns"]:
                return service, ""
            reasons.append(f"{service}: finds nothing wrong with {KNOWN_BAD}")
    return None, "; ".join(reasons)


def report(dependency: dict[str, Any]) -> list[str]:
    lines = []
    for found in dependency["vulns"]:
        names, fixed = " ".join([found["id"], *found["aliases"]]), ", ".join(found["fix_versions"]) or "no release"
        lines.append(f"{dependency['name']} {dependency['version']}: {names}; fixed in {fixed}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("lock", nargs="?", type=Path, default=LOCK, help="a requirements file with exact versions")
    requirements = pinned(parser.parse_args().lock.read_text())
    if not requirements:
        sys.exit("the lock names no packages; run `make lock`")
    if not PIP_AUDIT.exists():
        sys.exit("pip-audit is not installed; run `make venv`")
    service, reasons = find_service()
    if service is None:
        print(f"dependencies NOT audited: no advisory service answers ({reasons})")
        return
    try:
        dependencies = ask(service, requirements, AUDIT_SECONDS)
    except NoAnswer as reason:
        sys.exit(f"the audit is not whole: {service}: {reason}; try again")
    if problems := [line for dependency in dependencies for line in report(dependency)]:
        sys.exit("\n".join([*problems, "upgrade what is vulnerable and run `make lock`"]))
    print(f"{len(dependencies)} dependencies, no known vulnerabilities ({service})")


if __name__ == "__main__":
    main()

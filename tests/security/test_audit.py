"""The audit of the lock: finds what there is, says so when nobody can be asked, and takes silence for no good news."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "tools/audit/audit.py"
LOCK = """\
sound==1.0 \\
    --hash=sha256:00
elsewhere==2.0 ; sys_platform == 'nowhere' \\
    --hash=sha256:11
"""
HOLE = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2.1"]}
PIP_AUDIT = """\
#!{python}
import json, pathlib, sys
service, file = (sys.argv[sys.argv.index(option) + 1] for option in ("-s", "-r"))
here = pathlib.Path(__file__).parent
requirements = pathlib.Path(file).read_text().split()
asked = here / "asked"
asked.write_text(asked.read_text() + service + " " + " ".join(requirements) + "\\n" if asked.exists() else service)
known = json.loads((here / "known.json").read_text()).get(service)
if known is None:
    sys.exit("requests.exceptions.ConnectionError: no such host")
answer = []
for requirement in requirements:
    name, version = requirement.split("==")
    said = known.get(name, [])
    found = {{"skip_reason": said}} if isinstance(said, str) else {{"version": version, "vulns": said}}
    answer.append({{"name": name, **found}})
print(json.dumps({{"dependencies": answer}}))
"""


@pytest.fixture
def module() -> Any:
    spec = importlib.util.spec_from_file_location("audit", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture
def audit(module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the script over the lock above; `known` is what each service that answers knows of each package."""
    program, lock = tmp_path / "pip-audit", tmp_path / "requirements.lock"
    program.write_text(PIP_AUDIT.format(python=sys.executable))
    program.chmod(0o755)
    lock.write_text(LOCK)
    monkeypatch.setattr(module, "PIP_AUDIT", program)
    monkeypatch.setattr(sys, "argv", ["audit.py", str(lock)])

    def run(known: dict[str, Any]) -> tuple[str, str]:
        """What it printed, and what it failed with."""
        (tmp_path / "known.json").write_text(json.dumps(known))
        try:
            module.main()
        except SystemExit as failure:
            return capsys.readouterr().out, str(failure.code)
        return capsys.readouterr().out, ""

    return run


def test_without_known_vulnerabilities_it_passes(audit: Any) -> None:
    assert audit({"pypi": {"jinja2": [HOLE]}}) == ("2 dependencies, no known vulnerabilities (pypi)\n", "")


@pytest.mark.parametrize("package", ["sound", "elsewhere"])
def test_a_vulnerability_fails_whatever_platform_it_is_for(audit: Any, package: str) -> None:
    printed, failure = audit({"pypi": {"jinja2": [HOLE], package: [HOLE]}})
    assert printed == ""
    assert failure.splitlines()[0].startswith(f"{package} ")
    assert "PYSEC-1 CVE-1; fixed in 2.1" in failure


def test_the_next_service_is_asked_where_one_does_not_answer(audit: Any) -> None:
    assert "(osv)" in audit({"osv": {"jinja2": [HOLE]}})[0]
    assert "sound 1.0: PYSEC-1" in audit({"osv": {"jinja2": [HOLE], "sound": [HOLE]}})[1]


@pytest.mark.parametrize(
    ("known", "reason"),
    [
        ({}, "pypi: requests.exceptions.ConnectionError; osv: requests.exceptions.ConnectionError"),
        ({"pypi": {"jinja2": "not found"}}, "pypi: not found"),
        ({"pypi": {"jinja2": []}}, "pypi: finds nothing wrong with jinja2==2.4.1"),
    ],
)
def test_where_nobody_can_be_asked_it_says_so_in_a_line_and_goes_on(audit: Any, known: Any, reason: str) -> None:
    printed, failure = audit(known)
    assert (printed.count("\n"), failure) == (1, "")
    assert "NOT audited" in printed
    assert reason in printed


def test_an_audit_that_is_not_whole_fails(audit: Any) -> None:
    printed, failure = audit({"pypi": {"jinja2": [HOLE], "sound": "not found"}})
    assert (printed, failure) == ("", "the audit is not whole: pypi: not found; try again")


def test_a_lock_without_packages_fails(audit: Any, tmp_path: Path) -> None:
    (tmp_path / "requirements.lock").write_text("")
    assert "names no packages" in audit({})[1]


def test_pip_audit_takes_the_real_lock_with_our_options(module: Any, tmp_path: Path) -> None:
    requirements = module.pinned(module.LOCK.read_text())
    assert len(requirements) == module.LOCK.read_text().count("==") - module.LOCK.read_text().count(" == ")
    file = tmp_path / "all.txt"
    file.write_text("\n".join(requirements))
    command = [module.PIP_AUDIT, "--dry-run", "-r", file, *module.OPTIONS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - the program under test
    assert done.returncode == 0, done.stderr
    assert f"would have audited {len(requirements)} packages" in done.stderr

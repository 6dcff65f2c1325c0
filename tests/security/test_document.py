"""docs/security.md names tests: each of them is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_test_that_is_named_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/security.md").read_text()))
    assert len(named) > 40
    files = [file for part in ("libs", "services", "tests") for file in (ROOT / part).rglob("test_*.py")]
    there = {file.stem for file in files}
    for file in files:
        there |= set(re.findall(r"^(?:async )?def (test_\w+)\(", file.read_text(), re.MULTILINE))
    assert named - there == set()

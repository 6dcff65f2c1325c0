"""A scenario's report says what happened, and can be read again."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from shop_faults.client import Sample
from shop_faults.oracles import Finding
from shop_faults.report import ScenarioReport, _by_phase, p99, read_reports, seconds, table, write_report
from shop_faults.scenario import Fault
from shop_faults.timeline import Second, draw_timeline

SVG = "{http://www.w3.org/2000/svg}"
FAULTS = (Fault("kill <users>", 4.2, 4.3, 1.5), Fault("kafka down", 12.0, 17.5, 3.2))


def create_sample(at: float, milliseconds: float = 10.0, status: str = "200") -> Sample:
    return Sample(at, "place", milliseconds, status)


def create(name: str = "kill_all", seed: int = 1, *findings: Finding) -> ScenarioReport:
    timeline = tuple(Second(at, 40 + at % 7, at % 3, None if at == 13 else 8.0 * (1 + at % 5)) for at in range(30))
    return ScenarioReport(
        name=name,
        row="kill -9 of API, relay, consumer, gateway",
        seed=seed,
        operations=1234,
        acked=1200,
        rejected=34,
        unknown_acked=7,
        unknown_rejected=2,
        unknown_untold=1,
        events=2500,
        duplicates=3,
        faults=FAULTS,
        quiet_seconds=4.04,
        p99_before=12.4,
        p99_during=900.2,
        p99_after=None,
        findings=findings or (Finding("O1", ok=True, detail=""),),
        timeline=timeline,
    )


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    report = create()
    write_report(report, tmp_path / "reports")
    assert read_reports(tmp_path / "reports") == [report]


def test_the_table_has_a_line_for_each_in_order(tmp_path: Path) -> None:
    for name, seed in (("b", 1), ("a", 10), ("a", 2)):
        write_report(create(name, seed), tmp_path)
    lines = (tmp_path / "scenarios.md").read_text().splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert [line.split(" | ")[:2] for line in lines[2:]] == [
        ["| [a](a-2.svg)", "2"],
        ["| [a](a-10.svg)", "10"],
        ["| [b](b-1.svg)", "1"],
    ]


def test_the_table_shows_numbers_and_what_failed() -> None:
    findings = [Finding("O1", ok=True, detail=""), Finding("O4", ok=False, detail="1: version 2 of x comes after 3")]
    held, failed = table([create(), create("other", 1, *findings)]).splitlines()[2:]
    assert "1,234 | 1,200 | 34 | 7, 2, 1 | 2,500 | 3 | 2 | 3.2 | 4.0 | 12 / 900 / - | 1 hold |" in held
    assert failed.endswith("| **O4** |")


@pytest.mark.parametrize(("count", "expected"), [(1, 1.0), (99, 99.0), (100, 99.0), (200, 198.0)])
def test_p99_is_the_nearest_rank(count: int, expected: float) -> None:
    assert p99(create_sample(0, float(number)) for number in range(count, 0, -1)) == expected


def test_p99_is_of_the_answers() -> None:
    samples = [create_sample(0, 5.0), create_sample(0, 7.0, "404"), create_sample(0, 900.0, "503")]
    assert p99([*samples, create_sample(0, 900.0, "ConnectError")]) == 7.0
    assert p99(samples[2:]) is None


def test_the_phases_are_told_apart() -> None:
    samples = [(at, create_sample(at)) for at in (1.0, 4.25, 5.0, 8.0, 13.0, 20.0, 21.0)]
    before, during, after = ([sample.at for sample in phase] for phase in _by_phase(samples, FAULTS))
    assert (before, during, after) == ([1.0], [4.25, 5.0, 13.0, 20.0], [21.0])
    assert [len(phase) for phase in _by_phase(samples, ())] == [7, 0, 0]


def test_seconds_have_no_gap() -> None:
    samples = [create_sample(2.1), create_sample(2.9, 30.0), create_sample(4.0, 9.0, "503")]
    assert seconds((sample.at, sample) for sample in samples) == [
        Second(2, 2, 0, 30.0),
        Second(3, 0, 0, None),
        Second(4, 0, 1, None),
    ]
    assert seconds([]) == []


def _texts(picture: str) -> list[str]:
    return [text.text or "" for text in ET.fromstring(picture).iter(f"{SVG}text")]  # noqa: S314 - our own


def test_the_picture_has_what_it_needs_to_be_read() -> None:
    report = create()
    picture = draw_timeline("kills & more", report.timeline, report.faults)
    texts = _texts(picture)
    assert {"kills & more", "kill <users>", "kafka down"} <= set(texts)
    assert {"requests per second", "p99, ms", "seconds since the start", "fault", "until recovered"} <= set(texts)
    assert {"0", "5", "10", "100", "1,000", "10,000"} <= set(texts)
    titles = [title.text or "" for title in ET.fromstring(picture).iter(f"{SVG}title")]  # noqa: S314 - our own
    assert "kafka down: 12.0 to 17.5 s, recovered 3.2 s later" in titles


def test_names_that_would_overlap_are_left_to_the_pointer() -> None:
    faults = [Fault(f"kill {number}", 5 + number, 5.1 + number, 0.5) for number in range(20)]
    texts = _texts(draw_timeline("many", create().timeline, faults))
    assert 1 <= sum(text.startswith("kill ") for text in texts) < 15


def test_a_scenario_without_a_sample_has_a_picture_too() -> None:
    assert "nothing" in _texts(draw_timeline("nothing", (), ()))

"""The replay command's line: what is wrong with it is said in one line."""

import pytest

from shop_common.kafka.replay import main

GOOD = ["orders-worker", "--bootstrap-servers", "127.0.0.1:1"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "the following arguments are required: GROUP, --bootstrap-servers"),
        (GOOD[:1], "the following arguments are required: --bootstrap-servers"),
        (["a b", *GOOD[1:]], "argument GROUP: not the name of a group"),
        (["", *GOOD[1:]], "argument GROUP: not the name of a group"),
        ([*GOOD[:2], "kafka"], "argument --bootstrap-servers: not HOST:PORT"),
        ([*GOOD, "--id", "7"], "argument --id: not a UUID"),
        ([*GOOD, "--since", "noon"], "argument --since: not an RFC 3339 time such as 2026-03-01T12:00:00Z"),
        ([*GOOD, "--until", "2026-03-01T12:00:00"], "argument --until: a time needs its offset from UTC, such as Z"),
        ([*GOOD, "--rate", "0"], "argument --rate: not a number from 1 to 10000"),
        ([*GOOD, "--rate", "²"], "argument --rate: not a number from 1 to 10000"),
        ([*GOOD, "--rate", "fast"], "argument --rate: not a number from 1 to 10000"),
        ([*GOOD, "--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_a_bad_line_is_one_line(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)

    out, err = capsys.readouterr()
    assert ended.value.code == 2
    assert (out, err) == ("", f"python -m shop_common.kafka.replay: {complaint}; see --help\n")

"""What the benchmarks say is what was measured: the answer that is accepted, the page's blocks, the streams' counts."""

import asyncio
import json
from collections import Counter
from dataclasses import replace

import pytest

from shop_bench import dashboard
from shop_bench.compare import Line
from shop_bench.load import Sample, spread
from shop_bench.peers import Peer
from shop_bench.result import Bar, Result, with_block
from shop_bench.streams import Stream
from shop_bench.tutorial import Dashboard
from shop_common.testing import TokenIssuer

SAMPLE = Sample(rate=1000, p50=1, p90=2, p99=3, max=4, failures=0, own=95, others=0, busy=(97, 50))


async def test_the_stub_writes_whole_answers_of_the_size_that_is_claimed() -> None:
    answers = await dashboard.answers(TokenIssuer())
    bodies = 0
    for path, answer in answers.items():
        head, _, body = answer.partition("\r\n\r\n")
        if path != "/v1/me/events":
            assert f"Content-Length: {len(body.encode())}\r\n" in head + "\r\n"
        bodies += len(body) * path.startswith(("/v1/users", "/v1/orders"))
    assert 1600 < bodies < 1800


def test_only_the_whole_dashboard_is_right() -> None:
    whole = {**dashboard.PARTS, "_sections": {}}
    assert dashboard.is_right(json.dumps(whole).encode())
    assert not dashboard.is_right(json.dumps(whole | {"stats": None}).encode())
    assert not dashboard.is_right(b"[]")
    assert not dashboard.is_right(b"upstream sent too big header")


def test_the_tutorial_has_a_model_of_all_that_the_services_say() -> None:
    assert Dashboard.model_validate(dashboard.PARTS).model_dump() == dashboard.PARTS


def test_a_line_shows_the_median_and_counts_what_failed() -> None:
    samples = [replace(SAMPLE, rate=rate) for rate in (900, 2000, 1100)]
    line = Line(Peer("a peer", "peer", ""), {}, closed=samples, open=[replace(SAMPLE, failures=2, others=30)])
    assert line.rate == 1100
    assert line.row()[2] == "900 / **1,100** / 2,000"
    assert (line.failures, line.disturbance) == (2, 30)


def test_spread_rounds_as_asked() -> None:
    assert spread([1.26, 1.0, 3.14], 1) == "1.0 / **1.3** / 3.1"


def test_a_bar_that_is_missed_is_said_so() -> None:
    bars = [Bar("fast", "2 times", passes=True), Bar("faster", "0.5 times", passes=False)]
    text = Result("live", ["a", "b"], [["1", "2"]], ["a note"], bars, where="here").to_markdown()
    assert text.splitlines() == [
        "| a | b |",
        "| --- | --- |",
        "| 1 | 2 |",
        "",
        "here",
        "",
        "- a note",
        "- PASS: fast (2 times)",
        "- FAIL: faster (0.5 times)",
    ]


def test_a_part_replaces_its_own_block_only() -> None:
    page = "x\n<!-- live -->\nold\n<!-- /live -->\n<!-- idle -->\nkept\n<!-- /idle -->\n"
    assert with_block(page, "live", r"new \1") == page.replace("old", r"new \1")
    with pytest.raises(ValueError, match="no place for fresh"):
        with_block(page, "fresh", "new")


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
async def test_heartbeats_are_counted_however_they_are_cut(size: int) -> None:
    text = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n:\n\n\r\n"
    text += b"1f\r\nevent: changed\ndata: {}\n\n\r\n" + b"3\r\n:\n\n\r\n" * 2
    counts: Counter[str] = Counter()
    opened: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    stream = Stream(counts, opened)
    for start in range(0, len(text), size):
        stream.data_received(text[start : start + size])
    assert opened.result() == "200"
    assert counts == {"heartbeats": 3, "events": 1}


async def test_a_stream_that_is_refused_or_cut_says_so() -> None:
    counts: Counter[str] = Counter()
    refused, cut = (asyncio.get_running_loop().create_future() for _ in range(2))
    Stream(counts, refused).data_received(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
    Stream(counts, cut).connection_lost(None)
    assert (refused.result(), cut.result(), counts["lost"]) == ("503", "closed", 1)

"""Connections of the pool: kept and bounded, waited for in order and not for long, cut for whoever gives up."""

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from shop_common.connections import open_pool
from shop_common.http1 import CallFailed, CallLate, ConnectFailed, ConnectionBroken, HttpCall, PoolBusy, Response
from shop_common.settings import HttpClientSettings

MAX_BYTES = 1024
ONE = HttpClientSettings(max_connections=1, connect_seconds=10)


@contextmanager
def within(least: float, most: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert least <= time.monotonic() - started < most


@contextmanager
def full_backlog() -> Iterator[str]:
    """Connecting to it is never answered."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.settimeout(0)
            each.connect_ex(listener.getsockname())
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            for each in waiting:
                each.close()


async def test_one_connection_serves_many_calls(peer: Any, fetch: Any) -> None:
    async with open_pool(peer.url, HttpClientSettings(), MAX_BYTES) as pool:
        for _ in range(5):
            assert (await fetch(pool)).body == b"ok"
    assert (peer.connections, len(peer.visits)) == (1, 5)


async def test_connections_are_bounded_and_all_are_used(peer: Any, fetch: Any) -> None:
    async with open_pool(peer.url, HttpClientSettings(max_connections=3, connect_seconds=10), MAX_BYTES) as pool:
        answers = await asyncio.gather(*(fetch(pool) for _ in range(50)))
    assert {answer.body for answer in answers} == {b"ok"}
    assert peer.connections == 3


async def test_calls_wait_in_order(peer: Any, fetch: Any) -> None:
    async with open_pool(peer.url, ONE, MAX_BYTES) as pool:
        await asyncio.gather(*(fetch(pool, f"/{number}") for number in range(20)))
    assert peer.targets == [f"/{number}" for number in range(20)]


async def test_a_full_pool_ends_the_wait_before_the_call_is_late(peer: Any, begin: Any, fetch: Any) -> None:
    peer.is_silent("/silent")
    async with open_pool(peer.url, HttpClientSettings(max_connections=1, connect_seconds=0.2), MAX_BYTES) as pool:
        held, _ = begin(pool, "/silent")
        await peer.until(lambda: peer.visits)
        with within(0.15, 3), pytest.raises(PoolBusy):
            await fetch(pool)
        held.cancel()
        assert (await fetch(pool)).status == 200


async def test_a_call_in_a_hurry_is_late_before_the_pool_is_busy(peer: Any, begin: Any, fetch: Any) -> None:
    peer.is_silent("/silent")
    async with open_pool(peer.url, ONE, MAX_BYTES) as pool:
        begin(pool, "/silent")
        await peer.until(lambda: peer.visits)
        with within(0.05, 3), pytest.raises(CallLate):
            await fetch(pool, seconds=0.1)
    assert peer.targets == ["/silent"]


async def test_a_refused_connection_fails_at_once(fetch: Any) -> None:
    async with open_pool("http://127.0.0.1:1", ONE, MAX_BYTES) as pool:
        with within(0, 3):
            results = await asyncio.gather(*(fetch(pool) for _ in range(5)), return_exceptions=True)
    assert [type(result) for result in results] == [ConnectFailed] * 5


async def test_a_connection_that_is_not_answered_fails_in_time(fetch: Any) -> None:
    settings = HttpClientSettings(connect_seconds=0.2)
    with full_backlog() as url:
        async with open_pool(url, settings, MAX_BYTES) as pool:
            with within(0.15, 3), pytest.raises(ConnectFailed):
                await fetch(pool)
            with within(0.05, 3), pytest.raises(CallLate):
                await fetch(pool, seconds=0.1)


async def test_a_silent_server_is_given_up_and_its_place_is_free(peer: Any, fetch: Any) -> None:
    peer.is_silent("/silent")
    async with open_pool(peer.url, ONE, MAX_BYTES) as pool:
        waiting = asyncio.gather(fetch(pool, "/silent", seconds=0.2), fetch(pool), return_exceptions=True)
        with within(0.15, 5):
            late, answer = await waiting
        assert isinstance(late, CallLate)
        assert isinstance(answer, Response)
        assert answer.body == b"ok"
        await peer.until(lambda: len(peer.writers) == 1)


async def test_a_cancelled_call_tells_nobody_and_gives_its_place_to_the_next(peer: Any, begin: Any) -> None:
    peer.is_silent("/silent")
    async with open_pool(peer.url, ONE, MAX_BYTES) as pool:
        for number in range(1, 4):
            call, cancelled = begin(pool, "/silent")
            _, answer = begin(pool)
            await peer.until(lambda most=number: peer.targets.count("/silent") == most)
            call.cancel()
            with within(0, 5):
                assert (await answer).body == b"ok"
            call.cancel()
            assert not cancelled.done()
            await peer.until(lambda: len(peer.writers) == 1)


async def test_a_call_is_cancelled_while_it_waits(peer: Any, begin: Any) -> None:
    peer.is_silent("/silent")
    async with open_pool(peer.url, ONE, MAX_BYTES) as pool:
        held, _ = begin(pool, "/silent")
        await peer.until(lambda: peer.visits)
        waiting, cancelled = begin(pool, "/cancelled")
        _, answer = begin(pool)
        waiting.cancel()
        held.cancel()
        assert (await answer).body == b"ok"
        assert not cancelled.done()
    assert peer.targets == ["/silent", "/ok"]


async def test_a_call_is_cancelled_while_it_connects(peer: Any, begin: Any) -> None:
    async with open_pool(peer.url, ONE, MAX_BYTES) as pool:
        connecting, cancelled = begin(pool, "/cancelled")
        connecting.cancel()
        _, answer = begin(pool)
        assert (await answer).body == b"ok"
        assert not cancelled.done()
    assert (peer.connections, peer.targets) == (1, ["/ok"])


async def test_one_that_is_closed_while_idle_is_not_used_again(peer: Any, fetch: Any) -> None:
    async with open_pool(peer.url, ONE, MAX_BYTES) as pool:
        await fetch(pool)
        (kept,) = pool._open
        (writer,) = peer.writers
        writer.close()
        await peer.until(kept.transport.is_closing)
        assert (await fetch(pool)).body == b"ok"
    assert peer.connections == 2


async def test_one_that_is_closed_as_a_call_is_sent_is_broken(peer: Any, fetch: Any) -> None:
    async with open_pool(peer.url, ONE, MAX_BYTES) as pool:
        await fetch(pool)
        (writer,) = peer.writers
        writer.transport.abort()
        with pytest.raises(ConnectionBroken):
            await fetch(pool)
        assert (await fetch(pool)).body == b"ok"


async def test_what_is_unused_is_closed(peer: Any, fetch: Any) -> None:
    async with open_pool(peer.url, HttpClientSettings(idle_seconds=0.2), MAX_BYTES) as pool:
        await asyncio.gather(fetch(pool), fetch(pool))
        assert len(peer.writers) == 2
        with within(0.05, 5):
            await peer.until(lambda: not peer.writers)
        assert not pool._open
        assert (await fetch(pool)).body == b"ok"


async def test_no_more_are_kept_than_allowed(peer: Any, fetch: Any) -> None:
    async with open_pool(peer.url, HttpClientSettings(max_idle_per_host=2, idle_seconds=60), MAX_BYTES) as pool:
        await asyncio.gather(*(fetch(pool) for _ in range(5)))
        assert peer.connections == 5
        await peer.until(lambda: len(peer.writers) == 2)


async def test_closing_fails_what_is_under_way(peer: Any, begin: Any, fetch: Any) -> None:
    peer.is_silent("/silent")
    peer.answers("/endless", b"HTTP/1.1 200 OK\r\n\r\nhalf")
    others = asyncio.all_tasks()
    settings = HttpClientSettings(max_connections=3, connect_seconds=10)
    async with open_pool(peer.url, settings, MAX_BYTES) as pool:
        await fetch(pool)
        calls = [begin(pool, "/endless")[1], begin(pool, "/silent")[1]]
        await peer.until(lambda: len(peer.visits) == 3)
        calls += [begin(pool)[1] for _ in range(3)]
    assert all(call.done() for call in calls)
    assert {type(call.result()) for call in calls} == {ConnectionBroken}
    await peer.until(lambda: not peer.writers)
    with pytest.raises(ConnectionBroken):
        await fetch(pool)
    await peer.until(lambda: asyncio.all_tasks() == others)


async def test_closing_ends_connecting(begin: Any) -> None:
    others = asyncio.all_tasks()
    with full_backlog() as url:
        async with open_pool(url, ONE, MAX_BYTES) as pool:
            _, answer = begin(pool)
            await asyncio.sleep(0)
        assert isinstance(answer.result(), ConnectionBroken)
    assert asyncio.all_tasks() == others


async def test_whoever_is_told_may_cancel_the_others(peer: Any, begin: Any) -> None:
    peer.is_silent("/silent")
    told = []
    calls: list[HttpCall] = []

    def give_up(result: Response | CallFailed) -> None:
        told.append(type(result))
        for call in calls:
            call.cancel()

    async with open_pool(peer.url, HttpClientSettings(max_connections=2, connect_seconds=10), MAX_BYTES) as pool:
        calls += [pool.send("GET", "/silent", {}, None, seconds=10, done=give_up) for _ in range(5)]
        await peer.until(lambda: len(peer.visits) == 2)
    assert told == [ConnectionBroken]


async def test_a_line_break_is_refused_before_anything_is_sent(peer: Any, begin: Any) -> None:
    async with open_pool(peer.url, ONE, MAX_BYTES) as pool:
        for target, headers in (("/a\nb", {}), ("/", {"a": "b\r\nc: d"}), ("/", {"a\n": "b"}), ("/", {"a": "\r"})):
            with pytest.raises(ValueError, match="line break"):
                begin(pool, target, headers=headers)
    assert peer.connections == 0


async def test_a_request_is_what_was_asked(peer: Any, fetch: Any) -> None:
    async with open_pool(f"{peer.url}/base/", ONE, MAX_BYTES) as pool:
        await fetch(pool, "/a%20b?c=d", headers={"x-y": "z"})
        await fetch(pool, "/", body=b"\r\n\r\nbody")
    host = peer.url.partition("//")[2]
    assert peer.visits[0].head == f"GET /base/a%20b?c=d HTTP/1.1\r\nhost: {host}\r\nx-y: z\r\n\r\n"
    assert peer.visits[1].head == f"POST /base/ HTTP/1.1\r\nhost: {host}\r\ncontent-length: 8\r\n\r\n"
    assert peer.visits[1].body == b"\r\n\r\nbody"

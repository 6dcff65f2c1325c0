"""Closing waits so long, and no thread that still does holds the process."""

import asyncio
import threading
from functools import partial

import pytest

from shop_common.closing import close_in_thread


def wait_for(release: threading.Event) -> None:
    release.wait(60)


def closing_thread() -> threading.Thread | None:
    return next((thread for thread in threading.enumerate() if thread.name == "test-closing"), None)


async def test_what_ends_is_waited_for() -> None:
    closed = []
    await close_in_thread(lambda: closed.append(threading.current_thread().daemon), 30, "test-closing")
    assert closed == [True]


async def test_what_does_not_end_is_left_to_itself() -> None:
    release = threading.Event()
    async with asyncio.timeout(10):
        await close_in_thread(partial(wait_for, release), 0.01, "test-closing")
    left = closing_thread()
    assert left is not None
    assert left.daemon, "or the interpreter would wait for it"
    release.set()
    await asyncio.to_thread(left.join, 30)
    assert not left.is_alive()


def test_a_loop_that_is_gone_when_it_ends_is_no_error() -> None:
    release = threading.Event()
    asyncio.run(close_in_thread(partial(wait_for, release), 0.01, "test-closing"))
    left = closing_thread()
    assert left is not None
    release.set()
    left.join(30)
    assert not left.is_alive()


async def test_what_fails_has_ended_too(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise OSError("gone")

    async with asyncio.timeout(10):
        await close_in_thread(fail, 60, "test-closing")
    assert caplog.messages == ["test-closing failed"]

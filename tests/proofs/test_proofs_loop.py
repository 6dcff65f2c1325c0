"""The simulated loop: virtual time, seeded choices, and processes that end without a word."""

import asyncio
from collections.abc import Coroutine, Iterator
from random import Random
from typing import Any

import pytest

from interleave.loop import Process, SimulatedLoop, current_process


def create(seed: int) -> SimulatedLoop:
    return SimulatedLoop.create(Random(seed))  # noqa: S311 - chooses, hides nothing


def run(loop: SimulatedLoop, seconds: float = 1e6) -> bool:
    return loop.run(lambda: False, 10_000, seconds)


@pytest.fixture
def loop() -> Iterator[SimulatedLoop]:
    loop = create(1)
    yield loop
    loop.finish()


def test_waiting_takes_no_time_and_counts(loop: SimulatedLoop) -> None:
    told: list[float] = []

    async def main() -> None:
        began = loop.time()
        await asyncio.sleep(3600)
        told.append(loop.time() - began)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await asyncio.Event().wait()
        told.append(loop.time() - began)

    loop.start(Process("p"), main)
    run(loop)
    assert told == [3600, 3660]


def test_seeds_choose_the_order() -> None:
    def order(seed: int) -> str:
        loop, done = create(seed), ""

        async def one(name: str) -> None:
            nonlocal done
            await asyncio.sleep(0)
            done += name

        for name in "abcd":
            loop.start(Process(name), lambda name=name: one(name))  # type: ignore[misc] # mypy on default arguments
        run(loop)
        return done

    orders = {order(seed) for seed in range(200)}
    assert len(orders) == 24
    assert all(order(seed) == order(seed) for seed in range(5))


def test_a_killed_process_runs_no_line_more(loop: SimulatedLoop) -> None:
    lines: list[str] = []

    async def child() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            lines.append("child's finally")

    async def main() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(child())
                lines.append(current_process().name)
                await asyncio.sleep(10)
        except BaseException:
            lines.append("except")
            raise
        finally:
            lines.append("finally")

    process, noticed = Process("p"), []
    process.on_death.append(lambda: noticed.append(loop.time()))
    loop.start(process, main)
    loop.outside(5, loop.kill, process)
    run(loop)
    assert lines == ["p"]
    assert noticed == [1005.0]
    loop.finish()
    assert loop.troubles == []


@pytest.mark.parametrize("step", range(1, 7))
def test_a_process_dies_before_the_step_that_is_named(step: int) -> None:
    loop, process, steps = create(0), Process("p", dies_at=step), []

    async def main() -> None:
        for number in range(10):
            steps.append(number)
            await asyncio.sleep(0)

    loop.start(process, main)
    run(loop)
    loop.finish()
    assert len(steps) == step - 1
    assert process.dead


def test_a_frozen_process_goes_on_later_and_others_meanwhile(loop: SimulatedLoop) -> None:
    ends: dict[str, float] = {}

    async def main() -> None:
        await asyncio.sleep(1)
        ends[current_process().name] = loop.time() - 1000

    frozen = Process("frozen")
    loop.start(frozen, main)
    loop.start(Process("other"), main)
    loop.freeze(frozen, 20)
    run(loop)
    assert ends == {"other": 1, "frozen": 21}


def test_what_nobody_awaits_is_told(loop: SimulatedLoop) -> None:
    async def fails() -> None:
        raise ValueError("unseen")

    def begin() -> Coroutine[Any, Any, None]:
        return fails()

    loop.start(Process("p"), begin)
    run(loop)
    loop._tasks.clear()
    assert ["unseen" in trouble for trouble in loop.troubles] == [True]


def test_a_run_has_bounds(loop: SimulatedLoop) -> None:
    async def main() -> None:
        while True:  # noqa: ASYNC110 - nothing is waited for
            await asyncio.sleep(1)

    loop.start(Process("p"), main)
    assert not loop.run(lambda: False, 10_000, 60)
    assert 1060 >= loop.time() >= 1059
    assert not loop.run(lambda: False, 50, 1e9)

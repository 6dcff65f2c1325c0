"""One question for all who ask the same, and none for nobody."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from shop_gateway.flights import Flight


@pytest.fixture
def flights() -> dict[Any, Any]:
    return {}


class Owner:
    answer: Callable[[str | Exception], None]

    def __init__(self) -> None:
        self.cancelled = False

    def ask(self, answer: Callable[[str | Exception], None]) -> "Owner":
        self.answer = answer
        return self

    def cancel(self) -> None:
        self.cancelled = True


async def test_all_get_the_one_answer(flights: dict[Any, Any]) -> None:
    owner = Owner()
    flight = Flight(owner.ask, "key", flights, ends=1)
    answers = [flight.join() for _ in range(3)]
    assert flights == {"key": flight}
    owner.answer("yes")
    assert await asyncio.gather(*answers) == ["yes"] * 3
    assert flights == {}, "what is answered is not waited for"
    for _ in answers:
        flight.leave()


async def test_who_leaves_takes_nothing_from_the_others(flights: dict[Any, Any]) -> None:
    owner = Owner()
    flight = Flight(owner.ask, "key", flights, ends=1)
    gone, stays = flight.join(), flight.join()
    gone.cancel()
    flight.leave()
    await asyncio.sleep(0)
    owner.answer("yes")
    assert await stays == "yes"
    flight.leave()
    assert not owner.cancelled


async def test_the_last_to_leave_ends_the_question_and_nobody_can_join_it(flights: dict[Any, Any]) -> None:
    owner = Owner()
    flight = Flight(owner.ask, "key", flights, ends=1)
    flight.join()
    await asyncio.sleep(0)
    flight.leave()
    assert flights == {}
    await asyncio.sleep(0)
    assert owner.cancelled


async def test_an_error_reaches_all(flights: dict[Any, Any]) -> None:
    owner = Owner()
    flight = Flight(owner.ask, "key", flights, ends=1)
    answers = [flight.join() for _ in range(2)]
    owner.answer(RuntimeError("no"))
    assert [type(each) for each in await asyncio.gather(*answers, return_exceptions=True)] == [RuntimeError] * 2
    for _ in answers:
        flight.leave()


async def test_a_later_question_keeps_its_place_when_an_earlier_one_ends(flights: dict[Any, Any]) -> None:
    first, second = Owner(), Owner()
    flight = Flight(first.ask, "key", flights, ends=1)
    later = Flight(second.ask, "key", flights, ends=2)
    answers = flight.join(), later.join()
    first.answer("first")
    assert await answers[0] == "first"
    assert flights == {"key": later}
    second.answer("second")
    await answers[1]
    flight.leave()
    later.leave()


async def test_without_a_key_it_is_nobody_elses(flights: dict[Any, Any]) -> None:
    owner = Owner()
    flight = Flight(owner.ask, None, flights, ends=1)
    answer = flight.join()
    assert flights == {}
    await asyncio.sleep(0)
    flight.leave()
    with pytest.raises(asyncio.CancelledError):
        await answer
    assert owner.cancelled

"""How many calls may be under way, and how that is found."""

from shop_gateway.upstreams.concurrency import ConcurrencyLimit


def enter(limit: ConcurrencyLimit, count: int, *, optional: bool = False) -> list[int]:
    tickets = [limit.try_enter(optional=optional) for _ in range(count)]
    assert None not in tickets
    return [ticket for ticket in tickets if ticket is not None]


def leave(limit: ConcurrencyLimit, tickets: list[int], *, overloaded: bool | None) -> None:
    for ticket in tickets:
        limit.leave(ticket, overloaded=overloaded)


def test_one_above_the_limit_is_refused_until_another_has_left() -> None:
    limit = ConcurrencyLimit(2)
    tickets = enter(limit, 10)
    assert limit.try_enter(optional=False) is None
    leave(limit, tickets[:1], overloaded=None)
    assert limit.try_enter(optional=False) is not None


def test_what_is_optional_is_refused_first_and_leaves_connections() -> None:
    limit = ConcurrencyLimit(10)
    enter(limit, 8, optional=True)
    assert limit.try_enter(optional=True) is None
    enter(limit, 42)
    assert limit.try_enter(optional=False) is None


def test_what_is_optional_keeps_below_a_lowered_limit() -> None:
    limit = ConcurrencyLimit(2)
    leave(limit, enter(limit, 1), overloaded=True)
    while limit.limit > 5:
        leave(limit, enter(limit, 1), overloaded=True)
    enter(limit, 2, optional=True)
    assert limit.try_enter(optional=True) is None


def test_a_round_of_overloaded_calls_lowers_it_once() -> None:
    limit = ConcurrencyLimit(20)
    leave(limit, enter(limit, 50), overloaded=True)
    assert limit.limit == 90
    leave(limit, enter(limit, 50), overloaded=True)
    assert limit.limit == 81


def test_it_stays_above_nothing() -> None:
    limit = ConcurrencyLimit(20)
    for _ in range(100):
        leave(limit, enter(limit, 4), overloaded=True)
    assert limit.limit == 4


def test_it_grows_by_about_one_in_a_round_that_uses_it() -> None:
    limit = ConcurrencyLimit(20)
    for _ in range(10):
        leave(limit, enter(limit, 4), overloaded=True)
    lowered = limit.limit
    leave(limit, enter(limit, int(lowered)), overloaded=False)
    assert lowered + 0.4 < limit.limit < lowered + 1.1
    for _ in range(1000):
        leave(limit, enter(limit, int(limit.limit)), overloaded=False)
    assert limit.limit == 100


def test_it_does_not_grow_while_hardly_used() -> None:
    limit = ConcurrencyLimit(20)
    leave(limit, enter(limit, 1), overloaded=True)
    for _ in range(1000):
        leave(limit, enter(limit, 1), overloaded=False)
    assert limit.limit == 90


def test_what_taught_nothing_changes_nothing() -> None:
    limit = ConcurrencyLimit(20)
    leave(limit, enter(limit, 100), overloaded=None)
    assert (limit.limit, limit.under_way) == (100, 0)

"""How rarely a call is made again."""

from shop_gateway.upstreams.retries import RetryBudget, pause_before_retry


def test_ten_retries_are_saved_up_and_no_more() -> None:
    budget = RetryBudget()
    for _ in range(1000):
        budget.earn()
    assert [budget.try_spend() for _ in range(11)] == [True] * 10 + [False]


def test_then_one_call_in_five_is_made_again() -> None:
    budget = RetryBudget()
    while budget.try_spend():
        pass
    again = 0
    for _ in range(1000):
        budget.earn()
        again += budget.try_spend()
    assert 195 <= again <= 200


def test_a_retry_has_a_tenth_of_a_second_at_least() -> None:
    assert pause_before_retry(0.099) is None
    assert pause_before_retry(-1) is None
    pauses = [pause_before_retry(0.125) for _ in range(1000)]
    assert all(pause is not None and 0 <= pause <= 0.025 for pause in pauses)
    assert len(set(pauses)) > 900, "spread out"

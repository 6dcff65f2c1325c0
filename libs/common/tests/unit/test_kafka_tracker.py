"""What may be committed is everything below the first record not done, whatever the order in which records end."""

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from shop_common.kafka.tracker import OffsetTracker, Pending


def test_nothing_seen_is_nothing_to_commit() -> None:
    assert OffsetTracker().to_commit() is None


def test_the_first_offset_is_the_position_before_it_is_done() -> None:
    tracker = OffsetTracker()
    tracker.dispatch(40)

    assert tracker.position == 40
    assert tracker.to_commit() is None, "nothing was done yet"


def test_a_gap_holds_the_position_back() -> None:
    tracker = OffsetTracker()
    first, second, third = (tracker.dispatch(offset) for offset in (5, 6, 9))
    tracker.complete(third)
    tracker.complete(second)
    assert tracker.position == 5

    tracker.complete(first)
    assert tracker.to_commit() == 10


def test_what_is_committed_is_not_committed_again() -> None:
    tracker = OffsetTracker()
    tracker.complete(tracker.dispatch(0))
    tracker.committed(1)
    assert tracker.to_commit() is None

    tracker.complete(tracker.dispatch(1))
    assert tracker.to_commit() == 2


def test_the_end_of_a_record_of_a_cut_log_completes_nothing_of_the_new_one() -> None:
    tracker = OffsetTracker()
    stale = tracker.dispatch(7)
    fresh = tracker.dispatch(3)  # the log was cut and grew again
    again = tracker.dispatch(7)
    tracker.complete(stale)
    assert tracker.position == 3

    tracker.complete(fresh)
    assert tracker.position == 7
    tracker.complete(again)
    assert tracker.position == 8


class Tracking(RuleBasedStateMachine):
    """Against a model: the records dispatched since the log was last cut, and which of them are not done."""

    entries = Bundle("entries")

    def __init__(self) -> None:
        super().__init__()
        self.tracker = OffsetTracker()
        self.open: dict[int, Pending] = {}
        self.last: int | None = None

    @rule(target=entries, gap=st.integers(1, 4))
    def dispatch(self, gap: int) -> Pending:
        return self.track(gap if self.last is None else self.last + gap)

    @precondition(lambda self: self.last is not None)
    @rule(target=entries, back=st.integers(0, 5))
    def cut_the_log(self, back: int) -> Pending:
        self.open.clear()
        return self.track(max(0, (self.last or 0) - back))

    def track(self, offset: int) -> Pending:
        entry = self.tracker.dispatch(offset)
        self.open[offset], self.last = entry, offset
        return entry

    @rule(entry=consumes(entries))
    def complete(self, entry: Pending) -> None:
        self.tracker.complete(entry)
        if self.open.get(entry.offset) is entry:
            del self.open[entry.offset]

    @rule()
    def commit(self) -> None:
        offset = self.tracker.to_commit()
        if offset is not None:
            self.tracker.committed(offset)
        assert self.tracker.to_commit() is None

    @invariant()
    def the_position_is_the_first_open_or_the_end(self) -> None:
        end = None if self.last is None else self.last + 1
        assert self.tracker.position == min(self.open, default=end)


TestTracking = Tracking.TestCase

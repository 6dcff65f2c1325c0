"""What a partition's owners may commit, over any number of assignments, against a naive model of sets."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from shop_common.kafka.tracker import OffsetTracker, Pending


class TrackerLife(RuleBasedStateMachine):
    """The log, which may be cut; an epoch's tracker; handlers of this epoch and of those that are over."""

    handlers = Bundle("handlers")

    def __init__(self) -> None:
        super().__init__()
        self.committed = 0
        self.begin()

    def begin(self) -> None:
        self.tracker = OffsetTracker()
        self.next = self.committed
        self.seen: list[int] = []
        self.open: dict[Pending, int] = {}
        self.asked: list[int] = []

    @rule(target=handlers, gap=st.integers(0, 3))
    def dispatch(self, gap: int) -> Pending:
        return self.dispatch_one(gap)

    def dispatch_one(self, gap: int) -> Pending:
        offset = self.next + gap
        self.next = offset + 1
        entry = self.tracker.dispatch(offset)
        self.seen.append(offset)
        self.open[entry] = offset
        return entry

    @rule(entry=consumes(handlers))
    def complete(self, entry: Pending) -> None:
        """Of an epoch that is over, too: that must not count."""
        self.tracker.complete(entry)
        self.open.pop(entry, None)

    @rule(is_acked=st.booleans())
    def commit(self, is_acked: bool) -> None:  # noqa: FBT001 - drawn
        offset = self.tracker.to_commit()
        if offset is None:
            return
        assert offset <= min(self.open.values(), default=offset), "what is not done is not committed"
        assert not self.asked or offset >= self.asked[-1], "commits of an epoch never go back"
        self.asked.append(offset)
        if is_acked:
            self.tracker.committed(offset)
            self.committed = offset
            assert self.tracker.to_commit() is None

    @rule()
    def give_to_another_owner(self) -> None:
        self.begin()

    @precondition(lambda self: self.seen)
    @rule(target=handlers, at=st.floats(0, 1))
    def read_a_log_that_was_cut(self, at: float) -> Pending:
        """Reading goes back, and the same offsets are other records."""
        self.next = int(self.seen[-1] * at)
        self.seen.clear()
        self.open.clear()
        self.asked.clear()
        return self.dispatch_one(0)

    @invariant()
    def everything_below_the_position_is_done(self) -> None:
        position = self.tracker.position
        if position is None:
            assert not self.seen
        elif self.seen:
            done = [offset for offset in self.seen if offset < position]
            assert not set(done) & set(self.open.values())
            assert position == min(self.open.values(), default=self.seen[-1] + 1)


TrackerLife.TestCase.settings = settings(max_examples=100, deadline=None, derandomize=True, database=None)
TestTrackerLife = TrackerLife.TestCase

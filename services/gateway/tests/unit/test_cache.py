"""The cache in the process: what it refuses, what it keeps, what it forgets; and beside a naive model, at random."""

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from shop_gateway.cache import Entry, Key, Lease, SectionCache
from shop_gateway.models import Answer

ADA = Key("ada", "user")
ORDERS = Key("ada", "orders")
ROOM = 1_000_000


def answer(body: bytes = b"{}") -> Answer:
    return Answer(200, {"content-type": "application/json"}, body)


def filled(cache: SectionCache, key: Key, versions: Mapping[str, int], body: bytes = b"{}") -> Lease:
    lease = cache.lease(key)
    assert cache.fill(lease, answer(body), versions)
    return lease


def test_what_was_filled_is_found_with_the_time_before_the_owner_was_asked() -> None:
    now = [5.0]
    cache = SectionCache(ROOM, lambda: now[0])
    lease = cache.lease(ADA)
    now[0] = 7.0
    assert cache.fill(lease, answer(b'{"a":1}'), {"ada": 1})
    assert cache.look_up(ADA) == Entry(answer(b'{"a":1}'), {"ada": 1}, 5.0)
    assert cache.look_up(ORDERS) is None
    assert cache.look_up(Key("bob", "user")) is None


def test_an_event_drops_all_of_its_user_and_nothing_of_others() -> None:
    cache = SectionCache(ROOM)
    bob = Key("bob", "user")
    for key in (ADA, ORDERS, bob):
        filled(cache, key, {})
    cache.invalidate("ada", "order-1", 1)
    assert (cache.look_up(ADA), cache.look_up(ORDERS)) == (None, None)
    assert cache.look_up(bob) is not None


def test_what_was_read_before_an_event_is_refused_whichever_section_it_is() -> None:
    cache = SectionCache(ROOM)
    leases = [cache.lease(ADA), cache.lease(ORDERS)]
    cache.invalidate("ada", "order-1", 1)
    later = cache.lease(ADA)
    assert [cache.fill(lease, answer(), {}) for lease in leases] == [False, False]
    assert cache.look_up(ADA) is None
    assert cache.fill(later, answer(), {})


def test_an_entry_that_shows_what_the_event_tells_stays_and_the_others_go() -> None:
    cache = SectionCache(ROOM)
    filled(cache, ADA, {"ada": 2})
    filled(cache, ORDERS, {"order-1": 1})
    cache.invalidate("ada", "ada", 2)
    assert cache.look_up(ADA) is not None
    assert cache.look_up(ORDERS) is None
    cache.invalidate("ada", "ada", 3)
    assert cache.look_up(ADA) is None


def test_an_event_told_again_refuses_nothing() -> None:
    """A write and its event tell the same; a reader that starts again tells everything again."""
    cache = SectionCache(ROOM)
    cache.lease(ADA)
    cache.invalidate("ada", "ada", 3)
    lease = cache.lease(ADA)
    cache.invalidate("ada", "ada", 3)
    cache.invalidate("ada", "ada", 2)
    assert cache.fill(lease, answer(), {"ada": 3})
    cache.invalidate("ada", "ada", 3)
    assert cache.look_up(ADA) is not None


def test_an_answer_older_than_a_version_seen_is_refused_even_with_a_good_lease() -> None:
    cache = SectionCache(ROOM)
    cache.lease(ADA)
    cache.invalidate("ada", "ada", 3)
    lease = cache.lease(ADA)
    assert not cache.fill(lease, answer(), {"ada": 2})
    assert cache.fill(lease, answer(), {"ada": 3})


def test_of_two_racing_fills_the_newer_stays() -> None:
    cache = SectionCache(ROOM)
    slow, fast = cache.lease(ADA), cache.lease(ADA)
    assert cache.fill(fast, answer(b"new"), {"ada": 2})
    assert not cache.fill(slow, answer(b"old"), {"ada": 1})
    entry = cache.look_up(ADA)
    assert entry is not None
    assert entry.answer.body == b"new"


def test_nothing_is_remembered_of_a_user_nobody_asked_for() -> None:
    cache = SectionCache(ROOM)
    for number in range(1000):
        cache.invalidate(f"user-{number}", "order-1", 1)
    assert cache.size == 0


def test_the_least_recently_asked_users_are_forgotten_and_their_leases_refused() -> None:
    cache = SectionCache(10_000)
    lease = cache.lease(ORDERS)
    filled(cache, ADA, {}, b"x" * 3000)
    filled(cache, Key("bob", "user"), {}, b"x" * 3000)
    assert cache.look_up(ADA) is not None
    filled(cache, Key("cyd", "user"), {}, b"x" * 3000)
    assert cache.look_up(Key("bob", "user")) is None, "the longest not asked for"
    assert cache.look_up(ADA) is not None
    filled(cache, Key("dan", "user"), {}, b"x" * 3000)
    filled(cache, Key("eve", "user"), {}, b"x" * 3000)
    assert cache.look_up(ADA) is None
    cache.invalidate("ada", "ada", 1)
    cache.lease(ORDERS)
    assert not cache.fill(lease, answer(), {}), "who took it is forgotten, and so is the event that came since"


def test_leases_that_are_never_used_stay_within_the_bound() -> None:
    cache = SectionCache(10_000)
    for number in range(1000):
        cache.lease(Key(f"user-{number}", "user"))
    assert 0 < cache.size <= 10_000


def test_a_user_of_many_events_is_forgotten_rather_than_growing() -> None:
    cache = SectionCache(ROOM)
    largest = 0
    for number in range(1000):
        lease = cache.lease(ORDERS)
        cache.invalidate("ada", f"order-{number}", 1)
        largest = max(largest, cache.size)
        assert not cache.fill(lease, answer(), {})
    assert largest < 50_000


def test_an_answer_larger_than_all_room_is_not_kept() -> None:
    cache = SectionCache(10_000)
    cache.fill(cache.lease(ADA), answer(b"x" * 10_000), {})
    assert (cache.look_up(ADA), cache.size) == (None, 0)


AGGREGATES = {"ada": ("ada", "order-1"), "bob": ("bob", "order-2")}
KEYS = st.builds(Key, st.sampled_from(sorted(AGGREGATES)), st.sampled_from(["user", "orders"]))


class Taken(NamedTuple):
    lease: Lease
    after: int
    """How much had been told of the user by then."""


class Read(NamedTuple):
    """A reader on its way: it took its lease, then the owner answered with these versions."""

    taken: Taken
    shows: dict[str, int]
    names_versions: bool

    @property
    def body(self) -> bytes:
        return repr(self.shows).encode()


class NaiveUser:
    """All that was ever told of one user since the first lease, and what each section should hold."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []
        self.kept: dict[str, Read] = {}

    def newest(self, aggregate_id: str) -> int:
        return max((version for told, version in self.told if told == aggregate_id), default=0)


class CacheBesideModel(RuleBasedStateMachine):
    """Commits, events late and repeated, writes, readers at any pace. The room is enough for all."""

    max_bytes = ROOM
    reads = Bundle("reads")
    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.cache = SectionCache(self.max_bytes)
        self.database = {aggregate_id: 1 for ids in AGGREGATES.values() for aggregate_id in ids}
        self.processed: dict[str, int] = defaultdict(int)
        self.users: dict[str, NaiveUser] = {}

    @rule(aggregate_id=st.sampled_from(["ada", "order-1", "bob", "order-2"]))
    def commit(self, aggregate_id: str) -> None:
        self.database[aggregate_id] += 1

    @rule(aggregate_id=st.sampled_from(["ada", "order-1", "bob", "order-2"]), back=st.integers(0, 2))
    def tell(self, aggregate_id: str, back: int) -> None:
        """An event, or a write's answer: of the newest version, or of an older one once more."""
        version = max(1, self.database[aggregate_id] - back)
        user_id = next(user_id for user_id, ids in AGGREGATES.items() if aggregate_id in ids)
        self.cache.invalidate(user_id, aggregate_id, version)
        self.processed[aggregate_id] = max(self.processed[aggregate_id], version)
        user = self.users.get(user_id)
        if user is None or user.newest(aggregate_id) >= version:
            return
        user.told.append((aggregate_id, version))
        user.kept = {
            section: read
            for section, read in user.kept.items()
            if read.names_versions and read.shows[aggregate_id] >= version
        }

    @rule(target=leases, key=KEYS)
    def take_lease(self, key: Key) -> Taken:
        user = self.users.setdefault(key.user_id, NaiveUser())
        return Taken(self.cache.lease(key), len(user.told))

    @rule(target=reads, taken=leases, names_versions=st.booleans())
    def ask_owner(self, taken: Taken, names_versions: bool) -> Read:  # noqa: FBT001 - Hypothesis passes it by name
        ids = AGGREGATES[taken.lease.key.user_id]
        return Read(taken, {aggregate_id: self.database[aggregate_id] for aggregate_id in ids}, names_versions)

    @rule(read=consumes(reads))
    def fill(self, read: Read) -> None:
        lease, after = read.taken
        key = lease.key
        accepted = self.cache.fill(lease, answer(read.body), read.shows if read.names_versions else {})
        user = self.users[key.user_id]
        expected = len(user.told) == after
        if read.names_versions:
            kept = user.kept.get(key.section)
            known = kept.shows if kept and kept.names_versions else {}
            expected = expected and all(version >= known.get(name, 0) for name, version in read.shows.items())
        self.compare_acceptance(accepted=accepted, expected=expected)
        if accepted:
            user.kept[key.section] = read

    def compare_acceptance(self, *, accepted: bool, expected: bool) -> None:
        assert accepted == expected

    def compare_entry(self, entry: Entry | None, read: Read | None) -> None:
        assert (entry is None) == (read is None)

    @invariant()
    def nothing_older_than_what_was_told(self) -> None:
        for user_id, ids in AGGREGATES.items():
            for section in ("user", "orders"):
                entry = self.cache.look_up(Key(user_id, section))
                read = self.users[user_id].kept.get(section) if user_id in self.users else None
                self.compare_entry(entry, read)
                if entry is not None:
                    assert read is not None
                    assert entry.answer.body == read.body
                    for aggregate_id in ids:
                        assert read.shows[aggregate_id] >= self.processed[aggregate_id]

    @invariant()
    def bounded(self) -> None:
        assert 0 <= self.cache.size <= self.max_bytes


class TightCacheBesideModel(CacheBesideModel):
    """Room for about one user: it may refuse and forget more than it must, and never less."""

    max_bytes = 3500

    def compare_acceptance(self, *, accepted: bool, expected: bool) -> None:
        assert expected or not accepted

    def compare_entry(self, entry: Entry | None, read: Read | None) -> None:
        assert entry is None or read is not None


CacheBesideModel.TestCase.settings = TightCacheBesideModel.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None
)
TestCacheBesideModel = CacheBesideModel.TestCase
TestTightCacheBesideModel = TightCacheBesideModel.TestCase

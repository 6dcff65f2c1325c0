"""The gather: a user's profile, orders and statistics, from memory where that is true and from their owners at once."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import zip_longest
from typing import Final, Literal

from prometheus_client import Counter

from shop_common.context import remaining_seconds
from shop_common.metrics import count_of
from shop_gateway.cache import CachedUser, Entry, Key
from shop_gateway.errors import UpstreamDeadline, UpstreamFailed
from shop_gateway.flights import Flight
from shop_gateway.freshness import Levels
from shop_gateway.models import Answer, Ask, SectionOutcome, Whole
from shop_gateway.schemas import create_whole
from shop_gateway.sections import Question, Section, SectionReader, shows
from shop_gateway.settings import DeadlineSettings
from shop_gateway.shared_cache import SharedLease
from shop_gateway.upstreams.calls import Upstream

DASHBOARDS: Final = Counter(
    "shop_gateway_dashboards_total", "Dashboards by where the last of their sections is from", ["source", "state"]
)
_ASSEMBLY_SECONDS: Final = 0.02
"""Kept back from the client's own deadline, so that a partial answer still arrives within it."""
_LANDING_SECONDS: Final = 0.02
"""Readers wait so much longer than a question may take: cut off by them, it would teach the breaker nothing."""
_DEADLINE_STATUS: Final = 504
_SHARED_AT_LEAST: Final = 0.5
"""Of the time one has: a question under way that ends sooner is not waited for."""
_ASKED_ANEW_AFTER: Final = 0.5
"""Of the time for which it is fresh, so that who asks often never waits for an owner."""
_REFRESHING_AT_ONCE: Final = 100


class Dashboards:
    """All sections of one user's dashboard."""

    def __init__(self, users: Upstream, orders: Upstream, deadlines: DeadlineSettings, levels: Levels) -> None:
        self._deadlines = deadlines
        self._levels = levels
        self._memory = levels.memory
        self._reader = SectionReader(levels)
        self._hits = {state: DASHBOARDS.labels("memory", state) for state in ("fresh", "proven")}
        self._refreshing: set[Flight[SectionOutcome]] = set()
        self._sections = (
            Section("user", users, "/v1/users/{user_id}", "/v1/users/{user_id}", required=True),
            Section("orders", orders, "/v1/orders", "/v1/orders?user_id={user_id}&limit=10"),
            Section("stats", users, "/v1/users/{user_id}/stats", "/v1/users/{user_id}/stats"),
        )

    def find_fresh(self, user_id: str) -> CachedUser | None:
        """The user, where all sections are in memory and so fresh that none has to be asked for anew."""
        user = self._memory.find(user_id)
        if user is None or len(user.entries) < len(self._sections):
            return None
        oldest = min(entry.as_of for entry in user.entries.values())
        return user if time.monotonic() - oldest <= self._levels.fresh_seconds * _ASKED_ANEW_AFTER else None

    def from_memory(self, user: CachedUser) -> Whole:
        """Of a user that `find_fresh` has found."""
        whole: Whole | None = user.whole
        if whole is None:
            whole = user.whole = create_whole(self._all_from_memory(user))
        self._hits[self._fresh_or_proven(whole.as_of)].inc()
        return whole

    def _all_from_memory(self, user: CachedUser) -> list[SectionOutcome]:
        return [_from_memory(section, user.entries[section.name], "fresh") for section in self._sections]

    async def has_statistics(self, user_id: str, credentials: str) -> bool:
        """Whether their statistics show every order heard of, as they are only then kept; asks for them if need be."""
        stats = self._sections[-1]
        if self._memory.look_up(Key(user_id, stats.name)):
            return True
        ask = Ask(user_id, {"authorization": credentials}, time.monotonic())
        flight = self._board(stats, ask, None, self._deadlines.section_seconds, alone=False)
        try:
            await flight.join()
        finally:
            flight.leave()
        return self._memory.look_up(Key(user_id, stats.name)) is not None

    async def gather(self, ask: Ask) -> list[SectionOutcome]:
        """Every section, failed optional ones with their problem.

        Raises what the required one ran into, as RequiredRefused or UpstreamError, without waiting for the others;
        then, if `strict`, what an optional one did, as UpstreamFailed or UpstreamDeadline.
        """
        known = {} if ask.live else self._find_known(self._sections, ask)
        missing = [section for section in self._sections if section.name not in known] if known else self._sections
        if missing:
            known |= await self._ask_owners(missing, ask)
        outcomes = [known[section.name] for section in self._sections]
        self._count(outcomes)
        if ask.strict:
            for outcome in outcomes:
                _require_whole(outcome)
        return outcomes

    def _count(self, outcomes: Sequence[SectionOutcome]) -> None:
        sources, states = [each.source for each in outcomes], [each.state for each in outcomes]
        source = "owner" if "owner" in sources else "redis" if "redis" in sources else "memory"
        state: str = "failed" if "failed" in states else "stale" if "stale" in states else "fresh"
        if state == "fresh":
            state = self._fresh_or_proven(min([each.as_of for each in outcomes]))
        count_of(DASHBOARDS, source, state).inc()

    def _fresh_or_proven(self, as_of: float) -> Literal["fresh", "proven"]:
        """Whether it is answered only because no event has told of a change since."""
        return "fresh" if time.monotonic() - as_of <= self._levels.settings.fresh_seconds else "proven"

    def _find_known(self, sections: Sequence[Section], ask: Ask) -> dict[str, SectionOutcome]:
        """What memory has of these and may be answered; what is not quite new is asked for anew meanwhile."""
        user = self._memory.find(ask.user_id)
        if user is None:
            return {}
        now, fresh = time.monotonic(), self._levels.fresh_seconds
        known = {}
        for section in sections:
            entry = user.entries.get(section.name)
            if entry is None or not shows(user, entry, _concerning(section, ask)):
                continue
            age = now - entry.as_of
            if age > fresh + self._levels.settings.revalidate_seconds:
                continue
            if age > fresh * _ASKED_ANEW_AFTER:
                self._refresh(section, ask)
            known[section.name] = _from_memory(section, entry, "stale" if age > fresh else "fresh")
        return known

    async def _ask_owners(self, missing: Sequence[Section], ask: Ask) -> Mapping[str, SectionOutcome]:
        """At once, sharing the questions that are under way, except where more is wanted than others want."""
        started = time.perf_counter()
        known: dict[str, SectionOutcome] = {}
        shared_lease = None
        rest = missing
        shared = [] if ask.live else [section for section in missing if not _concerning(section, ask)]
        if shared:
            known, shared_lease = await self._find_shared(shared, ask)
            known = self._find_known(shared, ask) | known  # others may have been answered meanwhile
            rest = [section for section in missing if section.name not in known]
        seconds = self._seconds_left(ask.arrived)
        flights: list[Flight[SectionOutcome]] = []
        answers: list[asyncio.Future[SectionOutcome]] = []
        try:
            if rest and seconds > 0:
                for section in rest:
                    flight = self._board(section, ask, shared_lease, seconds, alone=section not in shared)
                    flights.append(flight)
                    answers.append(flight.join())
                await _landed(flights, answers, time.monotonic() + seconds + _LANDING_SECONDS)
            for section, answer in zip_longest(rest, answers):
                in_time = answer is not None and answer.done() and not answer.cancelled()
                known[section.name] = answer.result() if in_time else self._late(section, ask, started)
        finally:
            for flight in flights:
                flight.leave()
        return known

    async def _find_shared(
        self, sections: Sequence[Section], ask: Ask
    ) -> tuple[dict[str, SectionOutcome], SharedLease | None]:
        """What Redis has of these, and a lease to fill in the others."""
        started = time.perf_counter()
        leases = {each.name: self._memory.lease(Key(ask.user_id, each.name)) for each in sections}  # before it is asked
        found = await self._levels.shared.look_up(ask.user_id, [*leases])
        if found is None:
            return {}, None
        known = {}
        fresh = self._levels.fresh_seconds
        for section in sections:
            entry = found.entries.get(section.name)
            if entry is None or entry.age > fresh:
                continue
            as_of = time.monotonic() - entry.age
            if self._memory.fill(leases[section.name], Answer(200, {}, entry.body), entry.versions, as_of):
                seconds = time.perf_counter() - started
                known[section.name] = SectionOutcome(section.name, seconds, entry.body, None, as_of, "redis")
        return known, found.lease

    def _board(
        self, section: Section, ask: Ask, shared_lease: SharedLease | None, seconds: float, *, alone: bool
    ) -> Flight[SectionOutcome]:
        lease = self._memory.lease(Key(ask.user_id, section.name))
        key = fallback = None
        ends = lease.taken_at + seconds
        flights = lease.user.flights
        if not alone:
            key = section.name, ask.headers.get("authorization")
            under_way: Flight[SectionOutcome] | None = flights.get(key)
            if under_way is not None and under_way.ends - lease.taken_at >= seconds * _SHARED_AT_LEAST:
                return under_way
            fallback = lease.user.entries.get(section.name)
        question = Question(section, ask.headers, seconds, lease, shared_lease, fallback)
        return Flight(partial(self._reader.begin, question), key, flights, ends)

    def _refresh(self, section: Section, ask: Ask) -> None:
        """Ask anew, for whoever comes next."""
        if len(self._refreshing) < _REFRESHING_AT_ONCE:
            flight = self._board(section, ask, None, self._deadlines.section_seconds, alone=False)
            if flight not in self._refreshing:
                self._refreshing.add(flight)
                flight.join().add_done_callback(partial(self._refreshed, flight))

    def _refreshed(self, flight: Flight[SectionOutcome], answer: asyncio.Future[SectionOutcome]) -> None:
        self._refreshing.discard(flight)
        if not answer.cancelled():
            answer.exception()  # what became of it shows in the upstream's metrics

    async def close(self) -> None:
        """Give up what nobody waits for."""
        for flight in [*self._refreshing]:
            flight.leave()
        await asyncio.sleep(0)

    def _late(self, section: Section, ask: Ask, started: float) -> SectionOutcome:
        user = None if ask.live or _concerning(section, ask) else self._memory.find(ask.user_id)
        fallback = None if user is None else user.entries.get(section.name)
        error = UpstreamDeadline(f"{section.upstream.name} did not answer in time")
        return self._reader.failed(section, error, fallback, started)

    def _seconds_left(self, arrived: float) -> float:
        """For a question."""
        total = self._deadlines.dashboard_seconds - (time.monotonic() - arrived)
        remaining = remaining_seconds()
        if remaining is not None:
            total = min(total, remaining - _ASSEMBLY_SECONDS)
        return min(total - _LANDING_SECONDS, self._deadlines.section_seconds)


async def _landed(
    flights: Sequence[Flight[SectionOutcome]], answers: Sequence[asyncio.Future[SectionOutcome]], latest: float
) -> None:
    """All of them, or as many as do until then; raises what the first one does that fails."""
    if max([flight.ends for flight in flights]) <= latest:
        await asyncio.gather(*answers)
        return
    with suppress(TimeoutError):  # others have more time than this one
        async with asyncio.timeout(latest - time.monotonic()):
            await asyncio.gather(*answers)


def _concerning(section: Section, ask: Ask) -> Mapping[str, int]:
    """Of the versions a request asks for at least, those that show in this section."""
    return {
        aggregate_id: version
        for aggregate_id, version in ask.at_least.items()
        if section.name == ("user" if aggregate_id == ask.user_id else "orders")
    }


def _from_memory(section: Section, entry: Entry, state: Literal["fresh", "stale"]) -> SectionOutcome:
    return SectionOutcome(section.name, 0.0, entry.answer.body, None, entry.as_of, "memory", state)


def _require_whole(outcome: SectionOutcome) -> None:
    if outcome.problem is not None:
        detail = f"The section {outcome.name} failed: {outcome.problem.detail}"
        raise UpstreamDeadline(detail) if outcome.problem.status == _DEADLINE_STATUS else UpstreamFailed(detail)

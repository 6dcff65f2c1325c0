"""One section of a dashboard: asked of its owner, checked, and remembered in both levels of the cache."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pydantic_core import from_json

from shop_common.errors import AppError
from shop_gateway.cache import CachedUser, Entry, Lease
from shop_gateway.changes import PROJECTION
from shop_gateway.consistency import find_version
from shop_gateway.errors import UpstreamError, UpstreamMalformed
from shop_gateway.freshness import Levels
from shop_gateway.models import Answer, Call, SectionOutcome, SectionProblem
from shop_gateway.shared_cache import SharedLease
from shop_gateway.upstreams.calls import Attempts, Upstream

_OK, _BAD_REQUEST, _SERVER_ERROR = 200, 400, 500


class RequiredRefused(Exception):
    """The required section's owner answered with an error, which is the whole's answer too."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


@dataclass(frozen=True, slots=True)
class Section:
    name: str
    upstream: Upstream
    route: str
    target: str
    """What to ask for, the user's id at `{user_id}`."""
    required: bool = False


class Question(NamedTuple):
    """A section to be asked for."""

    section: Section
    headers: Mapping[str, str]
    seconds: float
    lease: Lease
    shared_lease: SharedLease | None
    fallback: Entry | None
    """What may be answered instead, if it is not too old."""


class SectionReader:
    """Asks owners, and falls back on what was read before where that is allowed."""

    def __init__(self, levels: Levels) -> None:
        self._levels = levels

    def begin(self, question: Question, done: Callable[[SectionOutcome | Exception], None]) -> Attempts:
        """`done` is given the section, or its problem; of a required one RequiredRefused or UpstreamError instead."""
        section = question.section
        target = section.target.replace("{user_id}", question.lease.key.user_id)
        call = Call("GET", section.route, target, question.headers, repeatable=True)
        started = time.perf_counter()

        def on_result(result: Answer | UpstreamError) -> None:
            try:
                outcome = self._outcome(question, result, started)
            except Exception as error:  # noqa: BLE001 - whoever waits is told
                done(error)
            else:
                done(outcome)

        return section.upstream.begin(call, question.seconds, on_result, optional=not section.required)

    def _outcome(self, question: Question, answer: Answer | UpstreamError, started: float) -> SectionOutcome:
        section, _, _, lease, shared_lease, fallback = question
        if isinstance(answer, UpstreamError):
            return self.failed(section, answer, fallback, started)
        if answer.status >= _BAD_REQUEST:
            return self._refused(section, answer, fallback, started)
        body = answer.body
        if answer.status != _OK or body[:1] != b"{" or body[-1:] != b"}":
            error = UpstreamMalformed(f"{section.upstream.name} cannot be understood: its answer is no object")
            return self.failed(section, error, fallback, started)
        versions = _versions(section, answer, lease)
        if self._levels.memory.fill(lease, answer, versions) and shared_lease is not None:
            self._levels.shared.fill_later(shared_lease, section.name, body, versions)
        return SectionOutcome(section.name, time.perf_counter() - started, body, None, lease.taken_at)

    def failed(self, section: Section, error: AppError, fallback: Entry | None, started: float) -> SectionOutcome:
        """What was read before, marked as stale; otherwise the problem alone, which a required section raises."""
        stale = self._stale(section, SectionProblem(error.status, error.code, error.detail), fallback, started)
        if stale.body is None and section.required:
            raise error
        return stale

    def _refused(self, section: Section, answer: Answer, fallback: Entry | None, started: float) -> SectionOutcome:
        usable = fallback if answer.status >= _SERVER_ERROR else None
        stale = self._stale(section, _problem(answer, section.upstream.name), usable, started)
        if stale.body is None and section.required:
            raise RequiredRefused(answer)
        return stale

    def _stale(
        self, section: Section, problem: SectionProblem, fallback: Entry | None, started: float
    ) -> SectionOutcome:
        seconds = time.perf_counter() - started
        if fallback is None or time.monotonic() - fallback.as_of > self._levels.settings.error_seconds:
            return SectionOutcome(section.name, seconds, None, problem, state="failed")
        body = fallback.answer.body
        return SectionOutcome(section.name, seconds, body, problem, fallback.as_of, "memory", "stale")


def _versions(section: Section, answer: Answer, lease: Lease) -> Mapping[str, int]:
    """What the answer shows of what changes it."""
    if section.name == "stats":
        return {PROJECTION: 0 if answer.projected_offset is None else answer.projected_offset + 1}
    version = find_version(answer) if section.name == "user" else None
    return {} if version is None else {lease.key.user_id: version}


def shows(user: CachedUser, entry: Entry, at_least: Mapping[str, int]) -> bool:
    """Whether an entry is from after all these versions: it has them, or they were heard of before it was read."""
    return all(
        max(entry.versions.get(name, 0), user.seen.get(name, 0)) >= version for name, version in at_least.items()
    )


def _problem(answer: Answer, owner: str) -> SectionProblem:
    try:
        document = from_json(answer.body)
        return SectionProblem(answer.status, str(document["code"]), str(document["detail"]))
    except (ValueError, TypeError, LookupError):
        return SectionProblem(answer.status, "upstream_error", f"{owner} answered {answer.status}")

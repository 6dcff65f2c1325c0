"""The gather: a user's profile, orders and statistics asked for at once, each with its own deadline."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic_core import from_json

from shop_common.context import remaining_seconds
from shop_common.errors import AppError
from shop_gateway.errors import UpstreamDeadline, UpstreamFailed, UpstreamMalformed
from shop_gateway.models import Answer, Call, SectionOutcome, SectionProblem
from shop_gateway.settings import DeadlineSettings
from shop_gateway.upstreams.calls import Upstream

_ASSEMBLY_SECONDS = 0.02
"""Kept back from the client's own deadline, so that a partial answer still arrives within it."""
_OK, _BAD_REQUEST = 200, 400
_DEADLINE_STATUS = 504


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


class Dashboards:
    """Asks for all sections of one user's dashboard in parallel."""

    def __init__(self, users: Upstream, orders: Upstream, deadlines: DeadlineSettings) -> None:
        self._deadlines = deadlines
        self._sections = (
            Section("user", users, "/v1/users/{user_id}", "/v1/users/{user_id}", required=True),
            Section("orders", orders, "/v1/orders", "/v1/orders?user_id={user_id}&limit=10"),
            Section("stats", users, "/v1/users/{user_id}/stats", "/v1/users/{user_id}/stats"),
        )

    async def gather(
        self, user_id: str, headers: Mapping[str, str], *, arrived: float, strict: bool
    ) -> list[SectionOutcome]:
        """Every section, failed optional ones with their problem.

        Raises what the required one ran into, as RequiredRefused or UpstreamError, without waiting for the others;
        then, if `strict`, what an optional one did, as UpstreamFailed or UpstreamDeadline.
        """
        seconds = self._section_seconds(arrived)
        tasks = [asyncio.create_task(self._ask(section, user_id, headers, seconds)) for section in self._sections]
        try:
            outcomes = await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        if strict:
            for outcome in outcomes:
                _require_whole(outcome)
        return outcomes

    def _section_seconds(self, arrived: float) -> float:
        total = self._deadlines.dashboard_seconds - (time.monotonic() - arrived)
        remaining = remaining_seconds()
        if remaining is not None:
            total = min(total, remaining - _ASSEMBLY_SECONDS)
        return min(total, self._deadlines.section_seconds)

    async def _ask(self, section: Section, user_id: str, headers: Mapping[str, str], seconds: float) -> SectionOutcome:
        started = time.perf_counter()
        body, problem = None, None
        try:
            call = Call("GET", section.route, section.target.replace("{user_id}", user_id), headers, repeatable=True)
            answer = await section.upstream.call(call, seconds, optional=not section.required)
            if section.required and answer.status >= _BAD_REQUEST:
                raise RequiredRefused(answer)
            body, problem = _read(answer, section.upstream.name)
        except AppError as error:
            if section.required:
                raise
            problem = SectionProblem(error.status, error.code, error.detail)
        return SectionOutcome(section.name, time.perf_counter() - started, body, problem)


def _read(answer: Answer, owner: str) -> tuple[bytes | None, SectionProblem | None]:
    """The object as it came, unparsed; of an error its problem document."""
    if answer.status == _OK and answer.body[:1] == b"{" and answer.body[-1:] == b"}":
        return answer.body, None
    if answer.status < _BAD_REQUEST:
        raise UpstreamMalformed(f"{owner} cannot be understood: its answer is no object")
    try:
        document = from_json(answer.body)
        return None, SectionProblem(answer.status, str(document["code"]), str(document["detail"]))
    except (ValueError, TypeError, LookupError):
        return None, SectionProblem(answer.status, "upstream_error", f"{owner} answered {answer.status}")


def _require_whole(outcome: SectionOutcome) -> None:
    if outcome.problem is not None:
        detail = f"The section {outcome.name} failed: {outcome.problem.detail}"
        raise UpstreamDeadline(detail) if outcome.problem.status == _DEADLINE_STATUS else UpstreamFailed(detail)

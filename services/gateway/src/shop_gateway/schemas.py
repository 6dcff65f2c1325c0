"""The dashboard as clients see it: its shape for the API's document, and its bytes spliced from the sections'."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pydantic_core import to_json

from shop_gateway.models import SectionOutcome, Whole


class FailedSection(BaseModel):
    """What a section's owner answered instead, or why it did not."""

    model_config = ConfigDict(title="FailedSection")

    status: int = Field(ge=400, le=599)
    code: str
    detail: str


class SectionState(BaseModel):
    """How one section of an answer came about."""

    state: Literal["fresh", "stale", "failed"]
    as_of: AwareDatetime | None = Field(description="When its owner was asked; null if that never went well")
    problem: FailedSection | None = Field(description="Why it has failed, or is stale")


class DashboardChanged(BaseModel):
    """Data of the event that tells of a change."""

    sections: list[Literal["user", "orders", "stats"]] = Field(description="What to read again")


class StreamEnd(BaseModel):
    """Data of the last event."""

    reason: Literal["revoked", "shutdown", "token_expired"] = Field(description="Why no more come")


def dashboard_body(sections: Sequence[SectionOutcome]) -> bytes:
    """`{user, orders, stats, _sections}`; a failed section is null, the others' bytes are as their owners sent them."""
    epoch = time.time() - time.monotonic()
    members, states = [], []
    for section in sections:
        name, body = section.name.encode(), section.body
        as_of = b"null" if body is None else _rfc3339(int((section.as_of + epoch) * 1000))
        problem = b"null" if section.problem is None else to_json(section.problem._asdict())
        members.append(b'"%b":%b' % (name, body or b"null"))
        states.append(b'"%b":{"state":"%b","as_of":%b,"problem":%b}' % (name, section.state.encode(), as_of, problem))
    return b'{%b,"_sections":{%b}}' % (b",".join(members), b",".join(states))


@lru_cache(maxsize=16)
def _rfc3339(milliseconds: int) -> bytes:
    """Sections are often of the same millisecond."""
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return b'"%b"' % moment.isoformat(timespec="milliseconds").replace("+00:00", "Z").encode()


def dashboard_etag(sections: Sequence[SectionOutcome]) -> str:
    """Weak, since the same data read again is the same to whoever shows it."""
    parts = [part for section in sections for part in (b"%d:" % len(section.body or b""), section.body or b"")]
    return f'W/"{blake2b(b"".join(parts), digest_size=12).hexdigest()}"'


def section_status(sections: Sequence[SectionOutcome]) -> str:
    """The `Section-Status` field: a structured-field dictionary such as `user=fresh, orders=failed`."""
    return ", ".join([f"{section.name}={section.state}" for section in sections])


def cache_status(sections: Sequence[SectionOutcome], *, live: bool) -> str:
    """The `Cache-Status` field (RFC 9211): a hit where no owner was asked."""
    asked = [section.name for section in sections if section.source == "owner"]
    if not asked:
        return "shop-gateway; hit"
    return f'shop-gateway; fwd={"request" if live else "miss"}; detail="{" ".join(asked)}"'


def create_whole(sections: Sequence[SectionOutcome]) -> Whole:
    """Of sections that are all fresh."""
    oldest = min([section.as_of for section in sections])
    return Whole(dashboard_body(sections), dashboard_etag(sections), section_status(sections), oldest)


def whole_fields(whole: Whole) -> dict[str, str]:
    """The headers that are the same for all who get it from memory."""
    return {
        "etag": whole.etag,
        "cache-control": "private, no-cache",
        "cache-status": "shop-gateway; hit",
        "section-status": whole.section_status,
    }

"""The dashboard as clients see it: its shape for the API's document, and its bytes spliced from the sections'."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pydantic_core import to_json

from shop_gateway.models import SectionOutcome


class FailedSection(BaseModel):
    """What a section's owner answered instead, or why it did not."""

    model_config = ConfigDict(title="FailedSection")

    status: int = Field(ge=400, le=599)
    code: str
    detail: str


class SectionState(BaseModel):
    """How one section of an answer came about."""

    state: Literal["fresh", "failed"]
    as_of: AwareDatetime | None = Field(description="When it was read from its owner; null if that failed")
    problem: FailedSection | None


def dashboard_body(sections: Sequence[SectionOutcome]) -> bytes:
    """`{user, orders, stats, _sections}`; a failed section is null, the others' bytes are as their owners sent them."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z").encode()
    fresh = b'{"state":"fresh","as_of":"%b","problem":null}' % now
    members = [b'"%b":%b' % (section.name.encode(), section.body or b"null") for section in sections]
    states = [
        b'"%b":%b' % (section.name.encode(), fresh if section.problem is None else _failed(section))
        for section in sections
    ]
    return b'{%b,"_sections":{%b}}' % (b",".join(members), b",".join(states))


def _failed(section: SectionOutcome) -> bytes:
    problem = section.problem and section.problem._asdict()
    return to_json({"state": "failed", "as_of": None, "problem": problem})


def section_status(sections: Sequence[SectionOutcome]) -> str:
    """The `Section-Status` field: a structured-field dictionary such as `user=fresh, orders=failed`."""
    return ", ".join(f"{section.name}={'failed' if section.problem else 'fresh'}" for section in sections)

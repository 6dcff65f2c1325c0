"""What every contract has in common: a version of an aggregate, and how it becomes an event."""

from abc import abstractmethod
from datetime import UTC, datetime
from typing import Annotated, ClassVar, Final, Self
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from shop_common.events.envelope import Event, MalformedEvent, event_id

PARTITIONS: Final = 12
"""Of each event topic."""


def _to_utc(time: datetime) -> datetime:
    return time.astimezone(UTC)


UtcTime = Annotated[AwareDatetime, AfterValidator(_to_utc)]


class State(BaseModel):
    """Strict in types, and deaf to fields it does not know, since a producer may add some inside a major version."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", hide_input_in_errors=True)


class Contract(State):
    """The full state of one aggregate after one change; each subclass with a TYPE is one kind of event."""

    TYPE: ClassVar[str]
    TOPIC: ClassVar[str]
    SOURCE: ClassVar[str]

    id: UUID
    version: int = Field(ge=1, le=2**31 - 1)
    created_at: UtcTime
    updated_at: UtcTime

    @property
    @abstractmethod
    def user(self) -> UUID:
        """The user this is about, whose id is the record's key."""

    def to_event(self, traceparent: str | None = None) -> Event:
        return Event(
            id=event_id(self.id, self.version),
            type=self.TYPE,
            source=self.SOURCE,
            subject=str(self.id),
            sequence=self.version,
            time=self.updated_at,
            key=str(self.user),
            data=self.model_dump_json().encode(),
            traceparent=traceparent,
        )

    @classmethod
    def from_event(cls, event: Event) -> Self:
        """Raises ValidationError, or MalformedEvent where the envelope speaks of something else than the data."""
        data = cls.model_validate_json(event.data)
        if (event.subject, event.sequence, event.key) != (str(data.id), data.version, str(data.user)):
            raise MalformedEvent("ce_subject, ce_sequence and key are not the data's id, version and user")
        return data

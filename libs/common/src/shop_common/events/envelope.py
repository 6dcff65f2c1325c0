"""The envelope of an event: CloudEvents 1.0 in Kafka's binary mode, where each attribute is a header.

Nothing that arrives is trusted: `Event.from_kafka` checks every attribute, and `MalformedEvent` names the one at fault.
"""

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol

MAX_DATA_BYTES: Final = 900_000
"""Of one event's data; leaves room for key and headers below the broker's 1 MiB."""

_SPEC_VERSION: Final = "1.0"
_CONTENT_TYPE: Final = "application/json"
_MAX_TEXT: Final = 255
_MAX_SEQUENCE: Final = 2**31 - 1
_TYPE = re.compile(r"[a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)+\.v[1-9][0-9]{0,4}")
_SEQUENCE = re.compile(r"[1-9][0-9]{0,9}")
_REQUIRED = ("ce_specversion", "ce_id", "ce_source", "ce_type", "ce_subject", "ce_time", "ce_sequence", "content-type")
_READ = frozenset((*_REQUIRED, "traceparent"))
_NAMESPACE: Final = uuid.UUID("5f1d0d6e-3a52-5a57-9b0c-7f1f6a2f4c11")

Headers = list[tuple[str, bytes]]


class MalformedEvent(ValueError):
    """A record that is no event of ours; the message names what is wrong and never quotes the data."""


class KafkaRecord(Protocol):
    """The part of a consumed record that is read here; what aiokafka's ConsumerRecord has."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


def event_id(aggregate_id: object, version: int) -> uuid.UUID:
    """The same version of the same aggregate is the same event, whoever publishes it and however often."""
    return uuid.uuid5(_NAMESPACE, f"{aggregate_id}:{version}")


def split_type(event_type: str) -> tuple[str, int]:
    """`users.user_registered.v1` → (`users.user_registered`, 1)."""
    name, _, version = event_type.rpartition(".v")
    return name, int(version)


@dataclass(frozen=True, slots=True)
class Event:
    """One change of one aggregate, with the aggregate's full state after it."""

    id: uuid.UUID
    type: str
    """`<producer>.<what_happened>.v<major>`, e.g. `users.user_registered.v1`."""
    source: str
    subject: str
    """The aggregate's id."""
    sequence: int
    """The aggregate's version, from 1; exactly one event for each."""
    time: datetime
    """When the change happened, UTC."""
    key: str
    """The user's id: everything about one user is in order, in one partition."""
    data: bytes
    """JSON."""
    traceparent: str | None = None
    offset: int | None = field(default=None, compare=False)
    """Of the record it came in, which makes no difference: sent again, it is the same event in another record."""

    def to_kafka(self, traceparent: str | None = None) -> tuple[bytes, bytes, Headers]:
        """Key, value and headers of the record; `traceparent` replaces the event's own."""
        headers = [
            ("ce_specversion", _SPEC_VERSION.encode()),
            ("ce_id", str(self.id).encode()),
            ("ce_source", self.source.encode()),
            ("ce_type", self.type.encode()),
            ("ce_subject", self.subject.encode()),
            ("ce_time", self.time.astimezone(UTC).isoformat().replace("+00:00", "Z").encode()),
            ("ce_sequence", str(self.sequence).encode()),
            ("content-type", _CONTENT_TYPE.encode()),
        ]
        if sent := traceparent or self.traceparent:
            headers.append(("traceparent", sent.encode()))
        return self.key.encode(), self.data, headers

    @classmethod
    def from_kafka(cls, record: KafkaRecord) -> "Event":
        """Raises MalformedEvent."""
        headers = _texts(record.headers)
        for name in _REQUIRED:
            if not headers.get(name):
                raise MalformedEvent(f"header {name} is missing or empty")
        if headers["ce_specversion"] != _SPEC_VERSION:
            raise MalformedEvent("ce_specversion is not 1.0")
        if headers["content-type"].partition(";")[0].strip().lower() != _CONTENT_TYPE:
            raise MalformedEvent("content-type is not application/json")
        if not _TYPE.fullmatch(headers["ce_type"]):
            raise MalformedEvent("ce_type is not <producer>.<what_happened>.v<major>")
        return cls(
            id=_uuid(headers["ce_id"]),
            type=headers["ce_type"],
            source=headers["ce_source"],
            subject=headers["ce_subject"],
            sequence=_sequence(headers["ce_sequence"]),
            time=_time(headers["ce_time"]),
            key=_key(record.key),
            data=_data(record.value),
            traceparent=headers.get("traceparent") or None,
            offset=record.offset,
        )


def _texts(headers: Sequence[tuple[str, bytes]]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for name, value in headers:
        if name not in _READ:
            continue
        if name in texts:
            raise MalformedEvent(f"header {name} is there twice")
        texts[name] = _text(f"header {name}", value)
    return texts


def _text(what: str, value: Any) -> str:
    if not isinstance(value, bytes) or len(value) > _MAX_TEXT:
        raise MalformedEvent(f"{what} is not text of at most {_MAX_TEXT} bytes")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise MalformedEvent(f"{what} is not UTF-8") from None


def _uuid(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise MalformedEvent("ce_id is not a UUID") from None


def _sequence(text: str) -> int:
    if not _SEQUENCE.fullmatch(text) or int(text) > _MAX_SEQUENCE:
        raise MalformedEvent("ce_sequence is not a version from 1")
    return int(text)


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is None:
            raise MalformedEvent("ce_time has no offset from UTC")
        return time.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        if isinstance(error, MalformedEvent):
            raise
        raise MalformedEvent("ce_time is not an RFC 3339 time") from None


def _key(key: bytes | None) -> str:
    if not key:
        raise MalformedEvent("the key is missing or empty")
    return _text("the key", key)


def _data(value: bytes | None) -> bytes:
    if value is None:
        raise MalformedEvent("there is no data")
    if len(value) > MAX_DATA_BYTES:
        raise MalformedEvent(f"the data is larger than {MAX_DATA_BYTES} bytes")
    return value

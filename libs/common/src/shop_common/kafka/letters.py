"""What a dead letter tells, of the record that it was and of why it was put aside."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from shop_common.events.envelope import Headers, KafkaRecord
from shop_common.kafka.deadletter import PREFIX

REPLAYED: Final = f"{PREFIX}replayed"
"""The one header of a mark: `partition/offset` of the letter that was replayed."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record as it was before it was put aside, and its story."""

    at: str
    """`partition/offset` in the dead letters' topic."""
    topic: str
    partition: int
    offset: int
    error: str
    attempts: str
    first_failed_at: datetime
    key: bytes | None
    value: bytes | None
    headers: Headers

    @property
    def is_cut(self) -> bool:
        """The record did not fit; only the story was kept. A record that was really empty looks the same, and is."""
        return self.value == b"" and not self.headers

    def whole(self, original: KafkaRecord) -> "DeadLetter":
        """With what was cut off."""
        return replace(self, key=original.key, value=original.value, headers=_own(original))

    def header(self, name: str) -> str | None:
        found = [value for header, value in self.headers if header == name]
        return found[0].decode(errors="replace") if found else None


def parse_letter(record: KafkaRecord) -> DeadLetter:
    """Raises ValueError where this is no dead letter."""
    story = {name: value.decode(errors="replace") for name, value in record.headers if name.startswith(PREFIX)}
    try:
        first_failed_at = datetime.fromisoformat(story[f"{PREFIX}first_failed_at"])
        if first_failed_at.tzinfo is None:
            raise ValueError("a time without an offset from UTC")
        return DeadLetter(
            at=f"{record.partition}/{record.offset}",
            topic=story[f"{PREFIX}topic"],
            partition=int(story[f"{PREFIX}partition"]),
            offset=int(story[f"{PREFIX}offset"]),
            error=story[f"{PREFIX}error"],
            attempts=story[f"{PREFIX}attempts"],
            first_failed_at=first_failed_at,
            key=record.key,
            value=record.value,
            headers=_own(record),
        )
    except KeyError as missing:
        raise ValueError(f"header {missing} is missing") from None


def _own(record: KafkaRecord) -> Headers:
    return [(name, value) for name, value in record.headers if not name.startswith(PREFIX)]

"""Dead letters: records that cannot be handled, kept with their story until someone replays them."""

import traceback
from datetime import UTC, datetime
from typing import Final

from shop_common.events.envelope import Headers, KafkaRecord

PREFIX: Final = "dlq_"
_MAX_ERROR: Final = 1000
_MAX_STACK: Final = 8000


def dead_letter_topic(group: str) -> str:
    return f"{group}.dlq"


def dead_letter_headers(record: KafkaRecord, error: Exception, attempts: int, first_failed_at: datetime) -> Headers:
    """The record's own headers, then where it came from, what went wrong, how often, and since when."""
    # The innermost frames say most, and stay when the text is cut. No chained messages: they may quote the data.
    stack = "".join(traceback.format_tb(error.__traceback__))[-_MAX_STACK:]
    story = {
        "topic": record.topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
        "error": f"{type(error).__name__}: {error}"[:_MAX_ERROR],
        "stack": stack,
        "attempts": str(attempts),
        "first_failed_at": first_failed_at.astimezone(UTC).isoformat(),
    }
    # A replayed record that fails again tells of this failure, not of the last one.
    own = [(name, value) for name, value in record.headers if not name.startswith(PREFIX)]
    return own + [(PREFIX + name, text.encode(errors="replace")) for name, text in story.items()]

"""Answers that do not come from the application: made where their requests arrive, or gone on with after it."""

from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol

Reply = tuple[bytes, bytes]
"""Head, without its last empty line, and body."""
AnswerAtOnce = Callable[[bytes], Reply | Coroutine[Any, Any, Reply] | None]
"""To what has come of a request: an answer that waits for nothing, or one to be waited for, cancelled with its client.

None: let the request be parsed, and the application answer.
"""


def header_lines(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join([b"%b: %b\r\n" % field for field in fields])


class Listener(Protocol):
    """Who goes on with an answer after the application: whatever it does, it does at once."""

    def on_writable(self) -> None:
        """The client takes what is sent again."""

    def on_shutdown(self) -> None:
        """The server stops: the answer is to end."""

    def on_closed(self) -> None:
        """Nobody is there any more."""

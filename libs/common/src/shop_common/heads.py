"""Whole requests read from their bytes, apart from a connection's own parser."""

from typing import NamedTuple

import httptools


class Head(NamedTuple):
    """A request as it came, names of headers in lower case."""

    method: str
    path: str
    """Not decoded."""
    headers: list[tuple[bytes, bytes]]


def read_head(data: bytes) -> Head | None:
    """One whole request without a body that leaves its connection open; None for anything else, bad ones too."""
    reading = _Reading()
    try:
        reading.parser.feed_data(data)
        path = (httptools.parse_url(reading.url).path or b"").decode("ascii")
    except (httptools.HttpParserError, httptools.HttpParserUpgrade, UnicodeDecodeError):
        return None
    if not (reading.begun == reading.complete == 1 and reading.stays) or reading.has_body:
        return None
    return Head(reading.parser.get_method().decode("ascii"), path, reading.headers)


class _Reading:
    """What the parser tells."""

    def __init__(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.begun = 0
        self.complete = 0
        self.stays = False
        self.has_body = False

    def on_message_begin(self) -> None:
        self.begun += 1

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.stays = self.parser.get_http_version() == "1.1" and self.parser.should_keep_alive()

    def on_body(self, _: bytes) -> None:
        self.has_body = True

    def on_message_complete(self) -> None:
        self.complete += 1

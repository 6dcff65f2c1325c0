"""Requests read from their bytes: exactly one that is whole, and nothing else."""

import pytest

from shop_common.heads import Head, read_head

LINES = (b"GET /v1/me HTTP/1.1", b"Host: shop", b"X-Mixed-Case:  some text ")


def request(*lines: bytes, end: bytes = b"\r\n") -> bytes:
    return end.join([*lines, b"", b""])


def test_a_whole_request_is_read() -> None:
    assert read_head(request(*LINES)) == Head("GET", "/v1/me", [(b"host", b"shop"), (b"x-mixed-case", b"some text ")])


def test_a_path_stays_as_it_was_sent_and_a_query_is_apart() -> None:
    head = read_head(request(b"GET /a%2Fb?c=d HTTP/1.1", b"Host: shop"))
    assert head is not None
    assert head.path == "/a%2Fb"


def test_an_address_without_a_path_has_an_empty_one() -> None:
    head = read_head(request(b"GET http://shop HTTP/1.1", b"Host: shop"))
    assert head is not None
    assert head.path == ""


@pytest.mark.parametrize(
    "data",
    [
        b"",
        request(*LINES)[:-2],
        request(*LINES)[:-1],
        request(*LINES) * 2,
        request(*LINES) + b"G",
        b"\r\n",
        request(b"GET /v1/me HTTP/1.0", b"Host: shop"),
        request(b"GET /v1/me HTTP/1.1", b"Host: shop", b"Connection: close"),
        request(b"GET /v1/me HTTP/1.1", b"Host: shop", b"Connection: Upgrade", b"Upgrade: websocket"),
        request(b"GET /v1/me HTTP/1.1", b"Host: shop", b"Content-Length: 4") + b"body",
        request(b"GET /v1/me HTTP/1.1", b"Host: shop", b"Content-Length: 4"),
        request(b"GET /v1/me HTTP/1.1", b"Host: shop", b"Content-Length: 4", b"Transfer-Encoding: chunked"),
        request(b"GET /v1/me HTTP/1.1", b"Host: shop", b"Bad Name: x"),
        request(b"GET /v1/me HTTP/1.1", b"Host: shop", b" folded"),
        request(b"GET /v1/me HTTP/9.9", b"Host: shop"),
        request(b"GET /\xff HTTP/1.1", b"Host: shop"),
        request(b"CONNECT shop:443 HTTP/1.1", b"Host: shop"),
        b"\x16\x03\x01\x02\x00",
    ],
)
def test_anything_else_is_none(data: bytes) -> None:
    assert read_head(data) is None

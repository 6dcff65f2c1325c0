"""Requests that two readers could take for different ones, and headers that are not the client's to set.

Lengths given twice are in services/gateway/tests/integration/test_process.py, which sees what reaches an upstream.
"""

import re
from typing import Any

import httpx
import pytest

from shop_cluster.pytest_plugin import Cluster

HIDDEN = b"GET /v1/users HTTP/1.1\r\nHost: shop\r\n\r\n"


def request(line: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([line, b"Host: shop", *headers, b"", body])


LENGTHS: dict[str, tuple[bytes, ...]] = {
    "both": (b"Content-Length: 4", b"Transfer-Encoding: chunked"),
    "both, hidden by a tab": (b"Content-Length: 4", b"Transfer-Encoding:\tchunked"),
    "both, of another case": (b"Content-Length: 4", b"tRANSFER-ENCODING: CHUNKED"),
    "both, a space before the colon": (b"Content-Length: 4", b"Transfer-Encoding : chunked"),
    "both, folded": (b"Content-Length: 4", b"Transfer-Encoding:\r\n chunked"),
    "both, quoted": (b"Content-Length: 4", b'Transfer-Encoding: "chunked"'),
    "both, with a vertical tab": (b"Content-Length: 4", b"Transfer-Encoding: \x0bchunked"),
    "chunked not last": (b"Transfer-Encoding: chunked, gzip",),
    "chunked twice": (b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "another coding": (b"Transfer-Encoding: xchunked", b"Content-Length: 4"),
    "two lengths": (b"Content-Length: 4", b"Content-Length: 0"),
    "the same length twice": (b"Content-Length: 4", b"Content-Length: 4"),
    "a list of lengths": (b"Content-Length: 4, 4",),
    "a hexadecimal length": (b"Content-Length: 0x4",),
    "a negative length": (b"Content-Length: -4",),
    "a length beyond 64 bits": (b"Content-Length: 18446744073709551620",),
    "a length with spaces": (b"Content-Length: 4 4",),
    "folded": (b"X-One: 1\r\n X-Two: 2",),
    "a bare line feed": (b"X-One: 1\nX-Two: 2\n\nGET / HTTP/1.1",),
    "a NUL in a name": (b"X\x00One: 1",),
    "a nameless header": (b": 1",),
}


@pytest.mark.parametrize("name", LENGTHS)
@pytest.mark.parametrize("where", ["gateway_url", "users_url"])
async def test_what_can_be_read_in_two_ways_is_read_in_none_or_one(
    name: str, where: str, cluster: Cluster, say: Any
) -> None:
    """Either it is refused and the connection ends, or what follows is a request of its own with its own answer."""
    text = request(b"POST /v1/auth/token HTTP/1.1", *LENGTHS[name], body=b"0\r\n\r\n" + HIDDEN)
    answer = await say(text + request(b"GET /livez HTTP/1.1", b"Connection: close"), getattr(cluster, where))
    statuses = re.findall(rb"HTTP/1\.1 (\d+)", answer)
    assert statuses[0] in {b"400", b"411", b"501", b"422"}, answer[:300]
    if statuses[0] == b"400":
        assert len(statuses) == 1, "nothing after it was read"
    assert b'"items"' not in answer


CHUNKS: dict[str, bytes] = {
    "an extension": b"4;x=y\r\na=bc\r\n0\r\n\r\n",
    "a size that is too large": b"fffffffffffffffff\r\na\r\n0\r\n\r\n",
    "a negative size": b"-1\r\na\r\n0\r\n\r\n",
    "a size with a prefix": b"0x4\r\na=bc\r\n0\r\n\r\n",
    "no end of the chunk": b"4\r\na=bcd\r\n0\r\n\r\n",
    "a bare line feed": b"4\na=bc\n0\n\n",
    "trailers": b"4\r\na=bc\r\n0\r\nAuthorization: Bearer x\r\nContent-Length: 9\r\n\r\n",
}


@pytest.mark.parametrize("name", CHUNKS)
async def test_chunks_are_read_strictly(name: str, say: Any) -> None:
    """A body that breaks off so has no answer: its request is under way, and the connection is cut."""
    head = request(b"POST /v1/auth/token HTTP/1.1", b"Transfer-Encoding: chunked")
    answer = await say(head + CHUNKS[name] + request(b"GET /livez HTTP/1.1", b"Connection: close"))
    statuses = re.findall(rb"HTTP/1\.1 (\d+)", answer)
    assert statuses == ([b"422", b"200"] if name == "an extension" else []), answer[:300]


@pytest.mark.parametrize("option", ["authorization", "if-match, content-type", "close, x-request-id", "content-length"])
async def test_headers_named_in_connection_are_not_taken_away(
    option: str, gateway: httpx.AsyncClient, ada: Any, cluster: Cluster
) -> None:
    """A client cannot make the gateway drop what it has checked: what passes is a fixed list, whoever names it."""
    headers = ada.bearer | {"Connection": option, "If-Match": '"99"', "Content-Type": "application/merge-patch+json"}
    answer = await gateway.patch(f"/v1/users/{ada.id}", content=b"{}", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (412, "precondition_failed")


FROM_INSIDE = {
    "X-User-Id": "00000000-0000-0000-0000-000000000001",
    "X-User-Role": "admin",
    "X-Admin": "yes-let-me",
    "X-Internal": "from-inside",
    "X-Original-URL": "/metrics",
    "X-Rewrite-URL": "/metrics",
    "X-Forwarded-For": "127.0.0.1",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Proto": "gopher",
    "X-Forwarded-Prefix": "/evil",
    "Forwarded": "for=127.0.0.1;host=evil.example",
    "X-Real-Ip": "127.0.0.1",
    "ce_id": "an-event",
    "tracestate": "evil=1",
    "baggage": "user=admin",
    "Proxy": "http://127.0.0.1:1",
    "Upgrade": "h2c",
    "HTTP2-Settings": "AAMAAABkAAQAAP__",
    "TE": "trailers",
    "Expect": "nonsense",
    "Range": "bytes=0-1",
}


@pytest.mark.parametrize("name", FROM_INSIDE)
async def test_what_only_our_own_may_say_changes_nothing(name: str, gateway: httpx.AsyncClient, eve: Any) -> None:
    said = eve.bearer | {name: FROM_INSIDE[name]}
    me = await gateway.get("/v1/me", headers=said)
    assert (me.status_code, me.json()["id"]) == (200, eve.id)
    assert FROM_INSIDE[name] not in str(me.headers)
    assert (await gateway.get("/v1/users", headers=said)).status_code == 403
    assert (await gateway.get("/v1/me", headers={name: FROM_INSIDE[name]})).status_code == 401


@pytest.mark.parametrize("given", ["99999999", "-1", "1e9", "0x10", "5 5", "١٢"])
async def test_a_deadline_is_never_longer_than_ours(given: str, gateway: httpx.AsyncClient, ada: Any) -> None:
    headers = [*ada.bearer.items(), ("X-Deadline-Ms", given.encode())]
    answer = await gateway.get("/v1/me", headers=headers)
    assert answer.status_code == 400
    assert (await gateway.get("/v1/me", headers=ada.bearer | {"X-Deadline-Ms": "9999999"})).status_code == 200


@pytest.mark.parametrize("given", ["x" * 65, "a b", '"}{"level":"CRITICAL', "é", "<script>", ""])
async def test_a_request_id_that_could_forge_a_log_is_replaced(given: str, gateway: httpx.AsyncClient) -> None:
    answer = await gateway.get("/v1/me", headers=[(b"X-Request-Id", given.encode())])
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


async def test_a_head_has_an_end(gateway: httpx.AsyncClient, ada: Any) -> None:
    for headers in ({"X-Pad": "x" * 17_000}, {f"X-Pad-{number}": "x" for number in range(2000)}):
        answer = await gateway.get("/v1/me", headers=ada.bearer | headers)
        assert (answer.status_code, answer.json()["code"]) == (431, "headers_too_large")

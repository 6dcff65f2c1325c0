"""Answers as servers give them: framed in every way, broken in every way, or more than was asked for."""

import ipaddress
import socket
import ssl
import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from shop_common.connections import open_pool
from shop_common.http1 import BadResponse, CallFailed, CallLate, ConnectFailed, ConnectionBroken
from shop_common.settings import HttpClientSettings

MAX_BYTES = 1024
ONE = HttpClientSettings(max_connections=1, connect_seconds=10)
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
WHOLE = HEAD + b"Content-Length: 5\r\n\r\nwhole"
IN_CHUNKS = CHUNKED + b"2;why=not\r\nwh\r\n3\r\nole\r\n0\r\nX-Trailer: y\r\n\r\n"
LINGER = (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
"""Closing is a reset."""
EMPTY = HEAD + b"Content-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("wire", "status", "body"),
    [
        (WHOLE, 200, b"whole"),
        (IN_CHUNKS, 200, b"whole"),
        (EMPTY, 200, b""),
        (CHUNKED + b"0\r\n\r\n", 200, b""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 304 Not Modified\r\nETag: 1\r\n\r\n", 304, b""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, b""),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + WHOLE, 200, b"whole"),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + IN_CHUNKS, 200, b"whole"),
    ],
    ids=["length", "chunks", "empty", "empty-chunks", "204", "304", "304-length", "100", "103"],
)
async def test_a_body_is_read_however_its_packets_are_cut(
    wire: bytes, status: int, body: bytes, peer: Any, fetch: Any
) -> None:
    cuts = [[wire], [wire[at : at + 1] for at in range(len(wire))]]
    cuts += [[wire[:at], wire[at:]] for at in range(1, len(wire))]
    async with open_pool(peer.url, ONE, MAX_BYTES) as pool:
        for pieces in cuts:
            peer.answers("/cut", *pieces)
            answer = await fetch(pool, "/cut")
            assert (answer.status, answer.body) == (status, body)
            assert b"link" not in answer.headers
    assert peer.connections == 1


@pytest.mark.parametrize(
    "head",
    [
        HEAD,
        HEAD + b"Connection: close\r\n",
        HEAD + b"Connection: close\r\nContent-Length: 5\r\n",
        b"HTTP/1.0 200 OK\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n",
    ],
)
async def test_what_ends_the_connection_is_not_used_again(head: bytes, peer: Any, fetch: Any) -> None:
    async def answer(visit: Any) -> None:
        await visit.say(head + b"\r\n", b"who", b"le")
        if b"Length" in head:
            await visit.until_cut()
        visit.writer.close()

    peer.on("/last", answer)
    async with open_pool(peer.url, ONE, MAX_BYTES) as pool:
        for number in (1, 2):
            assert (await fetch(pool, "/last")).body == b"whole"
            assert peer.connections == number


async def test_names_come_in_any_case_and_the_first_counts(peer: Any, fetch: Any) -> None:
    peer.answers("/", HEAD + b"X-A: 1\r\nx-a: 2\r\nETAG: \xff\r\nX-A: 3\r\ncontent-LENGTH: 0\r\n\r\n")
    async with open_pool(peer.url, ONE, MAX_BYTES) as pool:
        answer = await fetch(pool, "/")
    assert answer.headers == {b"x-a": b"1", b"etag": b"\xff", b"content-length": b"0"}


@pytest.mark.parametrize("chunked", [True, False])
async def test_of_two_answers_on_a_connection_each_has_its_own_headers(
    chunked: bool,  # noqa: FBT001 - a parameter of the test
    peer: Any,
    fetch: Any,
) -> None:
    peer.answers("/1", HEAD + b"X-First: 1\r\nContent-Length: 0\r\n\r\n")
    peer.answers("/2", IN_CHUNKS if chunked else WHOLE)
    async with open_pool(peer.url, ONE, MAX_BYTES) as pool:
        assert b"x-first" in (await fetch(pool, "/1")).headers
        second = await fetch(pool, "/2")
    assert second.headers.keys() == {b"transfer-encoding" if chunked else b"content-length"}
    assert peer.connections == 1


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (HEAD + b"Content-Length: 1025\r\n\r\n", b""),
        (HEAD + b"Content-Length: 1000000000000\r\n\r\n", b"x" * 8192),
        (CHUNKED, b"2000\r\n" + b"x" * 8192 + b"\r\n"),
        (CHUNKED, b"1\r\nx\r\n" * 500),
        (HEAD + b"\r\n", b"x" * 1000),
        (HEAD, b"X-%d: " + b"x" * 8192 + b"\r\n"),
        (HEAD + b"X: ", b"x" * 8192),
        (CHUNKED + b"0\r\n", b"X-%d: " + b"x" * 8192 + b"\r\n"),
        (CHUNKED, b"1;" + b"x" * 8192),
    ],
    ids=["length", "flood", "chunk", "chunks", "until-end", "headers", "header", "trailers", "chunk-extension"],
)
async def test_what_is_too_large_is_cut_without_reading_on(head: bytes, piece: bytes, peer: Any, fetch: Any) -> None:
    async def flood(visit: Any) -> None:
        visit.writer.write(head)
        number = 0
        while piece and not visit.writer.is_closing():
            number += 1
            visit.writer.write(piece.replace(b"%d", b"%d" % number))
            await visit.writer.drain()
        await visit.until_cut()

    peer.on("/flood", flood)
    async with open_pool(peer.url, ONE, MAX_BYTES) as pool:
        with pytest.raises(BadResponse, match="too large"):
            await fetch(pool, "/flood")
        await peer.until(lambda: not peer.writers)
        assert (await fetch(pool)).body == b"ok"


async def test_a_body_of_exactly_the_limit_passes(peer: Any, fetch: Any) -> None:
    body = b"x" * MAX_BYTES
    peer.answers("/length", HEAD + b"Content-Length: 1024\r\n\r\n" + body)
    peer.answers("/chunks", CHUNKED + b"1\r\nx\r\n" * MAX_BYTES + b"0\r\n\r\n")
    async with open_pool(peer.url, ONE, MAX_BYTES) as pool:
        assert (await fetch(pool, "/length")).body == (await fetch(pool, "/chunks")).body == body


@pytest.mark.parametrize(
    ("wire", "failure"),
    [
        (b"\x00\x01\x02 not HTTP at all\r\n\r\n", BadResponse),
        (b"220 ready\r\n" + WHOLE, BadResponse),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk", BadResponse),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nokk", BadResponse),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", BadResponse),
        (b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n" + WHOLE, BadResponse),
        (CHUNKED + b"x\r\nok\r\n0\r\n\r\n", BadResponse),
        (CHUNKED + b"2\r\nok", ConnectionBroken),
        (HEAD + b"Content-Length: 100\r\n\r\nhalf", ConnectionBroken),
        (HEAD + b"X: y", ConnectionBroken),
        (b"HTTP/1.1 100 Continue\r\n\r\n", ConnectionBroken),
        (b"", ConnectionBroken),
    ],
)
async def test_what_is_broken_is_not_an_answer(wire: bytes, failure: type[CallFailed], peer: Any, fetch: Any) -> None:
    peer.answers("/broken", wire, ends=True)
    async with open_pool(peer.url, ONE, MAX_BYTES) as pool:
        with pytest.raises(failure):
            await fetch(pool, "/broken")
        assert (await fetch(pool)).body == b"ok"


async def test_a_reset_is_not_the_end_of_a_body(peer: Any, fetch: Any) -> None:
    async def answer(visit: Any) -> None:
        await visit.say(HEAD + b"\r\nhalf")
        visit.writer.get_extra_info("socket").setsockopt(*LINGER)
        visit.writer.transport.abort()

    peer.on("/reset", answer)
    async with open_pool(peer.url, ONE, MAX_BYTES) as pool:
        with pytest.raises(ConnectionBroken):
            await fetch(pool, "/reset")


async def test_half_a_body_is_late_and_not_an_answer(peer: Any, fetch: Any) -> None:
    peer.answers("/half", HEAD + b"\r\nhalf")
    async with open_pool(peer.url, ONE, MAX_BYTES) as pool:
        with pytest.raises(CallLate):
            await fetch(pool, "/half", seconds=0.1)


@pytest.mark.parametrize(
    "more",
    [b"HTTP/1.1 500 Oh\r\nX-More: 1\r\nContent-Length: 4\r\n\r\nmore", b"HTTP/1.1 100 Go on\r\n\r\n", b"HTTP", b"more"],
)
@pytest.mark.parametrize("first", [WHOLE, IN_CHUNKS])
@pytest.mark.parametrize("at_once", [True, False])
async def test_what_nobody_asked_for_is_no_answer(
    first: bytes,
    more: bytes,
    at_once: bool,  # noqa: FBT001 - a parameter of the test
    peer: Any,
    fetch: Any,
) -> None:
    peer.answers("/more", first + more) if at_once else peer.answers("/more", first, more)
    async with open_pool(peer.url, ONE, MAX_BYTES) as pool:
        answer = await fetch(pool, "/more")
        assert (answer.status, answer.body) == (200, b"whole")
        assert b"x-more" not in answer.headers
        await peer.until(lambda: not peer.writers)
        assert (await fetch(pool)).body == b"ok"
    assert peer.connections == 2


async def test_what_comes_before_a_call_is_not_its_answer(peer: Any, fetch: Any) -> None:
    async with open_pool(peer.url, ONE, MAX_BYTES) as pool:
        await fetch(pool)
        (writer,) = peer.writers
        writer.write(WHOLE)
        await peer.until(lambda: not peer.writers)
        assert (await fetch(pool)).body == b"ok"
    assert peer.connections == 2


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """With its key, for 127.0.0.1."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
    )
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(**usage, digital_signature=True, key_cert_sign=True, crl_sign=True, decipher_only=False),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "certificate.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(private + signed.public_bytes(Encoding.PEM))
    return path


@pytest.mark.parametrize("trusted", [True, False])
async def test_a_certificate_is_checked(
    trusted: bool,  # noqa: FBT001 - a parameter of the test
    certificate: Path,
    open_peer: Any,
    fetch: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    peer = await open_peer(ssl=context)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with open_pool(peer.url, ONE, MAX_BYTES) as pool:
        if trusted:
            for _ in range(3):
                assert (await fetch(pool)).body == b"ok"
        else:
            with pytest.raises(ConnectFailed):
                await fetch(pool)
    assert len(peer.visits) == (3 if trusted else 0)

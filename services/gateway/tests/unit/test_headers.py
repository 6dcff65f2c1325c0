"""What passes in either direction, and what does not."""

import pytest

from shop_common.errors import BadRequest
from shop_gateway.headers import query_text, to_client, to_upstream, wants_all_or_nothing

ORIGIN = "http://users.internal:8001"


def as_sent(headers: dict[str, str]) -> dict[bytes, bytes]:
    return {name.encode(): value.encode() for name, value in headers.items()}


def test_only_named_headers_go_upstream() -> None:
    raw = [
        (b"host", b"shop.example"),
        (b"authorization", b"Bearer t"),
        (b"if-match", b'"3"'),
        (b"cookie", b"session=1"),
        (b"connection", b"keep-alive, authorization"),
        (b"transfer-encoding", b"chunked"),
        (b"x-forwarded-for", b"10.0.0.1"),
        (b"x-request-id", b"theirs"),
        (b"x-deadline-ms", b"99999"),
        (b"prefer", b"handling=strict"),
    ]
    assert to_upstream(raw) == {"authorization": "Bearer t", "if-match": '"3"'}


def test_a_header_sent_twice_is_refused() -> None:
    with pytest.raises(BadRequest, match="authorization was sent more than once") as refused:
        to_upstream([(b"authorization", b"Bearer a"), (b"authorization", b"Bearer b")])
    assert refused.value.pointer == "#header/authorization"


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(BadRequest, match="idempotency-key"):
        to_upstream([(b"idempotency-key", b"\xff\xfe")])
    assert to_upstream([(b"idempotency-key", "clé".encode())]) == {"idempotency-key": "clé"}


def test_only_named_headers_come_back() -> None:
    upstream = {
        "content-type": "application/json",
        "etag": '"3"',
        "set-cookie": "session=1",
        "server": "uvicorn",
        "transfer-encoding": "chunked",
        "x-internal": "1",
        "access-control-allow-origin": "*",
    }
    assert to_client(as_sent(upstream), ORIGIN) == {"content-type": "application/json", "etag": '"3"'}


@pytest.mark.parametrize(
    ("location", "public"),
    [
        ("/v1/users/1", "/v1/users/1"),
        (f"{ORIGIN}/v1/users/1?a=b", "/v1/users/1?a=b"),
        (ORIGIN, "/"),
        ("https://elsewhere.example/v1/users/1", None),
        ("//elsewhere.example/v1", None),
        ("javascript:alert(1)", None),
    ],
)
def test_a_location_never_names_an_internal_or_foreign_host(location: str, public: str | None) -> None:
    assert to_client(as_sent({"location": location}), ORIGIN).get("location") == public


@pytest.mark.parametrize(
    ("prefer", "strict"),
    [
        (b"handling=strict", True),
        (b'respond-async, Handling="STRICT"; x=y', True),
        (b"handling=lenient", False),
        (b"x-handling=strictly", False),
        (b"return=minimal; handling=strict", True),
    ],
)
def test_prefer_is_read_as_a_list(prefer: bytes, strict: bool) -> None:  # noqa: FBT001 - a parameter of the test
    assert wants_all_or_nothing([(b"prefer", prefer)]) is strict


def test_a_query_keeps_its_meaning_and_loses_what_no_url_may_hold() -> None:
    assert query_text(b"limit=5&cursor=a%20b+c&x=%ff") == "limit=5&cursor=a%20b+c&x=%ff"
    assert query_text("q=é\n".encode()) == "q=%C3%A9%0A"

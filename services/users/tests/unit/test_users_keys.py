"""Signing keys: which one signs, which are still published, which may go; and the command line."""

import stat
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from shop_common.errors import StartupError
from shop_common.settings import TokenSettings
from shop_common.tokens import KeyCache, TokenVerifier
from shop_users import keys
from shop_users.keys import SigningKey, active_key, add_key, open_key_ring, read_keys, retired_keys
from shop_users.settings import KeySettings

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
PRIVATE_KEY = ec.generate_private_key(ec.SECP256R1())


def key(minutes_old: float) -> SigningKey:
    return SigningKey(f"{minutes_old}", NOW - timedelta(minutes=minutes_old), PRIVATE_KEY)


@pytest.mark.parametrize(
    ("ages", "active"),
    [
        ([0], 0),  # the very first key has nobody to wait for
        ([9], 9),
        ([60, 9], 60),
        ([60, 10], 10),
        ([60, 30, 11, 1], 11),
        ([5, 3], 5),
    ],
)
def test_the_newest_key_known_everywhere_signs(ages: list[float], active: float) -> None:
    assert active_key([key(age) for age in ages], NOW, 600).kid == str(active)


@pytest.mark.parametrize(
    ("ages", "retired"),
    [
        ([9999], []),  # the only one is never dropped
        ([9999, 26], []),  # 10 min until the newer signs, 1 to notice, 15 until its last token expires, 1 of slack
        ([9999, 27.5], [9999]),
        ([9999, 500, 27.5, 1], [9999, 500]),
        ([9999, 5], []),
    ],
)
def test_a_key_goes_when_its_last_token_has_expired(ages: list[float], retired: list[float]) -> None:
    assert [each.kid for each in retired_keys([key(age) for age in ages], NOW, 600)] == [str(age) for age in retired]


def test_a_key_is_a_private_file_named_after_its_time(tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    kid = add_key(directory, NOW)
    assert kid.startswith("20261121T120000Z-")
    assert [file.name for file in directory.iterdir()] == [f"{kid}.pem"]
    assert stat.S_IMODE((directory / f"{kid}.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    (read,) = read_keys(directory)
    assert (read.kid, read.created_at) == (kid, NOW)


def test_keys_are_read_oldest_first(tmp_path: Path) -> None:
    kids = [add_key(tmp_path, NOW + timedelta(seconds=offset)) for offset in (5, 0, 9)]
    assert [each.kid for each in read_keys(tmp_path)] == [kids[1], kids[0], kids[2]]


def pem(private_key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("20261121T120000Z-aa.pem", b"no key"),
        ("20261121T120000Z-aa.pem", pem(ec.generate_private_key(ec.SECP384R1()))),
        ("20261121T120000Z-aa.pem", pem(ed25519.Ed25519PrivateKey.generate())),
        ("yesterday-aa.pem", pem(PRIVATE_KEY)),
    ],
)
def test_what_is_no_key_of_ours_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StartupError, match="signing keys in"):
        read_keys(tmp_path)


async def test_a_ring_signs_what_its_own_key_set_verifies(tmp_path: Path) -> None:
    add_key(tmp_path, datetime.now(UTC))
    ring = await open_key_ring(KeySettings(signing_keys_dir=tmp_path))
    ada, now = str(uuid4()), int(datetime.now(UTC).timestamp())
    claims = {"iss": "https://shop.example", "aud": "shop", "sub": ada, "role": "admin", "iat": now, "exp": now + 60}
    token = await ring.sign(claims)
    assert jwt.get_unverified_header(token) | {"kid": ""} == {"alg": "ES256", "typ": "JWT", "kid": ""}
    principal = await TokenVerifier(TokenSettings(), KeyCache(ring.jwks)).verify(token)
    assert (principal.user_id, principal.role) == (ada, "admin")


async def test_without_a_key_the_remedy_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="keys ensure"):
        await open_key_ring(KeySettings(signing_keys_dir=tmp_path / "none"))


def run(monkeypatch: pytest.MonkeyPatch, directory: Path, command: str) -> None:
    monkeypatch.setenv("USERS_SIGNING_KEYS_DIR", str(directory))
    monkeypatch.setattr(sys, "argv", ["keys", command])
    keys.main()


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(monkeypatch, tmp_path, "list")
    assert capsys.readouterr().out == ""
    run(monkeypatch, tmp_path, "ensure")
    run(monkeypatch, tmp_path, "ensure")
    (first,) = capsys.readouterr().out.splitlines()
    assert len(read_keys(tmp_path)) == 1
    run(monkeypatch, tmp_path, "rotate")
    run(monkeypatch, tmp_path, "list")
    added, *listed = capsys.readouterr().out.splitlines()
    kids = [each.kid for each in read_keys(tmp_path)]
    assert {first, added} == {f"{kid} added" for kid in kids}
    assert listed == [f"{kids[0]} signs", f"{kids[1]} published"]


def test_rotating_removes_what_nobody_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = datetime.now(UTC)
    old, active = add_key(tmp_path, now - timedelta(days=2)), add_key(tmp_path, now - timedelta(days=1))
    run(monkeypatch, tmp_path, "rotate")
    removed, added = capsys.readouterr().out.splitlines()
    assert removed == f"{old} removed"
    assert [each.kid for each in read_keys(tmp_path)] == [active, added.removesuffix(" added")]


def test_the_command_line_fails_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "20261121T120000Z-aa.pem").write_text("no key")
    with pytest.raises(SystemExit) as failed:
        run(monkeypatch, tmp_path, "list")
    assert str(tmp_path) in str(failed.value.code)
    assert "\n" not in str(failed.value.code)

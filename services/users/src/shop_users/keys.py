"""Signing keys: a directory that all replicas share, and the command that rotates what is in it.

A key is a file `<kid>.pem` (PKCS8, mode 0600) whose kid begins with the time it was made: `20261121T010203Z-4f9c…`.
Every replica publishes all of them and signs with the newest that has been published for the activation delay, so that
whoever checks a token has had time to learn its key. Command line: `python -m shop_users.keys ensure|rotate|list`.
"""

import argparse
import asyncio
import logging
import os
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from shop_common.errors import StartupError
from shop_common.settings import load_settings
from shop_common.tokens import ALGORITHM
from shop_users.settings import KeySettings

ACCESS_TOKEN_SECONDS = 900
READ_AGAIN_SECONDS = 60
_SLACK = timedelta(seconds=60)
"""For clocks that differ."""
_TIME_FORMAT = "%Y%m%dT%H%M%SZ"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SigningKey:
    kid: str
    created_at: datetime
    private_key: EllipticCurvePrivateKey

    def public_jwk(self) -> dict[str, Any]:
        public = jwt.algorithms.ECAlgorithm.to_jwk(self.private_key.public_key(), as_dict=True)
        return public | {"kid": self.kid, "alg": ALGORITHM, "use": "sig"}


def read_keys(directory: Path) -> list[SigningKey]:
    """All keys, oldest first; StartupError where the directory or one of them cannot be read."""
    try:
        return sorted((_read_key(file) for file in directory.glob("*.pem")), key=lambda key: (key.created_at, key.kid))
    except (OSError, ValueError, TypeError) as error:
        raise StartupError(
            f"signing keys in {directory} cannot be read ({error}); see `python -m shop_users.keys`"
        ) from error


def _read_key(file: Path) -> SigningKey:
    created_at = datetime.strptime(file.stem.partition("-")[0], _TIME_FORMAT).replace(tzinfo=UTC)
    private_key = load_pem_private_key(file.read_bytes(), password=None)
    if not isinstance(private_key, EllipticCurvePrivateKey) or not isinstance(private_key.curve, SECP256R1):
        raise TypeError(f"{file.name} is no P-256 key")
    return SigningKey(file.stem, created_at, private_key)


def active_key(keys: Sequence[SigningKey], now: datetime, activation_seconds: int) -> SigningKey:
    """The newest that has been published long enough, else the oldest; `keys` are oldest first and not empty."""
    known = [key for key in keys if key.created_at + timedelta(seconds=activation_seconds) <= now]
    return known[-1] if known else keys[0]


def retired_keys(keys: Sequence[SigningKey], now: datetime, activation_seconds: int) -> list[SigningKey]:
    """Those whose last token has expired, because every replica has been signing with a newer one for so long."""
    patience = timedelta(seconds=activation_seconds + READ_AGAIN_SECONDS + ACCESS_TOKEN_SECONDS) + _SLACK
    return [key for key, newer in pairwise(keys) if newer.created_at + patience < now]


def add_key(directory: Path, now: datetime) -> str:
    """Make a key and return its kid; the file appears whole or not at all."""
    kid = f"{now.strftime(_TIME_FORMAT)}-{secrets.token_hex(8)}"
    pem = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = directory / f".{kid}"
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(directory / f"{kid}.pem")
    return kid


class KeyRing:
    """The keys of this replica, read again when a minute old."""

    def __init__(self, directory: Path, activation_seconds: int, keys: Sequence[SigningKey]) -> None:
        self._directory = directory
        self._activation_seconds = activation_seconds
        self._keys = keys
        self._read_at = time.monotonic()
        self._reading = asyncio.Lock()

    async def jwks(self) -> Mapping[str, Any]:
        """The public keys as a JSON Web Key Set."""
        await self._refresh()
        return {"keys": [key.public_jwk() for key in self._keys]}

    async def sign(self, claims: Mapping[str, object]) -> str:
        """A JWT; signed in a thread, since it is CPU work."""
        await self._refresh()
        key = active_key(self._keys, datetime.now(UTC), self._activation_seconds)
        return await asyncio.to_thread(jwt.encode, dict(claims), key.private_key, ALGORITHM, {"kid": key.kid})

    async def _refresh(self) -> None:
        if time.monotonic() - self._read_at < READ_AGAIN_SECONDS:
            return
        async with self._reading:
            if time.monotonic() - self._read_at < READ_AGAIN_SECONDS:
                return
            try:
                self._keys = await asyncio.to_thread(read_keys, self._directory) or self._keys
            except StartupError as error:
                _logger.error("going on with the keys known", extra={"reason": str(error)})  # noqa: TRY400 - one line says it
            self._read_at = time.monotonic()


async def open_key_ring(settings: KeySettings) -> KeyRing:
    """StartupError where there is no key."""
    keys = await asyncio.to_thread(read_keys, settings.signing_keys_dir)
    if not keys:
        raise StartupError(f"no signing key in {settings.signing_keys_dir}; run `python -m shop_users.keys ensure`")
    return KeyRing(settings.signing_keys_dir, settings.key_activation_seconds, keys)


def _ensure(settings: KeySettings, now: datetime) -> None:
    if not read_keys(settings.signing_keys_dir):
        _say(f"{add_key(settings.signing_keys_dir, now)} added")


def _rotate(settings: KeySettings, now: datetime) -> None:
    for key in retired_keys(read_keys(settings.signing_keys_dir), now, settings.key_activation_seconds):
        (settings.signing_keys_dir / f"{key.kid}.pem").unlink(missing_ok=True)
        _say(f"{key.kid} removed")
    _say(f"{add_key(settings.signing_keys_dir, now)} added")


def _list(settings: KeySettings, now: datetime) -> None:
    keys = read_keys(settings.signing_keys_dir)
    active = active_key(keys, now, settings.key_activation_seconds) if keys else None
    for key in keys:
        _say(f"{key.kid} {'signs' if key is active else 'published'}")


def _say(line: str) -> None:
    print(line)  # noqa: T201 - the command line's answer


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m shop_users.keys", description="The keys that sign access tokens.")
    commands = parser.add_subparsers(required=True)
    for name, command, purpose in (
        ("ensure", _ensure, "make a key if there is none"),
        ("rotate", _rotate, "add a key, and remove those whose tokens have expired"),
        ("list", _list, "name the keys, oldest first"),
    ):
        commands.add_parser(name, help=purpose, description=purpose).set_defaults(command=command)
    arguments = parser.parse_args()
    try:
        arguments.command(load_settings(KeySettings), datetime.now(UTC))
    except (StartupError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()

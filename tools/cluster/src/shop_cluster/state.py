"""Where a cluster keeps what it holds: folders, ports, secrets."""

import hashlib
import json
import os
import pwd
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from shop_cluster.failures import ClusterError
from shop_cluster.ports import DEFAULTS, configured_ports, pick_free_ports, read_env_file

ROOT = Path(__file__).resolve().parents[4]


def cache_folder() -> Path:
    """Downloads and builds, shared by all clones of one user."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shop-platform"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def server_user() -> pwd.struct_passwd | None:
    """The account for servers that refuse to run as root; None where this user is an ordinary one."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    return names.get("postgres") or names["nobody"]


def is_traversable(path: Path) -> bool:
    """Whether any account can walk down to `path`."""
    return all(folder.stat().st_mode & 0o001 for folder in [path, *path.parents] if folder.exists())


@dataclass(frozen=True, slots=True)
class State:
    """One cluster's folder. `durable=False` is for tests: servers may lose what they hold, so they are faster."""

    folder: Path
    ports: dict[str, int]
    durable: bool = True

    def place(self, *parts: str) -> Path:
        """A path inside the folder, its parent made."""
        path = self.folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def log(self, name: str) -> Path:
        return self.place("logs", f"{name}.log")

    @property
    def mailbox(self) -> Path:
        """The Maildir of caught mails, made by who catches them."""
        return self.place("mail", "caught")

    @property
    def hidden(self) -> Path:
        """A short folder for sockets, and for what another account must reach when the checkout is out of its reach."""
        digest = hashlib.sha256(str(self.folder).encode()).hexdigest()[:12]
        folder = Path("/var/tmp") / f"shop-platform-{os.geteuid()}-{digest}"  # noqa: S108 - its owner is checked
        folder.mkdir(mode=0o711, exist_ok=True)
        if folder.stat().st_uid != os.geteuid():
            raise ClusterError(f"{folder} belongs to another user", remedy="remove it")
        return folder

    @property
    def postgres_folder(self) -> Path:
        outside = server_user() is not None and not is_traversable(self.folder)
        return (self.hidden if outside else self.folder) / "postgres"

    def secret(self, name: str) -> str:
        """A random password, made at the first asking and kept in a file only this user reads."""
        path = self.place("secrets", name)
        path.parent.chmod(0o700)
        if not path.exists():
            write_private(path, secrets.token_urlsafe(24))
        return path.read_text()

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.hidden, ignore_errors=True)


def write_private(path: Path, text: str) -> None:
    """Write a file of mode 0600, at once or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.touch(mode=0o600)
    temporary.write_text(text)
    temporary.replace(path)


def checkout_state() -> State:
    """The cluster of this checkout, in its ignored `.cluster/`; `.env` fills in what the environment does not say."""
    for name, value in read_env_file(ROOT / ".env").items():
        os.environ.setdefault(name, value)
    folder = ROOT / ".cluster"
    folder.mkdir(exist_ok=True)
    return State(folder, configured_ports())


def temporary_state(folder: Path) -> State:
    """A throw-away cluster on free ports; asking again with the same folder gives the same cluster."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o711)
    kept = folder / "ports.json"
    if not kept.exists():
        kept.write_text(json.dumps(pick_free_ports()))
    ports: dict[str, int] = json.loads(kept.read_text())
    return State(folder, {name: ports[name] for name in DEFAULTS}, durable=False)

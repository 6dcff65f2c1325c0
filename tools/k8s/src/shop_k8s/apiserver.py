"""A real API server, alone with its etcd: no nodes, no controllers. Compiled once; what it stores is thrown away."""

import json
import os
import secrets
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import httpx
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from shop_cluster.failures import ClusterError
from shop_cluster.go import compile_program, find_go, module_source
from shop_cluster.missing import apt_get
from shop_cluster.ports import HOST, pick_free_port
from shop_cluster.processes import end
from shop_cluster.programs import make_once, run
from shop_cluster.state import cache_folder, write_private

MINOR: Final = "1.36"
VERSION: Final = f"{MINOR}.3"
_STAGED = "v0.0.0"
"""What k8s.io/kubernetes requires of the modules that are developed inside it and released apart."""
_READY_SECONDS = 120.0
_STOP_SECONDS = 20.0


def build_api_server() -> Path:
    """Its module cannot be built as a dependency's dependency: the parts developed inside it have to be named."""
    return make_once(cache_folder() / f"kube-apiserver-v{VERSION}", _compile)


def _compile(target: Path) -> None:
    print(f"building kube-apiserver v{VERSION}, once; some minutes", flush=True)
    started = time.monotonic()
    module_source(f"k8s.io/kubernetes@v{VERSION}")
    major, minor = MINOR.split(".")
    package = "k8s.io/component-base/version"
    values = {"gitVersion": f"v{VERSION}", "gitMajor": major, "gitMinor": minor}
    linker = " ".join(f"-X {package}.{name}={value}" for name, value in values.items())
    with TemporaryDirectory() as folder:
        Path(folder, "go.mod").write_text(_wrapper())
        compile_program("k8s.io/kubernetes/cmd/kube-apiserver", target, Path(folder), "-mod=mod", linker=linker)
    print(f"built in {time.monotonic() - started:.0f} s", flush=True)


def _wrapper() -> str:
    """A module that requires k8s.io/kubernetes, and for each of its staged modules the release that goes with it."""
    command = [find_go(), "mod", "download", "-json", f"k8s.io/kubernetes@v{VERSION}"]
    answer = json.loads(run(command, "finding k8s.io/kubernetes", "try again", folder=Path("/")))
    command = [find_go(), "mod", "edit", "-json", answer["GoMod"]]
    module: dict[str, Any] = json.loads(run(command, "reading its go.mod", "try again", folder=Path("/")))
    staged = {entry["Path"] for entry in module["Require"] if entry["Version"] == _STAGED}
    staged |= {e["Old"]["Path"] for e in module.get("Replace") or [] if e["New"]["Path"].startswith("./staging/")}
    replaces = [f"replace {path} => {path} v0.{VERSION.partition('.')[2]}" for path in sorted(staged)]
    head = ["module shop.example/api-server", f"go {module['Go']}", f"require k8s.io/kubernetes v{VERSION}"]
    return "\n".join([*head, *replaces, ""])


def find_etcd() -> str:
    for _ in range(2):
        found = shutil.which("etcd")
        if found:
            return found
        if os.geteuid() == 0 and shutil.which("apt-get"):
            print("etcd is missing: installing etcd-server with apt-get", flush=True)
            apt_get("etcd-server")
    raise ClusterError("etcd is missing", remedy="install it (Debian, Ubuntu: etcd-server), so that `etcd` is on PATH")


@contextmanager
def running_api_server() -> Iterator[httpx.Client]:
    """A client of it that may do anything."""
    program, etcd = build_api_server(), find_etcd()
    token = secrets.token_urlsafe(24)
    store, peer, port = (pick_free_port() for _ in range(3))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="shop-k8s-server-")))
        write_private(folder / "tokens.csv", f'{token},checker,checker,"system:masters"\n')
        key = generate_private_key(SECP256R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        write_private(folder / "accounts.key", pem.decode())
        store_url, peer_url = f"http://{HOST}:{store}", f"http://{HOST}:{peer}"
        commands = [
            [
                *(etcd, "--name=check", f"--data-dir={folder / 'etcd'}"),
                *(f"--listen-client-urls={store_url}", f"--advertise-client-urls={store_url}"),
                *(f"--listen-peer-urls={peer_url}", f"--initial-advertise-peer-urls={peer_url}"),
                f"--initial-cluster=check={peer_url}",
            ],
            [
                *(str(program), f"--etcd-servers={store_url}", f"--secure-port={port}", f"--cert-dir={folder}"),
                *(f"--bind-address={HOST}", f"--advertise-address={HOST}", "--service-cluster-ip-range=10.96.0.0/16"),
                *("--authorization-mode=RBAC", f"--token-auth-file={folder / 'tokens.csv'}"),
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={folder / 'accounts.key'}",
                f"--service-account-signing-key-file={folder / 'accounts.key'}",
            ],
        ]
        processes = [stack.enter_context(_process(command, folder)) for command in commands]
        yield stack.enter_context(_client(folder, port, token, processes))


@contextmanager
def _process(command: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / f"{Path(command[0]).name}.log").open("w") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield process
        finally:
            end(process, grace_seconds=_STOP_SECONDS)


@contextmanager
def _client(folder: Path, port: int, token: str, processes: list[subprocess.Popen[bytes]]) -> Iterator[httpx.Client]:
    """Once it is ready."""
    give_up = time.monotonic() + _READY_SECONDS
    certificate = folder / "apiserver.crt"
    while time.monotonic() < give_up and all(process.poll() is None for process in processes):
        if certificate.exists() and (folder / "apiserver.key").exists():
            context = ssl.create_default_context(cafile=str(certificate))
            headers = {"Authorization": f"Bearer {token}"}
            with httpx.Client(
                base_url=f"https://{HOST}:{port}", verify=context, headers=headers, timeout=30, trust_env=False
            ) as client:
                if _is_ready(client):
                    yield client
                    return
        time.sleep(0.2)
    lines = [line for log in sorted(folder.glob("*.log")) for line in log.read_text().splitlines()[-8:]]
    raise ClusterError("the API server did not become ready", remedy="see its last lines above", log_lines=lines)


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").is_success
    except httpx.TransportError:
        return False

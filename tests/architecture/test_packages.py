"""Each package, installed alone with the locked versions, can be imported whole: nothing it uses is undeclared."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMON = ROOT / "libs/common"
IMPORT_EVERYTHING = """
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
names = [module.name for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
for name in names:
    if name not in sys.argv[2:]:
        importlib.import_module(name)
print(len(names))
"""
ALEMBIC_SCRIPT = "shop_users.migrations.env"  # runs inside a migration only
K8S_NEEDS = ("services/users", "services/orders", "services/gateway", "tools/cluster", "tools/k8s")
PACKAGES = {
    "shop_common": ([f"{COMMON}[kafka,mongo,postgres,redis]"], ["shop_common.testing"]),
    "shop_users": ([f"{COMMON}[kafka,postgres]", str(ROOT / "services/users")], [ALEMBIC_SCRIPT]),
    "shop_orders": ([f"{COMMON}[kafka,mongo]", str(ROOT / "services/orders")], []),
    "shop_gateway": ([f"{COMMON}[kafka,redis]", str(ROOT / "services/gateway")], []),
    "shop_k8s": (
        [f"{COMMON}[kafka,mongo,postgres,redis]", *(str(ROOT / path) for path in K8S_NEEDS)],
        ["shop_k8s.__main__"],
    ),
    "shop_cluster": ([str(ROOT / "tools/cluster")], ["shop_cluster.pytest_plugin", "shop_cluster.__main__"]),
}


def _run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)  # noqa: S603 - our own
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_declares_all_it_imports(package: str, tmp_path: Path) -> None:
    requirements, test_only_modules = PACKAGES[package]
    uv = shutil.which("uv", path=str(Path(sys.executable).parent))
    assert uv is not None, "uv is in the lock and belongs beside this Python"
    _run(uv, "venv", "-q", "--python", sys.executable, tmp_path / "venv")
    python = tmp_path / "venv/bin/python"
    locked = ("--constraint", ROOT / "requirements.lock")
    _run(uv, "pip", "install", "-q", "--python", python, *locked, *requirements)
    imported = _run(python, "-I", "-c", IMPORT_EVERYTHING, package, *test_only_modules)
    assert int(imported) >= len(list(_source(package).glob("*.py"))) - 1


def _source(package: str) -> Path:
    (source,) = ROOT.glob(f"*/*/src/{package}")
    return source

"""The configuration reference is what the settings classes say, and its check notices when they say something else."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import SecretStr

from shop_common.settings import Block, ServiceSettings, settings_config
from shop_orders.settings import Settings as OrdersSettings

SCRIPT = Path(__file__).parents[2] / "tools/configuration/reference.py"


class LimitSettings(Block):
    """What the whole of it is for."""

    seconds: float = 0.5
    """How long."""


class MailSettings(Block):
    host: str
    """Where."""
    password: SecretStr | None = None
    """With what."""


class SmallSettings(ServiceSettings):
    model_config = settings_config("SMALL_")

    limit: LimitSettings = LimitSettings(seconds=2.5)
    key: SecretStr
    """Signs."""
    mail: MailSettings | None = None


class RenamedField(OrdersSettings):
    cursor_keys: SecretStr
    """Signs the cursors of lists; the same in all replicas."""


class SilentField(OrdersSettings):
    nobody_knows: int = 1


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "reference", module)  # its dataclass looks itself up
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", ["reference.py", "--check"])
    return module


def test_the_page_is_what_the_classes_say(reference: ModuleType) -> None:
    reference.main()


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [(RenamedField, "run `make configuration`"), (SilentField, "nobody_knows has no docstring")],
)
def test_a_changed_class_fails_the_check(
    reference: ModuleType, monkeypatch: pytest.MonkeyPatch, settings: type[ServiceSettings], complaint: str
) -> None:
    changed = {**reference.PROCESSES, "orders": {**reference.PROCESSES["orders"], "app": settings}}
    monkeypatch.setattr(reference, "PROCESSES", changed)
    with pytest.raises(SystemExit, match=complaint):
        reference.main()


def test_a_changed_page_fails_the_check(reference: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = tmp_path / "configuration.md"
    page.write_text(reference.PAGE.read_text().replace("`8002`", "`8003`"))
    monkeypatch.setattr(reference, "PAGE", page)
    with pytest.raises(SystemExit, match="run `make configuration`"):
        reference.main()


def test_each_variable_says_all_there_is_to_know_of_it(reference: ModuleType) -> None:
    known = {each.name: each for each in reference.variables(SmallSettings, "SMALL_")}
    rows = {name: (each.shape, each.default, each.secret, each.meaning) for name, each in known.items()}
    assert rows["SMALL_LIMIT__…"] == ("", "", "", "What the whole of it is for.")
    assert rows["SMALL_LIMIT__SECONDS"] == ("number", "`2.5`", "", "How long.")
    assert rows["SMALL_KEY"] == ("text", "**required**", "yes", "Signs.")
    assert rows["SMALL_MAIL__HOST"] == ("text", "*with others*", "", "Where.")
    assert rows["SMALL_MAIL__PASSWORD"] == ("text", "none", "yes", "With what.")
    assert rows["SMALL_HTTP__PORT"][:2] == ("whole number from 1 to 65535", "`8000`")

"""Write docs/configuration.md from the settings classes: `reference.py` writes it, `reference.py --check` compares it.

What a variable means is the docstring below its field. Exit code 1 with one line where the page is out of date, or a
field has none.
"""  # noqa: INP001 - a script, not a package

import argparse
import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from shop_common.settings import Block, ServiceSettings
from shop_gateway.settings import Settings as GatewaySettings
from shop_orders.settings import IndexSettings, RestoreSettings
from shop_orders.settings import Settings as OrdersSettings
from shop_users.settings import KeySettings, MigrateSettings
from shop_users.settings import Settings as UsersSettings

PAGE = Path(__file__).parents[2] / "docs/configuration.md"
SERVING = {"app", "worker"}
Processes = Mapping[str, Mapping[str, type[ServiceSettings]]]
PROCESSES: Processes = {
    "users": {"app": UsersSettings, "worker": UsersSettings, "migrate": MigrateSettings, "keys": KeySettings},
    "orders": {"app": OrdersSettings, "worker": OrdersSettings, "indexes": IndexSettings, "restore": RestoreSettings},
    "gateway": {"app": GatewaySettings},
}
HEAD = """\
# Configuration

Made by `make configuration` of the classes in `services/*/src/*/settings.py`; `make check` fails while this page is not
what they say.

- A variable is the service's prefix, then the names of blocks and field with two underscores between them. Where a
  process is given an unknown name inside a block or a bad value, or lacks a required one, it ends with code 78 and one
  line for each mistake, which names the variable and never shows its value.
- **A file may stand for each variable**: in `/run/secrets`, or where `<PREFIX>SECRETS_DIR` says, named like the
  variable in lower case. The environment wins over a file. What is marked as secret belongs into files.
- **Required** means: without a default. *With others* means: required as soon as another variable of its block is set;
  without any, the block is off.
- Lists are JSON, as in `["10.0.0.0/8"]`. Seconds may have decimals. "In each process" counts every worker of every
  replica.
- *Read by* names the modules, as in `python -m shop_users.app`; those that serve nothing take the variables of every
  process and do nothing with them. `python -m shop_common.kafka.topics` reads no variables, only its arguments.
- The images' health check asks the port in `PORT`, which has to be the service's `HTTP__PORT`.
"""
FORMATS = {
    "uri": "http:// or https:// address",
    "email": "e-mail address",
    "path": "path",
    "ipv4network": "IPv4 network",
    "ipv6network": "IPv6 network",
    "password": "text",
}


class Undocumented(Exception):
    """A field has no docstring."""


@dataclass(frozen=True, slots=True)
class Variable:
    name: str
    shape: str
    default: str
    meaning: str
    secret: str


def document(processes: Processes = PROCESSES) -> str:
    parts = [HEAD]
    for service, commands in processes.items():
        parts.append(f"## {service}\n\n{_table(commands)}")
    return "\n".join(parts)


def _table(commands: Mapping[str, type[ServiceSettings]]) -> str:
    readers: dict[Variable, list[str]] = {}
    for command, settings in commands.items():
        prefix = str(settings.model_config.get("env_prefix", ""))
        unused = () if command in SERVING else tuple(f"{prefix}{name.upper()}" for name in ServiceSettings.model_fields)
        for variable in variables(settings, prefix):
            if not variable.name.startswith(unused):
                readers.setdefault(variable, []).append(command)
    lines = ["| variable | value | default | secret | read by | means |", "|---|---|---|---|---|---|"]
    for each, commands_reading in readers.items():
        cells = (f"`{each.name}`", each.shape, each.default, each.secret, ", ".join(commands_reading), each.meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def variables(
    model: type[BaseModel], prefix: str, default: BaseModel | None = None, *, optional: bool = False
) -> Iterator[Variable]:
    """Of a class and its blocks, with a row for what is said of a block; `default` may have other values than they."""
    schema = model.model_json_schema()["properties"]
    docstrings = _docstrings(model)
    for name, field in model.model_fields.items():
        variable = f"{prefix}{name.upper()}"
        meaning = docstrings.get(name, "")
        value = getattr(default, name) if default is not None else field.default
        if block := _block(field):
            if about := meaning or _own_docstring(block):
                yield Variable(f"{variable}__…", "", "", about, "")
            inside = value if isinstance(value, BaseModel) else None
            yield from variables(block, f"{variable}__", inside, optional=value is None)
            continue
        if not meaning:
            raise Undocumented(f"{model.__name__}.{name} has no docstring; say below it what it means")
        if field.is_required() and default is None:
            shown = "*with others*" if optional else "**required**"
        else:
            shown = _default(value)
        yield Variable(variable, _shape(schema[name]), shown, meaning, _secret(field))


def _block(field: FieldInfo) -> type[BaseModel] | None:
    """The class of a field that is a block, optional or not."""
    for each in (field.annotation, *get_args(field.annotation)):
        if isinstance(each, type) and issubclass(each, BaseModel):
            return each
    return None


def _own_docstring(block: type[BaseModel]) -> str:
    """Of a class or the nearest one it is made of, but not what is said of all blocks."""
    for each in block.__mro__:
        if each is Block:
            break
        if each.__doc__:
            return " ".join(each.__doc__.split())
    return ""


def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    """The text below each field, of this class and of those it is made of."""
    found: dict[str, str] = {}
    for each in reversed(model.__mro__):
        if not issubclass(each, BaseModel) or each.__module__.startswith("pydantic"):
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        assert isinstance(definition, ast.ClassDef)  # noqa: S101 - it is the source of a class
        for field, below in zip(definition.body, definition.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                match below:
                    case ast.Expr(value=ast.Constant(value=str(text))):
                        found[field.target.id] = " ".join(text.split())
    return found


def _default(value: Any) -> str:
    if value is None:
        return "none"
    if value == "":
        return "empty"
    return f"`{list(value)}`" if isinstance(value, tuple) else f"`{value}`"


def _secret(field: FieldInfo) -> str:
    if SecretStr in (field.annotation, *get_args(field.annotation)):
        return "yes"
    return "" if field.repr else "if a password is in it"


def _shape(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_shape(each) for each in schema["anyOf"] if each != {"type": "null"})
    if "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema["enum"])
    match schema["type"]:
        case "array":
            return f"list of: {_shape(schema['items'])}"
        case "integer" | "number" as kind:
            return _bounded("whole number" if kind == "integer" else kind, schema)
    return _text(schema)


def _text(schema: Mapping[str, Any]) -> str:
    shape = FORMATS[schema["format"]] if "format" in schema else "text"
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    if "pattern" in schema:
        shape += f" matching `{schema['pattern']}`"
    elif most is not None:
        shape += f" of {least} to {most} characters"
    elif least > 1:
        shape += f" of {least} characters or more"
    return shape


def _bounded(shape: str, schema: Mapping[str, Any]) -> str:
    words = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to"}
    bounds = [f"{word} {schema[bound]:.15g}" for bound, word in words.items() if bound in schema]
    return f"{shape} {' '.join(bounds)}" if bounds else shape


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the page is out of date")
    arguments = parser.parse_args()
    try:
        text = document(PROCESSES)
    except Undocumented as undocumented:
        sys.exit(str(undocumented))
    if not arguments.check:
        PAGE.write_text(text)
    elif not PAGE.exists() or PAGE.read_text() != text:
        sys.exit(f"docs/{PAGE.name} is not what the settings classes say; run `make configuration`")


if __name__ == "__main__":
    main()

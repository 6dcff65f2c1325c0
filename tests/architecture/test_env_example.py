"""The example of an .env file is complete and true."""

from pathlib import Path

from shop_cluster.ports import DEFAULTS, read_env_file, variable

EXAMPLE = Path(__file__).parents[2] / ".env.example"


def test_the_example_names_every_port_with_its_default() -> None:
    ports = {name: value for name, value in read_env_file(EXAMPLE).items() if name.startswith("SHOP_PORT_")}
    assert ports == {variable(name): str(port) for name, port in DEFAULTS.items()}

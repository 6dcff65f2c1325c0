"""Each OpenAPI document against its running service: schemathesis with every check on.

No 5xx, no answer the document does not allow, no garbage accepted.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from shop_cluster.pytest_plugin import Cluster

CONFIG = Path(__file__).with_name("schemathesis.toml")
SEED = "20261121"
EXAMPLES_PER_OPERATION = "25"
MINUTES = 5


@pytest.mark.timeout(60 * MINUTES + 30)
@pytest.mark.parametrize("service", ["users", "orders", "gateway"])
async def test_the_service_keeps_to_its_document(service: str, cluster: Cluster, register: Any, tmp_path: Path) -> None:
    person = await register()
    url = {"users": cluster.users_url, "orders": cluster.orders_url, "gateway": cluster.gateway_url}[service]
    report = tmp_path / "report.json"
    # Coverage is of the services' processes; measuring the fuzzer too makes it several times slower.
    unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    fuzzing = await asyncio.create_subprocess_exec(
        *(Path(sys.executable).with_name("schemathesis"), "--config-file", CONFIG, "run", f"{url}/openapi.json"),
        *("--checks", "all"),
        *("--header", f"Authorization: {person.bearer['Authorization']}", "--seed", SEED),
        *("--max-examples", EXAMPLES_PER_OPERATION, "--continue-on-failure", "--no-color"),
        *("--report", "json", "--report-json-path", str(report)),
        cwd=tmp_path,
        env=unmeasured,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60 * MINUTES):
        output, _ = await fuzzing.communicate()
    assert fuzzing.returncode == 0, output.decode()
    assert json.loads(report.read_text()), "schemathesis reported nothing"

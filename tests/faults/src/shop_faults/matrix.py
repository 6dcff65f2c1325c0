"""Every scenario by its name."""

from collections.abc import Mapping
from typing import Final

from shop_faults.scenario import Scenario
from shop_faults.scenarios import crashes, events, freshness, kills, lifecycle, network, overload

_MODULES: Final = (crashes, lifecycle, kills, overload, freshness, network, events)  # what takes longest first
SCENARIOS: Final[Mapping[str, Scenario]] = {
    scenario.name: scenario for module in _MODULES for scenario in module.SCENARIOS
}
SHORT: Final = ("process-kill", "kafka-kill", "hang-ups", "shuffled", "given-up")
"""One of each kind, for every change; `make test-faults` goes through all."""

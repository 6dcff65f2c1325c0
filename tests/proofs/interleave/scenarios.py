"""Everything that can be explored, by name."""

from collections.abc import Mapping
from typing import Final

from interleave import cache, consumer, orders, relay
from interleave.explore import Scenario

SCENARIOS: Final[Mapping[str, Scenario]] = {
    scenario.name: scenario
    for scenario in (
        Scenario("relay", relay.play, ("relay 0",)),
        Scenario("consumer", consumer.play, ("member 0",)),
        Scenario("takeover", consumer.play_takeover, ("member 0",)),
        Scenario("orders", orders.play, ("api", "worker 0")),
        Scenario("cache", cache.play, ()),
    )
}

"""Two relays, an outbox and a log, where Hypothesis chooses what happens, and shrinks what goes wrong."""

import random
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

import interleave.relay
from interleave.mutations import GoesOnAfterAFailure
from interleave.relay import AGGREGATES, Relays
from interleave.simulation import Plan, Simulation, virtual_time

RELAYS = st.sampled_from(("relay 0", "relay 1"))
FATES = st.sampled_from(("refused", "lost", "silent", "late", "slow"))
MOST_VERSIONS = 5


class RelayLife(RuleBasedStateMachine):
    @initialize(seed=st.integers(1, 2**16))
    def begin(self, seed: int) -> None:
        random.seed(seed)
        self.simulation = Simulation(Plan(seed, "nobody"))
        self.relays = Relays(self.simulation)
        self.versions = dict.fromkeys(AGGREGATES, 0)
        for number in range(2):
            self.relays.start(number)

    @rule(aggregate=st.sampled_from(AGGREGATES), count=st.integers(1, 3))
    def write(self, aggregate: str, count: int) -> None:
        for _ in range(min(count, MOST_VERSIONS - self.versions[aggregate])):
            self.versions[aggregate] += 1
            self.relays.write(aggregate, self.versions[aggregate])

    @rule(seconds=st.sampled_from((0.0, 0.005, 0.3, 12.0)))
    def time_passes(self, seconds: float) -> None:
        self.relays.run(seconds)

    @rule(kind=st.sampled_from(("read", "send", "mark")), fate=FATES)
    def the_next_fails(self, kind: str, fate: str) -> None:
        self.simulation.next_fates.setdefault(kind, []).append(fate)

    @rule(relay=RELAYS, steps=st.integers(1, 40))
    def crash(self, relay: str, steps: int) -> None:
        """So many steps from now."""
        process = self.simulation.running[relay]
        process.dies_at = process.steps + steps

    @rule(relay=RELAYS, seconds=st.sampled_from((1.0, 30.0)))
    def stall(self, relay: str, seconds: float) -> None:
        self.simulation.freeze(relay, seconds)

    @invariant()
    def nothing_is_violated(self) -> None:
        violation = self.simulation.violation if hasattr(self, "simulation") else None
        assert violation is None, violation

    def teardown(self) -> None:
        if not hasattr(self, "simulation"):
            return
        self.simulation.calm = True
        self.simulation.next_fates.clear()
        try:
            if self.simulation.violation is None:
                self.relays.run_until_quiet(sum(self.versions.values()))
                self.nothing_is_violated()
        finally:
            self.simulation.loop.finish()


def live(examples: int, phases: tuple[Phase, ...]) -> None:
    profile = settings(
        max_examples=examples,
        stateful_step_count=25,
        phases=phases,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    with virtual_time():
        run_state_machine_as_test(RelayLife, settings=profile)


def test_relays_keep_their_promises() -> None:
    live(80, (Phase.generate, Phase.shrink))


def test_a_relay_that_goes_on_after_a_failure_is_found() -> None:
    with (
        patch.object(interleave.relay, "OutboxRelay", GoesOnAfterAFailure),
        pytest.raises(AssertionError, match="first occurrences are in version order"),
    ):
        live(300, (Phase.generate,))

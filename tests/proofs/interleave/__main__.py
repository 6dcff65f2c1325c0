"""`python -m interleave --seconds 60 [scenario …]` explores from a fresh seed.

`--plan 123 relay` plays one run again.
"""

import argparse
import random
import sys

from interleave.explore import crash_everywhere, explore, seeds
from interleave.scenarios import SCENARIOS
from interleave.simulation import Plan

_FOREVER = 10**12


def main() -> int:
    parser = argparse.ArgumentParser(prog="interleave", description=__doc__)
    parser.add_argument("scenarios", nargs="*", default=list(SCENARIOS), metavar="scenario")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each scenario")
    parser.add_argument("--seed", type=int, default=None, help="the first one")
    parser.add_argument("--plan", default=None, help="SEED or SEED:PROGRAM:STEP, as a report names it")
    parser.add_argument("--crashes", action="store_true", help="kill each program before each of its steps instead")
    given = parser.parse_args()
    if unknown := [name for name in given.scenarios if name not in SCENARIOS]:
        parser.error(f"no scenario {unknown[0]}; choose from {', '.join(SCENARIOS)}")
    first = random.SystemRandom().randrange(_FOREVER) if given.seed is None else given.seed
    failed = False
    for name in given.scenarios:
        scenario = SCENARIOS[name]
        if given.plan is not None:
            plans = iter([Plan.parse(given.plan)])
        elif given.crashes:
            plans = (plan for seed in range(first, _FOREVER) for plan in crash_everywhere(scenario, seed))
        else:
            plans = seeds(first, _FOREVER)
        report = explore(scenario, plans, given.seconds)
        failed = failed or report.found is not None
        print(report, flush=True)  # noqa: T201 - the command line's answer
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

"""`python -m shop_bench [PART]`: measure, print, and write into docs/benchmarks.md."""

import argparse
import logging
import sys
import time
from collections.abc import Callable, Mapping

import psutil  # type: ignore[import-untyped] # it ships no types

from shop_bench import compare
from shop_bench.fresh import fresh
from shop_bench.idle import idle
from shop_bench.result import Result, keep
from shop_cluster.failures import ClusterError

CALM_PERCENT, CALM_SECONDS = 5, 60
PARTS: Mapping[str, Callable[[], Result]] = {
    "live": compare.live,
    "fastest": compare.fastest,
    "cached": compare.cached,
    "fresh": fresh,
    "idle": idle,
}


def wait_for_calm() -> None:
    """Return when nothing else uses the machine, or after a while without that, saying so."""
    ends = time.monotonic() + CALM_SECONDS
    while (busy := psutil.cpu_percent(interval=2)) > CALM_PERCENT:
        if time.monotonic() > ends:
            print(f"others use {busy:.0f} % of this machine: the figures will be too low", flush=True)
            return


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m shop_bench", description="The benchmarks of docs/benchmarks.md.")
    parser.add_argument("part", nargs="?", choices=PARTS, help="all of them unless given")
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # a broker that is not up yet is no news
    part = parser.parse_args().part
    for name in [part] if part else PARTS:
        started = time.monotonic()
        print(f"\n{name}", flush=True)
        wait_for_calm()
        result = PARTS[name]()
        keep(result)
        print(f"{result.to_markdown()}\n({time.monotonic() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    try:
        main()
    except ClusterError as error:
        sys.exit("\n".join([str(error), error.remedy, *error.log_lines]))

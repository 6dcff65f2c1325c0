"""`python -m shop_faults.launch MODULE [ARGUMENT ...]` runs a module as a program, broken as the environment asks for.

`SHOP_FAULTS_FAILPOINT` names one of `failpoints.FAILPOINTS`; it kills the process the `SHOP_FAULTS_AT`-th time it is
reached while the file `SHOP_FAULTS_FUSE` is there, which it removes before.
`SHOP_FAULTS_MUTATION` names one of `mutations.MUTATIONS`; it is laid around the failpoint.
One process only: with several workers, uvicorn's are started anew and are whole.
"""

import os
import runpy
import sys
from collections.abc import Mapping
from typing import NoReturn

from shop_faults.crash import create_trigger, failpoint_patch
from shop_faults.failpoints import FAILPOINTS
from shop_faults.mutations import MUTATIONS
from shop_faults.patch import apply


def prepare(module: str, environment: Mapping[str, str]) -> None:
    """Break this process as asked for. SystemExit with code 2 and one line where that cannot be."""
    if name := environment.get("SHOP_FAULTS_FAILPOINT"):
        point = FAILPOINTS.get(name)
        if point is None or point.process != module:
            _refuse(f"SHOP_FAULTS_FAILPOINT: {module} has no {name!r}")
        try:
            trigger = create_trigger(environment)
        except (KeyError, ValueError) as error:
            _refuse(f"SHOP_FAULTS_FAILPOINT needs SHOP_FAULTS_FUSE and a number in SHOP_FAULTS_AT: {error}")
        apply([failpoint_patch(point, trigger.reached)])
    if name := environment.get("SHOP_FAULTS_MUTATION"):
        mutation = MUTATIONS.get(name)
        if mutation is None or module not in mutation.processes:
            _refuse(f"SHOP_FAULTS_MUTATION: {module} has no {name!r}")
        apply(mutation.patches())


def _refuse(reason: str) -> NoReturn:
    print(reason, file=sys.stderr)  # noqa: T201 - the command line's answer
    sys.exit(2)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        _refuse("usage: python -m shop_faults.launch MODULE [ARGUMENT ...]")
    program = sys.argv[1]
    prepare(program, os.environ)
    del sys.argv[0]
    runpy.run_module(program, run_name="__main__", alter_sys=True)

"""Clusters of test runs: whoever owns one, also when it is killed, none outlives its owner.

`python -m shop_cluster.throw_away FOLDER PID` waits for that process to end, then ends the cluster and removes it.
"""

import sys
from pathlib import Path

from filelock import FileLock

from shop_cluster.processes import marked_environment, spawn_detached, wait_for_exit
from shop_cluster.running import end
from shop_cluster.state import State, temporary_state


def open_state(folder: Path, owner_pid: int) -> State:
    """The throw-away cluster in `folder`, which ends with the process `owner_pid` at the latest."""
    with FileLock(folder.with_suffix(".lock")):
        is_new = not folder.exists()
        state = temporary_state(folder)
        if is_new:
            spawn_detached(
                [sys.executable, "-m", "shop_cluster.throw_away", str(folder), str(owner_pid)],
                environment=marked_environment(folder),
                log=state.log("throw_away"),
            )
    return state


def close_state(folder: Path) -> None:
    """End the cluster in `folder` and remove the folder; nothing where there is none."""
    with FileLock(folder.with_suffix(".lock")):
        if folder.exists():
            state = temporary_state(folder)
            end(state)
            state.remove()
    folder.with_suffix(".lock").unlink(missing_ok=True)


def main() -> None:
    wait_for_exit(int(sys.argv[2]))
    close_state(Path(sys.argv[1]))


if __name__ == "__main__":
    main()

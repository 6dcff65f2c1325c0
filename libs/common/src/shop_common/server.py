"""uvicorn's server and supervisor, stopped in order: not ready first, and deaf only when the balancer has noticed.

The first signal begins that; the second ends the wait for the balancer; the third ends the wait for requests too.
"""

import gc
import math
import signal
import socket
import sys
import time
from types import FrameType

import uvicorn
from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.supervisors import Multiprocess, multiprocess

_GC_THRESHOLDS = (50_000, 10, 100)
_SWITCH_SECONDS = 0.001
"""How long the loop may wait for a thread, such as one that compresses: a fifth of Python's own."""


class Server(uvicorn.Server):
    """Serves an application whose lifespan state has `health` and `drain_seconds`."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._leave_at = math.inf

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """What is there now stays: collections go over what requests leave behind, and seldom over all of that."""
        await super().startup(sockets=sockets)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        sys.setswitchinterval(_SWITCH_SECONDS)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """Unlike uvicorn's, does not end the process by that signal in the end: what stopped in order exits with 0."""
        if self.should_exit:
            self.force_exit = True
        elif self.started and self._leave_at == math.inf:
            state = self.lifespan.state
            state["health"].stopping = True
            self._leave_at = time.monotonic() + state["drain_seconds"]
            self.config.encoded_headers.append(CLOSE_HEADER)  # what uvicorn makes the default headers of, each second
            self.server_state.default_headers = [*self.server_state.default_headers, CLOSE_HEADER]
        else:
            self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        self.should_exit = self.should_exit or time.monotonic() >= self._leave_at
        return await super().on_tick(counter)


class _Process(multiprocess.Process):
    @property
    def server(self) -> uvicorn.Server:
        if self._server is None:
            self._server = Server(self.config)
        return self._server


multiprocess.Process = _Process  # type: ignore[misc] # what the supervisor starts, which it has no parameter for


class Supervisor(Multiprocess):
    """Of several such servers; they hear of the second and the third signal too."""

    def join_all(self) -> None:
        for listening in self.sockets:
            listening.close()  # or clients would be taken in, by nobody, after the last worker has closed its own
        while any(worker.process.is_alive() for worker in self.processes):
            for worker in self.processes:
                worker.process.join(0.1)
            if {signal.SIGINT, signal.SIGTERM} & set(self.signal_queue):
                self.terminate_all()
            self.signal_queue.clear()

"""An event loop without sockets: a seed chooses which ready callback runs next, and time jumps when none is ready.

Each task belongs to a `Process`, which can be killed at any of its steps: not one line of it runs afterwards, neither
`except` nor `finally`, as with kill -9. What belongs to no process is the environment: servers, wires, the test.
"""

import asyncio
import heapq
import warnings
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from random import Random
from typing import Any, Final, Self, TypeVarTuple

_Ts = TypeVarTuple("_Ts")

_owner: ContextVar["Process | None"] = ContextVar("process", default=None)

_LOOKS_EVERY: Final = 16
_MOST_THROWS: Final = 20
_HABITS: Final = (0.0, 0.5, 0.9)


class _Over(BaseException):
    """Ends coroutines; not GeneratorExit, which leaves the inner ones suspended where they wait in a `finally`."""


class Process:
    """What dies together: an incarnation of a program."""

    def __init__(self, name: str, dies_at: int | None = None) -> None:
        self.name = name
        self.dies_at = dies_at
        """The step before which it is killed, counted from 1."""
        self.steps = 0
        self.dead = False
        self.frozen = False
        self.on_death: list[Callable[[], None]] = []
        """What the outside notices, such as connections that end."""
        self.on_freeze: list[Callable[[], None]] = []


def current_process() -> Process:
    """The one whose code runs; LookupError in the environment."""
    process = _owner.get()
    if process is None:
        raise LookupError("the environment is no process")
    return process


class SimulatedTask(asyncio.Task[Any]):
    """Sets of tasks are iterated in an order that depends on the seed alone, not on addresses."""

    def __init__(self, coro: Coroutine[Any, Any, Any], number: int, **settings: Any) -> None:
        self._number = number  # before the parent's, which puts the task into a set
        self.process = _owner.get()
        super().__init__(coro, **settings)

    def __hash__(self) -> int:
        return self._number


class SimulatedLoop(asyncio.AbstractEventLoop):
    """Half of the seeds keep each process's callbacks in the order asyncio would run them; the others shuffle all."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._ready: list[asyncio.Handle] = []
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._parked: list[asyncio.Handle] = []
        self._tasks: list[SimulatedTask] = []
        self.outside_context = Context()
        self._now = 1000.0
        self._timer_number = 0
        self._closing = False
        self._in_order = random.random() < 0.5
        self._habit = random.choice(_HABITS)  # how likely the process that ran last runs on: others starve meanwhile
        self._last: Process | None = None
        self.steps = 0
        self.trace = 0
        """A digest of every choice so far: equal traces are equal runs."""
        self.troubles: list[str] = []
        """What asyncio would have logged: exceptions nobody looked at."""

    @classmethod
    def create(cls, random: Random) -> Self:
        """What asyncio's abstract loop also asks for, sockets and threads, is not there."""
        return cls(random)

    # What asyncio asks of a loop.

    def time(self) -> float:
        return self._now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None) -> SimulatedTask:
        task = SimulatedTask(coro, len(self._tasks), loop=self, name=name, context=context)
        self._tasks.append(task)
        return task

    def call_soon(
        self, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, copy_context() if context is None else context)
        self._ready.append(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, copy_context() if context is None else context)
        self._timer_number += 1
        heapq.heappush(self._timers, (when, self._timer_number, timer))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None: ...

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self._closing:
            self.troubles.append(f"{context.get('message')}: {context.get('exception')!r}")

    # What the simulation asks of it.

    def outside(self, delay: float, callback: Callable[[*_Ts], object], *args: *_Ts) -> None:
        """Let the environment do something after so many seconds; with 0, whenever the seed says."""
        if delay > 0:
            self.call_later(delay, callback, *args, context=self.outside_context)
        else:
            self.call_soon(callback, *args, context=self.outside_context)

    def start(self, process: Process, main: Callable[[], Coroutine[Any, Any, Any]]) -> SimulatedTask:
        """Make and run the program's main coroutine; every task that it makes is of the same process."""
        context = Context()
        context.run(_owner.set, process)
        return context.run(lambda: self.create_task(main(), context=context))

    def tasks_of(self, process: Process) -> list[str]:
        """Those that have not ended."""
        return [str(task.get_coro()) for task in self._tasks if task.process is process and not task.done()]

    def kill(self, process: Process) -> None:
        if not process.dead:
            process.dead = True
            for notice in process.on_death:
                self.outside(0, notice)

    def freeze(self, process: Process, seconds: float) -> None:
        """Stop it for a while, as a long garbage collection or SIGSTOP does; the world goes on."""
        process.frozen = True
        for notice in process.on_freeze:
            self.outside(0, notice)
        self.outside(seconds, self._thaw, process)

    def _thaw(self, process: Process) -> None:
        process.frozen = False
        self._ready += self._parked
        self._parked.clear()

    def run(self, until: Callable[[], bool], max_steps: int, seconds: float) -> bool:
        """Run until the condition holds; False where nothing is left to run, or not within the bounds."""
        end, last_step = self._now + seconds, self.steps + max_steps
        asyncio._set_running_loop(self)
        try:
            while self.steps < last_step:
                if not self._ready or self.steps % _LOOKS_EVERY == 0:
                    if until():
                        return True
                    if not self._ready and not self._jump(end):
                        return False
                self._step()
        finally:
            asyncio._set_running_loop(None)
        return False

    def _jump(self, end: float) -> bool:
        """Go on to the next instant at which something is due."""
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
        if not self._timers or self._timers[0][0] > end:
            return False
        self._now = max(self._now, self._timers[0][0])
        while self._timers and self._timers[0][0] <= self._now:
            self._ready.append(heapq.heappop(self._timers)[2])
        return True

    def _step(self) -> None:
        index = self._choose()
        handle = self._ready.pop(index)
        process = _process_of(handle)
        if handle.cancelled() or (process is not None and process.dead):
            return
        if process is not None and process.frozen:
            self._parked.append(handle)
            return
        self.steps += 1
        self.trace = (self.trace * 1_000_003 + index + len(self._ready) * 8191) % (2**61 - 1)
        if process is not None:
            process.steps += 1
            if process.steps == process.dies_at:
                self.kill(process)
                return
        self._last = process
        handle._run()

    def _choose(self) -> int:
        ready = self._ready
        if len(ready) == 1:
            return 0
        chosen = int(self._random.random() * len(ready))
        process = _process_of(ready[chosen])
        if self._habit and self._last is not None and self._random.random() < self._habit:
            process = self._last
            own = [index for index, handle in enumerate(ready) if _process_of(handle) is process]
            if own:
                chosen = self._random.choice(own)
            else:
                process = _process_of(ready[chosen])
        if self._in_order and process is not None:
            return next(index for index, handle in enumerate(ready) if _process_of(handle) is process)
        return chosen

    def finish(self) -> None:
        """End every coroutine that is still suspended, quietly: the run is over and judged."""
        self._closing = True
        asyncio._set_running_loop(self)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for task in self._tasks:  # grows while it runs: what ends may begin something
                    _end(task)
                self._tasks.clear()
                self._ready.clear()
                self._timers.clear()
                self._parked.clear()
        finally:
            asyncio._set_running_loop(None)


def _process_of(handle: asyncio.Handle) -> Process | None:
    context: Context = handle._context  # type: ignore[attr-defined] # not in typeshed
    return context.get(_owner)


def _end(task: SimulatedTask) -> None:
    if task.done():
        if not task.cancelled():
            task.exception()
        return
    task._log_destroy_pending = False  # type: ignore[attr-defined] # not in typeshed
    coroutine = task.get_coro()
    for _ in range(_MOST_THROWS):  # an `await` in a `finally` goes on waiting
        try:
            coroutine.throw(_Over)
        except BaseException:  # noqa: BLE001 - what the code says to its end is of no interest
            return

"""One run of a scenario: its seed, its clock, its crashes, and what it found."""

import asyncio
import logging
import random
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any, Final, Generic, TypeVar
from unittest.mock import patch

from interleave.loop import Process, SimulatedLoop

T = TypeVar("T")

_FAULT_RATES: Final = (0.0, 0.02, 0.1, 0.3)
_CRASH_RATES: Final = (0.0, 0.3, 0.8)
_RESTARTS: Final = (0.5, 2.0, 10.0)
"""Seconds, at most."""
_FATES: Final = ("refused", "lost", "silent", "late", "slow", "slow")
_EPOCH: Final = 1_767_225_600
_MAX_STEPS: Final = 60_000


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that decides a run: the same plan is the same run."""

    seed: int
    victim: str | None = None
    """The program that is killed once, before its step `dies_at`, in a run without any other fault."""
    dies_at: int = 0

    @classmethod
    def parse(cls, text: str) -> "Plan":
        """What `str()` gives."""
        seed, *crash = text.split(":")
        return cls(int(seed), crash[0], int(crash[1])) if crash else cls(int(seed))

    def __str__(self) -> str:
        return f"{self.seed}" if self.victim is None else f"{self.seed}:{self.victim}:{self.dies_at}"


@dataclass(frozen=True, slots=True)
class Violation:
    oracle: str
    detail: str


class _Request(Generic[T]):
    """On its way to a server."""

    def __init__(self, effect: Callable[[], T], reply: "asyncio.Future[T]") -> None:
        self._effect = effect
        self._reply = reply
        self.is_answered = True
        self.instead: Exception | None = None
        """What is answered though the effect was had; only where it is not answered truly."""

    def __call__(self) -> None:
        try:
            result = self._effect()
        except Exception as refusal:  # noqa: BLE001 - the server's own answer
            self.answer(refusal)
            return
        if self.instead is not None:
            self.answer(self.instead)
        elif self.is_answered and not self._reply.done():
            self._reply.set_result(result)

    def answer(self, error: Exception) -> None:
        if not self._reply.done():
            self._reply.set_exception(error)


class Simulation:
    """What scenarios are made of. Faults and crashes happen until `calm`; then whatever is promised must come true."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.random = random.Random(plan.seed)  # noqa: S311 - chooses, hides nothing
        self.loop = SimulatedLoop.create(self.random)
        self.calm = False
        self.violation: Violation | None = None
        self.crashes = 0
        self.next_fates: dict[str, list[str]] = {}
        """Of the next requests of a kind, before the seed decides."""
        self.victims: dict[str, Process] = {}
        """Each program's first incarnation."""
        self.running: dict[str, Process] = {}
        """Each program's newest one."""
        self._fault_rate, self.crash_rate = self.random.choice(_FAULT_RATES), self.random.choice(_CRASH_RATES)
        if plan.victim is not None or plan.seed == 0:
            self._fault_rate = self.crash_rate = 0.0

    def check(self, holds: bool, oracle: str, detail: str) -> bool:  # noqa: FBT001 - an assertion
        if not holds and self.violation is None:
            self.violation = Violation(oracle, detail)
        return holds

    def chance(self, rate: float) -> bool:
        return self.random.random() < rate

    @property
    def has_faults(self) -> bool:
        return self._fault_rate > 0 and not self.calm

    def fate(self, kind: str) -> str:
        """What becomes of one request to a server."""
        if given := self.next_fates.get(kind):
            return given.pop(0)
        return self.random.choice(_FATES) if self.has_faults and self.chance(self._fault_rate) else "well"

    async def ask(self, effect: Callable[[], T], error: type[Exception] = ConnectionError, kind: str = "") -> T:
        """Have something outside do this, once, and answer: late, or never, or with an error whether it did it or not.

        A request on its way arrives though the process that sent it is dead.
        """
        reply: asyncio.Future[T] = self.loop.create_future()
        fate, serve = self.fate(kind), _Request(effect, reply)
        if fate in {"refused", "late"}:
            self.loop.outside(0, serve.answer, error(fate))
        if fate in {"lost", "silent"}:
            serve.instead = error(fate) if fate == "lost" else None
            serve.is_answered = False
        if fate != "refused":
            self.loop.outside(self._delay(fate), serve)
        return await reply

    def _delay(self, fate: str) -> float:
        if fate in {"late", "slow"}:
            return self.random.uniform(0, 40 if fate == "late" else 15)
        return self.random.choice((0, 0, 0, 0.003))

    def supervise(self, name: str, main: Callable[[Process], Coroutine[Any, Any, Any]]) -> None:
        """Run a program, and start it again whenever it has ended."""
        process = Process(name, self._death_of(name))
        self.victims.setdefault(name, process)
        self.running[name] = process
        task = self.loop.start(process, lambda: main(process))

        def start_again() -> None:
            if process.dead:
                self.crashes += 1
            elif not task.cancelled() and (error := task.exception()):
                self.check(False, "no bug ends a program", f"{name}: {error!r}")  # noqa: FBT003 - never holds
            if not process.dead:
                left = self.loop.tasks_of(process)
                self.check(not left, "a program that ends leaves no task", f"{name}: {left}")
            process.dead = True
            self.loop.outside(self.random.uniform(0, self.random.choice(_RESTARTS)), self.supervise, name, main)

        process.on_death.append(start_again)
        task.add_done_callback(lambda _: None if process.dead else start_again(), context=self.loop.outside_context)
        if not self.calm and self.chance(self.crash_rate / 3):
            self.loop.outside(self.random.uniform(0, 10), self.freeze, name, self.random.uniform(0, 30))

    def _death_of(self, name: str) -> int | None:
        if name == self.plan.victim and name not in self.victims:
            return self.plan.dies_at
        if not self.calm and self.chance(self.crash_rate):
            return int(self.random.expovariate(1 / 80)) + 1
        return None

    def freeze(self, name: str, seconds: float) -> None:
        process = self.running[name]
        if not (process.dead or process.frozen or self.calm):
            self.loop.freeze(process, seconds)

    def calm_after(self, seconds: float) -> None:
        def end_of_faults() -> None:
            self.calm = True

        self.loop.outside(seconds, end_of_faults)

    def run(self, is_quiet: Callable[[], bool], seconds: float) -> None:
        """Until quiet, which has to come; or until an oracle is violated."""
        quiet = self.loop.run(lambda: self.violation is not None or is_quiet(), _MAX_STEPS, seconds)
        self.check(quiet, "it becomes quiet", f"not within {seconds:g} s, or nothing was left to run")
        for trouble in self.loop.troubles:
            self.check(False, "no error goes unseen", trouble)  # noqa: FBT003 - never holds


class _Clock:
    """Stands for the module `time` in the platform's modules."""

    @staticmethod
    def monotonic() -> float:
        return asyncio.get_running_loop().time()

    @staticmethod
    def time() -> float:
        return asyncio.get_running_loop().time()


class _Datetime(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override] # no subclass goes into documents
        return datetime.fromtimestamp(_EPOCH + asyncio.get_running_loop().time(), tz or UTC)


@contextmanager
def virtual_time() -> Iterator[None]:
    """The platform's modules read the simulated clock, and log nothing, which would be most of the work."""
    before = logging.root.manager.disable
    with ExitStack() as stack:
        for name, module in sorted(sys.modules.items()):
            if name.startswith("shop_") and getattr(module, "time", None) is time:
                stack.enter_context(patch.object(module, "time", _Clock))
            if name.startswith("shop_") and getattr(module, "datetime", None) is datetime:
                stack.enter_context(patch.object(module, "datetime", _Datetime))
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)

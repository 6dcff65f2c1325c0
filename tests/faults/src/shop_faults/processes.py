"""One process of a cluster under test, which can be killed, frozen, stopped and started again."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil  # type: ignore[import-untyped] # it ships no types

from shop_cluster.processes import marked_environment, unmeasured
from shop_cluster.supervise import Program

READY_SECONDS = 60.0
STOP_SECONDS = 60.0
Failure = Callable[[], Awaitable[str | None]]
"""What keeps the part from being ready, None when nothing does."""


@dataclass(slots=True)
class Part:
    """A server or a service of ours; `keep_alive` restarts it whenever it ends by itself."""

    program: Program
    folder: Path
    log: Path
    failure: Failure
    keep_alive: bool = False
    starts: int = 0
    exits: list[int] = field(default_factory=list)
    _process: asyncio.subprocess.Process | None = None
    _watcher: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return self.program.name

    @property
    def pid(self) -> int | None:
        """None while it does not run."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    def change(self, *, command: Sequence[str] | None = None, environment: Mapping[str, str] | None = None) -> None:
        """How it is started from the next time on."""
        changed = replace(self.program, command=command or self.program.command)
        self.program = replace(changed, environment={**changed.environment, **(environment or {})})

    async def start(self) -> None:
        user = {"user": self.program.user, "group": self.program.user, "extra_groups": []} if self.program.user else {}
        with self.log.open("a") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self.program.command,
                # Recovery is timed, and most of these are killed before they could report what was covered.
                env={**unmeasured(marked_environment(self.folder)), **self.program.environment},
                cwd="/",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                **user,  # type: ignore[arg-type] # only where another account is needed
            )
        self.starts += 1
        self._watcher = asyncio.create_task(self._watch(self._process))

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        self.exits.append(await process.wait())
        while self.keep_alive:
            try:
                await self.start()
            except OSError:
                await asyncio.sleep(0.2)
            else:
                return

    async def wait_ready(self, seconds: float = READY_SECONDS) -> float:
        """How long that took; raises when it takes longer, with what it says and the end of its log."""
        started = time.monotonic()
        while (failure := await self.failure()) is not None:
            if time.monotonic() - started > seconds:
                lines = "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
                raise TimeoutError(f"{self.name} is not ready after {seconds:g} s: {failure}\n{lines}")
            await asyncio.sleep(0.05)
        return time.monotonic() - started

    async def kill(self) -> None:
        """SIGKILL, to its children too; with `keep_alive` it is started again at once."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        self.send(signal.SIGKILL)
        await process.wait()

    def send(self, number: signal.Signals) -> None:
        """A signal to it and its children, as far as they have not ended: SIGSTOP freezes, SIGCONT thaws."""
        if self.pid is None:
            return
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            for each in (process, *process.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    each.send_signal(number)

    async def restart(self, seconds: float = STOP_SECONDS) -> None:
        """End it in order and start it again; returns once it is ready."""
        keep_alive = self.keep_alive
        await self.stop(seconds)
        self.keep_alive = keep_alive
        await self.start()
        await self.wait_ready()

    async def stop(self, seconds: float = STOP_SECONDS) -> int:
        """End it in order, by its own stop signal; its exit code. Killed, and an error, where it takes longer."""
        self.keep_alive = False
        process = self._process
        if process is None:
            return 0
        if process.returncode is None:
            process.send_signal(getattr(signal, f"SIG{self.program.stop_signal}"))
            try:
                async with asyncio.timeout(seconds):
                    await process.wait()
            except TimeoutError:
                await self.kill()
                raise TimeoutError(f"{self.name} did not end within {seconds:g} s of its signal") from None
        if self._watcher is not None:
            await self._watcher
        return process.returncode or 0

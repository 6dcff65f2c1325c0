"""A gateway's cache between slow answers, events that come late or twice, and writes passed on."""

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from uuid import UUID

from interleave.loop import Process
from interleave.simulation import Simulation
from shop_gateway.cache import Key, SectionCache
from shop_gateway.models import Answer

_USERS = [str(UUID(int=number)) for number in (1, 2)]
_ORDERS = ("a", "b", "c")
_CHANGES = 8
_READS = 4

State = dict[str, int]
"""Versions, by order."""


def play(simulation: Simulation) -> None:
    run = _Run(simulation)
    run.change()
    simulation.supervise("gateway", run.gateway)
    simulation.calm_after(5)
    simulation.run(lambda: run.finished, 300)


class _Run:
    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._owned: dict[str, State] = {user: {} for user in _USERS}
        self._log: list[tuple[str, str, int]] = []
        self._knows_all = simulation.chance(0.5)
        self._max_bytes = simulation.random.choice((3000, 1_000_000))
        self.finished = False

    def change(self) -> None:
        """The owner commits a change, and its event is in the log from then on."""
        random = self._simulation.random
        user, order = random.choice(_USERS), random.choice(_ORDERS)
        self._write(user, order)
        if len(self._log) < _CHANGES:
            self._simulation.loop.outside(random.choice((0, 0.01, 0.1, 1)), self.change)

    def _write(self, user: str, order: str) -> int:
        version = self._owned[user].get(order, 0) + 1
        self._owned[user][order] = version
        self._log.append((user, order, version))
        return version

    async def gateway(self, _: Process) -> None:
        gateway = _Gateway(self._simulation, SectionCache(self._max_bytes), knows_all=self._knows_all)
        position = len(self._log)  # each gateway begins at the end of the log, with nothing kept
        readers = [asyncio.create_task(self._reader(gateway)) for _ in range(3)]
        while position < len(self._log) or not all(reader.done() for reader in readers):
            await asyncio.sleep(self._simulation.random.choice((0.01, 0.1, 0.5)))
            if position < len(self._log):
                gateway.hear(*self._log[position])
                position += 1
                if self._simulation.has_faults and self._simulation.chance(0.1):
                    position = self._simulation.random.randint(0, position)  # told again
        for user in _USERS:
            kept = gateway.look_up(user)
            self._simulation.check(
                kept is None or kept == self._owned[user],
                "what is kept is true once all is told",
                f"{kept} is kept of {self._owned[user]}",
            )
        self.finished = True

    async def _reader(self, gateway: "_Gateway") -> None:
        random = self._simulation.random
        for _ in range(_READS):
            await asyncio.sleep(random.choice((0, 0, 0.01, 0.2)))
            user = random.choice(_USERS)
            with suppress(OSError):
                async with asyncio.timeout(5):
                    if self._simulation.chance(0.1):
                        await self._pass_on_write(gateway, user)
                    elif gateway.look_up(user) is None:
                        await gateway.fetch(user, self._owned)

    async def _pass_on_write(self, gateway: "_Gateway", user: str) -> None:
        """The answer names the version."""
        order = self._simulation.random.choice(_ORDERS)
        gateway.hear(user, order, await self._simulation.ask(lambda: self._write(user, order)))


class _Gateway:
    """One incarnation: its cache, what it was told, and what it has answered."""

    def __init__(self, simulation: Simulation, cache: SectionCache, *, knows_all: bool) -> None:
        self._simulation = simulation
        self._cache = cache
        self._knows_all = knows_all
        self._told: dict[str, State] = {user: {} for user in _USERS}
        self._answered: dict[str, State] = {user: {} for user in _USERS}

    def hear(self, user: str, order: str, version: int) -> None:
        self._cache.invalidate(user, order, version)
        self._told[user][order] = max(version, self._told[user].get(order, 0))

    def look_up(self, user: str) -> State | None:
        entry = self._cache.look_up(Key(user, "orders"))
        if entry is None:
            return None
        kept: State = json.loads(entry.answer.body)
        self._at_least(kept, self._told[user], "nothing older than what was told is answered")
        if self._knows_all:
            # Of an order that is not in the older answer, the cache cannot know; its event is still to come.
            before = {order: version for order, version in self._answered[user].items() if order in kept}
            self._at_least(kept, before, "answers from the cache never go back")
        self._answered[user] = kept
        return kept

    def _at_least(self, kept: State, known: Mapping[str, int], oracle: str) -> None:
        newer = {order: version for order, version in known.items() if kept.get(order, 0) < version}
        self._simulation.check(not newer, oracle, f"{kept} though {newer} is known")

    async def fetch(self, user: str, owned: dict[str, State]) -> None:
        lease = self._cache.lease(Key(user, "orders"))
        await asyncio.sleep(self._simulation.random.choice((0, 0, 0.05, 0.5)))
        read = await self._simulation.ask(lambda: dict(owned[user]))
        await asyncio.sleep(self._simulation.random.choice((0, 0, 0.05, 0.5)))
        known = read if self._knows_all else {order: version for order, version in read.items() if order == "a"}
        self._cache.fill(lease, Answer(200, {}, json.dumps(read).encode()), known)

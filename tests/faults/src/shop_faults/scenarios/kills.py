"""Processes and servers that are killed or frozen in the middle of their work."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from itertools import cycle
from typing import Final

from shop_cluster.services import SERVICES
from shop_faults.scenario import Run, Scenario

DOWN_SECONDS: Final = 5.0
FROZEN_SECONDS: Final = 60.0
SESSION_SECONDS: Final = 10.0
"""Until Kafka gives a dead member's partitions to another; the default of `session_timeout_ms`."""
_WORKERS: Final = ("users-worker", "orders-worker")


async def kill_processes(run: Run) -> None:
    """Each of the five in turn, in another order for each seed; they come back at once."""
    names = [*SERVICES]
    run.numbers.shuffle(names)
    for _, name in zip(range(run.rounds), cycle(names), strict=False):
        await run.pause(0.2, 1.5)
        async with run.fault(f"kill {name}"):
            await run.lab.parts[name].kill()
            if name in _WORKERS:
                await run.check_commits()


async def _nothing() -> None: ...


def kill_server(name: str, use: Callable[[], Awaitable[None]] = _nothing) -> Callable[[Run], Awaitable[None]]:
    """Down for a while, in which `use` is what must work without it."""

    async def inject(run: Run) -> None:
        server = run.lab.parts[name]
        for _ in range(run.rounds):
            await run.pause(0.2, 1.5)
            async with run.fault(f"{name} down"):
                await server.kill()
                await asyncio.gather(use(), asyncio.sleep(DOWN_SECONDS))
                await server.start()
                await server.wait_ready()

    return inject


async def kill_kafka(run: Run) -> None:
    """And before it comes back, somebody registers, logs in and places an order, every time."""

    async def use_without_kafka() -> None:
        try:
            async with asyncio.timeout(run.scenario.recovery_seconds):
                shopper, account = await run.load.newcomer()
                while not account.orders:
                    await shopper.place(account)
        except TimeoutError:
            run.check("used without Kafka", ok=False, detail="no new customer's order was accepted")

    await kill_server("kafka", use_without_kafka)(run)


def freeze(name: str, seconds: float) -> Callable[[Run], Awaitable[None]]:
    async def inject(run: Run) -> None:
        async with run.fault(f"{name} frozen"):
            run.lab.parts[name].send(signal.SIGSTOP)
            try:
                await asyncio.sleep(seconds)
            finally:
                run.lab.parts[name].send(signal.SIGCONT)

    return inject


SCENARIOS: Final = (
    Scenario("process-kill", "kill -9 of API, relay, consumer, gateway", kill_processes, SESSION_SECONDS + 10),
    Scenario("kafka-kill", "kill -9 of Kafka", kill_kafka, 30),
    Scenario("postgres-kill", "kill -9 of PostgreSQL", kill_server("postgres"), 30),
    Scenario("mongo-kill", "kill -9 of MongoDB", kill_server("mongo"), 30),
    Scenario("redis-kill", "kill -9 of Redis", kill_server("redis"), 30),
    Scenario("kafka-freeze", "broker frozen", freeze("kafka", FROZEN_SECONDS), 30),
)

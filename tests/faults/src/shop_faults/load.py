"""The load of a scenario: customers at work all the time, and errands that tell whether all is well."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final, TypeVar

from shop_faults.account import Account
from shop_faults.client import Client, Sample
from shop_faults.ledger import Ledger
from shop_faults.shopper import Shopper

SETTLE_SECONDS: Final = 90.0
_RETRY_SECONDS: Final = 0.1

T = TypeVar("T")


class Load:
    """Customers on one or several gateways; all they were told is in the ledger."""

    def __init__(self, urls: Sequence[str], ledger: Ledger, seed: int, customers: int, pause_seconds: float) -> None:
        self.samples: list[Sample] = []
        self._ledger = ledger
        self._numbers = random.Random(seed)  # noqa: S311 - to be repeatable, not secret
        self._tag = f"s{seed}x{self._numbers.getrandbits(32):08x}"
        self._clients = [Client(url, self.samples) for url in urls]
        self._pause_seconds = pause_seconds
        self._shoppers = [self._create_shopper(f"c{index}", index) for index in range(customers)]
        self._newcomers = 0
        self._working: list[asyncio.Task[None]] = []
        self._stop = asyncio.Event()

    @property
    def shoppers(self) -> Sequence[Shopper]:
        return self._shoppers

    def _create_shopper(self, name: str, index: int) -> Shopper:
        numbers = random.Random(self._numbers.getrandbits(64))  # noqa: S311 - see above
        return Shopper(f"{self._tag}-{name}", self._clients[index % len(self._clients)], self._ledger, numbers)

    def start(self) -> None:
        self._working = [
            asyncio.create_task(shopper.run(self._stop, self._pause_seconds)) for shopper in self._shoppers
        ]

    async def stop(self) -> None:
        """Let each customer end what it does; raises what went wrong in one."""
        self._stop.set()
        await asyncio.gather(*self._working)

    async def settle(self) -> None:
        """Give every operation of unknown outcome again, until each has its verdict."""
        try:
            async with asyncio.timeout(SETTLE_SECONDS):
                await asyncio.gather(*(self._settle(shopper) for shopper in self._shoppers))
        except TimeoutError:
            unknown = self._ledger.of("unknown")
            raise TimeoutError(f"{len(unknown)} without a verdict, such as {unknown[:2]}") from None

    async def _settle(self, shopper: Shopper) -> None:
        for operation in [*shopper.unsettled]:
            await _until(partial(shopper.settle, operation))

    async def errand(self) -> float:
        """Seconds until a new customer's order is confirmed and counted: through both services and both topics."""
        started = time.monotonic()
        shopper, account = await self.newcomer()

        async def has_order() -> bool:
            await shopper.place(account)
            return bool(account.orders)

        await _until(has_order)
        await _until(partial(shopper.is_counted, account))
        return time.monotonic() - started

    async def newcomer(self) -> tuple[Shopper, Account]:
        """Somebody registered and logged in, after as many tries as it takes."""
        self._newcomers += 1
        shopper = self._create_shopper(f"n{self._newcomers}", self._newcomers)
        self._shoppers.append(shopper)
        return shopper, await _until(shopper.join)

    async def close(self) -> None:
        for task in self._working:
            task.cancel()
        await asyncio.gather(*self._working, return_exceptions=True)
        for client in self._clients:
            await client.close()


async def _until(attempt: Callable[[], Awaitable[T | None]]) -> T:
    """The first result that is not false, however long it takes: whoever calls sets the bound."""
    # What is waited for happens in other processes, so there is nothing to be woken by.
    while not (result := await attempt()):  # noqa: ASYNC110
        await asyncio.sleep(_RETRY_SECONDS)
    return result


@asynccontextmanager
async def open_load(
    urls: Sequence[str], ledger: Ledger, seed: int, *, customers: int, pause_seconds: float
) -> AsyncIterator[Load]:
    async with AsyncExitStack() as stack:
        load = Load(urls, ledger, seed, customers, pause_seconds)
        stack.push_async_callback(load.close)
        yield load

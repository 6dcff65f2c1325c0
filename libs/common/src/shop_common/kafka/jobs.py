"""The jobs of one aiokafka client, which end together."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from aiokafka.errors import KafkaConnectionError


async def until_first(*jobs: Coroutine[Any, Any, Any]) -> None:
    """Run all until one ends, and end like it."""
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        if task.cancelled():  # by aiokafka: here it was not yet
            raise KafkaConnectionError("aiokafka gave up a request")
        task.result()

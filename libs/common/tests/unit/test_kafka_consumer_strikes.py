"""When a consumer that falls silent ends the process: the second time in a row, and only then."""

import asyncio
from typing import Any, cast

import pytest
from aiokafka.errors import KafkaConnectionError

from shop_common.kafka import consumer as consumer_module
from shop_common.kafka.consumer import ConsumerStuck, EventConsumer
from shop_common.kafka.producer import EventProducer
from shop_common.kafka.settings import KafkaSettings

STUCK, BROKEN = consumer_module._Stuck, KafkaConnectionError


@pytest.mark.parametrize(
    ("lives", "outcome"),
    [
        ([(STUCK, False), (STUCK, False)], ConsumerStuck),
        ([(STUCK, True), (STUCK, False)], ConsumerStuck),
        ([(STUCK, False), (BROKEN, False), (STUCK, False)], ConsumerStuck),
        ([(STUCK, True), (STUCK, True), (STUCK, True)], None),
        ([(STUCK, False), (BROKEN, True), (STUCK, False)], None),
        ([(BROKEN, False)] * 5, None),
        ([(STUCK, False), (ZeroDivisionError, False)], ZeroDivisionError),
    ],
    ids=["twice", "after progress", "a cut between", "progress each time", "progress between", "only cuts", "a bug"],
)
async def test_strikes(
    lives: list[tuple[type[Exception], bool]], outcome: type[Exception] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each life of a consumer ends by this, with or without progress before; after the last it is told to stop."""
    stop, left = asyncio.Event(), list(lives)

    class Membership:
        progressed = False

        def __init__(self, *_: Any) -> None: ...

        async def run(self, stop: asyncio.Event) -> None:
            if not left:
                stop.set()
                return
            error, self.progressed = left.pop(0)
            raise error

    monkeypatch.setattr(consumer_module, "_Membership", Membership)
    monkeypatch.setattr(consumer_module, "_BACKOFF_SECONDS", (0.0001, 0.001))
    settings = KafkaSettings(bootstrap_servers="127.0.0.1:1")
    producer = cast("EventProducer", None)
    consumer = EventConsumer(settings, group="strikes", topics=["t"], handlers={}, producer=producer)
    if outcome is None:
        await consumer.run(stop)
    else:
        with pytest.raises(outcome):
            await consumer.run(stop)
    assert left == []

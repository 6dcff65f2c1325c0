"""Events that come twice, in the wrong order, or that nobody can handle."""

import asyncio
import itertools
import os
import random
import statistics
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID, uuid4

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from shop_cluster.ports import HOST
from shop_common.events import orders, users
from shop_common.events.contract import PARTITIONS, Contract
from shop_common.events.envelope import Headers
from shop_common.events.money import Money
from shop_common.events.orders import OrderItem
from shop_common.kafka.topics import GROUPS
from shop_faults.lab import Lab, Topology, python_command
from shop_faults.scenario import Run, Scenario, wait_until_quiet
from shop_faults.snapshot import Snapshot

WORKERS: Final[Mapping[str, tuple[str, ...]]] = {
    "users-worker": ("users-worker", "users-mail"),
    "orders-worker": ("orders-worker",),
}
"""The worker processes and their consumer groups."""
_VERSIONS: Final = (3, 4, 5)
_ERRANDS: Final = 20
_FLOOR_SECONDS: Final = 0.25
_LARGE_BYTES: Final = 900_000


@asynccontextmanager
async def open_producer(lab: Lab) -> AsyncIterator[Any]:
    """One of the suite's own, for records that no service would send."""
    producer = AIOKafkaProducer(bootstrap_servers=f"{HOST}:{lab.state.ports['kafka']}", acks="all")
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def read_everything_again(run: Run) -> None:
    """Every group begins at the first record of its topic once more, and comes to the same result."""
    for _ in range(max(1, run.rounds // 3)):
        await run.pause(0.5, 2)
        async with run.fault("groups reset"):
            for name, groups in WORKERS.items():
                worker = run.lab.parts[name]
                worker.keep_alive = False
                await worker.stop()
                for group in groups:
                    await _reset(run.lab, group)
                await worker.start()
                worker.keep_alive = True
            await asyncio.gather(*(run.lab.parts[name].wait_ready() for name in WORKERS))


async def _reset(lab: Lab, group: str) -> None:
    """Only while the group has no members."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=f"{HOST}:{lab.state.ports['kafka']}", group_id=group, enable_auto_commit=False
    )
    await consumer.start()
    try:
        partitions = [TopicPartition(GROUPS[group], number) for number in range(PARTITIONS)]
        consumer.assign(partitions)
        await consumer.commit(dict.fromkeys(partitions, 0))
    finally:
        await consumer.stop()


async def two_relays(run: Run) -> None:
    """Two relays of each service that know nothing of each other's claims."""
    for name in ("users-worker", "orders-worker"):
        for each in (name, f"{name}-2"):
            run.lab.sabotage(each, MUTATION="claims_ignored")
            await run.lab.parts[each].restart()
    async with run.fault("two relays"):
        await run.pause(8, 12)


async def shuffle(run: Run) -> None:
    """Versions of aggregates nobody has, each sent in several orders and some twice: the highest counts."""
    run.verify = _highest_counts
    async with open_producer(run.lab) as producer:
        for _ in range(run.rounds):
            await run.pause(0.2, 1)
            for versions in itertools.permutations(_VERSIONS):
                await _send_shuffled(run, producer, versions)


def _highest_counts(run: Run, snapshot: Snapshot) -> None:
    kept = snapshot.databases
    seen = {key: row["version"] for key, row in (*kept.user_orders.items(), *kept.replica.items())}
    wrong = {key: seen.get(key) for key in run.lab.forged if seen.get(key) != max(_VERSIONS)}
    run.check("O5, highest version", ok=not wrong, detail=str(wrong)[:300])
    counts = [
        (row["orders"], row["paid"], row["cancelled"]) for key, row in kept.statistics.items() if key in run.lab.forged
    ]
    run.check("O5, counted once", ok=bool(counts) and set(counts) == {(1, 0, 1)}, detail=str(set(counts)))


async def _send_shuffled(run: Run, producer: Any, versions: Sequence[int]) -> None:
    user_id, order_id = uuid4(), uuid4()
    run.lab.forged |= {str(user_id), str(order_id)}
    twice = (*versions, run.numbers.choice(versions))
    for version in twice:
        deactivated = version == max(_VERSIONS)
        user = _forged_user(user_id, version, users.UserDeactivated if deactivated else users.UserUpdated)
        for contract in (user, _forged_order(order_id, user_id, version)):
            key, value, headers = contract.to_event().to_kafka()
            await producer.send_and_wait(contract.TOPIC, value=value, key=key, headers=headers)


def _forged_user(user_id: UUID, version: int, contract: type[users.UserState] = users.UserUpdated) -> Contract:
    now = datetime.now(UTC)
    return contract(
        id=user_id,
        email="nobody@example.com",
        username="nobody",
        full_name=None,
        role="customer",
        is_active=version < max(_VERSIONS),
        version=version,
        created_at=now,
        updated_at=now,
    )


def _forged_order(order_id: UUID, user_id: UUID, version: int) -> Contract:
    """Paid at first, cancelled in the end: impossible, and told apart by whoever counts."""
    now = datetime.now(UTC)
    contract = {3: orders.OrderConfirmed, 4: orders.OrderPaid, 5: orders.OrderCancelled}[version]
    statuses: Mapping[int, orders.OrderStatus] = {3: "confirmed", 4: "paid", 5: "cancelled"}
    price = Money(amount=100, currency="EUR")
    return contract(
        id=order_id,
        user_id=user_id,
        status=statuses[version],
        items=(OrderItem(sku="nothing", quantity=1, unit_price=price),),
        total=price,
        version=version,
        created_at=now,
        updated_at=now,
    )


def _poisonous(contract: Contract, numbers: random.Random) -> Iterator[tuple[bytes, Headers]]:
    """Values and headers that no handler can make sense of: from almost an event to nothing like one."""
    _, value, headers = contract.to_event().to_kafka()
    yield b'{"id": ', headers
    yield b'{"id": "nobody"}', headers
    yield b'"' + b"x" * _LARGE_BYTES + b'"', headers
    yield value, [(name, text) for name, text in headers if name != "ce_id"]
    yield value, [(name, text.replace(b".v1", b".v9") if name == "ce_type" else text) for name, text in headers]
    yield numbers.randbytes(50), []


async def poison(run: Run) -> None:
    """Each kind once per round and topic: put aside once by each group, while others' events pass as fast as before."""
    before = [await run.load.errand() for _ in range(_ERRANDS)]
    during: list[float] = []
    async with open_producer(run.lab) as producer, run.fault("poison"):
        for _ in range(run.rounds):
            await send_poison(run, producer)
            during += [await run.load.errand() for _ in range(max(1, _ERRANDS // run.rounds))]
    limit = 2 * max(before) + _FLOOR_SECONDS
    told = f"median {statistics.median(during):.2f} s, worst {max(during):.2f} s; before {max(before):.2f} s"
    run.check("O10", ok=max(during) <= limit, detail=told)


async def send_poison(run: Run, producer: Any) -> None:
    user_id, order_id = uuid4(), uuid4()
    run.lab.forged |= {str(user_id), str(order_id)}
    registered = _forged_user(user_id, 3, users.UserRegistered)  # both groups of its topic have a handler for it
    for contract in (registered, _forged_order(order_id, user_id, 3)):
        groups = [group for group, topic in GROUPS.items() if topic == contract.TOPIC]
        for value, headers in _poisonous(contract, run.numbers):
            key = run.numbers.randbytes(8).hex().encode()
            await producer.send_and_wait(contract.TOPIC, value=value, key=key, headers=headers)
            if run.expected_letters is not None:
                run.expected_letters += len(groups)


async def give_up_and_replay(run: Run) -> None:
    """Handlers that refuse a part of all events for a while; mended, and everything put aside replayed."""
    for name in WORKERS:
        run.lab.sabotage(name, MUTATION="handlers_refuse")
        await run.lab.parts[name].restart()
    run.expected_letters = None
    await run.pause(4, 8)
    for name in WORKERS:
        run.lab.sabotage(name)
        await run.lab.parts[name].restart()
    await run.load.stop()
    await wait_until_quiet(run.lab)
    for group in GROUPS:
        await replay(run, group)


async def replay(run: Run, group: str) -> None:
    """Send the group's dead letters back, by the command an operator has."""
    program = "shop_common.kafka.replay"
    arguments = (group, "--bootstrap-servers", f"{HOST}:{run.lab.state.ports['kafka']}", "--rate", "1000")
    process = await asyncio.create_subprocess_exec(
        *python_command("shop_faults.launch", program, *arguments),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "SHOP_FAULTS_MUTATION": run.replay_mutation},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    run.check(f"replay of {group}", ok=process.returncode == 0, detail=output.decode()[-300:])


SCENARIOS: Final = (
    Scenario("read-again", "duplicates", read_everything_again, 30),
    Scenario("two-relays", "duplicates", two_relays, 30, Topology(twice=frozenset({"users-worker", "orders-worker"}))),
    Scenario("shuffled", "out of order", shuffle, 20),
    Scenario("poison", "poison", poison, 20),
    Scenario("given-up", "poison", give_up_and_replay, 30),
)

"""Each failpoint still has its target, changes nothing until it is reached, and then kills the process once."""

import asyncio
import inspect
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from shop_common.events.envelope import event_id
from shop_common.events.money import Money
from shop_common.events.orders import OrderItem
from shop_common.outbox import OutboxRecord
from shop_faults import crash
from shop_faults.crash import Failpoint, Position, failpoint_patch
from shop_faults.failpoints import FAILPOINTS, ORDERS_API, ORDERS_WORKER, USERS_API, USERS_WORKER
from shop_faults.launch import prepare
from shop_faults.patch import find_target
from shop_orders.models import create_order
from shop_orders.store.outbox import OrderOutbox

POINTS = sorted(FAILPOINTS)
SOURCE = Path(__file__).parent / "src"
ROWS_OF_THE_SPECIFICATION = {
    "before the write",
    "written, reply lost",
    "before the relay is nudged",
    "sent, ack lost",
    "acked, killed before the mark",
}


class Sample:
    """What failpoints are laid around: one of each kind."""

    def __init__(self) -> None:
        self.calls: list[object] = []

    def plain(self, number: int) -> int:
        self.calls.append(number)
        return number + 1

    async def awaited(self, number: int, *, fail: bool = False) -> int:
        await asyncio.sleep(0)
        self.calls.append(number)
        if fail:
            raise LookupError(number)
        return number

    def future(self, number: int) -> Awaitable[int]:
        return asyncio.ensure_future(self.awaited(number))

    @asynccontextmanager
    async def context(self, number: int) -> AsyncIterator[int]:
        self.calls.append("enter")
        try:
            yield number
        except LookupError:
            self.calls.append("rolled back")
            raise
        self.calls.append("exit")


@pytest.fixture(name="sample")
def _sample() -> Sample:
    return Sample()


Install = Callable[..., None]


@pytest.fixture(name="install")
def _install(monkeypatch: pytest.MonkeyPatch, sample: Sample) -> Install:
    """Lay a failpoint around a method of Sample that notes `!` among its calls."""
    monkeypatch.setattr(crash, "find_target", lambda name: (Sample, name, getattr(Sample, name)))

    def install(name: str, position: Position, counts: crash.Counts = crash.always) -> None:
        point = Failpoint("sample", "shop_users.app", name, position, "", "", counts)
        monkeypatch.setattr(*failpoint_patch(point, lambda: sample.calls.append("!")))

    return install


def test_every_process_and_every_row_of_the_specification_has_one() -> None:
    assert {point.process for point in FAILPOINTS.values()} == {USERS_API, USERS_WORKER, ORDERS_API, ORDERS_WORKER}
    assert {point.crash_point for point in FAILPOINTS.values()} >= ROWS_OF_THE_SPECIFICATION
    assert all(point.healed_by for point in FAILPOINTS.values())


@pytest.mark.parametrize("name", POINTS)
def test_its_target_is_there_and_is_called_as_before(name: str) -> None:
    point = FAILPOINTS[name]
    owner, attribute, original = find_target(point.target)
    patch = failpoint_patch(point, lambda: None)
    assert (patch.owner, patch.name) == (owner, attribute)
    assert inspect.signature(patch.value) == inspect.signature(original)
    is_context = inspect.isasyncgenfunction(inspect.unwrap(original))
    assert is_context == (point.position == "inside")


async def test_before_a_call(sample: Sample, install: Install) -> None:
    install("plain", "before")
    install("awaited", "before")
    assert sample.plain(1) == 2
    assert await sample.awaited(7) == 7
    assert sample.calls == ["!", 1, "!", 7]


@pytest.mark.parametrize("name", ["awaited", "future"])
async def test_after_an_awaited_call(sample: Sample, install: Install, name: str) -> None:
    install(name, "after")
    assert await getattr(sample, name)(7) == 7
    assert sample.calls == [7, "!"]


async def test_after_a_plain_call(sample: Sample, install: Install) -> None:
    install("plain", "after")
    assert sample.plain(1) == 2
    assert sample.calls == [1, "!"]


async def test_a_call_that_raises_has_not_returned(sample: Sample, install: Install) -> None:
    install("awaited", "after")
    with pytest.raises(LookupError):
        await sample.awaited(7, fail=True)
    assert sample.calls == [7]


async def test_inside_a_context_is_before_it_ends_and_only_without_an_error(sample: Sample, install: Install) -> None:
    install("context", "inside")
    async with sample.context(7) as number:
        sample.calls.append(number)
    assert sample.calls == ["enter", 7, "!", "exit"]
    sample.calls.clear()
    with pytest.raises(LookupError):
        async with sample.context(7):
            raise LookupError
    assert sample.calls == ["enter", "rolled back"]


async def test_only_calls_that_count_are_counted(sample: Sample, install: Install) -> None:
    install("awaited", "after", lambda arguments, result: arguments[1] == 2 and bool(result))
    for number in (0, 1, 2):
        await sample.awaited(number)
    assert sample.calls == [0, 1, 2, "!"]


class Documents:
    """A database whose collections note what they are asked for."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def __getitem__(self, name: str) -> "Documents":
        return self

    async def update_many(self, _: Any, update: Mapping[str, Any]) -> None:
        self.steps.extend(update)


async def test_between_the_steps_of_the_orders_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    database: Any = Documents()

    async def settle(_: Any) -> None: ...

    monkeypatch.setattr(*failpoint_patch(FAILPOINTS["orders.relay.pulled"], lambda: database.steps.append("!")))
    await OrderOutbox(database, settle).mark_sent([_record()])
    assert database.steps == ["$pull", "!", "$unset"]


def _record() -> OutboxRecord:
    item = OrderItem(sku="a", quantity=1, unit_price=Money(amount=1, currency="EUR"))
    order = create_order(str(event_id("user", 1)), "key", [item], datetime.now(UTC))
    return OutboxRecord(order.id, "orders.events.v1", order.to_event(None))


def _run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - this interpreter, with what this test says
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": str(SOURCE), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


REACH = """
import os
from pathlib import Path
from shop_faults.crash import create_trigger
trigger = create_trigger(os.environ)
for number in range(25):
    if str(number) == os.environ.get("LIT_AT"):
        Path(os.environ["SHOP_FAULTS_FUSE"]).touch()
    print(number, flush=True)
    trigger.reached()
"""


def test_it_kills_the_process_once(tmp_path: Path) -> None:
    fuse = tmp_path / "fuse"
    fuse.touch()
    first = _run("-c", REACH, SHOP_FAULTS_FUSE=str(fuse), SHOP_FAULTS_AT="3")
    assert (first.returncode, first.stdout.split()) == (-signal.SIGKILL, ["0", "1", "2"])
    assert not fuse.exists()
    again = _run("-c", REACH, SHOP_FAULTS_FUSE=str(fuse), SHOP_FAULTS_AT="3")
    assert (again.returncode, len(again.stdout.split())) == (0, 25)


def test_it_counts_from_when_its_fuse_is_lit(tmp_path: Path) -> None:
    lit = _run("-c", REACH, SHOP_FAULTS_FUSE=str(tmp_path / "fuse"), SHOP_FAULTS_AT="2", LIT_AT="5")
    assert (lit.returncode, lit.stdout.split()) == (-signal.SIGKILL, ["0", "1", "2", "3", "4", "5", "6"])


@pytest.mark.parametrize(
    "environment",
    [
        {"SHOP_FAULTS_FAILPOINT": "nothing"},
        {"SHOP_FAULTS_FAILPOINT": "users.relay.read", "SHOP_FAULTS_FUSE": "/nowhere"},
        {"SHOP_FAULTS_FAILPOINT": "orders.place.written"},
        {"SHOP_FAULTS_FAILPOINT": "orders.place.written", "SHOP_FAULTS_FUSE": "/nowhere", "SHOP_FAULTS_AT": "0"},
        {"SHOP_FAULTS_MUTATION": "nothing"},
        {"SHOP_FAULTS_MUTATION": "skip_outbox"},
    ],
    ids=["unknown", "other process", "no fuse", "no number", "unknown mutation", "mutation of another process"],
)
def test_what_cannot_be_launched_is_told_in_one_line(
    environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        prepare("shop_orders.app", environment)
    assert refused.value.code == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("SHOP_FAULTS_")
    assert len(told.err.splitlines()) == 1


def test_a_module_is_run_as_a_program_with_its_arguments() -> None:
    ran = _run("-m", "shop_faults.launch", "shop_common.kafka.topics", "--help")
    assert ran.returncode == 0
    assert "python -m shop_common.kafka.topics" in ran.stdout
    assert ran.stderr == ""

"""`python -m shop_common.kafka.replay GROUP --bootstrap-servers HOST:PORT`: send dead letters back to where they lay.

Each selected letter goes to its original topic with the key, value and headers it had, so as the same event; the one
before it of the same key has been acked by then. All groups that read the topic see it again, and drop it by its id or
version as they drop any duplicate; the group that could not handle it tries anew, and puts it aside again if it still
cannot. Of a letter too large to be kept whole, the record is taken from its topic, if that still has it.

What has been replayed is marked in the dead letters' topic itself, by a small record behind the letter, and is skipped
from then on, unless `--all` is given. Offsets committed by a group would be less honest: they know one position, while
filters replay here and there, and brokers forget those of a group that has been away for a week. The mark is written
after the letter's ack, so an end in between replays it once more, which is safe.
"""

import argparse
import asyncio
import logging
import re
import sys
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NoReturn

from aiokafka.errors import KafkaError
from pydantic import ValidationError

from shop_common.errors import StartupError
from shop_common.events.envelope import Headers
from shop_common.kafka.deadletter import dead_letter_topic
from shop_common.kafka.letters import REPLAYED, DeadLetter, parse_letter
from shop_common.kafka.log_reader import LogReader, open_reader
from shop_common.kafka.producer import EventProducer, EventTooLarge, SendFailed, open_producer
from shop_common.kafka.settings import KafkaSettings

_GROUP = re.compile(r"[A-Za-z0-9._-]{1,200}")
_BURSTS_PER_SECOND: Final = 10
_PROGRESS_SECONDS: Final = 1.0
_MAX_RATE: Final = 10_000


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters; what is None or empty selects all."""

    ids: frozenset[uuid.UUID] = frozenset()
    type: str | None = None
    key: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    with_replayed: bool = False

    def takes(self, letter: DeadLetter) -> bool:
        return (
            (not self.ids or _event_id(letter) in self.ids)
            and self.type in {None, letter.header("ce_type")}
            and (self.key is None or letter.key == self.key.encode())
            and (self.since is None or letter.first_failed_at >= self.since)
            and (self.until is None or letter.first_failed_at < self.until)
        )


@dataclass(slots=True)
class Tally:
    selected: int = 0
    replayed: int = 0
    skipped: int = 0
    """Not selected, or replayed before."""
    failed: int = 0
    """Gone, too large for their topic, or no dead letters."""

    def __str__(self) -> str:
        return f"selected {self.selected}, replayed {self.replayed}, skipped {self.skipped}, failed {self.failed}"


@dataclass(slots=True)
class Replay:
    """One run over the dead letters of one group, up to where they end when it starts."""

    reader: LogReader
    topic: str
    selection: Selection
    tally: Tally = field(default_factory=Tally)
    _shown_at: float = field(default_factory=time.monotonic)

    async def list(self) -> None:
        """Print a line for each letter that would be replayed."""
        async for letter in self._selected():
            values = (
                letter.at,
                letter.header("ce_id"),
                letter.header("ce_type"),
                (letter.key or b"").decode(errors="replace"),
                letter.error,
                letter.attempts,
                letter.first_failed_at.isoformat(),
            )
            print("\t".join(_printable(value) for value in values))  # noqa: T201 - the command line's answer

    async def send(self, producer: EventProducer, rate: int) -> None:
        """Send them, at most `rate` a second. Raises SendFailed."""
        burst: dict[bytes | None, DeadLetter] = {}
        async for letter in self._selected():
            if letter.key in burst:
                await self._send(producer, burst, rate)
            burst[letter.key] = letter
            if len(burst) >= max(1, rate // _BURSTS_PER_SECOND):
                await self._send(producer, burst, rate)
        await self._send(producer, burst, rate)

    async def _send(self, producer: EventProducer, burst: dict[bytes | None, DeadLetter], rate: int) -> None:
        """Letters of different keys, at once."""
        started = time.monotonic()
        sent = await asyncio.gather(
            *(self._resend(producer, letter) for letter in burst.values()), return_exceptions=True
        )
        for error in sent:
            if error is not None:
                raise error
        if started - self._shown_at >= _PROGRESS_SECONDS:
            self._shown_at = started
            _tell(str(self.tally))
        await asyncio.sleep(max(0.0, started + len(burst) / rate - time.monotonic()))
        burst.clear()

    async def _resend(self, producer: EventProducer, letter: DeadLetter) -> None:
        try:
            await self._send_record(producer, letter.topic, letter.key, letter.value, letter.headers)
        except EventTooLarge as error:
            self._failed(letter.at, str(error))
            return
        self.tally.replayed += 1
        await self._send_record(producer, self.topic, letter.key, b"", [(REPLAYED, letter.at.encode())])

    async def _send_record(
        self, producer: EventProducer, topic: str, key: bytes | None, value: bytes | None, headers: Headers
    ) -> None:
        """Again where it failed since another letter of the burst was too large, which cost all their connection."""
        while True:
            failed = self.tally.failed
            try:
                await producer.send_record(topic, key, value, headers)
            except SendFailed:
                if self.tally.failed == failed:
                    raise
            else:
                return

    async def _selected(self) -> AsyncIterator[DeadLetter]:
        ends = await self.reader.ends(self.topic)
        # Read twice, since a mark lies behind its letter, and the letters may be more than memory holds.
        marks = {dict(record.headers).get(REPLAYED) async for record in self.reader.records(ends)}
        async for record in self.reader.records(ends):
            if REPLAYED in dict(record.headers):
                continue
            at = f"{record.partition}/{record.offset}"
            if at.encode() in marks and not self.selection.with_replayed:
                self.tally.skipped += 1
            elif letter := await self._read(record, at):
                if self.selection.takes(letter):
                    self.tally.selected += 1
                    yield letter
                else:
                    self.tally.skipped += 1

    async def _read(self, record: Any, at: str) -> DeadLetter | None:
        """The letter, whole; None, and told, where that is not to be had."""
        try:
            letter = parse_letter(record)
        except ValueError as error:
            self._failed(at, f"no dead letter: {error}")
            return None
        if not self.reader.has(letter.topic):
            self._failed(at, f"topic {letter.topic} is gone")
            return None
        if not letter.is_cut:
            return letter
        original = await self.reader.find_record(letter.topic, letter.partition, letter.offset)
        if original is None:
            place = f"{letter.topic}/{letter.partition}/{letter.offset}"
            self._failed(at, f"only its story was kept, and the record {place} is gone")
            return None
        return letter.whole(original)

    def _failed(self, at: str, reason: str) -> None:
        self.tally.failed += 1
        _tell(f"{at}: {reason}")


async def replay(settings: KafkaSettings, group: str, selection: Selection, rate: int | None) -> Tally:
    """Replay, or only list where `rate` is None. Raises StartupError."""
    topic, servers = dead_letter_topic(group), settings.bootstrap_servers
    tally = Tally()
    try:
        async with open_reader(servers) as reader:
            if not reader.has(topic):
                raise StartupError(f"there is no topic {topic} at {servers}; is {group} the group's name?")
            run = Replay(reader, topic, selection, tally)
            if rate is None:
                await run.list()
            else:
                async with open_producer(settings) as producer:
                    await run.send(producer, rate)
    except (KafkaError, SendFailed, OSError) as error:
        done = (
            f"; {tally}; start it again, what was replayed is skipped" if tally.replayed else "; is it running there?"
        )
        raise StartupError(f"Kafka at {servers} does not answer ({type(error).__name__}){done}") from error
    return tally


def _event_id(letter: DeadLetter) -> uuid.UUID | None:
    try:
        return uuid.UUID(letter.header("ce_id") or "")
    except ValueError:
        return None


def _printable(text: str | None) -> str:
    """Whoever wrote the record does not get to write to a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text or "-")


def _tell(line: str) -> None:
    print(_printable(line), file=sys.stderr)  # noqa: T201 - the command line's answer


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see --help\n")


def _group(text: str) -> str:
    if not _GROUP.fullmatch(text):
        raise argparse.ArgumentTypeError("not the name of a group")
    return text


def _servers(text: str) -> KafkaSettings:
    try:
        return KafkaSettings(bootstrap_servers=text)
    except ValidationError:
        raise argparse.ArgumentTypeError("not HOST:PORT") from None


def _event(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise argparse.ArgumentTypeError("not a UUID") from None


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError("not an RFC 3339 time such as 2026-03-01T12:00:00Z") from None
    if moment.tzinfo is None:
        raise argparse.ArgumentTypeError("a time needs its offset from UTC, such as Z")
    return moment


def _rate(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= _MAX_RATE:
        raise argparse.ArgumentTypeError(f"not a number from 1 to {_MAX_RATE}")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _Parser(prog="python -m shop_common.kafka.replay", description="Send dead letters back to their topics.")
    parser.add_argument("group", type=_group, metavar="GROUP", help="whose dead letters, such as orders-worker")
    parser.add_argument("--bootstrap-servers", required=True, type=_servers, metavar="HOST:PORT")
    parser.add_argument("--id", action="append", default=[], type=_event, metavar="UUID", help="may be repeated")
    parser.add_argument("--type", help="such as users.user_registered.v1")
    parser.add_argument("--key", help="the user's id")
    parser.add_argument("--since", type=_moment, metavar="TIME", help="first failed then or later; RFC 3339")
    parser.add_argument("--until", type=_moment, metavar="TIME", help="first failed before")
    parser.add_argument("--all", action="store_true", help="also what has been replayed before")
    parser.add_argument("--rate", type=_rate, default=100, metavar="N", help="letters per second (100)")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="only list them: partition/offset, event id, type, key, error, attempts, first failed",
    )
    options = parser.parse_args(arguments)
    chosen = Selection(
        frozenset(options.id), options.type, options.key, options.since, options.until, with_replayed=options.all
    )
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what went wrong is said once, below
    logging.getLogger("shop_common").setLevel(logging.CRITICAL)
    try:
        tally = asyncio.run(
            replay(options.bootstrap_servers, options.group, chosen, None if options.dry_run else options.rate)
        )
    except StartupError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the command line's answer
        return 1
    print(tally)  # noqa: T201 - the command line's answer
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())

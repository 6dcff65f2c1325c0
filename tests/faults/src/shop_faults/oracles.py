"""What must hold after any fault, once all is quiet; each oracle lists what contradicts it."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from pydantic_core import from_json

from shop_common.events.envelope import event_id
from shop_common.events.users import UserRegistered
from shop_common.kafka.topics import GROUPS
from shop_faults.ledger import Entry, Ledger
from shop_faults.snapshot import Logged, Snapshot, origin

Version = tuple[str, int]
_SHOWN: Final = 5


@dataclass(frozen=True)
class Evidence:
    """The ledger, and everything that can be read afterwards."""

    ledger: Ledger
    snapshot: Snapshot

    @cached_property
    def first(self) -> Mapping[Version, Logged]:
        """The first record of each version of each aggregate."""
        found: dict[Version, Logged] = {}
        for record in self.snapshot.log:
            if record.event is not None:
                found.setdefault(record.version, record)
        return found

    @cached_property
    def stored(self) -> Mapping[str, int]:
        """The latest version of each aggregate in the databases."""
        kept = (self.snapshot.databases.users, self.snapshot.databases.orders)
        return {key: row["version"] for rows in kept for key, row in rows.items()}

    @cached_property
    def placed(self) -> Mapping[str, list[str]]:
        """The orders made with each key, which is the name of their only item."""
        made = defaultdict(list)
        for order_id, order in self.snapshot.databases.orders.items():
            made[order["items"][0]["sku"]].append(order_id)
        return made

    @cached_property
    def registered(self) -> Mapping[str, list[str]]:
        made = defaultdict(list)
        for user_id, user in self.snapshot.databases.users.items():
            made[user["email"]].append(user_id)
        return made

    def data(self, version: Version) -> Mapping[str, Any]:
        """The event's own data; empty where the version is not in the log."""
        record = self.first.get(version)
        return from_json(record.event.data) if record is not None and record.event is not None else {}


@dataclass(frozen=True, slots=True)
class Oracle:
    name: str
    statement: str
    contradictions: Callable[[Evidence], Iterator[str]]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one oracle says; `detail` names the first contradictions and how many there are."""

    oracle: str
    ok: bool
    detail: str


def judge(evidence: Evidence) -> list[Finding]:
    return [finding(oracle.name, oracle.contradictions(evidence)) for oracle in ORACLES]


def finding(name: str, contradictions: Iterable[str]) -> Finding:
    found = list(contradictions)
    shown = "; ".join(found[:_SHOWN])
    return Finding(name, not found, f"{len(found)}: {shown}" if found else "")


def _acked_is_stored(evidence: Evidence) -> Iterator[str]:
    for entry in evidence.ledger.of("unknown"):
        yield f"{entry.kind} {entry.key} never got a verdict"
    for entry in evidence.ledger.of("untold"):
        if evidence.snapshot.databases.users[entry.user_id]["is_active"]:
            yield f"{entry.kind} {entry.key} was never told to an account that is active"
    for entry in evidence.ledger.of("acked"):
        if evidence.stored.get(entry.aggregate_id, 0) < entry.version:
            yield f"{entry.kind} {entry.key}: version {entry.version} of {entry.aggregate_id} is lost"
        elif not _is_as_asked(entry, evidence.data((entry.aggregate_id, entry.version))):
            yield f"{entry.kind} {entry.key}: version {entry.version} of {entry.aggregate_id} is something else"


def _is_as_asked(entry: Entry, data: Mapping[str, Any]) -> bool:
    """Whether the version that a client was told of does what that client asked for."""
    match entry.kind:
        case "register":
            return bool(data.get("email") == entry.key)
        case "change":
            return bool(data.get("full_name") == entry.key)
        case "deactivate":
            return data.get("is_active") is False
        case "place":
            return bool(data.get("total", {}).get("amount") == entry.amount)
        case "pay":
            return bool(data.get("status") == "paid")
        case "cancel":
            return bool(data.get("status") == "cancelled")


def _one_effect_per_key(evidence: Evidence) -> Iterator[str]:
    for entry in evidence.ledger.entries.values():
        if entry.kind in {"place", "register"}:
            made = (evidence.placed if entry.kind == "place" else evidence.registered).get(entry.key, [])
            allowed = {"acked": {1}, "untold": {0, 1}}.get(entry.outcome, {0})
            if len(made) not in allowed:
                yield f"{entry.kind} {entry.key}, {entry.outcome}, made {len(made)}"
        elif entry.outcome == "rejected" and entry.kind in {"pay", "cancel"}:
            cause = f"{'paid' if entry.kind == 'pay' else 'cancelled'} {entry.key}"
            if any(cause in order["applied"] for order in evidence.snapshot.databases.orders.values()):
                yield f"{cause} was rejected and done"


def _log_is_the_databases(evidence: Evidence) -> Iterator[str]:
    stored = {(key, version) for key, latest in evidence.stored.items() for version in range(1, latest + 1)}
    logged = set(evidence.first)
    for key, version in sorted(stored - logged):
        yield f"version {version} of {key} is not in the log"
    for key, version in sorted(logged - stored):
        yield f"version {version} of {key} is only in the log"
    for event in (record.event for record in evidence.snapshot.log):
        if event is not None and event.id != event_id(event.subject, event.sequence):
            yield f"version {event.sequence} of {event.subject} is event {event.id}"
    if evidence.snapshot.databases.outbox:
        yield f"{evidence.snapshot.databases.outbox} events are not published"


def _first_occurrences_ascend(evidence: Evidence) -> Iterator[str]:
    seen: dict[str, int] = {}
    for record in evidence.first.values():  # by partition and offset, and an aggregate is all in one partition
        key, version = record.version
        if version < seen.get(key, 0):
            yield f"version {version} of {key} comes after {seen[key]}"
        seen[key] = version


def _projections_are_folds(evidence: Evidence) -> Iterator[str]:
    kept = evidence.snapshot.databases
    replica = {key: (row["version"], row["is_active"]) for key, row in kept.replica.items()}
    yield from _differences(
        "replica of user", replica, {key: (row["version"], row["is_active"]) for key, row in kept.users.items()}
    )
    copies = {key: _copy(row["version"], row["status"], row) for key, row in kept.user_orders.items()}
    yield from _differences(
        "copy of order",
        copies,
        {key: _copy(row["version"], row["status"], row["total"]) for key, row in kept.orders.items()},
    )
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    spent: Counter[tuple[str, str]] = Counter()
    for order in kept.orders.values():
        count = counts[order["user_id"]]
        count[0] += 1
        count[1] += order["status"] == "paid"
        count[2] += order["status"] == "cancelled"
        if order["status"] == "paid":
            spent[order["user_id"], order["total"]["currency"]] += order["total"]["amount"]
        if order["status"] in {"pending", "confirmed"} and not kept.users[order["user_id"]]["is_active"]:
            yield f"order {order['_id']} of a deactivated user is {order['status']}"
    statistics = {key: [row["orders"], row["paid"], row["cancelled"]] for key, row in kept.statistics.items()}
    yield from _differences("statistics of user", statistics, dict(counts))
    yield from _differences("money spent by", kept.spending, dict(spent))
    welcomed = {str(event_id(key, 1)) for key in kept.users}
    for each in sorted(welcomed):
        if each not in kept.mails_sent or not kept.mails[each]:
            yield f"no welcome mail for event {each}"


def _copy(version: int, status: str, money: Mapping[str, Any]) -> tuple[int, str, int, str]:
    return version, status, money["amount"], money["currency"]


def _differences(what: str, projected: Mapping[Any, Any], folded: Mapping[Any, Any]) -> Iterator[str]:
    for key in projected.keys() | folded.keys():
        if projected.get(key) != folded.get(key):
            yield f"{what} {key}: {projected.get(key)}, not {folded.get(key)}"


@dataclass(frozen=True, slots=True)
class Totals:
    """What a cluster has come to since it began."""

    events: int = 0
    duplicates: int = 0
    """Records of the topics beyond the first of each version: none without a fault."""
    letters: int = 0

    def since(self, earlier: "Totals") -> "Totals":
        return Totals(
            self.events - earlier.events, self.duplicates - earlier.duplicates, self.letters - earlier.letters
        )


def count(snapshot: Snapshot) -> Totals:
    versions = Counter(record.version for record in snapshot.log if record.event is not None)
    events = sum(versions.values())
    return Totals(events, events - len(versions), sum(map(len, snapshot.dead.values())))


def _everything_is_accounted_for(evidence: Evidence) -> Iterator[str]:
    done = Accounts(evidence.snapshot)
    for group, topic in GROUPS.items():
        for record in evidence.snapshot.log:
            if record.topic == topic and not done.is_done(group, record):
                yield f"{group} did nothing with {topic} {record.partition}:{record.offset}"


def committed_but_not_done(snapshot: Snapshot) -> Iterator[str]:
    """Also true of a moment in the middle of it all, if the offsets were read first."""
    done = Accounts(snapshot)
    for group, topic in GROUPS.items():
        for record in snapshot.log:
            committed = snapshot.committed[group].get((topic, record.partition), 0)
            if record.topic == topic and record.offset < committed and not done.is_done(group, record):
                yield f"{group} committed {committed} of {topic} {record.partition}, and did not do {record.offset}"


class Accounts:
    """What each group has done with a record: applied it, put it aside, or had no use for its type."""

    def __init__(self, snapshot: Snapshot) -> None:
        kept = snapshot.databases
        self._aside = {group: {origin(letter) for letter in letters} for group, letters in snapshot.dead.items()}
        self._applied: Mapping[str, Mapping[str, int]] = {
            "users-worker": {key: row["version"] for key, row in kept.user_orders.items()},
            "orders-worker": {key: row["version"] for key, row in kept.replica.items()},
        }
        self._mails = kept.mails_sent

    def is_done(self, group: str, record: Logged) -> bool:
        if (record.topic, record.partition, record.offset) in self._aside[group]:
            return True
        if record.event is None:
            return False
        if group == "users-mail":
            return record.event.type != UserRegistered.TYPE or str(record.event.id) in self._mails
        key, version = record.version
        return self._applied[group].get(key, 0) >= version


def _committed_is_done(evidence: Evidence) -> Iterator[str]:
    return committed_but_not_done(evidence.snapshot)


ORACLES: Final[Sequence[Oracle]] = (
    Oracle("O1", "what was acknowledged is stored", _acked_is_stored),
    Oracle("O2", "each key made exactly one aggregate, and what was rejected none", _one_effect_per_key),
    Oracle("O3", "the versions in Kafka are the versions in the databases", _log_is_the_databases),
    Oracle("O4", "first occurrences of an aggregate's versions ascend", _first_occurrences_ascend),
    Oracle("O5", "each projection is the fold of the databases, in counts and in money", _projections_are_folds),
    Oracle("O7", "each event was applied, put aside, or of no interest", _everything_is_accounted_for),
    Oracle("O8", "nothing is committed that was not done", _committed_is_done),
)
"""O6 (duplicates), O9 (recovery) and O10 (latency of others) are numbers: the report has them, scenarios bound them."""

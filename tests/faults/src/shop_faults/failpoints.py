"""The points at which a process kills itself: each lies between two steps whose order the promise rests on."""

from collections.abc import Mapping
from typing import Any, Final

from shop_faults.crash import Counts, Failpoint, Position, Process, always

USERS_API: Final = "shop_users.app"
USERS_WORKER: Final = "shop_users.worker"
ORDERS_API: Final = "shop_orders.app"
ORDERS_WORKER: Final = "shop_orders.worker"


def _done(_: tuple[Any, ...], result: Any) -> bool:
    """What answers with a bool, a row or a list has done something."""
    return bool(result)


def _any_given(arguments: tuple[Any, ...], _: Any) -> bool:
    return bool(arguments[1])


def _pulls(arguments: tuple[Any, ...], _: Any) -> bool:
    return "outbox" in arguments[1].get("$pull", {})


# The rows of the specification's table of crash points, and below them those of the same kind that it leaves out.
_BEFORE_WRITE: Final = "before the write"
_WRITTEN: Final = "written, reply lost"
_NOT_NUDGED: Final = "before the relay is nudged"
_NOT_ACKED: Final = "sent, ack lost"
_ACKED: Final = "acked, killed before the mark"
_READ: Final = "read by the relay, not sent"
_HALF_MARKED: Final = "between the two steps of the mark"
_MARKED: Final = "marked"
_NOT_BEGUN: Final = "consumed, before the effect"
_NOT_COMMITTED: Final = "effect in a transaction that is not committed"
_HALF_APPLIED: Final = "between two writes of one effect"
_APPLIED: Final = "effect done, offset not completed"
_COMPLETED: Final = "offset completed, not committed"
_OFFSET_COMMITTED: Final = "offset committed"
_NO_LETTER: Final = "given up, no dead letter yet"
_LETTER: Final = "dead letter acked, offset not completed"

_RETRY: Final = "nothing was written: the client tries again, with its key"
_SAME_KEY: Final = "the client tries again: the same key finds what was stored"
_SAME_EMAIL: Final = "the client tries again and hears that the address is taken, and logs in"
_SAME_VERSION: Final = "the client reads: If-Match of the old version fails, and the new one is there"
_NEW_LOGIN: Final = "the old token ends the session, the new one was not heard of: the client logs in"
_UNUSED_SESSION: Final = "the client logs in again; the session nobody has a token of expires"
_POLL: Final = "the relay polls whatever is there, within a second"
_DUPLICATE: Final = "sent again with the same event id: the version guard or the inbox drops the duplicate"
_NOTHING_LEFT: Final = "nothing is left to be done"
_READ_AGAIN: Final = "the offset is not committed: the record is read again"
_GUARDED: Final = "the record is read again, and has no effect twice"
_LETTER_TWICE: Final = "the record is read again and put aside again: two letters of one offset"
_CLAIM_ENDS: Final = "the claim of the mail runs out after a minute: sent then"
_MAIL_TWICE: Final = "the claim runs out and the mail is sent again, with the same Message-ID"

_TRACKER: Final = "shop_common.kafka.tracker:OffsetTracker"
_PUT_ASIDE: Final = "shop_common.kafka.delivery:Delivery._put_aside"
_ON_ACK: Final = "aiokafka.producer.sender:SendProduceReqHandler.handle_response"
_TRANSACTION: Final = "shop_common.postgres:Postgres.transaction"
_ROWS: Final = "shop_users.store.relay:PostgresOutbox"
_DOCUMENTS: Final = "shop_orders.store.outbox:OrderOutbox"
_USERS: Final = "shop_users.store.users:UserStore"
_NUDGER: Final = "shop_users.store.outbox:_Nudger"
_SESSIONS: Final = "shop_users.store.sessions:SessionStore"
_STATISTICS: Final = "shop_users.store.statistics:StatisticsStore"
_MAILS: Final = "shop_users.store.mails:MailStore"
_ORDERS: Final = "shop_orders.store.orders:OrderStore"
_REPLICA: Final = "shop_orders.store.users:UserReplica"
_USE_CASES: Final = "shop_orders.service:OrderService"

_Row = tuple[str, Position, str, str, str] | tuple[str, Position, str, str, str, Counts]


def _of(process: Process, *rows: _Row) -> list[Failpoint]:
    points = []
    for row in rows:
        name, position, target, crash_point, healed_by, *counts = row
        condition = counts[0] if counts else always
        points.append(Failpoint(name, process, target, position, crash_point, healed_by, condition))
    return points


def _of_relay(service: str, outbox: str) -> list[_Row]:
    return [
        (f"{service}.relay.read", "after", f"{outbox}.pending", _READ, _POLL, _done),
        (f"{service}.relay.in_log", "before", _ON_ACK, _NOT_ACKED, _DUPLICATE),
        (f"{service}.relay.acked", "before", f"{outbox}.mark_sent", _ACKED, _DUPLICATE),
        (f"{service}.relay.marked", "after", f"{outbox}.mark_sent", _MARKED, _NOTHING_LEFT),
    ]


def _of_consumer(service: str) -> list[_Row]:
    return [
        (f"{service}.consumer.completed", "after", f"{_TRACKER}.complete", _COMPLETED, _GUARDED),
        (f"{service}.consumer.offset_committed", "before", f"{_TRACKER}.committed", _OFFSET_COMMITTED, _NOTHING_LEFT),
        (f"{service}.consumer.no_dead_letter", "before", _PUT_ASIDE, _NO_LETTER, _READ_AGAIN),
        (f"{service}.consumer.dead_letter", "after", _PUT_ASIDE, _LETTER, _LETTER_TWICE, _done),
    ]


_POINTS: Final = [
    *_of(
        USERS_API,
        ("users.register.before_write", "before", f"{_USERS}.insert", _BEFORE_WRITE, _RETRY),
        ("users.register.written", "after", f"{_USERS}.insert", _WRITTEN, _SAME_EMAIL),
        ("users.change.before_write", "before", f"{_USERS}.update", _BEFORE_WRITE, _RETRY),
        ("users.change.in_transaction", "inside", _TRANSACTION, _BEFORE_WRITE, _RETRY),
        ("users.change.written", "after", f"{_USERS}.update", _WRITTEN, _SAME_VERSION, _done),
        ("users.api.before_nudge", "before", f"{_NUDGER}.nudge", _NOT_NUDGED, _POLL),
        ("users.login.written", "after", f"{_SESSIONS}.begin", _WRITTEN, _UNUSED_SESSION, _done),
        ("users.refresh.before_write", "before", f"{_SESSIONS}.rotate", _BEFORE_WRITE, _RETRY),
        ("users.refresh.written", "after", f"{_SESSIONS}.rotate", _WRITTEN, _NEW_LOGIN, _done),
    ),
    *_of(
        USERS_WORKER,
        *_of_relay("users", _ROWS),
        *_of_consumer("users"),
        ("users.statistics.before", "before", f"{_STATISTICS}.apply", _NOT_BEGUN, _READ_AGAIN),
        ("users.statistics.in_transaction", "inside", _TRANSACTION, _NOT_COMMITTED, _READ_AGAIN),
        ("users.statistics.committed", "after", f"{_STATISTICS}.apply", _APPLIED, _GUARDED),
        ("users.mail.claimed", "after", f"{_MAILS}.claim", _NOT_BEGUN, _CLAIM_ENDS, _done),
        ("users.mail.accepted", "after", "shop_users.mail:Mailer.send", _HALF_APPLIED, _MAIL_TWICE),
        ("users.mail.noted", "after", f"{_MAILS}.mark_sent", _APPLIED, _GUARDED),
    ),
    *_of(
        ORDERS_API,
        ("orders.place.before_write", "before", f"{_ORDERS}.insert", _BEFORE_WRITE, _RETRY),
        ("orders.place.written", "after", f"{_ORDERS}.insert", _WRITTEN, _SAME_KEY, _done),
        ("orders.command.before_write", "before", f"{_ORDERS}.move", _BEFORE_WRITE, _RETRY),
        ("orders.command.written", "after", f"{_ORDERS}.move", _WRITTEN, _SAME_KEY, _done),
    ),
    *_of(
        ORDERS_WORKER,
        *_of_relay("orders", _DOCUMENTS),
        ("orders.relay.settled", "after", f"{_USE_CASES}.settle", _READ, _POLL, _any_given),
        *_of_consumer("orders"),
        ("orders.replica.before", "before", f"{_REPLICA}.put", _NOT_BEGUN, _READ_AGAIN),
        ("orders.replica.written", "after", f"{_REPLICA}.put", _HALF_APPLIED, _READ_AGAIN),
        ("orders.replica.moved", "after", f"{_ORDERS}.move", _HALF_APPLIED, _GUARDED, _done),
        ("orders.replica.followed", "after", f"{_USE_CASES}.follow_user", _APPLIED, _GUARDED),
        ("orders.worker.before_nudge", "before", "shop_common.outbox:OutboxRelay.nudge", _NOT_NUDGED, _POLL),
    ),
    Failpoint(
        name="orders.relay.pulled",
        process=ORDERS_WORKER,
        target=f"{_DOCUMENTS}.mark_sent",
        position="step",
        step="_orders.update_many",
        crash_point=_HALF_MARKED,
        healed_by=_POLL,
        counts=_pulls,
    ),
]
FAILPOINTS: Final[Mapping[str, Failpoint]] = {point.name: point for point in _POINTS}

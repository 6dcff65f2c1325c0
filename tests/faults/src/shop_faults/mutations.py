"""Mechanisms broken on purpose, one at a time, to see which oracle notices: one that never failed proves nothing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from shop_faults import broken
from shop_faults.failpoints import ORDERS_API, ORDERS_WORKER, USERS_API, USERS_WORKER
from shop_faults.patch import Patch

Oracle = Literal["O1", "O2", "O3", "O4", "O5", "O6", "O7", "O8", "O9", "O10"]
Fault = Literal[
    "none",
    "failpoint",
    "duplicates",
    "out of order",
    "rows locked and worker killed",
    "rows locked and members join",
    "broker killed",
    "broker frozen",
    "databases killed",
    "poison",
    "poison and replay",
]

REPLAY: Final = "shop_common.kafka.replay"
_WORKERS: Final = (USERS_WORKER, ORDERS_WORKER)


@dataclass(frozen=True, slots=True)
class Mutation:
    name: str
    processes: tuple[str, ...]
    """The modules of those that are to be launched with it."""
    breaks: str
    fault: Fault
    """What happens to the cluster meanwhile."""
    caught_by: tuple[Oracle, ...]
    """At least one of them must fail. None where another mechanism makes up for it: then all must hold."""
    patches: Callable[[], list[Patch]]
    failpoints: tuple[str, ...] = ()
    """One for each process, at which its death makes the loss certain; for the fault of that name, or with another."""


_MUTATIONS: Final = (
    Mutation(
        "commit_before_processing",
        _WORKERS,
        "An offset may be committed as soon as its record was fetched",
        "rows locked and worker killed",
        ("O5", "O7", "O8"),
        broken.commit_before_processing,
        ("users.consumer.offset_committed", "orders.consumer.offset_committed"),
    ),
    Mutation(
        "commit_highest_done",
        _WORKERS,
        "The highest offset done is committed, over the heads of those still under way",
        "rows locked and worker killed",
        ("O5", "O7", "O8"),
        broken.commit_highest_done,
        ("users.consumer.offset_committed", "orders.consumer.offset_committed"),
    ),
    Mutation(
        "revoke_commits_fetched",
        _WORKERS,
        "A partition that is given up is committed up to what was fetched of it",
        "rows locked and members join",
        ("O5", "O7", "O8"),
        broken.revoke_commits_fetched,
    ),
    Mutation(
        "drain_without_end",
        _WORKERS,
        "A partition is given up only when every handler of it has ended, however long that takes",
        "rows locked and members join",
        ("O10",),
        broken.drain_without_end,
    ),
    Mutation(
        "statistics_without_guard",
        (USERS_WORKER,),
        "The statistics take any version of an order for its latest",
        "out of order",
        ("O5",),
        broken.statistics_without_guard,
    ),
    Mutation(
        "statistics_count_twice",
        (USERS_WORKER,),
        "The statistics count an event that they have counted before",
        "duplicates",
        ("O5",),
        broken.statistics_count_twice,
    ),
    Mutation(
        "replica_without_guard",
        (ORDERS_WORKER,),
        "The replica of users takes any version for the latest",
        "out of order",
        ("O5",),
        broken.replica_without_guard,
    ),
    Mutation(
        "mail_without_inbox",
        (USERS_WORKER,),
        "Nobody asks whether a welcome mail was sent",
        "duplicates",
        ("O5",),
        broken.mail_without_inbox,
    ),
    Mutation(
        "claims_ignored",
        _WORKERS,
        "A relay sends what another one has claimed; that adds duplicates, which the consumers drop",
        "none",
        (),
        broken.claims_ignored,
    ),
    Mutation(
        "handlers_refuse",
        _WORKERS,
        "Handlers refuse a part of all events for a while; the replay of the dead letters makes up for it",
        "poison and replay",
        (),
        broken.handlers_refuse,
    ),
    Mutation(
        "unkeyed",
        _WORKERS,
        "Records of one key are handled at once; the version guards make up for it",
        "none",
        (),
        broken.unkeyed,
    ),
    Mutation(
        "unkeyed_without_guard",
        (USERS_WORKER,),
        "Records of one key are handled at once, and the statistics have no version guard to make up for it",
        "none",
        ("O5",),
        broken.unkeyed_without_guard,
    ),
    Mutation(
        "publish_before_write",
        (USERS_API,),
        "A registration is published by the API before it is written",
        "failpoint",
        ("O3",),
        broken.publish_before_write,
        ("users.register.before_write",),
    ),
    Mutation(
        "skip_outbox",
        (USERS_API,),
        "A registration is published by the API after it was written, and is not in the outbox",
        "failpoint",
        ("O3", "O5"),
        broken.skip_outbox,
        ("users.register.written",),
    ),
    Mutation(
        "mark_before_ack",
        _WORKERS,
        "The relay removes events from the outbox before they are sent",
        "failpoint",
        ("O3",),
        broken.mark_before_ack,
        ("users.relay.marked", "orders.relay.marked"),
    ),
    Mutation(
        "poll_past_the_last_seen",
        (USERS_WORKER,),
        "The relay reads only what is newer than all it has read, so it never reads again what was not acked",
        "broker killed",
        ("O3", "O9"),
        broken.poll_past_the_last_seen,
    ),
    Mutation(
        "never_poll",
        (ORDERS_WORKER,),
        "The relay waits to be nudged and does not poll, and the nudges are lost",
        "none",
        ("O3", "O9"),
        broken.never_poll,
    ),
    Mutation(
        "send_in_parallel",
        _WORKERS,
        "A version is sent without waiting for the ack of the one before",
        "none",
        ("O4",),
        broken.send_in_parallel,
    ),
    Mutation(
        "producer_kept",
        _WORKERS,
        "A producer is used on after a timeout; aiokafka makes up for it where the broker was only frozen",
        "broker frozen",
        (),
        broken.producer_kept,
    ),
    Mutation(
        "random_order_id",
        (ORDERS_API,),
        "The same key does not give the same order",
        "failpoint",
        ("O2",),
        broken.random_order_id,
        ("orders.place.written",),
    ),
    Mutation(
        "dead_letter_dropped",
        _WORKERS,
        "A record that cannot be handled is done with, without a dead letter",
        "poison",
        ("O7",),
        broken.dead_letter_dropped,
    ),
    Mutation(
        "outage_spends_tries",
        _WORKERS,
        "Records are given up while a database is away",
        "databases killed",
        ("O5",),
        broken.outage_spends_tries,
    ),
    Mutation(
        "replay_with_new_id",
        (REPLAY,),
        "A dead letter is replayed as another event",
        "poison and replay",
        ("O3",),
        broken.replay_with_new_id,
    ),
)
MUTATIONS: Final[Mapping[str, Mutation]] = {mutation.name: mutation for mutation in _MUTATIONS}

/* The consumer: one partition with two keys, written as relay.pml proves it (versions in order, repeated at will), and
 * two members of the group, which are killed, or lose the partition without hearing of it, until `calm`.
 *
 * model: a group's effects in the service's own database
 * broken HIGHEST (safety): the offset after the highest done is committed
 * broken COMMIT_FIRST (safety): what was fetched is committed, as a bare commit() does
 * broken NO_GUARD (safety): an event's effect does not depend on the version known
 * broken SPLIT (safety): the version is compared in one transaction and the effect written in another
 * broken UNORDERED (safety): a key's records are handled at the same time
 */
#define LENGTH 3
#define KEYS 2
#define REBALANCES 3

#define FETCHED 1                /* in its key's mailbox */
#define APPLIED 2                /* its transaction is committed, and the handler does not know yet */
#define DONE 3
#define CHECKED 4                /* only in SPLIT */

byte key[LENGTH], version[LENGTH], end_offset = 0;
byte first[KEYS];                /* versions of which the log has a first occurrence */
byte projection[KEYS];           /* the consumer's database: the version whose effect was written last */
byte committed = 0;              /* the group's offset */
byte owner = 0, epoch = 1;       /* whose partition it is, since which rebalance */
bool calm = false;
bool written = false;            /* the log is there */

#ifdef NO_GUARD
#define newer(o) true
#else
#define newer(o) (version[o] > projection[key[o]])
#endif

/* The effect; in one transaction with newer(o), except in SPLIT. */
inline write(o) {
    assert(version[o] == projection[key[o]] + 1);                     /* each version once, and none skipped */
    projection[key[o]] = version[o]
}

/* Any log that the relays may write: when a record is fetched says nothing about when it was written. Then the group's
 * coordinator: a member may lose its partition at any time without hearing of it, and may get it back. */
active proctype Kafka() {
    byte k, v;
    atomic {
        do
        :: end_offset < LENGTH ->
            select (k : 0 .. (end_offset == 0 -> 0 : KEYS - 1));      /* which key is the first is only a name */
            select (v : 1 .. first[k] + 1);
            key[end_offset] = k;
            version[end_offset] = v;
            first[k] = (v > first[k] -> v : first[k]);
            end_offset++
        :: end_offset == LENGTH -> break
        od;
        written = true
    }
    do
    :: atomic { !calm && epoch < REBALANCES -> epoch++; owner = 1 - owner }
    :: calm = true; break
    od
}

/* OffsetTracker.position, of a member. */
#if defined(HIGHEST)
#define done_up_to (done(2) -> 3 : (done(1) -> 2 : (done(0) -> 1 : start)))
#elif defined(COMMIT_FIRST)
#define done_up_to position
#else
#define done_up_to (!past(0) -> 0 : (!past(1) -> 1 : (!past(2) -> 2 : 3)))
#endif
#define done(o) (state[o] == DONE)
#define past(o) (o < start || done(o))

/* The record is the oldest of its key that is not done. */
#define under_way(o) (state[o] == FETCHED || state[o] == CHECKED || state[o] == APPLIED)
#ifdef UNORDERED
#define behind(o, older) false
#else
#define behind(o, older) (older < o && key[older] == key[o] && under_way(older))
#endif
#define ready(o) (under_way(o) && !behind(o, 0) && !behind(o, 1))

inline work(o) {
    if
#ifdef SPLIT
    :: state[o] == FETCHED && version[o] > projection[key[o]] -> state[o] = CHECKED
    :: state[o] == FETCHED && version[o] <= projection[key[o]] -> state[o] = APPLIED
    :: state[o] == CHECKED -> write(o); state[o] = APPLIED
#else
    :: state[o] == FETCHED && newer(o) -> write(o); state[o] = APPLIED
    :: state[o] == FETCHED && !newer(o) -> state[o] = APPLIED
#endif
    :: state[o] == APPLIED -> state[o] = DONE
    :: state[o] == APPLIED && !calm -> state[o] = FETCHED             /* its reply is lost: once more */
    fi
}

/* Whatever is committed has had its effect. */
inline check_committed() {
    assert(committed < 1 || version[0] <= projection[key[0]]);
    assert(committed < 2 || version[1] <= projection[key[1]]);
    assert(committed < 3 || version[2] <= projection[key[2]])
}

active [2] proctype Member() {
    byte me, mine, start, position, last, o;
    byte state[LENGTH];
    me = _pid - 1;

    /* Assigned: a new tracker, and mailboxes that are empty. */
end:
    atomic {
        written && owner == me && mine != epoch ->
        mine = epoch;
        start = committed;
        position = committed;
        last = committed
    }
end_work:
    do
    /* _fetch: a batch; aiokafka goes on returning what it has after the partition is lost. */
    :: atomic {
            position < LENGTH ->
            for (o : position .. LENGTH - 1) { state[o] = FETCHED }
            position = LENGTH;
            o = 0
        }

    /* Mailboxes._work, one per key: the oldest record not done. */
    :: atomic { ready(0) -> work(0) }
    :: atomic { ready(1) -> work(1) }
    :: atomic { ready(2) -> work(2) }

    /* _commit_often: OffsetTracker.to_commit. */
    :: atomic { mine == epoch && done_up_to > last -> last = done_up_to; committed = last; check_committed() }
    :: mine != epoch && done_up_to > last -> break                    /* refused: that epoch is over */

    /* A heartbeat tells it, or it is killed: then the coordinator gives the partition to either. */
    :: mine != epoch -> break
    :: atomic { !calm && mine == epoch && epoch < REBALANCES -> epoch++; break }
    :: atomic { !calm && mine == epoch && epoch < REBALANCES -> epoch++; owner = 1 - owner; break }
    od;
    atomic {
        for (o : 0 .. LENGTH - 1) { state[o] = 0 }
        o = 0;
        start = 0;
        position = 0;
        last = 0
    }
    goto end
}

ltl consumed {
    <> [] (written && committed == end_offset && projection[0] == first[0] && projection[1] == first[1])
}

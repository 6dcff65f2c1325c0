/* The outbox relay: one aggregate of three versions, two relays that both believe it is theirs, a broker that loses
 * requests and acks, and crashes at every step, as many as there may be, until `calm`.
 *
 * model: rows of a table (users)
 * model EMBEDDED: events inside their document, which is found by its pending_at (orders)
 * broken NO_WAIT (safety): version n+1 is sent before the ack of version n
 * broken GO_ON (safety): after a failed send the aggregate's next version is sent
 * broken DELETE_FIRST (safety): rows are deleted before they are sent
 * broken SKIP_LOCKED (safety): relays claim rows one by one instead of an aggregate
 * broken EMBEDDED UNSET_ALWAYS (liveness): pending_at is removed whether or not the document's outbox is empty
 * broken EMBEDDED LEAVE_EMPTY (liveness): a document that waits with an empty outbox is passed over
 */
#define VERSIONS 3
#define LIMIT 2                  /* _BATCH: smaller than what there is, so that a read ends between two versions */

byte committed = 0;
bool row[VERSIONS + 1];          /* the outbox */
bool logged[VERSIONS + 1];       /* has been appended to Kafka's log; how often does not matter here */
bool late[VERSIONS + 1];         /* requests whose sender has given up and which may still reach the broker */
bool calm = false;               /* nothing fails any more */
#ifdef EMBEDDED
bool waiting = false;            /* the document has pending_at */
#define found waiting
#else
#define found (row[1] || row[2] || row[3])
#endif
#ifdef SKIP_LOCKED
bool locked[VERSIONS + 1];
#define free(v) (!locked[v])
#define take(v) locked[v] = true
#else
#define free(v) true
#define take(v) skip
#endif

inline append(v) {
    assert(v == 1 || logged[v - 1]);   /* first occurrences ascend */
    logged[v] = true;
    late[v] = false                    /* another copy changes nothing */
}

/* UserStore.update, OrderStore.move: the row lock, or the document, puts an aggregate's versions in order. */
active proctype Service() {
    do
    :: committed < VERSIONS ->
        atomic {
            committed++;
            row[committed] = true;
#ifdef EMBEDDED
            waiting = true
#endif
        }
    :: else -> break
    od;
    calm = true                  /* what could be committed later is committed before, where nothing has to fail either */
}

active proctype Network() {
    byte w;
end:
    do
    :: atomic { late[1] || late[2] || late[3];
           select (w : 1 .. VERSIONS);
           if
           :: late[w] -> append(w)
           :: else
           fi; w = 0 }
    od
}

active [2] proctype Relay() {
    bool batch[VERSIONS + 1], sent[VERSIONS + 1];
    byte v, taken;

    /* _round: self._outbox.pending(_BATCH), one snapshot. */
end:
    atomic {
        found ->
        taken = 0;
        for (v : 1 .. VERSIONS) {
            if
            :: row[v] && free(v) && taken < LIMIT -> batch[v] = true; take(v); taken++
            :: else
            fi
        }
        v = 1
    }
#if defined(EMBEDDED) && !defined(LEAVE_EMPTY)
    if
    :: taken == 0 -> goto unset                                   /* who sent the last event did not come to this */
    :: else
    fi;
#endif
#ifdef DELETE_FIRST
    atomic {
        for (v : 1 .. VERSIONS) { row[v] = row[v] && !batch[v] }
        v = 1
    }
#endif
    /* _send: one version after the other. */
#ifdef NO_WAIT
    do
    :: v <= VERSIONS -> late[v] = late[v] || (batch[v] && !logged[v]); v++
    :: else -> break
    od;
    atomic {
        for (v : 1 .. VERSIONS) { sent[v] = batch[v] && logged[v] }
    }
#else
    do
    :: v > VERSIONS -> break
    :: v <= VERSIONS && !batch[v] -> v++
    :: v <= VERSIONS && batch[v] ->
        if
        :: atomic { append(v) };
            if
            :: sent[v] = true; v++                                /* acked */
            :: !calm -> goto failed                               /* the ack is lost */
            fi
        :: !calm -> goto failed                                   /* the request is lost, or refused */
        :: atomic { !calm -> late[v] = !logged[v]; goto failed }        /* in time for nobody: SendFailed */
        :: !calm -> goto again                                    /* killed here */
        fi;
        goto next;
failed:
#ifdef GO_ON
        v++;
#else
        break;
#endif
next:   skip
    od;
#endif
    /* _mark: until it is done. */
    do
    :: !(sent[1] || sent[2] || sent[3]) -> goto again
    :: else ->
        if
        :: atomic {
                for (v : 1 .. VERSIONS) { row[v] = row[v] && !sent[v] }
            }
            if
            :: break
            :: !calm -> skip                                      /* done, and the reply is lost: once more */
            :: !calm -> goto again
            fi
        :: !calm -> skip                                          /* not done: once more */
        :: !calm -> goto again
        fi
    od;
#ifdef EMBEDDED
unset:
    if
    :: atomic {
#ifdef UNSET_ALWAYS
            true ->
#else
            !(row[1] || row[2] || row[3]) ->
#endif
            waiting = false
        }
#ifndef UNSET_ALWAYS
    :: row[1] || row[2] || row[3]                                 /* the filter does not match */
#endif
    :: !calm -> goto again
    fi;
#endif
again:                                                            /* the next round; after a crash too */
    atomic {
        for (v : 1 .. VERSIONS) {
#ifdef SKIP_LOCKED
            locked[v] = locked[v] && !batch[v];
#endif
            batch[v] = false;
            sent[v] = false
        }
        v = 0;
        taken = 0
    }
    goto end
}

/* Nothing is lost, and nothing waits for ever. */
ltl relayed {
    <> [] (logged[1] && logged[2] && logged[3] && !row[1] && !row[2] && !row[3]
#ifdef EMBEDDED
           && !waiting
#endif
    )
}

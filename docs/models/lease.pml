/* The gateway's cache: one section of one user, readers whose owner answers late, events that come any time after the
 * commit, in any order and again, and a cache that may forget a user at any time. A write through the gateway is an
 * event that comes with the answer. Where an event has been processed, nothing older is read there any more.
 *
 * model: one worker and its memory
 * model TWO_LEVELS: the same with Redis between it and the owner, which another worker fills too
 * model TWO_LEVELS COMES_BACK: and Redis may come back with an older copy of itself
 * broken NO_COMPARE (safety): an answer is kept without comparing the lease
 * broken LATE_LEASE (safety): the lease is taken when the owner has answered
 * broken KEEP_LEASES (safety): an event drops the entry and replaces no lease
 * broken FORGET_KEEPS (safety): a user forgotten and asked for again has the leases of before
 * broken KEEP_UNKNOWN (safety): an event leaves an entry whose version is not known
 * broken PUBLISH_FIRST (safety): the event is sent before the commit
 * broken LAGGING (safety): the owner reads a copy that follows its database
 * broken TWO_LEVELS REDIS_NO_COMPARE (safety): Redis keeps an answer without comparing the lease
 * broken TWO_LEVELS MEMORY_FIRST (safety): an event clears the worker's memory before Redis
 * broken TWO_LEVELS BELIEVE_ALL (safety): an event that Redis could not be told of, and its entries are believed all the same
 * broken TWO_LEVELS OLD_LEASES (safety): what was asked for before the worker listened anew is believed once it is stored
 * broken TWO_LEVELS COMES_BACK NO_COUNT (safety): nobody notices that Redis has forgotten what it was told
 */
#ifdef COMES_BACK
#define NEWEST 2
#else
#define NEWEST 3
#endif
#define READERS 2
#ifdef TWO_LEVELS
#define elsewhere (_pid == 2)    /* a reader in another worker: of what it does only Redis is seen here */
#else
#define elsewhere false
#endif

byte database = 1;               /* the owner's: the version committed last */
byte published = 1;              /* events there may be by now: of this version and all before */
byte told = 0;                   /* the newest version whose event this worker has processed */

/* SectionCache: a _User, or none. */
bool known = false;
byte entry = 0;                  /* the version it shows; 0 is no entry */
bool named = false;              /* whether the entry knows that version */
byte seen = 0;
bool lease[READERS];             /* the reader's lease points at the _User that is there */

/* The second level. Its lease is a value that never comes again. Each entry has the time when it was asked for, and is
 * old where that is before this worker listened, or listened anew. */
byte redis_entry = 0;
bool redis_old = false;
bool redis_lease[READERS];
bool lease_old[READERS];

/* The copy that Redis may come back with; behind where something was told since, which the worker's count then shows. */
byte copy_entry = 0;
bool copy_old = false;
bool copy_lease[READERS];
bool copy_behind = false;
bool behind = false;

inline listen_anew() {
#ifndef BELIEVE_ALL
    redis_old = (redis_entry != 0);
    copy_old = (copy_entry != 0);
#ifndef OLD_LEASES
    lease_old[0] = true;
    lease_old[1] = true;
#endif
#endif
    behind = false;
    copy_behind = true                                                /* the new count is not in it */
}

active proctype Owner() {
    do
    :: database < NEWEST ->
#ifdef PUBLISH_FIRST
        published = database + 1;
        database = published
#else
        atomic { database++; published = database }                   /* the outbox: both or neither */
#endif
    :: else -> break
    od
}

active [READERS] proctype Reader() {
    byte got;
    bool names;
end:
    do
    :: atomic { entry != 0 && !elsewhere -> assert(entry >= told) }   /* look_up: a hit */
    :: entry == 0 || elsewhere ->
#ifndef LATE_LEASE
        atomic { known = known || !elsewhere; lease[_pid - 1] = !elsewhere };  /* lease */
#endif
#ifdef TWO_LEVELS
        if                                                            /* one script: the entry, or a lease */
#if defined(COMES_BACK) && !defined(NO_COUNT)
        :: atomic { behind && !elsewhere -> listen_anew() }
        :: atomic { redis_entry != 0 && !redis_old && (!behind || elsewhere) -> got = redis_entry; goto keep }
#else
        :: atomic { redis_entry != 0 && !redis_old -> got = redis_entry; goto keep }
#endif
        :: atomic {
                redis_entry == 0 || redis_old || elsewhere ->
                redis_lease[_pid - 1] = true;
                lease_old[_pid - 1] = false
            }
        fi;
#endif
        got = database;                                               /* the owner reads; its answer takes a while */
#ifdef LAGGING
        if
        :: got > 1 -> got--
        :: skip
        fi;
#endif
#ifdef LATE_LEASE
        atomic { known = true; lease[_pid - 1] = true };
#endif
#ifdef TWO_LEVELS
        atomic {                                                      /* one script: compare and store */
            if
#ifdef REDIS_NO_COMPARE
            :: true -> redis_entry = got; redis_old = lease_old[_pid - 1]
#else
            :: redis_lease[_pid - 1] -> redis_entry = got; redis_old = lease_old[_pid - 1]
            :: else
#endif
            fi;
            redis_lease[_pid - 1] = false;
            lease_old[_pid - 1] = false
        };
#endif
keep:   atomic {                                                      /* fill */
            if
            :: names = true                                           /* an ETag that is the version */
            :: names = false
            fi;
            if
#ifdef NO_COMPARE
            :: true -> known = true; entry = got; named = names
#else
            :: lease[_pid - 1] && known && !(names && (got < seen || named && got < entry)) -> entry = got; named = names
            :: else
#endif
            fi;
            lease[_pid - 1] = false;
            names = false;
            got = 0
        }
    od
}

inline clear_memory() {
    atomic {                                                          /* invalidate */
        if
        :: known && v > seen ->
            seen = v;
#ifndef KEEP_LEASES
            lease[0] = false;
            lease[1] = false;
#endif
            if
            :: named && entry >= v                                    /* shows what the event tells */
#ifdef KEEP_UNKNOWN
            :: !named
#endif
            :: else -> entry = 0; named = false
            fi
        :: else
        fi
    }
}

inline clear_redis() {
    if
    :: atomic {
            !behind ->
            redis_entry = 0;
            redis_old = false;
            redis_lease[0] = false;
            redis_lease[1] = false;
            copy_behind = true
        }
    :: atomic { true -> listen_anew() }                               /* not told, or the count is lost */
    fi
}

active proctype Events() {
    byte v;
end:
    do
    :: atomic { select (v : 1 .. published) };
#if defined(TWO_LEVELS) && defined(MEMORY_FIRST)
        clear_memory();
        clear_redis();
#elif defined(TWO_LEVELS)
        clear_redis();
        clear_memory();
#else
        clear_memory();
#endif
        atomic { told = (v > told -> v : told); v = 0 }
    od
}

/* Memory is bounded. So is Redis, which is also cleared by the other worker's events, and may start anew, empty. */
active proctype Forget() {
end:
    do
    :: atomic {
            known -> known = false;
            entry = 0;
            named = false;
            seen = 0;
#ifndef FORGET_KEEPS
            lease[0] = false;
            lease[1] = false
#endif
        }
#ifdef TWO_LEVELS
    :: atomic { redis_entry != 0 -> redis_entry = 0; redis_old = false; redis_lease[0] = false; redis_lease[1] = false }
#ifdef COMES_BACK
    :: atomic {
            copy_entry = redis_entry;
            copy_old = redis_old;
            copy_lease[0] = redis_lease[0];
            copy_lease[1] = redis_lease[1];
            copy_behind = behind
        }
    :: atomic {
            redis_entry = copy_entry;
            redis_old = copy_old;
            redis_lease[0] = copy_lease[0];
            redis_lease[1] = copy_lease[1];
            behind = copy_behind
        }
#endif
#endif
    od
}

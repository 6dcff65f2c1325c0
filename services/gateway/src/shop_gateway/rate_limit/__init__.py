"""How much one client may ask: GCRA (ATM Forum TM 4.0) in Redis, some of it leased to this process.

A client may spend its whole quota at once; it comes back evenly, one request every window / quota. All there is to
keep is one moment per client: when it will have its whole quota again.

A request is charged in Redis before it is let through, leased ones too. So of a quota that is whole no more than that
and what comes back meanwhile ever passes, however many processes there are; over any other stretch of time at most
what was charged and not used at its beginning more. Who is refused is refused early by at most what other processes
hold for the same client, for little more than a second: each a tenth of what was left when it took it, and as much of
what was given back to it.
"""

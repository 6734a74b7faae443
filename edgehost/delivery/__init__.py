"""Delivery: the promises under every event, kept in one database (the journal) across crashes, outages and full disks.

    journal, rows, clock                        the database as the loop sees it
    writer, transaction, schema, holdings       its one thread
    recovery, salvage, sqlite_errors            a file that is damaged, away, or somebody else's
    pages, trees                                its rows, past what is broken of it
    way                                         how a trigger's events are led through all of this
    inflow, pending, allowance, window          durable events: on disk before they count as received
    tries, parting, ending, route               one event through the function: tries, dead letter, outputs, the end
    dedupe                                      answered ids: an event that comes again is answered, not run
    outbox, drops                               what leaves: who gets room on disk, and at whose cost
    lane, direct, backlog                       one output's way: direct while it can, from disk when it must
    item, waiting, tally, numbers, ledger       what a lane is made of
    dead_letters, letters, jobs, overview       what people and the fleet ask of the journal
    disk, ladder, leftovers, spare              a disk that fills
    saving, wear                                a disk that wears out

Must not know where events come from, how a function runs or what an output is made of.
"""

"""Delivery: the promises under every event, kept in one database (the journal) across crashes, outages and full disks.

    journal, writer, schema, recovery, clock    the database and its one thread
    inflow                                      durable events: on disk before they count as received
    tries                                       one event through the function: tries, dead letter, outputs, the end
    dedupe                                      answered ids: an event that comes again is answered, not run
    outbox, drops                               what leaves: direct while it can, from disk when it must
    dead_letters, jobs                          what people and the fleet ask of the journal
    ladder, wear                                a disk that fills, and one that wears out

Must not know where events come from, how a function runs or what an output is made of.
"""

"""Events in batches: one transaction for many readings costs little more than for one. With a batch, `event` is a list."""

import json
import os
import sqlite3
import tempfile
from pathlib import Path


def init_context(context):
    path = os.environ["DATABASE"] or Path(tempfile.gettempdir()) / "readings.db"
    context.user_data.database = sqlite3.connect(path)
    context.user_data.database.execute("CREATE TABLE IF NOT EXISTS readings (received TEXT, source TEXT, reading TEXT)")


def handler(context, event):
    events = event if isinstance(event, list) else [event]  # `edgehost invoke` sends a single one
    with context.user_data.database as database:
        database.executemany("INSERT INTO readings VALUES (?, ?, ?)", [row(each) for each in events])
    (stored,) = database.execute("SELECT count(*) FROM readings").fetchone()
    answers = [context.Response(body={"stored": stored, "together": len(events)}, event_id=each.id) for each in events]
    return answers if isinstance(event, list) else answers[0]


def row(event):
    """What a reading becomes in the table; a body that is not JSON is kept as text."""
    body = event.body if isinstance(event.body, (dict, list)) else bytes(event.body).decode("utf-8", "replace")
    return event.timestamp.isoformat(), event.path, json.dumps(body)

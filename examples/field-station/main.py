"""Readings that wait on disk for their network, and orders that are carried out once. See README.md beside this file."""

import os
import time


def handler(context, event):
    if event.trigger.name == "orders":
        context.logger.info_with("order carried out", order=event.get_header("id") or event.id)
        return {"order": event.get_header("id") or event.id, "state": "done"}
    load, *_ = os.getloadavg()
    return {"at": int(time.time()), "load": load}

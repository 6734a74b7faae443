"""Looks at this machine's load and disk whenever its timer fires."""

import os
import shutil


def handler(context, event):
    disk = shutil.disk_usage("/")
    free = disk.free / disk.total
    if free < 0.1:
        context.logger.warn_with("the disk is nearly full", free_percent=round(free * 100, 1))
    return {"load": os.getloadavg()[0], "disk_free_percent": round(free * 100, 1), "at": event.timestamp.isoformat()}

"""A generator answers a stream: its first item says status and headers, every further one is sent at once."""

import json
import os
import time


def handler(context, event):
    count = int(event.fields.get("count", 3))
    pause_s = float(event.fields.get("pause_s", 0.2))
    yield context.Response(body="", content_type="text/event-stream", headers={"Cache-Control": "no-store"})
    for number in range(count):
        if number:
            time.sleep(pause_s)
        yield f"data: {json.dumps({'number': number, 'load_1m': os.getloadavg()[0]})}\n\n"

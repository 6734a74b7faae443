"""Turns `{"celsius": 21.5}` from sensors/<device>/celsius into Fahrenheit."""

import json


def handler(context, event):
    # A body is bytes unless the sender said it is JSON (MQTT 5 content type application/json).
    reading = event.body if isinstance(event.body, dict) else json.loads(event.body)
    device = event.path.split("/")[1] if event.path.count("/") > 1 else "unknown"
    fahrenheit = reading["celsius"] * 9 / 5 + 32
    context.logger.debug_with("converted", device=device, fahrenheit=fahrenheit)
    return {"device": device, "fahrenheit": round(fahrenheit, 2)}

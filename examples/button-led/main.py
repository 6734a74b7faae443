"""Each press toggles the lamp; a press held for a second lights it for half a second."""


def handler(context, event):
    if not event.body:  # called by hand, without a button
        return "toggle"
    if event.body["edge"] == "hold":
        return {"pulse_s": 0.5}
    return "toggle"

"""Each sentence of a GPS receiver is one event. Those that hold a position send it to the output `position`."""

from dataclasses import asdict

from nmea import read_fix


def handler(context, event):
    fix = read_fix(event.body.decode("ascii", "replace"))
    if fix is None:
        return None
    position = {key: value for key, value in asdict(fix).items() if value is not None}
    context.publish("position", position)
    return position

"""Watches streams of readings, one per topic, and publishes an alarm for a value far outside what that topic has shown so far."""

import math

WARM_UP = 20  # readings before anything counts as unusual
LIMIT = 4.0  # standard deviations
FORGET = 0.02  # weight of a new reading: about the last hundred count


class Usual:
    """Exponentially weighted mean and variance of one stream."""

    def __init__(self):
        self.count = 0
        self.mean = 0.0
        self.variance = 0.0

    def score(self, value):
        """How many standard deviations `value` lies from the usual; 0 while there is no usual yet."""
        if self.count < WARM_UP:
            return 0.0
        return abs(value - self.mean) / max(math.sqrt(self.variance), 1e-9)

    def learn(self, value):
        self.count += 1
        weight = max(FORGET, 1 / self.count)
        step = value - self.mean
        self.mean += weight * step
        self.variance = (1 - weight) * (self.variance + weight * step * step)


def init_context(context):
    context.user_data.streams = {}


def handler(context, event):
    value = float(event.body["value"])
    usual = context.user_data.streams.setdefault(event.path, Usual())
    score = usual.score(value)
    alarm = score > LIMIT
    if alarm:
        context.publish("alarms", {"topic": event.path, "value": value, "usual": usual.mean, "deviations": round(score, 1)})
    else:
        usual.learn(value)  # a fault must not become the usual
    return {"value": value, "deviations": round(score, 2), "alarm": alarm}

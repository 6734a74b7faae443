"""Judges every number of every reading by its own series: topic and field. Answers which of them do not fit."""

import math
import os
from collections import OrderedDict

from detector import Detector

MOST_SERIES = 1000


def init_context(context):
    context.user_data.detectors = OrderedDict()


def handler(context, event):
    if event.method == "GET":
        return {"series": sorted(context.user_data.detectors)}
    if not isinstance(event.body, dict):
        raise ValueError(f"{event.path}: a reading is a JSON object of numbers, sent as application/json")
    found = []
    for name, value in numbers(event.body):
        series = f"{event.path}/{name}"
        verdict = detector(context.user_data.detectors, series).judge(value)
        if verdict.anomalous:
            found.append({"series": series, "value": value, "expected": verdict.expected, "score": round(verdict.score, 1)})
    if found:
        context.logger.warn_with("readings that do not fit", anomalies=found)
        context.publish("anomalies", found, topic=event.path)
    return {"source": event.path, "anomalies": len(found)}


def numbers(reading):
    """The (name, value) of every finite number in a reading; true and false are no numbers."""
    for name, value in reading.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            yield name, float(value)


def settings(env):
    return {
        "window": int(env["WINDOW"]),
        "threshold": float(env["THRESHOLD"]),
        "warm_up": int(env["WARM_UP"]),
        "floor": float(env["FLOOR"]),
    }


def detector(detectors, series):
    """The detector of a series; one series too many drops the one that was quiet longest."""
    if series not in detectors:
        detectors[series] = Detector(**settings(os.environ))
        if len(detectors) > MOST_SERIES:
            detectors.popitem(last=False)
    detectors.move_to_end(series)
    return detectors[series]

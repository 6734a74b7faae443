"""NMEA 0183 sentences RMC and GGA as a fix. Knows the two sentences, not where they come from."""

from dataclasses import dataclass

KNOTS_TO_KMH = 1.852


@dataclass(frozen=True)
class Fix:
    """Where a receiver is: degrees with north and east positive, `time` as hhmmss UTC. None: not in this sentence."""

    latitude: float
    longitude: float
    time: str
    altitude_m: float | None = None
    satellites: int | None = None
    speed_kmh: float | None = None


def read_fix(sentence: str) -> Fix | None:
    """The fix in one sentence; None if it is of another kind, or if the receiver has no fix yet."""
    kind, *fields = sentence.split("*")[0].split(",")
    try:
        if kind.endswith("RMC") and fields[1] == "A":  # A: valid, V: no fix
            return Fix(*_position(fields[2:6]), fields[0], speed_kmh=_scaled(fields[6], KNOTS_TO_KMH))
        if kind.endswith("GGA") and fields[5] not in ("", "0"):  # 0: no fix
            return Fix(*_position(fields[1:5]), fields[0], _scaled(fields[8]), int(fields[6]))
    except (IndexError, ValueError):
        return None  # cut short, or not what the standard says
    return None


def _position(fields):
    """Latitude and longitude of `4527.458,S,16709.165,E`."""
    latitude, north, longitude, east = fields
    return _degrees(latitude, 2) * (1 if north == "N" else -1), _degrees(longitude, 3) * (1 if east == "E" else -1)


def _degrees(text, digits):
    """`4527.458` with two digits of degrees: 45° and 27.458 minutes."""
    return round(int(text[:digits]) + float(text[digits:]) / 60, 6)


def _scaled(text, factor=1.0):
    return round(float(text) * factor, 3) if text else None

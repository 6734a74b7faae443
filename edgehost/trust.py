"""Why the certificate of a server is not trusted, in words that say what to do. Must not know who connects, or to whom."""

from __future__ import annotations

import ssl
from datetime import datetime

# openssl/x509_vfy.h
_NOT_YET_VALID, _EXPIRED = 9, 10
_OTHER_NAME = {62, 64}


def distrust(error: ssl.SSLCertVerificationError, ca_key: str, now: datetime) -> str:
    """The reason and the remedy. `ca_key` is where an authority can be named; `now` the device's time, which may be wrong."""
    said = error.verify_message
    clock = f"by this device's clock ({now:%Y-%m-%d %H:%M})"
    if error.verify_code == _NOT_YET_VALID:
        return f"{said}, {clock}; set the clock, or wait until NTP has"
    if error.verify_code == _EXPIRED:
        return f"{said}, {clock}; the server needs a new one, unless the clock is wrong"
    if error.verify_code in _OTHER_NAME:
        return f"{said}; reach it by a name that its certificate has"
    return f"{said}; name its authority in {ca_key}"

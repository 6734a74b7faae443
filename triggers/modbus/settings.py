"""What `[triggers.NAME]` of kind `modbus` may hold."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta

from edgehost.intake import Dropping, IntakeSettings
from edgehost.manifest.model import Positive, Seconds
from edgehost.polling.poller import First
from edgehost.triggers.modbus.registers import Register
from edgehost.tty import LineSettings

_FORM = "tcp://host[:502], udp://host[:502] or rtu+tcp://host:port"


class ModbusSettings(LineSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[triggers.NAME]` with `kind = "modbus"`. Its last three keys are those of IntakeSettings: a Struct has one parent."""

    interval_s: Annotated[float, Meta(ge=0.01, le=366 * 86400)]
    """From one read to the next; a read that takes longer leaves beats out."""
    registers: dict[str, Register]
    url: str = ""
    """Modbus TCP, or RTU frames over TCP; empty: RTU on the serial `port`."""
    unit: Annotated[int, Meta(ge=0, le=255)] = 1
    """1 to 247 on a serial line; a TCP device may want 0 or 255."""
    timeout_s: Seconds = 1.0
    """For each request."""
    retries: Annotated[int, Meta(ge=0, le=20)] = 2
    """How often a request without an answer is sent again."""
    max_gap: Annotated[int, Meta(ge=0, le=125)] = 8
    """So many registers nobody asked for are read along, to save a request."""
    emit: Literal["changed", "always"] = "changed"
    """changed: what differs from what the function heard last, and no event if nothing does. always: all, at each read."""
    first: First = "now"
    max_in_flight: Positive = 64
    max_waiting: Positive = 10_000
    overflow: Dropping = "drop_oldest"
    """What is dropped is told again after the next read, with the values of then."""

    def __post_init__(self) -> None:
        if not self.registers:
            raise ValueError("registers: empty; name at least one, as in voltage = { address = 0 }")
        if self.url:
            _check_url(self.url)
        if (not self.url or self.url.startswith("rtu")) and not 1 <= self.unit <= 247:
            raise ValueError(f"unit: {self.unit} is not an address of a device on a line; use 1 to 247")
        given = next((key for key in LineSettings.__struct_fields__ if getattr(self, key) not in (None, "default")), None)
        if self.url and given is not None:
            raise ValueError(f"{given}: goes with a serial port, not with url; leave one of them out")

    @property
    def intake(self) -> IntakeSettings:
        return IntakeSettings(self.max_in_flight, self.max_waiting, self.overflow)


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        rest = parts.path.strip("/") or parts.query or parts.fragment or parts.username
        host = (parts.hostname or "").encode("idna")  # as the resolver does, who takes no name with an empty part
        usable = parts.scheme in ("tcp", "udp", "rtu+tcp") and host and (parts.port or 1) > 0 and not rest
    except ValueError:
        usable = False
    if not usable or (url.startswith("rtu") and parts.port is None) or any(letter.isspace() for letter in url):
        raise ValueError(f"url: {url!r} is not allowed; use {_FORM}, or leave it out and name a serial port")

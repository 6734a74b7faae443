"""Which port a manifest means. What it writes becomes an Identity at once; where that is, each time the port is opened.

    written                       means
    /dev/ttyUSB0                  that path
    usb:0403:6001[:A50285BI]      the one port of such a USB device, wherever it is plugged in
    usb-FTDI_FT232R_...-port0     a name in /dev/serial/by-id
    gps                           [serial.gps] of edgehost.toml (or --serial gps=...), else a port of the board's profile
    default                       [serial.default] (or --serial), else the first port of the board's profile
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgehost.config import Config
from edgehost.errors import TriggerError
from edgehost.profile import current

BY_ID = "/dev/serial/by-id"
_USB = re.compile(r"usb:([0-9a-f]{4}):([0-9a-f]{4})(?::(.+))?", re.IGNORECASE)
_UDEV = ("usb-", "pci-", "platform-")
"""How udev begins the names in /dev/serial/by-id and by-path."""


@dataclass(frozen=True)
class Identity:
    """`spec` is a path or `usb:...`; `written` is what the manifest says."""

    written: str
    spec: str

    @property
    def folder(self) -> str:
        """Where the port will appear once it is plugged in."""
        return "/dev" if self.spec.startswith("usb:") else str(Path(self.spec).parent)

    def may_be(self, name: str) -> bool:
        """Whether a new `name` in the folder could be the port."""
        return name.startswith("tty") if self.spec.startswith("usb:") else name == Path(self.spec).name

    def path(self) -> str:
        """The device's path now. Raises TriggerError if no such device, or more than one, is plugged in."""
        return _usb_path(self.spec) if self.spec.startswith("usb:") else self.spec


def identify(written: str, config: Config) -> Identity:
    """What a port's name in a manifest means. Raises TriggerError for one that means nothing here."""
    if written in config.serial:
        spec = _spec(config.serial[written].port)
        if spec is None:
            raise TriggerError(
                f"[serial.{written}].port: {config.serial[written].port!r} is no port; write a path such as /dev/ttyUSB0, a name "
                f"in {BY_ID}, or usb:VENDOR:PRODUCT[:SERIAL]"
            )
        return Identity(written, spec)
    spec = _spec(written) or _board_port(written, config)
    if spec is not None:
        return Identity(written, spec)
    if written == "default":
        raise TriggerError(
            f"port: no default port is set and the board has none; start with --serial PORT, or write "
            f"[serial.default] port = ... in edgehost.toml; {ports_here()}"
        )
    known = ", ".join(sorted(config.serial)) or "none"
    raise TriggerError(
        f"port: {written!r} is no port here; add [serial.{written}] to edgehost.toml (it has {known}), "
        f"or write a path, usb:VENDOR:PRODUCT or a name in {BY_ID}; {ports_here()}"
    )


def _spec(written: str) -> str | None:
    if written.startswith("/"):
        return str(Path(written))
    if written.startswith(_UDEV):
        return f"{BY_ID}/{written}"
    return written.lower()[:13] + written[13:] if _USB.fullmatch(written) else None


def _board_port(name: str, config: Config) -> str | None:
    ports = current(config).serial
    if name == "default":
        return next((str(port.path) for port in ports.values()), None)
    return str(ports[name].path) if name in ports else None


def _usb_path(spec: str) -> str:
    found = _USB.fullmatch(spec)
    assert found is not None
    vendor, product, serial = int(found[1], 16), int(found[2], 16), found[3]
    fits = [port for port in _ports() if (port.vid, port.pid) == (vendor, product) and serial in (None, port.serial_number)]
    if len(fits) == 1:
        return str(fits[0].device)
    if not fits:
        raise TriggerError(f"{spec} is not plugged in; {ports_here()}")
    several = ", ".join(f"{port.device} ({spec[:13]}:{port.serial_number or '?'})" for port in fits)
    raise TriggerError(f"{spec} fits {len(fits)} ports: {several}; add the serial number, or write one of {BY_ID}")


def ports_here() -> str:
    """What ports this machine has, in words, for a message about one that is missing."""
    said = [f"{port.device} ({port.description})" if port.description != "n/a" else str(port.device) for port in _ports()]
    return f"ports here: {', '.join(said)}" if said else "this machine has no serial port now"


def _ports() -> Sequence[Any]:
    from serial.tools.list_ports import comports

    try:
        return sorted(comports())
    except (OSError, TypeError, ValueError):
        return []  # one was unplugged while it was looked at: pyserial then reads None where it expects a number

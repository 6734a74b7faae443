"""What a serial line is set to, and how the wishes of all who use a port become one setting. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from edgehost.errors import TriggerError

Delay = Annotated[float, Meta(ge=0, le=1)]


class Rs485(Struct, frozen=True, forbid_unknown_fields=True):
    """`rs485 = {}`: the driver switches the transceiver with RTS (Linux, Documentation/driver-api/serial/serial-rs485.rst)."""

    rts_on_send: bool = True
    """The level of RTS while sending."""
    rts_after_send: bool = False
    receive_own: bool = False
    """Whether what is sent is received, too."""
    delay_before_send_s: Delay = 0.0
    """From RTS to the first bit; the driver counts in milliseconds."""
    delay_after_send_s: Delay = 0.0


class LineSettings(Struct, frozen=True):
    """The keys of everything that uses a serial port. What is not given is as another user of the port gives it, else as said
    here."""

    port: Annotated[str, Meta(max_length=4096, pattern="^[^\\x00]*$")] = "default"
    """A path, a name in /dev/serial/by-id, `usb:VENDOR:PRODUCT[:SERIAL]`, or a name: of edgehost.toml, else of the board."""
    baud: Annotated[int, Meta(ge=50, le=20_000_000)] | None = None
    """Bits per second, also unusual ones where the driver can; 9600."""
    data_bits: Literal[5, 6, 7, 8] | None = None
    """8."""
    parity: Literal["none", "even", "odd", "mark", "space"] | None = None
    """none."""
    stop_bits: Literal[1, 2] | None = None
    """1."""
    flow_control: Literal["none", "xonxoff", "rtscts"] | None = None
    """none; by bytes in the stream; by wires."""
    dtr: bool | None = None
    """The level of DTR from the opening on; true. Many Arduinos restart when it changes."""
    rts: bool | None = None
    """The level of RTS from the opening on; true."""
    rs485: Rs485 | None = None


DEFAULTS = LineSettings(
    port="", baud=9600, data_bits=8, parity="none", stop_bits=1, flow_control="none", dtr=True, rts=True, rs485=None
)
_KEYS = [key for key in LineSettings.__struct_fields__ if key != "port"]


def agreed(port: str, wishes: Iterable[tuple[str, LineSettings]], before: LineSettings = DEFAULTS) -> LineSettings:
    """The one setting of a port from the wishes of functions, the oldest first; what nobody says is as `before`.

    The newest wish of a function is what it wants: the new version of an upgrade comes before the old one goes. Raises
    TriggerError, naming key and values, where two functions want different ones.
    """
    given: dict[str, dict[str, Any]] = {key: {} for key in _KEYS}
    for function, wish in wishes:
        for key in _KEYS:
            value = getattr(wish, key)
            if value is not None:
                given[key][function] = value
    return LineSettings(port=port, **{key: _one(port, key, [*given[key].values()], getattr(before, key)) for key in _KEYS})


def _one(port: str, key: str, values: list[Any], before: Any) -> Any:
    for value in values[1:]:
        if value != values[0]:
            raise TriggerError(
                f"{key}: {_shown(value)} is not what {port} is used with already, {_shown(values[0])}; "
                "a port has one setting for all who use it: give the same, or give it in one place alone"
            )
    return values[0] if values else before


def _shown(value: object) -> str:
    return "another table" if isinstance(value, Struct) else str(value).lower() if isinstance(value, bool) else str(value)

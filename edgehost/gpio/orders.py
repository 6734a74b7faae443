"""What an answer's body asks of an output: a level, a pulse, the other level, a duty. Pure.

    1 0 on off true false high low (any case)    Level
    toggle                                       Toggle
    {"value": 1}                                 Level
    {"value": 1, "pulse_s": 0.2}                 Pulse; value 1 may be left out
    {"toggle": true}                             Toggle
    0.25, 25%, {"duty": 0.25}                    a duty from 0 to 1, of PWM alone
    nothing                                      no order: the output stays as it is
Must not know what carries an order out.
"""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from edgehost.gpio.trouble import GpioError

_WORDS = {"1": True, "on": True, "true": True, "high": True, "0": False, "off": False, "false": False, "low": False}
_SHOWN_BYTES = 40

LEVEL_FORM = 'send 1, 0, on, off, toggle or JSON such as {"value": 1}, {"pulse_s": 0.2} or {"toggle": true}'
DUTY_FORM = 'send a number from 0 to 1, or JSON such as {"duty": 0.25}'


class Level(Struct, frozen=True):
    """Drive the line to this level."""

    value: bool


class Pulse(Struct, frozen=True):
    """Drive it to `value` for `pulse_s` seconds, then to the other level."""

    value: bool
    pulse_s: float


class Toggle(Struct, frozen=True):
    """Drive it to the level it does not have."""


class _Order(Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON form of an order to a line."""

    value: bool | int | str | None = None
    pulse_s: Annotated[float, Meta(gt=0, le=86400)] | None = None
    toggle: bool = False


class _DutyOrder(Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON form of an order to a PWM channel."""

    duty: Annotated[float, Meta(ge=0, le=1)]


def line_order(body: bytes) -> Level | Pulse | Toggle | None:
    """What `body` asks of a line; None for an empty one. Raises GpioError, `failed`, for one that asks nothing a line can do."""
    text = body.decode(errors="replace").strip()
    if not text:
        return None
    if text.lower() == "toggle":
        return Toggle()
    value = _WORDS.get(text.strip('"').lower())
    if value is not None:
        return Level(value)
    try:
        order = msgspec.json.decode(text, type=_Order)
    except msgspec.MsgspecError as error:
        raise _nonsense(body, "a line", error, LEVEL_FORM) from None
    return _in_json(order, body)


def _in_json(order: _Order, body: bytes) -> Level | Pulse | Toggle:
    value = None if order.value is None else _WORDS.get(str(order.value).lower())
    if value is None and order.value is not None:
        raise _nonsense(body, "a line", f"{order.value!r} is no level", LEVEL_FORM)
    if order.toggle:
        if order.value is not None or order.pulse_s is not None:
            raise _nonsense(body, "a line", "toggle goes with nothing else", LEVEL_FORM)
        return Toggle()
    if order.pulse_s is not None:
        return Pulse(value is not False, order.pulse_s)
    if value is None:
        raise _nonsense(body, "a line", "it asks for nothing", LEVEL_FORM)
    return Level(value)


def duty_order(body: bytes) -> float | None:
    """The share of each period, 0 to 1, that `body` asks a PWM channel to be active; None for an empty body. Raises GpioError."""
    text = body.decode(errors="replace").strip()
    if not text:
        return None
    try:
        if text.startswith("{"):
            return msgspec.json.decode(text, type=_DutyOrder).duty
        percent = text.endswith("%")
        duty = float(text.rstrip("% ")) / (100 if percent else 1)
    except (msgspec.MsgspecError, ValueError) as error:
        raise _nonsense(body, "a PWM channel", error, DUTY_FORM) from None
    if not (math.isfinite(duty) and 0 <= duty <= 1):
        raise _nonsense(body, "a PWM channel", "it is not from 0 to 1", DUTY_FORM)
    return duty


def _nonsense(body: bytes, what: str, reason: object, form: str) -> GpioError:
    shown = repr(body[:_SHOWN_BYTES]) + ("..." if len(body) > _SHOWN_BYTES else "")
    return GpioError(f"{shown} is no order to {what} ({reason}); {form}", "failed")

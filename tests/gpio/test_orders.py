"""What a body asks of an output."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehost.gpio.orders import Level, Pulse, Toggle, duty_order, line_order
from edgehost.gpio.trouble import GpioError


@pytest.mark.parametrize(
    ("body", "order"),
    [
        *(
            (text, Level(True))
            for text in (b"1", b"on", b"ON\n", b"true", b" High ", b'"on"', b'{"value": 1}', b'{"value":true}')
        ),
        *((text, Level(False)) for text in (b"0", b"off", b"false", b"low", b'{"value": 0}', b'{"value": "off"}')),
        (b"toggle", Toggle()),
        (b'{"toggle": true}', Toggle()),
        (b'{"pulse_s": 0.2}', Pulse(True, 0.2)),
        (b'{"value": 0, "pulse_s": 2}', Pulse(False, 2.0)),
        (b"", None),
        (b" \n", None),
    ],
)
def test_orders_to_a_line(body: bytes, order: object) -> None:
    assert line_order(body) == order


@pytest.mark.parametrize(
    "body",
    [
        b"maybe", b"2", b"-1", b"{}", b"[1]", b"null", b"\xff\xfe", b'{"value": 2}', b'{"value": null}', b'{"valeu": 1}',
        b'{"pulse_s": 0}',
        b'{"pulse_s": -1}', b'{"pulse_s": 1e99}', b'{"toggle": true, "value": 1}', b'{"toggle": false}', b"0.5", b"x" * 100_000,
    ],
)  # fmt: skip
def test_nonsense_is_named_with_what_to_send(body: bytes) -> None:
    with pytest.raises(GpioError, match=r"is no order to a line .*; send 1, 0, on, off, toggle or JSON") as caught:
        line_order(body)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("body", "duty"),
    [(b"0", 0), (b"1", 1), (b"0.25", 0.25), (b"25%", 0.25), (b" 25 %\n", 0.25), (b'{"duty": 0.5}', 0.5), (b"", None)],
)
def test_orders_to_a_channel(body: bytes, duty: float | None) -> None:
    assert duty_order(body) == duty


@pytest.mark.parametrize("body", [b"on", b"1.1", b"-0.1", b"nan", b"inf", b"101%", b"{}", b'{"duty": 2}', b'{"duty": 1, "x": 1}'])
def test_a_duty_is_from_0_to_1(body: bytes) -> None:
    with pytest.raises(GpioError, match=r"is no order to a PWM channel .*; send a number from 0 to 1"):
        duty_order(body)


@given(st.binary(max_size=60))
def test_any_body_is_an_order_or_refused(body: bytes) -> None:
    for read in (line_order, duty_order):
        try:
            read(body)
        except GpioError as error:
            assert error.state == "failed"

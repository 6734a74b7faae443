"""One setting for all users of a port."""

from __future__ import annotations

import pytest

from edgehost.errors import TriggerError
from edgehost.tty.line import DEFAULTS, LineSettings, Rs485, agreed


def test_what_nobody_says_has_its_default() -> None:
    line = agreed("/dev/ttyS0", [("f", LineSettings()), ("g", LineSettings(port="x"))])
    assert (line.baud, line.data_bits, line.parity, line.stop_bits, line.flow_control) == (9600, 8, "none", 1, "none")
    assert (line.dtr, line.rts, line.rs485) == (True, True, None)
    assert DEFAULTS.baud == 9600


def test_what_one_says_holds_for_all() -> None:
    wishes = [LineSettings(baud=115200), LineSettings(dtr=False), LineSettings(baud=115200, rs485=Rs485())]
    line = agreed("x", zip("fgh", wishes, strict=True))
    assert (line.baud, line.dtr, line.rs485) == (115200, False, Rs485())


@pytest.mark.parametrize(
    ("one", "other", "text"),
    [
        (LineSettings(baud=9600), LineSettings(baud=4800), "baud: 4800 is not what /dev/x is used with already, 9600"),
        (LineSettings(parity="even"), LineSettings(parity="none"), "parity: none is not"),
        (LineSettings(dtr=True), LineSettings(dtr=False), "dtr: false is not what /dev/x is used with already, true"),
        (LineSettings(rs485=Rs485()), LineSettings(rs485=Rs485(False)), "rs485: another table is not"),
    ],
)
def test_two_functions_that_contradict_are_told(one: LineSettings, other: LineSettings, text: str) -> None:
    with pytest.raises(TriggerError) as caught:
        agreed("/dev/x", [("f", one), ("g", other)])
    assert text in str(caught.value)
    assert "give it in one place alone" in str(caught.value)


def test_the_newest_wish_of_a_function_is_what_it_wants() -> None:
    old, other, new = LineSettings(baud=9600, dtr=False), LineSettings(rts=False), LineSettings(baud=115200)
    line = agreed("x", [("f", old), ("g", other), ("f", new)])
    assert (line.baud, line.dtr, line.rts) == (115200, False, False)


def test_what_nobody_says_any_more_stays_as_it_was() -> None:
    before = agreed("x", [("f", LineSettings(baud=115200))])
    assert agreed("x", [("g", LineSettings(dtr=False))], before).baud == 115200

"""Values from registers, and registers put together into requests: by tables, and by anything hypothesis thinks of."""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehost.triggers.modbus.registers import Register, to_tell
from edgehost.triggers.modbus.requests import MOST_BITS, MOST_REGISTERS, Request, plan
from edgehost.triggers.modbus.settings import ModbusSettings


def words(form: str, value: Any) -> list[int]:
    data = struct.pack(f">{form}", value)
    return list(struct.unpack(f">{len(data) // 2}H", data))


@pytest.mark.parametrize(
    ("register", "raw", "expected"),
    [
        ({}, [65535], 65535),
        ({"type": "int16"}, [65535], -1),
        ({"type": "uint32"}, [1, 0x86A0], 100_000),
        ({"type": "uint32", "word_order": "little"}, [0x86A0, 1], 100_000),
        ({"type": "int32"}, words("i", -100_000), -100_000),
        ({"type": "uint64"}, words("Q", 2**63 + 1), 2**63 + 1),
        ({"type": "int64", "word_order": "little"}, words("q", -5)[::-1], -5),
        ({"type": "float32"}, words("f", 21.3), 21.3),
        ({"type": "float64"}, words("d", 0.1), 0.1),
        ({"type": "float32"}, words("f", float("nan")), None),
        ({"type": "float64"}, words("d", float("-inf")), None),
        ({"scale": 0.1}, [2305], 230.5),
        ({"type": "int16", "scale": 0.1, "offset": -40}, [615], 21.5),
        ({"type": "string", "length": 3}, words("6s", b"AB C\0x"), "AB C"),
        ({"type": "string", "length": 1}, [0xFF41], "\ufffdA"),
        ({"bit": 0}, [4], False),
        ({"bit": 2}, [4], True),
        ({"bit": 15}, [0x8000], True),
        ({"table": "coil"}, [True], True),
        ({"table": "discrete"}, [False], False),
    ],
)
def test_registers_have_values(register: dict[str, Any], raw: list[int], expected: Any) -> None:
    made = msgspec.convert({"address": 0, **register}, Register)
    assert made.size == len(raw)
    value = made.value(raw)
    assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize(
    ("register", "message"),
    [
        ({"table": "coil", "type": "int16"}, "type: a coil is true or false; leave type and bit out"),
        ({"bit": 3, "type": "float32"}, "bit: goes with uint16, not with float32"),
        ({"type": "string"}, "length: goes with type"),
        ({"length": 2}, "length: goes with type"),
        ({"bit": 3, "scale": 2}, "scale: goes with numbers"),
        ({"table": "coil", "deadband": 1}, "scale: goes with numbers"),
        ({"address": 65535, "type": "uint32"}, "address: 65535 and 2 registers from there go beyond the last, 65535"),
    ],
)
def test_registers_that_make_no_sense_are_refused(register: dict[str, Any], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert({"address": 0, **register}, Register)


def test_what_is_told_is_what_differs_by_more_than_the_deadband() -> None:
    registers = {"u": Register(0, deadband=0.5), "n": Register(1), "s": Register(2, type="string", length=1)}
    told: dict[str, Any] = {}
    heard = []
    for values in ({"u": 230.0, "n": 1}, {"u": 230.5, "n": 1}, {"u": 230.6, "n": 2, "s": "a"}, {"u": 230.2}, {"u": None}):
        fresh = to_tell(values, told, registers, "changed")
        told.update(fresh)
        heard.append(fresh)
    assert heard == [{"u": 230.0, "n": 1}, {}, {"u": 230.6, "n": 2, "s": "a"}, {}, {"u": None}]
    assert to_tell({"u": None}, told, registers, "always") == {"u": None}


def shape(requests: list[Request]) -> list[tuple[str, int, int, str]]:
    return [(request.table, request.address, request.count, request.names) for request in requests]


def test_neighbours_are_read_together() -> None:
    registers = {
        "far": Register(200),
        "b": Register(2, type="uint32"),
        "a": Register(0),
        "door": Register(3, table="coil"),
        "c": Register(10),
        "same": Register(3, bit=1),
    }
    assert shape(plan(registers, 6)) == [
        ("coil", 3, 1, "door"),
        ("holding", 0, 11, "a, b, same, c"),
        ("holding", 200, 1, "far"),
    ]
    assert len(plan(registers, 0)) == 5


def test_a_wide_value_is_not_cut_at_a_requests_end() -> None:
    registers = {"a": Register(0), "wide": Register(123, type="float64"), "bits": Register(0, table="coil")}
    registers["more"] = Register(1999, table="coil")
    registers["beyond"] = Register(2000, table="coil")
    requests = plan(registers, 125)
    assert ("holding", 123, 4, "wide") in shape(requests)
    assert ("coil", 1999, 2, "more, beyond") in shape(requests)


REGISTERS = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3),
    st.builds(
        Register,
        address=st.integers(0, 400),
        table=st.sampled_from(["holding", "input"]),
        type=st.sampled_from(["uint16", "uint32", "float64"]),
    )
    | st.builds(Register, address=st.integers(0, 5000), table=st.sampled_from(["coil", "discrete"])),
    max_size=30,
)


@given(REGISTERS, st.integers(0, 125))
def test_a_plan_covers_all_within_the_limits(registers: dict[str, Register], max_gap: int) -> None:
    requests = plan(registers, max_gap)
    named = [name for request in requests for name, _ in request.registers]
    assert sorted(named) == sorted(registers)
    for request in requests:
        assert 1 <= request.count <= (MOST_BITS if request.table in ("coil", "discrete") else MOST_REGISTERS)
        assert all(
            request.address <= one.address and one.address + one.size <= request.address + request.count
            for _, one in request.registers
        )


@given(REGISTERS.filter(bool), st.integers(0, 125))
def test_values_do_not_depend_on_how_they_are_read_together(registers: dict[str, Register], max_gap: int) -> None:
    """A device whose register n holds n, and whose bit n is set if n is odd."""

    def raw(request: Request) -> list[int]:
        places = range(request.address, request.address + request.count)
        return [place % 2 for place in places] if request.table in ("coil", "discrete") else list(places)

    together: dict[str, Any] = {}
    for request in plan(registers, max_gap):
        together.update(request.values(raw(request)))
    alone = {name: one.value(raw(Request(one.table, ((name, one),)))) for name, one in registers.items()}
    assert together == alone


@given(REGISTERS.filter(lambda registers: len(registers) > 1))
def test_halves_hold_all_that_the_whole_held(registers: dict[str, Register]) -> None:
    for request in plan(registers, 125):
        if len(request.registers) > 1:
            first, second = request.halves()
            assert (*first.registers, *second.registers) == request.registers and first.registers and second.registers


ONE = {"a": {"address": 0}}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"registers": {}}, "registers: empty; name at least one"),
        ({"url": "http://a"}, "url: 'http://a' is not allowed; use tcp://host"),
        ({"url": "rtu+tcp://a"}, "url: 'rtu\\+tcp://a' is not allowed"),
        ({"url": "tcp://a:99999"}, "url: 'tcp://a:99999' is not allowed"),
        ({"url": "tcp://gps..local"}, "url: 'tcp://gps..local' is not allowed"),
        ({"url": "tcp://a/path"}, "url: 'tcp://a/path' is not allowed"),
        ({"url": "tcp://a", "baud": 9600}, "baud: goes with a serial port, not with url"),
        ({"unit": 0}, "unit: 0 is not an address of a device on a line; use 1 to 247"),
        ({"url": "rtu+tcp://a:1", "unit": 248}, "unit: 248 is not"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert({"interval_s": 1, "registers": ONE, **settings}, ModbusSettings)

"""Who listens to which line and who drives which, on simulated chips."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from edgehost.gpio import pins as pins_module
from edgehost.gpio.line import BUFFER_EDGES, Chip, InputWish, OutputWish, Place
from edgehost.gpio.pins import Pins
from edgehost.gpio.sim import SimBoard
from edgehost.gpio.trouble import GpioError

pytestmark = pytest.mark.usefixtures("whole_again")

FILES = Path("/proc/self/fd")
Until = Callable[[Callable[[], object]], Awaitable[None]]


def pulse(board: SimBoard, line: Place, count: int = 1) -> None:
    for _ in range(count):
        board.pull(line, True)
        board.pull(line, False)


async def test_edges_are_heard_in_order(board: SimBoard, line: Place, pins: Pins, ear: Any, until: Until) -> None:
    one = ear()
    assert pins.listen("SENSOR_A", InputWish(), one) == line
    pulse(board, line, 100)
    await until(lambda: len(one.heard) == 200)
    assert one.rising == [True, False] * 100
    assert [edge.seqno for edge in one.heard] == list(range(1, 201))
    assert [edge.timestamp_ns for edge in one.heard] == sorted(edge.timestamp_ns for edge in one.heard)
    assert one.lost == 0


async def test_two_listeners_share_one_request(board: SimBoard, line: Place, pins: Pins, ear: Any, until: Until) -> None:
    first, second = ear("f/a"), ear("g/b")
    pins.listen("SENSOR_A", InputWish(), first)
    pins.listen("BCM3", InputWish(), second)
    assert board.line(line).consumer == "f/a"
    pulse(board, line)
    await until(lambda: len(first.heard) == len(second.heard) == 2)
    pins.leave(line, first)
    pulse(board, line)
    await until(lambda: len(second.heard) == 4)
    assert len(first.heard) == 2
    pins.leave(line, second)
    assert board.line(line).consumer == ""


async def test_other_edges_widen_the_request(board: SimBoard, line: Place, pins: Pins, ear: Any, until: Until) -> None:
    first, second, third = ear(), ear(), ear()
    pins.listen("SENSOR_A", InputWish("rising"), first)
    pins.listen("SENSOR_A", InputWish("rising"), second)
    pulse(board, line)
    await until(lambda: second.rising == [True])
    pins.listen("SENSOR_A", InputWish("falling"), third)
    pulse(board, line)
    await until(lambda: third.rising == [True, False])
    assert first.rising == [True, True, False] and first.lost == 0


@pytest.mark.parametrize("wish", [InputWish(pull="up"), InputWish(active_low=True), InputWish(debounce_s=1.0)])
async def test_a_listener_that_wants_something_else_is_refused(wish: InputWish, line: Place, pins: Pins, ear: Any) -> None:
    pins.listen("SENSOR_A", InputWish(), ear("f/a"))
    with pytest.raises(GpioError, match="f/a listens to this line with another pull, active_low or debounce") as caught:
        pins.listen("SENSOR_A", wish, ear("g/b"))
    assert caught.value.state == "failed"


async def test_one_line_is_not_listened_to_and_driven(pins: Pins, ear: Any) -> None:
    pins.listen("SENSOR_A", InputWish(), ear("f/button"))
    with pytest.raises(GpioError, match="BCM3: f/button listens to this line; it cannot be driven as well"):
        pins.drive("BCM3", OutputWish(), True, ear("g/led"))
    pins.drive("RELAY_1", OutputWish(), True, ear("g/led"))
    with pytest.raises(GpioError, match="RELAY_1: g/led drives this line; it cannot be listened to as well"):
        pins.listen("RELAY_1", InputWish(), ear("f/button"))


async def test_edges_of_two_lines_come_by_their_times(board: SimBoard, chip: Chip, pins: Pins, ear: Any, until: Until) -> None:
    """As a rotary encoder's must: A and B are read together, and which came first is the direction."""
    both: list[tuple[str, bool]] = []

    class Phase:
        def __init__(self, owner: str) -> None:
            self.owner = owner

        def edges(self, edges: list[Any], lost: int) -> None:
            both.extend((self.owner, edge.rising) for edge in edges)

        def gone(self) -> None: ...

    a, b = (pins.listen(f"gpiochip0:{offset}", InputWish(), Phase(name)) for offset, name in ((5, "a"), (6, "b")))
    for place, high in ((b, True), (a, True), (b, False), (a, False)) * 20:
        board.pull(place, high)
    await until(lambda: len(both) == 80)
    assert both == [("b", True), ("a", True), ("b", False), ("a", False)] * 20


async def test_what_the_buffer_cannot_hold_is_counted(board: SimBoard, line: Place, pins: Pins, ear: Any, until: Until) -> None:
    one = ear()
    pins.listen("SENSOR_A", InputWish(), one)
    pulse(board, line, 1000)
    await until(lambda: one.heard)
    assert one.lost == 2000 - BUFFER_EDGES and len(one.heard) == BUFFER_EDGES
    assert one.heard[-1].seqno == 2000, "the newest are kept"
    pulse(board, line)
    await until(lambda: len(one.heard) == BUFFER_EDGES + 2)
    assert one.lost == 2000 - BUFFER_EDGES


async def test_a_chip_that_refuses_to_debounce_is_debounced_here(
    board: SimBoard, line: Place, pins: Pins, ear: Any, until: Until
) -> None:
    one = ear()
    pins.listen("SENSOR_A", InputWish(debounce_s=0.05), one)
    for high in (True, False, True, False, True):
        board.pull(line, high)
    await until(lambda: one.heard)
    board.pull(line, False)
    await until(lambda: len(one.heard) == 2)
    assert one.rising == [True, False]
    assert one.heard[0].seqno == 5


async def test_a_refusal_for_another_reason_stays_one(board: SimBoard, line: Place, pins: Pins, ear: Any) -> None:
    held = board.input(line, InputWish(), "somebody")
    with pytest.raises(GpioError, match="SENSOR_A is in use by 'somebody'"):
        pins.listen("SENSOR_A", InputWish(debounce_s=0.05), ear())
    held.release()


async def test_a_taken_line_names_who_has_it(board: SimBoard, line: Place, pins: Pins, ear: Any) -> None:
    held = board.input(line, InputWish(), "gpio-keys")
    for ask in (
        lambda: pins.listen("SENSOR_A", InputWish(), ear()),
        lambda: pins.drive("SENSOR_A", OutputWish(), True, ear()),
    ):
        with pytest.raises(GpioError, match=r"SENSOR_A is in use by 'gpio-keys' \(/dev/gpiochip0 line 3\); stop that") as caught:
            ask()
        assert caught.value.state == "degraded"
    held.release()
    pins.listen("SENSOR_A", InputWish(), ear())


async def test_a_chip_pulled_out_with_edges_pending(
    board: SimBoard, chip: Chip, line: Place, pins: Pins, ear: Any, until: Until
) -> None:
    first, second = ear("f/a"), ear("g/b")
    for one in (first, second):
        pins.listen("SENSOR_A", InputWish(), one)
    open_files = len(list(FILES.iterdir()))
    pulse(board, line, 10)
    board.unplug(chip)
    await until(lambda: first.left == second.left == 1)
    assert first.heard == []
    assert len(list(FILES.iterdir())) == open_files - 1, "the request's descriptor stays open"
    with pytest.raises(GpioError, match="no line has this name"):
        pins.listen("SENSOR_A", InputWish(), first)
    board.add("pinctrl-sim", ["", "", "", "SENSOR_A"])
    place = pins.listen("SENSOR_A", InputWish(), first)
    pulse(board, place)
    await until(lambda: len(first.heard) == 2)
    assert first.lost == 0, "a new request counts from 1"


async def test_a_chip_that_goes_without_a_word_is_noticed(
    board: SimBoard, chip: Chip, pins: Pins, ear: Any, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before Linux 6.6 nobody who waits is woken; an output waits for nothing at all."""
    monkeypatch.setattr(pins_module, "CHECK_S", 0.02)
    monkeypatch.setattr("edgehost.gpio.sim.os.eventfd_write", lambda fd, value: None)
    heard, driver = ear("f/a"), ear("f/b")
    pins.listen("SENSOR_A", InputWish(), heard)
    pins.drive("gpiochip0:5", OutputWish(), True, driver)
    board.unplug(chip)
    await until(lambda: heard.left == driver.left == 1)


async def test_no_request_outlives_a_refused_level(board: SimBoard, line: Place, pins: Pins, ear: Any, monkeypatch: Any) -> None:
    def broken(self: object) -> bool:
        raise OSError(121, "Remote I/O error")

    monkeypatch.setattr("edgehost.gpio.sim.SimInput.value", property(broken))
    with pytest.raises(GpioError, match="SENSOR_A: Remote I/O error"):
        pins.listen("SENSOR_A", InputWish(debounce_s=0.1), ear())
    assert board.line(line).consumer == ""


async def test_an_output_has_its_initial_level_and_ends_safe(board: SimBoard, line: Place, pins: Pins, ear: Any) -> None:
    levels: list[bool] = []
    board.watch(lambda place, high, time: levels.append(high))
    one = ear()
    driven = pins.drive("SENSOR_A", OutputWish(active_low=True), False, one)
    assert board.high(line) and board.line(line).output
    driven.set(True)
    assert not board.high(line)
    pins.release(driven, one)
    assert levels == [True, False, True, False], "initial off, on, safe off; then nobody drives it"
    assert board.line(line).consumer == ""


async def test_an_upgrade_keeps_the_level(board: SimBoard, line: Place, pins: Pins, ear: Any) -> None:
    old, new = ear("f/led"), ear("f/led")
    before = pins.drive("SENSOR_A", OutputWish(), False, old)
    before.set(True)
    after = pins.drive("SENSOR_A", OutputWish(), False, new)
    pins.release(before, old)
    assert board.high(line) and after.value
    after.set(False)
    assert not board.high(line)
    with pytest.raises(GpioError, match="f/led drives this line; one function can"):
        pins.drive("SENSOR_A", OutputWish(), False, ear("g/led"))


async def test_an_upgrade_to_another_drive_asks_anew_at_the_same_level(
    board: SimBoard, line: Place, pins: Pins, ear: Any
) -> None:
    old, new = ear("f/led"), ear("f/led")
    pins.drive("SENSOR_A", OutputWish(), True, old)
    driven = pins.drive("SENSOR_A", OutputWish("open-drain"), False, new)
    assert driven.value
    board.pull(line, True)
    assert board.high(line), "an open drain lets go of a line that is on"
    driven.set(False)
    assert not board.high(line)


async def test_a_pulse_ends_and_a_new_order_ends_it_early(
    board: SimBoard, line: Place, pins: Pins, ear: Any, until: Until
) -> None:
    driven = pins.drive("SENSOR_A", OutputWish(), False, ear())
    driven.pulse(True, 0.03)
    assert board.high(line)
    await until(lambda: not board.high(line))
    driven.pulse(True, 0.03)
    driven.set(True)
    await asyncio.sleep(0.1)
    assert board.high(line), "the pulse was forgotten"


async def test_a_pulse_ends_with_its_line(board: SimBoard, chip: Chip, line: Place, pins: Pins, ear: Any) -> None:
    one = ear()
    one.safe = None
    driven = pins.drive("SENSOR_A", OutputWish(), False, one)
    driven.pulse(True, 60)
    levels: list[bool] = []
    board.watch(lambda place, high, time: levels.append(high))
    pins.release(driven, one)
    assert levels == [False], "kept as it is after the pulse"
    driven = pins.drive("SENSOR_A", OutputWish(), False, one)
    driven.pulse(True, 60)
    board.unplug(chip)
    pins._check()
    assert one.left == 1 and not driven.value, "what it gets when the chip is back"


async def test_an_output_whose_chip_has_gone_says_so(board: SimBoard, chip: Chip, pins: Pins, ear: Any) -> None:
    one = ear()
    driven = pins.drive("SENSOR_A", OutputWish(), False, one)
    board.unplug(chip)
    with pytest.raises(GpioError, match="its chip /dev/gpiochip0 has gone"):
        driven.set(True)
    pins.release(driven, one)

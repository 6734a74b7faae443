"""What every GPIO driver does, held over the simulated chip and, where the kernel has gpio-sim, over the kernel's own.

The second needs root and configfs with the module gpio-sim loaded (`tools/lab vm test`): the test makes its chip there, pulls its
lines in sysfs and reads what an output drives. edgehost/gpio/line.py is the contract.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from edgehost.gpio.kernel import KernelDriver
from edgehost.gpio.line import BUFFER_EDGES, Chip, Driver, Edge, InputLine, InputWish, OutputWish, Place
from edgehost.gpio.pins import Pins
from edgehost.gpio.places import Places
from edgehost.gpio.safe import SafeStates
from edgehost.gpio.sim import SimBoard
from edgehost.gpio.trouble import GpioError
from edgehost.profile.model import Gpio

pytestmark = pytest.mark.usefixtures("whole_again")

CONFIGFS = Path("/sys/kernel/config/gpio-sim")
LABEL = "edgehost-test"
NAMES = {1: "SENSOR_A", 2: "RELAY"}
PACE_S = 0.002
"""gpio-sim merges edges that come faster than its interrupts are delivered; under emulation that takes a while."""


class Bench(Protocol):
    """A chip of eight lines, and what a hand with a wire can do to it."""

    driver: Driver

    @property
    def chip(self) -> Chip: ...

    def pull(self, offset: int, high: bool) -> None: ...

    def high(self, offset: int) -> bool: ...

    def unplug(self) -> None: ...

    def plug(self) -> None: ...

    def remove(self) -> None: ...


class SimBench:
    """The chip in memory."""

    def __init__(self) -> None:
        self.driver = self._board = SimBoard(invent=False)
        self.plug()

    @property
    def chip(self) -> Chip:
        return self.driver.chips()[0]

    def pull(self, offset: int, high: bool) -> None:
        self._board.pull(Place(self.chip.path, offset), high)

    def high(self, offset: int) -> bool:
        return self._board.high(Place(self.chip.path, offset))

    def unplug(self) -> None:
        self._board.unplug(self.chip)

    def plug(self) -> None:
        self._board.add(LABEL, [NAMES.get(offset, "") for offset in range(8)])

    def remove(self) -> None: ...


class KernelBench:
    """A chip of the kernel's gpio-sim (Documentation/admin-guide/gpio/gpio-sim.rst)."""

    def __init__(self) -> None:
        self.driver = KernelDriver()
        self._folder = CONFIGFS / f"edgehost-{os.getpid()}"
        self._bank = self._folder / "bank0"
        self._bank.mkdir(parents=True)
        (self._bank / "num_lines").write_text("8")
        (self._bank / "label").write_text(LABEL)
        for offset, name in NAMES.items():
            (self._bank / f"line{offset}").mkdir()
            (self._bank / f"line{offset}" / "name").write_text(name)
        self.plug()

    @property
    def chip(self) -> Chip:
        return next(chip for chip in self.driver.chips() if chip.label == LABEL)

    def _line(self, offset: int) -> Path:
        device = (self._folder / "dev_name").read_text().strip()
        chip = (self._bank / "chip_name").read_text().strip()
        return Path(f"/sys/devices/platform/{device}/{chip}/sim_gpio{offset}")

    def pull(self, offset: int, high: bool) -> None:
        (self._line(offset) / "pull").write_text("pull-up" if high else "pull-down")
        time.sleep(PACE_S)

    def high(self, offset: int) -> bool:
        return (self._line(offset) / "value").read_text().strip() == "1"

    def unplug(self) -> None:
        (self._folder / "live").write_text("0")

    def plug(self) -> None:
        (self._folder / "live").write_text("1")
        deadline = time.monotonic() + 10
        while not any(chip.label == LABEL for chip in self.driver.chips()):  # udev makes the device's file
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def remove(self) -> None:
        if (self._folder / "live").read_text().strip() == "1":
            self.unplug()
        for offset in NAMES:
            (self._bank / f"line{offset}").rmdir()
        self._bank.rmdir()
        self._folder.rmdir()


@pytest.fixture(params=["sim", "gpiod"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    if request.param == "gpiod" and not (CONFIGFS.is_dir() and os.access(CONFIGFS, os.W_OK)):
        pytest.skip(f"no {CONFIGFS}, or no right to write there; `tools/lab vm test` has it")
    made: Bench = SimBench() if request.param == "sim" else KernelBench()
    yield made
    made.remove()


@pytest.fixture
def listen(bench: Bench) -> Iterator[Callable[..., InputLine]]:
    """`listen(offset, edges="both", pull="down", active_low=False)`: request an input."""
    held = []

    def request(offset: int, **wish: Any) -> InputLine:
        held.append(bench.driver.input(Place(bench.chip.path, offset), InputWish(**wish), "edgehost test"))
        return held[-1]

    yield request
    for line in held:
        line.release()


def edges_of(line: InputLine, count: int) -> list[Edge]:
    """So many edges, or those that came in time."""
    found: list[Edge] = []
    while len(found) < count and select.select([line.fd], [], [], 2)[0]:
        found += line.read()
    return found


def test_the_chip_is_listed_with_its_lines(bench: Bench) -> None:
    chip = bench.chip
    assert (chip.label, chip.size) == (LABEL, 8)
    assert chip.path == f"/dev/{chip.name}"
    lines = bench.driver.lines(chip)
    assert {info.place.offset: info.name for info in lines if info.name} == NAMES
    assert [info.place for info in lines] == [Place(chip.path, offset) for offset in range(8)]
    assert not any(info.consumer for info in lines)


@pytest.mark.parametrize(
    ("edges", "expected"), [("both", [True, False, True, False]), ("rising", [True, True]), ("falling", [False, False])]
)
def test_edges_come_as_asked(bench: Bench, listen: Callable[..., InputLine], edges: str, expected: list[bool]) -> None:
    line = listen(3, edges=edges)
    for high in (True, False, True, False):
        bench.pull(3, high)
    found = edges_of(line, len(expected))
    assert [edge.rising for edge in found] == expected
    assert [edge.seqno for edge in found] == list(range(1, len(expected) + 1))
    assert line.read() == [], "an empty buffer does not block"


def test_times_are_monotonic_ones(bench: Bench, listen: Callable[..., InputLine]) -> None:
    line, before = listen(3), time.monotonic_ns()
    bench.pull(3, True)
    bench.pull(3, False)
    first, second = edges_of(line, 2)
    assert before < first.timestamp_ns < second.timestamp_ns < time.monotonic_ns()


def test_active_low_turns_levels_and_edges_round(bench: Bench, listen: Callable[..., InputLine]) -> None:
    line = listen(3, active_low=True)
    assert line.value is True
    bench.pull(3, True)
    assert line.value is False
    assert [edge.rising for edge in edges_of(line, 1)] == [False]


def test_a_pull_resistor_holds_a_free_line(bench: Bench, listen: Callable[..., InputLine]) -> None:
    assert listen(3, pull="up").value is True
    assert listen(4, pull="down").value is False


def test_a_full_buffer_pushes_out_the_oldest(bench: Bench, listen: Callable[..., InputLine]) -> None:
    line = listen(3)
    for _ in range(BUFFER_EDGES // 2 + 50):
        bench.pull(3, True)
        bench.pull(3, False)
    found = []
    while edges := line.read():
        found += edges
    assert len(found) == BUFFER_EDGES
    made = found[-1].seqno
    assert made > BUFFER_EDGES and [edge.seqno for edge in found] == list(range(made - BUFFER_EDGES + 1, made + 1))


def test_a_line_is_one_users_alone(bench: Bench, listen: Callable[..., InputLine]) -> None:
    line = listen(3)
    place = Place(bench.chip.path, 3)
    assert bench.driver.line(place).consumer == "edgehost test"
    for ask in (
        lambda: bench.driver.input(place, InputWish(), "other"),
        lambda: bench.driver.output(place, OutputWish(), True, "other"),
    ):
        with pytest.raises(OSError) as caught:
            ask()
        assert caught.value.errno == errno.EBUSY
    line.release()
    bench.driver.input(place, InputWish(), "other").release()
    assert bench.driver.line(place).consumer == ""


def test_an_output_drives_its_line(bench: Bench) -> None:
    line = bench.driver.output(Place(bench.chip.path, 5), OutputWish(), True, "edgehost test")
    assert bench.high(5) and line.value is True
    line.set(False)
    assert not bench.high(5) and line.value is False
    info = bench.driver.line(Place(bench.chip.path, 5))
    assert info.output and info.consumer == "edgehost test"
    line.release()


def test_an_output_that_was_given_back_drives_nothing(bench: Bench) -> None:
    line = bench.driver.output(Place(bench.chip.path, 5), OutputWish(), False, "edgehost test")
    line.release()
    line.release()
    with pytest.raises(OSError):
        line.set(True)
    assert not bench.high(5)


def test_an_active_low_output_is_high_when_off(bench: Bench) -> None:
    line = bench.driver.output(Place(bench.chip.path, 5), OutputWish(active_low=True), False, "edgehost test")
    assert bench.high(5)
    line.set(True)
    assert not bench.high(5)
    line.release()


def test_an_open_drain_drives_low_and_lets_go(bench: Bench) -> None:
    bench.pull(5, True)
    line = bench.driver.output(Place(bench.chip.path, 5), OutputWish("open-drain"), False, "edgehost test")
    try:
        assert not bench.high(5)
        line.set(True)
        # Linux 6.1's gpio-sim shows the level last driven even while nobody drives it.
        assert bench.high(5) or isinstance(bench, KernelBench)
    finally:
        line.release()
    assert bench.high(5)


def test_a_long_consumer_is_cut(bench: Bench) -> None:
    name = "función/" + "x" * 40
    line = bench.driver.input(Place(bench.chip.path, 3), InputWish(), name)
    assert name.startswith(bench.driver.line(Place(bench.chip.path, 3)).consumer)
    line.release()


def test_a_chip_that_goes_ends_its_requests(bench: Bench, listen: Callable[..., InputLine]) -> None:
    line = listen(3)
    output = bench.driver.output(Place(bench.chip.path, 5), OutputWish(), True, "edgehost test")
    bench.pull(3, True)
    assert line.alive() and output.alive()
    bench.unplug()
    assert not line.alive() and not output.alive()
    for use in (line.read, lambda: line.value, lambda: output.set(False)):
        with pytest.raises(OSError) as caught:
            use()
        assert caught.value.errno == errno.ENODEV
    output.release()
    bench.plug()
    again = listen(3)
    bench.pull(3, True)
    bench.pull(3, False)
    assert edges_of(again, 2)[-1].rising is False


@pytest.mark.parametrize("offset", [8, 99])
def test_no_such_line_is_refused(bench: Bench, offset: int) -> None:
    with pytest.raises(OSError):
        bench.driver.input(Place(bench.chip.path, offset), InputWish(), "edgehost test")


def test_no_such_chip_is_refused(bench: Bench) -> None:
    with pytest.raises(OSError):
        bench.driver.input(Place("/dev/gpiochip99", 1), InputWish(), "edgehost test")


class Ear:
    """Who listens, in the last part."""

    owner = "f/t"
    function = "f"

    def __init__(self) -> None:
        self.heard: list[Edge] = []
        self.lost = 0
        self.left = asyncio.Event()

    def edges(self, edges: list[Edge], lost: int) -> None:
        self.heard += edges
        self.lost += lost

    def gone(self) -> None:
        self.left.set()


Until = Callable[[Callable[[], object]], Awaitable[None]]


async def test_the_loop_hears_a_thousand_paced_edges(bench: Bench, until: Until) -> None:
    pins, ear = Pins(bench.driver, Places(bench.driver, Gpio(), ""), SafeStates(None)), Ear()
    pins.listen("SENSOR_A", InputWish(), ear)
    for _ in range(500):
        bench.pull(1, True)
        bench.pull(1, False)
        await asyncio.sleep(0)
    await until(lambda: len(ear.heard) + ear.lost >= 1000)
    assert ear.lost == 0 and [edge.rising for edge in ear.heard] == [True, False] * 500
    await pins.close()


async def test_a_bouncing_line_is_debounced_by_whoever_can(bench: Bench, until: Until) -> None:
    """By the kernel over gpio-sim, here over the simulated chip: what is heard is the same."""
    pins, ear = Pins(bench.driver, Places(bench.driver, Gpio(), ""), SafeStates(None)), Ear()
    pins.listen("SENSOR_A", InputWish(debounce_s=0.1), ear)
    for high in (True, False, True, False, True):
        bench.pull(1, high)
    await until(lambda: ear.heard)
    bench.pull(1, False)
    await until(lambda: len(ear.heard) == 2)
    await asyncio.sleep(0.15)
    assert [edge.rising for edge in ear.heard] == [True, False]
    await pins.close()


async def test_a_line_that_is_taken_names_who_has_it(bench: Bench, listen: Callable[..., InputLine]) -> None:
    pins = Pins(bench.driver, Places(bench.driver, Gpio(), ""), SafeStates(None))
    listen(2)
    with pytest.raises(GpioError, match="RELAY is in use by 'edgehost test'"):
        pins.drive("RELAY", OutputWish(), True, Ear())
    await pins.close()


async def test_a_chip_comes_and_goes_under_the_loop(bench: Bench) -> None:
    pins, ear = Pins(bench.driver, Places(bench.driver, Gpio(), ""), SafeStates(None)), Ear()
    pins.listen("SENSOR_A", InputWish(), ear)
    bench.unplug()
    await asyncio.wait_for(ear.left.wait(), 20)
    with pytest.raises(GpioError):
        pins.listen("SENSOR_A", InputWish(), ear)
    bench.plug()
    pins.listen("SENSOR_A", InputWish(), ear)
    await pins.close()


kernel_alone = pytest.mark.parametrize("bench", ["gpiod"], indirect=True)


def gpio(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "edgehost.cli.entry", "gpio", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def said(*arguments: str) -> tuple[int, str]:
    """The exit code of `edgehost gpio ...`, and what it printed."""
    with gpio(*arguments) as process:
        out, err = process.communicate(timeout=60)
        return process.returncode, out + err


@kernel_alone
def test_the_command_line_reads_and_drives_the_kernels_lines(bench: Bench, listen: Callable[..., InputLine]) -> None:
    code, out = said("list", "--chip", LABEL)
    assert code == 0 and "SENSOR_A" in out and "RELAY" in out
    bench.pull(1, True)
    assert said("get", "SENSOR_A", "--chip", LABEL) == (0, "1\n")
    bench.pull(4, False)
    assert said("get", "4", "--chip", LABEL) == (0, "0\n")
    listen(1)
    code, out = said("get", "SENSOR_A", "--chip", LABEL)
    assert code == 1 and "SENSOR_A is in use by 'edgehost test'" in out


@kernel_alone
def test_the_command_line_drives_until_it_is_ended(bench: Bench) -> None:
    with gpio("set", "RELAY", "1", "--chip", LABEL) as process:
        assert "until Ctrl-C" in process.stderr.readline()
        deadline = time.monotonic() + 20
        while not bench.high(2):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130


@kernel_alone
def test_the_command_line_watches_the_kernels_lines(bench: Bench) -> None:
    with gpio("watch", "SENSOR_A", "RELAY", "--json", "--chip", LABEL) as process:
        deadline = time.monotonic() + 60
        while not bench.driver.line(Place(bench.chip.path, 2)).consumer:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        bench.pull(2, True)
        bench.pull(1, True)
        told = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert [(change["line"], change["high"]) for change in told] == [("RELAY", True), ("SENSOR_A", True)]
    assert all(abs(change["time"] - time.time()) < 60 for change in told)

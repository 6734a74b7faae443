"""Which port a name means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from edgehost.config import Config, SerialPort
from edgehost.errors import TriggerError
from edgehost.tty import identity
from edgehost.tty.identity import Identity, identify

HAS_GPS = Config(serial={"gps": SerialPort("usb:0403:6001"), "default": SerialPort("/dev/ttyS1"), "odd": SerialPort("COM3")})


@dataclass(order=True)
class Found:
    """What pyserial tells about a port."""

    device: str
    vid: int | None = None
    pid: int | None = None
    serial_number: str | None = None
    description: str = "n/a"


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> list[Found]:
    """The ports of the machine; a USB bus with devices is beyond a test's machine."""
    found: list[Found] = []
    monkeypatch.setattr("serial.tools.list_ports.comports", lambda: list(found))
    return found


@pytest.fixture(autouse=True)
def board(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The ports of the board's profile: none."""
    ports: dict[str, Any] = {}

    class Profile:
        serial = ports

    monkeypatch.setattr(identity, "current", lambda config: Profile)
    return ports


@pytest.mark.parametrize(
    ("written", "spec"),
    [
        ("/dev/ttyUSB0", "/dev/ttyUSB0"),
        ("/dev//ttyUSB0", "/dev/ttyUSB0"),
        ("usb:10C4:EA60", "usb:10c4:ea60"),
        ("usb:0403:6001:A50285BI", "usb:0403:6001:A50285BI"),
        ("usb-FTDI_FT232R_USB_UART_A50285BI-if00-port0", "/dev/serial/by-id/usb-FTDI_FT232R_USB_UART_A50285BI-if00-port0"),
        ("gps", "usb:0403:6001"),
        ("default", "/dev/ttyS1"),
    ],
)
def test_what_is_written_means_a_port(written: str, spec: str) -> None:
    assert identify(written, HAS_GPS) == Identity(written, spec)


def test_the_boards_ports_have_names(board: dict[str, Any]) -> None:
    board["uart"] = Found("")
    board["uart"].path = "/dev/serial0"
    assert identify("uart", Config()).spec == "/dev/serial0"
    assert identify("default", Config()).spec == "/dev/serial0"
    assert identify("default", HAS_GPS).spec == "/dev/ttyS1"


@pytest.mark.parametrize(
    ("written", "config", "texts"),
    [
        ("default", Config(), ["no default port is set", "--serial PORT", "ports here: /dev/ttyACM0 (Uno)"]),
        ("gsp", HAS_GPS, ["'gsp' is no port here", "add [serial.gsp]", "(it has default, gps, odd)"]),
        ("ttyUSB0", Config(), ["'ttyUSB0' is no port here", "write a path"]),
        ("usb:0403", Config(), ["is no port here"]),
        ("odd", HAS_GPS, ["[serial.odd].port: 'COM3' is no port", "usb:VENDOR:PRODUCT"]),
    ],
)
def test_a_name_that_means_nothing_says_what_there_is(
    plugged: list[Found], written: str, config: Config, texts: list[str]
) -> None:
    plugged.append(Found("/dev/ttyACM0", description="Uno"))
    with pytest.raises(TriggerError) as caught:
        identify(written, config)
    assert all(text in str(caught.value) for text in texts), caught.value


def test_a_usb_device_is_found_wherever_it_is_plugged_in(plugged: list[Found]) -> None:
    plugged += [Found("/dev/ttyUSB0", 0x0403, 0x6001, "A1"), Found("/dev/ttyUSB1", 0x0403, 0x6001, "A2"), Found("/dev/ttyS0")]
    assert identify("usb:0403:6001:A2", Config()).path() == "/dev/ttyUSB1"
    with pytest.raises(TriggerError, match=r"fits 2 ports: /dev/ttyUSB0 \(usb:0403:6001:A1\), .*add the serial number"):
        identify("usb:0403:6001", Config()).path()
    del plugged[1]
    assert identify("usb:0403:6001", Config()).path() == "/dev/ttyUSB0"
    with pytest.raises(TriggerError, match=r"usb:0403:6001:A2 is not plugged in; ports here: /dev/ttyS0, /dev/ttyUSB0"):
        identify("usb:0403:6001:A2", Config()).path()


def test_what_could_be_the_port_when_it_appears() -> None:
    usb, path = Identity("x", "usb:0403:6001"), Identity("x", "/dev/serial/by-id/usb-A")
    assert (usb.folder, path.folder) == ("/dev", "/dev/serial/by-id")
    assert usb.may_be("ttyUSB3") and path.may_be("usb-A")
    assert not usb.may_be("sda") and not path.may_be("usb-B")

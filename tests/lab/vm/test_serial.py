"""Ports of a real kernel: a USB adapter that is pulled out in the middle of a frame, and a UART with NMEA both ways."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tools.laboratory.machine import Machine

pytestmark = pytest.mark.skipif(os.environ.get("EDGEHOST_LAB") == "arm64", reason="its board has no second UART; vm test has")

USB = """\
handler = "main:handler"
[triggers.gps]
kind = "serial"
port = "usb:0403:6001"
framing = "nmea"
[sandbox]
write = ["/var/lib/edgehost/out"]
"""
WRITES = """\
out = open("/var/lib/edgehost/out/gps", "ab", buffering=0)

def handler(context, event):
    out.write(event.body + b"\\n")
"""
UART = """\
handler = "main:handler"
[triggers.bus]
kind = "serial"
port = "/dev/ttyS1"
baud = 115200
framing = "nmea"
write_answers = true
"""
ECHO = """\
def handler(context, event):
    return event.body
"""


def sentence(number: int) -> bytes:
    """A GGA sentence whose checksum is right."""
    body = b"GPGGA,%06d.00,5230.00000,N,01323.00000,E,1,12,0.80,34.5,M,45.2,M,," % number
    check = 0
    for byte in body:
        check ^= byte
    return b"$%s*%02X" % (body, check)


def connected(path: object) -> socket.socket:
    """The host's end of a line of the machine."""
    line = socket.socket(socket.AF_UNIX)
    line.settimeout(30)
    line.connect(str(path))
    return line


def unplugged(machine: Machine, name: str) -> None:
    """Pull the device out, and wait until the kernel has let go of it: QEMU keeps its name for so long."""
    machine.unplug(name)
    machine.until("! ls /dev/ttyUSB0")


def test_a_port_pulled_out_in_the_middle_of_a_frame_comes_back(machine: Machine, agent: Any) -> None:
    wire = machine.folder / "wire"
    where = {"type": "unix", "data": {"path": str(wire)}}
    machine.qmp("chardev-add", id="wire", backend={"type": "socket", "data": {"addr": where, "server": True, "wait": False}})
    agent.start({"gps": {"function.toml": USB, "main.py": WRITES}})
    assert agent.trigger("gps", "gps")["state"] == "degraded"
    running = lambda status: agent.trigger("gps", "gps", status)["state"] == "running"  # noqa: E731
    with connected(wire) as line:
        machine.plug("usb-serial", "first", chardev="wire", bus="usb.0")
        agent.until(running)
        line.sendall(b"".join(sentence(number) + b"\r\n" for number in range(20)) + sentence(20)[:30])
        machine.until("[ $(wc -l </var/lib/edgehost/out/gps) -eq 20 ]")
        unplugged(machine, "first")
        agent.until(lambda status: agent.trigger("gps", "gps", status)["state"] == "degraded")
        machine.plug("usb-serial", "second", chardev="wire", bus="usb.0")
        status = agent.until(running)
        line.sendall(b"".join(sentence(number) + b"\r\n" for number in range(100, 120)))
        machine.until("[ $(wc -l </var/lib/edgehost/out/gps) -eq 40 ]")
    expected = [sentence(number).decode() for number in (*range(20), *range(100, 120))]
    assert agent.out("gps").splitlines() == expected
    assert agent.trigger("gps", "gps", status)["counts"]["incomplete"] == 1


def test_a_uart_carries_sentences_both_ways(machine: Machine, agent: Any) -> None:
    agent.start({"echo": {"function.toml": UART, "main.py": ECHO}})
    sent = b"".join(sentence(number) + b"\r\n" for number in range(50))
    with connected(machine.second_serial) as line:
        line.sendall(sent)
        got, deadline = b"", time.monotonic() + 30
        while len(got) < len(sent) and time.monotonic() < deadline:
            got += line.recv(4096)
    assert got == sent

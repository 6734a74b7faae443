"""The serial part of `tools/bench devices`: NMEA sentences through a pty pair into a handler, at the pace of a line.

A pty knows no baud rate, so the writer keeps the pace: 10 bits a byte, as 8N1 takes, handed over each millisecond as a UART does.
To wake up costs more on some machines than all that is done then: the figure stands beside that of a bare reader in the same run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tools.benches.report import Row
from tools.benches.running import Agent, Code, agent

BAUD = 921_600
_TICK_S = 0.001
_SETTLE_S = 10.0
_MANIFEST = """
handler = "main:handler"
[triggers.line]
kind = "serial"
port = "{port}"
baud = {baud}
framing = "nmea"
"""


def run(seconds: float) -> list[Row]:
    """Frames a second, frames lost, and the agent's own CPU for each."""
    title = f"serial, NMEA at {BAUD:,} baud"
    with _pty() as (master, port):
        bare_us = _bare_us(master, port, seconds)
    with tempfile.TemporaryDirectory(prefix="edgehost-bench-") as name, _pty() as (master, port):
        code = Code(_MANIFEST.format(port=port, baud=BAUD))
        with agent(Path(name), {"gps": code}) as running:
            sent, lost, per_s, cpu_us = _measure(running, master, seconds)
    return [
        Row(f"{title}: frames sent", sent, "frames"),
        Row(f"{title}: lost", lost, "frames", 0, higher_is_better=False),
        Row(f"{title}: rate", per_s, "frames/s"),
        Row(f"{title}: agent CPU", cpu_us, "µs/frame", 20.0, higher_is_better=False),
        Row(f"{title}: CPU of a bare reader", bare_us, "µs/frame"),
        Row(f"{title}: the agent, with queue, worker and answer, against that", cpu_us / bare_us, "x"),
    ]


def _measure(running: Agent, master: int, seconds: float) -> tuple[int, int, float, float]:
    """Frames sent, frames that did not come out, frames a second, and CPU microseconds of the agent for each."""
    before, cpu_s, began = running.functions()["gps"].handled, running.cpu_s(), time.monotonic()
    sent = _write(master, began + seconds)
    end = time.monotonic() + _SETTLE_S
    while (handled := running.functions()["gps"].handled - before) < sent and time.monotonic() < end:
        time.sleep(0.02)
    took_s = time.monotonic() - began
    return sent, sent - handled, handled / took_s, (running.cpu_s() - cpu_s) / max(1, handled) * 1e6


def _bare_us(master: int, port: str, seconds: float) -> float:
    """CPU microseconds that a program needs which reads the line, checks each sentence, and does nothing else."""
    with subprocess.Popen([sys.executable, "-m", "tools.benches.bare_reader", port], stdout=subprocess.DEVNULL) as reader:
        time.sleep(1.0)  # it has started
        before = _cpu_s(reader.pid)
        sent = _write(master, time.monotonic() + seconds)
        time.sleep(0.1)
        spent_s = _cpu_s(reader.pid) - before
        reader.kill()
    return spent_s / sent * 1e6


def _cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _write(master: int, end: float) -> int:
    """Write whole sentences at the line's pace until `end`; how many there were."""
    sent = written = 0
    began = time.monotonic()
    waiting = bytearray()
    while (now := time.monotonic()) < end or waiting:
        allowed = int((now - began) * BAUD / 10) - written
        while len(waiting) < allowed and now < end:
            waiting += _sentence(sent)
            sent += 1
        if allowed > 0:
            done = os.write(master, waiting[:allowed])
            del waiting[:done]
            written += done
        time.sleep(_TICK_S)
    return sent


def _sentence(number: int) -> bytes:
    """A position that moves, in the form most receivers send (NMEA 0183, GGA)."""
    fields = (number % 240_000, number % 100_000, number % 99_991)
    body = b"GPGGA,%06d.00,5230.%05d,N,01323.%05d,E,1,12,0.80,34.5,M,45.2,M,," % fields
    check = 0
    for byte in body:
        check ^= byte
    return b"$%s*%02X\r\n" % (body, check)


@contextmanager
def _pty() -> Iterator[tuple[int, str]]:
    master, slave = os.openpty()
    tty.setraw(slave)
    try:
        yield master, os.ttyname(slave)
    finally:
        os.close(slave)
        os.close(master)

"""The datagrams of sd_notify(3), sent to a real socket, and what the environment says of them."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgehost.service.notify import Notifier, Supervision, extend_timeout, read_supervision, reloading, status, take_supervision


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """The service manager's end, and its address as NOTIFY_SOCKET has it."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@edgehost-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + address[1:] if address.startswith("@") else address)
        listener.settimeout(5)
        yield listener, address


def heard(listener: socket.socket) -> list[str]:
    """Every datagram that waits."""
    listener.setblocking(False)
    found = []
    while True:
        try:
            found.append(listener.recv(4096).decode())
        except BlockingIOError:
            return found


def test_one_call_is_one_datagram(manager: tuple[socket.socket, str]) -> None:
    listener, address = manager
    notifier = Notifier(address)
    notifier.send("READY=1", status("all\nis  well"))
    notifier.beat()
    notifier.close()
    assert heard(listener) == ["READY=1\nSTATUS=all is well", "WATCHDOG=1"]


def test_without_a_manager_nothing_happens() -> None:
    notifier = Notifier("")
    notifier.send("READY=1")
    notifier.beat()
    notifier.close()


def test_a_manager_that_begins_anew_hears_what_it_missed(tmp_path: Path) -> None:
    notifier = Notifier(str(tmp_path / "notify"))
    notifier.send("READY=1")
    notifier.beat()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        notifier.send(status("here"))
        assert heard(listener) == ["READY=1", "STATUS=here"]
    notifier.close()


def test_a_manager_that_does_not_read_stops_nobody(manager: tuple[socket.socket, str]) -> None:
    listener, address = manager
    notifier = Notifier(address)
    began = time.monotonic()
    for number in range(2000):
        notifier.send(status(f"line {number}"))
    assert time.monotonic() - began < 5
    told = []
    while more := heard(listener):
        told += more
        notifier.send()
    assert (told[0], told[-1]) == ("STATUS=line 0", "STATUS=line 1999")
    notifier.close()


def test_a_sign_of_life_does_not_wait(tmp_path: Path) -> None:
    notifier = Notifier(str(tmp_path / "notify"))
    notifier.beat()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        notifier.send(status("here"))
        assert heard(listener) == ["STATUS=here"]
    notifier.close()


def test_a_reload_says_when_it_began() -> None:
    before = time.monotonic_ns() // 1000
    state, at = reloading()
    assert state == "RELOADING=1"
    assert before <= int(at.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000


def test_an_extension_is_in_microseconds() -> None:
    assert extend_timeout(1.5) == "EXTEND_TIMEOUT_USEC=1500000"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, Supervision()),
        ({"NOTIFY_SOCKET": "/run/n"}, Supervision("/run/n")),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "3000000"}, Supervision("@n", 3.0)),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7"}, Supervision("/run/n", 3.0)),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "8"}, Supervision("/run/n")),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "soon"}, Supervision("/run/n")),
        ({"NOTIFY_SOCKET": "vsock:2:1", "WATCHDOG_USEC": "3000000"}, Supervision()),
        ({"WATCHDOG_USEC": "3000000"}, Supervision()),
    ],
)
def test_what_the_environment_says(environ: dict[str, str], expected: Supervision) -> None:
    assert read_supervision(environ, 7) == expected


def test_no_child_inherits_it() -> None:
    environ = {"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "7", "HOME": "/"}
    assert take_supervision(environ, 7) == Supervision("/run/n", 1e-6)
    assert environ == {"HOME": "/"}

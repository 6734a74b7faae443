"""One opened serial device: its descriptor, set to the line's parameters and held for this process alone. Opened by pyserial.

Must not know who uses the port, or what to do when it is gone.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
import termios
from pathlib import Path
from typing import Any

from edgehost.errors import TriggerError
from edgehost.tty.identity import ports_here
from edgehost.tty.line import LineSettings

_TAKEN = {errno.EBUSY, errno.EAGAIN, errno.EACCES}


class TakenError(TriggerError):
    """A port that another program has open."""


class UnfitError(TriggerError):
    """A port that will not open until a person mends something: no permission, no serial port at all."""


class Device:
    """An open device. Raises TriggerError (UnfitError) from the constructor if it cannot be opened now."""

    def __init__(self, path: str, line: LineSettings) -> None:
        _look(path)
        self.path = path
        self._serial = _opened(path, line)
        self.descriptor: int = self._serial.fileno()

    def read(self) -> bytes:
        """What has come, at most 64 KiB; empty when nothing has. Raises OSError when the device is gone."""
        try:
            data = os.read(self.descriptor, 65536)
        except BlockingIOError:
            return b""
        if not data:
            raise OSError(errno.EIO, "the device hung up")
        return data

    def write(self, data: bytes | memoryview) -> int:
        """How many bytes the kernel took now. Raises OSError when the device is gone."""
        try:
            return os.write(self.descriptor, data)
        except BlockingIOError:
            return 0

    def check(self) -> None:
        """Raises OSError if the device is gone: for one that nobody reads now."""
        fcntl.ioctl(self.descriptor, termios.FIONREAD, bytes(4))

    @property
    def unsent(self) -> int:
        """Bytes that the kernel has taken and the line has not. A device that is gone has none."""
        try:
            return int.from_bytes(fcntl.ioctl(self.descriptor, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        except OSError:
            return 0

    def close(self) -> None:
        """Close at once: what the line has not taken by now is dropped, for close(2) would wait up to 30 s for it."""
        try:
            # Never without need: on a pseudo-terminal a flush takes back what the other side is about to read.
            if self.unsent:
                termios.tcflush(self.descriptor, termios.TCOFLUSH)
            fcntl.ioctl(self.descriptor, termios.TIOCNXCL)
        except (OSError, termios.error):
            pass  # it is gone already
        self._serial.close()


def _look(path: str) -> None:
    """Refuse what is no character device before anything is opened: opening a FIFO or a tape has effects."""
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        raise TriggerError(f"{path} is not there; plug it in, or name another port; {ports_here()}") from None
    except OSError as error:
        raise UnfitError(f"{path} cannot be looked at: {error.strerror}") from None
    if not stat.S_ISCHR(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a file" if stat.S_ISREG(mode) else "no device"
        raise UnfitError(f"{path} is {what}, not a serial port; {ports_here()}")


def _opened(path: str, line: LineSettings) -> Any:
    import serial

    # An inter-byte timeout of 0 makes VMIN 1: a read of nothing then says EAGAIN, and an empty one that the device hung up.
    port = serial.Serial(timeout=0, write_timeout=0, inter_byte_timeout=0, exclusive=True)
    port.port = path
    port.baudrate = line.baud
    port.bytesize = line.data_bits
    port.parity = (line.parity or "none")[0].upper()
    port.stopbits = line.stop_bits
    port.xonxoff = line.flow_control == "xonxoff"
    port.rtscts = line.flow_control == "rtscts"
    port.dtr = line.dtr
    port.rts = line.rts
    if line.rs485 is not None:
        port.rs485_mode = _rs485(line)
    try:
        port.open()
        fcntl.ioctl(port.fileno(), termios.TIOCEXCL)  # others get EBUSY from open(2), not only from flock(2)
    except (OSError, ValueError, termios.error) as error:
        port.close()
        raise _refusal(path, error) from None
    return port


def _rs485(line: LineSettings) -> Any:
    from serial.rs485 import RS485Settings

    assert line.rs485 is not None
    told = line.rs485
    return RS485Settings(
        told.rts_on_send, told.rts_after_send, told.receive_own, told.delay_before_send_s, told.delay_after_send_s
    )


def _refusal(path: str, error: Exception) -> TriggerError:
    """Why a port did not open, and what to do."""
    number = getattr(error, "errno", None)
    if number in _TAKEN and not (number == errno.EACCES and not os.access(path, os.R_OK | os.W_OK)):
        return TakenError(f"{path} is taken by another program; end what holds it, or name another port")
    if number == errno.EACCES:
        return UnfitError(f"{path}: no permission; {_owner(path)}")
    if number == errno.EPERM:
        return UnfitError(
            f"{path} is not allowed to this service: its driver was loaded after the start, or is of another kind; restart the "
            "service, or give it the device in a drop-in: DeviceAllow=char-NAME rw, with the name from /proc/devices"
        )
    if number in (errno.ENXIO, errno.ENODEV, errno.EIO, errno.ENOENT):
        return TriggerError(f"{path} does not answer ({os.strerror(number)}); is it plugged in?")
    if "Inappropriate ioctl" in str(error):
        return UnfitError(f"{path} is a device but not a serial port; {ports_here()}")
    return UnfitError(f"{path} cannot be set up: {error}; are baud, parity and rs485 what its driver can?")


def _owner(path: str) -> str:
    """Which group may open it and how to get into it, or that none may."""
    try:
        group, groups_may = Path(path).group(), Path(path).stat().st_mode & stat.S_IWGRP
    except (OSError, KeyError, NotImplementedError):  # unplugged meanwhile; a group without a name; a system without groups
        group, groups_may = "dialout", stat.S_IWGRP
    if group == "root" or not groups_may:
        return "only its owner may open it; give it to the group dialout with a udev rule"
    return f"add the user edgehost runs as to the group {group}: sudo usermod -aG {group} USER, then start it again"


def holder(path: str) -> str:
    """`NAME (process 123)` where /proc lets us see who has the port open, else nothing. Reads all of /proc: ask seldom."""
    real = Path(path).resolve()
    try:
        here = real.stat()
    except OSError:
        return ""  # unplugged meanwhile
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            # A container has ports of the same names, which are others.
            if link.readlink() == real and os.path.samestat(link.stat(), here):
                process = link.parts[2]
                return f"{Path('/proc', process, 'comm').read_text().strip()} (process {process})"
        except OSError:
            continue  # ended meanwhile, or not ours to see
    return ""

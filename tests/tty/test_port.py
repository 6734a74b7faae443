"""Real ports, as pseudo-terminals: plugged in and out, taken, shared, written to, busy and blocked."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import sys
import termios
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from edgehost.config import Config, SerialPort
from edgehost.errors import TriggerError
from edgehost.tty import Port, Ports
from edgehost.tty.device import Device
from edgehost.tty.line import agreed
from edgehost.tty.outbox import MOST_BYTES
from tests.tty.conftest import Listener, Plug

Join = Callable[..., Port]
Until = Callable[[Callable[[], object]], Awaitable[None]]


async def test_bytes_go_both_ways(plug: Plug, join: Join, until: Until) -> None:
    listener = Listener(port=str(plug.path), baud=115200)
    port = join(listener)
    await port.tried.wait()
    assert listener.told == [("running", "")]
    plug.send(b"hello")
    await until(lambda: listener.data == b"hello")
    assert port.write(b"one") is None
    assert port.write(b"two") is None
    assert plug.got() == b"onetwo"


@pytest.mark.parametrize("baud", [300, 9600, 921_600, 1_234_567])
async def test_any_baud_rate_is_set(plug: Plug, join: Join, until: Until, baud: int) -> None:
    listener = Listener(
        port=str(plug.path), baud=baud, data_bits=7, parity="even", stop_bits=2, flow_control="rtscts", dtr=False, rts=False
    )
    await join(listener).tried.wait()
    assert listener.state == "running"
    _, _, cflag, _, _, speed, _ = termios.tcgetattr(plug.far)  # a pseudo-terminal keeps neither data bits nor parity
    assert cflag & termios.CSTOPB and cflag & termios.CRTSCTS
    assert speed == getattr(termios, f"B{baud}", speed)


async def test_a_port_that_is_pulled_and_plugged_in_again_goes_on(plug: Plug, join: Join, until: Until) -> None:
    listener = Listener(port=str(plug.path))
    port = join(listener)
    await port.tried.wait()
    for round_ in range(3):
        plug.pull()
        await until(lambda: listener.state == "degraded" and "is not there; plug it in" in listener.told[-1][1])
        with pytest.raises(TriggerError, match="is away"):
            port.write(b"lost")
        plug.plug_in()
        await until(lambda: listener.state == "running")
        plug.send(b"%d" % round_)
        await until(lambda count=round_ + 1: len(listener.data) == count)
    assert listener.data == b"012"


async def test_a_port_that_appears_is_opened_at_once(plug: Plug, join: Join, until: Until) -> None:
    plug.pull()
    listener = Listener(port=str(plug.path))
    port = join(listener)
    await port.tried.wait()
    await until(lambda: port._reconnect._backoff.failures > 4)  # the next try is seconds away
    since = asyncio.get_running_loop().time()
    plug.plug_in()
    await until(lambda: listener.state == "running")
    assert asyncio.get_running_loop().time() - since < 1.0


async def test_a_folder_that_comes_with_the_port_is_heard_of_too(plug: Plug, join: Join, until: Until, tmp_path: Path) -> None:
    """/dev/serial/by-id is there only while a port is."""
    by_id = tmp_path / "serial" / "by-id"
    listener = Listener(port=str(by_id / "usb-A"))
    port = join(listener)
    for _ in range(2):
        await until(lambda: port._reconnect._backoff.failures > 3)
        by_id.mkdir(parents=True)
        since = asyncio.get_running_loop().time()
        await asyncio.sleep(0.02)
        (by_id / "usb-A").symlink_to(plug.path)
        await until(lambda: listener.state == "running")
        assert asyncio.get_running_loop().time() - since < 1.0
        plug.pull()
        shutil.rmtree(tmp_path / "serial")
        await until(lambda: listener.state == "degraded")
        plug.plug_in()


async def test_several_users_hear_the_same_and_the_last_one_closes(plug: Plug, join: Join, until: Until) -> None:
    config = Config(serial={"gps": SerialPort(str(plug.path))})
    first, second = Listener(port=str(plug.path), baud=4800), Listener(port="gps")
    port, same = join(first, config), join(second, config)
    assert same is port
    await port.tried.wait()
    plug.send(b"for both")
    await until(lambda: first.data == second.data == b"for both")
    await port.leave(first)
    plug.send(b"!")
    await until(lambda: second.data == b"for both!")
    await port.leave(second)
    assert first.data == b"for both"
    third = Listener(port=str(plug.path), baud=9600)
    again = join(third)
    assert again is not port
    await again.tried.wait()
    assert third.state == "running"


async def test_one_line_under_two_names_is_one_port(plug: Plug, join: Join, tmp_path: Path) -> None:
    (tmp_path / "by-id").symlink_to(plug.path)
    port = join(Listener(port=str(plug.path)))
    assert join(Listener(port=str(tmp_path / "by-id"))) is port
    assert join(Listener(port=str(plug.path.resolve()))) is port


async def test_users_that_want_different_settings_are_refused(plug: Plug, join: Join, until: Until) -> None:
    first = Listener(port=str(plug.path), baud=4800)
    port = join(first)
    with pytest.raises(TriggerError, match=r"baud: 9600 is not what .* is used with already, 4800"):
        join(Listener(port=str(plug.path), function="g", baud=9600))
    await port.tried.wait()
    assert port.line.baud == 4800
    second = Listener(port=str(plug.path), function="g", stop_bits=2)
    assert join(second) is port
    await until(lambda: second.state == "running")
    assert port.line.stop_bits == 2
    assert [state for state, _ in first.told] == ["running", "degraded", "running"]
    plug.send(b"x")
    await until(lambda: first.data == b"x")


async def test_a_new_version_of_a_function_may_want_other_settings(plug: Plug, join: Join, until: Until) -> None:
    old, new = Listener(port=str(plug.path), baud=4800), Listener(port=str(plug.path), baud=115200)
    other = Listener(port=str(plug.path), function="g", stop_bits=2)
    port = join(old)
    join(other)
    join(new)
    assert (port.line.baud, port.line.stop_bits) == (115200, 2)
    await port.leave(old)
    await until(lambda: new.state == "running")
    assert (port.line.baud, new.state) == (115200, "running")


async def test_a_new_version_that_fails_leaves_the_settings_of_the_old_one(plug: Plug, join: Join, until: Until) -> None:
    old, new = Listener(port=str(plug.path), baud=4800), Listener(port=str(plug.path), baud=115200)
    port = join(old)
    await port.tried.wait()
    join(new)
    await until(lambda: new.state == "running")
    await port.leave(new)
    await until(lambda: [state for state, _ in old.told] == ["running", "degraded", "running", "degraded", "running"])
    assert port.line.baud == 4800
    plug.send(b"x")
    await until(lambda: old.data == b"x")


async def test_a_port_that_another_program_has_says_which(plug: Plug, join: Join, until: Until) -> None:
    code = f"import serial, sys; port = serial.Serial({str(plug.path)!r}, exclusive=True); print(flush=True); sys.stdin.read()"
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert other.stdin is not None and other.stdout is not None
    await other.stdout.readline()
    listener = Listener(port=str(plug.path))
    await join(listener).tried.wait()
    assert listener.state == "degraded"
    assert "is taken by another program" in listener.told[-1][1]
    assert f"(process {other.pid}) has it" in listener.told[-1][1]
    other.stdin.close()
    await other.wait()
    await until(lambda: listener.state == "running")


async def test_what_is_no_serial_port_is_left_alone(join: Join, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "fifo")
    for path, text in [
        (tmp_path, "is a folder, not a serial port"),
        (tmp_path / "file", "is a file, not a serial port"),
        (tmp_path / "fifo", "is no device, not a serial port"),
        (tmp_path / "file" / "x", "cannot be looked at"),
        (Path("/dev/null"), "is a device but not a serial port"),
    ]:
        listener = Listener(port=str(path))
        await join(listener).tried.wait()
        assert listener.state == "failed", path
        assert text in listener.told[-1][1]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a device away")
@pytest.mark.parametrize(
    ("group", "mode", "advice"),
    [("dialout", 0o660, "sudo usermod -aG dialout USER"), ("root", 0o660, "a udev rule"), ("dialout", 0o600, "a udev rule")],
)
def test_a_port_that_may_not_be_opened_says_what_to_do(plug: Plug, group: str, mode: int, advice: str) -> None:
    path = str(plug.path.resolve())
    shutil.chown(path, 0, group)
    Path(path).chmod(mode)
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:  # a process of another user
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            Device(path, agreed(path, []))
        except TriggerError as error:
            os.write(tell, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(tell)
    text = os.read(told, 4096).decode()
    os.close(told)
    assert "no permission" in text and advice in text


def test_a_port_that_the_service_may_not_open_says_what_to_do(plug: Plug, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a device outside of DeviceAllow= answers; pyserial passes the number on."""

    def refused(self: object) -> None:
        raise OSError(errno.EPERM, "could not open port")

    monkeypatch.setattr("serial.Serial.open", refused)
    with pytest.raises(TriggerError, match=r"not allowed to this service: .*; restart the service, or .* DeviceAllow=char-NAME"):
        Device(str(plug.path), agreed(str(plug.path), []))


async def test_frames_are_written_whole_and_in_order_to_a_slow_reader(plug: Plug, join: Join, until: Until) -> None:
    """The other side reads little by little; meanwhile what it sends is heard."""
    listener = Listener(port=str(plug.path))
    port = join(listener)
    await port.tried.wait()
    frames = [bytes([65 + number]) * 20_000 for number in range(8)]
    sent = [port.write(frame) for frame in frames]
    assert any(one is not None for one in sent)
    plug.send(b"still here")
    await until(lambda: listener.data == b"still here")
    got = b""
    while len(got) < 160_000:
        got += plug.got()
        await asyncio.sleep(0.0005)
    assert got == b"".join(frames)
    await port.written()


async def test_a_reader_that_takes_nothing_fills_the_queue_and_no_more(plug: Plug, join: Join) -> None:
    listener = Listener(port=str(plug.path))
    port = join(listener)
    await port.tried.wait()
    with pytest.raises(TriggerError, match="find no room among the 262144"):
        port.write(bytes(MOST_BYTES * 2))
    waiting = []
    with pytest.raises(TriggerError, match="the other side takes none"):
        while True:
            waiting.append(port.write(bytes(10_000)))
    plug.pull()
    for one in filter(None, waiting):
        with pytest.raises(TriggerError, match="went away before it was written"):
            await one


async def test_a_busy_line_is_read_in_larger_pieces(plug: Plug, join: Join, until: Until) -> None:
    """Written in pieces of 50 bytes without a pause: read in far fewer, and all of it. A prompt user gets them as they come."""
    for prompt in (False, True):
        listener = Listener(port=str(plug.path), prompt=prompt)
        port = join(listener)
        await port.tried.wait()
        for _ in range(200):
            plug.send(b"x" * 50)
            await asyncio.sleep(0.0003)
        await until(lambda listener=listener: len(listener.data) == 10_000)
        pieces = len(listener.chunks)
        plug.send(b"alone")
        await until(lambda listener=listener: listener.data.endswith(b"alone"))
        assert pieces < 100 or prompt
        await port.leave(listener)


async def test_a_flood_is_read_to_the_end(plug: Plug, join: Join, until: Until) -> None:
    listener = Listener(port=str(plug.path))
    await join(listener).tried.wait()
    pattern = bytes(range(256)) * 16
    data, sent = pattern * 100, 0
    while sent < len(data):
        try:
            sent += os.write(plug.far, data[sent : sent + 4096])
        except BlockingIOError:
            await asyncio.sleep(0)
        else:
            await asyncio.sleep(0)
    await until(lambda: len(listener.data) == len(data))
    assert listener.data == data


async def test_closing_does_not_wait_for_a_reader_that_takes_nothing(plug: Plug, ports: Ports) -> None:
    listener = Listener(port=str(plug.path))
    port = ports.use(listener, Config())
    await port.tried.wait()
    written = port.write(bytes(100_000))
    assert written is not None
    await asyncio.wait_for(ports.close(), 5)
    with pytest.raises(TriggerError):
        await written


async def test_the_last_frame_before_closing_arrives(plug: Plug, ports: Ports, until: Until) -> None:
    """A flush at the end would take back what the kernel has not handed on yet, now and then: so a hundred times."""
    for number in range(100):
        listener = Listener(port=str(plug.path))
        port = ports.use(listener, Config())
        await port.tried.wait()
        frame = b"last %d\n" % number
        assert port.write(frame) is None
        await port.leave(listener)
        assert plug.got() == frame


@pytest.mark.parametrize("how", ["leave", "other settings"])
async def test_closing_waits_for_what_the_line_has_not_taken(
    plug: Plug, join: Join, until: Until, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A UART's kernel buffer empties at the line's pace; a pseudo-terminal has none, so one is made up."""
    unsent = [4096, 2000, 7]
    closed_with: list[int] = []
    listener = Listener(port=str(plug.path))
    port = join(listener)
    await port.tried.wait()
    monkeypatch.setattr(Device, "unsent", property(lambda _: unsent.pop(0) if unsent else 0))
    close = Device.close
    monkeypatch.setattr(Device, "close", lambda device: (closed_with.append(len(unsent)), close(device)))
    if how == "leave":
        await port.leave(listener)
    else:
        join(Listener(port=str(plug.path), baud=115200))
        await until(lambda: closed_with and listener.told[-1] == ("running", ""))
    assert closed_with == [0]


async def test_closing_waits_no_longer_than_the_line_takes_something(
    plug: Plug, ports: Ports, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("edgehost.tty.port._LINGER_S", 0.05)
    monkeypatch.setattr(Device, "unsent", 9)
    listener = Listener(port=str(plug.path))
    port = ports.use(listener, Config())
    await port.tried.wait()
    await asyncio.wait_for(port.leave(listener), 5)
    assert "closed with bytes unwritten" in caplog.text

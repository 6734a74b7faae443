"""Serial lines through a whole agent: every frame of a recording, a pulled plug, answers, shared and refused ports."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import Agent, AgentStarter, BundleMaker

ROOT = Path(__file__).parents[2]
SENTENCES = [b"$GPRMC,120000,A,4527.458,S,16709.165,E,003.2,094.5,060626,024.1,E*64", b"!AIVDM,2,2,9,B,`88888888888880,2*76"]


class Cable:
    """A pseudo-terminal: the agent opens `path`, the test holds the other end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.end = -1

    def plug_in(self) -> None:
        self.end, near = os.openpty()
        tty.setraw(near)
        self.path.unlink(missing_ok=True)
        self.path.symlink_to(os.ttyname(near))
        os.close(near)

    def pull(self) -> None:
        if self.end >= 0:
            os.close(self.end)
            self.path.unlink()
            self.end = -1

    def send(self, data: bytes) -> None:
        """All of it, at the pace of whoever reads."""
        at = 0
        while at < len(data):
            at += os.write(self.end, data[at : at + 2048])

    def read(self, size: int) -> bytes:
        """The next `size` bytes the agent wrote."""
        got = b""
        while len(got) < size:
            got += os.read(self.end, size - len(got))
        return got


@pytest.fixture
def cable(tmp_path: Path, whole_again: None) -> Iterator[Callable[[str], Cable]]:
    """`cable(name)`: a plugged in cable."""
    made: list[Cable] = []

    def lay(name: str = "port") -> Cable:
        made.append(Cable(tmp_path / name))
        made[-1].plug_in()
        return made[-1]

    yield lay
    for one in made:
        one.pull()


def manifest(cable: Cable, more: str = "", keys: str = "") -> str:
    return f"""
{more}
[triggers.line]
kind = "serial"
port = "{cable.path}"
framing = "nmea"
{keys}
"""


COUNTING = """
import hashlib
seen = hashlib.sha256()
count = 0

def handler(context, event):
    global count
    if event.trigger.kind != "serial":
        return {"count": count, "digest": seen.hexdigest()}
    count += 1
    seen.update(event.body + b"\\n")
    return b"seen %d" % count
"""


def state(agent: Agent, function: str) -> tuple[str, str]:
    trigger = agent.functions()[function].triggers[0]
    return trigger.state, trigger.message


def counts(agent: Agent, function: str) -> dict[str, int]:
    return dict(agent.functions()[function].triggers[0].counts)


def test_every_sentence_of_a_fast_line_reaches_the_handler_in_order(
    agent: AgentStarter, bundle: BundleMaker, cable: Callable[..., Cable]
) -> None:
    import hashlib

    line = cable()
    host = agent(bundle("gps", COUNTING, manifest(line, "workers = 1", "baud = 921600")))
    frames = [SENTENCES[number % 2] for number in range(4000)]
    noise = [b"\r\n", b"\n", b"\r\n\xff\xfe noise \r\n", b"\r\n$GPRMC,broken off"]
    line.send(b"".join(frame + noise[number % 97 % 4] for number, frame in enumerate(frames)))
    host.wait(lambda: counts(host, "gps").get("frames", 0) >= len(frames), "all frames to be cut")
    host.wait(lambda: host.functions()["gps"].handled >= len(frames), "all frames to be handled")
    told = json.loads(host.invoke("gps").body)
    assert told == {"count": len(frames), "digest": hashlib.sha256(b"\n".join(frames) + b"\n").hexdigest()}
    assert "dropped" not in counts(host, "gps")


def test_a_pulled_plug_is_a_state_and_the_next_frame_comes_through(
    agent: AgentStarter, bundle: BundleMaker, cable: Callable[..., Cable]
) -> None:
    line = cable()
    host = agent(bundle("gps", COUNTING, manifest(line)))
    line.send(SENTENCES[0] + SENTENCES[1][:15])
    host.wait(lambda: counts(host, "gps").get("frames") == 1, "one frame")
    line.pull()
    host.wait(lambda: state(host, "gps")[0] == "degraded", "the port to be missed")
    host.wait(lambda: "is not there; plug it in" in state(host, "gps")[1], "advice")
    line.plug_in()
    host.wait(lambda: state(host, "gps") == ("running", ""), "the port to be back")
    line.send(SENTENCES[1][15:] + SENTENCES[0])
    host.wait(lambda: counts(host, "gps").get("frames") == 2, "the next frame")
    assert counts(host, "gps")["incomplete"] == counts(host, "gps")["reconnects"] == 1


@pytest.mark.needs("socat")
def test_a_dying_socat_is_an_unplugged_cable(
    agent: AgentStarter, bundle: BundleMaker, component: Callable[[str], str], tmp_path: Path
) -> None:
    """Two pseudo-terminals of socat, killed in the middle of a frame and begun again."""
    ends = [tmp_path / "near", tmp_path / "far"]
    command = [component("socat"), *(f"pty,raw,echo=0,link={end}" for end in ends)]

    def begun() -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command)
        while not all(end.exists() for end in ends):
            time.sleep(0.01)
        return process

    socat = begun()
    try:
        host = agent(bundle("gps", COUNTING, manifest(Cable(ends[0]))))
        host.wait(lambda: state(host, "gps")[0] == "running", "the port")
        ends[1].write_bytes(SENTENCES[0] + SENTENCES[0][:9])
        host.wait(lambda: counts(host, "gps").get("frames") == 1, "one frame")
        socat.kill()
        socat.wait()
        host.wait(lambda: state(host, "gps")[0] == "degraded", "the port to be missed")
        for end in ends:
            end.unlink(missing_ok=True)
        socat = begun()
        host.wait(lambda: state(host, "gps")[0] == "running", "the port to be back")
        ends[1].write_bytes(SENTENCES[1])
        host.wait(lambda: counts(host, "gps").get("frames") == 2, "the next frame")
    finally:
        socat.kill()
        socat.wait()


def test_answers_go_back_while_the_other_side_reads_slowly(
    agent: AgentStarter, bundle: BundleMaker, cable: Callable[..., Cable]
) -> None:
    """The device sends on and reads late: all frames are heard, and the answers come whole and in order."""
    line = cable()
    keys = 'write_answers = true\nmax_in_flight = 8\nframing = { kind = "line", terminator = "\\r\\n" }'
    host = agent(bundle("slow", ECHO_LONG, manifest(line, "workers = 1", keys).replace('framing = "nmea"\n', "")))
    line.send(b"".join(b"%03d\r\n" % number for number in range(100)))
    host.wait(lambda: host.functions()["slow"].handled == 100, "all frames to be handled")
    got = line.read(100 * 1002)
    assert got == b"".join((b"%03d" % number).ljust(1000, b".") + b"\r\n" for number in range(100))
    assert counts(host, "slow").get("unwritten", 0) == 0


ECHO_LONG = """
def handler(context, event):
    return event.body.ljust(1000, b".")
"""


def test_two_functions_share_a_port_and_one_that_wants_it_otherwise_fails(
    agent: AgentStarter, bundle: BundleMaker, cable: Callable[..., Cable]
) -> None:
    line = cable()
    one = bundle("one", COUNTING, manifest(line, "", "baud = 4800"))
    two = bundle("two", COUNTING, manifest(line))
    other = bundle("wants-another", COUNTING, manifest(line, "", "baud = 9600"))
    host = agent(one, two, other)
    line.send(SENTENCES[0])
    heard = [name for name in ("one", "two", "wants-another") if state(host, name)[0] == "running"]
    assert "two" in heard and len(heard) == 2  # the agent starts them together: the first of the other two has its way
    host.wait(lambda: all(counts(host, name).get("frames") == 1 for name in heard), "both to hear")
    (failed,) = {"one", "wants-another"} - set(heard)
    assert state(host, failed)[0] == "failed" and "a port has one setting for all who use it" in state(host, failed)[1]


def test_a_taken_and_a_missing_port_are_states_of_one_function_alone(
    agent: AgentStarter, bundle: BundleMaker, cable: Callable[..., Cable], tmp_path: Path
) -> None:
    taken, free = cable("taken"), cable("free")
    code = f"import serial, sys; port = serial.Serial({str(taken.path)!r}, exclusive=True); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdin is not None
        holder.stdout.readline()
        file = tmp_path / "file"
        file.write_text("")
        host = agent(
            bundle("taken", COUNTING, manifest(taken)),
            bundle("file", COUNTING, manifest(Cable(file))),
            bundle("missing", COUNTING, manifest(Cable(tmp_path / "missing"))),
            bundle("free", COUNTING, manifest(free)),
        )
        assert state(host, "taken")[0] == "degraded" and f"(process {holder.pid}) has it" in state(host, "taken")[1]
        assert state(host, "file")[0] == "failed" and "is a file, not a serial port" in state(host, "file")[1]
        assert state(host, "missing")[0] == "degraded" and "is not there" in state(host, "missing")[1]
        free.send(SENTENCES[0])
        host.wait(lambda: counts(host, "free").get("frames") == 1, "the free port to be heard")
        holder.stdin.close()
    host.wait(lambda: state(host, "taken")[0] == "running", "the port to be free")


def test_the_gps_example_on_a_recording(agent: AgentStarter, cable: Callable[..., Cable], tmp_path: Path) -> None:
    """`[serial.default]` says where its receiver is; every sentence with a right checksum is handled."""
    folder = Path(os.environ.get("EDGEHOST_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no recorded data: name its folder in EDGEHOST_TEST_DATA")
    recording = (folder / "serial" / "neo-m8n.log").read_bytes()
    shutil.copytree(ROOT / "examples" / "gps", tmp_path / "gps", ignore=shutil.ignore_patterns("__pycache__"))
    line = cable()
    host = agent(tmp_path / "gps", config=f'[serial.default]\nport = "{line.path}"\n')
    sender = threading.Thread(target=line.send, args=(recording,))
    sender.start()
    sentences = recording.count(b"$")
    host.wait(lambda: host.functions()["gps"].handled == sentences, "every sentence")
    sender.join()
    assert counts(host, "gps") == {"frames": sentences}
    assert "latitude" in host.wait_for_log("latitude") and "44.06" in host.log

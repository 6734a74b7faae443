"""A real agent as a process of its own, real functions in folders, a real broker: what the tests in this folder run against.

The agent is asked through its local socket, its HTTP listener and its log, as a person would; nothing looks inside it.
"""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from edgehost.control.client import Client, NoAgentError
from edgehost.control.protocol import Answer, Chunk, Done, FunctionStatus, Invoke

PATIENCE_S = float(os.environ.get("EDGEHOST_TEST_PATIENCE_S", "30"))
"""How long anything may take on the slowest machine before a test calls it a failure; nothing sleeps that long."""

ECHO = """
def handler(context, event):
    return event.body
"""

T = TypeVar("T")


def wait_until(condition: Callable[[], T | None], what: str, told: Callable[[], str] = str) -> T:
    """The first true value of `condition`; fails with `what` and what `told` knows after PATIENCE_S."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"waited {PATIENCE_S:g} s for {what}\n{told()}")
        time.sleep(0.02)


@dataclass(frozen=True)
class Answered:
    """One answer of a function, whole. `code` names a failure; `broke_off` says why a stream ended early."""

    status: int
    content_type: str
    headers: dict[str, str]
    body: bytes
    code: str = ""
    broke_off: str = ""


class Agent:
    """One running agent: `python -m edgehost.agent` in a folder of its own."""

    def __init__(self, folder: Path, port: int, process: subprocess.Popen[bytes]) -> None:
        self.port = port
        self.process = process
        self.socket = folder / "agent.sock"
        self._log = folder / "agent.log"

    @property
    def log(self) -> str:
        """Everything the agent has written so far."""
        return self._log.read_text(errors="replace")

    def functions(self) -> dict[str, FunctionStatus]:
        """What `edgehost functions` shows, by name."""
        with Client.connect(self.socket, PATIENCE_S) as client:
            return {status.name: status for status in client.functions()}

    def invoke(self, name: str, body: bytes = b"", content_type: str = "") -> Answered:
        """Call a function as `edgehost invoke` does."""
        head, pieces, end = Answer(0), [], Done(0.0)
        with Client.connect(self.socket, PATIENCE_S) as client:
            for reply in client.invoke(Invoke(name, body, content_type)):
                if isinstance(reply, Answer):
                    head = reply
                elif isinstance(reply, Chunk):
                    pieces.append(reply.data)
                else:
                    end = reply
        return Answered(head.status, head.content_type, head.headers, b"".join(pieces), head.code, end.error)

    def request(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Answered:
        """One HTTP request to the agent's listener."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            connection.request(method, path, body, headers or {})
            reply = connection.getresponse()
            told = {name.lower(): value for name, value in reply.getheaders()}
            return Answered(reply.status, told.get("content-type", ""), told, reply.read())
        finally:
            connection.close()

    def settled(self) -> bool:
        """No function is starting any more; where all of them are well, their triggers listen too."""
        states = {status.state for status in self.functions().values()}
        return "starting" not in states and (bool(states - {"ready"}) or " is ready: " in self.log)

    def wait(self, condition: Callable[[], T | None], what: str) -> T:
        """The first true value of `condition`; a failure shows the functions and the end of the log."""
        return wait_until(condition, what, self._tell)

    def wait_for_log(self, *texts: str) -> str:
        """The first line of the log that holds all of `texts`."""
        lines = self.wait(lambda: [x for x in self.log.splitlines() if all(t in x for t in texts)], f"a log line with {texts}")
        return lines[0]

    def wait_for_state(self, name: str, *states: str) -> FunctionStatus:
        """How the function is, once it is in one of `states`."""

        def there() -> FunctionStatus | None:
            status = self.functions()[name]
            return status if status.state in states else None

        return self.wait(there, f"{name} to be {' or '.join(states)}")

    def wait_until_full(self, name: str) -> FunctionStatus:
        """How the function is, once each of its workers is ready and idle."""

        def full() -> FunctionStatus | None:
            status = self.functions()[name]
            idle = status.workers_ready == status.workers_wanted and status.in_flight == status.queued == 0
            return status if idle and status.state == "ready" else None

        return self.wait(full, f"every worker of {name} to be idle")

    def children(self) -> set[int]:
        """Process ids of everything that lives below the agent."""
        return {process.pid for process in psutil.Process(self.process.pid).children(recursive=True)}

    def resident_bytes(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Signal the agent, if it runs, and wait for its end. Returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            pytest.fail(f"the agent did not end on {how.name}\n{self.log[-4000:]}")

    def _tell(self) -> str:
        try:
            functions = "\n".join(map(str, self.functions().values()))
        except NoAgentError as error:
            functions = str(error)
        return f"{functions}\nlog:\n{self.log[-4000:]}"

    def answers(self) -> bool:
        try:
            with Client.connect(self.socket, PATIENCE_S) as client:
                client.ping()
        except NoAgentError:
            return False
        return True


BundleMaker = Callable[..., Path]
AgentStarter = Callable[..., Agent]


@pytest.fixture
def bundle(tmp_path: Path) -> BundleMaker:
    """`bundle(name, code, manifest)`: a folder with `main.py` and a `function.toml` of name, handler and what `manifest` says."""

    def make(name: str, code: str = ECHO, manifest: str = "") -> Path:
        folder = tmp_path / "functions" / name
        folder.mkdir(parents=True)
        (folder / "main.py").write_text(textwrap.dedent(code))
        told = f'name = "{name}"\nhandler = "main:handler"\n{textwrap.dedent(manifest)}'
        (folder / "function.toml").write_text(told)
        return folder

    return make


@pytest.fixture
def agent(tmp_path: Path, free_port: Callable[[], int], whole_again: None) -> Iterator[AgentStarter]:
    """`agent(*folders, config="", until="")`: start an agent with these functions and this edgehost.toml; wait until no function
    is starting any more, or until the log holds `until`.

    At the end each is stopped as systemd would, must have ended well, and (`whole_again`) has left nothing behind.
    """
    running: list[Agent] = []

    def start(*folders: Path, config: str = "", until: str = "") -> Agent:
        place = tmp_path / f"agent{len(running)}"
        place.mkdir()
        port = free_port()
        options = [f"--function={folder}" for folder in folders]
        options += [f"--socket={place / 'agent.sock'}", f"--http=127.0.0.1:{port}"]
        if config:
            (place / "edgehost.toml").write_text(textwrap.dedent(config))
            options.append(f"--config={place / 'edgehost.toml'}")
        begun = launch(place, *options)
        one = Agent(place, port, begun)
        running.append(one)
        wait_until(lambda: one.answers() or begun.poll() is not None, "the agent to answer", lambda: one.log)
        assert begun.poll() is None, f"the agent ended at once:\n{one.log}"
        if until:
            one.wait_for_log(until)
        else:
            one.wait(one.settled, "every function to start")
        return one

    yield start
    for one in running:
        if one.process.poll() is None:
            assert one.stop() == 0, one.log[-4000:]


def launch(place: Path, *options: str) -> subprocess.Popen[bytes]:
    """An agent with these options in the folder `place`, its log beside it; as a service it has no terminal."""
    with (place / "agent.log").open("wb") as log:
        command = [sys.executable, "-m", "edgehost.agent", *options]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=place, start_new_session=True)


@pytest.fixture
def launched(tmp_path: Path, whole_again: None) -> Iterator[Callable[[str], tuple[int, str]]]:
    """`launched(text)`: run an agent with this edgehost.toml until it ends by itself; its exit code and what it wrote."""

    def run(text: str) -> tuple[int, str]:
        place = tmp_path / "launched"
        place.mkdir()
        (place / "edgehost.toml").write_text(textwrap.dedent(text))
        process = launch(place, "--config=edgehost.toml")
        try:
            code = process.wait(PATIENCE_S)
        finally:
            process.kill()
        return code, (place / "agent.log").read_text()

    return run


def alive(pid: int) -> bool:
    """True while a process runs; one that is dead and not yet buried counts as gone."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def gone() -> Callable[[int], None]:
    """`gone(pid)`: wait until that process has ended."""
    return lambda pid: (wait_until(lambda: not alive(pid), f"process {pid} to end"), None)[1]


@dataclass
class Broker:
    """One mosquitto on loopback, which a test may kill and start again at the same port."""

    command: list[str]
    port: int
    log: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(lambda: b"running" in self.log.read_bytes(), "mosquitto to run", self.log.read_text)

    def kill(self) -> None:
        """As a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
            self.log.write_bytes(b"")


@pytest.fixture
def broker(
    tmp_path: Path, free_port: Callable[[], int], component: Callable[[str], str], whole_again: None
) -> Iterator[Callable[..., Broker]]:
    """`broker(settings="allow_anonymous true")`: a mosquitto with these lines in its configuration, running."""
    made: list[Broker] = []

    def start(settings: str = "allow_anonymous true") -> Broker:
        place = tmp_path / f"broker{len(made)}"
        place.mkdir()
        port = free_port()
        # As root mosquitto gives up its rights and could not read its files in this folder then.
        user = "user root\n" if os.geteuid() == 0 else ""
        told = f"{user}log_type all\nset_tcp_nodelay true\npersistence_location {place}/\n"
        told += f"listener {port} 127.0.0.1\n{settings}\n"
        (place / "mosquitto.conf").write_text(told)
        one = Broker([component("mosquitto"), "-c", str(place / "mosquitto.conf")], port, place / "log")
        made.append(one)
        one.start()
        return one

    yield start
    for one in made:
        one.kill()

"""Dead letters of a real agent: what fails for good is kept, shown, and runs again when it can, whoever is killed meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from edgehost.control.client import Client, RefusedError
from edgehost.letter import Letter, Which, WholeLetter
from tests.e2e.conftest import PATIENCE_S, Agent, AgentStarter, BundleMaker

CODE = """
import os
def handler(context, event):
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(event.id + " " + event.body.decode() + "\\n")
    if {fails}:
        raise ValueError("pressure too high")
    return event.body
"""
FAILS, WORKS = CODE.format(fails="True"), CODE.format(fails="False")
WEB = '[triggers.web]\nkind = "http"\ndurable = true\n'


class Pump:
    """A function that notes the id and body of every event it begins, and fails until it is mended."""

    def __init__(self, bundle: BundleMaker, notes: Path) -> None:
        self._notes = notes
        self.folder = bundle("pump", FAILS, self._told(WEB))

    def _told(self, manifest: str, attempts: int = 3, delay_s: float = 0.1) -> str:
        retry = f"[retry]\nattempts = {attempts}\ndelay = {delay_s}\n"
        return f'{retry}{manifest}[env]\nNOTES = "{self._notes}"\n[sandbox]\nwrite = ["{self._notes.parent}"]\n'

    def manifest(self, manifest: str, **retry: Any) -> None:
        (self.folder / "function.toml").write_text(f'name = "pump"\nhandler = "main:handler"\n{self._told(manifest, **retry)}')

    def mend(self) -> None:
        (self.folder / "main.py").write_text(WORKS)

    @property
    def begun(self) -> list[tuple[str, str]]:
        text = self._notes.read_text() if self._notes.exists() else ""
        return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in text.splitlines()]


@pytest.fixture
def pump(bundle: BundleMaker, tmp_path: Path) -> Pump:
    (tmp_path / "notes").mkdir()
    return Pump(bundle, tmp_path / "notes" / "begun")


def ask(agent: Agent) -> Client:
    return Client.connect(agent.socket, PATIENCE_S)


def letters(agent: Agent, **which: Any) -> list[Letter]:
    with ask(agent) as client:
        return client.letters(Which(**which), 100).letters


def wait_for_letters(agent: Agent, count: int, **which: Any) -> list[Letter]:
    return agent.wait(lambda: found if len(found := letters(agent, **which)) == count else None, f"{count} dead letters")


def show(agent: Agent, number: int) -> WholeLetter:
    with ask(agent) as client:
        return client.letter(number)


def replay(agent: Agent, **which: Any) -> int:
    with ask(agent) as client:
        return client.replay(Which(**which))


def reload(agent: Agent) -> None:
    with ask(agent) as client:
        assert client.reload().problems == []


def post(agent: Agent, body: str, **headers: str) -> str:
    """The id under which the event was taken."""
    reply = agent.request("POST", "/pump", body.encode(), {name.replace("_", "-"): value for name, value in headers.items()})
    assert reply.status == 202, reply
    return str(json.loads(reply.body)["id"])


def kill(agent: Agent) -> None:
    agent.process.send_signal(signal.SIGKILL)
    agent.process.wait()


def edgehost(agent: Agent, *arguments: str) -> str:
    """The command line as a person has it."""
    command = [sys.executable, "-m", "edgehost.cli.entry", *arguments, "--socket", str(agent.socket)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_fails_for_good_is_kept_and_runs_again_with_the_same_id_when_the_function_is_mended(
    agent: AgentStarter, pump: Pump
) -> None:
    one = agent(pump.folder)
    event_id = post(one, "hello", X_Of="me")
    (letter,) = wait_for_letters(one, 1)
    assert (letter.function, letter.trigger, letter.event_id, letter.code, letter.attempts) == (
        "pump",
        "web",
        event_id,
        "raised",
        3,
    )
    assert "pressure too high" in letter.error and pump.begun == [(event_id, "hello")] * 3
    assert 0.14 < letter.failed - letter.received < PATIENCE_S, "two delays lie between its tries"
    assert abs(time.time() - letter.failed) < PATIENCE_S and letter.age_s < PATIENCE_S
    event = show(one, letter.number).event
    assert event is not None and (event.body, event.id, event.method) == (b"hello", event_id, "POST")
    assert event.headers.get("X-Of") == "me" or event.headers.get("x-of") == "me"
    assert "pressure too high" in edgehost(one, "dead-letters", "list", "--text", "PRESSURE")
    assert "1 dead letter of at most" in edgehost(one, "journal")

    assert replay(one, every=True) == 1
    again = one.wait(lambda: [each for each in letters(one) if each.number != letter.number], "it to fail again")
    assert [(each.event_id, each.attempts) for each in again] == [(event_id, 3)], "a new letter, after all attempts anew"
    assert len(pump.begun) == 6

    pump.mend()
    reload(one)
    assert edgehost(one, "dead-letters", "replay", "--function", "pump") == "replayed 1 dead letter\n"
    one.wait(lambda: len(pump.begun) == 7, "it to run")
    assert set(pump.begun) == {(event_id, "hello")} and letters(one) == []
    assert edgehost(one, "dead-letters", "list") == "No dead letters.\n"


def test_a_kill_in_the_middle_of_a_back_off_keeps_the_attempts_made(agent: AgentStarter, pump: Pump) -> None:
    pump.manifest(WEB, attempts=4, delay_s=0.6)
    one = agent(pump.folder)
    event_id = post(one, "hello")
    one.wait_for_log(event_id, "try 3 in")
    time.sleep(0.2)
    kill(one)
    assert len(pump.begun) == 2
    two = agent(pump.folder)
    (letter,) = wait_for_letters(two, 1)
    assert (letter.event_id, letter.attempts, len(pump.begun)) == (event_id, 4, 4)


PICKY = """
import json, os
class BadReading(Exception): ...
class TooOld(BadReading): ...
def handler(context, event):
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(event.id + " " + event.body.decode() + "\\n")
    raise {"old": TooOld, "busy": BlockingIOError}[json.loads(event.body)]("not now")
"""


def test_an_exception_that_is_named_permanent_is_tried_once_and_any_other_as_often_as_it_may(
    agent: AgentStarter, pump: Pump
) -> None:
    pump.manifest(f'permanent = ["json.JSONDecodeError", "main.BadReading"]\n{WEB}')
    (pump.folder / "main.py").write_text(PICKY)
    one = agent(pump.folder)
    bodies = {post(one, body): body for body in ('"busy"', '"old"', "no JSON")}
    told = wait_for_letters(one, 3)
    assert {bodies[letter.event_id]: (letter.code, letter.attempts) for letter in told} == {
        '"busy"': ("raised", 3),
        '"old"': ("permanent", 1),
        "no JSON": ("permanent", 1),
    }
    assert sorted(body for _, body in pump.begun) == ['"busy"', '"busy"', '"busy"', '"old"', "no JSON"]
    kept = json.loads(edgehost(one, "dead-letters", "list", "--code", "permanent", "--json"))["letters"]
    assert {bodies[letter["event_id"]] for letter in kept} == {'"old"', "no JSON"}

    pump.manifest(WEB)
    reload(one)
    assert replay(one, code="permanent") == 2
    one.wait(lambda: len(pump.begun) == 11, "both to run three times, now that nothing is permanent")


def test_a_stream_that_breaks_off_is_tried_again_unless_it_raised_what_is_permanent(agent: AgentStarter, pump: Pump) -> None:
    pump.manifest(f'permanent = ["TooOld"]\n{WEB}')
    (pump.folder / "main.py").write_text(PICKY.replace("    raise", "    yield 'first'\n    yield 'second'\n    raise"))
    one = agent(pump.folder)
    bodies = {post(one, body): body for body in ('"busy"', '"old"')}
    told = {bodies[letter.event_id]: (letter.code, letter.attempts) for letter in wait_for_letters(one, 2)}
    assert told == {'"busy"': ("raised", 3), '"old"': ("permanent", 1)}


def test_drop_takes_them_for_good(agent: AgentStarter, pump: Pump) -> None:
    one = agent(pump.folder)
    for number in range(3):
        post(one, f"e{number}")
    numbers = [letter.number for letter in wait_for_letters(one, 3)]
    assert edgehost(one, "dead-letters", "drop", str(numbers[0]), "--yes") == "dropped 1 dead letter\n"
    assert [letter.number for letter in letters(one)] == numbers[1:]
    assert edgehost(one, "dead-letters", "drop", "--all", "--yes", "--json") == '{"dropped":2}\n'
    one.stop()
    two = agent(pump.folder)
    assert letters(two) == [] and len(pump.begun) == 9


def test_a_kill_right_after_a_replay_loses_and_doubles_nothing(
    agent: AgentStarter, pump: Pump, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = agent(pump.folder)
    ids = {post(one, f"e{number}") for number in range(5)}
    wait_for_letters(one, 5)
    one.stop()
    pump.mend()
    monkeypatch.setenv("EDGEHOST_FAULT", "dead.replayed")
    two = agent(pump.folder)
    with pytest.raises(Exception, match=r"closed the connection|no agent"):
        replay(two, every=True)
    two.process.wait(PATIENCE_S)
    assert len(pump.begun) == 15
    monkeypatch.delenv("EDGEHOST_FAULT")
    three = agent(pump.folder)
    three.wait(lambda: len(pump.begun) == 20, "all of them to run")
    assert {event_id for event_id, _ in pump.begun[15:]} == ids and letters(three) == []


def test_a_kill_right_after_a_letter_was_written_leaves_one_letter(
    agent: AgentStarter, pump: Pump, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEHOST_FAULT", "dead.written")
    one = agent(pump.folder)
    event_id = post(one, "hello")
    one.process.wait(PATIENCE_S)
    monkeypatch.delenv("EDGEHOST_FAULT")
    two = agent(pump.folder)
    assert [letter.event_id for letter in letters(two)] == [event_id]
    time.sleep(0.5)
    assert len(pump.begun) == 3, "it is settled, and does not run again by itself"


def test_with_dedupe_a_replay_runs_though_its_id_is_answered(agent: AgentStarter, pump: Pump) -> None:
    pump.manifest(f'{WEB}[triggers.web.dedupe]\nby = "header:X-Id"\nkeep = "1h"\n')
    one = agent(pump.folder)
    event_id = post(one, "hello", X_Id="a")
    wait_for_letters(one, 1)
    post(one, "hello", X_Id="a")
    time.sleep(0.3)
    assert len(pump.begun) == 3, "it came again, and is known"
    pump.mend()
    reload(one)
    assert replay(one, every=True) == 1
    one.wait(lambda: len(pump.begun) == 4, "it to run")
    assert pump.begun[-1] == (event_id, "hello")
    post(one, "hello", X_Id="a")
    time.sleep(0.3)
    assert len(pump.begun) == 4 and letters(one) == []


def test_letters_of_a_trigger_that_is_gone_run_without_it_each_once(agent: AgentStarter, pump: Pump) -> None:
    one = agent(pump.folder)
    for number in range(3):
        post(one, f"e{number}")
    numbers = [letter.number for letter in wait_for_letters(one, 3)]
    pump.mend()
    pump.manifest(WEB.replace("triggers.web", "triggers.other"))
    reload(one)
    for number in numbers:
        assert replay(one, numbers=[number]) == 1
    one.wait(lambda: len(pump.begun) >= 12, "them to run")
    time.sleep(0.3)
    assert sorted(body for _, body in pump.begun[9:]) == ["e0", "e1", "e2"]
    reload(one)
    assert len(pump.begun) == 12 and letters(one) == []


def test_letters_of_a_trigger_that_is_durable_no_more_keep_their_promises(agent: AgentStarter, pump: Pump) -> None:
    one = agent(pump.folder)
    event_id = post(one, "hello")
    (letter,) = wait_for_letters(one, 1)
    pump.manifest(WEB.replace("durable = true\n", ""))
    reload(one)
    assert one.request("POST", "/pump", b"direct").status == 500
    begun = len(pump.begun)
    assert replay(one, numbers=[letter.number]) == 1
    (again,) = wait_for_letters(one, 1, event_id=event_id)
    assert (again.attempts, len(pump.begun) - begun) == (3, 3)
    assert one.request("POST", "/pump", b"direct").status == 500, "who waits is answered at once, as before"
    assert len(letters(one)) == 1 and len(pump.begun) == begun + 4


def test_a_function_that_is_gone_is_named(agent: AgentStarter, pump: Pump, bundle: BundleMaker, tmp_path: Path) -> None:
    state = f'[agent]\nstate = "{tmp_path / "state"}"\n'
    one = agent(pump.folder, config=state)
    post(one, "hello")
    wait_for_letters(one, 1)
    one.stop()
    two = agent(bundle("other"), config=state)
    with pytest.raises(
        RefusedError, match=r"1 of these dead letters cannot be replayed.*'pump' is not a function here; there are: other"
    ):
        replay(two, every=True)
    two.stop()
    pump.mend()
    three = agent(pump.folder, config=state)
    assert replay(three, every=True) == 1
    three.wait(lambda: len(pump.begun) == 4, "it to run")


class Receiver:
    """A web server that answers with `status` and keeps what it has got."""

    def __init__(self) -> None:
        self.status = 422
        self.got: list[tuple[int, bytes, dict[str, str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.got.append((outer.status, body, {name.lower(): value for name, value in self.headers.items()}))
                self.send_response(outer.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/in"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def receiver(whole_again: None) -> Iterator[Receiver]:
    one = Receiver()
    yield one
    one.close()


def test_a_message_that_was_refused_leaves_when_its_receiver_takes_it(
    agent: AgentStarter, pump: Pump, receiver: Receiver
) -> None:
    pump.mend()
    with_output = f'{WEB}[outputs.up]\nkind = "http"\nurl = "{receiver.url}"\n'
    pump.manifest(with_output)
    one = agent(pump.folder)
    event_id = post(one, "hello")
    (letter,) = wait_for_letters(one, 1)
    assert (letter.output, letter.trigger, letter.code, letter.event_id) == ("up", "", "output_failed", f"{event_id}/up")
    parcel = show(one, letter.number).parcel
    assert parcel is not None and (parcel.body, parcel.to) == (b"hello", receiver.url) and "422" in letter.error
    pump.manifest(WEB)
    reload(one)
    with pytest.raises(RefusedError, match="function 'pump' has no output 'up' any more; name those to replay"):
        replay(one, every=True)
    pump.manifest(with_output)
    reload(one)
    time.sleep(1.1)
    receiver.status = 200
    assert edgehost(one, "dead-letters", "replay", "--kind", "message") == "replayed 1 dead letter\n"
    status, body, headers = one.wait(lambda: receiver.got[-1] if len(receiver.got) == 2 else None, "it to leave")
    assert (status, body, headers["x-edgehost-event-id"]) == (200, b"hello", f"{event_id}/up")
    assert headers.get("x-edgehost-late") == "true"
    assert letters(one) == [] and len(pump.begun) == 1, "the event itself does not run again"
    one.wait(lambda: '"count":0' in edgehost(one, "journal", "--json"), "the outbox to be empty")


def test_without_an_agent_the_file_is_read(agent: AgentStarter, pump: Pump, tmp_path: Path) -> None:
    one = agent(pump.folder, config=f'[agent]\nstate = "{tmp_path / "state"}"\n')
    event_id = post(one, "hello")
    wait_for_letters(one, 1)
    kill(one)
    file = tmp_path / "state" / "journal.db"
    command = [sys.executable, "-m", "edgehost.cli.entry", "dead-letters", "list", "--json", "--file", str(file)]
    told = json.loads(subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=True, env=dict(os.environ)).stdout)
    assert [letter["event_id"] for letter in told["letters"]] == [event_id]
    two = agent(pump.folder, config=f'[agent]\nstate = "{tmp_path / "state"}"\n')
    assert len(letters(two)) == 1

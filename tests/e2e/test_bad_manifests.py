"""A mistake in a file is one clear line that names file, key, value and what is allowed; the other functions go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import AgentStarter, BundleMaker

Launched = Callable[[str], tuple[int, str]]

WRONG = {
    "no TOML": ("workers = = 2", ("function.toml",)),
    "an unknown key": ("workerz = 2", ("function.toml", "workerz", "workers")),
    "a value of another type": ('workers = "many"', ("function.toml", "workers", "many")),
    "a value out of bounds": ("workers = 0", ("function.toml", "workers", "0")),
    "a negative time-out": ("timeout_s = -1", ("function.toml", "timeout_s", "-1")),
    "an unknown policy": ('[queue]\npolicy = "newest"', ("function.toml", "policy", "newest", "drop_newest")),
    "an unknown runtime": ('runtime = "cobol"', ("cobol", "python")),
    "an unknown trigger": ('[triggers.x]\nkind = "pigeon"', ("pigeon", "there is no trigger")),
    "a trigger without a kind": ("[triggers.x]\nevery = '1s'", ("function.toml", "triggers.x", "kind")),
    "a QoS that is none": ('[triggers.x]\nkind = "mqtt"\ntopics = ["a"]\nqos = 3', ("function.toml", "triggers.x", "qos", "3")),
    "an unknown output": ('[outputs.x]\nkind = "fax"', ("fax", "mqtt")),
    "a schedule that is none": ('[triggers.x]\nkind = "cron"\nschedule = "61 * * * *"', ("61 * * * *",)),
}


@pytest.mark.parametrize(("text", "told"), WRONG.values(), ids=WRONG.keys())
def test_a_mistake_in_a_manifest_is_told_in_one_line_and_stops_nobody_else(
    agent: AgentStarter, bundle: BundleMaker, text: str, told: tuple[str, ...]
) -> None:
    running = agent(bundle("bad", manifest=text), bundle("good"))
    status = running.wait_for_state("bad", "failed")
    assert all(part in status.last_error for part in told), status.last_error
    assert "\n" not in status.last_error.strip()
    running.wait_for_log(*told)
    assert "Traceback" not in running.log
    assert running.invoke("bad").code == "not_ready"
    assert running.invoke("good", b"x").body == b"x"


FILTERS = ("a/#/b", "a#", "a/b+", "", "$share/group", "$share//a", "a\\u0000b")


@pytest.mark.parametrize("topic", FILTERS)
def test_a_topic_filter_that_is_none_is_named(agent: AgentStarter, bundle: BundleMaker, topic: str) -> None:
    manifest = f'[triggers.x]\nkind = "mqtt"\nbroker = "mqtt://127.0.0.1:1"\ntopics = ["{topic}"]\n'
    running = agent(bundle("bad", manifest=manifest), bundle("good"))
    status = running.functions()["bad"]
    told = " ".join([status.last_error, *(trigger.message for trigger in status.triggers)])
    assert "topic" in told or "filter" in told, status
    assert status.state == "failed" or any(trigger.state == "failed" for trigger in status.triggers), status
    running.wait_for_log("bad", "filter")
    assert running.invoke("good", b"x").body == b"x"


def test_a_folder_that_is_not_there_is_named(agent: AgentStarter, bundle: BundleMaker, tmp_path: Path) -> None:
    running = agent(tmp_path / "functions" / "absent", bundle("good"))
    running.wait_for_log("absent")
    assert running.invoke("good", b"x").body == b"x"


def test_a_folder_without_a_manifest_is_named(agent: AgentStarter, bundle: BundleMaker, tmp_path: Path) -> None:
    empty = tmp_path / "functions" / "empty"
    empty.mkdir(parents=True)
    running = agent(empty, bundle("good"))
    running.wait_for_log("empty", "function.toml")
    assert running.invoke("good", b"x").body == b"x"


def test_two_functions_of_one_name_are_told(agent: AgentStarter, bundle: BundleMaker, tmp_path: Path) -> None:
    first = bundle("same")
    second = tmp_path / "functions" / "other"
    second.mkdir()
    for file in first.iterdir():
        (second / file.name).write_bytes(file.read_bytes())
    running = agent(first, second, bundle("good"))
    running.wait_for_log("same", str(second))
    assert running.invoke("good", b"x").body == b"x"


CONFIGS = {
    "no TOML": ("[agent]\nfunctions = = 1", ("edgehost.toml",)),
    "an unknown table": ("[htttp]\nlisten = '127.0.0.1:0'", ("edgehost.toml", "htttp", "http")),
    "an unknown key": ("[http]\nlistenn = '127.0.0.1:0'", ("edgehost.toml", "listenn", "listen")),
    "an address that is none": ("[http]\nlisten = 'here'\n", ("here",)),
    "a value of another type": ("[http]\nmax_connections = 'all'", ("edgehost.toml", "max_connections", "all")),
    "a log level that is none": ("[log]\nlevel = 'loud'", ("edgehost.toml", "level", "loud", "warning")),
}


@pytest.mark.parametrize(("text", "told"), CONFIGS.values(), ids=CONFIGS.keys())
def test_an_agent_with_a_wrong_config_ends_with_one_clear_line(
    launched: Launched, bundle: BundleMaker, text: str, told: tuple[str, ...]
) -> None:
    """It has nothing to go on with: an agent that starts with half a configuration would surprise later, and elsewhere."""
    served = bundle("web", manifest='[triggers.x]\nkind = "http"\n')
    code, log = launched(text if "[agent]" in text else f"[agent]\nsocket = 'agent.sock'\nfunctions = ['{served}']\n{text}")
    assert code not in (0, -9), log
    assert all(part in log for part in told), log
    assert "Traceback" not in log

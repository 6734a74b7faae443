"""What a configuration that was read again means, by tables and for any two rosters."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from edgehost.config import Broker, Config, Http, Log, SerialPort
from edgehost.manifest.model import Manifest
from edgehost.reload import Found, Plan, Running, distinct, merged, plan


def folder(name: str) -> Path:
    return Path("/functions") / name


def manifest(name: str, place: str = "") -> Manifest:
    return Manifest(name, folder(place or name), folder(place or name) / "function.toml")


def sound(name: str, place: str = "") -> Found:
    return Found(folder(place or name), manifest(name, place))


def unread(place: str) -> Found:
    return Found(folder(place), None, f"{place} is wrong")


def runs(name: str, place: str = "", changed: bool = False, there: bool = True) -> Running:
    return Running(name, folder(place or name), changed, there)


@pytest.mark.parametrize(
    ("running", "found", "expected"),
    [
        ([], [sound("a")], Plan(add=(manifest("a"),))),
        ([runs("a")], [sound("a")], Plan(keep=("a",))),
        ([runs("a", changed=True)], [sound("a")], Plan(replace=(manifest("a"),))),
        ([runs("a")], [], Plan(remove=("a",))),
        ([runs("a")], [sound("b", "a")], Plan(add=(manifest("b", "a"),), remove=("a",))),
        ([runs("a")], [sound("a", "new")], Plan(replace=(manifest("a", "new"),))),
        ([runs("a")], [unread("a")], Plan(keep=("a",), problems=("a is wrong",))),
        ([], [unread("a")], Plan(broken=(unread("a"),), problems=("a is wrong",))),
        ([runs("a", there=False)], [unread("a")], Plan(keep=("a",), broken=(unread("a"),), problems=("a is wrong",))),
        ([runs("a", changed=True, there=False)], [sound("a")], Plan(replace=(manifest("a"),))),
        ([runs("a"), runs("b")], [sound("b", "a"), sound("a", "b")], Plan(replace=(manifest("b", "a"), manifest("a", "b")))),
    ],
)
def test_the_table(running: list[Running], found: list[Found], expected: Plan) -> None:
    assert plan(running, found) == expected


NAMES = st.sampled_from("abcd")
FOUND = st.lists(st.one_of(st.builds(sound, NAMES, NAMES), st.builds(unread, NAMES)), unique_by=lambda found: found.folder)
RUNNING = st.lists(st.builds(runs, NAMES, NAMES, st.booleans(), st.booleans()), unique_by=lambda each: each.name)


@given(RUNNING, FOUND)
def test_each_function_has_one_fate_and_each_folder_is_heard(running: list[Running], found: list[Found]) -> None:
    told = distinct(found)
    todo = plan(running, told)
    renewed = [each.name for each in todo.replace]
    assert sorted([*todo.remove, *todo.keep, *renewed]) == sorted(each.name for each in running)
    after = {*todo.keep, *renewed, *(each.name for each in todo.add)}
    assert {each.manifest.name for each in told if each.manifest is not None} <= after
    assert len(todo.problems) == sum(each.manifest is None for each in told)


def test_of_two_folders_with_one_name_the_first_has_it() -> None:
    first, second = distinct([sound("a"), sound("a", "copy")])
    assert first == sound("a")
    taken = "/functions/copy/function.toml: name 'a' is taken by /functions/a; give one of them another name"
    assert second.problem == taken


OLD = Config(brokers={"default": Broker("mqtt://a")}, serial={"gps": SerialPort("/dev/ttyUSB0")})


@pytest.mark.parametrize(
    ("change", "in_force", "waits"),
    [
        ({}, {}, []),
        ({"functions": (folder("a"),)}, {"functions": (folder("a"),)}, []),
        ({"log": Log("debug")}, {"log": Log("debug")}, []),
        ({"http": Http("0.0.0.0:80")}, {}, ["[http]"]),
        ({"socket": folder("s")}, {}, ["[agent] socket"]),
        ({"profile": "raspberry-pi-5"}, {}, ["[agent] profile"]),
        ({"serial": {}}, {}, ["[serial.gps]"]),
        ({"brokers": {"default": Broker("mqtt://b")}}, {}, ["[brokers.default]"]),
        (
            {"brokers": {"default": Broker("mqtt://a"), "far": Broker("mqtts://c")}},
            {"brokers": {"default": Broker("mqtt://a"), "far": Broker("mqtts://c")}},
            [],
        ),
    ],
)
def test_what_is_in_force_and_what_waits(change: dict[str, object], in_force: dict[str, object], waits: list[str]) -> None:
    assert merged(OLD, replace(OLD, **change)) == (replace(OLD, **in_force), waits)

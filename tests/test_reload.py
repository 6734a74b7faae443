"""What a configuration that was read again means, by tables and for any two rosters."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from edgehost.config import Broker, Config, Http, Log, SerialPort
from edgehost.manifest.model import Limits, Manifest, OutputSpec, Sandbox
from edgehost.reload import Found, Plan, Running, distinct, merged, plan, withheld


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
    told = distinct(found, running)
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


@pytest.mark.parametrize(
    ("running", "found", "owner"),
    [
        ([runs("a")], [sound("a", "thief"), sound("a")], "a"),
        ([runs("a")], [sound("a"), sound("a", "thief")], "a"),
        ([runs("a")], [sound("a", "thief"), unread("a")], None),  # it cannot say so now, and runs on
        ([runs("a", there=False)], [sound("a", "thief"), unread("a")], "thief"),  # the name was a folder's alone
        ([runs("a")], [sound("a", "next"), sound("b", "a")], "next"),
        ([runs("a")], [sound("a", "next")], "next"),
        ([], [sound("a", "first"), sound("a", "second")], "first"),
    ],
)
def test_a_name_belongs_to_the_folder_it_runs_from(running: list[Running], found: list[Found], owner: str | None) -> None:
    told = distinct(found, running)
    owners = [each.folder for each in told if each.manifest is not None and each.manifest.name == "a"]
    assert owners == ([folder(owner)] if owner else [])
    assert [each.folder for each in told] == [each.folder for each in found]
    if owner is None:
        assert "name 'a' is taken by /functions/a;" in told[0].problem


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, ""),
        ({"version": "2.0.0", "description": "new", "source": Path("function.yaml")}, ""),
        ({"name": "b"}, "name changed"),
        ({"sandbox": Sandbox(enabled=False)}, "sandbox changed"),
        ({"limits": Limits(), "secrets": ("db",), "workers": 9}, "workers, limits, secrets changed"),
        ({"outputs": (OutputSpec("x", "http", Limits()),)}, "outputs changed"),
    ],
)
def test_no_function_gives_itself_more(change: dict[str, object], told: str) -> None:
    before = replace(manifest("a"), limits=Limits(processes=3))
    found = Found(folder("a"), replace(before, **change))
    assert withheld(found, before, "") == found
    kept = withheld(found, before, "a")
    if not told:
        assert kept == found
        return
    assert (kept.folder, kept.manifest) == (folder("a"), None)
    assert kept.problem == (
        f"/functions/a/function.toml: {told}, and the function 'a' may write there ([sandbox] write); "
        "restart the agent to use it as it is now, or give the function another folder to write to"
    )


def test_what_is_new_where_a_function_may_write_waits_too() -> None:
    assert "function.toml: is new, and the function 'a' may write there" in withheld(sound("b"), None, "a").problem
    assert withheld(sound("b"), None, "") == sound("b")
    assert withheld(unread("b"), None, "a") == unread("b")


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

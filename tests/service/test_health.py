"""How functions are said in one line, and when the agent may say that it lives."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehost.service.health import GRACE_S, Health, Watch, in_one_line

READY = Health("echo", "ready")


@pytest.mark.parametrize(
    ("functions", "line"),
    [
        ((), "no functions: name folders in [agent] functions"),
        ((READY,), "1 of 1 functions run"),
        ((READY, Health("rtd", "failed", "ImportError:\n no rtd")), "1 of 2 functions run; rtd failed: ImportError: no rtd"),
        ((Health("a", "degraded"),), "1 of 1 functions run; a degraded"),
        ((Health("a", "crash_loop", "exit status 1"),), "0 of 1 functions run; a crash loop: exit status 1"),
        ((Health("a", "ready", "serial away"),), "1 of 1 functions run; a ready: serial away"),
        ((Health("a", "starting"), READY), "1 of 2 functions run; a starting"),
    ],
)
def test_one_line(functions: tuple[Health, ...], line: str) -> None:
    assert in_one_line(functions) == line


def test_what_troubles_the_whole_agent_comes_before_its_functions() -> None:
    functions = (READY, Health("a", "degraded"))
    assert in_one_line(functions, ["the disk is full"]) == "2 of 2 functions run; the disk is full; a degraded"


@given(st.lists(st.builds(Health, st.text(), st.sampled_from(["ready", "failed"]), st.text()), max_size=50))
def test_the_line_stays_short(functions: list[Health]) -> None:
    assert len(in_one_line(functions)) <= 400


def late(name: str, seconds: float = GRACE_S + 1) -> Health:
    return Health(name, "ready", overdue_s=seconds)


def test_what_is_overdue_once_may_be_a_machine_that_slept() -> None:
    watch = Watch()
    assert watch.alive([late("a")]) == ()
    assert watch.alive([READY]) == ()
    assert watch.alive([late("a")]) == ()


def test_what_is_overdue_twice_is_left_behind() -> None:
    watch = Watch()
    watch.alive([late("a"), late("b", GRACE_S / 2)])
    assert watch.alive([late("a"), late("b", GRACE_S / 2)]) == ("a",)
    assert watch.alive([READY]) == ()


@given(st.lists(st.lists(st.sampled_from("abc"), unique=True), min_size=2))
def test_stuck_are_those_late_in_two_looks_in_a_row(looks: list[list[str]]) -> None:
    watch = Watch()
    told = [watch.alive([late(name) for name in look]) for look in looks]
    assert told == [(), *(tuple(sorted(set(before) & set(now))) for before, now in pairwise(looks))]

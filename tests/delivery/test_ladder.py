"""The disk ladder: which rungs hold at which free space, and that they come and go in order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehost.config import Disk
from edgehost.delivery.ladder import RUNGS, Rung, Space, decide, marks, room

MIB = 1024 * 1024
GIB = 1024 * MIB
DISK = Disk()

disks = st.builds(Disk, *[st.integers(1, 4 * GIB)] * 4)
sizes = st.integers(0, 64 * GIB)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (32 * GIB, [256 * MIB, 192 * MIB, 128 * MIB, 64 * MIB]),
        (1000 * MIB, [100 * MIB, 80 * MIB, 60 * MIB, 40 * MIB]),
        (2000 * MIB, [200 * MIB, 160 * MIB, 120 * MIB, 64 * MIB]),
        (0, [0, 0, 0, 0]),
    ],
)
def test_a_mark_counts_at_most_its_share_of_the_file_system(size: int, expected: list[int]) -> None:
    assert list(marks(DISK, size).values()) == expected


def test_a_mark_counts_as_much_as_those_after_it() -> None:
    odd = Disk(logs_bytes=1, bundles_bytes=100, outbox_bytes=50, refuse_bytes=70)
    assert list(marks(odd, 32 * GIB).values()) == [100, 100, 70, 70]


HELD: list[tuple[int, tuple[Rung, ...], tuple[Rung, ...]]] = [
    (300, (), ()),
    (256, (), ()),
    (255, (), ("logs",)),
    (319, ("logs",), ("logs",)),
    (320, ("logs",), ()),
    (200, ("logs",), ("logs",)),
    (191, ("logs",), ("logs", "bundles")),
    (100, (), ("logs", "bundles", "outbox")),
    (10, (), RUNGS),
    (64, RUNGS, RUNGS),
    (79, RUNGS, RUNGS),
    (80, RUNGS, ("logs", "bundles", "outbox")),
    (160, RUNGS, ("logs", "bundles")),
    (1000, RUNGS, ()),
]


@pytest.mark.parametrize(("free_mib", "before", "after"), HELD)
def test_rungs_are_taken_below_their_mark_and_left_a_quarter_above_it(
    free_mib: int, before: tuple[Rung, ...], after: tuple[Rung, ...]
) -> None:
    steps = decide(Space(free_mib * MIB, 32 * GIB), DISK, before)
    assert tuple(rung for rung, step in steps.items() if step.held) == after


def test_a_rung_frees_what_is_missing_to_where_it_is_left() -> None:
    steps = decide(Space(50 * MIB, 32 * GIB), DISK, ())
    assert [step.wanted_bytes // MIB for step in steps.values()] == [270, 190, 110, 30]
    assert decide(Space(300 * MIB, 32 * GIB), DISK, ("logs",))["logs"].wanted_bytes == 20 * MIB


@given(sizes, disks, st.lists(st.integers(0, 64 * GIB), max_size=20))
def test_rungs_come_and_go_in_order_whatever_the_disk_does(size: int, disk: Disk, course: list[int]) -> None:
    held: tuple[Rung, ...] = ()
    for free in course:
        steps = decide(Space(min(free, size), size), disk, held)
        held = tuple(rung for rung, step in steps.items() if step.held)
        assert held == RUNGS[: len(held)]
        for step in steps.values():
            assert step.held == (step.wanted_bytes > 0)


@given(sizes, disks, st.integers(0, 64 * GIB), st.sets(st.sampled_from(RUNGS)))
def test_a_second_look_at_the_same_disk_changes_nothing(size: int, disk: Disk, free: int, held: set[Rung]) -> None:
    space = Space(min(free, size), size)
    once = decide(space, disk, held)
    assert decide(space, disk, [rung for rung, step in once.items() if step.held]) == once


@given(disks, st.integers(0, 4096))
def test_a_file_system_that_tells_no_size_is_left_alone(disk: Disk, free: int) -> None:
    assert not any(step.held for step in decide(Space(free, 0), disk, ()).values())


@pytest.mark.parametrize(
    ("size", "expected"),
    [(64 * MIB, (16 * MIB, 64 * MIB // 3)), (240 * MIB, (60 * MIB, 64 * MIB)), (1 << 40, (64 * MIB, 64 * MIB)), (0, (0, 0))],
)
def test_on_a_small_disk_the_journal_may_hold_less_than_is_configured(size: int, expected: tuple[int, int]) -> None:
    assert room(size, 64 * MIB, 64 * MIB) == expected

"""Extents: the bookkeeping of an arena never hands out a byte twice and never loses one."""

from __future__ import annotations

import fcntl
import os
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehost.engine import arena
from edgehost.engine.arena import Extents

START, END = 4096, 4096 + 64 * 64

actions = st.lists(st.one_of(st.integers(1, 2000), st.integers(-20, -1)), max_size=60)
"""A positive number takes that many bytes; a negative one gives back the (-n)th oldest extent."""


def play(steps: list[int]) -> tuple[Extents, list[tuple[int, int]]]:
    extents, held = Extents(START, END), []
    for step in steps:
        if step > 0:
            at = extents.take(step)
            if at:
                held.append((at, step))
        elif held:
            at, _ = held.pop((-step - 1) % len(held))
            extents.release(at)
    return extents, held


@given(actions)
def test_no_byte_is_given_out_twice(steps: list[int]) -> None:
    _, held = play(steps)
    ordered = sorted(held)
    assert all(at >= START and at + size <= END for at, size in ordered)
    assert all(at + size <= following for (at, size), (following, _) in pairwise(ordered))


@given(actions, st.integers(1, 2000))
def test_a_body_gets_the_lowest_place_it_fits_in(steps: list[int], size: int) -> None:
    extents, held = play(steps)
    given_out = extents.take(size)
    rounded = (size + 63) // 64 * 64
    taken = {byte for at, length in held for byte in range(at // 64, (at + length + 63) // 64)}
    places = (at for at in range(START, END - rounded + 1, 64) if not taken & set(range(at // 64, (at + rounded) // 64)))
    assert given_out == next(places, 0)


@given(actions)
def test_what_is_all_given_back_is_one_empty_arena(steps: list[int]) -> None:
    extents, held = play(steps)
    for at, _ in held:
        extents.release(at)
    assert len(extents) == 0
    assert extents.take(END - START) == START


def test_giving_back_twice_is_an_error() -> None:
    extents = Extents(START, END)
    at = extents.take(10)
    extents.release(at)
    with pytest.raises(KeyError):
        extents.release(at)


def test_the_other_side_can_neither_resize_nor_write_what_it_reads() -> None:
    descriptor = arena.create("test")
    own = arena.map_own(descriptor)
    arena.seal_written(descriptor)
    try:
        with pytest.raises(OSError):
            os.ftruncate(descriptor, 0)
        if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & arena._F_SEAL_FUTURE_WRITE:
            with pytest.raises(OSError):
                arena.map_own(descriptor)
        own[0:5] = b"shown"
        other = arena.map_other(descriptor)
        assert other[0:5] == b"shown"
        other.close()
    finally:
        own.close()
        os.close(descriptor)

"""Watching a folder: what counts as a change, and that a save is told once."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edgehost import watch
from edgehost.watch import changes, snapshot


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "main.py").write_text("one")
    (tmp_path / "sub" / "model.bin").write_text("two")
    return tmp_path


CHANGES: dict[str, Callable[[Path], object]] = {
    "a new file": lambda folder: (folder / "new.py").write_text(""),
    "a new file below": lambda folder: (folder / "sub" / "new.py").write_text(""),
    "a file that is gone": lambda folder: (folder / "main.py").unlink(),
    "another size": lambda folder: (folder / "main.py").write_text("longer"),
    "another time": lambda folder: os.utime(folder / "sub" / "model.bin", ns=(1, 1)),
    "another name": lambda folder: (folder / "main.py").rename(folder / "other.py"),
}
NONE: dict[str, Callable[[Path], object]] = {
    "nothing": lambda folder: None,
    "bytecode": lambda folder: (folder / "main.pyc").write_text(""),
    "a cache": lambda folder: ((folder / "__pycache__").mkdir(), (folder / "__pycache__" / "x").write_text("")),
    "an editor's backup": lambda folder: (folder / "main.py~").write_text(""),
    "an editor's swap file": lambda folder: (folder / ".main.py.swp").write_text(""),
    "git": lambda folder: ((folder / ".git").mkdir(), (folder / ".git" / "index").write_text("")),
    "a link to nowhere": lambda folder: (folder / "link").symlink_to("nowhere"),
    "an empty folder": lambda folder: (folder / "empty").mkdir(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_function_is_made_of_counts(folder: Path, change: str) -> None:
    before = snapshot(folder)
    CHANGES[change](folder)
    assert snapshot(folder) != before


@pytest.mark.parametrize("change", NONE)
def test_what_tools_leave_does_not_count(folder: Path, change: str) -> None:
    before = snapshot(folder)
    NONE[change](folder)
    assert snapshot(folder) == before


def test_a_folder_that_is_gone_is_empty(tmp_path: Path) -> None:
    assert snapshot(tmp_path / "gone") == {}


def test_a_loop_of_links_ends(folder: Path) -> None:
    (folder / "sub" / "loop").symlink_to(folder, target_is_directory=True)
    assert len(snapshot(folder)) == 3


async def test_a_save_in_many_steps_is_one_change(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PERIOD_S", 0.05)
    told: list[None] = []

    async def listen() -> None:
        async for change in changes(folder):
            told.append(change)

    listening = asyncio.create_task(listen())
    await asyncio.sleep(0.1)
    assert not told
    for n in range(12):  # an editor that writes for longer than a period, never still for one
        (folder / "main.py").write_text("x" * (n + 10))
        await asyncio.sleep(0.01)
    for _ in range(2000):
        if told:
            break
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)
    assert len(told) == 1
    listening.cancel()

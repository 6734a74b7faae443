"""A folder's tree is walked whatever its depth and whatever happens in it meanwhile, with one folder open at a time."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edgehost.engine import tree

Dig = Callable[[Path, int], None]


def told(top: Path) -> list[tuple[str, str]]:
    return sorted((step.what, step.name) for step in tree.walk(str(top)))


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_everything_is_told_once_and_folders_when_they_are_left(tmp_path: Path) -> None:
    for name in ("a/b/c", "a/d", "e"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("1", "a/2", "a/b/3"):
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert told(tmp_path) == sorted(
        [("FILE", name) for name in ("1", "2", "3", "link")]
        + [(what, name) for name in ("a", "b", "c", "d", "e") for what in ("FOLDER", "LEFT")]
    )
    assert [(step.what, step.name) for step in tree.walk(str(tmp_path / "a" / "b"))][-1] == ("LEFT", "c")
    assert list(tree.walk(str(tmp_path / "gone"))) == []
    assert list(tree.walk(str(tmp_path / "link"))) == []


def test_a_walk_takes_few_descriptors_however_deep_it_leads(tmp_path: Path, whole_again: None, dig: Dig) -> None:
    dig(tmp_path, 1500)
    before = most = descriptors()
    names = []
    for step in tree.walk(str(tmp_path), tree.enter_anyway):
        most = max(most, descriptors())
        if step.what == "FILE":
            names.append(step.name)
            os.unlink(step.name, dir_fd=step.at)
        elif step.what == "LEFT":
            os.rmdir(step.name, dir_fd=step.at)
    assert names == ["last"]
    assert most <= before + 2
    assert list(tmp_path.iterdir()) == []


def test_a_walk_that_is_given_up_closes_what_it_opened(tmp_path: Path, whole_again: None, dig: Dig) -> None:
    dig(tmp_path, 3)
    next(tree.walk(str(tmp_path)))
    for step in tree.walk(str(tmp_path)):
        if step.what == "FILE":
            break


def test_a_folder_that_is_moved_does_not_lead_the_walk_astray(tmp_path: Path) -> None:
    for name in ("top/a/b", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("top/a/b/1", "elsewhere/precious"):
        (tmp_path / name).touch()
    seen = []
    for step in tree.walk(str(tmp_path / "top")):
        seen.append(step.name)
        if step.name == "1":
            (tmp_path / "top/a/b").rename(tmp_path / "elsewhere/b")
    assert seen == ["a", "b", "1"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may enter everywhere")
@pytest.mark.parametrize("mode", [0o000, 0o400])
def test_a_closed_folder_is_passed_by(tmp_path: Path, mode: int) -> None:
    (tmp_path / "closed").mkdir(mode=mode)
    (tmp_path / "beside").touch()
    assert told(tmp_path) == [("FILE", "beside"), ("FOLDER", "closed"), ("LEFT", "closed")]


@pytest.mark.parametrize("mode", [0o000, 0o400, 0o500])
def test_a_closed_folder_that_is_to_go_is_opened(tmp_path: Path, mode: int) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed/file").touch()
    (tmp_path / "closed").chmod(mode)
    assert "file" in [step.name for step in tree.walk(str(tmp_path), tree.enter_anyway)]
    assert (tmp_path / "closed").stat().st_mode & 0o777 == 0o700

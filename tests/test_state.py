"""State: which folder, and files that are whole whatever happens to them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from edgehost.errors import StateError
from edgehost.state import StateFile, saved_bytes, state_folder


class Place(Struct, frozen=True):
    at: int = 0
    seen: dict[str, str] = {}


@pytest.mark.parametrize(
    ("configured", "environ", "uid", "expected"),
    [
        (Path("/data/edge"), {"STATE_DIRECTORY": "/var/lib/edgehost"}, 0, "/data/edge"),
        (None, {"STATE_DIRECTORY": "/var/lib/edgehost:/var/lib/other", "HOME": "/root"}, 0, "/var/lib/edgehost"),
        (None, {"HOME": "/root"}, 0, "/var/lib/edgehost"),
        (None, {"HOME": "/home/ada"}, 1000, "/home/ada/.local/state/edgehost"),
        (None, {"HOME": "/home/ada", "XDG_STATE_HOME": "/home/ada/state"}, 1000, "/home/ada/state/edgehost"),
        (None, {}, 1000, "/.local/state/edgehost"),
    ],
)
def test_the_folder_is_the_first_that_is_named(configured: Path | None, environ: dict[str, str], uid: int, expected: str) -> None:
    assert state_folder(configured, environ, uid) == Path(expected)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "polls" / "meter.json", Place)
    assert file.load() is None
    file.save(Place(1))
    file.save(Place(2, {"a": "b"}))
    assert StateFile(file.path, Place).load() == Place(2, {"a": "b"})
    assert [path.name for path in file.path.parent.iterdir()] == ["meter.json"]


@given(st.binary(max_size=60))
def test_damaged_files_are_moved_aside(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("state")
    file = StateFile(folder / "meter.json", Place)
    file.path.write_bytes(b"{" + content)
    loaded = file.load()
    assert loaded is None or not (folder / "meter.json.damaged").exists()
    if loaded is None:
        assert (folder / "meter.json.damaged").read_bytes() == b"{" + content
        file.save(Place(3))
        assert file.load() == Place(3)


def test_half_a_write_leaves_the_old_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = StateFile(tmp_path / "meter.json", Place)
    file.save(Place(1))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        StateError, match=r"meter\.json cannot be written: No space left on device; make room in .*\[agent\]\.state"
    ):
        file.save(Place(2))
    assert file.load() == Place(1)


def test_what_is_saved_is_counted_by_where_it_lies(tmp_path: Path) -> None:
    polls, files = StateFile(tmp_path / "polls" / "meter.json", Place), StateFile(tmp_path / "files" / "a.json", Place)
    polls.save(Place(1))
    polls.save(Place(2))
    files.save(Place(3))
    assert saved_bytes(tmp_path / "polls") == 2 * polls.path.stat().st_size
    assert saved_bytes(tmp_path) == 2 * polls.path.stat().st_size + files.path.stat().st_size
    assert saved_bytes(tmp_path / "pol") == 0


def test_a_file_in_the_folders_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "polls").write_text("")
    with pytest.raises(StateError, match="cannot be read: Not a directory"):
        StateFile(tmp_path / "polls" / "meter.json", Place).load()
    with pytest.raises(StateError, match="cannot be written"):
        StateFile(tmp_path / "polls" / "meter.json", Place).save(Place())

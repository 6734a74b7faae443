"""Machines to be recognised: a root with what /proc and /sys of each board say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Root = Callable[..., Path]


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """`root(model="...", compatible=("a", "b"), files={"proc/cmdline": "..."})`: the root of a machine."""

    def make(model: str = "", compatible: tuple[str, ...] = (), files: dict[str, str] | None = None) -> Path:
        written = dict(files or {})
        if model:
            written["proc/device-tree/model"] = model + "\0"
        if compatible:
            written["proc/device-tree/compatible"] = "".join(f"{string}\0" for string in compatible)
        for name, text in written.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make

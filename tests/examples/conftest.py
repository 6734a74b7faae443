"""What tests of the examples share: the example's own modules, loaded from its folder, and recordings where there are any."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def example_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """`example_module("anomaly/detector")`: that file as a module; others of its folder can be imported by it."""
    before = set(sys.modules)

    def load(path: str) -> ModuleType:
        file = ROOT / "examples" / f"{path}.py"
        monkeypatch.syspath_prepend(str(file.parent))
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, file.stem, module)  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module

    yield load
    for name in {"detector", "main"} & (set(sys.modules) - before):
        del sys.modules[name]


@pytest.fixture
def recordings() -> Path:
    """The folder of recorded data beside the checkout, or where EDGEHOST_TEST_DATA says."""
    folder = Path(os.environ.get("EDGEHOST_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no recorded data: name its folder in EDGEHOST_TEST_DATA")
    return folder

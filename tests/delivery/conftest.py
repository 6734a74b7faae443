"""What the tests of a damaged journal share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.delivery.samples import fill


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal with rows in every table, some of them long. Not to be changed: to be copied."""
    path = tmp_path_factory.mktemp("sound") / "journal.db"
    fill(path, 90)
    return path

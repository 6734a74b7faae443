"""What a manifest may say of files."""

from __future__ import annotations

from typing import Any

import pytest

from edgehost.manifest.conversion import to_struct
from edgehost.manifest.problem import Mistake
from edgehost.triggers.file.settings import FileSettings

TOGETHER = 'when_done = "move" and done_folder go together; give both or neither'


TAIL = {"path": "x", "mode": "tail"}


@pytest.mark.parametrize(
    ("settings", "place", "text"),
    [
        ({}, "path", "missing; write text that is not empty"),
        ({"path": "x", "pattern": "a/*"}, "pattern", "'a/*' is about names, not paths; use path and recursive for folders"),
        ({"path": "x", "when_done": "move"}, "done_folder", TOGETHER),
        ({"path": "x", "done_folder": "d"}, "done_folder", TOGETHER),
        ({"path": "x", "framing": "line"}, "framing", 'goes with mode = "tail"; a whole file is not cut'),
        ({"path": "x", "when_done": "burn"}, "when_done", '"burn" is not allowed; use "delete", "keep" or "move"'),
        ({"path": "x", "max_waiting": 1}, "max_waiting", None),
        (TAIL | {"when_done": "delete"}, "when_done", 'goes with mode = "whole"; a file that is still written stays where it is'),
        (TAIL | {"framing": "slip"}, "framing", 'tail needs "line", or a delimiter with an end: a restart goes on after one'),
    ],
)
def test_refused_settings(settings: dict[str, Any], place: str, text: str | None) -> None:
    with pytest.raises(Mistake) as caught:
        to_struct(settings, FileSettings)
    assert caught.value.path == (place,)
    assert text is None or caught.value.text == text

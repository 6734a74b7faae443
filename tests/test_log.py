"""The agent's log: one line a record, for people or machines, with what the record carries and nothing of it forged."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from edgehost.config import Log
from edgehost.log import BoundLogger, JsonFormatter, TextFormatter, set_up


@pytest.fixture
def kept() -> Iterator[None]:
    """`set_up` changes loggers of the whole process."""
    root, own = logging.getLogger(), logging.getLogger("edgehost")
    before = root.handlers[:], root.level, own.level
    yield
    root.handlers[:], root.level, own.level = before


def record(message: str = "hello %s", *args: Any, level: int = logging.INFO, **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord("edgehost.function", level, "", 0, message, args or ("you",), None)
    made.__dict__.update(extra)
    return made


def line(**extra: Any) -> dict[str, Any]:
    text = JsonFormatter().format(record(**extra))
    assert "\n" not in text
    found: dict[str, Any] = json.loads(text)
    return found


def test_a_json_line_carries_all_a_record_has() -> None:
    found = line(function="f", trigger="t", event_id="e", fields={"key": 1})
    assert found.pop("ts") > 0
    assert found == {"level": "info", "message": "hello you", "function": "f", "trigger": "t", "event_id": "e", "key": 1}


def test_what_is_empty_is_left_out() -> None:
    assert set(line(function="", event_id="", fields={})) == {"ts", "level", "message"}


@pytest.mark.parametrize("name", ["ts", "level", "message", "function", "event_id"])
def test_a_field_of_the_function_forges_nothing(name: str) -> None:
    found = line(function="f", event_id="e", fields={name: "forged"})
    assert found[name] != "forged"
    assert "forged" in found.values()


@pytest.mark.parametrize("message", ["two\nlines", 'quote " and \\', "\x1b[31m", "\ud800", "ünïcode"])
def test_a_json_line_is_one_line_whatever_it_says(message: str) -> None:
    found = json.loads(JsonFormatter().format(record("%s", message)))
    assert found["message"] == message


def test_values_json_lacks_are_written_all_the_same() -> None:
    assert line(fields={"value": {1, 2}, "bytes": b"x"})["value"] == "{1, 2}"


def test_a_text_line_reads_from_left_to_right() -> None:
    made = record(function="hello", trigger="http", event_id="7f3a0000-0000", fields={"key": 1})
    words = TextFormatter(False).format(made).split()
    assert words[1:] == ["info", "hello/http", "7f3a0000", "hello", "you", "key=1"]


def test_a_message_of_many_lines_cannot_pass_for_another_line() -> None:
    text = TextFormatter(False).format(record("one\n12:00:00.000 error   agent forged%s", ""))
    assert [line[:4] for line in text.split("\n")[1:]] == ["    "]


def test_a_traceback_stands_below_its_line() -> None:
    text = TextFormatter(False).format(record(fields={"traceback": "Traceback:\n  line\nValueError"}))
    assert text.split("\n")[1:] == ["    Traceback:", "      line", "    ValueError"]


def test_colours_are_for_terminals() -> None:
    made = record(level=logging.ERROR)
    assert "\x1b" in TextFormatter(True).format(made)
    assert "\x1b" not in TextFormatter(False).format(made)


def test_an_exception_is_told() -> None:
    try:
        raise ValueError("odd")
    except ValueError:
        made = record()
        made.exc_info = sys.exc_info()
    assert "ValueError: odd" in TextFormatter(False).format(made)
    assert "ValueError: odd" in json.loads(JsonFormatter().format(made))["traceback"]


def test_a_bound_logger_keeps_its_names_and_the_calls_own(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    BoundLogger(logging.getLogger("x"), function="f").info("hi", extra={"event_id": "e"})
    (made,) = caplog.records
    assert (made.function, made.event_id) == ("f", "e")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("settings", "starts"), [(Log(format="json"), "{"), (Log(format="text"), "["), (Log(format="auto"), "{")]
)
def test_the_format_is_as_told_and_json_where_nobody_looks(
    kept: None, monkeypatch: pytest.MonkeyPatch, settings: Log, starts: str
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    set_up(settings)
    logging.getLogger("edgehost.x").info("hi")
    assert stream.getvalue().startswith("{") == (starts == "{")


def test_other_libraries_speak_from_warning_up(kept: None, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    set_up(Log(level="debug", format="text"))
    logging.getLogger("somebody.else").info("quiet")
    logging.getLogger("somebody.else").warning("loud")
    logging.getLogger("edgehost.x").debug("detail")
    assert "quiet" not in stream.getvalue()
    assert "loud" in stream.getvalue()
    assert "detail" in stream.getvalue()

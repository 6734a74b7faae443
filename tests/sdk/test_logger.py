"""Handler contract, `context.logger`; and the standard logging module and print as log records."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import nuclio_sdk
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehost.sdk.jsonable import jsonable
from edgehost.sdk.lines import LINE_MAX, LineStream
from edgehost.sdk.logger import Logger, RecordHandler, capture_output, level_name


@pytest.fixture
def logger(link: Any) -> Logger:
    return Logger("debug", link)


@pytest.fixture
def nuclio_record() -> Callable[[Callable[[Any], Any]], tuple[str, str, dict[str, Any]]]:
    """Level, message and fields that nuclio-sdk's logger writes for one call."""

    def write(use: Callable[[Any], Any]) -> tuple[str, str, dict[str, Any]]:
        stream = io.StringIO()
        theirs = nuclio_sdk.Logger(logging.DEBUG, f"oracle-{id(stream)}")
        theirs._logger.propagate = False
        theirs.set_handler("default", stream, nuclio_sdk.logger.JSONFormatter())
        use(theirs)
        record = json.loads(stream.getvalue())
        return record["level"], record["message"], record["with"]

    return write


class Shown:
    def __log__(self) -> Any:
        return {"state": "ready"}


class Mute:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __str__(self) -> str:
        raise RuntimeError("no str")


def bound(logger: Any) -> None:
    logger.bind(unit="C", n=1)
    logger.info_with("m", n=2, k=3)


USES: list[Callable[[Any], Any]] = [
    lambda logger: logger.debug("plain"),
    lambda logger: logger.info("100 %"),
    lambda logger: logger.warn("%s of %d", "two", 2),
    lambda logger: logger.error("%(a)s", {"a": "named"}),
    lambda logger: logger.debug_with("m", char="a", number=1, none=None, flag=True),
    lambda logger: logger.info_with("%d and fields", 5, deep={"a": [1, {"b": 2.5}]}),
    lambda logger: logger.warn_with("m", nan=float("nan"), inf=float("inf"), low=-float("inf")),
    lambda logger: logger.error_with("m", shown=Shown(), mute=Mute(), kind=set, raw=b"x", many=(1, 2)),
    lambda logger: logger.info({"a": 1}),
    bound,
]


@pytest.mark.parametrize("use", USES)
def test_a_record_is_that_of_nuclio(use: Callable[[Any], Any], logger: Logger, link: Any, nuclio_record: Any) -> None:
    use(logger)
    assert link.logs == [nuclio_record(use)]


@pytest.mark.parametrize(
    ("method", "level"),
    [
        ("debug", "debug"),
        ("info", "info"),
        ("warn", "warning"),
        ("warning", "warning"),
        ("error", "error"),
        ("critical", "error"),
    ],
)
def test_every_method_has_a_level_and_a_form_with_fields(method: str, level: str, logger: Logger, link: Any) -> None:
    getattr(logger, method)("n=%d", 1)
    getattr(logger, f"{method}_with")("n=%d", 1, a=2)
    assert link.logs == [(level, "n=1", {}), (level, "n=1", {"a": 2})]


def test_exception_shows_the_traceback(logger: Logger, link: Any) -> None:
    try:
        raise ValueError("broken sensor")
    except ValueError:
        logger.exception("reading %s", "t1")
    ((level, message, fields),) = link.logs
    assert (level, message) == ("error", "reading t1")
    assert "test_logger.py" in fields["traceback"] and fields["traceback"].endswith("ValueError: broken sensor\n")


def test_a_field_may_have_any_name(logger: Logger, link: Any) -> None:
    logger.info_with("m", message="x", self="y", level="z")
    assert link.logs == [("info", "m", {"message": "x", "self": "y", "level": "z"})]


@pytest.mark.parametrize(("threshold", "passes"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_records_below_the_level_are_dropped_before_they_are_formatted(threshold: str, passes: int, link: Any) -> None:
    class Costly:
        shown = 0

        def __str__(self) -> str:
            Costly.shown += 1
            return "costly"

    logger = Logger(threshold, link)
    for method in (logger.debug, logger.info, logger.warn, logger.error):
        method("%s", Costly())
    assert (len(link.logs), Costly.shown) == (passes, passes)


@pytest.mark.parametrize(
    ("message", "args"), [("%d", ("x",)), ("%s %s", (1,)), ("no place", (1,)), (Mute(), ()), ("%(a)s", ({"b": 1},))]
)
def test_a_message_that_does_not_format_is_shown_with_its_arguments(
    message: Any, args: tuple[Any, ...], logger: Logger, link: Any
) -> None:
    logger.info(message, *args)
    assert str(jsonable(args)) in link.logs[0][1]


def circle() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["self"] = value
    return value


@pytest.mark.parametrize(
    "value", [10**30, -(10**30), circle(), "\ud800", {"\ud800": "\ud801"}, {1: 2}, [[[]]], 2**64 - 1, -(2**63)]
)
def test_no_value_can_keep_a_record_from_leaving(value: Any, logger: Logger, link: Any) -> None:
    logger.info_with("m\ud800" if isinstance(value, str) else "m", value=value)
    assert len(link.logs) == 1  # the link encodes what it is given


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_what_json_can_hold_stays_as_it_is(value: Any) -> None:
    expected = json.loads(json.dumps(value), parse_int=lambda text: int(text) if -(2**63) <= int(text) < 2**64 else text)
    assert jsonable(value) == expected


# The standard logging module


@pytest.fixture
def captured(link: Any) -> Callable[..., contextlib.AbstractContextManager[Any]]:
    """`with captured() as link`: our output goes to `link`, as in a worker. Within a test, as pytest takes it between phases."""

    @contextlib.contextmanager
    def capture(level: str = "info") -> Iterator[Any]:
        root = logging.getLogger()
        handlers, before, streams = root.handlers[:], root.level, (sys.stdout, sys.stderr)
        capture_output(link, level)
        try:
            yield link
        finally:
            root.handlers[:] = handlers
            root.setLevel(before)
            sys.stdout, sys.stderr = streams

    return capture


def test_the_root_logger_writes_records(captured: Any) -> None:
    with captured() as link:
        logging.info("n=%d", 5)
        logging.getLogger("lib.part").warning("%(a)s", {"a": 1})
        logging.getLogger("lib").debug("below the level")
    assert link.logs == [("info", "n=5", {}), ("warning", "1", {"logger": "lib.part"})]


def test_loops_made_in_a_handler_leave_no_trace_in_the_log(captured: Any) -> None:
    with captured("debug") as link:
        logging.debug("seen")
        asyncio.run(asyncio.sleep(0))
    assert link.logs == [("debug", "seen", {})]


def test_a_logged_exception_carries_its_traceback(captured: Any) -> None:
    with captured() as link:
        try:
            raise OSError("no such sensor")
        except OSError:
            logging.exception("reading")
    ((level, message, fields),) = link.logs
    assert (level, message) == ("error", "reading")
    assert "OSError: no such sensor" in fields["traceback"]


def test_a_record_that_does_not_format_is_shown_and_not_lost(captured: Any) -> None:
    with captured() as link:
        logging.info("%d", "x")
    assert link.lines == [("info", "%d ['x']")]


def test_fields_of_nuclios_own_logger_are_kept(captured: Any) -> None:
    with captured() as link:
        logger = nuclio_sdk.Logger(logging.DEBUG, "bundled")
        logger.info_with("m", a=1)
    assert link.logs == [("info", "m", {"logger": "bundled", "a": 1})]


@pytest.mark.parametrize(
    ("number", "name"), [(5, "debug"), (10, "debug"), (20, "info"), (25, "info"), (30, "warning"), (40, "error"), (50, "error")]
)
def test_a_level_between_two_is_the_lower_one(number: int, name: str) -> None:
    assert level_name(number) == name


# print


def test_print_becomes_one_record_for_each_line(captured: Any) -> None:
    with captured() as link:
        print("one\ntwo", 3)
        print("wrong", file=sys.stderr)
    assert link.logs == [
        ("info", "one", {"stream": "stdout"}),
        ("info", "two 3", {"stream": "stdout"}),
        ("warning", "wrong", {"stream": "stderr"}),
    ]


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def stream(lines: list[str]) -> LineStream:
    return LineStream(lines.append, 1)


def test_a_partial_line_waits_for_its_end(stream: LineStream, lines: list[str]) -> None:
    print("a", end="", file=stream)
    print("b", end="", file=stream, flush=True)
    assert lines == []
    print("c", file=stream)
    assert lines == ["abc"]


def test_the_end_of_an_event_ends_a_partial_line(stream: LineStream, lines: list[str]) -> None:
    stream.write("half")
    stream.end_event()
    stream.end_event()
    assert lines == ["half"]


@pytest.mark.parametrize("end", ["\n", ""])
@pytest.mark.parametrize("size", [LINE_MAX, LINE_MAX + 1, 3 * LINE_MAX, 5_000_000])
def test_a_long_line_is_cut_into_pieces_even_before_it_ends(size: int, end: str, stream: LineStream, lines: list[str]) -> None:
    text = "".join(chr(97 + i % 26) for i in range(26)) * (size // 26) + "z" * (size % 26)
    stream.write(text + end)
    assert size - len("".join(lines)) < LINE_MAX, "what waits for its end is bounded"
    stream.end_event()
    assert "".join(lines) == text
    assert max(map(len, lines)) <= LINE_MAX


@given(st.lists(st.text(st.sampled_from("ab\n"), max_size=6)))
def test_lines_do_not_depend_on_how_they_were_written(pieces: list[str]) -> None:
    lines: list[str] = []
    stream = LineStream(lines.append, 1)
    for piece in pieces:
        assert stream.write(piece) == len(piece)
    stream.end_event()
    whole = "".join(pieces)
    assert lines == (whole.removesuffix("\n").split("\n") if whole else [])


def test_bytes_written_to_the_buffer_are_text(stream: LineStream, lines: list[str]) -> None:
    encoded = "é\n".encode()
    assert stream.buffer.write(encoded[:1]) == 1  # a character may come in two writes
    stream.buffer.write(encoded[1:])
    stream.buffer.write(memoryview(b"\xff\n"))
    assert lines == ["é", "\ufffd"]


def test_it_is_the_kind_of_file_that_programs_expect(stream: LineStream, lines: list[str]) -> None:
    assert (stream.fileno(), stream.isatty(), stream.writable(), stream.encoding) == (1, False, True, "utf-8")
    stream.reconfigure(encoding="latin-1")
    stream.close()
    stream.writelines(["a\n", "b\r\n"])
    assert lines == ["a", "b"]
    with pytest.raises(TypeError, match="must be str, not bytes"):
        stream.write(b"x")  # type: ignore[arg-type]


# Threads and forked children may not use the link: their lines go to the real descriptor.

ELSEWHERE = """
import logging, os, sys, threading
from edgehost.sdk.logger import Logger, capture_output

class Link:
    def log(self, level, message, fields, event_id=None):
        os.write(1, ("record " + level + " " + message + "\\n").encode())

capture_output(Link(), "info")
logger = Logger("info", Link())

def talk(who):
    print("print", who)
    logger.info_with("logger " + who, a=1)
    logging.error("logging %s", who)

def child():
    pid = os.fork()
    if pid == 0:
        talk("child")
        os._exit(0)
    os.waitpid(pid, 0)

{use}
talk("owner")
"""


@pytest.mark.parametrize(
    ("use", "who"),
    [("thread = threading.Thread(target=talk, args=('thread',)); thread.start(); thread.join()", "thread"), ("child()", "child")],
)
def test_another_thread_or_a_forked_child_writes_to_the_real_descriptors(use: str, who: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE.replace("{use}", use)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines() == [
        f"print {who}",
        "record info print owner",
        "record info logger owner",
        "record error logging owner",
    ]
    assert done.stderr.splitlines() == [f'info: logger {who} {{"a": 1}}', f"error: logging {who}"]


def test_a_thread_may_log_while_the_owner_does(link: Any) -> None:
    read, write = os.pipe()
    lines: list[str] = []
    stream = LineStream(lines.append, write)
    thread = threading.Thread(target=lambda: stream.write("from the thread\n"))
    stream.write("from the ")
    thread.start()
    thread.join()
    stream.write("owner\n")
    os.close(write)
    with os.fdopen(read) as pipe:
        assert pipe.read() == "from the thread\n"
    assert lines == ["from the owner"]


def test_a_handler_can_be_used_alone(link: Any) -> None:
    logger = logging.getLogger("alone")
    handler = RecordHandler(link)
    logger.addHandler(handler)
    try:
        logger.error("x")
    finally:
        logger.removeHandler(handler)
    assert link.logs == [("error", "x", {"logger": "alone"})]

"""An exception that `[retry].permanent` names is a failure of its own, which no policy tries again; any other is not."""

from __future__ import annotations

import asyncio
import json
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest

from edgehost.engine.call import BrokenOffError
from edgehost.engine.permanent import is_permanent
from edgehost.event import Event
from edgehost.manifest.model import Retry

flavours = pytest.mark.parametrize("prefix", ["", "async "], ids=["sync", "async"])
with_groups = pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with Python 3.11")


class BadError(Exception):
    class WorseError(LookupError): ...


class OddValueError(ValueError): ...


def of_a_function() -> Exception:
    class BadError(Exception): ...

    return BadError()


@pytest.fixture
def lazy() -> Iterator[None]:
    """A module that makes what it exports when it is asked for it, as large packages do, and one that cannot."""

    class Lazy(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name == "BadError":
                return BadError
            raise ImportError("half of it is not installed")

    sys.modules["lazy_one"] = Lazy("lazy_one")
    yield
    del sys.modules["lazy_one"]


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (ValueError(), "ValueError"),
        (ValueError(), "builtins.ValueError"),
        (OddValueError(), "ValueError"),
        (UnicodeDecodeError("utf-8", b"", 0, 1, ""), "ValueError"),
        (KeyError(), "LookupError"),
        (KeyError(), "Exception"),
        (json.JSONDecodeError("", "", 0), "JSONDecodeError"),
        (json.JSONDecodeError("", "", 0), "json.JSONDecodeError"),
        (json.JSONDecodeError("", "", 0), "json.decoder.JSONDecodeError"),
        (json.JSONDecodeError("", "", 0), "ValueError"),
        (asyncio.CancelledError(), "asyncio.CancelledError"),
        (BadError(), "BadError"),
        (BadError(), f"{__name__}.BadError"),
        (BadError(), "lazy_one.BadError"),
        (BadError.WorseError(), "WorseError"),
        (BadError.WorseError(), f"{__name__}.BadError.WorseError"),
        (BadError.WorseError(), "LookupError"),
        (of_a_function(), "BadError"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
)
@pytest.mark.usefixtures("lazy")
def test_a_class_is_known_by_its_name_and_by_every_place_it_is_found_at(error: BaseException, name: str) -> None:
    assert is_permanent(error, (name,))
    assert is_permanent(error, ("TypeError", "no.such.Module", name))


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (KeyError(), "ValueError"),
        (ValueError(), "UnicodeDecodeError"),
        (ValueError("TypeError"), "TypeError"),
        (ValueError(), "valueerror"),
        (ValueError(), "Value"),
        (OddValueError(), "json.ValueError"),
        (json.JSONDecodeError("", "", 0), "xml.JSONDecodeError"),
        (of_a_function(), f"{__name__}.BadError"),
        (BadError.WorseError(), "BadError.WorseError"),
        (BadError(), "lazy_one.Other"),
        (BadError(), "json.decoder.scanner.BadError"),
    ],
)
@pytest.mark.usefixtures("lazy")
def test_another_class_is_not(error: BaseException, name: str) -> None:
    assert not is_permanent(error, (name,))
    assert not is_permanent(error, ())


def test_nothing_is_imported_to_look_a_name_up() -> None:
    assert "antigravity" not in sys.modules
    assert not is_permanent(BadError(), ("antigravity.BadError",))
    assert "antigravity" not in sys.modules


def test_of_a_chain_the_last_counts() -> None:
    def raised(cause: Exception) -> Exception:
        try:
            raise KeyError from cause
        except KeyError as error:
            return error

    assert is_permanent(raised(TypeError()), ("KeyError",))
    assert not is_permanent(raised(ValueError()), ("ValueError",))


@with_groups
def test_a_group_is_permanent_if_all_that_it_holds_are() -> None:
    group = ExceptionGroup  # type: ignore[name-defined]  # noqa: F821 - it is there from Python 3.11 on
    names = ("ValueError", "KeyError")
    assert is_permanent(group("", [ValueError(), group("", [KeyError()])]), names)
    assert not is_permanent(group("", [ValueError(), OSError()]), names)
    assert not is_permanent(group("", [ValueError(), group("", [KeyError(), OSError()])]), names)
    assert is_permanent(group("", [OSError()]), ("ExceptionGroup",))


PERMANENT = {"retry": Retry(permanent=("ValueError", "main.Bad"))}
CODE = """
    class Bad(Exception): ...
    class Worse(Bad): ...
    {prefix}def handler(context, event):
        if event.body:
            raise eval(event.body)
"""


@flavours
async def test_the_worker_says_so_by_the_code_and_goes_on(engine: Any, answer: Any, prefix: str) -> None:
    function = await engine.function(CODE.format(prefix=prefix), **PERMANENT)
    for raised, code in {"Bad('b')": "permanent", "Worse": "permanent", "ValueError": "permanent", "KeyError": "raised"}.items():
        response = await answer(function.submit(Event(raised.encode())))
        assert (response.code, response.status, response.headers) == (code, 500, {}), raised
    assert (await answer(function.submit(Event(b"Bad('too hot')")))).body == b"too hot"
    assert (await answer(function.submit(Event()))).code == ""
    assert (await answer(function.submit(Event(b"SystemExit(ValueError())")))).code == "worker_died"
    assert (function.counters.handled, function.counters.failed) == (1, 6)


async def test_without_names_nothing_is_permanent(engine: Any, answer: Any) -> None:
    function = await engine.function(CODE.format(prefix=""))
    assert (await answer(function.submit(Event(b"ValueError")))).code == "raised"


async def test_an_answer_that_cannot_be_sent_counts_by_what_it_raised(engine: Any, answer: Any) -> None:
    function = await engine.function("handler = lambda context, event: (42, 'no status')", **PERMANENT)
    response = await answer(function.submit(Event()))
    assert (response.code, b"ValueError" in response.body) == ("permanent", True)


@flavours
async def test_a_batch_of_several_is_not_condemned_for_one_of_its_events(engine: Any, answer: Any, prefix: str) -> None:
    function = await engine.function(f"{prefix}def handler(context, events):\n    raise ValueError('odd')", **PERMANENT)
    several = await answer(function.submit([Event(id="1"), Event(id="2")]))
    assert [response.code for response in several] == ["raised", "raised"]
    (one,) = await answer(function.submit([Event(id="1")]))
    assert (one.code, one.event_id, one.body) == ("permanent", "1", b"odd")


STREAM = """
    {prefix}def handler(context, event):
        if not event.path.strip("/"):
            raise eval(event.body)
        yield "first"
        yield "second"
        raise eval(event.body)
"""


@flavours
@pytest.mark.parametrize(
    ("raised", "code"), [("ValueError('no')", "permanent"), ("OSError('no')", "raised"), ("SystemExit(1)", "worker_died")]
)
async def test_a_stream_ends_with_the_code_of_what_it_raised(
    engine: Any, answer: Any, prefix: str, raised: str, code: str
) -> None:
    function = await engine.function(STREAM.format(prefix=prefix), **PERMANENT)
    at_once = await answer(function.submit(Event(raised.encode())))
    assert at_once.code == code
    response = await answer(function.submit(Event(raised.encode(), path="/later")))
    with pytest.raises(BrokenOffError) as caught:
        await asyncio.wait_for(anext(response.chunks), 30)
        await asyncio.wait_for(anext(response.chunks), 30)
    assert caught.value.code == code
    assert (function.counters.handled, function.counters.failed) == (0, 2)


async def test_a_stream_that_runs_past_its_deadline_says_timeout(engine: Any, answer: Any) -> None:
    function = await engine.function(
        "import time\ndef handler(context, event):\n    yield 'first'\n    time.sleep(60)", timeout_s=0.3
    )
    response = await answer(function.submit(Event()))
    with pytest.raises(BrokenOffError) as caught:
        await asyncio.wait_for(anext(response.chunks), 30)
    assert caught.value.code == "timeout"


@flavours
@pytest.mark.parametrize("end", ["", "yield"], ids=["answer", "stream"])
async def test_words_that_no_frame_can_carry_fail_their_event_alone(engine: Any, answer: Any, prefix: str, end: str) -> None:
    """What json.loads makes of a sender's text may hold half a character."""
    function = await engine.function(
        f"""
        import json
        {prefix}def handler(context, event):
            raise ValueError(json.loads(event.body))
            {end}
        """,
        **PERMANENT,
    )
    response = await answer(function.submit(Event(b'"\\ud800 odd"')))
    assert (response.code, response.body) == ("permanent", b"? odd")


@with_groups
async def test_a_task_group_fails_by_what_its_tasks_raised(engine: Any, answer: Any) -> None:
    function = await engine.function(
        """
        import asyncio
        async def fail(error):
            raise error
        async def handler(context, event):
            async with asyncio.TaskGroup() as group:
                group.create_task(fail(ValueError() if event.body else OSError()))
                group.create_task(asyncio.sleep(60))
        """,
        **PERMANENT,
    )
    assert (await answer(function.submit(Event(b"x")))).code == "permanent"
    assert (await answer(function.submit(Event()))).code == "raised"

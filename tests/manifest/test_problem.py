"""The words for what is wrong, and that they agree with msgspec, which decides."""

from __future__ import annotations

from datetime import date, datetime, time, timezone
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Struct, inspect

from edgehost.manifest.place import toml_place, yaml_place
from edgehost.manifest.problem import allowed, choice, did_you_mean, find_mistake, from_message, show


class Part(Struct, frozen=True, forbid_unknown_fields=True):
    size: Annotated[int, Meta(ge=1)]
    wait_s: Annotated[float, Meta(gt=0)] = 1.0


class Whole(Struct, frozen=True, forbid_unknown_fields=True):
    count: Annotated[int, Meta(ge=0, le=2)] = 0
    share: Annotated[float, Meta(gt=0, lt=1)] = 0.5
    word: Annotated[str, Meta(min_length=1, max_length=3)] = "a"
    path: Annotated[str, Meta(pattern="^/")] = "/"
    flag: bool = False
    policy: Literal["block", "reject"] = "block"
    level: Literal[0, 1, 2] = 0
    names: tuple[str, ...] = ()
    sizes: Annotated[list[int], Meta(min_length=2, max_length=3)] = msgspec.field(default_factory=lambda: [1, 2])
    env: dict[str, str] = {}
    part: Part | None = None
    parts: dict[str, Part] = {}
    either: int | str | list[int] = 0
    anything: Any = None


WHOLE = inspect.type_info(Whole)

words = st.sampled_from(["a", "", "abcd", "/x", "block", "1"])
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 4), st.sampled_from([0.0, 0.5, 1.0, -1.5, float("inf"), float("nan")]), words,
    st.just(date(2026, 1, 1)), st.just(10**30),
)  # fmt: skip
part = st.dictionaries(st.sampled_from(["size", "wait_s", "sise"]), scalars, max_size=3)
values = st.one_of(scalars, st.lists(scalars, max_size=4), part, st.dictionaries(words, st.one_of(scalars, part), max_size=2))


@given(st.dictionaries(st.sampled_from([*Whole.__struct_fields__, "cuont"]), values, max_size=4))
def test_something_is_found_exactly_when_msgspec_refuses(table: dict[str, Any]) -> None:
    mistake = find_mistake(table, WHOLE)
    try:
        msgspec.convert(table, Whole)
    except msgspec.ValidationError:
        assert mistake is not None
        assert mistake.text
    else:
        assert mistake is None


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("count", "an integer from 0 to 2"),
        ("share", "a number above 0 and below 1"),
        ("word", "text, 1 to 3 characters"),
        ("path", "text that matches ^/"),
        ("flag", "true or false"),
        ("policy", '"block" or "reject"'),
        ("level", "0, 1 or 2"),
        ("names", "a list of text"),
        ("sizes", "a list of an integer, 2 to 3 entries"),
        ("env", "a table"),
        ("part", "a table with size or wait_s"),
        ("either", "an integer, text or a list of an integer"),
    ],
)
def test_what_a_type_takes_in_words(field: str, words: str) -> None:
    assert isinstance(WHOLE, inspect.StructType)
    assert allowed({each.name: each.type for each in WHOLE.fields}[field]) == words


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (True, "true"), (3, "3"), (1.5, "1.5"), ('a"b\n', r'"a\"b\n"'), ("ü", '"ü"'), ("\ud800", r'"\ud800"'), ({}, "a table"),
        ([], "an empty list"), ([1], "a list"), (None, "nothing"), (date(2026, 1, 2), "2026-01-02"), (time(1, 2), "01:02:00"),
        (datetime(2026, 1, 2, tzinfo=timezone.utc), "2026-01-02T00:00:00+00:00"), ("x" * 99, '"' + "x" * 59 + "…"),
    ],
)  # fmt: skip
def test_values_are_shown_short_and_in_one_line(value: object, shown: str) -> None:
    assert show(value) == shown


def test_choices_and_suggestions() -> None:
    assert choice(["a"]) == "a"
    assert choice(["a", "b", "c"]) == "a, b or c"
    assert did_you_mean("qso", ["qos", "topics"]) == "did you mean qos?"
    assert did_you_mean("QOS", ["qos", "topics"]) == "did you mean qos?"
    assert did_you_mean("x", ["qos", "topics"]) == "use qos or topics"
    assert did_you_mean("x", []) == "nothing is allowed here"


@pytest.mark.parametrize(
    ("message", "path", "text"),
    [
        ("nobody's fault - at `$.a.b[2]`", ("a", "b", 2, ""), "nobody's fault"),
        ("topics: 'x' is no filter", ("topics",), "'x' is no filter"),
        ("topics: 'x' is no filter - at `$.a[...]`", ("a", "topics"), "'x' is no filter"),
        ("Expected `int` - at `key` in `$.a`", ("a",), "Expected `int`"),
        ("two\nlines", ("",), "two lines"),
    ],
)
def test_the_text_of_a_post_init_finds_its_place(message: str, path: tuple[str | int, ...], text: str) -> None:
    mistake = from_message(message)
    assert (mistake.path, mistake.text) == (path, text)


@pytest.mark.parametrize(
    ("path", "toml", "yaml"),
    [
        ((), "f", "f"),
        (("a",), "f a", "f a"),
        (("a", ""), "f [a]", "f a"),
        (("a", "b"), "f [a].b", "f a.b"),
        (("a", "b", ""), "f [a.b]", "f a.b"),
        (("a", "b", 1, "c"), "f [a.b[1]].c", "f a.b[1].c"),
        (("a", "b c", "d\n"), 'f [a."b c"]."d\\n"', 'f a."b c"."d\\n"'),
    ],
)
def test_places_are_named_in_the_form_of_their_file(path: tuple[str | int, ...], toml: str, yaml: str) -> None:
    assert toml_place("f")(path) == toml
    assert yaml_place("f")(path) == yaml

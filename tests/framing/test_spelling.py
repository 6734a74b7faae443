"""How a manifest writes a framing, and what it is told about a mistake in one."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Struct

from edgehost.framing import Fixed, Framing, Idle, Length, Line, Nmea, make_codec
from edgehost.manifest.conversion import to_struct
from edgehost.manifest.problem import Mistake


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    framing: Framing = Line()


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("nmea", Nmea()),
        ({"kind": "nmea"}, Nmea()),
        ({"kind": "idle", "gap": "50ms"}, Idle(gap_s=0.05)),
        ({"kind": "fixed", "size": "12 B"}, Fixed(size_bytes=12)),
        ({"kind": "line", "frame_limit": "4KiB", "terminator": "0x0d"}, Line(terminator="0x0d", frame_limit_bytes=4096)),
        ({"kind": "length", "form": "hex", "offset_bytes": 2, "length_bytes": 3}, Length(3, "hex", 2)),
    ],
)
def test_a_framing_is_a_word_or_a_table(written: Any, meant: Any) -> None:
    assert to_struct({"framing": written}, Settings).framing == meant
    make_codec(meant)


@pytest.mark.parametrize(
    ("written", "path", "text"),
    [
        ("nmae", ("framing",), '"nmae" is not allowed; did you mean nmea?'),
        ("fixed", ("framing", "size_bytes"), "missing; write an integer from 1"),
        (3, ("framing",), '3 is not allowed; use "line", "delimiter"'),
        ({"gap": 3}, ("framing", "kind"), 'missing; write "line", "delimiter"'),
        ({"kind": "leng"}, ("framing", "kind"), "did you mean length?"),
        ({"kind": "idle", "gap": "20 parsec"}, ("framing", "gap"), '"20 parsec" is not allowed; use a number of seconds'),
        ({"kind": "idle", "gaps": 1}, ("framing", "gaps"), "did you mean gap_s?"),
        ({"kind": "length", "length_bytes": 3}, ("framing", "length_bytes"), "has 1, 2 or 4 bytes, not 3"),
        ({"kind": "length", "start": "@@"}, ("framing", "offset_bytes"), "counts the start, too"),
        ({"kind": "length", "end": "0x0d0a"}, ("framing", "trailer_bytes"), "counts the end, too"),
        ({"kind": "delimiter"}, ("framing", ""), "give start, end or both"),
        ({"kind": "delimiter", "end": "0xa"}, ("framing", "end"), "two digits for each byte"),
        ({"kind": "delimiter", "start": "a", "end": "b", "gap": 1}, ("framing", "gap_s"), "goes with a start alone"),
        ({"kind": "fixed", "size": 1, "start": "ab"}, ("framing", "start"), "longer than the 1 bytes"),
        ({"kind": "regex", "pattern": "("}, ("framing", "pattern"), "is no regular expression"),
        ({"kind": "regex", "pattern": "a*"}, ("framing", "pattern"), "matches nothing at all"),
    ],
)
def test_a_mistake_is_named_where_it_stands(written: Any, path: tuple[str, ...], text: str) -> None:
    with pytest.raises(Mistake) as caught:
        to_struct({"framing": written}, Settings)
    assert caught.value.path == path
    assert text in caught.value.text

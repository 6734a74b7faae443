"""What holds for every framing whatever comes: chunks do not matter, garbage costs no good frame, memory is bounded."""

from __future__ import annotations

import random
import tracemalloc
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgehost.framing import (
    Cobs,
    Codec,
    Delimiter,
    Fixed,
    Framing,
    Idle,
    Length,
    Line,
    ModbusRtu,
    Nmea,
    Regex,
    Slip,
    make_codec,
)

LIMIT = 48


@dataclass(frozen=True)
class Kind:
    """A framing, what its frames may hold, and the garbage that it can tell from a frame."""

    framing: Framing
    body: st.SearchStrategy[bytes]
    garbage: st.SearchStrategy[bytes]

    def stream(self, draw: st.DrawFn) -> tuple[list[bytes], bytes]:
        """Good frames as the function sees them, and the bytes they come in, with garbage between."""
        codec = make_codec(self.framing)
        bodies, stream = [], b""
        for _ in range(draw(st.integers(0, 6))):
            body = draw(self.body)
            stream += draw(self.garbage) + self._frame(codec, body)
            bodies.append(body)
        return bodies, stream + draw(self.garbage)

    def _frame(self, codec: Codec, body: bytes) -> bytes:
        return b"<" + body + b">" if isinstance(self.framing, Regex) else codec.encode(body)


def without(*marks: int, least: int = 0, most: int = LIMIT) -> st.SearchStrategy[bytes]:
    return st.lists(st.sampled_from([b for b in range(256) if b not in marks]), min_size=least, max_size=most).map(bytes)


def ended(garbage: st.SearchStrategy[bytes], end: bytes) -> st.SearchStrategy[bytes]:
    """Garbage that ends where a frame would, and is too long to be one; or none."""
    return st.one_of(st.just(b""), garbage.map(lambda junk: junk + bytes(range(40, 40 + LIMIT)) + b"x" * 8 + end))


NOISE = st.one_of(st.just(b""), st.binary(max_size=2 * LIMIT))
SENTENCE = without(*b"$!*\r\n", most=30).map(lambda body: make_codec(Nmea()).encode(b"$" + body)[:-2])
REQUEST = st.tuples(st.integers(1, 247), st.sampled_from([5, 6]), st.binary(min_size=4, max_size=4))

KINDS = {
    "line": Kind(Line(frame_limit_bytes=LIMIT), without(10, 13, least=1), ended(without(10, 13), b"\r\n")),
    "line \\r\\n": Kind(Line("\r\n", frame_limit_bytes=LIMIT), without(10, 13, least=1), ended(without(10, 13), b"\r\n")),
    "end": Kind(Delimiter(end="END", frame_limit_bytes=LIMIT), without(*b"END"), ended(without(*b"E"), b"END")),
    "both": Kind(Delimiter("0x02", "0x03", frame_limit_bytes=LIMIT), without(2, 3), NOISE),
    "both long": Kind(Delimiter("ST", "END", frame_limit_bytes=LIMIT), without(*b"STEND"), without(*b"E")),
    "start": Kind(Delimiter("ST", frame_limit_bytes=LIMIT), without(*b"ST", least=1), st.just(b"")),
    "flags": Kind(Delimiter("~", "~", frame_limit_bytes=LIMIT), without(*b"~", least=1), st.just(b"")),
    "fixed": Kind(Fixed(size_bytes=12, start="ab"), without(*b"ab", least=10, most=10).map(b"ab".__add__), without(*b"a")),
    "length": Kind(Length(1, "big", 2, "#", 2, "\r\n", payload_only=True, frame_limit_bytes=LIMIT), without(13, most=40), NOISE),
    "slip": Kind(Slip(frame_limit_bytes=LIMIT), without(least=1), NOISE),
    "cobs": Kind(Cobs(frame_limit_bytes=LIMIT), without(), NOISE.map(lambda junk: junk + b"\0" if junk else junk)),
    "nmea": Kind(Nmea(frame_limit_bytes=LIMIT), SENTENCE, NOISE),
    "modbus-rtu": Kind(ModbusRtu(), REQUEST.map(lambda r: bytes(r[:2]) + r[2]), NOISE),
    "regex": Kind(Regex("<([^<>]*)>", frame_limit_bytes=LIMIT), without(*b"<>", most=LIMIT - 2), NOISE),
}


def frames_of(framing: Framing, *chunks: bytes) -> list[bytes]:
    codec = make_codec(framing)
    return [frame for chunk in chunks for frame in codec.feed(chunk)] + codec.finish()


def is_subsequence(wanted: list[bytes], frames: list[bytes]) -> bool:
    rest = iter(frames)
    return all(body in rest for body in wanted)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_garbage_costs_no_good_frame_and_chunks_do_not_matter(kind: Kind, data: st.DataObject) -> None:
    bodies, stream = kind.stream(data.draw)
    frames = frames_of(kind.framing, stream)
    assert is_subsequence(bodies, frames), (bodies, frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert frames_of(kind.framing, *pieces) == frames
    assert frames_of(kind.framing, *(bytes([byte]) for byte in stream)) == frames


@pytest.mark.parametrize("kind", [KINDS["start"], KINDS["flags"]], ids=["start", "flags"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_garbage_before_a_first_start_costs_no_frame_however_long_it_is(kind: Kind, data: st.DataObject) -> None:
    _, stream = kind.stream(data.draw)
    garbage = data.draw(without(*b"ST~", most=16)) * data.draw(st.integers(0, 16))
    codec = make_codec(kind.framing)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(garbage + stream)), max_size=8)))
    pieces = [(garbage + stream)[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]
    frames = [frame for piece in pieces for frame in codec.feed(piece)] + codec.finish()
    assert frames == frames_of(kind.framing, stream)
    assert (codec.counts["garbage_bytes"], codec.counts["too_long"]) == (len(garbage), 0)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@settings(max_examples=40, deadline=None)
@given(stream=st.binary(max_size=300))
def test_any_bytes_give_the_same_frames_in_any_chunks(kind: Kind, stream: bytes) -> None:
    assert frames_of(kind.framing, *(bytes([byte]) for byte in stream)) == frames_of(kind.framing, stream)


@pytest.mark.parametrize("kind", [*KINDS.values(), Kind(Idle(frame_limit_bytes=LIMIT), NOISE, NOISE)], ids=[*KINDS, "idle"])
@pytest.mark.parametrize("what", ["nothing but one byte", "frames that never end", "noise"])
def test_memory_is_bounded(kind: Kind, what: str) -> None:
    """Three hundred times the limit of what never becomes a frame leaves no more than the limit behind."""
    noise = random.Random(7)
    begun = make_codec(kind.framing).encode(b"x" * 12)[:4] if what == "frames that never end" else b""
    codec = make_codec(kind.framing)
    tracemalloc.start()
    for _ in range(150):
        codec.feed(noise.randbytes(100) if what == "noise" else begun + b"x" * 96)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 20_000


@settings(max_examples=100, deadline=None)
@given(body=st.one_of(st.binary(max_size=600), st.binary(max_size=3).map(lambda part: part * 300)))
def test_what_is_stuffed_comes_back(body: bytes) -> None:
    for framing in (Cobs(), Slip()):
        assert frames_of(framing, make_codec(framing).encode(body)) == ([body] if body or framing == Cobs() else [])
        assert b"\0" not in make_codec(Cobs()).encode(body)[:-1]

"""Recorded receivers, frame for frame: counted a second time by plain means, and in any chunks.

The captures are gpsd's regression logs; they do not travel with the project (EDGEHOST_TEST_DATA names their folder).
"""

from __future__ import annotations

import functools
import operator
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from edgehost.framing import Delimiter, Framing, Length, Nmea, make_codec

ROOT = Path(__file__).parents[2]
NMEA = ("ais-nmea", "garmin48", "isync", "neo-m8n", "nmea-fuzzy-cases")
SIRF = Length(start="0xa0a2", offset_bytes=2, trailer_bytes=4, end="0xb0b3")
GREIS = Length(length_bytes=3, form="hex", offset_bytes=2)
ONCORE = Delimiter(start="@@", end="\r\n", keep=True)


@pytest.fixture
def capture() -> Callable[[str], bytes]:
    folder = Path(os.environ.get("EDGEHOST_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no recorded data: name its folder in EDGEHOST_TEST_DATA")
    return lambda name: (folder / "serial" / f"{name}.log").read_bytes()


def cut(framing: Framing, data: bytes) -> list[bytes]:
    """The frames, which must be the same in chunks of any size."""
    codec = make_codec(framing)
    whole = codec.feed(data) + codec.finish()
    chance = random.Random(len(data))
    codec, at, frames = make_codec(framing), 0, []
    while at < len(data):
        size = chance.randrange(1, 200)
        frames += codec.feed(data[at : at + size])
        at += size
    assert frames + codec.finish() == whole
    return whole


def xor(data: bytes) -> int:
    return functools.reduce(operator.xor, data, 0)


@pytest.mark.parametrize("name", NMEA)
def test_nmea(capture: Callable[[str], bytes], name: str) -> None:
    expected = []
    for line in capture(name).replace(b"$", b"\n$").replace(b"!", b"\n!").splitlines():
        body, star, told = line[1:].partition(b"*")
        if line[:1] in (b"$", b"!") and star and xor(body) == int(told[:2], 16):
            expected.append(line[: len(body) + 4])
    assert len(expected) > 20
    assert cut(Nmea(), capture(name)) == expected


def test_sirf_binary(capture: Callable[[str], bytes]) -> None:
    frames = cut(SIRF, capture("bu303-moving"))
    assert len(frames) == 65
    for frame in frames:
        payload = frame[4:-4]
        assert len(payload) == int.from_bytes(frame[2:4], "big")
        assert sum(payload) & 0x7FFF == int.from_bytes(frame[-4:-2], "big")
    assert len(capture("bu303-moving")) - sum(map(len, frames)) < 2


def test_greis(capture: Callable[[str], bytes]) -> None:
    """Messages follow one another without a mark: identifier, three digits of length, body."""
    data = capture("greis-binary")
    frames = cut(GREIS, data)
    assert b"".join(frames) == data
    assert {frame[:2] for frame in frames} >= {b"~~", b"GT", b"PV", b"SG", b"DP", b"SI", b"EL", b"::"}
    assert all(int(frame[2:5], 16) == len(frame) - 5 for frame in frames)


def test_oncore(capture: Callable[[str], bytes]) -> None:
    """`@@`, two letters, a body, its exclusive or, CR LF."""
    data = capture("oncore-m12")
    frames = cut(ONCORE, data)
    assert b"".join(frames) == data
    assert len(frames) == 68
    assert all(xor(frame[2:-3]) == frame[-3] for frame in frames)

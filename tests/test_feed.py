"""Feed: frames from a pipe that is read only while the function has room. A real loop; the pipe and the function are the test."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from edgehost.feed import Feed
from edgehost.framing import Delimiter, Framing, Idle, Length, ModbusRtu, make_codec

GAP_S = 0.02
READ = bytes.fromhex("010300000002c40b")


class Source:
    """A pipe that fills while it is not read, and a function that takes `most` frames until it is given more room."""

    def __init__(self, framing: Framing, most: int) -> None:
        self.most = most
        self.got: list[bytes] = []
        self.reading = True
        self._pipe = b""
        self.feed = Feed(make_codec(framing), Counter(), lambda: len(self.got) >= self.most, self.got.append, self._read)

    def write(self, data: bytes) -> None:
        self._pipe += data
        self._flow()

    def _read(self, on: bool) -> None:
        self.reading = on
        asyncio.get_running_loop().call_soon(self._flow)

    def _flow(self) -> None:
        if self.reading and self._pipe:
            data, self._pipe = self._pipe, b""
            self.feed.data(data)


@pytest.mark.parametrize(
    ("framing", "begun", "rest", "frames"),
    [
        (Length(1, gap_s=GAP_S), b"\x02ab\x03c", b"de\x02fg", [b"\x02ab", b"\x03cde", b"\x02fg"]),
        (Delimiter("$", gap_s=GAP_S), b"$ab$c", b"de$fg$", [b"ab", b"cde", b"fg"]),
        (ModbusRtu(gap_s=GAP_S), READ + READ[:5], READ[5:] + READ, [READ[:-2]] * 3),
    ],
)
async def test_a_pause_in_which_nothing_is_read_cuts_no_frame(
    framing: Framing, begun: bytes, rest: bytes, frames: list[bytes]
) -> None:
    source = Source(framing, most=0)
    source.write(begun)
    assert not source.reading
    source.write(rest)
    await asyncio.sleep(5 * GAP_S)
    source.most = 9
    source.feed.room()
    await asyncio.sleep(5 * GAP_S)
    assert source.got == frames
    source.feed.close()


async def test_a_pause_begins_anew_when_reading_goes_on() -> None:
    source = Source(Length(1, gap_s=GAP_S), most=0)
    source.write(b"\x02ab\x03c")
    await asyncio.sleep(5 * GAP_S)
    source.most = 9
    source.feed.room()
    await asyncio.sleep(GAP_S / 4)
    source.write(b"de")
    assert source.got == [b"\x02ab", b"\x03cde"]
    source.write(b"\x05lost")
    await asyncio.sleep(5 * GAP_S)
    source.write(b"\x01x")
    assert source.got[2:] == [b"\x01x"], "what stands still while it is read has broken off"
    source.feed.close()


async def test_a_pause_ends_a_frame_while_it_is_read() -> None:
    source = Source(Idle(gap_s=GAP_S), most=1)
    source.write(b"one")
    await asyncio.sleep(5 * GAP_S)
    source.write(b"two")
    await asyncio.sleep(5 * GAP_S)
    assert (source.got, source.reading) == ([b"one"], False)
    source.most = 9
    source.feed.room()
    assert (source.got, source.reading) == ([b"one", b"two"], True)
    source.feed.close()


async def test_no_timer_runs_after_the_end_of_a_stream() -> None:
    source = Source(Idle(gap_s=GAP_S), most=0)
    source.write(b"last")
    finishing = asyncio.create_task(source.feed.finish())
    await asyncio.sleep(0)
    source.most = 1
    source.feed.room()
    await asyncio.wait_for(finishing, 5)
    assert source.got == [b"last"]
    assert source.feed._quiet is None

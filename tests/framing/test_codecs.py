"""Each framing by examples: what comes in, which frames come out, what is counted, and what an answer looks like."""

from __future__ import annotations

import pytest

from edgehost.framing import (
    Cobs,
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

RMC = b"$GPRMC,225308,A,4527.458,S,16709.165,E,000.0,094.5,060601,024.1,E*6D"
VDM = b"!AIVDM,2,2,9,B,`88888888888880,2*76"
READ = bytes.fromhex("010300000002c40b")
"""Modbus: read two holding registers of device 1, the example of the protocol's own documents."""
REGISTERS = bytes.fromhex("01030400060005da31")

EXAMPLES: list[tuple[Framing, list[bytes], list[bytes], dict[str, int]]] = [
    (Line(), [b"a\nb\r\nc\rd\n\n"], [b"a", b"b", b"c", b"d"], {}),
    (Line(), [b"a\r", b"\nb\r", b"c\n"], [b"a", b"b", b"c"], {}),
    (Line(keep_empty=True), [b"a\r", b"", b"\n\n\rb\n"], [b"a", b"", b"", b"b"], {}),
    (Line(terminator="\r\n"), [b"a\nb\r", b"\nc\r\n"], [b"a\nb", b"c"], {}),
    (Line(terminator="0x00"), [b"a\0\0b\0c"], [b"a", b"b"], {}),
    (Line(frame_limit_bytes=3), [b"abc\nabcd\nabcdefgh", b"ij\nxyz\n"], [b"abc", b"xyz"], {"too_long": 2}),
    (Line(terminator="\r\n", frame_limit_bytes=3), [b"abc\r", b"\nabcd\r", b"\nx\r\n"], [b"abc", b"x"], {"too_long": 1}),
    (Delimiter(end=";"), [b"a;b", b"c;;d"], [b"a", b"bc", b""], {}),
    (Delimiter(end=";", keep=True), [b"a;"], [b"a;"], {}),
    (Delimiter(start="$"), [b"xx$a$", b"b$c"], [b"a", b"b"], {"garbage_bytes": 2}),
    (Delimiter(start="0x7e", end="0x7e"), [b"xx\x7ea\x7e\x7eb\x7ec"], [b"a", b"b"], {"garbage_bytes": 2}),
    (Delimiter("~", frame_limit_bytes=8), [b"x" * 20, b"~abc~", b"def~"], [b"abc", b"def"], {"garbage_bytes": 20}),
    (Delimiter("~", frame_limit_bytes=8), [b"x" * 20 + b"~" + b"y" * 9, b"y~def~"], [b"def"], {"too_long": 1}),
    (Delimiter("##", "##", frame_limit_bytes=3), [b"x#xx", b"xx#", b"#a##b#", b"#"], [b"a", b"b"], {"garbage_bytes": 6}),
    (Delimiter(start="<", end=">", keep=True), [b"<a", b">", b"zz<b>"], [b"<a>", b"<b>"], {"garbage_bytes": 2}),
    (Delimiter(start="<", end=">"), [b"<lost", b" it<a>>"], [b"a"], {"garbage_bytes": 9}),
    (Delimiter(start="<", end=">", frame_limit_bytes=3), [b"<abc><abcd><abcde", b"f><x>"], [b"abc", b"x"], {"too_long": 2}),
    (Delimiter(start="@@", end="\r\n"), [b"z@", b"@a\r", b"\n@", b"@b\r\n"], [b"a", b"b"], {"garbage_bytes": 1}),
    (Fixed(size_bytes=3), [b"ab", b"cdefg"], [b"abc", b"def"], {}),
    (Fixed(size_bytes=3, start="#"), [b"xx#a", b"bx#cd"], [b"#ab", b"#cd"], {"garbage_bytes": 3}),
    (Length(), [b"\0\x02ab\0", b"\0\0\x01c"], [b"\0\x02ab", b"\0\0", b"\0\x01c"], {}),
    (Length(1, payload_only=True), [b"\x02ab\x01c"], [b"ab", b"c"], {}),
    (Length(2, "little", 1, trailer_bytes=1), [b"I\x01\0aS", b"J\0\0S"], [b"I\x01\0aS", b"J\0\0S"], {}),
    (Length(1, counts_header=True), [b"\x03ab\x01\x02c"], [b"\x03ab", b"\x01", b"\x02c"], {}),
    (Length(1, adjust=-1), [b"\x03ab\x02c"], [b"\x03ab", b"\x02c"], {}),
    (Length(3, "hex", 2), [b"GT00", b"2abxxx", b"PV001z"], [b"GT002ab", b"PV001z"], {"garbage_bytes": 3}),
    (Length(2, "decimal"), [b"02ab+x01c"], [b"02ab", b"01c"], {"garbage_bytes": 2}),
    (Length(1, frame_limit_bytes=4), [b"\x09abc", b"def", b"ghi\x01x"], [b"\x01x"], {"too_long": 1}),
    (Length(1, offset_bytes=1, start="#", frame_limit_bytes=4), [b"#\x09#\x01x"], [b"#\x01x"], {"too_long": 1}),
    (Slip(), [b"\xc0a\xdb\xdcb\xdb", b"\xdd\xdc\xc0\xc0c\xc0"], [b"a\xc0b\xdb\xdc", b"c"], {}),
    (Slip(), [b"a\xdbz\xc0b\xc0"], [b"b"], {"garbage_bytes": 3}),
    (Slip(frame_limit_bytes=2), [b"\xdb\xdc\xdb\xdc\xc0abc\xc0abcdef\xc0"], [b"\xc0\xc0"], {"too_long": 2}),
    (Cobs(), [b"\x01\x01\0\x03\x11\x22\x02\x33\0"], [b"\0", b"\x11\x22\0\x33"], {}),
    (Cobs(), [b"\x09a\0\x02b\0"], [b"b"], {"garbage_bytes": 2}),
    (Nmea(), [RMC + b"\r\n" + VDM + b"\n"], [RMC, VDM], {}),
    (Nmea(), [RMC[:30], RMC[30:]], [RMC], {}),
    (Nmea(), [RMC[:30] + RMC], [RMC], {"garbage_bytes": 30}),
    (Nmea(), [b"\x00\xffnoise" + RMC.replace(b"225308", b"225309") + RMC], [RMC], {"bad_checksum": 1, "garbage_bytes": 7}),
    (Nmea(frame_limit_bytes=40), [VDM + RMC + b"\n" + RMC[:50], b"x" * 50, VDM], [VDM, VDM], {"too_long": 2}),
    (Nmea(), [b"$GPGLL,1,N\r\n" + VDM], [VDM], {"garbage_bytes": 10}),
    (Nmea(unchecked=True), [b"$GPGLL,1,N\r", b"\n" + VDM], [b"$GPGLL,1,N", VDM], {}),
    (ModbusRtu(), [READ + REGISTERS], [READ[:-2], REGISTERS[:-2]], {}),
    (ModbusRtu(), [READ[:5], READ[5:] + REGISTERS[:2], REGISTERS[2:]], [READ[:-2], REGISTERS[:-2]], {}),
    (ModbusRtu(), [b"\xff\xff\0" + READ], [READ[:-2]], {"garbage_bytes": 3}),
    (Regex("<([^<>]*)>"), [b"x<a><b", b"<c", b">"], [b"a", b"c"], {"garbage_bytes": 3}),
    (Regex(r"\d+;"), [b"12", b"3;", b"4;"], [b"123;", b"4;"], {}),
    (Regex("<[^<>]*>", frame_limit_bytes=4), [b"<ab><abc>", b"<" + b"a" * 9, b"><z>"], [b"<ab>", b"<z>"], {"too_long": 1}),
]


@pytest.mark.parametrize(("framing", "chunks", "frames", "counts"), EXAMPLES)
def test_examples(framing: Framing, chunks: list[bytes], frames: list[bytes], counts: dict[str, int]) -> None:
    codec = make_codec(framing)
    assert [frame for chunk in chunks for frame in codec.feed(chunk)] == frames
    assert {name: codec.counts[name] for name in counts} == counts
    for name in ("too_long", "bad_checksum", "incomplete"):
        assert codec.counts[name] == counts.get(name, 0)


@pytest.mark.parametrize(
    ("framing", "data", "frames"),
    [
        (Line(), b"a\nb", [b"b"]),
        (Delimiter(start="$"), b"$a$b", [b"b"]),
        (Delimiter(end="$"), b"a$b", []),
        (Idle(), b"ab", [b"ab"]),
        (Nmea(unchecked=True), b"$GPGLL,1,N", [b"$GPGLL,1,N"]),
        (Nmea(), b"$GPGLL,1,N", []),
        (Length(1), b"\x05ab", []),
        (Length(1, offset_bytes=1, start="#"), b"#\x09#\x01x", [b"#\x01x"]),
        (Regex("<.>"), b"<a", []),
    ],
)
def test_the_end_of_a_stream_ends_what_only_it_can_end(framing: Framing, data: bytes, frames: list[bytes]) -> None:
    codec = make_codec(framing)
    codec.feed(data)
    assert codec.finish() == frames
    assert codec.finish() == []
    assert codec.feed(data[:0]) == []


@pytest.mark.parametrize(
    "framing", [Line(), Delimiter("", ";"), Delimiter("<", ">"), Delimiter("<"), Idle(), Slip(), Cobs(), Nmea()]
)
def test_a_stream_that_broke_off_leaves_nothing_behind(framing: Framing) -> None:
    codec = make_codec(framing)
    begun = b"$<begun"
    codec.feed(begun)
    codec.reset()
    assert codec.counts["incomplete"] == 1
    whole = codec.encode(b"GPGLL")
    frames = [*codec.feed(whole), *(codec.feed(whole) if framing == Delimiter("<") else ()), *codec.idle()]
    assert frames[0] in (b"GPGLL", b"$GPGLL*50")


def test_a_pause_ends_frames() -> None:
    codec = make_codec(Idle(gap_s=0.05, frame_limit_bytes=4))
    assert codec.gap_s == 0.05
    assert codec.feed(b"ab") + codec.feed(b"cd") == []
    assert codec.idle() == [b"abcd"]
    assert codec.feed(b"abc") + codec.feed(b"de") + codec.feed(b"f") + codec.idle() == []
    assert codec.counts == {"too_long": 1}
    assert codec.feed(b"x") + codec.idle() + codec.idle() == [b"x"]


def test_a_pause_finds_the_beginning_again() -> None:
    fixed = make_codec(Fixed(size_bytes=3, gap_s=0.05))
    assert fixed.feed(b"ab") + fixed.idle() + fixed.feed(b"cde") == [b"cde"]
    starts = make_codec(Delimiter(start="$", gap_s=0.05))
    assert starts.feed(b"x$a") + starts.idle() + starts.feed(b"y$b") + starts.idle() == [b"a", b"b"]
    assert starts.counts["garbage_bytes"] == 2
    noisy = make_codec(Delimiter(start="~", gap_s=0.05, frame_limit_bytes=4))
    assert noisy.feed(b"~a") + noisy.idle() + noisy.feed(b"x" * 9) + noisy.feed(b"~b~c") + noisy.idle() == [b"a", b"b", b"c"]
    assert noisy.counts["garbage_bytes"] == 9 and not noisy.counts["too_long"]
    too_long = make_codec(Length(1, frame_limit_bytes=4, gap_s=0.05))
    assert too_long.feed(b"\xffab") + too_long.idle() + too_long.feed(b"\x01x") == [b"\x01x"]


def test_modbus_frames_of_unknown_functions_end_with_the_pause() -> None:
    codec = make_codec(ModbusRtu())
    own = codec.encode(b"\x11\x64vendor")
    assert codec.feed(own[:4]) + codec.feed(own[4:]) == []
    assert codec.idle() == [b"\x11\x64vendor"]
    assert codec.feed(READ[:6]) + codec.idle() == []  # broken off
    assert codec.feed(READ) == [READ[:-2]]
    assert codec.counts["bad_checksum"] <= 1


@pytest.mark.parametrize(
    "pdu",
    [
        *("0100130013", "0302abcd", "0500acff00", "0600010003", "076d", "0800000000", "0b", "0bffff0108", "0c", "11"),
        *("0f0013000a02cd01", "0f0013000a", "100001000204000a0102", "1000010002", "140706000400010002", "1600040ff20025"),
        *("1700030006000e00030600ff00ff00ff", "1702abcd", "1804de", "180006000201b81284", "830c"),
    ],
)
def test_modbus_frames_of_every_known_form_need_no_pause(pdu: str) -> None:
    codec = make_codec(ModbusRtu())
    body = b"\x0b" + bytes.fromhex(pdu)
    assert codec.feed(codec.encode(body) + READ * 40)[:2] == [body, READ[:-2]]


@pytest.mark.parametrize(
    ("framing", "body", "sent"),
    [
        (Line(), b"ok", b"ok\n"),
        (Line(terminator="\r\n"), b"ok", b"ok\r\n"),
        (Delimiter(start="0x02", end="0x03"), b"ok", b"\x02ok\x03"),
        (Delimiter(end=";"), b"ok", b"ok;"),
        (Delimiter(start="$"), b"ok", b"$ok"),
        (Fixed(size_bytes=2), b"ok", b"ok"),
        (Length(), b"as it is", b"as it is"),
        (Length(2, payload_only=True), b"ok", b"\0\x02ok"),
        (Length(2, "little", 2, "#", 2, "!", payload_only=True), b"ok", b"#\0\x02\0ok\0!"),
        (Length(3, "hex", payload_only=True), b"0123456789", b"00A0123456789"),
        (Idle(), b"ok", b"ok"),
        (Slip(), b"a\xc0\xdb", b"\xc0a\xdb\xdc\xdb\xdd\xc0"),
        (Cobs(), b"\x11\x22\0\x33", b"\x03\x11\x22\x02\x33\0"),
        (Cobs(), b"", b"\x01\0"),
        (Cobs(), b"x" * 254, b"\xff" + b"x" * 254 + b"\0"),
        (Cobs(), b"x" * 255, b"\xff" + b"x" * 254 + b"\x02x\0"),
        (Cobs(), b"x" * 254 + b"\0", b"\xff" + b"x" * 254 + b"\x01\x01\0"),
        (Nmea(), b"PMTK220,200", b"$PMTK220,200*2C\r\n"),
        (Nmea(), b"$PMTK220,200\r\n", b"$PMTK220,200*2C\r\n"),
        (Nmea(), RMC, RMC + b"\r\n"),
        (ModbusRtu(), READ[:-2], READ),
        (Regex("<.>"), b"ok", b"ok"),
    ],
)
def test_an_answer_is_framed_as_what_it_answers(framing: Framing, body: bytes, sent: bytes) -> None:
    assert make_codec(framing).encode(body) == sent


@pytest.mark.parametrize(
    ("framing", "body", "why"),
    [
        (Delimiter(end=";"), b"a;b", "holds 0x3b"),
        (Delimiter(start="<", end=">"), b"a<b", "holds 0x3c"),
        (Fixed(size_bytes=2), b"abc", "has 3 bytes; a frame of this framing has 2"),
        (Length(1, payload_only=True), bytes(256), "256 does not fit the 1 bytes"),
        (Length(1, adjust=9, payload_only=True), b"a", "does not fit"),
        (Length(2, "decimal", payload_only=True), bytes(100), "does not fit"),
        (Nmea(), b"$A\r\n$B", "is one line"),
        (ModbusRtu(), b"\x01", "2 to 254"),
    ],
)
def test_an_answer_that_does_not_fit_is_refused(framing: Framing, body: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        make_codec(framing).encode(body)

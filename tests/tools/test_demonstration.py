"""The pure parts of the demonstration: sound becomes frames, and events are counted. The whole is `tools/demo` itself."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.demonstration import sound
from tools.demonstration.tally import Tally


def tone(hz: float, rate_hz: int = 48_000, seconds: float = 0.5) -> sound.Samples:
    result: sound.Samples = 10_000 * np.sin(2 * np.pi * hz * np.arange(int(rate_hz * seconds)) / rate_hz)
    return result


def loudness(samples: sound.Samples) -> float:
    return float(np.sqrt(np.mean(np.square(samples[200:-200]))))


@pytest.mark.parametrize("hz", [200, 1000, 3000, 6000])
def test_a_tone_of_speech_stays_as_it_is(hz: int) -> None:
    expected = tone(hz, sound.RATE_HZ)
    assert np.abs(sound.decimated(tone(hz), 3) - expected)[200:-200].max() < 0.02 * 10_000


@pytest.mark.parametrize("hz", [9000, 12_000, 15_000, 20_000, 23_000])
def test_a_tone_too_high_for_16_khz_is_gone_and_not_folded_back(hz: int) -> None:
    assert loudness(sound.decimated(tone(hz), 3)) < 0.01 * loudness(tone(hz))


@given(st.integers(0, 2000))
def test_frames_hold_every_sample_once_and_end_with_silence(count: int) -> None:
    frames = sound.frames(np.arange(count, dtype=np.float64))
    assert all(len(frame) == 2 * sound.FRAME_SAMPLES for frame in frames)
    together = np.frombuffer(b"".join(frames), "<i2")
    assert together[:count].tolist() == list(range(count)) and not together[count:].any()
    assert len(frames) == -(-count // sound.FRAME_SAMPLES)


def test_samples_beyond_16_bit_are_cut_not_wrapped() -> None:
    assert np.frombuffer(sound.frames(np.array([40_000.0, -40_000.0]))[0], "<i2")[:2].tolist() == [32767, -32768]


def test_a_folder_of_recordings_is_read_by_name(tmp_path: Path) -> None:
    for name in ("Side_Left", "Front_Center"):
        write(tmp_path / f"{name}.wav", 1, 48_000)
    assert [(one.name, len(one.frames)) for one in sound.load(tmp_path)] == [("front-center", 4), ("side-left", 4)]


@pytest.mark.parametrize(("channels", "rate_hz"), [(2, 48_000), (1, 44_100)])
def test_a_recording_of_another_kind_is_refused_by_name(tmp_path: Path, channels: int, rate_hz: int) -> None:
    write(tmp_path / "odd.wav", channels, rate_hz)
    with pytest.raises(ValueError, match=rf"odd\.wav: {channels} channels of 16 bit at {rate_hz} Hz"):
        sound.load(tmp_path)


def write(path: Path, channels: int, rate_hz: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, 2, rate_hz, 0, "NONE", ""))
        file.writeframes(bytes(2 * channels * 3 * 2000))


def test_answers_are_matched_to_events_lane_by_lane() -> None:
    tally = Tally()
    tally.into("a", 1.0)
    tally.into("b", 2.0)
    tally.out_of("b", 2.25)
    assert not tally.even
    tally.out_of("a", 1.5)
    assert tally.even and (tally.went_in, tally.came_out) == (2, 2)
    assert tally.percentile_ms(50) == tally.percentile_ms(99) == 500.0 and tally.percentile_ms(0) == 250.0


def test_an_answer_without_an_event_is_not_even() -> None:
    tally = Tally()
    assert tally.percentile_ms(50) is None
    tally.out_of("a", 1.0)
    assert not tally.even
    tally.into("a", 1.1)
    assert tally.even and tally.percentile_ms(99) == 0.0


@given(st.lists(st.sampled_from("ab")), st.lists(st.sampled_from("ab")))
def test_it_is_even_exactly_when_every_lane_is(events: list[str], answers: list[str]) -> None:
    tally = Tally()
    for lane in events:
        tally.into(lane, 0.0)
    for lane in answers:
        tally.out_of(lane, 1.0)
    assert tally.even == (sorted(events) == sorted(answers))

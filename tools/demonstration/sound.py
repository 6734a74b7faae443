"""Recorded speech as the frames a voice-activity model takes: 512 samples at 16 kHz, 16 bit. Reads files, sends nothing."""

from __future__ import annotations

import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

RATE_HZ = 16_000
FRAME_SAMPLES = 512
FRAME_S = FRAME_SAMPLES / RATE_HZ
_TAPS = 97

Samples = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Recording:
    """One file: its name as a topic level, and its sound in frames of 1,024 bytes (little-endian 16 bit)."""

    name: str
    frames: tuple[bytes, ...]


def load(folder: Path) -> list[Recording]:
    """Every .wav file of `folder`, by name. Raises ValueError for a file that is not 16-bit mono at a multiple of 16 kHz."""
    return [Recording(path.stem.lower().replace("_", "-"), frames(read(path))) for path in sorted(folder.glob("*.wav"))]


def read(path: Path) -> Samples:
    """The sound of one file at 16 kHz, as numbers of 16-bit size."""
    with wave.open(str(path), "rb") as file:
        rate_hz, channels, width = file.getframerate(), file.getnchannels(), file.getsampwidth()
        data = file.readframes(file.getnframes())
    if channels != 1 or width != 2 or rate_hz % RATE_HZ:
        raise ValueError(
            f"{path}: {channels} channels of {8 * width} bit at {rate_hz} Hz; this takes one of 16 bit at 16 or 48 kHz"
        )
    return decimated(np.frombuffer(data, "<i2").astype(np.float64), rate_hz // RATE_HZ)


def decimated(samples: Samples, factor: int) -> Samples:
    """Every `factor`-th sample, after a low-pass filter: what lies above the new half rate would fold back as noise otherwise."""
    if factor == 1:
        return samples
    return np.convolve(samples, low_pass(0.45 / factor), mode="same")[::factor]


def low_pass(cutoff: float) -> Samples:
    """A windowed-sinc filter (Hamming window) that passes up to `cutoff`, a fraction of the sampling rate; its sum is 1."""
    places = np.arange(_TAPS) - (_TAPS - 1) / 2
    taps = np.sinc(2 * cutoff * places) * np.hamming(_TAPS)
    result: Samples = taps / taps.sum()
    return result


def frames(samples: Samples) -> tuple[bytes, ...]:
    """The sound cut into whole frames; the last one is filled up with silence."""
    numbers = np.clip(np.rint(samples), -32768, 32767).astype("<i2")
    numbers = np.pad(numbers, (0, -len(numbers) % FRAME_SAMPLES))
    return tuple(row.tobytes() for row in numbers.reshape(-1, FRAME_SAMPLES))

"""Sound as a picture of its pitch over time: logarithms of the energy in bands as wide as the ear hears them.

The bands are evenly spaced on the mel scale of O'Shaughnessy (Speech Communication, 1987) as HTK writes it,
m = 2595 · log₁₀(1 + f / 700), and are triangles in hertz, each from its lower neighbour's peak to its upper one's, with
an area of 1. Rows of the picture are moments, from first to last, so that nets that read a picture row by row hear it
in the order in which it was said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tutelage.data.encoders.facts import reading
from tutelage.data.encoders.options import real, whole
from tutelage.data.rows import Rows
from tutelage.errors import DataError, InputError

__all__ = ["Sound", "Waveform", "fit_sound", "fit_waveform", "mel_bands", "sound_of", "waveform_of"]

# 100 dB below a sound that fills its range: about where the rounding of 16-bit samples lies.
_FLOOR = 1e-10
_MOST_DEVIATIONS = 10.0  # silence in a set of loud sounds is no outlier to learn from
_LONGEST_TRANSFORM = 2**16
_MOST_BANDS = 512


@final
@dataclass(frozen=True, slots=True)
class Sound:
    """A column of sounds to (N, 1, frames, mels) float32; made by `fit_sound` or `sound_of`."""

    column: str
    rate: int  # samples per second
    samples: int  # of every sound
    mels: int
    window: int  # samples
    hop: int  # samples from one window to the next
    low: float  # Hz
    high: float  # Hz
    mean: float = 0.0
    std: float = 1.0

    @property
    def vocabulary(self) -> int:
        """0: these are no tokens."""
        return 0

    @property
    def columns(self) -> tuple[str, ...]:
        """The column it reads."""
        return (self.column,)

    @property
    def frames(self) -> int:
        """How many windows fit into a sound."""
        return 1 + (self.samples - self.window) // self.hop

    @property
    def transform(self) -> int:
        """The length of the Fourier transform: long enough that every band holds a frequency of it."""
        length = 1 << (self.window - 1).bit_length()
        while length < _LONGEST_TRANSFORM and not mel_bands(self, length).any(0).all():
            length *= 2
        return length

    def encode(self, rows: Rows) -> Tensor:
        """The view (N, 1, frames, mels) float32: ln(energy), less the training mean, by the training deviation.

        Raises:
            InputError: there is no such column, or it holds no sounds.
            DataError: they have another length or rate than those of the training part.
        """
        sounds = _sounds(rows, self.column, rate=self.rate, samples=self.samples)
        view = torch.empty(len(sounds), 1, self.frames, self.mels)
        for number, picture in enumerate(self.pictures(sounds)):
            view[number, 0] = ((picture - self.mean) / self.std).clamp(-_MOST_DEVIATIONS, _MOST_DEVIATIONS)
        return view

    def pictures(self, sounds: NDArray[np.float32]) -> list[Tensor]:
        """ln(energy) of each sound (N, samples), as (frames, mels) float32, before it is standardised."""
        length = self.transform
        bands = torch.from_numpy(mel_bands(self, length)).float()
        shape = torch.hann_window(self.window)
        shape = shape / shape.square().sum().sqrt()  # so that a longer window is no louder
        # One sound at a time: kernels for many rows round differently from those for few, and a sound is known by its
        # bits, whoever else was in the same call.
        return [_energies(torch.from_numpy(sound), self, shape, bands, length) for sound in sounds]

    def facts(self) -> Mapping[str, Any]:
        """All that makes it again, as JSON."""
        return {
            "kind": "sound", "column": self.column, "rate": self.rate, "samples": self.samples, "mels": self.mels,
            "window": self.window, "hop": self.hop, "low": self.low, "high": self.high, "mean": self.mean,
            "std": self.std,
        }  # fmt: skip


@final
@dataclass(frozen=True, slots=True)
class Waveform:
    """A column of sounds as the samples they are, (N, samples) float32; made by `fit_waveform` or `waveform_of`."""

    column: str
    rate: int
    samples: int

    @property
    def vocabulary(self) -> int:
        """0: these are no tokens."""
        return 0

    @property
    def columns(self) -> tuple[str, ...]:
        """The column it reads."""
        return (self.column,)

    def encode(self, rows: Rows) -> Tensor:
        """The view (N, samples) float32.

        Raises:
            InputError: there is no such column, or it holds no sounds.
            DataError: they have another length or rate than those of the training part.
        """
        return torch.from_numpy(_sounds(rows, self.column, rate=self.rate, samples=self.samples).copy())

    def facts(self) -> Mapping[str, Any]:
        """All that makes it again, as JSON."""
        return {"kind": "waveform", "column": self.column, "rate": self.rate, "samples": self.samples}


def fit_sound(
    rows: Rows,
    column: str,
    *,
    mels: int = 40,
    window: float = 0.025,
    hop: float = 0.010,
    low: float = 20.0,
    high: float | None = None,
) -> Sound:
    """How a column of sounds becomes pictures of pitch over time.

    Args:
        rows: the training part; mean and deviation over all of its moments and bands are learned.
        column: with sounds, (N, samples) float32 in −1 … 1, whose rate the rows know.
        mels: how many bands.
        window: seconds that one moment hears.
        hop: seconds from one moment to the next.
        low: hertz at which the lowest band begins.
        high: hertz at which the highest band ends; None is half the rate, all that there is.

    Raises:
        InputError: there is no such column, it holds no sounds, or a setting is out of range.
        DataError: the rate is unknown, or all sounds are alike.
    """
    sounds, rate = _sounds(rows, column), _rate(rows, column)
    if not len(sounds):
        raise DataError("there are no sounds to learn from", where=f"{rows.name}, {column}")
    where = f"{rows.name}, {column}"
    window, hop = (real(option, given, 0.0, 60.0, where=where) for option, given in (("window", window), ("hop", hop)))
    low = real("low", low, -1.0, rate / 2, where=where)
    top = real("high", rate / 2 if high is None else high, 0.0, rate / 2, where=where)
    mels = whole("mels", mels, 2, _MOST_BANDS, where=where)
    plain = Sound(column, rate, sounds.shape[1], mels, round(window * rate), round(hop * rate), low, top)
    _check(plain, where)
    total = squares = 0.0
    pictures = plain.pictures(sounds)
    for picture in pictures:
        wide = picture.double()
        total, squares = total + float(wide.sum()), squares + float(wide.square().sum())
    count = len(pictures) * plain.frames * mels
    mean = total / count
    variance = squares / count - mean * mean
    if not variance > 1e-6:
        raise DataError("all sounds are alike: nothing but silence, or one tone", where=where)
    return replace(plain, mean=mean, std=math.sqrt(variance))


def fit_waveform(rows: Rows, column: str) -> Waveform:
    """How a column of sounds becomes inputs of a model that reads samples.

    Raises:
        InputError: there is no such column, or it holds no sounds.
        DataError: their rate is unknown.
    """
    return Waveform(column, _rate(rows, column), _sounds(rows, column).shape[1])


def sound_of(facts: Mapping[str, Any]) -> Sound:
    """A sound's encoder made again from its facts.

    Raises:
        DamagedError: they are not whole.
    """
    with reading("sound", facts):
        rate, samples, mels, window, hop = (int(facts[name]) for name in ("rate", "samples", "mels", "window", "hop"))
        low, high, mean, std = (float(facts[name]) for name in ("low", "high", "mean", "std"))
        sound = Sound(str(facts["column"]), rate, samples, mels, window, hop, low, high, mean, std)
        _check(sound, f"facts, {sound.column}")
        assert math.isfinite(sound.mean)
        assert 0.0 < sound.std < math.inf, "a deviation is positive"
        return sound


def waveform_of(facts: Mapping[str, Any]) -> Waveform:
    """A waveform's encoder made again from its facts.

    Raises:
        DamagedError: they are not whole.
    """
    with reading("waveform", facts):
        return Waveform(str(facts["column"]), int(facts["rate"]), int(facts["samples"]))


def mel_bands(sound: Sound, length: int) -> NDArray[np.float64]:
    """What each frequency of a transform of this length adds to each band: (length / 2 + 1, mels)."""
    frequencies = np.arange(length // 2 + 1) * (sound.rate / length)
    peaks = _hertz(np.linspace(_mel(sound.low), _mel(sound.high), sound.mels + 2))
    left, middle, right = peaks[:-2], peaks[1:-1], peaks[2:]
    rising = (frequencies[:, None] - left) / (middle - left)
    falling = (right - frequencies[:, None]) / (right - middle)
    triangles = np.minimum(rising, falling).clip(min=0.0)
    return np.asarray(triangles * (2.0 / (right - left)), dtype=np.float64)


def _mel(hertz: float) -> float:
    return 2595.0 * math.log10(1.0 + hertz / 700.0)


def _hertz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(700.0 * (10.0 ** (mel / 2595.0) - 1.0), dtype=np.float64)


def _energies(sound: Tensor, how: Sound, shape: Tensor, bands: Tensor, length: int) -> Tensor:
    moments = sound.unfold(0, how.window, how.hop) * shape  # (frames, window)
    power = torch.fft.rfft(moments, n=length).abs().square()
    energy: Tensor = (power @ bands).clamp(min=_FLOOR)
    return energy.log()


def _check(sound: Sound, where: str) -> None:
    half = sound.rate / 2
    for what, given, expected, right in (
        ("the number of bands is out of range", sound.mels, f"2 … {_MOST_BANDS}", 2 <= sound.mels <= _MOST_BANDS),
        ("the edges of the bands are out of range", f"{sound.low:g} … {sound.high:g} Hz",
         f"0 ≤ low < high ≤ {half:g} Hz, half the rate", 0 <= sound.low < sound.high <= half),
        ("the window is longer than the sounds, or too short", f"{sound.window} samples",
         f"2 … {sound.samples} samples", 2 <= sound.window <= min(sound.samples, _LONGEST_TRANSFORM)),
        ("the hop is out of range", f"{sound.hop} samples", f"1 … {sound.window} samples",
         1 <= sound.hop <= sound.window),
    ):  # fmt: skip
        if not right:
            raise InputError(what, where=where, given=given, expected=expected)
    if not mel_bands(sound, sound.transform).any(0).all():
        raise InputError(
            "some bands are narrower than any transform tells apart", where=where,
            given=f"{sound.mels} bands from {sound.low:g} to {sound.high:g} Hz", fix="use fewer bands",
        )  # fmt: skip


def _rate(rows: Rows, column: str) -> int:
    rows.column(column)
    rate = rows.rates.get(column, 0)
    if rate < 1:
        raise DataError(
            "how many samples make a second of these sounds is unknown", where=f"{rows.name}, {column}",
            fix="name the rate where the rows are made: Rows(…, rates={column: 16000})",
        )  # fmt: skip
    return rate


def _sounds(rows: Rows, column: str, *, rate: int | None = None, samples: int | None = None) -> NDArray[np.float32]:
    sounds = rows.column(column)
    where = f"{rows.name}, {column}"
    if sounds.ndim != 2 or sounds.dtype != np.float32:
        raise InputError(
            f"the column `{column}` holds no sounds", where=where, given=f"{sounds.dtype}, shape {sounds.shape}",
            expected="float32 of shape (N, samples), −1 … 1",
        )  # fmt: skip
    if not np.isfinite(sounds).all():
        raise DataError("sounds hold NaN or infinity", where=where, fix="mend or drop these rows")
    if samples is not None and sounds.shape[1] != samples:
        raise DataError(
            "sounds of another length than those learned from", where=where, given=f"{sounds.shape[1]:,} samples",
            expected=f"{samples:,} samples", fix="cut or pad them to the same length",
        )  # fmt: skip
    if rate is not None and rows.rates.get(column, rate) != rate:
        raise DataError(
            "sounds of another rate than those learned from", where=where, given=f"{rows.rates[column]:,} per second",
            expected=f"{rate:,} per second", fix="convert them first",
        )  # fmt: skip
    return sounds

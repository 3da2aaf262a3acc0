"""Folders of WAV files become rows: a sound of fixed length, the class whose folder it lay in, and who spoke.

Uncompressed files of 8, 16, 24 or 32 bits are read by Python's own reader; several channels become their mean. Nothing
is resampled: that is a choice, and it belongs to whoever made the files.
"""

from __future__ import annotations

import os
import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tutelage.data.examples import listed
from tutelage.data.folder import natural
from tutelage.data.images import UnusableError, absence, printable
from tutelage.data.rows import Rows
from tutelage.errors import DataError, InputError

__all__ = ["load_wavs"]

_MOST_SECONDS = 60.0
_MOST_CHANNELS = 64


def load_wavs(path: Path, *, seconds: float = 1.0) -> Rows:
    """The sounds in a folder that holds one folder of WAV files for each class.

    Args:
        path: the folder.
        seconds: how long every sound becomes: longer ones are cut behind, shorter ones get silence behind them.

    Returns:
        Columns `sound` (N, samples) float32 in −1 … 1, `label` the folder's name, `speaker` what a file's name has
        before its first "_", and `file`, its path within the folder, which is also the speaker of a name without one:
        as a group of its own.

    Raises:
        InputError: the length is out of range.
        DataError: what is wrong with the folder or its files, all counted and the first ten named.
    """
    if not 0.0 < seconds <= _MOST_SECONDS:
        raise InputError(
            "the length of sounds is out of range", where="seconds", given=f"{seconds:g}",
            expected=f"above 0, to {_MOST_SECONDS:g}",
        )  # fmt: skip
    files = _files(path)
    sounds: list[NDArray[np.float32]] = []
    rates: dict[int, int] = {}
    faults: list[str] = []
    for file in files:
        try:
            rate, sound = _read(file, seconds)
        except UnusableError as error:
            faults.append(f"{printable(file)}: {error}")
            continue
        rates[rate] = rates.get(rate, 0) + 1
        sounds.append(sound)
    if faults:
        raise DataError(
            f"{len(faults):,} of {len(files):,} files cannot be used as sounds",
            given=listed(faults, separator="\n            "), fix="mend or remove these files",
        )  # fmt: skip
    if len(rates) > 1:
        usual = sorted(rates, key=lambda rate: (-rates[rate], rate))
        raise DataError(
            f"the sounds have {len(rates)} different rates", where=printable(path),
            given=listed([f"{rate:,} per second ({rates[rate]:,} files)" for rate in usual]), expected="one rate",
            fix=f"convert all to {usual[0]:,} samples per second",
        )  # fmt: skip
    paths = [str(file.relative_to(path)) for file in files]
    spoke = [file.stem.split("_")[0] if "_" in file.stem else own for file, own in zip(files, paths, strict=True)]
    columns = {
        "sound": np.stack(sounds), "label": _texts([file.parent.name for file in files]),
        "speaker": _texts(spoke), "file": _texts(paths),
    }  # fmt: skip
    return Rows(path.name, columns, {"sound": next(iter(rates))})


def _files(path: Path) -> list[Path]:
    """All files, by class and name."""
    if not os.path.isdir(path):
        raise DataError(
            f"{printable(path)} {absence(path, 'folder')}", where="data.path",
            expected="a folder with one sub-folder of .wav files for each class",
        )  # fmt: skip
    found: list[Path] = []
    odd: list[str] = []
    empty: list[str] = []
    try:
        classes = [entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
        for folder in sorted(classes, key=lambda folder: natural(folder.name)):
            entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
            odd += [printable(entry) for entry in sorted(entries) if entry.suffix.lower() != ".wav" or entry.is_dir()]
            found += sorted(entries, key=lambda file: natural(file.name))
            empty += [printable(folder.name)] * (not entries)
    except OSError as error:
        raise DataError(f"cannot look into {printable(path)}: {error.strerror}", where="data.path") from error
    if odd:
        raise DataError(
            f"{len(odd):,} things in {printable(path)} are no .wav files",
            given=listed(odd, separator="\n            "), fix="convert them to WAV, or move them elsewhere",
        )  # fmt: skip
    if empty or len(classes) < 2:
        raise DataError(
            f"{printable(path)} lacks sounds", where="data.path",
            given=f"no files in {listed(empty)}" if empty else f"{len(classes)} folders of sounds",
            expected="at least two folders of .wav files, each named as its class",
        )  # fmt: skip
    return found


def _read(file: Path, seconds: float) -> tuple[int, NDArray[np.float32]]:
    """The rate of a file and its first seconds, mono, filled up with silence."""
    try:
        with file.open("rb") as raw, wave.open(raw) as sound:
            rate, width, channels, frames = (
                sound.getframerate(), sound.getsampwidth(), sound.getnchannels(), sound.getnframes(),
            )  # fmt: skip
            samples = round(seconds * rate)
            if not (1 <= channels <= _MOST_CHANNELS and 1 <= width <= 4 and 1 <= samples <= 2**24):
                raise UnusableError(f"{channels} channels of {8 * width} bits, {rate:,} per second: not read here")
            wanted = min(frames, samples)
            data = sound.readframes(wanted)
    except (wave.Error, EOFError) as error:
        # Python's reader knows whole numbers only; the name of what it does not know is a number from the file.
        reason = str(error) or "it ends too early"
        raise UnusableError(f"no uncompressed WAV file of whole numbers, or damaged: {reason}") from None
    except OSError as error:
        raise UnusableError(f"cannot be read: {error.strerror}") from None
    if frames == 0:
        raise UnusableError("no sound in it")
    if len(data) < wanted * width * channels:
        raise UnusableError("damaged: it is shorter than it says")
    mono = _numbers(data, width).reshape(-1, channels).mean(axis=1)
    whole = np.zeros(samples, dtype=np.float32)
    whole[: len(mono)] = mono
    return rate, whole


def _numbers(data: bytes, width: int) -> NDArray[np.float64]:
    """Samples of so many bytes as numbers in −1 … 1; those of one byte have their zero at 128."""
    if width == 1:
        return (np.frombuffer(data, dtype=np.uint8).astype(np.float64) - 128.0) / 128.0
    # Filled up from below to four bytes, the sign stays where it is.
    wide = np.zeros((len(data) // width, 4), dtype=np.uint8)
    wide[:, 4 - width :] = np.frombuffer(data, dtype=np.uint8).reshape(-1, width)
    return wide.reshape(-1).view("<i4").astype(np.float64) / 2.0**31


def _texts(values: list[str]) -> NDArray[np.object_]:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column

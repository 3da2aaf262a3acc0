"""Spoken digits, made on this machine by espeak-ng: ten words, a hundred voices, four accents; voices are held out.

Synthetic speech: cleaner than people's, and its voices differ less. Each clip has a speed and a pitch of its own, which
follow from its voice, accent and word, so that the same program makes the same clips.
"""

from __future__ import annotations

import hashlib
import io
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tutelage.data.rows import Rows
from tutelage.data.sets import packed
from tutelage.data.sets.protocol import Set
from tutelage.errors import DamagedError

__all__ = ["ACCENTS", "RATE", "SAMPLES", "SET", "WORDS", "fitted", "voices"]

RATE = 8000
SAMPLES = 8000
ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-029")
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

_QUIET = 0.01  # of full scale: what is below at both ends is cut off
_FEWEST = 20


def fetch(folder: Path, tell: Callable[[str], None]) -> None:
    """Let espeak-ng speak; about two minutes."""
    from tutelage.data.fetching import note
    from tutelage.data.sets.clients import call

    version = call(["espeak-ng", "--version"], folder=folder).decode("utf-8", "replace")
    note(folder, package="espeak-ng", version=version.split("Data at")[0].strip(), kind="made here by")
    spoken = voices(call(["espeak-ng", "--voices=variant"], folder=folder).decode("utf-8", "replace"))
    if len(spoken) < _FEWEST:
        raise DamagedError("espeak-ng has too few voices", given=f"{len(spoken)}", fix="apt-get install espeak-ng-data")
    sounds = []
    columns: dict[str, list[str]] = {name: [] for name in ("digit", "voice", "accent")}
    seen: set[bytes] = set()
    for number, voice in enumerate(spoken):
        if number % 10 == 0:
            tell(f"speaking: {number} of {len(spoken)} voices")
        for accent in ACCENTS:
            for digit, word in enumerate(WORDS):
                speed, pitch = _manner(voice, accent, word)
                words = ["espeak-ng", "-v", f"{accent}+{voice}", "-s", str(speed), "-p", str(pitch), "--stdout", word]
                sound = np.rint(fitted(*_samples(call(words, folder=folder, seconds=60))) * 32767.0).astype(np.int16)
                # A few voices differ in nothing that these words show; a copy in another voice would be no new one.
                if (key := sound.tobytes()) in seen:
                    continue
                seen.add(key)
                sounds.append(sound)
                for name, value in (("digit", str(digit)), ("voice", voice), ("accent", accent)):
                    columns[name].append(value)
    texts = {name: np.array(values, dtype=object) for name, values in columns.items()}
    packed.save(folder / "digits.npz", {"sound": np.stack(sounds), **texts})


def voices(listing: str) -> list[str]:
    """The names of voices that espeak-ng lists, as its `-v accent+NAME` takes them; each once, sorted."""
    found = set()
    for line in listing.splitlines()[1:]:
        file = line.partition("!v/")[2].partition("  ")[0].partition("(")[0].strip()
        if file:
            found.add(file)
    return sorted(found)


def _manner(voice: str, accent: str, word: str) -> tuple[int, int]:
    """Words a minute (130 … 209) and pitch (30 … 69) of one clip."""
    drawn = hashlib.sha256(f"{voice}/{accent}/{word}".encode()).digest()
    return 130 + drawn[0] % 80, 30 + drawn[1] % 40


def _samples(data: bytes) -> tuple[NDArray[np.float32], int]:
    """The samples of a WAV file of 16 bits, −1 … 1, and its rate."""
    try:
        # What comes through a pipe says a length of its own invention; the bytes that follow are all that counts.
        with wave.open(io.BytesIO(data)) as file:
            if (file.getsampwidth(), file.getnchannels()) != (2, 1):
                raise DamagedError("espeak-ng spoke in another format than 16 bits, one channel")
            rate, raw = file.getframerate(), file.readframes(len(data))
    except (wave.Error, EOFError) as error:
        raise DamagedError(f"espeak-ng wrote no WAV: {error}") from error
    return np.frombuffer(raw[: len(raw) // 2 * 2], dtype="<i2").astype(np.float32) / 32768.0, rate


def fitted(samples: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """A sound at `RATE` without the silence at its ends, cut or filled up with silence to `SAMPLES`."""
    from scipy.signal import resample_poly

    step = np.gcd(RATE, rate)
    slow = resample_poly(samples, RATE // step, rate // step).astype(np.float32)
    loud = np.flatnonzero(np.abs(slow) > _QUIET)
    made = np.zeros(SAMPLES, dtype=np.float32)
    if len(loud):
        kept = slow[loud[0] : loud[-1] + 1][:SAMPLES]
        made[: len(kept)] = kept
    return np.clip(made, -1.0, 1.0)


def read(folder: Path) -> Rows:
    """The rows of the file that `fetch` made."""
    columns = packed.load(folder / "digits.npz")
    sound = columns.pop("sound").astype(np.float32) / np.float32(32767.0)
    return Rows("digits-sound", {"sound": sound, **columns}, {"sound": RATE})


SET = Set(
    name="digits-sound",
    line="4,000 spoken digits in 100 synthetic voices and four accents, a second each at 8 kHz",
    licence="made on this machine; espeak-ng itself is GPL-3",
    carrier="Debian: espeak-ng, which has to be installed",
    megabytes=40,
    fetch=fetch,
    read=read,
    label="digit",
    group="voice",
    inputs={"s": {"sound": "sound"}},
)

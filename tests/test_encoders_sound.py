"""Sound as pictures of pitch: against a slow computation in float64, and files of every depth that is read."""

from __future__ import annotations

import json
import math
import struct
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tutelage.data.encoders.sound import fit_sound, fit_waveform, mel_bands, sound_of, waveform_of
from tutelage.data.examples import Examples
from tutelage.data.rows import Rows
from tutelage.data.sounds import load_wavs
from tutelage.errors import DamagedError, DataError, InputError


def sound_rows(count: int = 5, samples: int = 1600, rate: int = 8000, seed: int = 0) -> Rows:
    draw = np.random.default_rng(seed)
    times = np.arange(samples) / rate
    tones = [np.sin(2 * np.pi * draw.uniform(100, 3000) * times) * draw.uniform(0.01, 0.9) for _ in range(count)]
    noisy = np.stack(tones) + draw.normal(0, 0.003, (count, samples))
    return Rows("tones", {"sound": noisy.astype(np.float32)}, {"sound": rate})


def slow_log_mels(sound: np.ndarray, rate: int, mels: int, window: int, hop: int, length: int) -> np.ndarray:
    """By the formulas, one number at a time where that can be borne: no code in common with what is tested."""

    def hertz(mel: float) -> float:
        return 700 * (math.exp(mel / 1127.01048) - 1)

    top = 1127.01048 * math.log(1 + rate / 2 / 700)
    bottom = 1127.01048 * math.log(1 + 20 / 700)
    edges = [hertz(bottom + (top - bottom) * k / (mels + 1)) for k in range(mels + 2)]
    taper = np.array([0.5 - 0.5 * math.cos(2 * math.pi * n / window) for n in range(window)])
    bins = np.arange(length // 2 + 1)
    turning = np.exp(-2j * np.pi * np.outer(bins, np.arange(window)) / length)
    rows = []
    for start in range(0, len(sound) - window + 1, hop):
        power = np.abs(turning @ (sound[start : start + window].astype(np.float64) * taper)) ** 2 / (taper**2).sum()
        row = []
        for left, peak, right in zip(edges, edges[1:], edges[2:], strict=False):
            energy = 0.0
            for k in bins:
                f = k * rate / length
                if left < f <= peak:
                    energy += power[k] * 2 / (right - left) * (f - left) / (peak - left)
                elif peak < f < right:
                    energy += power[k] * 2 / (right - left) * (right - f) / (right - peak)
            row.append(math.log(max(energy, 1e-10)))
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize(("mels", "window", "hop"), [(40, 0.025, 0.010), (13, 0.02, 0.02)])
def test_log_mels_are_what_the_formulas_say(mels: int, window: float, hop: float) -> None:
    rows = sound_rows()
    how = fit_sound(rows, "sound", mels=mels, window=window, hop=hop)
    slow = np.stack([
        slow_log_mels(sound, 8000, mels, how.window, how.hop, how.transform) for sound in rows.columns["sound"]
    ])  # fmt: skip
    assert how.mean == pytest.approx(slow.mean(), abs=1e-4)
    assert how.std == pytest.approx(slow.std(), abs=1e-4)
    view = how.encode(rows)
    assert view.shape == (5, 1, 1 + (1600 - how.window) // how.hop, mels)
    # The weakest bands of a loud tone hold little but the rounding of float32.
    assert np.allclose(view[:, 0].numpy() * how.std + how.mean, slow, atol=5e-3)
    assert view.dtype == torch.float32


def test_rows_are_moments_and_columns_are_bands_from_low_to_high() -> None:
    times = np.arange(8000) / 8000
    climbing = np.where(times < 0.5, np.sin(2 * np.pi * 300 * times), np.sin(2 * np.pi * 2500 * times))
    rows = Rows("two tones", {"sound": climbing[None].astype(np.float32)}, {"sound": 8000})
    view = fit_sound(rows, "sound", mels=20).encode(rows)[0, 0]
    peaks = view.argmax(1)
    # By the scale's formula 300 Hz lies 2.7 bands above the lowest one's peak, 2500 Hz 15.7.
    assert set(peaks[:45].tolist()) == {3}
    assert set(peaks[-45:].tolist()) == {16}


def test_bands_have_an_area_of_one_and_none_is_empty() -> None:
    how = fit_sound(sound_rows(), "sound", mels=128)
    assert how.transform > 256  # 31 Hz from one frequency to the next would leave some without
    bands = mel_bands(how, how.transform)
    assert bands.any(0).all()
    wide = mel_bands(how, 2**16).sum(0) * how.rate / 2**16
    assert np.allclose(wide, 1.0, atol=1e-3)


def test_a_sound_has_the_same_bits_alone_in_company_and_after_json() -> None:
    rows = sound_rows(9)
    how = fit_sound(rows, "sound")
    view = how.encode(rows)
    made = sound_of(json.loads(json.dumps(how.facts())))
    assert made == how
    assert torch.equal(torch.cat([made.encode(rows.take([row])) for row in range(9)]), view)
    assert float(view.double().mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(view.double().std(correction=0)) == pytest.approx(1.0, abs=1e-5)


def test_silence_is_an_example_like_others() -> None:
    loud = sound_rows()
    how = fit_sound(loud, "sound")
    silent = Rows("silence", {"sound": np.zeros((1, 1600), dtype=np.float32)}, {"sound": 8000})
    both = torch.cat([how.encode(loud), how.encode(silent)])
    made = Examples.make(both, torch.tensor([0, 0, 0, 0, 0, 1]), ["tone", "silence"], "sounds")
    assert made.shape == (1, 18, 40)
    assert float(both.abs().max()) <= 10.0


def test_samples_themselves_are_a_view_too() -> None:
    rows = sound_rows()
    how = waveform_of(json.loads(json.dumps(fit_waveform(rows, "sound").facts())))
    assert torch.equal(how.encode(rows), torch.from_numpy(rows.columns["sound"]))
    assert (how.columns, how.vocabulary, how.rate) == (("sound",), 0, 8000)
    with pytest.raises(DataError, match="another length"):
        how.encode(sound_rows(samples=800))


def test_what_cannot_be_heard_is_said() -> None:
    rows = sound_rows()
    for given, said in (
        ({"mels": 1}, "`mels`"), ({"low": 4000.0}, "edges of the bands"), ({"high": 5000.0}, "`high`"),
        ({"mels": "many"}, "`mels`"), ({"window": True}, "`window`"), ({"hop": math.nan}, "`hop`"),
        ({"window": 0.3}, "longer than the sounds"), ({"hop": 0.0}, "`hop`"), ({"hop": 0.03}, "the hop"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            fit_sound(rows, "sound", **given)
    with pytest.raises(DataError, match="how many samples make a second"):
        fit_sound(Rows("t", rows.columns), "sound")
    with pytest.raises(InputError, match="holds no sounds"):
        fit_sound(Rows("t", {"sound": np.zeros((2, 9))}, {"sound": 8000}), "sound")
    with pytest.raises(DataError, match="all sounds are alike"):
        fit_sound(Rows("t", {"sound": np.zeros((2, 900), dtype=np.float32)}, {"sound": 8000}), "sound")
    how = fit_sound(rows, "sound")
    with pytest.raises(DataError, match="another rate"):
        how.encode(sound_rows(rate=16000))
    lost = rows.columns["sound"].copy()
    lost[1, 3] = np.nan
    with pytest.raises(DataError, match="NaN"):
        how.encode(Rows("t", {"sound": lost}, {"sound": 8000}))


@pytest.mark.parametrize(
    "harm",
    [{"std": 0.0}, {"mean": math.nan}, {"mels": 10**9}, {"window": 2**40}, {"rate": 0}, {"hop": None}, {"low": -1.0}],
    ids=["std", "mean", "mels", "window", "rate", "hop", "low"],
)
def test_damaged_facts_are_refused(harm: dict[str, Any]) -> None:
    facts = fit_sound(sound_rows(), "sound").facts()
    with pytest.raises(DamagedError):
        sound_of({**facts, **harm})


# ---- files -----------------------------------------------------------------------------------------------------------

WHOLE = [-100, -1, 0, 1, 50, 127]  # in steps of 1/128, so that every depth holds them exactly


def write(path: Path, values: list[list[int]], width: int = 2, rate: int = 8) -> Path:
    """A file whose channels hold these numbers, in steps of 1/128 of what there is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(len(values))
        sound.setsampwidth(width)
        sound.setframerate(rate)
        flat = [value for moment in zip(*values, strict=True) for value in moment]
        if width == 1:
            data = bytes(value + 128 for value in flat)
        else:
            data = b"".join((value << 8 * (width - 1)).to_bytes(width, "little", signed=True) for value in flat)
        sound.writeframes(data)
    return path


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_files_of_every_depth_hold_the_same_sound(tmp_path: Path, width: int) -> None:
    write(tmp_path / "no" / "anna_1.wav", [WHOLE], width)
    write(tmp_path / "yes" / "2.WAV", [WHOLE, [0] * 6], width)
    rows = load_wavs(tmp_path, seconds=1.0)
    assert rows.rates == {"sound": 8}
    assert rows.columns["sound"].dtype == np.float32
    expected = [value / 128 for value in WHOLE] + [0.0, 0.0]
    assert rows.columns["sound"].tolist() == [expected, [value / 2 for value in expected]]
    assert rows.columns["label"].tolist() == ["no", "yes"]
    assert rows.columns["speaker"].tolist() == ["anna", "yes/2.WAV"]
    assert rows.columns["file"].tolist() == ["no/anna_1.wav", "yes/2.WAV"]
    assert load_wavs(tmp_path, seconds=0.25).columns["sound"][0].tolist() == expected[:2]


def _whole(path: Path) -> bytes:
    return write(path, [WHOLE]).read_bytes()


def _cut(data: bytes) -> bytes:
    return data[:-4]


def _header(data: bytes) -> bytes:
    return data[:20]


def _floats(data: bytes) -> bytes:
    return data[:20] + struct.pack("<H", 3) + data[22:]


def _many_channels(data: bytes) -> bytes:
    return data[:22] + struct.pack("<H", 9000) + data[24:]


def _nothing(data: bytes) -> bytes:
    return b""


def _text(data: bytes) -> bytes:
    return b"RIFF of a guitar, and then nothing"


@pytest.mark.parametrize("harm", [_cut, _header, _floats, _many_channels, _nothing, _text])
def test_damaged_files_are_named(tmp_path: Path, harm: Callable[[bytes], bytes]) -> None:
    good = _whole(tmp_path / "a" / "good.wav")
    write(tmp_path / "b" / "good.wav", [WHOLE])
    (tmp_path / "b" / "bad.wav").write_bytes(harm(good))
    with pytest.raises(DataError, match=r"1 of 3 files(.|\n)*bad\.wav: "):
        load_wavs(tmp_path)


def test_every_cut_of_a_file_is_damage_or_the_same_sound(tmp_path: Path) -> None:
    good = _whole(tmp_path / "a" / "x.wav")
    write(tmp_path / "b" / "x.wav", [WHOLE])
    for length in range(len(good)):
        (tmp_path / "b" / "x.wav").write_bytes(good[:length])
        with pytest.raises(DataError):
            load_wavs(tmp_path)


def test_folders_that_hold_no_classes_of_sounds_are_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load_wavs(tmp_path / "nowhere")
    write(tmp_path / "a" / "x.wav", [WHOLE])
    with pytest.raises(DataError, match="lacks sounds"):
        load_wavs(tmp_path)
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match="no files in b"):
        load_wavs(tmp_path)
    write(tmp_path / "b" / "x.wav", [WHOLE], rate=16)
    with pytest.raises(DataError, match="2 different rates"):
        load_wavs(tmp_path)
    (tmp_path / "b" / "notes.txt").write_text("loud")
    with pytest.raises(DataError, match=r"no \.wav files"):
        load_wavs(tmp_path)
    with pytest.raises(InputError, match="the length of sounds"):
        load_wavs(tmp_path, seconds=0.0)

"""Every bad input to a source ends in an error of this package, with its exit code and words that say what to mend."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tutelage.data import Batches, Examples, Splits, Views, from_arrays, load, plain_batches
from tutelage.errors import DamagedError, DataError, InputError, TutelageError

RNG = np.random.default_rng(7)
LABELS = np.arange(40) % 4
IMAGES = RNG.integers(0, 256, (40, 1, 6, 5), dtype=np.uint8)
FEATURES = RNG.random((40, 7)).astype(np.float32)


# ---- folders ---------------------------------------------------------------------------------------------------------


def picture(path: Path, number: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (5, 6, 3), dtype=np.uint8)).save(path)
    return path


def sound(root: Path, classes: str = "ab", *, first: int = 0, count: int = 5) -> Path:
    for label, name in enumerate(classes):
        for n in range(count):
            picture(root / name / f"{n}.png", first + 100 * label + n)
    return root


def bomb(path: Path) -> None:
    """A PNG of some hundred bytes whose header promises 30,000 × 30,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b""))


def _truncated(root: Path) -> None:
    path = picture(root / "a" / "x.png", 9)
    path.write_bytes(path.read_bytes()[:-30])


def _split(root: Path, *, val: str = "ab", copies: int = 0) -> None:
    sound(root / "train")
    sound(root / "val", val, first=1000)
    for n in range(copies):
        picture(root / "val" / "b" / f"copy{n}.png", 100 + n)


FOLDERS: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "missing": (lambda root: root.rmdir(), ["does not exist (data.path)", "one sub-folder of images for each class"]),
    "empty": (lambda root: None, ["holds no class folders", "at least two folders"]),
    "one class": (lambda root: sound(root, "a"), ["holds a single class", "only a"]),
    "empty class": (lambda root: (sound(root) / "cat").mkdir(), ["1 class folder in", "hold no images", "cat"]),
    "empty class of a part": (
        lambda root: (_split(root, val="a"), (root / "val" / "b").mkdir()),
        ["1 class folder in", "val/b"],
    ),
    "class sets": (lambda root: _split(root, val="ac"), ["only in val: c; only in train: b"]),
    "copies in two parts": (lambda root: _split(root, copies=3), ["stand in two parts", "3 of val in train"]),
    "empty file": (lambda root: (sound(root) / "a" / "x.png").write_bytes(b""), ["a/x.png: an empty file"]),
    "truncated file": (lambda root: _truncated(sound(root)), ["a/x.png: damaged"]),
    "text": (lambda root: (sound(root) / "a" / "x.jpg").write_text("hello"), ["a/x.jpg: not an image"]),
    "heic": (lambda root: (sound(root) / "a" / "x.heic").write_bytes(b"\0"), ["x.heic: the suffix of no image kind"]),
    "bomb": (lambda root: bomb(sound(root) / "a" / "x.png"), ["a/x.png: more than 64,000,000 pixels"]),
    "dead link": (lambda root: (sound(root) / "a" / "x.png").symlink_to("gone"), ["a/x.png: a link to nothing"]),
    "link in a circle": (lambda root: (sound(root) / "a" / "x.png").symlink_to("x.png"), ["a link in a circle"]),
    "folder in a circle": (
        lambda root: (sound(root) / "a" / "up").symlink_to(root),
        ["a folder within a class folder"],
    ),
    "too few": (lambda root: sound(root, count=2), ["4 examples are too few for 2 classes", "at least 6"]),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_faulty_folders(tmp_path: Path, name: str) -> None:
    spoil, fragments = FOLDERS[name]
    root = tmp_path / "set"
    root.mkdir()
    spoil(root)
    with pytest.raises(DataError) as caught:
        load("folder", path=root)
    assert caught.value.exit_code == 3
    for fragment in fragments:
        assert fragment in str(caught.value)


def test_a_bomb_costs_no_more_than_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound(tmp_path)
    bomb(tmp_path / "a" / "x.png")
    decoded: list[tuple[int, int]] = []
    real = Image.Image.load
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # without Pillow's own limit, ours still stands
    monkeypatch.setattr(Image.Image, "load", lambda self: (decoded.append(self.size), real(self))[1])
    with pytest.raises(DataError, match="30,000×30,000: more than 64,000,000 pixels"):
        load("folder", path=tmp_path)
    assert (30_000, 30_000) not in decoded


@pytest.mark.parametrize("what", ["a/0.png", "a", "."])
def test_what_may_not_be_read(tmp_path: Path, what: str) -> None:
    path = sound(tmp_path / "set") / what
    mode = path.stat().st_mode
    path.chmod(0)
    try:
        if os.access(path, os.R_OK):
            pytest.skip("this user may read everything")
        with pytest.raises(DataError, match="Permission denied"):
            load("folder", path=tmp_path / "set")
    finally:
        path.chmod(mode)


@pytest.mark.parametrize("source", ["folder", "arrays", "fashion-mnist"])
@pytest.mark.parametrize(
    ("path", "kind", "code", "said"),
    [
        ("x" * 5000, DataError, 3, "cannot be reached: File name too long|no such folder"),
        ("a\0b", DataError, 3, r"a\\x00b (does not exist|\(no such folder)"),
        ("~nobody-of-this-name/x", InputError, 2, "no home folder is known for ~nobody-of-this-name/x"),
        ("/dev/null", DataError, 3, r"is not a (file|folder)|no such folder"),
    ],
    ids=["long", "zero byte", "home", "device"],
)
def test_odd_paths(source: str, path: str, kind: type[TutelageError], code: int, said: str) -> None:
    with pytest.raises(kind, match=said) as caught:
        load(source, path=path)
    assert caught.value.exit_code == code


def test_a_path_may_be_text(tmp_path: Path) -> None:
    sound(tmp_path)
    assert load("folder", path=str(tmp_path)).fingerprint == load("folder", path=tmp_path).fingerprint


def test_a_home_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_DATA", "~nobody-of-this-name")
    with pytest.raises(InputError, match=r"no home folder is known .* \(TUTELAGE_DATA\)"):
        load("fashion-mnist")


def test_a_picture_turned_by_exif_is_the_upright_picture(tmp_path: Path) -> None:
    sound(tmp_path / "one")
    sound(tmp_path / "two")
    upright = np.asarray(Image.open(tmp_path / "one" / "a" / "0.png"))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(upright)).save(tmp_path / "two" / "a" / "0.png", exif=exif)
    assert load("folder", path=tmp_path / "one").fingerprint == load("folder", path=tmp_path / "two").fingerprint


def test_a_palette_is_the_colours_it_stands_for(tmp_path: Path) -> None:
    sound(tmp_path / "one")
    sound(tmp_path / "two")
    flat = Image.fromarray(np.array([[[250, 0, 0], [0, 0, 250]] * 3] * 5, dtype=np.uint8))
    flat.save(tmp_path / "one" / "a" / "0.png")
    flat.quantize(2).save(tmp_path / "two" / "a" / "0.gif")
    (tmp_path / "two" / "a" / "0.png").unlink()
    assert load("folder", path=tmp_path / "one").fingerprint == load("folder", path=tmp_path / "two").fingerprint


# ---- arrays ----------------------------------------------------------------------------------------------------------


class Canary:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def objects(path: Path) -> np.ndarray:
    made = np.empty(40, dtype=object)
    made[:] = [Canary(path)] * 40
    return made


def test_an_npz_of_objects_runs_nothing(tmp_path: Path) -> None:
    for key in ("x", "y"):
        arrays = {"x": FEATURES, "y": LABELS} | {key: objects(tmp_path / "canary")}
        np.savez(tmp_path / "set.npz", **arrays)
        with pytest.raises(DataError, match=f"{key} in .*set.npz holds Python objects, which could run code") as caught:
            load("arrays", path=tmp_path / "set.npz")
        assert caught.value.exit_code == 3
    assert not (tmp_path / "canary").exists()
    # The canary does sing where it is let: the test would notice.
    np.load(tmp_path / "set.npz", allow_pickle=True)["y"]
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("kept", [0, 1, 30, 0.5, 0.99])
def test_a_truncated_npz(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "set.npz"
    np.savez(path, x=FEATURES, y=LABELS)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if 0 < kept < 1 else int(kept)])
    with pytest.raises(DamagedError, match=r"set.npz is not a whole \.npz file(.|\n)*hint: save or copy it") as caught:
        load("arrays", path=path)
    assert caught.value.exit_code == 5


def _with(array: np.ndarray, places: list[int], value: float) -> np.ndarray:
    spoiled = array.copy()
    spoiled[places, 2] = value
    return spoiled


ARRAYS: dict[str, tuple[Any, Any, dict[str, Any], str]] = {
    "NaN": (_with(FEATURES, [3, 17], np.nan), LABELS, {}, "2 of 40 examples hold NaN or infinity .*\n.* rows 3, 17 "),
    "infinity": (_with(FEATURES, [5], np.inf), LABELS, {}, "1 of 40 examples .*\n.* row 5 "),
    "unscaled": (IMAGES.astype(np.float32), LABELS, {}, r"look unscaled: max 25\d"),
    "NaN label": (FEATURES, np.where(LABELS == 1, np.nan, LABELS), {}, "not one integer for each example"),
    "NaN among names": (FEATURES, ["cat", "dog", "cat", float("nan")] * 10, {}, "10 of 40 labels .*\n.*nan in row 3,"),
    "number among names": (FEATURES, ("cat", 5) * 20, {}, "20 of 40 labels are not names, while .*\n.*5 in row 1,"),
    "none among names": (FEATURES, ["cat", None] * 20, {}, "20 of 40 labels are not names"),
    "label gap": (FEATURES, LABELS * 2, {}, r"not numbered 0 … C − 1 .*\n.* 0, 2, 4, 6\n"),
    "label below": (FEATURES, LABELS - 1, {}, "not numbered 0 … C − 1"),
    "label beyond": (FEATURES, LABELS, {"classes": ["a", "b", "c"]}, "0 … 2 for 3 classes"),
    "one class": (FEATURES, LABELS * 0, {}, "at least two classes"),
    "lengths": (FEATURES, LABELS[:30], {}, "40 inputs, 30 labels"),
    "too few": (FEATURES[:8], LABELS[:8], {}, "8 examples are too few for 4 classes"),
    "ragged": ([[1.0], [1.0, 2.0]] * 20, LABELS, {}, "x is not one array: its rows differ in length"),
    "class numbers": (FEATURES, LABELS, {"classes": [0, 1, 2, 3]}, "classes are not a list of names"),
    "class text": (FEATURES, LABELS, {"classes": "abcd"}, "classes are not a list of names .*\n.*'abcd'"),
    "sparse": (torch.eye(40).to_sparse(), LABELS, {}, "x is not a plain tensor\n.*torch.sparse_coo"),
    "meta": (torch.empty(40, 7, device="meta"), LABELS, {}, "x is not a plain tensor\n.* on meta"),
    "masked": (np.ma.masked_less(FEATURES, 0.1), LABELS, {}, r"x has masked values.*\n  given     \d+ of 280 masked"),
    "masked labels": (FEATURES, np.ma.masked_equal(LABELS, 2), {}, "y has masked values.*\n.*10 of 40 masked"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_faulty_arrays(name: str) -> None:
    x, y, options, said = ARRAYS[name]
    with pytest.raises(DataError, match=said) as caught:
        from_arrays(x, y, val=0.2, test=0.2, **options)
    assert caught.value.exit_code == 3


def test_a_mask_that_hides_nothing_does_no_harm() -> None:
    plain = from_arrays(FEATURES, LABELS, val=0.2, test=0.2)
    assert from_arrays(np.ma.masked_invalid(FEATURES), LABELS, val=0.2, test=0.2).fingerprint == plain.fingerprint


def test_a_lazy_conjugate_is_refused_as_complex_numbers_are() -> None:
    with pytest.raises(DataError, match="dtype complex64"):
        from_arrays(torch.rand(40, 3, dtype=torch.complex64).conj(), LABELS, val=0.2, test=0.2)


@pytest.mark.parametrize("shape", [(40, 2, 6, 5), (40, 4, 6, 5), (40, 5, 6, 5), (40, 7), (40,), (40, 1, 0, 5)])
@pytest.mark.parametrize("asked", [{"channels": 3}, {"channels": 1}, {"image_size": 4}])
def test_only_grey_and_rgb_are_scaled_or_recoloured(
    tmp_path: Path, shape: tuple[int, ...], asked: dict[str, int]
) -> None:
    np.savez(tmp_path / "set.npz", x=RNG.integers(0, 256, shape, dtype=np.uint8), y=LABELS)
    with pytest.raises(DataError, match=r"only grey or RGB images can be scaled or recoloured\n  given     images of"):
        load("arrays", path=tmp_path / "set.npz", **asked)


def test_other_channels_are_kept_as_they_are(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", x=RNG.integers(0, 256, (40, 4, 6, 5), dtype=np.uint8), y=LABELS)
    assert load("arrays", path=tmp_path / "set.npz").train.shape == (4, 6, 5)


# ---- Fashion-MNIST ---------------------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


FASHION: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated": (lambda data: data[:-40], "damaged: Compressed file ended"),
    "bit flip": (lambda data: data[:-6] + bytes([data[-6] ^ 1]) + data[-5:], "damaged: CRC check failed"),
    "wrong magic": (lambda data: gzip.compress(b"\0\0\x0d\x03" + gzip.decompress(data)[4:]), "not an IDX file"),
    "a web page": (lambda data: b"<!DOCTYPE html>", "it begins with 3c 21 44 4f"),
    "short inside": (lambda data: gzip.compress(gzip.decompress(data)[:-1]), "is truncated\n  given     2,399 bytes"),
    "empty": (lambda data: b"", "it begins with nothing"),
    "bomb": (
        lambda data: gzip.compress(b"\0\0\x08\x03" + struct.pack(">3I", 2**31, 2**10, 2**10)),
        "promises .* TiB|promises 2,048",
    ),
}


@pytest.mark.parametrize("name", FASHION)
def test_faulty_fashion_files(tmp_path: Path, name: str) -> None:
    spoil, said = FASHION[name]
    for prefix in ("train", "t10k"):
        images = RNG.integers(0, 256, (80, 6, 5), dtype=np.uint8)
        (tmp_path / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (tmp_path / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(
            gzip.compress(idx(np.arange(80, dtype=np.uint8) % 10))
        )
    assert isinstance(load("fashion-mnist", path=tmp_path), Splits)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DamagedError, match=said) as caught:
        load("fashion-mnist", path=tmp_path)
    assert caught.value.exit_code == 5
    assert path.name in str(caught.value)


# ---- names, values, and what is handed out ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: load("digit"), r"no data source `digit` \(data.source\)\nhint: did you mean `digits`\?"),
        (lambda: load("cifar"), "hint: known names: arrays, debian, debian-questions, diamonds, digits"),
        (lambda: load("folder"), "the source `folder` needs a path"),
        (lambda: load("arrays"), "the source `arrays` needs a path"),
        (lambda: load("digits", image_size=2.5), "image size is out of range"),  # type: ignore[arg-type]
        (lambda: load("digits", val=0.6, test=0.4), "leave no three parts"),
        (lambda: next(plain_batches(examples(), 2.5)), "batch size is out of range"),  # type: ignore[arg-type]
        (lambda: Batches(examples(), batch_size=2.5, views=Views(), seed=0), "a whole number ≥ 2"),  # type: ignore[arg-type]
    ],
)
def test_faulty_values(call: Callable[[], object], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        call()
    assert caught.value.exit_code == 2


def examples() -> Examples:
    return Examples.make(torch.from_numpy(FEATURES), torch.from_numpy(LABELS), list("abcd"), "set")


def test_a_set_smaller_than_a_batch_is_one_batch_and_one_example_is_none() -> None:
    assert [len(batch) for batch in Batches(examples(), batch_size=512, views=Views(), seed=0).epoch(0)] == [40]
    with pytest.raises(DataError, match="nothing to learn from"):
        Batches(examples().take(torch.tensor([3])), batch_size=512, views=Views(), seed=0)


def test_a_model_that_works_in_place_spoils_no_examples() -> None:
    made = examples()
    before = made.fingerprint, made.inputs.clone()
    for batch in [*plain_batches(made, 16), *Batches(made, batch_size=16, views=Views(), seed=0).epoch(0)]:
        for part in (batch.inputs["x"], batch.target, batch.ids):
            part.zero_()
    assert made.fingerprint == before[0]
    assert torch.equal(made.inputs, before[1])


def test_more_examples_leave_the_rank_of_the_others() -> None:
    # Shares are rounded anew, so some cross over; but of those that were there, the parts keep the same first ones.
    few, many = FEATURES[:, :1], np.concatenate([FEATURES[:, :1], RNG.random((40, 1)).astype(np.float32) + 2])
    small = from_arrays(few, LABELS, val=0.2, test=0.2).test
    large = from_arrays(many, np.concatenate([LABELS, LABELS]), val=0.2, test=0.2).test
    for label in range(4):
        old = set(small.inputs[small.targets == label].flatten().tolist())
        kept = {value for value in large.inputs[large.targets == label].flatten().tolist() if value < 2}
        assert old <= kept or kept <= old

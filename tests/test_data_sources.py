"""Sources by name: the embedded digits, Fashion-MNIST from its four files, and the questions asked of every source."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tutelage.data import SOURCES, load
from tutelage.data.idx import read_idx
from tutelage.data.sets import SETS
from tutelage.errors import DamagedError, DataError, InputError

REAL = Path("/usr/share/datasets/fashion-mnist")


def idx(array: np.ndarray, *, kind: int = 8) -> bytes:
    """The bytes of an IDX file."""
    return bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def fashion(tmp_path: Path) -> Path:
    """A small set in the format of Fashion-MNIST: 80 and 30 images of 6×5, ten classes."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "set"
    folder.mkdir()
    for prefix, count in (("train", 80), ("t10k", 30)):
        images = rng.integers(0, 256, (count, 6, 5), dtype=np.uint8)
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images), mtime=0))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(np.arange(count, dtype=np.uint8) % 10))
    return folder


# ---- names and values ------------------------------------------------------------------------------------------------


def test_every_source_has_its_line() -> None:
    assert list(SOURCES) == ["arrays", "digits", "fashion-mnist", "folder", "rows", "sounds", *SETS]
    assert all(len(line) > 20 for line in SOURCES.values())


def test_an_unknown_source_gets_the_nearest_name() -> None:
    with pytest.raises(InputError, match=r"no data source `fashion_mnist` \(data.source\)\nhint: did you mean `fash"):
        load("fashion_mnist")


@pytest.mark.parametrize("source", ["folder", "arrays"])
def test_a_source_of_files_needs_a_path(source: str) -> None:
    with pytest.raises(InputError, match=f"the source `{source}` needs a path"):
        load(source)


def test_values_out_of_range() -> None:
    with pytest.raises(InputError, match="image size is out of range"):
        load("digits", image_size=0)
    with pytest.raises(InputError, match="no such number of channels"):
        load("digits", channels=2)
    with pytest.raises(InputError, match="leave no three parts"):
        load("digits", val=0.5, test=0.5)
    with pytest.raises(InputError, match="reads no path"):
        load("digits", path=Path("here"))


# ---- digits ----------------------------------------------------------------------------------------------------------


def test_digits() -> None:
    splits = load("digits", val=0.1, test=0.2)
    parts = (splits.train, splits.val, splits.test)
    assert sum(map(len, parts)) == 1797
    assert [round(len(part) / 1797, 2) for part in parts] == [0.7, 0.1, 0.2]
    assert splits.train.classes == tuple("0123456789")
    assert splits.train.shape == (1, 8, 8)
    assert splits.train.inputs.dtype == torch.uint8
    # 0 … 16 lies evenly in 0 … 255, so the sixteen shades can be had back.
    shades = splits.train.inputs.unique().double()
    assert torch.equal((shades * 16 / 255).round(), torch.arange(17).double())
    assert splits.fingerprint == load("digits", val=0.1, test=0.2).fingerprint


def test_digits_larger_and_in_colour() -> None:
    splits = load("digits", val=0.1, test=0.2, image_size=12, channels=3)
    assert splits.train.shape == (3, 12, 12)
    assert torch.equal(splits.train.inputs[:, 0], splits.train.inputs[:, 2])
    mean = load("digits", val=0.1, test=0.2).train.inputs.float().mean()
    assert float(splits.train.inputs.float().mean()) == pytest.approx(float(mean), rel=0.05)


# ---- Fashion-MNIST ---------------------------------------------------------------------------------------------------


def test_fashion_from_four_files(fashion: Path) -> None:
    splits = load("fashion-mnist", path=fashion, val=0.25)
    assert [len(p) for p in (splits.train, splits.val, splits.test)] == [60, 20, 30]
    assert splits.train.shape == (1, 6, 5)
    assert splits.test.classes[0] == "T-shirt/top"
    assert splits.test.classes[9] == "Ankle boot"
    images = read_idx(fashion / "t10k-images-idx3-ubyte.gz", 3)
    assert sorted(splits.test.inputs.flatten(1).tolist()) == sorted(images.flatten(1).tolist())


def test_fashion_keeps_published_copies(fashion: Path) -> None:
    from tutelage.data import leaks

    images = read_idx(fashion / "train-images-idx3-ubyte.gz", 3).numpy()[:30]
    (fashion / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images), mtime=0))
    splits = load("fashion-mnist", path=fashion)
    assert len(splits.test) == 30
    assert leaks(splits)["test in train"] + len(set(splits.test.ids.tolist()) & set(splits.val.ids.tolist())) == 30


def test_fashion_is_looked_for(fashion: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUTELAGE_DATA", str(fashion))
    assert load("fashion-mnist").train.shape == (1, 6, 5)
    fashion.rename(tmp_path / "fashion-mnist")
    monkeypatch.setenv("TUTELAGE_DATA", str(tmp_path))
    assert load("fashion-mnist").train.shape == (1, 6, 5)


def test_fashion_missing_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such folder(.|\n)*apt-get install dataset-fashion-mnist"):
        load("fashion-mnist", path=tmp_path / "nowhere")


def test_fashion_incomplete_names_what_is_missing(fashion: Path) -> None:
    (fashion / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"set \(without t10k-labels-idx1-ubyte\)"):
        load("fashion-mnist", path=fashion)


def test_fashion_with_a_label_of_no_class(fashion: Path) -> None:
    labels = np.arange(80, dtype=np.uint8) % 10
    labels[:3] = 17
    (fashion / "train-labels-idx1-ubyte").write_bytes(idx(labels))
    with pytest.raises(DamagedError, match="3 of 80, up to 17"):
        load("fashion-mnist", path=fashion)


def test_fashion_with_too_few_labels(fashion: Path) -> None:
    (fashion / "train-labels-idx1-ubyte").write_bytes(idx(np.arange(70, dtype=np.uint8) % 10))
    with pytest.raises(DataError, match="80 inputs, 70 labels"):
        load("fashion-mnist", path=fashion)


def test_fashion_with_images_and_labels_swapped(fashion: Path) -> None:
    (fashion / "train-labels-idx1-ubyte").write_bytes(
        gzip.decompress((fashion / "train-images-idx3-ubyte.gz").read_bytes())
    )
    with pytest.raises(DamagedError, match="not an IDX file of bytes in 1 dimension\n"):
        load("fashion-mnist", path=fashion)


@pytest.mark.skipif(not REAL.is_dir(), reason="the Debian package dataset-fashion-mnist is not installed")
def test_the_real_fashion_mnist() -> None:
    splits = load("fashion-mnist", path=REAL, val=0.1)
    assert [len(p) for p in (splits.train, splits.val, splits.test)] == [54000, 6000, 10000]
    assert splits.train.shape == (1, 28, 28)
    assert torch.bincount(splits.test.targets).tolist() == [1000] * 10
    assert torch.bincount(splits.val.targets).tolist() == [600] * 10
    # Published mean of the training images: 0.2860.
    whole = torch.cat([splits.train.inputs, splits.val.inputs])
    assert float(whole.double().mean() / 255) == pytest.approx(0.2860, abs=1e-4)


# ---- IDX files -------------------------------------------------------------------------------------------------------

ARRAY = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("name", ["file", "file.gz"])
def test_idx_is_read_by_its_bytes(tmp_path: Path, pack: Callable[[bytes], bytes], name: str) -> None:
    (tmp_path / name).write_bytes(pack(idx(ARRAY)))
    assert np.array_equal(read_idx(tmp_path / name, 3).numpy(), ARRAY)


def _flip(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "begins with nothing"),
        (idx(ARRAY)[:9], "ends within its header"),
        (idx(ARRAY)[:-1], "is truncated\n  given     23 bytes of data\n  expected  24"),
        (idx(ARRAY) + b"\0", "goes on after its data"),
        (idx(ARRAY, kind=0x0D), "begins with 00 00 0d 03\n  expected  00 00 08 03"),
        (b"<!DOCTYPE html><html>", "begins with 3c 21 44 4f"),
        (bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**31, 2**31, 9), "promises .* TiB"),
        (gzip.compress(idx(ARRAY), mtime=0)[:-9], "is damaged: Compressed file ended"),
        (_flip(gzip.compress(idx(ARRAY), mtime=0), 20), "is damaged"),
        (_flip(gzip.compress(idx(ARRAY), mtime=0), -6), "is damaged: CRC check failed"),
    ],
)
def test_damaged_idx(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(DamagedError, match=said):
        read_idx(path, 3)


@pytest.mark.parametrize("cut", range(0, 60, 3))
def test_a_torn_gzip_never_passes(tmp_path: Path, cut: int) -> None:
    whole = gzip.compress(idx(ARRAY), mtime=0)
    path = tmp_path / "file"
    path.write_bytes(whole[: min(cut, len(whole) - 1)])
    with pytest.raises(DamagedError):
        read_idx(path, 3)


def test_an_idx_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*: Is a directory"):
        read_idx(tmp_path, 3)


def test_an_empty_idx_array(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(idx(np.zeros((0, 3, 4), dtype=np.uint8)))
    assert read_idx(path, 3).shape == (0, 3, 4)

"""Arrays: what numbers mean is settled by their shape and kind, and a file cannot run code or fill the memory."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tutelage.data import Splits, from_arrays, load
from tutelage.errors import DamagedError, DataError, InputError

RNG = np.random.default_rng(0)
LABELS = np.arange(40) % 4


def bytes_(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def make(x: Any, y: Any = LABELS, **options: Any) -> Splits:
    return from_arrays(x, y, **({"val": 0.2, "test": 0.2} | options))


def everything(splits: Splits) -> torch.Tensor:
    return torch.cat([part.inputs for part in (splits.train, splits.val, splits.test)])


# ---- what numbers mean -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "shape", "dtype"),
    [
        (bytes_(40, 6, 5), (1, 6, 5), torch.uint8),
        (bytes_(40, 3, 6, 5), (3, 6, 5), torch.uint8),
        (bytes_(40, 6, 5, 3), (3, 6, 5), torch.uint8),
        (bytes_(40, 6, 5, 1), (1, 6, 5), torch.uint8),
        (bytes_(40, 6, 5).astype(np.int64), (1, 6, 5), torch.uint8),
        (RNG.random((40, 6, 5, 3)), (3, 6, 5), torch.float32),
        (RNG.random((40, 7)), (7,), torch.float32),
        (RNG.random((40, 7)).astype(np.float16), (7,), torch.float32),
        (RNG.random((40, 9, 7)), (9, 7), torch.float32),
        (RNG.integers(-1000, 1000, (40, 7)), (7,), torch.float32),
        (RNG.integers(0, 2, (40, 7)).astype(bool), (7,), torch.float32),
        (torch.rand(40, 7, dtype=torch.bfloat16), (7,), torch.float32),
        (torch.rand(40, 7, requires_grad=True), (7,), torch.float32),
        (RNG.random((40, 7)).tolist(), (7,), torch.float32),
    ],
)
def test_kinds_of_inputs(x: Any, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    splits = make(x)
    assert splits.train.shape == shape
    assert splits.train.inputs.dtype == dtype
    assert splits.train.is_image == (len(shape) == 3)


def test_channels_last_is_the_same_set_as_channels_first() -> None:
    x = bytes_(40, 6, 5, 3)
    assert make(x).fingerprint == make(x.transpose(0, 3, 1, 2)).fingerprint


def test_the_callers_arrays_stay_their_own() -> None:
    x = RNG.random((40, 7)).astype(np.float32)
    splits = make(x)
    before = everything(splits).clone()
    x[:] = 0
    assert torch.equal(everything(splits), before)


@pytest.mark.parametrize(
    "y",
    [LABELS, LABELS.astype(np.uint8), LABELS.tolist(), torch.from_numpy(LABELS), np.array(LABELS, dtype=">i4")],
)
def test_kinds_of_labels(y: Any) -> None:
    splits = make(RNG.random((40, 7)), y)
    assert splits.train.classes == ("0", "1", "2", "3")
    assert splits.train.targets.dtype == torch.int64


def test_labels_may_be_names() -> None:
    names = np.array(["class 10", "class 2"])[np.arange(40) % 2]
    for y in (names, names.astype(object), names.tolist()):
        splits = make(np.arange(40.0)[:, None], y)
        assert splits.train.classes == ("class 2", "class 10")
        for part in (splits.train, splits.val, splits.test):
            assert torch.equal(part.targets, 1 - part.inputs.flatten().long() % 2)


def test_given_classes_fix_the_order() -> None:
    y = np.array(["b", "a"])[np.arange(40) % 2]
    assert make(RNG.random((40, 7)), y, classes=["b", "a"]).train.classes == ("b", "a")
    assert make(RNG.random((40, 7)), LABELS, classes=["w", "x", "y", "z"], name="set").train.name == "set"


@pytest.mark.parametrize(
    ("x", "y", "options", "said"),
    [
        (RNG.random((40, 7)), LABELS[:39], {}, "40 inputs, 39 labels"),
        (RNG.random((40, 7)), LABELS + 1, {}, r"not numbered 0 … C − 1 .*\n  given     4 labels: 1, 2, 3, 4\n"),
        (RNG.random((40, 7)), LABELS - 1, {}, "labels: -1, 0, 1, 2"),
        (RNG.random((40, 7)), LABELS * 10, {}, "0, 10, 20, 30\n  expected  0 … 3\nhint: names, y = np.unique"),
        (RNG.random((40, 7)), LABELS, {"classes": ["a", "b", "c"]}, "expected  0 … 2 for 3 classes"),
        (RNG.random((40, 7)), LABELS, {"classes": ["a", "b", "c", "a"]}, "more than once: a"),
        (RNG.random((40, 7)), LABELS, {"classes": list("abcde")}, "has no example of 1 of 5 classes"),
        (RNG.random((40, 7)), ["a", "b"] * 20, {"classes": ["a", "c"]}, "unknown classes .*\n  given     b"),
        (RNG.random((40, 7)), LABELS.astype(float), {}, r"dtype float64, shape \(40,\)(.|\n)*y.astype"),
        (RNG.random((40, 7)), np.eye(40, dtype=int), {}, r"shape \(40, 40\)"),
        (RNG.random((40, 7)), LABELS[:, None], {}, "y.ravel"),
        (RNG.random((40, 7)), LABELS > 1, {}, "dtype bool"),
        (RNG.random((40, 7)), np.zeros(40, dtype=int), {}, "at least two classes .*\n  given     0"),
        (RNG.random((0, 7)), [], {}, "labels .y. are not one integer|there are no labels"),
        (RNG.random((11, 7)), LABELS[:11], {}, "11 examples are too few for 4 classes"),
        ([[1.0, 2.0], [3.0]] * 20, LABELS, {}, "x is not one array: its rows differ in length"),
        (RNG.random((40, 7)).astype(object), LABELS, {}, "inputs are not numbers .*\n  given     dtype object"),
        (RNG.random((40, 7)).astype(str), LABELS, {}, "inputs are not numbers"),
        (RNG.random((40, 7)) + 1j, LABELS, {}, "dtype complex128"),
        (bytes_(40, 7), LABELS, {}, "bytes that are not images"),
        (bytes_(40, 6, 5).astype(int) * 9, LABELS, {}, "shape of images, but not in 0 … 255"),
        (bytes_(40, 1, 6, 5).astype(float), LABELS, {}, "look unscaled: max 255"),
        (np.full((40, 2), 1e300), LABELS, {}, "40 of 40 examples hold NaN or infinity"),
        (np.where(np.arange(80).reshape(40, 2) == 7, np.nan, 1), LABELS, {}, "given     row 3 "),
    ],
)
def test_unusable_arrays(x: Any, y: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        make(x, y, **options)


def test_shares_are_checked_first() -> None:
    with pytest.raises(InputError, match="leave no three parts"):
        make(RNG.random((40, 7)), val=0.9, test=0.2)


# ---- .npz files ------------------------------------------------------------------------------------------------------


def save(path: Path, *, squeeze: bool = False, **arrays: Any) -> Path:
    (np.savez_compressed if squeeze else np.savez)(path, **arrays)
    return path


def read(path: Path, **options: Any) -> Splits:
    return load("arrays", path=path, **({"val": 0.2, "test": 0.2} | options))


@pytest.mark.parametrize("squeeze", [False, True])
def test_a_file_is_the_same_set_as_the_arrays(tmp_path: Path, squeeze: bool) -> None:
    x = bytes_(40, 6, 5)
    path = save(tmp_path / "set.npz", squeeze=squeeze, x=x, y=LABELS)
    assert read(path).fingerprint == make(x).fingerprint
    assert read(path).train.name == "set"


def test_classes_in_the_file(tmp_path: Path) -> None:
    path = save(tmp_path / "set.npz", x=bytes_(40, 6, 5), y=LABELS, classes=np.array(["w", "x", "y", "z"]))
    assert read(path).train.classes == ("w", "x", "y", "z")
    save(path, x=bytes_(40, 6, 5), y=LABELS, classes=np.arange(4))
    with pytest.raises(DataError, match="classes are not a list of names"):
        read(path)


def test_parts_in_the_file(tmp_path: Path) -> None:
    arrays = {"x_train": bytes_(40, 6, 5), "y_train": LABELS, "x_test": bytes_(12, 6, 5), "y_test": LABELS[:12]}
    splits = read(save(tmp_path / "set.npz", **arrays))
    assert [len(p) for p in (splits.train, splits.val, splits.test)] == [32, 8, 12]
    more = arrays | {"x_val": bytes_(8, 6, 5), "y_val": LABELS[:8]}
    splits = read(save(tmp_path / "set.npz", **more))
    assert [len(p) for p in (splits.train, splits.val, splits.test)] == [40, 8, 12]
    only = {key: value for key, value in arrays.items() if "train" in key}
    assert len(read(save(tmp_path / "set.npz", **only)).test) == 8


def test_images_are_scaled_on_request(tmp_path: Path) -> None:
    path = save(tmp_path / "set.npz", x=bytes_(40, 6, 5), y=LABELS)
    assert read(path, image_size=8, channels=3).train.shape == (3, 8, 8)
    save(path, x=RNG.random((40, 7)), y=LABELS)
    with pytest.raises(DataError, match="only images of bytes can be scaled"):
        read(path, image_size=8)


def test_shared_examples(tmp_path: Path) -> None:
    x = bytes_(40, 6, 5)
    path = save(tmp_path / "set.npz", x_train=x, y_train=LABELS, x_test=x[:12], y_test=LABELS[:12])
    with pytest.raises(DataError, match=r"[0-9]+ of test in (train|val)"):
        read(path)
    assert len(read(path, allow_overlap=True).test) == 12


def test_classes_that_training_never_shows(tmp_path: Path) -> None:
    x = bytes_(52, 6, 5)
    path = save(tmp_path / "set.npz", x_train=x[:40], y_train=LABELS % 2, x_test=x[40:], y_test=LABELS[:12] % 3)
    with pytest.raises(DataError, match=r"other classes than the training part .*\n  given     only in test: 2; "):
        read(path)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"X": 1, "y": 1}, r"unknown names\n  given     X(.|\n)*did you mean `x`"),
        ({"x": 1}, "lacks arrays, or mixes two layouts\n  given     x\n"),
        ({"x_train": 1, "y_train": 1, "x_val": 1}, "lacks arrays"),
        ({"x_test": 1, "y_test": 1}, "lacks arrays"),
        ({"x": 1, "y": 1, "x_test": 1, "y_test": 1}, "mixes two layouts"),
        ({"classes": 1}, "lacks arrays"),
    ],
)
def test_layouts_that_are_not_understood(tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        read(save(tmp_path / "set.npz", **{key: bytes_(40, 6, 5) for key in arrays}))


class Canary:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_python_objects_are_not_even_looked_at(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    objects = np.empty(40, dtype=object)
    objects[:] = [Canary(canary)] * 40
    path = save(tmp_path / "set.npz", x=objects, y=LABELS)
    with pytest.raises(DataError, match=r"x in .*set.npz holds Python objects, which could run code"):
        read(path)
    structured = np.zeros(40, dtype=[("a", object)])
    with pytest.raises(DataError, match="holds Python objects"):
        read(save(path, x=structured, y=LABELS))
    path.write_bytes(pickle.dumps(Canary(canary)))
    with pytest.raises(DamagedError, match=r"is not a whole \.npz file"):
        read(path)
    assert not canary.exists()


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.npz does not exist \(data.path\)"):
        read(tmp_path / "nowhere.npz")
    with pytest.raises(DataError, match="is not a file"):
        read(tmp_path)


def _npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode() + b" " * (117 - len(header)) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def _member(path: Path, data: bytes, *, squeeze: bool = False) -> Path:
    y = io.BytesIO()
    np.save(y, LABELS)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if squeeze else zipfile.ZIP_STORED) as archive:
        archive.writestr("x.npy", data)
        archive.writestr("y.npy", y.getvalue())
    return path


@pytest.mark.parametrize(
    "data",
    [
        _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000, 4), }"),
        _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4000000000000000000, 4000000000), }"),
        _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (40, 7), }", b"\0" * 100),
        _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 7), }", b"\0" * 1000),
        _npy("{'descr': '|S0', 'fortran_order': False, 'shape': (1000000000,), }"),
        _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-3, 7), }"),
        _npy("__import__('os').getpid()"),
        b"\x93NUMPY\x09\x00",
        b"not an array",
        b"",
    ],
)
def test_members_that_are_not_what_they_say(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(DamagedError, match=r"is not a whole \.npz file"):
        read(_member(tmp_path / "set.npz", data))


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tutelage.data.arrays._BOMB_BYTES", 2**20)
    data = _npy("{'descr': '|u1', 'fortran_order': False, 'shape': (40, 1, 1024, 1024), }", b"\0" * (40 * 2**20))
    path = _member(tmp_path / "set.npz", data, squeeze=True)
    assert path.stat().st_size < 2**17
    with pytest.raises(DataError, match=r"would unpack to 40.0 MiB\n  given     x.npy shrunk more than 500 times"):
        read(path)


def test_more_than_the_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "set.npz", x=bytes_(40, 6, 5), y=LABELS)
    monkeypatch.setattr("os.sysconf", lambda name: 16)
    with pytest.raises(DataError, match=r"would unpack to .*\n  expected  arrays that fit into 256 B of memory"):
        read(path)


@pytest.mark.parametrize("squeeze", [False, True])
def test_damage_anywhere_gives_the_set_or_an_error_in_words(tmp_path: Path, squeeze: bool) -> None:
    x = bytes_(40, 6, 5)
    path = save(tmp_path / "set.npz", squeeze=squeeze, x=x, y=LABELS)
    whole, sound = path.read_bytes(), read(path).fingerprint
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(150):
        data = bytearray(whole)
        data[rng.integers(0, len(data))] ^= 1 << int(rng.integers(0, 8))
        path.write_bytes(data[: rng.integers(1, len(data))] if rng.random() < 0.3 else data)
        try:
            found = read(path).fingerprint
        except (DataError, DamagedError):
            refused += 1
        else:
            assert found == sound
    assert refused > 100

"""Where examples come from, by name: sets that are here already, folders of pictures, arrays."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from tutelage.data.examples import Examples, Splits, leaks, split, split_off
from tutelage.data.folder import load_folder, natural
from tutelage.data.idx import read_idx
from tutelage.errors import DamagedError, DataError, InputError, nearest
from tutelage.files import cache_folder

__all__ = ["SOURCES", "from_arrays", "load"]

SOURCES: dict[str, str] = {
    "arrays": "a .npz file with x and y, or x_train, y_train, x_val, y_val, x_test, y_test (data.path)",
    "digits": "1,797 handwritten digits of 8×8 pixels that come with scikit-learn",
    "fashion-mnist": "70,000 pictures of clothes, 28×28, 10 classes (Debian: dataset-fashion-mnist, or data.path)",
    "folder": "pictures in one folder for each class, with or without train/, val/, test/ above (data.path)",
}

_CLOTHES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def load(
    source: str, *, path: Path | None, val: float, test: float, seed: int = 0, image_size: int | None = None
) -> Splits:
    """Load a source by name and split it.

    Args:
        source: a key of `SOURCES`.
        path: the file or folder, for sources that need one.
        val: share of the examples that decide.
        test: share that is looked at once; sets with a test part of their own keep that.
        seed: of the split.
        image_size: side to which pictures of a folder are resized.

    Raises:
        InputError: no such source, or it needs a path.
        DataError: the data cannot be used.
        DamagedError: a file is not what it claims to be.
    """
    if source not in SOURCES:
        raise InputError(f"no data source `{source}`", where="data.source", fix=nearest(source, SOURCES))
    if source == "digits":
        return split(_digits(), val=val, test=test, seed=seed)
    if source == "fashion-mnist":
        return _fashion(path, val=val, seed=seed)
    if path is None:
        raise InputError(f"the source `{source}` needs data.path", expected=SOURCES[source])
    if source == "folder":
        return load_folder(path, val=val, test=test, seed=seed, image_size=image_size)
    return _npz(path, val=val, test=test, seed=seed)


def from_arrays(
    x: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    *,
    classes: Sequence[str] | None = None,
    name: str = "arrays",
    val: float,
    test: float,
    seed: int = 0,
) -> Splits:
    """Split arrays that are in memory.

    Args:
        x: (N, H, W), (N, C, H, W) uint8 images, or (N, …) floats.
        y: (N,) integers 0 … C − 1.
        classes: names in the order of the labels; their numbers by default.
        name: of the set.
        val, test: shares.
        seed: of the split.

    Raises:
        DataError: the arrays cannot be used.
    """
    return split(_examples(x, y, classes, name), val=val, test=test, seed=seed)


def _digits() -> Examples:
    from sklearn.datasets import load_digits

    found = load_digits()
    # The set counts ink from 0 to 16; as bytes it is an image like any other.
    images = np.rint(found.images * (255.0 / 16.0)).astype(np.uint8)
    return Examples.make(
        torch.from_numpy(images[:, None]), torch.from_numpy(found.target), [str(n) for n in range(10)], "digits"
    )


def _fashion(path: Path | None, *, val: float, seed: int) -> Splits:
    root = _fashion_folder(path)
    parts = []
    for part in ("train", "t10k"):
        images = read_idx(_one(root, f"{part}-images-idx3-ubyte"), 3)
        labels = read_idx(_one(root, f"{part}-labels-idx1-ubyte"), 1)
        if labels.numel() and int(labels.max()) >= len(_CLOTHES):
            raise DamagedError(f"{root} has a label beyond 9", given=str(int(labels.max())))
        parts.append(Examples.make(images.unsqueeze(1), labels, _CLOTHES, "fashion-mnist"))
    train, decided = split_off(parts[0], fraction=val, seed=seed)
    return Splits(train, decided, parts[1])


def _fashion_folder(path: Path | None) -> Path:
    tried = [path] if path is not None else []
    if path is None and os.environ.get("TUTELAGE_DATA"):
        tried.append(Path(os.environ["TUTELAGE_DATA"]).expanduser() / "fashion-mnist")
    if path is None:
        tried += [Path("/usr/share/datasets/fashion-mnist"), cache_folder() / "data" / "fashion-mnist"]
    for folder in tried:
        if any(folder.glob("train-images-idx3-ubyte*")):
            return folder
    raise DataError(
        "Fashion-MNIST is not on this machine",
        given="looked in " + ", ".join(map(str, tried)),
        expected="train-images-idx3-ubyte.gz and its three companions",
        fix="on Debian: apt install dataset-fashion-mnist; elsewhere put the four files in a folder and set data.path",
    )


def _one(folder: Path, name: str) -> Path:
    for candidate in (folder / f"{name}.gz", folder / name):
        if candidate.is_file():
            return candidate
    raise DataError(f"{name}(.gz) is missing", where=str(folder))


def _npz(path: Path, *, val: float, test: float, seed: int) -> Splits:
    arrays = _read_npz(path)
    names = arrays.pop("classes", None)
    classes = None if names is None else [str(n) for n in names.tolist()]
    if {"x", "y"} <= set(arrays):
        return from_arrays(arrays["x"], arrays["y"], classes=classes, name=path.stem, val=val, test=test, seed=seed)
    if not {"x_train", "y_train"} <= set(arrays):
        raise DataError(f"{path} holds no examples", given=", ".join(arrays) or "nothing", expected=SOURCES["arrays"])
    labels = np.concatenate([np.unique(v) for k, v in arrays.items() if k.startswith("y_")])
    if classes is None and np.issubdtype(labels.dtype, np.integer):
        classes = [str(n) for n in range(int(labels.max()) + 1)]
    found = {
        part: _examples(arrays[f"x_{part}"], arrays[f"y_{part}"], classes, path.stem)
        for part in ("train", "val", "test")
        if f"x_{part}" in arrays and f"y_{part}" in arrays
    }
    train = found["train"]
    if "test" not in found:
        train, found["test"] = split_off(train, fraction=test, seed=seed + 1)
    if "val" not in found:
        train, found["val"] = split_off(train, fraction=val, seed=seed)
    splits = Splits(train, found["val"], found["test"])
    for name, part in (("val", splits.val), ("test", splits.test)):
        if part.shape != train.shape:
            raise DataError(
                f"x_{name} has another shape than x_train", given=str(part.shape), expected=str(train.shape)
            )
    shared = {where: count for where, count in leaks(splits).items() if count}
    if shared:
        raise DataError(
            "the same examples stand in two parts",
            where=str(path),
            given=", ".join(f"{count} of {where}" for where, count in shared.items()),
            fix="remove them from one of the two, or results will look better than they are",
        )
    return splits


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise DataError(f"no file {path}", where="data.path", expected=SOURCES["arrays"])
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except ValueError as error:
        if "pickle" in str(error).lower():
            raise DataError(
                f"{path} holds Python objects, which can run code when they are read",
                expected="plain arrays of numbers",
                fix="save them again with np.savez(path, x=np.asarray(x, dtype=np.float32), y=…)",
            ) from error
        raise DamagedError(f"cannot read {path}: {error}") from error
    except (OSError, EOFError, zipfile.BadZipFile, KeyError, AttributeError) as error:
        raise DamagedError(f"{path} is no whole .npz file: {error}", fix="save or copy it again") from error


def _examples(x: Any, y: Any, classes: Sequence[str] | None, name: str) -> Examples:
    inputs, labels = _tensor(x), _tensor(y)
    if labels.ndim != 1 or labels.is_floating_point() or labels.dtype == torch.bool:
        raise DataError(
            "labels are one integer for each example",
            where=name,
            given=f"shape {tuple(labels.shape)}, {labels.dtype}",
            fix="turn class names into numbers 0 … C − 1 and pass the names as classes",
        )
    if inputs.dtype == torch.uint8:
        if inputs.ndim == 3:
            inputs = inputs.unsqueeze(1)
        elif inputs.ndim == 4 and inputs.shape[1] not in (1, 3) and inputs.shape[3] in (1, 3):
            inputs = inputs.permute(0, 3, 1, 2).contiguous()
        elif inputs.ndim != 4:
            inputs = inputs.float()
    else:
        inputs = inputs.float()
    if inputs.ndim < 2:
        raise DataError("inputs need a dimension besides the examples'", where=name, given=str(tuple(inputs.shape)))
    number = int(labels.max()) + 1 if labels.numel() else 0
    named = sorted((str(n) for n in range(number)), key=natural) if classes is None else list(classes)
    if len(named) < 2:
        raise DataError("classification needs at least two classes", where=name, given=f"{len(named)}")
    if len(labels) < 3 * len(named):
        raise DataError(
            f"{len(labels)} examples are too few for {len(named)} classes", where=name, expected=f"≥ {3 * len(named)}"
        )
    return Examples.make(inputs, labels.long(), named, name)


def _tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    array = np.asarray(value)
    if array.dtype == object or array.dtype.kind in "USV":
        raise DataError(
            "this is no array of numbers", given=f"dtype {array.dtype}", expected="integers or floats, all rows alike"
        )
    if array.dtype in (np.uint16, np.uint32, np.uint64):
        array = array.astype(np.int64)
    return torch.from_numpy(np.ascontiguousarray(array))

"""Arrays in memory or in an .npz file become examples; no file runs code, and nothing odd is mended in silence."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from tutelage.data.examples import Examples, Task, check_names, listed
from tutelage.data.folder import natural
from tutelage.data.images import absence, printable, refit
from tutelage.data.splits import Splits, assemble, check_shares
from tutelage.data.tasks import check_task, further_arrays
from tutelage.errors import DamagedError, DataError, TutelageError, nearest
from tutelage.files import human_bytes

__all__ = ["from_arrays", "inputs_of", "load_arrays", "read_npz"]

_KEYS = ("x", "y", "x_train", "y_train", "x_val", "y_val", "x_test", "y_test", "classes")
# Measured data does not shrink to a five-hundredth; what does, and is large, is meant to fill the memory.
_BOMB_RATIO, _BOMB_BYTES = 500, 256 * 2**20


def from_arrays(
    x: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    *,
    classes: Sequence[str] | None = None,
    name: str = "arrays",
    val: float,
    test: float,
    seed: int = 0,
    tasks: Mapping[str, ArrayLike | Tensor] = MappingProxyType({}),
) -> Splits:
    """Split arrays that are in memory.

    Args:
        x: images (N, H, W), (N, C, H, W) or (N, H, W, C) in whole numbers 0 … 255; or features (N, …) or images
            (N, C, H, W) in floats that are scaled already.
        y: (N,) integers 0 … C − 1, or names of classes.
        classes: names in the order of the labels; by default their numbers, or the names in `y` in natural order.
        name: of the set.
        val: share of the examples that decide.
        test: share that is looked at once.
        seed: of the split.
        tasks: further labels of the same examples by name, each like `y`; one model answers all of them.

    Raises:
        InputError: the shares leave nothing to learn from.
        DataError: the arrays cannot be used.
    """
    check_shares(val, test)
    if classes is not None:
        check_names(classes, name)
    _refuse_mixed_names(y, name)
    labels, names = _labels({"y": _array(y, "y")}, classes, name)
    further = {}
    for task, given in tasks.items():
        check_task(task, name)
        where = f"{name}, task {task}"
        _refuse_mixed_names(given, where)
        own, own_names = _labels({"y": _array(given, task)}, None, where)
        further[task] = Task(own["y"], tuple(own_names))
    inputs = torch.from_numpy(inputs_of(_array(x, "x"), name))
    examples = Examples.make(inputs, labels["y"], names, name, tasks=further)
    return assemble({"train": examples}, val=val, test=test, seed=seed, where=name, allow_overlap=False)


def load_arrays(
    path: Path,
    *,
    val: float,
    test: float,
    seed: int,
    image_size: int | None = None,
    channels: int | None = None,
    allow_overlap: bool = False,
) -> Splits:
    """Read an .npz file with x and y, or with x_train, y_train and perhaps x_val, y_val, x_test, y_test.

    Labels of further tasks stand beside them as targets_<task>, or targets_<task>_train and so on, and the names of
    their classes as classes_<task>.

    Raises:
        DataError: the arrays cannot be used.
        DamagedError: it is no whole .npz file.
    """
    check_shares(val, test)
    where = printable(path)
    arrays, given = further_arrays(read_npz(path), where)
    pairs = _pairs(arrays, where)
    labels, names = _labels({part: y for part, (_, y) in pairs.items()}, _named(arrays.get("classes"), where), where)
    further = {}
    for task, (by_part, own_classes) in given.items():
        whose = f"{where}, task {task}"
        further[task] = _labels(dict(zip(pairs, by_part, strict=True)), _named(own_classes, whose), whose)
    parts = {}
    for part, (x, _) in pairs.items():
        inputs = inputs_of(x, where)
        if inputs.dtype == np.uint8:
            inputs = refit(inputs, image_size=image_size, channels=channels)
        elif image_size is not None or channels is not None:
            raise DataError(
                "only images of bytes can be scaled or recoloured",
                where=where,
                given=f"x is {x.dtype} {x.shape}",
                fix="leave out data.image_size, or save the images as uint8",
            )
        tasks = {task: Task(own[part], tuple(own_names)) for task, (own, own_names) in further.items()}
        parts[part] = Examples.make(torch.from_numpy(inputs), labels[part], names, path.stem, tasks=tasks)
    return assemble(parts, val=val, test=test, seed=seed, where=where, allow_overlap=allow_overlap)


def _named(classes: NDArray[Any] | None, where: str) -> list[str] | None:
    if classes is not None and (classes.dtype.kind != "U" or classes.ndim != 1):
        raise DataError(
            "classes are not a list of names", where=where, given=f"dtype {classes.dtype}, shape {classes.shape}"
        )
    return None if classes is None else [str(name) for name in classes.tolist()]


def _pairs(arrays: Mapping[str, NDArray[Any]], where: str) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Inputs and labels by part."""
    expected = (
        "x and y, or x_train, y_train and perhaps x_val, y_val, x_test, y_test; and perhaps classes, and of further "
        "tasks targets_<task> and classes_<task>"
    )
    unknown = [key for key in arrays if key not in _KEYS]
    if unknown:
        raise DataError(
            f"{where} holds arrays by unknown names",
            given=listed(unknown),
            expected=expected,
            fix=f"rename or remove them: {nearest(unknown[0], _KEYS)}",
        )
    suffixes = {key[1:] for key in arrays if key != "classes"}
    single = [key for suffix in sorted(suffixes) for key in (f"x{suffix}", f"y{suffix}") if key not in arrays]
    if single or suffixes not in ({""}, {"_train"}, suffixes - {""} | {"_train"}):
        raise DataError(f"{where} lacks arrays, or mixes two layouts", given=listed(sorted(arrays)), expected=expected)
    return {suffix[1:] or "train": (arrays[f"x{suffix}"], arrays[f"y{suffix}"]) for suffix in sorted(suffixes)}


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    where = printable(path)
    # Unlike the methods of Path, this answers for any path, however long or out of reach.
    if not os.path.isfile(path):
        raise DataError(f"{where} {absence(path, 'file')}", where="data.path", expected="an .npz file with x and y")
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if m.filename.endswith(".npy")]
            _refuse_bombs(members, where)
            return {member.filename.removesuffix(".npy"): _member(archive, member) for member in members}
    except TutelageError:
        raise
    # All that zipfile, zlib and the .npy reader say of bytes they cannot make sense of.
    except (
        zipfile.BadZipFile, zlib.error, EOFError, ValueError, TypeError, OverflowError, MemoryError,
        NotImplementedError, RuntimeError, SyntaxError, KeyError,
    ) as error:  # fmt: skip
        raise DamagedError(f"{where} is not a whole .npz file: {error}", fix="save or copy it again") from error
    except OSError as error:
        raise DataError(f"cannot read {where}: {error.strerror or error}", where="data.path") from error


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(member) as file:
        try:
            array: NDArray[Any] = npy.read_array(file, allow_pickle=False)
        except ValueError as error:
            if "allow_pickle" not in str(error):
                raise
            raise DataError(
                f"{member.filename.removesuffix('.npy')} in {archive.filename} holds Python objects, "
                "which could run code when they are read; they were not",
                expected="plain arrays of numbers, or of fixed-width text for names",
                fix="save it again as numbers: np.savez(path, x=np.asarray(x, dtype=np.float32), y=…)",
            ) from error
        # An element of no bytes costs nothing in the file, and without this check anything in memory.
        if array.size > member.file_size or file.read(1):
            raise ValueError(f"the header of {member.filename} does not fit its data")
        return array


def _refuse_bombs(members: Sequence[zipfile.ZipInfo], where: str) -> None:
    total = sum(member.file_size for member in members)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    squeezed = [
        m.filename for m in members if m.file_size > _BOMB_BYTES and m.file_size > _BOMB_RATIO * max(m.compress_size, 1)
    ]
    if total > memory or squeezed:
        raise DataError(
            f"{where} would unpack to {human_bytes(total)}",
            given=f"{listed(squeezed)} shrunk more than {_BOMB_RATIO} times" if squeezed else None,
            expected=f"arrays that fit into {human_bytes(memory)} of memory",
            fix="save it without compression if it is what it should be" if squeezed else "save fewer examples",
        )


def _array(value: Any, what: str) -> NDArray[Any]:
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_meta or value.is_quantized:
            raise DataError(
                f"{what} is not a plain tensor",
                given=f"layout {value.layout}, {value.dtype}, on {value.device}",
                expected="a dense tensor with values",
            )
        # A lazy conjugate or negative is still to be carried out.
        tensor = value.detach().cpu().resolve_conj().resolve_neg()
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    if isinstance(value, np.ma.MaskedArray) and value.mask.any():
        raise DataError(
            f"{what} has masked values, of which nothing can be learned",
            given=f"{int(value.mask.sum()):,} of {value.size:,} masked",
            fix="fill them, or drop their rows",
        )
    try:
        return np.asarray(value)
    except ValueError as error:
        raise DataError(f"{what} is not one array: its rows differ in length", expected="all rows alike") from error


def inputs_of(x: NDArray[Any], where: str) -> NDArray[Any]:
    """Images as (N, C, H, W) bytes, anything else as float32."""
    if x.dtype.kind not in "buif":
        raise DataError(
            "inputs are not numbers",
            where=where,
            given=f"dtype {x.dtype}",
            expected="integers or floats, all rows alike",
        )
    # Channels last, where only the last dimension can be one of channels.
    if x.ndim == 4 and x.shape[3] in (1, 3) and x.shape[1] not in (1, 3):
        x = x.transpose(0, 3, 1, 2)
    if x.dtype.kind in "ui" and x.dtype != np.uint8 and x.ndim >= 3 and x.size:
        if int(x.min()) < 0 or int(x.max()) > 255:
            raise DataError(
                "whole numbers in the shape of images, but not in 0 … 255",
                where=where,
                given=f"{x.dtype} {x.shape}, {x.min()} … {x.max()}",
                fix="scale images to 0 … 255, or pass features as float32",
            )
        x = x.astype(np.uint8)
    if x.dtype == np.uint8:
        return np.ascontiguousarray(x[:, None] if x.ndim == 3 else x)
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, and is refused as that
        return np.ascontiguousarray(x, dtype=np.float32)


def _labels(
    parts: Mapping[str, NDArray[Any]], classes: Sequence[str] | None, where: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Labels as numbers for every part, and the names of the classes."""
    if all(
        y.dtype.kind == "U" or (y.dtype.kind == "O" and all(isinstance(v, str) for v in y.flat)) for y in parts.values()
    ):
        found = sorted({str(name) for y in parts.values() for name in y.flat}, key=natural)
        names = found if classes is None else list(classes)
        unknown = sorted(set(found) - set(names), key=natural)
        if unknown:
            raise DataError("labels name unknown classes", where=where, given=listed(unknown), expected=listed(names))
        number = {name: label for label, name in enumerate(names)}
        numbered = {part: np.array([number[str(v)] for v in y.flat]).reshape(y.shape) for part, y in parts.items()}
    else:
        numbered = dict(parts)
        _refuse_fractions(numbered, where)
        names = _numbered_names(numbered, classes, where)
    if len(names) < 2:
        raise DataError("classification needs at least two classes", where=where, given=listed(names) or "none")
    return {part: torch.from_numpy(y.astype(np.int64)) for part, y in numbered.items()}, names


def _refuse_mixed_names(y: Any, where: str) -> None:
    # NumPy makes text of all the rest: a missing label (NaN) would become a class called "nan".
    if not isinstance(y, (list, tuple)) or not any(isinstance(label, str) for label in y):
        return
    odd = [f"{label!r} in row {row}" for row, label in enumerate(y) if not isinstance(label, str)]
    if odd:
        raise DataError(
            f"{len(odd):,} of {len(y):,} labels are not names, while others are",
            where=where,
            given=f"{listed(odd)} (the first is row 0)",
            fix="name them, or drop these rows",
        )


def _refuse_fractions(parts: Mapping[str, NDArray[Any]], where: str) -> None:
    for part, y in parts.items():
        if y.dtype.kind not in "ui" or y.ndim != 1:
            raise DataError(
                f"labels ({part}) are not one integer for each example",
                where=where,
                given=f"dtype {y.dtype}, shape {y.shape}",
                expected="integers of shape (N,)",
                fix="use y.argmax(1) for one-hot rows, y.astype(int) for whole floats, y.ravel() for one column",
            )


def _numbered_names(parts: Mapping[str, NDArray[Any]], classes: Sequence[str] | None, where: str) -> list[str]:
    found = sorted({int(label) for y in parts.values() for label in np.unique(y)})
    if not found:
        raise DataError("there are no labels", where=where)
    expected = range(len(classes)) if classes is not None else range(len(found))
    outside = [label for label in found if label not in expected]
    if outside:
        raise DataError(
            "labels are not numbered 0 … C − 1",
            where=where,
            given=f"{len(found)} labels: {listed(found)}",
            expected=f"0 … {len(expected) - 1}" + (f" for {len(expected)} classes" if classes is not None else ""),
            fix="names, y = np.unique(y, return_inverse=True) numbers them; pass the names as classes",
        )
    return [str(label) for label in expected] if classes is None else list(classes)

"""Examples without labels that join the training part: an .npz file with x, a folder of images, or rows of columns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tutelage.data.arrays import inputs_of, read_npz
from tutelage.data.examples import Examples, listed
from tutelage.data.images import SUFFIXES, absence, printable, read_images, refit, stack
from tutelage.data.splits import Splits
from tutelage.errors import DataError, nearest

__all__ = ["REST", "with_unlabelled"]

REST = "rest"  # in place of a path: what of the set itself has no label

_WHERE = "data.unlabelled"


def with_unlabelled(splits: Splits, path: Path | str, *, image_size: int | None = None) -> tuple[Splits, Tensor, str]:
    """The same splits with a pool of examples added to the training part.

    What the pool shares with any part, by content, is left out of it: an example of the test part must not be learned
    from, not even without its label.

    Args:
        splits: whose training part grows.
        path: an .npz file with x, (N, …) as in the training part, or a folder with images, also in folders within; or
            `REST`, the examples of the set itself that have no label.
        image_size: side in pixels to which images are scaled, as for the other parts.

    Returns:
        The splits; the ids (K,) of the training examples that have labels, rising; and what to tell of the pool.

    Raises:
        DataError: the pool cannot be read, or its examples have another shape or type.
        DamagedError: it is no whole .npz file.
    """
    train = splits.train
    if train.encodings:
        return _with_rest(splits, path)
    path = Path(path).expanduser()
    given = torch.from_numpy(_folder(path, train, image_size) if path.is_dir() else _file(path, train, image_size))
    if given.dtype != train.inputs.dtype or tuple(given.shape[1:]) != train.shape:
        raise DataError(
            "the unlabelled examples are of another kind than those to learn from", where=_WHERE,
            given=f"{tuple(given.shape[1:])} {given.dtype}", expected=f"{train.shape} {train.inputs.dtype}",
            fix="set data.image_size" if train.is_image else "",
        )  # fmt: skip
    pool = Examples.make(given, torch.zeros(len(given), dtype=torch.int64), train.classes, train.name)
    blank = {name: replace(task, targets=torch.zeros_like(pool.targets)) for name, task in train.tasks.items()}
    return _joined(splits, replace(pool, tasks=blank), printable(path))


def _with_rest(splits: Splits, path: Path | str) -> tuple[Splits, Tensor, str]:
    """The same of a set of columns, whose rows without a label are the pool."""
    if path != REST:
        raise DataError(
            "unlabelled examples come as images or numbers, but these are made of columns", where=_WHERE,
            given=printable(path), expected=REST, fix="give them as rows with an empty label, and write `rest`",
        )  # fmt: skip
    if splits.rest is None:
        raise DataError("no row lacks a label that may be learned from without", where=_WHERE, given=REST)
    return _joined(splits, splits.rest, "rows without a label")


def _joined(splits: Splits, pool: Examples, origin: str) -> tuple[Splits, Tensor, str]:
    train, given = splits.train, len(pool)
    known = torch.cat([part.ids for part in (train, splits.val, splits.test)])
    _, first = np.unique(pool.ids.numpy(), return_index=True)
    new = torch.from_numpy(first)
    new = new[~torch.isin(pool.ids[new], known)]
    if not len(new):
        raise DataError(
            "every unlabelled example is in the labelled set already", where=_WHERE, given=f"{given:,} examples"
        )
    pool = pool.take(new)
    both = Examples.concatenated([train, pool])
    left = given - len(pool)
    told = f"{len(pool):,} unlabelled examples from {origin}"
    told += f"; {left:,} more are copies of these or of labelled ones, and were left out" if left else ""
    return replace(splits, train=both, rest=None), torch.unique(train.ids), told


def _file(path: Path, train: Examples, image_size: int | None) -> np.ndarray:
    arrays = read_npz(path)
    where = printable(path)
    if "x" not in arrays:
        raise DataError(
            f"{where} holds no array `x`", where=_WHERE, given=listed(list(arrays)), fix=nearest("x", arrays)
        )
    inputs = inputs_of(arrays["x"], where)
    if inputs.dtype != np.uint8:
        return inputs
    return refit(inputs, image_size=image_size, channels=train.shape[0] if train.is_image else None)


def _folder(path: Path, train: Examples, image_size: int | None) -> np.ndarray:
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise DataError(
            f"{printable(path)} {absence(path, 'folder')}" if not path.is_dir() else f"no images in {printable(path)}",
            where=_WHERE, expected=f"files ending in {', '.join(sorted(SUFFIXES))}",
        )  # fmt: skip
    return stack(read_images(files, image_size=image_size), channels=train.shape[0] if train.is_image else None)

"""Where examples come from, by name: sets that are here already, folders of images, arrays."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tutelage.data.arrays import load_arrays
from tutelage.data.examples import Examples, listed
from tutelage.data.folder import load_folder
from tutelage.data.folds import pool
from tutelage.data.idx import read_idx
from tutelage.data.images import printable, refit
from tutelage.data.inputs import told_rows
from tutelage.data.learned import Learned
from tutelage.data.sets import SETS, set_folder
from tutelage.data.splits import Splits, assemble, check_shares, leaks, split
from tutelage.errors import DamagedError, DataError, InputError, nearest
from tutelage.files import cache_folder

__all__ = ["SOURCES", "load", "load_rows", "made_of_rows", "with_training_part"]

SOURCES: dict[str, str] = {
    "arrays": "a .npz file with x and y, or x_train, y_train, x_val, y_val, x_test, y_test (data.path)",
    "digits": "1,797 handwritten digits of 8×8 pixels that come with scikit-learn",
    "fashion-mnist": "70,000 images of clothes, 28×28, 10 classes (Debian: dataset-fashion-mnist, or data.path)",
    "folder": "images in one folder for each class, with or without train/, val/, test/ above (data.path)",
    "rows": "a .csv, .tsv, .json, .jsonl, .parquet or .conll file; data.label and data.inputs say more (data.path)",
    "sounds": "WAV files in one folder for each class; what stands before a name's first _ is its speaker (data.path)",
    **{name: one.line for name, one in SETS.items()},
}

_CLOTHES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_FASHION_FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))


def load(
    source: str,
    *,
    path: Path | str | None = None,
    val: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    image_size: int | None = None,
    channels: int | None = None,
    allow_overlap: bool = False,
) -> Splits:
    """Load a source by name and split it.

    Args:
        source: a key of `SOURCES`.
        path: the file or folder, for sources that need one.
        val: share of the examples that decide, for sets without such a part of their own.
        test: share that is looked at once, likewise.
        seed: of the split.
        image_size: side in pixels to which images are scaled; the longer side is cut evenly.
        channels: 1 for grey or 3 for RGB; by default what the images have.
        allow_overlap: whether parts of a folder or file may share examples.

    Raises:
        InputError: no such source, it needs a path, or a value is out of range.
        DataError: the data cannot be used.
        DamagedError: a file is not what it claims to be.
    """
    if source not in SOURCES:
        raise InputError(f"no data source `{source}`", where="data.source", fix=nearest(source, SOURCES))
    check_shares(val, test)
    if made_of_rows(source):
        return load_rows(source, path=path, val=val, test=test, seed=seed)[0]
    path = None if path is None else _at_home(path, "data.path")
    if image_size is not None and (image_size < 1 or image_size % 1):
        raise InputError(
            "the image size is out of range", where="data.image_size", given=image_size, expected="a whole number ≥ 1"
        )
    if channels not in (None, 1, 3):
        raise InputError("no such number of channels", given=channels, expected="1 (grey) or 3 (RGB)")
    if source == "digits":
        if path is not None:
            raise InputError("the source `digits` reads no path", where="data.path", given=path, fix="leave it out")
        return split(_digits(image_size, channels), val=val, test=test, seed=seed)
    if source == "fashion-mnist":
        parts = _fashion(path, image_size, channels)
        # Published parts stay as they are, copies and all; `leaks` counts them for the report.
        return assemble(parts, val=val, test=test, seed=seed, where=source, allow_overlap=True)
    if path is None:
        raise InputError(f"the source `{source}` needs a path", where="data.path", expected=SOURCES[source])
    read = load_folder if source == "folder" else load_arrays
    return read(
        path, val=val, test=test, seed=seed, image_size=image_size, channels=channels, allow_overlap=allow_overlap
    )


def made_of_rows(source: str) -> bool:
    """Whether a source gives columns, of which a recipe says what is read."""
    return source in ("rows", "sounds") or source in SETS


def load_rows(
    source: str,
    *,
    path: Path | str | None = None,
    learned: Learned | None = None,
    inputs: Mapping[str, Mapping[str, Any]] | None = None,
    reads: str | None = None,
    group: str | None = None,
    part: str | None = None,
    val: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    fold: tuple[int, int] | None = None,
    rest: bool = False,
) -> tuple[Splits, list[str]]:
    """Load a source of columns, and what a person should know of it; see `tutelage.data.from_rows`.

    A named set says itself what it is learned by, where nothing else is said.

    Raises:
        InputError: something is missing that the source does not say itself.
        DataError: the data cannot be used, or are not here.
    """
    learned = learned or Learned()
    if source not in SETS and path is None:
        raise InputError(f"the source `{source}` needs a path", where="data.path", expected=SOURCES[source])
    if source == "sounds":
        from tutelage.data.sounds import load_wavs

        assert path is not None
        rows = load_wavs(_at_home(path, "data.path"))
        learned = learned.or_else("label", None)
        inputs, group = inputs or {"s": {"sound": "sound"}}, group or "speaker"
    elif source == "rows":
        from tutelage.data.tabular import read_rows

        assert path is not None
        rows = read_rows(_at_home(path, "data.path"))
        if learned.missing or not inputs:
            raise InputError(
                "rows do not say what is learned of them",
                where="data.label" if learned.missing else "data.inputs", expected="one of " + ", ".join(rows.columns),
                fix="such as label: section, and inputs: {x: {text: description, tokens: {length: 64}}}",
            )  # fmt: skip
    else:
        known = SETS[source]
        rows = known.read(set_folder(source) if path is None else _at_home(path, "data.path"))
        learned, inputs = learned.or_else(known.label, known.args.get("answer")), inputs or known.inputs
        group, part = group or known.group, part or known.args.get("part")
    return told_rows(
        rows, learned=learned, inputs=inputs, reads=reads, group=group, part=part, val=val, test=test, seed=seed,
        fold=fold, rest=rest,
    )  # fmt: skip


def with_training_part(splits: Splits, path: Path | str, *, image_size: int | None = None) -> Splits:
    """The same splits with other examples to learn from, for instance made-up ones; validation and test stay.

    Args:
        splits: whose training part is replaced.
        path: an .npz file with x and y, and perhaps classes; all of it is learned from.
        image_size: side in pixels to which images are scaled, as for `load`.

    Raises:
        DataError: the file does not fit the rest: other shapes, other classes, or examples of validation and test.
        DamagedError: it is no whole .npz file.
    """
    path = _at_home(path, "data.train")
    # Its own division does not matter: all three parts of it are joined again.
    own = load_arrays(path, val=0.1, test=0.1, seed=0, image_size=image_size, allow_overlap=True)
    given, rest = pool(replace(own, own_test=False)), splits.val
    numbered = given.classes == tuple(str(number) for number in range(len(rest.classes)))
    if given.classes != rest.classes and not numbered:
        raise DataError(
            "the examples to learn from have other classes than those to be judged by", where="data.train",
            given=listed(given.classes), expected=listed(rest.classes),
            fix="save the names in the same order as `classes`, or leave them out and number the labels alike",
        )  # fmt: skip
    if given.shape != rest.shape or given.inputs.dtype != rest.inputs.dtype:
        raise DataError(
            "the examples to learn from have inputs of another kind than those to be judged by", where="data.train",
            given=f"{given.shape} {given.inputs.dtype}", expected=f"{rest.shape} {rest.inputs.dtype}",
        )  # fmt: skip
    if {task: own.classes for task, own in given.tasks.items()} != {t: own.classes for t, own in rest.tasks.items()}:
        raise DataError(
            "the examples to learn from have other tasks than those to be judged by", where="data.train",
            given=listed(given.outputs), expected=listed(rest.outputs),
            fix="save targets_<task> and classes_<task> for the same tasks",
        )  # fmt: skip
    name = f"{rest.name}, learned from {printable(path)}"
    made = replace(splits, train=replace(given, classes=rest.classes, name=name, task=rest.task))
    shared = {between: count for between, count in leaks(made).items() if count and between.endswith("in train")}
    if shared:
        raise DataError(
            "examples to be judged by stand among those to learn from", where="data.train",
            given=", ".join(f"{count:,} of {between}" for between, count in shared.items()), fix="remove them there",
        )  # fmt: skip
    return made


def _at_home(path: Path | str, where: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"no home folder is known for {printable(path)}", where=where, fix="write it out") from error


def _digits(image_size: int | None, channels: int | None) -> Examples:
    from sklearn.datasets import load_digits

    found = load_digits()
    # The set counts ink from 0 to 16; as bytes it is an image like any other.
    images = np.rint(found.images * (255.0 / 16.0)).astype(np.uint8)[:, None]
    inputs = torch.from_numpy(refit(images, image_size=image_size, channels=channels))
    return Examples.make(inputs, torch.from_numpy(found.target), [str(n) for n in range(10)], "digits")


def _fashion(path: Path | None, image_size: int | None, channels: int | None) -> dict[str, Examples]:
    files = _fashion_files(path)
    parts = {}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        images = read_idx(files[f"{prefix}-images-idx3-ubyte"], 3).unsqueeze(1)
        labels_file = files[f"{prefix}-labels-idx1-ubyte"]
        labels = read_idx(labels_file, 1).long()
        beyond = int((labels >= len(_CLOTHES)).sum())
        if beyond:
            raise DamagedError(
                f"{printable(labels_file)} has labels that name no class",
                given=f"{beyond:,} of {len(labels):,}, up to {int(labels.max())}",
                expected=f"0 … {len(_CLOTHES) - 1}",
                fix="get the file again",
            )
        if len(images) and images[0].numel():
            images = torch.from_numpy(refit(images.numpy(), image_size=image_size, channels=channels))
        parts[part] = Examples.make(images, labels, _CLOTHES, "fashion-mnist")
    return parts


def _fashion_files(path: Path | None) -> dict[str, Path]:
    """The four files by name, all from one folder."""
    if path is not None:
        tried = [path]
    else:
        tried = [Path("/usr/share/datasets/fashion-mnist"), cache_folder() / "data" / "fashion-mnist"]
        if own := os.environ.get("TUTELAGE_DATA"):
            home = _at_home(own, "TUTELAGE_DATA")
            tried = [home, home / "fashion-mnist", *tried]
    places: list[str] = []
    for folder in tried:
        found = {name: _file(folder, name) for name in _FASHION_FILES}
        complete = {name: file for name, file in found.items() if file is not None}
        if len(complete) == len(_FASHION_FILES):
            return complete
        lacking = "without " + ", ".join(name for name in found if name not in complete)
        places.append(f"{printable(folder)} ({lacking if os.path.isdir(folder) else 'no such folder'})")
    raise DataError(
        "Fashion-MNIST is not on this machine" if path is None else "Fashion-MNIST is not where data.path says",
        given="looked in " + "\n            ".join(places),
        expected=f"four files, as they are or with .gz: {', '.join(_FASHION_FILES)}",
        fix="on Debian: apt-get install dataset-fashion-mnist; elsewhere put the files in a folder and set data.path",
    )


def _file(folder: Path, name: str) -> Path | None:
    return next((file for file in (folder / f"{name}.gz", folder / name) if os.path.isfile(file)), None)

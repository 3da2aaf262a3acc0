"""Image folders: one folder of images for each class, with or without train/, val/ and test/ above them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from tutelage.data.examples import Examples, listed
from tutelage.data.images import SUFFIXES, absence, printable, read_images, stack
from tutelage.data.splits import Splits, assemble, check_shares
from tutelage.errors import DataError

__all__ = ["load_folder", "natural"]

_PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
# What file managers leave behind; nobody put it there.
_LITTER = frozenset({"thumbs.db", "desktop.ini"})

Files = dict[str, list[Path]]  # class -> its files


def natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """A key by which "2" comes before "10"."""
    # Of two numbers without leading zeros the longer one is greater; this works for any length, as int() does not.
    parts = (part.lstrip("0") if part.isdecimal() else part for part in re.split(r"(\d+)", name))
    return [(place % 2, len(part) * (place % 2), part) for place, part in enumerate(parts)], name


def load_folder(
    path: Path,
    *,
    val: float,
    test: float,
    seed: int,
    image_size: int | None = None,
    channels: int | None = None,
    allow_overlap: bool = False,
) -> Splits:
    """Read an image folder into memory as bytes.

    Raises:
        DataError: what is wrong with it, with all offenders counted and the first ten named.
    """
    check_shares(val, test)
    parts = {name: _listing(folder) for name, folder in _parts(path).items()}
    classes = _classes(path, parts)
    _refuse_empty(path, parts)
    files = [file for part in parts.values() for own in part.values() for file in own]
    pixels = torch.from_numpy(stack(read_images(files, image_size=image_size), channels=channels))
    sizes = [sum(map(len, part.values())) for part in parts.values()]
    made = {
        name: Examples.make(
            inputs,
            _labels(part, classes),
            classes,
            path.name,
            origins=[str(file.relative_to(path)) for own in part.values() for file in own],
        )
        for (name, part), inputs in zip(parts.items(), torch.split(pixels, sizes), strict=True)
    }
    return assemble(made, val=val, test=test, seed=seed, where=printable(path), allow_overlap=allow_overlap)


def _parts(path: Path) -> dict[str, Path]:
    """The folders that hold class folders, by part; a folder without parts is all "train"."""
    # Unlike the methods of Path, this answers for any path, however long or out of reach.
    if not os.path.isdir(path):
        raise DataError(
            f"{printable(path)} {absence(path, 'folder')}",
            where="data.path",
            expected="a folder with one sub-folder of images for each class",
        )
    folders = _folders(path)
    train = next((folder for folder in folders if folder.name == "train"), None)
    # A class may be called "train"; it then holds images, while a training part holds folders.
    if train is None or not _folders(train):
        return {"train": path}
    unknown = [printable(folder.name) for folder in folders if folder.name not in _PARTS]
    named = [_PARTS[folder.name] for folder in folders if folder.name in _PARTS]
    if unknown or len(set(named)) < len(named):
        raise DataError(
            f"{printable(path)} has folders beside train/ whose part is not clear",
            given=listed(unknown) or ", ".join(folder.name for folder in folders),
            expected="train/, and perhaps val/ and test/",
            fix="rename or move them",
        )
    return {_PARTS[folder.name]: folder for folder in folders}


def _folders(path: Path) -> list[Path]:
    try:
        entries = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
        folders = [entry for entry in entries if entry.is_dir()]
        dead = [printable(entry) for entry in entries if entry.is_symlink() and not entry.exists()]
    except OSError as error:
        raise DataError(f"cannot look into {printable(path)}: {error.strerror}", where="data.path") from error
    # It may have been a whole class once.
    if dead:
        raise DataError(
            f"{len(dead)} link{'s' * (len(dead) > 1)} to nothing in {printable(path)}",
            given=listed(dead),
            fix="mend or remove them",
        )
    return sorted(folders, key=lambda folder: natural(folder.name))


def _listing(part: Path) -> Files:
    found: Files = {}
    faults: list[str] = []
    for folder in _folders(part):
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            faults.append(f"{printable(folder)}: cannot be looked into: {error.strerror}")
            continue
        found[folder.name] = [p for p in entries if not p.name.startswith(".") and p.name.lower() not in _LITTER]
        for entry in found[folder.name]:
            if os.path.isdir(entry):
                faults.append(f"{printable(entry)}: a folder within a class folder")
            elif entry.suffix.lower() not in SUFFIXES:
                faults.append(f"{printable(entry)}: the suffix of no image kind that is read")
    if faults:
        raise DataError(
            f"{len(faults):,} things in {printable(part)} are no images",
            given=listed(faults, separator="\n            "),
            expected=f"files ending in {', '.join(sorted(SUFFIXES))}",
            fix="move them elsewhere",
        )
    return found


def _classes(path: Path, parts: Mapping[str, Files]) -> list[str]:
    classes = list(parts["train"])
    if len(classes) < 2:
        raise DataError(
            f"{printable(path)} holds {'a single class' if classes else 'no class folders'}",
            given=f"only {printable(classes[0])}" if classes else None,
            expected="at least two folders of images, each named as its class",
        )
    differences = [
        f"only in {name}: {_named(set(part) - set(classes))}; only in train: {_named(set(classes) - set(part))}"
        for name, part in parts.items()
        if set(part) != set(classes)
    ]
    if differences:
        raise DataError(
            f"the parts of {printable(path)} have different classes",
            given="\n            ".join(differences),
            fix="give every part one folder for each class, by the same names",
        )
    return classes


def _named(names: set[str]) -> str:
    return listed([printable(name) for name in sorted(names, key=natural)]) or "none"


def _refuse_empty(path: Path, parts: Mapping[str, Files]) -> None:
    empty = [
        printable(name if len(parts) == 1 else f"{part}/{name}")
        for part, classes in parts.items()
        for name, files in classes.items()
        if not files
    ]
    if empty:
        raise DataError(
            f"{len(empty):,} class folder{'s' * (len(empty) > 1)} in {printable(path)} hold no images",
            given=listed(empty),
            fix="add images, or remove the folders",
        )


def _labels(part: Files, classes: list[str]) -> torch.Tensor:
    number = {name: label for label, name in enumerate(classes)}
    return torch.tensor([number[name] for name, files in part.items() for _ in files])

"""Image folders: one folder of pictures for each class, with or without train/, val/ and test/ above them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tutelage.data.examples import Examples, Splits, leaks, split, split_off
from tutelage.errors import DataError

__all__ = ["load_folder", "natural"]

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
_MOST_PIXELS = 64_000_000


def natural(name: str) -> list[tuple[int, int | str]]:
    """A key by which "2" comes before "10"."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part]


def load_folder(path: Path, *, val: float, test: float, seed: int, image_size: int | None) -> Splits:
    """Read an image folder into memory as bytes.

    Raises:
        DataError: what is wrong with it, with all offenders counted and the first ten named.
    """
    if not path.is_dir():
        raise DataError(f"no folder {path}", where="data.path", expected="a folder with one sub-folder for each class")
    if not (path / "train").is_dir():
        return split(_read(path, None, image_size, path.name), val=val, test=test, seed=seed)
    whole = _read(path / "train", None, image_size, path.name)
    size = whole.shape[-1]
    parts: dict[str, Examples] = {}
    for name in ("val", "test"):
        if (path / name).is_dir():
            parts[name] = _read(path / name, whole, image_size or size, path.name)
    train = whole
    if "test" not in parts:
        train, parts["test"] = split_off(train, fraction=test, seed=seed + 1)
    if "val" not in parts:
        train, parts["val"] = split_off(train, fraction=val, seed=seed)
    splits = Splits(train, parts["val"], parts["test"])
    found = {where: count for where, count in leaks(splits).items() if count}
    if found:
        raise DataError(
            "the same pictures stand in two parts",
            where=str(path),
            given=", ".join(f"{count} of {where}" for where, count in found.items()),
            fix="remove them from one of the two, or results will look better than they are",
        )
    return splits


def _read(path: Path, like: Examples | None, image_size: int | None, name: str) -> Examples:
    folders = sorted((p for p in path.iterdir() if p.is_dir() and p.name[0] != "."), key=lambda p: natural(p.name))
    classes = [folder.name for folder in folders]
    if like is not None and set(classes) != set(like.classes):
        raise DataError(
            f"{path} has other classes than the training part",
            given=f"only here: {', '.join(sorted(set(classes) - set(like.classes))) or 'none'}",
            expected=f"missing here: {', '.join(sorted(set(like.classes) - set(classes))) or 'none'}",
            fix="give every part one folder for each class, by the same names",
        )
    if len(classes) < 2:
        raise DataError(
            f"{path} holds {'one class' if classes else 'no class folders'}",
            given=", ".join(classes) or "no folders",
            expected="at least two folders of pictures, one for each class",
        )
    files = [(file, label) for label, folder in enumerate(folders) for file in _pictures(folder)]
    empty = [classes[i] for i in range(len(classes)) if not any(label == i for _, label in files)]
    if empty:
        raise DataError(f"{len(empty)} class folder(s) in {path} hold no pictures", given=", ".join(empty[:10]))
    images = _decode([file for file, _ in files], image_size, channels=None if like is None else like.shape[0])
    labels = torch.tensor([label for _, label in files])
    return Examples.make(torch.from_numpy(images), labels, classes, name)


def _pictures(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES and not p.name.startswith("."))


def _decode(files: Sequence[Path], image_size: int | None, channels: int | None) -> NDArray[np.uint8]:
    """All pictures as (N, C, H, W): colour if any of them has colour, upright, of one size."""
    faults: list[str] = []
    images: list[Any] = []
    for file in files:
        try:
            images.append(_open(file))
        except Exception as error:
            faults.append(f"{file}: {_cause(error)}")
    if faults:
        raise DataError(
            f"{len(faults)} of {len(files)} pictures cannot be read",
            given="\n            ".join(faults[:10] + (["…"] if len(faults) > 10 else [])),
            fix="mend or remove these files",
        )
    colour = channels == 3 or (channels is None and any(image.mode not in ("L", "1", "I;16") for image in images))
    sizes = {image.size for image in images}
    if image_size is None and len(sizes) > 1:
        shown = sorted(sizes)[:5]
        raise DataError(
            f"the pictures have {len(sizes)} different sizes",
            given=", ".join(f"{w}×{h}" for w, h in shown) + (", …" if len(sizes) > 5 else ""),
            fix="set data.image_size, for instance 32",
        )
    arrays = []
    for image in images:
        converted = image.convert("RGB" if colour else "L")
        if image_size is not None and converted.size != (image_size, image_size):
            converted = converted.resize((image_size, image_size), resample=2)  # bilinear
        array = np.asarray(converted, dtype=np.uint8)
        arrays.append(array.transpose(2, 0, 1) if colour else array[None])
    return np.stack(arrays)


def _open(file: Path) -> Any:
    from PIL import Image, ImageOps

    with warnings.catch_warnings():
        # A picture with a doubtful size or metadata is refused, not guessed at.
        warnings.simplefilter("error")
        with Image.open(file) as image:
            if image.size[0] * image.size[1] > _MOST_PIXELS:
                raise ValueError(f"{image.size[0]}×{image.size[1]} pixels are too many")
            upright = ImageOps.exif_transpose(image)
            if upright.mode == "P" or "transparency" in upright.info:
                upright = upright.convert("RGBA")
            upright.load()
            return upright


def _cause(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "not a picture"
    if isinstance(error, FileNotFoundError):
        return "a link to nothing"
    return str(error) or type(error).__name__

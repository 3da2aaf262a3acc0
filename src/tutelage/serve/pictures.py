"""Pictures that came over the wire become inputs, by the rules that the pictures of a data set go by."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tutelage.data import images
from tutelage.errors import MismatchError
from tutelage.serve.refusals import RefusedError

__all__ = ["read_pictures"]

_FORMATS = ("PNG", "JPEG")


def read_pictures(files: Sequence[bytes], shape: tuple[int, ...], *, most: int) -> NDArray[np.float32]:
    """PNG or JPEG files as (B, C, H, W) in [0, 1], upright, grey or RGB as the model wants them.

    Where the model's inputs are square, a picture of another size is scaled until its shorter side fits, and cut to a
    square around its middle, as `data.image_size` does it.

    Args:
        files: their contents.
        shape: (C, H, W) of the model.
        most: bytes that all pictures may have together when they have the model's size.

    Raises:
        RefusedError: 413, too many; 422, one is no picture, damaged, of another size or too large; all together may
            not have more pixels than one alone.
    """
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise RefusedError(
            422, "this model does not take pictures", given=f"{len(files)} of them",
            expected=f"inputs of shape {shape}",
            fix="send numbers: JSON with `inputs`, or float32 as application/octet-stream",
        )  # fmt: skip
    if len(files) * math.prod(shape) > most:  # a file of 70 bytes may hold one pixel, and become a large picture
        raise RefusedError(
            413, "too many pictures", given=f"{len(files):,}", expected=f"{most // math.prod(shape):,} at most",
            fix="send fewer at a time",
        )  # fmt: skip
    left, found = images.MOST_PIXELS, list[NDArray[np.uint8]]()
    with images.strict():
        for number, file in enumerate(files):
            try:
                picture, pixels = _decoded(file, shape, left)
            except images.UnusableError as error:
                raise RefusedError(
                    422, f"picture {number} cannot be used", given=str(error), expected="a whole PNG or JPEG file"
                ) from None
            left -= pixels
            found.append(picture)
    return np.concatenate(found).astype(np.float32) / np.float32(255.0)


def _decoded(file: bytes, shape: tuple[int, ...], left: int) -> tuple[NDArray[np.uint8], int]:
    """One picture as (1, C, H, W) bytes, and how many pixels it had."""
    channels, height, width = shape
    found, pixels = images.decode(file, height if height == width else None, formats=_FORMATS, most=left)
    if found.shape[:2] != (height, width):
        raise images.UnusableError(f"{found.shape[1]}×{found.shape[0]} pixels, where the model takes {width}×{height}")
    try:
        return images.stack([found], channels=channels), pixels
    except MismatchError as error:  # pragma: no cover  one picture cannot differ from itself
        raise images.UnusableError(str(error)) from None

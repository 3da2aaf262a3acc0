"""An uploaded picture becomes what a run would have trained on: read, turned, scaled and coloured by the same code."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tutelage.data.images import printable, read_images, stack
from tutelage.errors import DataError

__all__ = ["MOST_BYTES", "as_pixels"]

MOST_BYTES = 32 * 2**20  # of a file


def as_pixels(data: bytes, shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """An image file → (C, H, W) float32 in [0, 1]: bytes divided by 255, as of training examples.

    Args:
        data: the file.
        shape: (C, H, W) of the run's images. To square ones a picture is scaled, and cut around its middle.

    Raises:
        DataError: it is no image, or of a kind whose conversion would be a guess.
    """
    channels, height, width = shape
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "picture"
        file.write_bytes(data)
        try:
            images = read_images([file], image_size=height if height == width else None)
        except DataError as error:
            why = (error.problem.given or "").removeprefix(f"{printable(file)}: ")
            raise DataError("this file cannot be used as an image", given=why) from None
    found = stack(images, channels=channels)[0]
    if found.shape[1:] != (height, width):
        raise DataError(
            "this picture is of another size than the run's images, which are not square, so that scaling is a guess",
            given=f"{found.shape[2]}×{found.shape[1]}", expected=f"{width}×{height}",
        )  # fmt: skip
    pixels: NDArray[np.float32] = found.astype(np.float32) / np.float32(255)
    return pixels

"""A column of pictures as bytes of one size: a view of rows that have other columns as well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tutelage.data.encoders.facts import reading
from tutelage.data.encoders.options import whole
from tutelage.data.images import refit
from tutelage.data.rows import Rows
from tutelage.errors import DataError, InputError

__all__ = ["Picture", "fit_picture", "picture_of"]

_LONGEST_SIDE = 4096


@final
@dataclass(frozen=True, slots=True)
class Picture:
    """A column of pictures to (N, C, H, W) uint8; made by `fit_picture` or `picture_of`."""

    column: str
    size: int | None
    shape: tuple[int, int, int]  # (C, H, W) of what comes out

    @property
    def vocabulary(self) -> int:
        """0: these are no tokens."""
        return 0

    @property
    def columns(self) -> tuple[str, ...]:
        """The column it reads."""
        return (self.column,)

    def encode(self, rows: Rows) -> Tensor:
        """The view (N, C, H, W) uint8: grey or RGB as in the training part, scaled where a size was asked for.

        Raises:
            InputError: there is no such column, or it holds no pictures.
            DataError: they have another size than those of the training part.
        """
        images = _pictures(rows, self.column)
        if not len(images):
            return torch.zeros(0, *self.shape, dtype=torch.uint8)
        channels = None if images.shape[1] == self.shape[0] else self.shape[0]
        images = refit(images, image_size=self.size, channels=channels)
        if images.shape[1:] != self.shape:
            raise DataError(
                "pictures of another size than those learned from", where=f"{rows.name}, {self.column}",
                given=str(images.shape[1:]), expected=str(self.shape), fix="set `size`, so that all are scaled to it",
            )  # fmt: skip
        return torch.from_numpy(np.ascontiguousarray(images))

    def facts(self) -> Mapping[str, Any]:
        """All that makes it again, as JSON."""
        return {"kind": "picture", "column": self.column, "size": self.size, "shape": list(self.shape)}


def fit_picture(rows: Rows, column: str, size: int | None = None) -> Picture:
    """How a column of pictures becomes inputs.

    Args:
        rows: the training part.
        column: with pictures, (N, C, H, W) uint8.
        size: side in pixels that they are scaled to; the longer side is cut evenly. None leaves them as they are.

    Raises:
        InputError: there is no such column, it holds no pictures, or the size is out of range.
        DataError: they are neither grey nor RGB, and were to be scaled.
    """
    size = None if size is None else whole("size", size, 1, _LONGEST_SIDE, where=f"{rows.name}, {column}")
    images = _pictures(rows, column)
    if not len(images):
        raise DataError("there are no pictures to learn from", where=f"{rows.name}, {column}")
    channels, height, width = refit(images[:1], image_size=size, channels=None).shape[1:]
    return Picture(column, size, (channels, height, width))


def picture_of(facts: Mapping[str, Any]) -> Picture:
    """A picture's encoder made again from its facts.

    Raises:
        DamagedError: they are not whole.
    """
    with reading("picture", facts):
        channels, height, width = (int(side) for side in facts["shape"])
        size = None if facts["size"] is None else int(facts["size"])
        return Picture(str(facts["column"]), size, (channels, height, width))


def _pictures(rows: Rows, column: str) -> NDArray[np.uint8]:
    images = rows.column(column)
    if images.ndim != 4 or images.dtype != np.uint8:
        raise InputError(
            f"the column `{column}` holds no pictures", where=rows.name,
            given=f"{images.dtype}, shape {images.shape}", expected="bytes of shape (N, C, H, W)",
        )  # fmt: skip
    return images

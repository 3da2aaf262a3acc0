"""What views do to pixels, given numbers that were drawn elsewhere: each image by itself, in elementwise operations.

Products and sums stand in operations of their own, each rounded as IEEE 754 says, so that no fused instruction of some
machine shows in the bits. For small images this is faster than torch's grid_sample as well.

    B batch · C channels · H, W height and width
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["boxes", "moved", "warped"]

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


def moved(images: Tensor, flip: NDArray[np.bool_], dx: Integers, dy: Integers, *, reach: int) -> Tensor:
    """Mirror images left to right where `flip` says so, then move their windows by (dx, dy), −reach … reach pixels.

    Works on bytes as well as on floats; what comes in from outside is zero.
    """
    pixels = images.numpy()
    if flip.any():
        pixels = pixels.copy()
        pixels[flip] = pixels[flip][..., ::-1]
    if reach:
        count, channels, height, width = pixels.shape
        frame = np.zeros((count, channels, height + 2 * reach, width + 2 * reach), pixels.dtype)
        frame[:, :, reach : reach + height, reach : reach + width] = pixels
        # A view of all windows of all images, of which one for each is copied, row by row.
        windows = np.lib.stride_tricks.sliding_window_view(frame, (height, width), axis=(2, 3))
        pixels = windows[np.arange(count), :, dy + reach, dx + reach]
    return torch.from_numpy(pixels)


def warped(images: Tensor, along: Floats, across: Floats, dx: Floats, dy: Floats) -> Tensor:
    """Resample images bilinearly where x' = along · x − across · y + dx and y' = across · x + along · y + dy.

    Coordinates count from the middle of the image; with along = s · cos φ and across = s · sin φ it is turned by φ, and
    a window of s of its size is enlarged. What comes in from outside is zero.
    """
    count, channels, height, width = images.shape
    a, b, c, d = (torch.from_numpy(v.astype(np.float32)).unsqueeze(1) for v in (along, across, dx, dy))
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    x = torch.arange(width, dtype=torch.float32) - middle_x
    y = torch.arange(height, dtype=torch.float32) - middle_y
    from_x = (a * x).unsqueeze(1) + (c + middle_x - b * y).unsqueeze(2)
    from_y = (b * x).unsqueeze(1) + (a * y + d + middle_y).unsqueeze(2)
    # A frame of one zero pixel stands for everything outside, so that no neighbour needs a test of its own.
    frame = F.pad(images, (1, 1, 1, 1)).reshape(count, channels, -1)
    from_x, from_y = from_x.clamp_(-1, width), from_y.clamp_(-1, height)
    left, top = from_x.floor().clamp_(max=width - 1), from_y.floor().clamp_(max=height - 1)
    right_share = (from_x - left).reshape(count, 1, -1)
    lower_share = (from_y - top).reshape(count, 1, -1)
    line = width + 2
    place = ((top + 1) * line + (left + 1)).long().reshape(count, 1, -1)

    def at(step: int) -> Tensor:
        return frame.gather(2, (place + step).expand(-1, channels, -1))

    def between(one: Tensor, other: Tensor, share: Tensor) -> Tensor:
        return other.sub_(one).mul_(share).add_(one)

    upper, lower = between(at(0), at(1), right_share), between(at(line), at(line + 1), right_share)
    return between(upper, lower, lower_share).reshape(images.shape)


def boxes(height: int, width: int, tall: Floats, wide: Floats, u: Floats, v: Floats) -> tuple[Tensor, Floats]:
    """Rectangles of given shares of height and width, placed wholly inside by u and v in [0, 1).

    Returns:
        Which pixels each covers, (B, 1, H, W) bool, and what share of all pixels that is, (B,).
    """
    h = np.minimum(np.rint(tall * height).astype(np.int64), height)
    w = np.minimum(np.rint(wide * width).astype(np.int64), width)
    top = np.floor(v * (height - h + 1)).astype(np.int64)
    left = np.floor(u * (width - w + 1)).astype(np.int64)
    rows, columns = np.arange(height), np.arange(width)
    in_rows = (rows >= top[:, None]) & (rows < (top + h)[:, None])
    in_columns = (columns >= left[:, None]) & (columns < (left + w)[:, None])
    covered = torch.from_numpy(in_rows[:, None, :, None] & in_columns[:, None, None, :])
    return covered, (h * w).astype(np.float64) / (height * width)

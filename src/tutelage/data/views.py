"""Random views that can be replayed: every draw is a function of (seed, epoch, id), so none is ever lost.

Draws come from integers; positions and mixtures are then computed by elementwise operations, each example by itself:
the same bits whatever the batch size, the order, the number of threads, or a restart. Partners of mixup and cutmix are
drawn from the whole training set, not from the batch, for the same reason.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tutelage.data.draws import mix, uniform
from tutelage.data.examples import Examples, as_model_input
from tutelage.errors import InputError
from tutelage.types import Batch

__all__ = ["Views", "view_batch"]

_FLIP, _DX, _DY, _ANGLE, _SIDE, _TX, _TY, _ERASE, _AREA, _SHAPE, _EX, _EY, _PARTNER, _SHARE, _CX, _CY = range(1, 17)


@final
@dataclass(frozen=True, slots=True)
class Views:
    """What may happen to an input, each off by default.

    Args:
        flip: probability of mirroring left and right.
        shift: up to this many pixels in both directions, the border filled with zeros.
        rotate: up to this many degrees to either side.
        crop: least share of the side that is kept and enlarged again; 1 keeps all.
        erase: probability of blanking a rectangle of 2 to 20 % of the area with zeros.
        mixup: α of the Beta(α, α) by which two examples are blended.
        cutmix: α of the Beta(α, α) by whose share a rectangle comes from another example.
    """

    flip: float = 0.0
    shift: int = 0
    rotate: float = 0.0
    crop: float = 1.0
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        bounds = {"flip": (0, 1), "shift": (0, 64), "rotate": (0, 180), "crop": (0.05, 1), "erase": (0, 1)}
        bounds |= {"mixup": (0, 100), "cutmix": (0, 100)}
        for name, (least, greatest) in bounds.items():
            if not least <= getattr(self, name) <= greatest:
                raise InputError(
                    f"the view `{name}` is out of range",
                    given=str(getattr(self, name)),
                    expected=f"{least} … {greatest}",
                )
        if self.mixup and self.cutmix:
            raise InputError("mixup and cutmix cannot both be on", fix="set one of them to 0")

    @property
    def random(self) -> bool:
        """Whether anything is on."""
        return any(getattr(self, field.name) != field.default for field in fields(self))

    @property
    def soft_targets(self) -> bool:
        """Whether targets become probabilities."""
        return bool(self.mixup or self.cutmix)

    @property
    def _for_images(self) -> list[str]:
        return [f.name for f in fields(self) if f.name != "mixup" and getattr(self, f.name) != f.default]

    def check(self, examples: Examples) -> None:
        """Refuse views that do not go with the data.

        Raises:
            InputError: image views for something that is no image, or a shift beyond the image.
        """
        if self._for_images and not examples.is_image:
            raise InputError(
                f"these inputs of shape {examples.shape} are no images",
                where="data.views",
                given=", ".join(self._for_images),
                expected="mixup, the only view that goes with any input",
            )
        if examples.is_image and self.shift >= min(examples.shape[1:]):
            raise InputError("the shift is larger than the image", given=f"{self.shift} of {examples.shape[1:]}")


def view_batch(examples: Examples, index: Tensor, views: Views, *, seed: int, epoch: int) -> Batch:
    """The chosen examples as they look in an epoch.

    Args:
        examples: the whole training set.
        index: (B,) which of them.
        views: what may happen.
        seed: of the run.
        epoch: counted from 0.

    Returns:
        Inputs (B, …) float32; labels (B,), or probabilities (B, C) where examples are mixed.
    """
    ids = examples.ids.index_select(0, index)
    inputs = _alone(examples, index, ids.numpy(), views, seed, epoch)
    target = examples.targets.index_select(0, index)
    if views.soft_targets:
        inputs, target = _mixed(examples, inputs, target, ids.numpy(), views, seed, epoch)
    number = int(mix(seed, epoch, 0x71E7)[0] >> np.uint64(1)) | 1 if views.random else 0
    return Batch(ids, {"x": inputs}, target, number)


def _alone(examples: Examples, index: Tensor, ids: NDArray[np.int64], views: Views, seed: int, epoch: int) -> Tensor:
    """The views that concern one example at a time."""
    raw = examples.inputs.index_select(0, index)
    if views.flip or views.shift:
        raw = _moved(raw, ids, views, seed, epoch)
    inputs = as_model_input(raw)
    if views.rotate or views.crop < 1.0:
        inputs = _warped(inputs, ids, views, seed, epoch)
    if views.erase:
        inputs = _erased(inputs, ids, views.erase, seed, epoch)
    return inputs


def _moved(raw: Tensor, ids: NDArray[np.int64], views: Views, seed: int, epoch: int) -> Tensor:
    """Flip and shift in one gather, on bytes where the images are bytes."""
    count, channels, height, width = raw.shape
    reach = views.shift
    span = 2 * reach + 1
    dx, dy = (np.floor(uniform(seed, epoch, ids, s) * span).astype(np.int64) for s in (_DX, _DY))
    columns = np.arange(width)[None, :] + dx[:, None]
    if views.flip:
        flipped = uniform(seed, epoch, ids, _FLIP) < views.flip
        columns = np.where(flipped[:, None], columns[:, ::-1], columns)
    rows = (np.arange(height)[None, :] + dy[:, None]) * (width + 2 * reach)
    places = torch.from_numpy((rows[:, :, None] + columns[:, None, :]).reshape(count, 1, -1))
    padded = F.pad(raw, (reach, reach, reach, reach)) if reach else raw
    flat = padded.reshape(count, channels, -1)
    return flat.gather(2, places.expand(-1, channels, -1)).view(count, channels, height, width)


def _warped(inputs: Tensor, ids: NDArray[np.int64], views: Views, seed: int, epoch: int) -> Tensor:
    """Rotation and crop as one bilinear resampling; what lies outside is zero."""
    count, channels, height, width = inputs.shape
    angle = (2.0 * uniform(seed, epoch, ids, _ANGLE) - 1.0) * views.rotate
    side = views.crop + (1.0 - views.crop) * uniform(seed, epoch, ids, _SIDE)
    free = 1.0 - side
    # Sines of the C library, one by one: vectorised ones may differ in the last bit by where in the array they stand.
    cos = np.array([math.cos(math.radians(a)) for a in angle.tolist()]) * side
    sin = np.array([math.sin(math.radians(a)) for a in angle.tolist()]) * side
    tx = free * (2.0 * uniform(seed, epoch, ids, _TX) - 1.0) * (width - 1) / 2
    ty = free * (2.0 * uniform(seed, epoch, ids, _TY) - 1.0) * (height - 1) / 2
    c, s, x0, y0 = (torch.from_numpy(v.astype(np.float32)).view(-1, 1, 1) for v in (cos, sin, tx, ty))
    gx = (torch.arange(width, dtype=torch.float32) - (width - 1) / 2).view(1, 1, -1)
    gy = (torch.arange(height, dtype=torch.float32) - (height - 1) / 2).view(1, -1, 1)
    x = c * gx - s * gy + x0 + (width - 1) / 2
    y = s * gx + c * gy + y0 + (height - 1) / 2
    left, top = x.floor(), y.floor()
    wx, wy = (x - left).unsqueeze(1), (y - top).unsqueeze(1)
    flat = inputs.reshape(count, channels, -1)

    def at(column: Tensor, row: Tensor) -> Tensor:
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        place = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long().view(count, 1, -1)
        value = flat.gather(2, place.expand(-1, channels, -1)).view(count, channels, height, width)
        return torch.where(inside.unsqueeze(1), value, 0.0)

    upper = at(left, top) * (1.0 - wx) + at(left + 1, top) * wx
    lower = at(left, top + 1) * (1.0 - wx) + at(left + 1, top + 1) * wx
    return upper * (1.0 - wy) + lower * wy


def _erased(inputs: Tensor, ids: NDArray[np.int64], probability: float, seed: int, epoch: int) -> Tensor:
    _, _, height, width = inputs.shape
    happens = uniform(seed, epoch, ids, _ERASE) < probability
    area = (0.02 + 0.18 * uniform(seed, epoch, ids, _AREA)) * happens
    ratio = 0.4 + 2.1 * uniform(seed, epoch, ids, _SHAPE)
    inside, _ = _boxes(
        height, width, np.sqrt(area * ratio), np.sqrt(area / ratio), uniform(seed, epoch, ids, _EX),
        uniform(seed, epoch, ids, _EY),
    )  # fmt: skip
    return torch.where(inside.unsqueeze(1), 0.0, inputs)


def _boxes(
    height: int,
    width: int,
    tall: NDArray[np.float64],
    wide: NDArray[np.float64],
    u: NDArray[np.float64],
    v: NDArray[np.float64],
) -> tuple[Tensor, NDArray[np.float64]]:
    """Rectangles of given shares of height and width, wholly inside; which pixels they cover, and what share of all."""
    h = np.minimum(np.rint(tall * height).astype(np.int64), height)
    w = np.minimum(np.rint(wide * width).astype(np.int64), width)
    top = np.floor(v * (height - h + 1)).astype(np.int64)
    left = np.floor(u * (width - w + 1)).astype(np.int64)
    rows, columns = np.arange(height)[None, :], np.arange(width)[None, :]
    in_rows = (rows >= top[:, None]) & (rows < (top + h)[:, None])
    in_columns = (columns >= left[:, None]) & (columns < (left + w)[:, None])
    covered = torch.from_numpy(in_rows[:, :, None] & in_columns[:, None, :])
    return covered, (h * w).astype(np.float64) / (height * width)


def _mixed(
    examples: Examples,
    inputs: Tensor,
    target: Tensor,
    ids: NDArray[np.int64],
    views: Views,
    seed: int,
    epoch: int,
) -> tuple[Tensor, Tensor]:
    """Every example with a partner, which has its own views; labels are mixed as the inputs were."""
    from scipy.special import betaincinv

    alpha = views.mixup or views.cutmix
    partner = torch.from_numpy((mix(seed, epoch, _PARTNER, ids) % np.uint64(len(examples))).astype(np.int64))
    partner_ids = examples.ids.index_select(0, partner).numpy()
    others = _alone(examples, partner, partner_ids, views, seed, epoch)
    share = np.asarray(betaincinv(alpha, alpha, uniform(seed, epoch, ids, _SHARE)), dtype=np.float64)
    if views.mixup:
        weight = torch.from_numpy(share.astype(np.float32)).view(-1, *[1] * (inputs.ndim - 1))
        inputs = inputs * weight + others * (1.0 - weight)
    else:
        height, width = inputs.shape[-2:]
        side = np.sqrt(1.0 - share)
        inside, covered = _boxes(
            height, width, side, side, uniform(seed, epoch, ids, _CX), uniform(seed, epoch, ids, _CY)
        )
        inputs = torch.where(inside.unsqueeze(1), others, inputs)
        share = 1.0 - covered
    kept = torch.from_numpy(share.astype(np.float32)).unsqueeze(1)
    classes = len(examples.classes)
    partner_target = examples.targets.index_select(0, partner)
    return inputs, F.one_hot(target, classes) * kept + F.one_hot(partner_target, classes) * (1.0 - kept)

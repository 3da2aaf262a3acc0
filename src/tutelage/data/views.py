"""Random views that can be replayed: every draw is a function of (seed, epoch, id), so none is ever lost.

Partners of mixup and cutmix are drawn from the whole training set, not from the batch, and come with the view they have
in this epoch themselves. So a view is the same bits whatever the batch size, the order, the number of threads, or a
restart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tutelage.data.draws import Stream, mix, uniform
from tutelage.data.examples import Examples, as_model_input
from tutelage.data.pixels import boxes, moved, warped
from tutelage.data.tasks import further_targets
from tutelage.errors import InputError
from tutelage.types import Batch

__all__ = ["Views", "view_batch", "view_number"]

# Angles are multiples of 1/1024 of the greatest one: finer than a pixel, and few enough for a table.
_ANGLES = 1024


@final
@dataclass(frozen=True, slots=True)
class Views:
    """What may happen to an input, each off by default; they follow each other in this order.

    Args:
        flip: probability of mirroring left and right.
        shift: up to this many pixels in both directions, the border filled with zeros.
        rotate: up to this many degrees to either side, the corners filled with zeros.
        crop: least share of the side that is kept and enlarged again; 1 keeps all.
        erase: probability of blanking a rectangle of 2 to 20 % of the area with zeros.
        mixup: α of the Beta(α, α) by which two examples are blended.
        cutmix: α of the Beta(α, α) by whose share a rectangle comes from another example.

    Raises:
        InputError: a value is out of range, or both mixup and cutmix are on.
    """

    flip: float = 0.0
    shift: int = 0
    rotate: float = 0.0
    crop: float = 1.0
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        most = {"flip": 1, "rotate": 180, "erase": 1, "mixup": math.inf, "cutmix": math.inf, "shift": math.inf}
        for name, greatest in most.items():
            value = getattr(self, name)
            # Comparisons with NaN are false, so it is refused as well.
            if not 0 <= value <= greatest or value == math.inf or (name == "shift" and int(value) != value):
                least = "a whole number ≥ 0" if name == "shift" else "a number ≥ 0"
                raise InputError(
                    f"the view `{name}` is out of range",
                    given=value,
                    expected=least if greatest == math.inf else f"0 … {greatest}",
                )
        if not 0.0 < self.crop <= 1.0:
            raise InputError("the view `crop` is out of range", given=self.crop, expected="above 0, up to 1 (off)")
        if self.mixup and self.cutmix:
            raise InputError("only one of mixup and cutmix can be on", fix="set one of them to 0")

    @property
    def random(self) -> bool:
        """Whether anything is on."""
        return bool(self._on)

    @property
    def soft_targets(self) -> bool:
        """Whether targets become probabilities."""
        return bool(self.mixup or self.cutmix)

    @property
    def _on(self) -> list[str]:
        return [field.name for field in fields(self) if getattr(self, field.name) != field.default]

    def check(self, examples: Examples) -> None:
        """Refuse views that do not go with the data.

        Raises:
            InputError: image views for something that is no image, or a shift beyond the image.
        """
        if self._on and (examples.vocabulary or (self.soft_targets and examples.views)):
            what = "tokens" if examples.vocabulary else "examples that are read in several views"
            raise InputError(
                f"these views are not for {what}", where="data.views", given=", ".join(self._on), fix="turn them off"
            )
        for_images = [name for name in self._on if name != "mixup"]
        if for_images and not examples.is_image:
            raise InputError(
                f"inputs of shape {examples.shape} are not images, which these views are for",
                where="data.views",
                given=", ".join(for_images),
                expected="mixup, the only view that works for any input",
                fix=f"turn off {', '.join(for_images)}",
            )
        if examples.is_image and self.shift >= min(examples.shape[1:]):
            height, width = examples.shape[1:]
            raise InputError(
                "the shift is as large as the image",
                where="data.views",
                given=f"shift {self.shift} for images of {height}×{width}",
                expected=f"less than {min(height, width)}",
            )


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Draw:
    """The numbers of one epoch for some examples."""

    seed: int
    epoch: int
    ids: NDArray[np.int64]

    def __call__(self, stream: Stream) -> NDArray[np.float64]:
        return uniform(self.seed, self.epoch, self.ids, stream)

    def both_ways(self, stream: Stream) -> NDArray[np.float64]:
        """In [−1, 1)."""
        return 2.0 * self(stream) - 1.0

    def steps(self, stream: Stream, reach: int) -> NDArray[np.int64]:
        """Whole numbers, −reach … reach."""
        return np.floor(self(stream) * (2 * reach + 1)).astype(np.int64) - reach


def view_batch(examples: Examples, index: Tensor, views: Views, *, seed: int, epoch: int) -> Batch:
    """The chosen examples as they look in an epoch.

    Args:
        examples: the whole training set.
        index: (B,) which of them.
        views: what may happen.
        seed: of the run.
        epoch: counted from 0.

    Returns:
        Inputs (B, …) float32; labels (B,), or probabilities (B, C) where examples are mixed. Its view is 0 where
        nothing is random, and otherwise a number that stands for (seed, epoch).

    Raises:
        InputError: the views do not go with these examples.
    """
    views.check(examples)
    ids, target = examples.ids.index_select(0, index), examples.targets.index_select(0, index)
    further = further_targets(examples, index)
    if not views.random:
        return Batch(ids, examples.seen(index), target, tasks=further)
    if views.soft_targets:
        inputs, (target, *rest) = _mixed(examples, index, views, _Draw(seed, epoch, ids.numpy()))
        further = dict(zip(further, rest, strict=True))
    else:
        inputs = _alone(examples, index, views, _Draw(seed, epoch, ids.numpy()))
    # What others read is as it is: only what students read is moved, cut and coloured.
    others = {name: as_model_input(view.index_select(0, index)) for name, view in examples.views.items()}
    return Batch(ids, {"x": inputs, **others}, target, view_number(seed, epoch), tasks=further)


def view_number(seed: int, epoch: int) -> int:
    """What a batch of random views of an epoch carries as its `view`: 63 bits, never 0."""
    return int(mix(seed, epoch, Stream.VIEW)) >> 1 | 1


def _alone(examples: Examples, index: Tensor, views: Views, draw: _Draw) -> Tensor:
    """The views that concern one example at a time."""
    raw = examples.inputs.index_select(0, index)
    if views.flip or views.shift:
        flip = draw(Stream.FLIP) < views.flip
        dx, dy = draw.steps(Stream.SHIFT_X, views.shift), draw.steps(Stream.SHIFT_Y, views.shift)
        raw = moved(raw, flip, dx, dy, reach=int(views.shift))
    inputs = as_model_input(raw)
    if views.rotate or views.crop < 1.0:
        inputs = _warped(inputs, views, draw)
    if views.erase:
        inputs = _erased(inputs, views.erase, draw)
    return inputs


def _warped(inputs: Tensor, views: Views, draw: _Draw) -> Tensor:
    """Rotation and crop as one resampling."""
    height, width = inputs.shape[-2:]
    cos, sin = _turns(views.rotate)
    angle = np.floor(draw(Stream.ANGLE) * len(cos)).astype(np.int64)
    side = views.crop + (1.0 - views.crop) * draw(Stream.SIDE)
    # The window stays within the centres of the outermost pixels: a crop alone brings in nothing from outside.
    dx = (1.0 - side) * draw.both_ways(Stream.CROP_X) * ((width - 1) / 2)
    dy = (1.0 - side) * draw.both_ways(Stream.CROP_Y) * ((height - 1) / 2)
    return warped(inputs, side * cos[angle], side * sin[angle], dx, dy)


@lru_cache(maxsize=8)
def _turns(greatest: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cosines and sines of all angles. One by one: vectorised ones may depend on where in an array they stand."""
    angles = [math.radians(greatest * step / _ANGLES) for step in range(-_ANGLES, _ANGLES + 1)]
    return np.array([math.cos(a) for a in angles]), np.array([math.sin(a) for a in angles])


def _erased(inputs: Tensor, probability: float, draw: _Draw) -> Tensor:
    """A rectangle of 2 to 20 % of the area, at most two and a half times as long as wide, set to zero."""
    height, width = inputs.shape[-2:]
    area = 0.02 + 0.18 * draw(Stream.ERASE_AREA)
    ratio = 0.4 + 2.1 * draw(Stream.ERASE_SHAPE)
    happens = draw(Stream.ERASE) < probability
    tall = np.maximum(np.sqrt(area * ratio), 1 / height) * happens
    wide = np.maximum(np.sqrt(area / ratio), 1 / width) * happens
    covered, _ = boxes(height, width, tall, wide, draw(Stream.ERASE_X), draw(Stream.ERASE_Y))
    return inputs.masked_fill(covered, 0.0)


def _mixed(examples: Examples, index: Tensor, views: Views, draw: _Draw) -> tuple[Tensor, list[Tensor]]:
    """Every example with a partner, which has its own views; labels of all tasks are mixed as the inputs were."""
    from scipy.special import betaincinv

    partner = np.floor(draw(Stream.PARTNER) * len(examples)).astype(np.int64)
    both = torch.cat([index, torch.from_numpy(partner)])
    seen = _alone(examples, both, views, _Draw(draw.seed, draw.epoch, examples.ids.index_select(0, both).numpy()))
    inputs, others = torch.split(seen, len(index))
    alpha = views.mixup or views.cutmix
    share = np.asarray(betaincinv(alpha, alpha, draw(Stream.SHARE)), dtype=np.float64)
    if views.mixup:
        weight = _column(share, inputs.ndim)
        inputs = inputs * weight + others * (1.0 - weight)
    else:
        side = np.sqrt(1.0 - share)
        height, width = inputs.shape[-2:]
        covered, area = boxes(height, width, side, side, draw(Stream.PATCH_X), draw(Stream.PATCH_Y))
        inputs = torch.where(covered, others, inputs)
        share = 1.0 - area  # what was really pasted, in whole pixels
    kept = _column(share, 2)
    targets = []
    for labels, classes in zip(examples.labels.values(), examples.sizes.values(), strict=True):
        one, other = torch.split(F.one_hot(labels.index_select(0, both), classes), len(index))
        targets.append(one * kept + other * (1.0 - kept))
    return inputs, targets


def _column(values: NDArray[np.float64], dimensions: int) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).reshape(-1, *[1] * (dimensions - 1))

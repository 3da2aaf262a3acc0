"""A trained model made smaller: blocks left out, channels cut, ranks lowered, single weights set to zero."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.compress.lowrank import Rank, lower_rank
from tutelage.compress.masks import mask, maskable, masks_for
from tutelage.compress.structured import cut_channels
from tutelage.compress.thinning import Thin, thin
from tutelage.errors import InputError, ModelError

__all__ = ["Prune", "Shrink", "Smaller", "shrink"]

_ASKED = 256  # examples at a time, where gradients are taken
_ENOUGH = 64  # examples to take the statistics of batch norms from
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@final
@dataclass(frozen=True, slots=True)
class Prune:
    """What goes, and how much of it.

    Args:
        to: what is left, in (0, 1): of `of` where channels go, of the weights where single ones do.
        of: "multiply_adds" or "parameters", of the whole model.
        by: how importance is told: "magnitude", "taylor" (the first-order change of the loss) or "random".
        kind: "structured", whole channels; "unstructured", single weights, which stay zero while the rest learns.

    Raises:
        InputError: a value that cannot be.
    """

    to: float
    of: Literal["multiply_adds", "parameters"] = "multiply_adds"
    by: Literal["magnitude", "taylor", "random"] = "magnitude"
    kind: Literal["structured", "unstructured"] = "structured"

    def __post_init__(self) -> None:
        good = self.of in ("multiply_adds", "parameters") and self.by in ("magnitude", "taylor", "random")
        if not 0 < self.to < 1 or not good or self.kind not in ("structured", "unstructured"):
            raise InputError("a model cannot be pruned like this", given=str(self), expected="to in (0, 1)")


@final
@dataclass(frozen=True, slots=True)
class Shrink:
    """All that is done to a model, in this order; None leaves a part out."""

    layers: Thin | None = None
    prune: Prune | None = None
    rank: Rank | None = None

    def __bool__(self) -> bool:
        return (self.layers or self.prune or self.rank) is not None


@final
@dataclass(frozen=True, slots=True, eq=False)
class Smaller:
    """A model that was made smaller, and how its shapes are made again; see `steps.rebuilt`."""

    module: nn.Module
    steps: tuple[Mapping[str, Any], ...]


def shrink(
    module: nn.Module,
    how: Shrink,
    examples: Tensor,
    targets: Tensor,
    *,
    classes: int | None = None,
    early: nn.Module | None = None,
) -> Smaller:
    """A smaller copy of a trained model, in train mode and all of it learning.

    The same model, plan and examples give the same copy. Channels are cut by the extra `compress`. Batch norms take
    their statistics anew from the examples, since what they read is no longer what it was: of a net whose channels were
    halved, this alone can be the difference between chance and most of its accuracy.

    Args:
        module: (B, …) -> logits (B, outputs).
        how: what to do.
        examples: (N, …) float32 on the module's device, of the training part; some hundreds. Fewer than 64 leave the
            statistics of batch norms as they are.
        targets: (N,) int64, their classes.
        classes: the first so many outputs are those of the targets; None: all.
        early: the same net with earlier weights, which the masked copy of `kind="unstructured"` starts from
            (Frankle and Carbin 2019, ICLR, arXiv 1803.03635; Frankle et al. 2020, ICML, arXiv 1912.05671).

    Raises:
        ModelError: the model cannot be made so small, or cannot be asked any more.
        MissingExtraError: Torch-Pruning is not installed.
    """
    if len(examples) < 2 or len(examples) != len(targets):
        raise InputError("two or more examples are needed", given=f"{len(examples)}, {len(targets)} targets")
    small = copy.deepcopy(module).requires_grad_(True).eval()
    shape = _shape(small, examples)
    width = classes or shape[1]
    steps: list[Mapping[str, Any]] = []
    if how.layers is not None:
        steps.append(thin(small, how.layers))
    prune = how.prune
    if prune is not None and prune.kind == "structured":
        steps.append(
            cut_channels(
                small, to=prune.to, of=prune.of, by=prune.by, examples=examples, targets=targets, classes=width
            )
        )
    if how.rank is not None:
        steps.append(lower_rank(small, how.rank, examples[:2]))
    if prune is not None and prune.kind == "unstructured":
        masks = _masks(small, prune, examples, targets, width)
        if early is not None:
            small = copy.deepcopy(early).requires_grad_(True).eval()
        mask(small, masks)
        kept, all_ = sum(int(one.sum()) for one in masks.values()), sum(one.numel() for one in masks.values())
        steps.append({"how": "zeros", "share": 1 - kept / all_})
    if steps and early is None and len(examples) >= _ENOUGH:
        _take_statistics(small, examples)
    if _shape(small, examples) != shape:
        raise ModelError("the smaller model answers in another shape", given=str(_shape(small, examples)))
    return Smaller(small.train(), tuple(steps))


def _shape(module: nn.Module, examples: Tensor) -> tuple[int, ...]:
    try:
        with torch.no_grad():
            return tuple(module(examples[:2]).shape)
    except Exception as error:
        raise ModelError(
            "the model can no longer be asked",
            given=" ".join(f"{type(error).__name__}: {error}".split())[:200],
            fix="name other layers, or make it smaller in another way",
        ) from error


@torch.no_grad()
def _take_statistics(module: nn.Module, examples: Tensor) -> None:
    """Mean and variance of what every batch norm reads now, each batch counting the same."""
    norms = [layer for layer in module.modules() if isinstance(layer, _NORMS) and layer.track_running_stats]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    if norms:
        for part in torch.split(examples, _ASKED):
            if len(part) >= _ENOUGH:
                module(part)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
        norm.eval()


def _masks(module: nn.Module, how: Prune, examples: Tensor, targets: Tensor, classes: int) -> dict[str, Tensor]:
    weights = maskable(module)
    if not weights:
        raise ModelError("this model has no weights of linear layers or convolutions that could be zero")
    if how.by == "random":
        generator = torch.Generator().manual_seed(0)
        scores = {path: torch.rand(weight.shape, generator=generator) for path, weight in weights.items()}
    elif how.by == "taylor":
        for start in range(0, len(examples), _ASKED):
            part = slice(start, start + _ASKED)
            loss = F.cross_entropy(module(examples[part])[:, :classes], targets[part], reduction="sum")
            loss.backward()  # type: ignore[no-untyped-call]
        # What has no gradient changes no loss.
        scores = {
            path: torch.zeros_like(weight) if weight.grad is None else (weight * weight.grad).abs()
            for path, weight in weights.items()
        }
        for parameter in module.parameters():
            parameter.grad = None
    else:
        scores = {path: weight.abs() for path, weight in weights.items()}
    keep = round(how.to * sum(score.numel() for score in scores.values()))
    return masks_for({path: score.detach().cpu() for path, score in scores.items()}, max(keep, 1))

"""A student that ends in its teacher's last layer: its own layers, a projector, and the teacher's classifier (SimKD).

    x ─► the student up to a layer ─► projector ─► mean over places ─► the teacher's last layer ─► logits

Projector and classifier ship with the student, which is the larger for them.

Shapes:  B batch · C channels of the student's map · D channels of the teacher's · H, W height and width.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import asdict, dataclass
from typing import Any, Self, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.errors import ModelError
from tutelage.losses.vectors import pooled
from tutelage.models.heads import head_of
from tutelage.taps import Taps, feature_name
from tutelage.types import Logits, Outputs

__all__ = ["HeadFacts", "Projector", "check_read", "reuse_head", "take_head", "with_head"]

# How far apart the teacher's logits and its last layer's may be, as a share of their range: what half precision and
# eight bits in a store round.
_CLOSE = 0.05


@final
class Projector(nn.Module):
    """(B, C, H, W) → (B, D, H, W): convolutions 1×1, 3×3 and 1×1, D / factor channels between them.

    Each is followed by a batch norm and a ReLU and has no bias. A map that is larger than `size` is averaged first.
    """

    def __init__(self, channels: int, width: int, size: tuple[int, int], factor: int) -> None:
        super().__init__()
        self.size = size
        inner = max(width // factor, 1)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU(),
            nn.Conv2d(inner, inner, 3, padding=1, bias=False), nn.BatchNorm2d(inner), nn.ReLU(),
            nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.layers(pooled(x, [min(pair) for pair in zip(x.shape[2:], self.size, strict=True)]))
        return projected


@final
@dataclass(frozen=True, slots=True)
class HeadFacts:
    """By which a student with its teacher's last layer is built again; its file holds the numbers.

    Args:
        at: the student's layer that the projector follows.
        last: the student's own last layer, in whose place the teacher's stands.
        channels: C.
        width: D.
        size: H, W of the teacher's map.
        classes: that the teacher's last layer puts out.
        bias: whether it has one.
        factor: by which the projector is narrower inside.
    """

    at: str
    last: str
    channels: int
    width: int
    size: tuple[int, int]
    classes: int
    bias: bool
    factor: int

    def to_json(self) -> dict[str, Any]:
        """For a student's file of facts."""
        return asdict(self) | {"size": list(self.size)}

    @classmethod
    def of_json(cls, facts: dict[str, Any]) -> Self:
        """What `to_json` wrote."""
        return cls(**facts | {"size": tuple(facts["size"])})


def with_head(student: nn.Module, facts: HeadFacts) -> nn.Module:
    """A student rebuilt for its teacher's last layer, whose numbers are still to come; it is changed in place.

    The layer `facts.at` then puts out what the projector does: that is where a loss compares it with the teacher's map.
    """
    before = student.get_submodule(facts.at)
    projector = Projector(facts.channels, facts.width, facts.size, facts.factor).train(before.training)
    chain = nn.Sequential(OrderedDict(layer=before, projector=projector))
    chain.training = before.training  # and nothing inside it, which may be frozen
    student.set_submodule(facts.at, chain)
    last = nn.Linear(facts.width, facts.classes, bias=facts.bias).requires_grad_(False)
    student.set_submodule(facts.last, last.train(student.training))
    return student


def take_head(student: nn.Module, head: nn.Linear, facts: HeadFacts) -> nn.Module:
    """The same student with the teacher's last layer filled in."""
    student.get_submodule(facts.last).load_state_dict(head.state_dict())
    return student


def reuse_head(
    student: nn.Module, teacher: nn.Module, *, at: str | tuple[str, str], example: Tensor, factor: int = 2
) -> tuple[nn.Module, HeadFacts]:
    """A copy of a student that ends in its teacher's last layer, and the facts by which it is built again.

    Train it by `hint` alone, at the same layers: the student's layer `at` puts out the projected map. The last layer
    does not learn.

    Args:
        student: maps (B, …) to logits by its layer `at`, a mean over places and a linear layer.
        teacher: likewise.
        at: the layer of each side whose map is averaged; a text where both are called the same.
        example: two or more inputs, (B, …).
        factor: by which the projector is narrower inside than the teacher's map, ≥ 1.

    Raises:
        ModelError: a layer that is not there or puts out no map; a model that does more with it than a mean and a
            linear layer.

    Reference: Chen, Mei, Zhang, Wang, Feng, Chen 2022, "Knowledge distillation with the reused teacher classifier",
    CVPR, arXiv 2203.14001.
    """
    own, other = (at, at) if isinstance(at, str) else at
    ours, theirs = _asked(student, own, example, "the student"), _asked(teacher, other, example, "the teacher")
    for whose, (name, feature, _) in (("student", ours), ("teacher", theirs)):
        if feature.ndim != 4:
            raise ModelError(
                f"the {whose}'s layer `{name}` puts out no map", given=f"{feature.ndim} dimensions",
                expected="(B, C, H, W)", fix="name the last convolutional stage",
            )  # fmt: skip
    _, told, logits = theirs
    head = check_read(head_of(teacher, Outputs(logits)), told, logits)
    facts = HeadFacts(
        ours[0], _last(student, ours[2].shape[-1]), ours[1].shape[1], told.shape[1], (told.shape[2], told.shape[3]),
        head.out_features, head.bias is not None, factor,
    )  # fmt: skip
    made = take_head(with_head(copy.deepcopy(student), facts), head.cpu(), facts).to(example.device)
    _check_made(made, head, facts, example)
    return made, facts


def check_read(head: nn.Linear | None, feature: Tensor, logits: Logits) -> nn.Linear:
    """The teacher's last layer, once it is seen to be what makes its logits of a feature averaged over places.

    Args:
        head: the layer; see `models.heads.head_of`.
        feature: (B, D) or (B, D, H, W), what the teacher's layer put out.
        logits: (B, C) what the teacher answered to the same examples.

    Raises:
        ModelError: it is not known, or it makes other logits of this feature.
    """
    if head is None or not isinstance(logits, Tensor):
        raise ModelError(
            "the teacher's last linear layer is not known",
            expected="one torch module that ends in nn.Linear, and all of its logits",
            fix="use one live teacher or a store that keeps all logits, or another loss",
        )
    mean = feature.mean((2, 3)) if feature.ndim == 4 else feature
    if mean.ndim != 2 or mean.shape[1] != head.in_features:
        raise ModelError(
            "the teacher's last layer does not read this layer",
            given=f"a feature (B, {', '.join(map(str, feature.shape[1:]))})",
            expected=f"(B, {head.in_features}) or (B, {head.in_features}, H, W)",
            fix="name the teacher's layer right in front of its last one, or of the mean over places before that",
        )
    with torch.no_grad():
        bias = None if head.bias is None else head.bias.float()
        found = F.linear(mean.float(), head.weight.float(), bias)
        told = logits.float()
        error, spread = float((found - told).abs().max()), float(told.max() - told.min())
    if not error <= _CLOSE * spread:
        raise ModelError(
            "the teacher's last layer makes other logits of this layer than the teacher does",
            given=f"logits up to {error:.3g} apart, on a range of {spread:.3g}",
            expected="what the last layer reads, as it is or before the mean over places",
            fix="name the teacher's layer right in front of its last one, or of the mean over places before that",
        )
    return head


def _asked(module: nn.Module, place: str, example: Tensor, whose: str) -> tuple[str, Tensor, Tensor]:
    """The one layer that a place means, what it puts out, and the logits; the module is left as it was."""
    modes = [(layer, layer.training) for layer in module.modules()]
    module.eval()
    with torch.no_grad(), Taps(module, [place]) as taps:
        logits: object = module(example)
        kept = taps.take()
    for layer, mode in modes:
        layer.training = mode
    if not isinstance(logits, Tensor):
        raise ModelError(
            f"{whose} does not answer with logits", given=type(logits).__name__, expected="a tensor (B, C)"
        )
    name = feature_name(kept, place, whose)
    return name, kept[name], logits


def _last(student: nn.Module, classes: int) -> str:
    """The path of the student's own last layer."""
    layers: dict[str, nn.Module] = dict(student.named_modules())
    names = [name for name, one in layers.items() if isinstance(one, nn.Linear) and one.out_features == classes]
    if not names:
        raise ModelError(
            "the student has no last linear layer to put the teacher's in place of",
            expected=f"nn.Linear with {classes} outputs", fix="use a model that ends in one",
        )  # fmt: skip
    return names[-1]


def _check_made(made: nn.Module, head: nn.Linear, facts: HeadFacts, example: Tensor) -> None:
    """That what stands between the projector and the last layer is a mean over places and nothing else."""
    try:
        _, projected, logits = _asked(made, facts.at, example, "the student")
        expected = F.linear(
            projected.mean((2, 3)), head.weight.to(projected), None if head.bias is None else head.bias.to(projected)
        )
        same = torch.allclose(logits, expected, rtol=1e-3, atol=1e-4)
    except RuntimeError as error:
        raise _other_way(facts.at, str(error).splitlines()[0]) from error
    if not same:
        raise _other_way(facts.at, f"logits up to {float((logits - expected).abs().max()):.3g} apart")


def _other_way(at: str, given: str) -> ModelError:
    return ModelError(
        f"the student does more with its layer `{at}` than a mean over places and a linear layer", given=given,
        fix="name the layer right in front of the mean, or use another student",
    )  # fmt: skip

"""Students that learn with the rounding they will ship with.

A quantised layer rounds its weight and its input while it computes in float32; the gradient passes straight through
the rounding, and stops at what was cut off (Jacob et al., CVPR 2018, arXiv 1712.05877). Weights are symmetric, with one
scale for every output channel. A batch norm behind the layer multiplies each of these channels by one number, so the
codes of a folded weight are those of the plain one: nothing has to be folded while the student learns.

    progress   0 ─────────── after ─────────── still ─────────── 1
    training   ranges watched   rounded, watched   rounded, ranges and statistics of batch norms stand
    eval mode  rounded with the ranges so far, so that validation always judges what will ship
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast, final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tutelage.errors import DamagedError, InputError, ModelError

__all__ = [
    "BITS", "Quantise", "grid", "is_quantised", "quantise", "ranges_of", "requantised", "roundable", "row_scales",
    "unquantised", "walk", "watch",
]  # fmt: skip

BITS = {"int8": 8, "int4": 4}
_LEVELS = 255  # of an activation: 0 … 255
_MOMENTUM = 0.01  # of a range: it follows about a hundred batches
_READERS = (nn.MultiheadAttention, nn.TransformerEncoderLayer)  # which read weights past their layers
_WATCHES, _ROUNDS, _STANDS = range(3)
_DAMAGED = "the ranges that this student learned are not what was written"


@final
@dataclass(frozen=True, slots=True)
class Quantise:
    """How a student is rounded.

    Args:
        weights: "int8" or "int4".
        activations: "int8", what goes into every rounded layer; "float" leaves that as it is.
        after: the share of training after which it learns with rounding.
        still: the share after which ranges and the statistics of batch norms do not move any more.
    """

    weights: str = "int8"
    activations: str = "int8"
    after: float = 0.5
    still: float = 0.9

    def __post_init__(self) -> None:
        if self.weights not in BITS or self.activations not in ("int8", "float"):
            raise InputError(
                "there is no such rounding", given=f"weights {self.weights}, activations {self.activations}",
                expected="weights int8 or int4, activations int8 or float",
            )  # fmt: skip
        if not 0 <= self.after <= self.still <= 1:
            raise InputError(
                "rounding begins before ranges stand still", given=f"after {self.after:g}, still {self.still:g}",
                expected="0 ≤ after ≤ still ≤ 1",
            )  # fmt: skip


@final
class _Clock(nn.Module):
    """How far training is; kept with the weights, so that a checkpoint knows."""

    stage: Tensor

    def __init__(self, how: Quantise) -> None:
        super().__init__()
        self.how = how
        self.register_buffer("stage", torch.tensor(_WATCHES, dtype=torch.uint8))

    def walk(self, progress: float) -> None:
        now = _STANDS if progress >= self.how.still else _ROUNDS if progress >= self.how.after else _WATCHES
        self.stage.fill_(now)

    def forward(self, x: Tensor) -> Tensor:
        """Nothing: of a chain it becomes the last link."""
        return x

    def hold(self, layer: nn.Module, _: object) -> None:
        """Before a batch norm runs: whether its statistics still move."""
        if layer.training and int(self.stage) == _STANDS:
            layer.training = False


@final
class _Range(nn.Module):
    """The range of what goes into one layer: a moving mean of the least and the greatest number of every batch."""

    ends: Tensor
    clock: _Clock

    def __init__(self, clock: _Clock) -> None:
        super().__init__()
        self.__dict__["clock"] = clock  # the student's own child, not one of every layer
        self.register_buffer("ends", torch.zeros(2))  # both 0: nothing was seen

    @torch.no_grad()
    def see(self, x: Tensor) -> None:
        # 0 is always within, so that it is a number of the grid: padding and what a ReLU cuts are exact.
        low, high = x.detach().float().aminmax()
        now = torch.stack([low.clamp(max=0.0), high.clamp(min=0.0)])
        self.ends.copy_(torch.where(self.ends[1] > self.ends[0], self.ends.lerp(now, _MOMENTUM), now))

    def forward(self, x: Tensor) -> Tensor:
        stage = int(self.clock.stage)
        if self.training:
            if stage != _STANDS:
                self.see(x)
            if stage == _WATCHES:
                return x
        scale, zero = grid(self.ends)
        if scale is None:
            return x
        found: Tensor = torch.fake_quantize_per_tensor_affine(x.float(), scale, zero, 0, _LEVELS)
        return found


def grid(ends: Tensor) -> tuple[Any, Any]:
    """The scale and the code of 0 that a range (2,) leads to; (None, None) where nothing was seen."""
    low, high = ends.unbind()
    if not bool(high > low):
        return None, None
    scale = (high - low) / _LEVELS
    return scale, (-low / scale).round().clamp(0, _LEVELS).to(torch.int32)


def row_scales(weight: Tensor, bits: int) -> Tensor:
    """One scale for every output channel (O,): max|w| over the greatest code, which is that of the least, negated."""
    greatest = weight.detach().float().flatten(1).abs().amax(1)
    scales: Tensor = greatest.clamp(min=torch.finfo(torch.float32).tiny * 2**10) / (2 ** (bits - 1) - 1)
    return scales


def _rounded(layer: nn.Linear | nn.Conv1d | nn.Conv2d) -> Tensor:
    bits = BITS[_clock_of(layer).how.weights]
    most = 2 ** (bits - 1) - 1
    weight = layer.weight.float()
    zeros = torch.zeros(len(weight), dtype=torch.int32, device=weight.device)
    found: Tensor = torch.fake_quantize_per_channel_affine(weight, row_scales(weight, bits), zeros, 0, -most, most)
    return found


def _clock_of(layer: nn.Module) -> _Clock:
    return cast(_Range, layer.get_submodule("seen")).clock


def _ready(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Input and weight as the layer computes with them just now."""
    weight = cast(Tensor, layer.weight)
    seen = cast(_Range, layer.get_submodule("seen"))
    how, stage = seen.clock.how, int(seen.clock.stage)
    if how.activations != "float":
        x = seen(x)
    return x, weight if layer.training and stage == _WATCHES else _rounded(layer)  # type: ignore[arg-type]


# The class of a layer is exchanged, not the layer: its parameters, its path and whoever listens to it stay.


class _Linear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  torch's name for it
        x, weight = _ready(self, input)
        return nn.functional.linear(x, weight, self.bias)


class _Conv1d(nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        x, weight = _ready(self, input)
        found: Tensor = self._conv_forward(x, weight, self.bias)
        return found


class _Conv2d(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        x, weight = _ready(self, input)
        found: Tensor = self._conv_forward(x, weight, self.bias)
        return found


_KINDS: Mapping[type[nn.Module], type[nn.Module]] = {nn.Linear: _Linear, nn.Conv1d: _Conv1d, nn.Conv2d: _Conv2d}
_PLAIN = {rounded: plain for plain, rounded in _KINDS.items()}


def roundable(module: nn.Module) -> dict[str, nn.Module]:
    """The layers that can be rounded, by path: linear ones and convolutions that are called as such."""
    inside = {
        id(part) for one in module.modules() if isinstance(one, _READERS) for part in one.modules() if part is not one
    }
    return {
        path: layer
        for path, layer in module.named_modules()
        if type(layer) in _KINDS and path and id(layer) not in inside
    }


def quantise(module: nn.Module, how: Quantise) -> nn.Module:
    """Let a module learn with rounding; in place, and the module is returned. Its weights are as they were.

    Raises:
        ModelError: it has no layer that can be rounded.
        InputError: it is quantised already.
    """
    if is_quantised(module):
        raise InputError("the module is quantised already")
    layers = roundable(module)
    if not layers:
        raise ModelError("no layer of this model can be rounded", expected="linear layers or convolutions")
    clock = _Clock(how)
    for layer in layers.values():
        layer.__class__ = _KINDS[type(layer)]
        weight = cast(Tensor, layer.weight)
        layer.add_module("seen", _Range(clock).to(weight.device).train(layer.training))
    for norm in module.modules():
        if isinstance(norm, _BatchNorm):
            norm.register_forward_pre_hook(clock.hold)
    module.add_module("rounding", clock)
    return module


def is_quantised(module: nn.Module) -> bool:
    """Whether `quantise` was here."""
    return isinstance(getattr(module, "rounding", None), _Clock)


def walk(module: nn.Module, progress: float) -> None:
    """Tell a quantised module how far its training is, 0 … 1; any other hears nothing."""
    if is_quantised(module):
        cast(_Clock, module.rounding).walk(progress)


def unquantised(module: nn.Module) -> nn.Module:
    """The module with its float weights alone: a copy; one that is not quantised is given back itself."""
    if not is_quantised(module):
        return module
    plain = copy.deepcopy(module)
    for layer in plain.modules():
        if type(layer) in _PLAIN:
            layer.__class__ = _PLAIN[type(layer)]
            del layer.seen
        for key in [key for key, hook in layer._forward_pre_hooks.items() if _holds(hook)]:
            del layer._forward_pre_hooks[key]
    del plain.rounding
    return plain


def _holds(hook: object) -> bool:
    return isinstance(getattr(hook, "__self__", None), _Clock)


def _ranges(module: nn.Module) -> Iterator[tuple[str, _Range]]:
    for path, layer in module.named_modules():
        if type(layer) in _PLAIN:
            yield path, cast(_Range, layer.seen)


def watch(module: nn.Module, inputs: Tensor) -> None:
    """Let a quantised module see examples (N, …) whose ranges stand for those it did not learn; weights stay."""
    was, clock = module.training, cast(_Clock, module.rounding)
    stage = clock.stage.clone()
    module.eval()
    for _, one in _ranges(module):
        one.training = True
    clock.stage.fill_(_WATCHES)
    with torch.no_grad():
        module(inputs)
    clock.stage.copy_(stage)
    module.train(was)


def ranges_of(module: nn.Module) -> dict[str, Any]:
    """What was learned beside the weights, as JSON: {weights, activations, ranges {path: [least, greatest]}}."""
    how = cast(_Clock, module.rounding).how
    found = {path: [float(end) for end in one.ends] for path, one in _ranges(module)}
    return {"weights": how.weights, "activations": how.activations, "ranges": found}


def requantised(module: nn.Module, told: Mapping[str, Any] | None) -> nn.Module:
    """A plain module rounded as it learned to be, in eval mode: a copy; with nothing told it is given back itself.

    Args:
        module: with the weights that belong to them.
        told: what `ranges_of` gave, as its JSON.

    Raises:
        DamagedError: it is something else, or of another net.
    """
    if told is None:
        return module
    try:
        found = quantise(copy.deepcopy(module), Quantise(str(told["weights"]), str(told["activations"])))
        given = {str(path): [float(end) for end in ends] for path, ends in told["ranges"].items()}
        if given.keys() != dict(_ranges(found)).keys():
            raise ValueError(f"ranges of {', '.join(sorted(given)[:5])}")
        for path, one in _ranges(found):
            low, high = given[path]
            if not (-float("inf") < low <= 0 <= high < float("inf")):
                raise ValueError(f"{path}: {low} … {high}")
            one.ends.copy_(torch.tensor([low, high]))
    except (AttributeError, InputError, KeyError, ModelError, TypeError, ValueError) as error:
        raise DamagedError(_DAMAGED, given=repr(error)[:200], fix="restore the file from a copy") from error
    walk(found, 1.0)
    return found.eval()

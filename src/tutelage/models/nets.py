"""Small networks that train in minutes on two CPU cores, each a plain module of one page.

They are students first: what counts is accuracy per second and per byte. One measured fact shapes them: on a CPU a
batch norm and a ReLU at full resolution cost more than the convolution before them, so the convolutional nets halve the
picture in the first convolution of a stage, not after it.

Shape legend:  B batch · C channels · H, W height and width · T tokens · D features
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.errors import InputError, ModelError

__all__ = ["NETS", "Cnn", "Dscnn", "Gru", "Mlp", "NetInfo", "Transformer", "parameter_count"]


@final
class Mlp(nn.Module):
    """`depth` hidden layers of `width`, over the flattened input of any shape."""

    def __init__(
        self, input_shape: tuple[int, ...], classes: int, *, width: int = 64, depth: int = 2, dropout: float = 0.0
    ) -> None:
        super().__init__()
        _check_sizes(width=width, depth=depth)
        _check_dropout(dropout)
        layers: list[nn.Module] = [nn.Flatten()]
        features = math.prod(input_shape)
        for _ in range(depth):
            layers += [nn.Linear(features, width), nn.ReLU(), nn.Dropout(dropout)]
            features = width
        self.hidden = nn.Sequential(*layers)
        self.head = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.hidden(x))
        return logits


@final
class Cnn(nn.Module):
    """`depth` stages of two 3×3 convolutions, their widths `width` × 1, 1.5, 2, …, then the mean over the picture.

    The first convolution of a stage halves the picture as long as four pixels a side remain, so 8×8 digits and 224×224
    photographs take the same net.
    """

    def __init__(
        self, input_shape: tuple[int, ...], classes: int, *, width: int = 16, depth: int = 3, dropout: float = 0.0
    ) -> None:
        super().__init__()
        channels, side = _picture("cnn", input_shape)
        _check_sizes(width=width, depth=depth)
        _check_dropout(dropout)
        self.stages = nn.Sequential()
        for out in _stage_widths(width, depth):
            stride, side = _halve(side)
            self.stages.append(nn.Sequential(*_convolution(channels, out, stride=stride), *_convolution(out, out)))
            channels = out
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(self.stages(x).mean((2, 3))))
        return logits


@final
class Dscnn(nn.Module):
    """A strided 3×3 convolution, then `depth` stages of two depthwise separable ones.

    A depthwise convolution here is followed by its pointwise one at once: a batch norm and ReLU between them cost a
    quarter of the time.
    """

    def __init__(
        self, input_shape: tuple[int, ...], classes: int, *, width: int = 32, depth: int = 3, dropout: float = 0.0
    ) -> None:
        super().__init__()
        channels, side = _picture("dscnn", input_shape)
        _check_sizes(width=width, depth=depth)
        _check_dropout(dropout)
        stride, side = _halve(side)
        self.stem = nn.Sequential(*_convolution(channels, width, stride=stride))
        self.stages = nn.Sequential()
        channels = width
        for number, out in enumerate(_stage_widths(width, depth)):
            stride, side = _halve(side) if number else (1, side)
            self.stages.append(nn.Sequential(*_separable(channels, out, stride=stride), *_separable(out, out)))
            channels = out
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(self.stages(self.stem(x)).mean((2, 3))))
        return logits


@final
class Gru(nn.Module):
    """`depth` recurrent layers of `width` over time steps; of a picture, its rows from top to bottom."""

    def __init__(
        self, input_shape: tuple[int, ...], classes: int, *, width: int = 64, depth: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        _check_sizes(width=width, depth=depth)
        _check_dropout(dropout)
        self.picture = _is_picture("gru", input_shape)
        features = input_shape[0] * input_shape[2] if self.picture else input_shape[1]
        # Between layers only: torch warns about dropout after a single one.
        between = dropout if depth > 1 else 0.0
        self.recurrent = nn.GRU(features, width, num_layers=depth, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        if self.picture:
            x = x.transpose(1, 2).flatten(2)  # (B, C, H, W) -> (B, H, C·W)
        states, _ = self.recurrent(x)
        logits: Tensor = self.head(self.dropout(states[:, -1]))
        return logits


@final
class _Block(nn.Module):
    """Self-attention and two linear layers, each after a layer norm and added to what came in."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.joined = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.query_key_value(self.norm_attention(x)).unflatten(2, (3, self.heads, -1))  # (B, T, 3, heads, D)
        query, key, value = mixed.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = x + self.dropout(self.joined(attended))
        added: Tensor = x + self.dropout(self.mlp(self.norm_mlp(x)))
        return added


@final
class Transformer(nn.Module):
    """`depth` self-attention blocks over tokens with learned positions; of a picture, patches of `patch`² pixels."""

    def __init__(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        *,
        width: int = 48,
        depth: int = 3,
        heads: int = 4,
        patch: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        _check_sizes(width=width, depth=depth, heads=heads, patch=patch)
        _check_dropout(dropout)
        if width % heads:
            raise ModelError(
                "the heads of a transformer share its width evenly",
                given=f"width={width}, heads={heads}",
                expected=f"a width that {heads} divides",
                fix=f"width={-(-width // heads) * heads}",
            )
        self.picture = _is_picture("transformer", input_shape)
        self.embed: nn.Conv2d | nn.Linear
        if self.picture:
            tokens = _patches(input_shape, patch)
            self.embed = nn.Conv2d(input_shape[0], width, patch, stride=patch)
        else:
            tokens = input_shape[0]
            self.embed = nn.Linear(input_shape[1], width)
        self.positions = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.blocks = nn.Sequential(*(_Block(width, heads, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x)
        if self.picture:
            tokens = tokens.flatten(2).transpose(1, 2)  # (B, D, H', W') -> (B, T, D)
        logits: Tensor = self.head(self.norm(self.blocks(tokens + self.positions)).mean(1))
        return logits


@dataclass(frozen=True, slots=True)
class NetInfo:
    """What a listing says about a net."""

    make: Callable[
        ..., nn.Module
    ]  # (input_shape, classes, **args) -> a net that maps (B, *input_shape) to (B, classes)
    line: str
    reads: str
    parameters: int  # with default args, for 1×28×28 pictures and 10 classes

    @property
    def args(self) -> Mapping[str, int | float]:
        """Its arguments and their defaults, read from the constructor so that no list can go stale."""
        parameters = inspect.signature(self.make).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


NETS: dict[str, NetInfo] = {
    "cnn": NetInfo(Cnn, "convolutions with batch norm: the best accuracy per CPU second", "images", 27_834),
    "dscnn": NetInfo(Dscnn, "depthwise separable convolutions: the fewest parameters", "images", 16_938),
    "gru": NetInfo(Gru, "a recurrent net over time steps or image rows", "sequences, images", 18_698),
    "mlp": NetInfo(Mlp, "fully connected layers over the flattened input", "anything", 55_050),
    "transformer": NetInfo(Transformer, "self-attention over tokens or image patches", "sequences, images", 60_634),
}


def parameter_count(module: nn.Module) -> int:
    """How many numbers a module has to learn; shared ones count once."""
    return sum(parameter.numel() for parameter in module.parameters())


def _convolution(channels: int, out: int, *, stride: int = 1) -> list[nn.Module]:
    # No bias: the batch norm that follows would subtract it again.
    return [
        nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(),
    ]


def _separable(channels: int, out: int, *, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False),
        nn.Conv2d(channels, out, 1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(),
    ]


def _stage_widths(width: int, depth: int) -> list[int]:
    # Growing by halves, not doubling: less than half the parameters of a doubling net, and multiples of 8 stay so.
    return [width * (2 + stage) // 2 for stage in range(depth)]


def _halve(side: int) -> tuple[int, int]:
    """The stride of a stage and the side it leaves."""
    return (2, (side + 1) // 2) if side >= 8 else (1, side)


def _picture(net: str, input_shape: tuple[int, ...]) -> tuple[int, int]:
    if len(input_shape) != 3:
        raise ModelError(
            f"`{net}` reads images",
            given=f"examples of shape {input_shape}",
            expected="(channels, height, width)",
            fix="mlp reads any shape; gru and transformer read (time steps, features) too",
        )
    return input_shape[0], min(input_shape[1:])


def _is_picture(net: str, input_shape: tuple[int, ...]) -> bool:
    if len(input_shape) not in (2, 3):
        raise ModelError(
            f"`{net}` reads sequences or images",
            given=f"examples of shape {input_shape}",
            expected="(time steps, features) or (channels, height, width)",
            fix="mlp reads any shape",
        )
    return len(input_shape) == 3


def _patches(input_shape: tuple[int, ...], patch: int) -> int:
    _, height, width = input_shape
    if height % patch or width % patch:
        sizes = [size for size in range(2, min(height, width) + 1) if height % size == 0 and width % size == 0]
        raise ModelError(
            f"patches of {patch} pixels do not tile images of {height}×{width}",
            given=f"patch={patch}",
            expected="a patch size that divides height and width",
            fix=f"patch={min(sizes, key=lambda size: abs(size - patch), default=1)}",
        )
    return (height // patch) * (width // patch)


def _check_sizes(**sizes: int) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise InputError(f"`{name}` is too small", given=f"{name}={value}", expected="a whole number from 1")


def _check_dropout(dropout: float) -> None:
    if not 0.0 <= dropout < 1.0:
        raise InputError("`dropout` is a share of units", given=f"dropout={dropout}", expected="a number in [0, 1)")

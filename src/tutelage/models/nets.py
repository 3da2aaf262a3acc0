"""Small networks that train in minutes on two CPU cores, each a plain module of one page.

They are students first: what counts is accuracy per second and per byte. One measured fact shapes them: on a CPU a
batch norm and a ReLU at full resolution cost more than the convolution before them, so the convolutional nets halve the
picture in the first convolution of a stage, not after it.

Shape legend:  B batch · C channels · H, W height and width · T steps or tokens · D features
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.errors import ModelError
from tutelage.models.sizes import check_dropout, check_sizes
from tutelage.models.textnets import Bag, Embedding, Mean, attended, is_text, last_state

__all__ = ["NETS", "Bag", "Cnn", "Dscnn", "Gru", "Mlp", "NetInfo", "Transformer", "parameter_count"]


@final
class Mlp(nn.Module):
    """`depth` hidden layers of `width`, over the flattened input of any shape; with `depth` 0 it is a linear model."""

    def __init__(
        self, input_shape: tuple[int, ...], classes: int, *, width: int = 64, depth: int = 2, dropout: float = 0.0
    ) -> None:
        super().__init__()
        check_sizes(width=width)
        check_sizes(0, depth=depth)
        check_dropout(dropout)
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
        check_sizes(width=width, depth=depth)
        check_dropout(dropout)
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
        check_sizes(width=width, depth=depth)
        check_dropout(dropout)
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
    """`depth` recurrent layers of `width` over time steps or tokens; of a picture, its rows from top to bottom."""

    def __init__(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        *,
        vocabulary: int = 0,
        width: int = 64,
        depth: int = 1,
        rank: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(width=width, depth=depth)
        check_dropout(dropout)
        self.text = is_text("gru", input_shape, vocabulary, rank)
        self.picture = not self.text and _is_picture("gru", input_shape)
        if self.text:
            features = width
            self.embed = Embedding(vocabulary, width, rank)
        else:
            features = input_shape[0] * input_shape[2] if self.picture else input_shape[1]
        # Between layers only: torch warns about dropout after a single one.
        between = dropout if depth > 1 else 0.0
        self.recurrent = nn.GRU(features, width, num_layers=depth, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        steps = x
        if self.picture:
            steps = x.transpose(1, 2).flatten(2)  # (B, C, H, W) -> (B, H, C·W)
        elif self.text:
            steps = self.embed(x)
        states, _ = self.recurrent(steps)
        logits: Tensor = self.head(self.dropout(last_state(states, x) if self.text else states[:, -1]))
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

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        mixed = self.query_key_value(self.norm_attention(x)).unflatten(2, (3, self.heads, -1))  # (B, T, 3, heads, D)
        query, key, value = mixed.permute(2, 0, 3, 1, 4)
        seen = None if mask is None else mask[:, None, None]
        heard = F.scaled_dot_product_attention(query, key, value, attn_mask=seen).transpose(1, 2).flatten(2)
        x = x + self.dropout(self.joined(heard))
        added: Tensor = x + self.dropout(self.mlp(self.norm_mlp(x)))
        return added


@final
class _Blocks(nn.Sequential):
    """Blocks in a row, all of which look only where the mask (B, T) says."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self:
            x = block(x, mask)
        return x


@final
class Transformer(nn.Module):
    """`depth` self-attention blocks over steps or tokens with learned positions; of a picture, patches of `patch`²
    pixels."""

    def __init__(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        *,
        vocabulary: int = 0,
        width: int = 48,
        depth: int = 3,
        heads: int = 4,
        patch: int = 4,
        rank: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(width=width, depth=depth, heads=heads, patch=patch)
        check_dropout(dropout)
        if width % heads:
            raise ModelError(
                "the heads of a transformer share its width evenly",
                given=f"width={width}, heads={heads}",
                expected=f"a width that {heads} divides",
                fix=f"width={-(-width // heads) * heads}",
            )
        self.text = is_text("transformer", input_shape, vocabulary, rank)
        self.picture = not self.text and _is_picture("transformer", input_shape)
        self.embed: nn.Conv2d | nn.Linear | Embedding
        if self.picture:
            tokens = _patches(input_shape, patch)
            self.embed = nn.Conv2d(input_shape[0], width, patch, stride=patch)
        else:
            tokens = input_shape[0]
            self.embed = Embedding(vocabulary, width, rank) if self.text else nn.Linear(input_shape[1], width)
        self.positions = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.blocks = _Blocks(*(_Block(width, heads, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.pool = Mean()
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x)
        if self.picture:
            tokens = tokens.flatten(2).transpose(1, 2)  # (B, D, H', W') -> (B, T, D)
        # A text may be shorter than the longest one: what stands behind it is left out in any case.
        positions = self.positions[: x.shape[1]] if self.text else self.positions
        mask = attended(x) if self.text else None
        states = self.norm(self.blocks(tokens + positions, mask))
        logits: Tensor = self.head(self.pool(states, mask))
        return logits


@dataclass(frozen=True, slots=True)
class NetInfo:
    """What a listing says about a net."""

    net: Callable[..., nn.Module]
    line: str
    reads: str
    parameters: (
        int  # with default args and 10 classes, for 1×28×28 pictures, or 64 of 8,000 tokens where it reads no other
    )

    def make(self, input_shape: tuple[int, ...], classes: int, **args: Any) -> nn.Module:
        """A net that maps (B, *input_shape) to (B, classes), or tokens (B, L) where `vocabulary` counts them.

        Raises:
            InputError: an argument that cannot be.
            ModelError: the net does not read such examples.
        """
        if "vocabulary" in args and not self.tokens:
            able = ", ".join(name for name, info in NETS.items() if info.tokens)
            raise ModelError(
                f"`{self.net.__name__.lower()}` reads no tokens", given=f"rows of {input_shape[0]} tokens",
                expected=f"one of {able}; hf:<type> of a text model",
                fix="name one of these, or make the view of `words` in place of `tokens`",
            )  # fmt: skip
        return self.net(input_shape, classes, **args)

    @property
    def tokens(self) -> bool:
        """Whether it reads tokens, being told how many there are."""
        return "vocabulary" in inspect.signature(self.net).parameters

    @property
    def args(self) -> Mapping[str, int | float]:
        """Its arguments and their defaults, read from the constructor so that no list can go stale."""
        parameters = inspect.signature(self.net).parameters.values()
        found = {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
        found.pop("vocabulary", None)  # which follows from the data
        return found


NETS: dict[str, NetInfo] = {
    "bag": NetInfo(
        Bag, "the mean over tokens, then fully connected layers: fast, and linear with depth 0", "tokens", 516_810
    ),
    "cnn": NetInfo(Cnn, "convolutions with batch norm: the best accuracy per CPU second", "images", 27_834),
    "dscnn": NetInfo(Dscnn, "depthwise separable convolutions: the fewest parameters", "images", 16_938),
    "gru": NetInfo(Gru, "a recurrent net over time steps, tokens or image rows", "sequences, tokens, images", 18_698),
    "mlp": NetInfo(Mlp, "fully connected layers over the flattened input", "anything but tokens", 55_050),
    "transformer": NetInfo(
        Transformer, "self-attention over steps, tokens or image patches", "sequences, tokens, images", 60_634
    ),
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

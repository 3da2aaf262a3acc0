"""Small networks that train in minutes on two CPU cores, each a plain module of one page.

They are students first: what counts is accuracy per second and per byte. One measured fact shapes them: on a CPU a
batch norm and a ReLU at full resolution cost more than the convolution before them, so the convolutional nets halve the
picture in the first convolution of a stage, not after it.

Shape legend:  B batch · C channels · H, W height and width · L tokens
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor, nn

from tutelage.errors import ModelError
from tutelage.models.sequencenets import Gru, Transformer
from tutelage.models.sizes import check_dropout, check_sizes
from tutelage.models.textnets import Bag

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
        """A net that maps (B, *input_shape) to (B, classes), or tokens (B, L) where `vocabulary` counts them; with
        `separator` to (B, 2L).

        Raises:
            InputError: an argument that cannot be.
            ModelError: the net does not read such examples, or does not answer with places.
        """
        if "separator" in args and not self.places:
            able = ", ".join(name for name, info in NETS.items() if info.places)
            raise ModelError(
                f"`{self.net.__name__.lower()}` does not say where in a text an answer is",
                given="questions about texts", expected=f"one of {able}; hf:<type> of a model for questions",
            )  # fmt: skip
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
    def places(self) -> bool:
        """Whether it can answer with places of tokens, being told which token ends a text."""
        return "separator" in inspect.signature(self.net).parameters

    @property
    def args(self) -> Mapping[str, int | float]:
        """Its arguments and their defaults, read from the constructor so that no list can go stale."""
        parameters = inspect.signature(self.net).parameters.values()
        found = {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
        return {name: default for name, default in found.items() if name not in _OF_DATA}


_OF_DATA = frozenset({"vocabulary", "separator"})  # what nobody says, as it follows from the data

NETS: dict[str, NetInfo] = {
    "bag": NetInfo(
        Bag, "the mean over tokens, then fully connected layers: fast, and linear with depth 0", "tokens", 516_810
    ),
    "cnn": NetInfo(Cnn, "convolutions with batch norm: the best accuracy per CPU second", "images", 27_834),
    "dscnn": NetInfo(Dscnn, "depthwise separable convolutions: the fewest parameters", "images", 16_938),
    "gru": NetInfo(
        Gru, "a recurrent net over time steps, tokens or image rows; answers questions with places",
        "sequences, tokens, images", 18_698,
    ),
    "mlp": NetInfo(Mlp, "fully connected layers over the flattened input", "anything but tokens", 55_050),
    "transformer": NetInfo(
        Transformer, "self-attention over steps, tokens or image patches; answers questions with places",
        "sequences, tokens, images", 60_634,
    ),
}  # fmt: skip


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

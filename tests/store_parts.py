"""Small examples, teachers and questions for the tests of the store."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from tutelage.data import Examples, Views
from tutelage.store import Built, Capture, Question, build, codec_of, draws_of
from tutelage.teachers import ModuleTeacher, Teacher

SIDE = 6
NAMES = ("a", "b", "c", "d")


class Rows(nn.Module):
    """A linear layer that sums every row for itself: the same bits in any batch, unlike a matrix product."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.bias = nn.Parameter(torch.randn(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return (x.unsqueeze(1) * self.weight).sum(-1) + self.bias


class Shifted(nn.Module):
    """Normalisation with numbers that are no weights, but buffers."""

    def __init__(self, mean: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean))

    def forward(self, x: Tensor) -> Tensor:
        return x - self.mean


def net(
    seed: int = 0,
    *,
    inputs: int = SIDE * SIDE,
    classes: int = len(NAMES),
    activation: Callable[[], nn.Module] = nn.ReLU,
    mean: float = 0.5,
) -> nn.Sequential:
    """A teacher that answers to a row alone as in any batch."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            OrderedDict(
                flat=nn.Flatten(),
                shift=Shifted(mean),
                hidden=Rows(inputs, 8),
                act=activation(),
                head=Rows(8, classes),
            )
        )


def examples(
    count: int = 40,
    *,
    seed: int = 0,
    names: Sequence[str] = NAMES,
    channels: int = 1,
    floats: bool = False,
) -> Examples:
    """Random bytes as images, or the same as numbers in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randint(0, 256, (count, channels, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    return Examples.make(inputs / 255 if floats else inputs, torch.arange(count) % len(names), names, "set")


def question(
    of: Examples,
    views: Views | None = None,
    choice: str | int = "none",
    *,
    seeds: Sequence[int] = (0,),
    epochs: int = 1,
) -> Question:
    """Plain examples, K recorded views, or all that these seeds and epochs will draw."""
    random = views or Views()
    return Question(of, random, draws_of(choice, random, seeds=seeds, epochs=epochs))


def capture(
    of: Teacher | nn.Module,
    codec: str = "fp32",
    *,
    temperature: float = 1.0,
    precision: str = "32",
    device: str = "cpu",
    places: tuple[str, ...] = (),
) -> Capture:
    """How a module, or any other teacher, is asked."""
    teacher = ModuleTeacher(of, places=places) if isinstance(of, nn.Module) else of
    return Capture(
        teacher.answer, teacher.fingerprint(), codec_of(codec, temperature), precision, device, places
    )  # fmt: skip


def stored(root: Path, asked: Question, how: Capture) -> Built:
    """A store that is up to date."""
    return build(root, asked, how)

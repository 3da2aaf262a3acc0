"""What the tests of ensembles and of their losses share: members that say given things, and float64 references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tutelage.teachers import EnsembleTeacher
from tutelage.types import Batch, Outputs

CLASSES = 4
MEANS = ["mean_probabilities", "mean_logits", "entropy", "confidence"]
OF_PROBABILITIES = ["mean_probabilities", "entropy", "confidence"]
RANDOM = ["random_example", "random_step"]
PRINTED = 5.1e-7

Array = np.ndarray

every_mean = pytest.mark.parametrize("how", MEANS)


def batch(count: int = 6, *, seed: int = 1, view: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 1, 8, 8, generator=generator)
    ids = torch.randint(-(2**62), 2**62, (count,), generator=generator)
    return Batch(ids, {"x": x}, torch.randint(0, CLASSES, (count,), generator=generator), view)


def stack(count: int = 3, rows: int = 6, *, seed: int = 0, classes: int = CLASSES, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, rows, classes, generator=generator, dtype=torch.float64) * scale


class Says(nn.Module):
    """Anything that answers: the given outputs for the given ids, and a list of the batches it was asked about."""

    def __init__(self, ids: Tensor, logits: Tensor, features: dict[str, Tensor] | None = None) -> None:
        super().__init__()
        self.rows = {int(one): row for row, one in enumerate(ids)}
        self.logits, self.features = logits, features or {}
        self.asked: list[list[int]] = []

    def answer(self, batch: Batch) -> Outputs:
        self.asked.append(batch.ids.tolist())
        index = torch.tensor([self.rows[one] for one in self.asked[-1]])
        return Outputs(self.logits[index], {place: one[index] for place, one in self.features.items()})

    def fingerprint(self) -> str:
        return str(self.logits.tolist())

    def to(self, device: torch.device) -> None:
        self.logits = self.logits.to(device)


class Plain:
    """The same without being a module, as a protocol asks."""

    def __init__(self, ids: Tensor, logits: Tensor, features: dict[str, Tensor] | None = None) -> None:
        said = Says(ids, logits, features)
        self.answer, self.fingerprint, self.to, self.asked = said.answer, said.fingerprint, said.to, said.asked


def members(of: Tensor, asked: Batch) -> list[Plain]:
    return [Plain(asked.ids, one) for one in of]


def answer(of: Tensor, asked: Batch, **options: object) -> Tensor:
    logits = EnsembleTeacher(members(of, asked), **options).answer(asked).logits  # type: ignore[arg-type]
    assert isinstance(logits, Tensor)
    return logits


def options_of(how: str) -> dict[str, object]:
    return {"how": how} | ({"temperature": 3.0} if how in OF_PROBABILITIES else {})


# The equations again, in NumPy


def softmax(logits: Array, temperature: float = 1.0) -> Array:
    powers = np.exp(logits / temperature - (logits / temperature).max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def weights_of(how: str, logits: Array, labels: Array) -> Array:
    """(M, B)"""
    count, rows, _ = logits.shape
    found = np.empty((count, rows))
    for row in range(rows):
        p = softmax(logits[:, row])
        if count == 1:
            found[:, row] = 1
        elif how == "entropy":
            entropies = -(p * np.log(p)).sum(-1)
            found[:, row] = 1 - entropies / entropies.sum()
        elif how == "confidence":
            wrong = np.exp(-np.log(p[:, labels[row]]))
            found[:, row] = 1 - wrong / wrong.sum()
        else:
            found[:, row] = 1
    return found / found.sum(0)


class Small(nn.Module):
    """Batch norm and dropout: layers that would move, or answer otherwise, in train mode."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(3 * 36, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.drop(self.norm(self.convolution(x)).relu().flatten(1)))
        return logits


def smalls(count: int = 3) -> list[Small]:
    made = []
    for seed in range(count):
        torch.manual_seed(seed)
        made.append(Small())
        with torch.no_grad():
            made[-1](torch.rand(16, 1, 8, 8))
    return made

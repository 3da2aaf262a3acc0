"""What the tests of several teachers in a recipe share: a small one, and how it is run."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tutelage.losses import cross_entropy
from tutelage.models import save_weights
from tutelage.recipe import Recipe, from_mapping
from tutelage.run import run_recipe
from tutelage.run.checks import Checked
from tutelage.run.execute import Run
from tutelage.run.job import job_of_recipe

SOFT, HARD = {"loss": "soft_target", "weight": 0.9, "temperature": 4}, {"loss": "cross_entropy", "weight": 0.1}
BASE: dict[str, Any] = {
    "name": "several",
    "seeds": [0],
    "data": {"source": "digits", "limit": 400},
    "teachers": {
        "wide": {"model": "mlp", "args": {"width": 32, "depth": 1}, "weights": "wide.safetensors"},
        "big": {"model": "cnn", "args": {"width": 4}, "train": {"epochs": 2, "batch_size": 32, "lr": 0.01}},
    },
    "student": {"model": "mlp", "args": {"width": 8, "depth": 1}},
    "arms": {"distilled": [SOFT, HARD]},
    "train": {"epochs": 2, "batch_size": 32, "lr": 0.01},
    "report": {"latency": False, "bootstrap": 100},
    "threads": 1,
}
MEMBERS = {"loss": "adaptive_ensemble", "temperature": 4}


def at(place: str) -> dict[str, Any]:
    """A term that reads this layer of a teacher."""
    return {"loss": "relational_distance", "at": {"student": "net.hidden.2", "teacher": place}}


def several(*changes: str, **keys: Any) -> Recipe:
    return from_mapping(BASE | keys, changes)


def empty(name: str) -> nn.Module:
    """One of the teachers as it is built."""
    build = job_of_recipe(several(), trust=False).teacher.members[name].build
    assert build is not None
    torch.manual_seed(0)
    return build()


@functools.cache
def taught() -> nn.Module:
    """The net called `wide` after a few full-batch steps."""
    module, train = empty("wide"), job_of_recipe(several(), trust=False).splits.train
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        cross_entropy(module(train.inputs.float() / 255), train.targets).backward()
        optimizer.step()
    return module.eval()


def save_wide(module: nn.Module) -> None:
    save_weights(module, Path("wide.safetensors"))


def run(recipe: Recipe, out: str) -> Run:
    return run_recipe(recipe, out, quiet=True)


def students(out: str) -> dict[str, bytes]:
    found = {str(path.relative_to(out)): path.read_bytes() for path in Path(out).glob("students/*/*/*.safetensors")}
    assert found
    return found


def lines(found: Checked, level: str) -> str:
    return "\n".join(one.line() for one in found.findings if one.level == level)

"""The teacher of a run, from the file that the run kept, asked about one image at a time."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tutelage.errors import DamagedError, InputError, ModelError
from tutelage.files import read_json, sha256
from tutelage.models import load_weights
from tutelage.run.classnames import meet_by_name, names_of
from tutelage.run.job import Job, TeacherPlan
from tutelage.teachers import EnsembleTeacher, ModuleTeacher

__all__ = ["Said", "TeacherAtHand", "teacher_of_run"]

# Of one image: as often as fits into so many seconds, but so often at least and at most.
_SECONDS, _FEWEST, _MOST = 0.1, 3, 30


@final
@dataclass(frozen=True, slots=True)
class Said:
    """An answer about one image."""

    logits: NDArray[np.float64]  # (C,)
    milliseconds: float  # the median of several calls
    calls: int


@final
class TeacherAtHand:
    """A teacher that answers in a thread of its own, one question after the other, so that times are its own."""

    def __init__(self, module: nn.Module, *, threads: int) -> None:
        self._module = module.eval()
        # A number of threads is a matter of the thread that asks.
        self._desk = ThreadPoolExecutor(1, "teacher", torch.set_num_threads, (threads,))

    def ask(self, pixels: NDArray[np.float32]) -> Said:
        """(C, H, W) in [0, 1] → its logits, and how long one call takes."""
        return self._desk.submit(self._answer, pixels).result()

    def close(self) -> None:
        """Let its thread go."""
        self._desk.shutdown(cancel_futures=True)

    def _answer(self, pixels: NDArray[np.float32]) -> Said:
        inputs = torch.from_numpy(np.ascontiguousarray(pixels))[None]
        spent: list[float] = []
        with torch.inference_mode():
            logits = self._module(inputs)[0]  # the first call makes plans that later ones use
            while len(spent) < _FEWEST or (len(spent) < _MOST and sum(spent) < _SECONDS):
                begun = time.perf_counter()
                self._module(inputs)
                spent.append(time.perf_counter() - begun)
        return Said(logits.double().numpy(), 1e3 * statistics.median(spent), len(spent))


def teacher_of_run(job: Job, home: Path) -> nn.Module:
    """The teacher that a run kept, or several as the one that was judged: (B, C, H, W) → logits (B, classes).

    Args:
        job: of the run's recipe.
        home: the run's folder.

    Raises:
        DamagedError: a file of it is missing, or not what the run wrote.
        ModelError: it cannot be built again.
    """
    plan = job.teacher
    if not plan.members:
        return _one(plan, job, home)
    members = [ModuleTeacher(_one(member, job, home)) for member in plan.members.values()]
    panel = EnsembleTeacher(members, **plan.combine).panel()
    assert panel is not None  # every member is a module
    return panel


def _one(plan: TeacherPlan, job: Job, home: Path) -> nn.Module:
    if plan.build is None:
        raise InputError("the teacher came from Python, so it cannot be built from the run's folder")
    file = home / "teacher" / f"{plan.slug}.safetensors"
    if not file.is_file() or read_json(file.with_suffix(".json")).get("sha256") != sha256(file):
        raise DamagedError(f"{file} is missing or was altered", fix="restore the run's folder")
    module = plan.build()
    load_weights(module, file)
    meet_by_name(module, names_of(module, file), job.splits.train.outputs)
    with torch.no_grad():
        width = module.eval()(torch.zeros(1, *job.splits.train.shape)).shape[-1]
    if width != len(job.splits.train.outputs):
        raise ModelError(
            f"the {plan.title} answers with {width} classes, the data has {len(job.splits.train.outputs)}",
            fix="restore the run's folder",
        )
    return module

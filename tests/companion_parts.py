"""Runs of a few steps, without their judgement: what learns along, what listens to whom, and what a kill leaves."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tutelage.models import ModelSpec, build, save_weights
from tutelage.recipe import from_mapping
from tutelage.run import arms as arm_making
from tutelage.run import cohorts
from tutelage.run.answers import answering
from tutelage.run.cohorts import Workshop, torch_settings
from tutelage.run.execute import facts_of
from tutelage.run.folder import RunFolder
from tutelage.run.job import job_of_recipe
from tutelage.run.students import student_file
from tutelage.run.teacher import obtain_teacher
from tutelage.run.waves import train_seed
from tutelage.training import Arm, StopSignals, make_device

Terms = Sequence[Mapping[str, Any]]
CE: dict[str, Any] = {"loss": "cross_entropy"}
EXAMPLES = 97  # three batches of 32 and one example more, which makes the last batch one of 33


class KilledError(Exception):
    """What ends a run in the middle of a step."""


@dataclass
class Trained:
    """What a run left, and what it was made of."""

    files: dict[str, bytes]  # arm -> its student's file
    students: dict[str, dict[str, Tensor]]
    learned: dict[str, Arm] = field(default_factory=dict)  # of the last wave that was not on disk yet
    begun: dict[str, dict[str, Tensor]] = field(default_factory=dict)  # arm -> what learns along, before any step
    checkpoint: dict[str, Tensor] = field(default_factory=dict)  # the last one, of the first wave

    def along(self, arm: str) -> dict[str, Tensor]:
        """What the last checkpoint holds beside an arm's student."""
        key = f"{arm}+/"
        return {name.removeprefix(key): value for name, value in self.checkpoint.items() if name.startswith(key)}


def bits(tensors: Mapping[str, Tensor]) -> dict[str, bytes]:
    """To compare to the bit, NaN with NaN as well."""
    return {name: bytes(value.contiguous().view(-1).view(torch.uint8).tolist()) for name, value in tensors.items()}


@functools.cache
def teacher_file() -> Path:
    """The weights of a net that has learned nothing, but says what it says with some conviction."""
    torch.manual_seed(3)
    net = teacher_net()
    net.net.head.weight.data *= 4.0
    path = Path(os.environ["TUTELAGE_CACHE"]) / "untrained" / "teacher.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_weights(net, path)
    return path


def teacher_net() -> nn.Module:
    spec = ModelSpec("cnn", {"width": 6})
    return build(spec, input_shape=(1, 8, 8), classes=10, mean=[0.3], std=[0.4])


def recipe(arms: Mapping[str, Terms], **changes: Any) -> dict[str, Any]:
    """A recipe on a few digits; `changes` replace whole keys, or one key of a part as `train__epochs`."""
    whole: dict[str, Any] = {
        "name": "few",
        "seeds": [0],
        "data": {"source": "digits", "limit": EXAMPLES},
        "teacher": {"model": "cnn", "args": {"width": 6}, "weights": str(teacher_file())},
        "student": {"model": "cnn", "args": {"width": 4}},
        "arms": {name: list(terms) for name, terms in arms.items()},
        "train": {"epochs": 2, "batch_size": 32, "lr": 0.01, "checkpoint_seconds": 3600},
        "threads": 1,
        "device": "cpu",
        "report": {"bootstrap": 100, "latency": False},
    }
    for key, value in changes.items():
        part, _, inner = key.partition("__")
        if value is None and not inner:
            del whole[part]
        elif inner:
            whole[part] = {**whole[part], inner: value}
        else:
            whole[part] = value
    return whole


def train(written: Mapping[str, Any], out: Path, *, kill: int | None = None) -> Trained:
    """Train all arms of a recipe, or go on with them; `kill` ends it in the middle of the step of that number.

    Raises:
        KilledError: it did.
    """
    job = job_of_recipe(from_mapping(dict(written)), trust=False, store=out.parent / "store")
    found = Trained({}, {})
    learn, make = Arm.learn, arm_making.make_arm

    def makes(name: str, *arguments: Any, **keywords: Any) -> Arm:
        arm = found.learned[name] = make(name, *arguments, **keywords)
        if arm.extras is not None:
            found.begun[name] = {key: value.detach().clone() for key, value in arm.extras.state_dict().items()}
        return arm

    def learns(self: Arm, *arguments: Any, step: int, **keywords: Any) -> None:
        learn(self, *arguments, step=step, **keywords)
        if step == kill:
            raise KilledError

    with (
        mock.patch.object(cohorts, "make_arm", makes),
        mock.patch.object(Arm, "learn", learns),
        RunFolder.open(out, overwrite=False, quiet=True) as folder,
        StopSignals(fix="again") as signals,
        torch_settings(job),
    ):
        folder.begin(job.config, lambda _: [], facts_of(job))
        shop = Workshop(folder, make_device("cpu", precision="32"), signals, True)
        hand = obtain_teacher(job, shop)
        answers, recorded = answering(job, shop, hand)
        for seed in job.seeds:
            train_seed(job, shop, seed, hand=hand, answers=answers, recorded=recorded)
    for name in job.arms:
        path = student_file(out, name, job.seeds[0])
        found.files[name], found.students[name] = path.read_bytes(), load_file(path)
    last = out / "checkpoints" / f"seed-{job.seeds[0]}"
    if last.is_dir():
        found.checkpoint = load_file(last / (last / "last").read_text().strip() / "model.safetensors")
    return found


def killed(written: Mapping[str, Any], out: Path, *, step: int) -> Trained:
    """The same, saved after every step, killed in one and taken up again."""
    written = {**written, "train": {**written["train"], "checkpoint_seconds": 0}}
    try:
        train(written, out, kill=step)
    except KilledError:
        return train(written, out)
    raise AssertionError("it ended before it could be killed")

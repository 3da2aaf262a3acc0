"""One trained model made smaller, outside a comparison: a student of a run, or weights of anybody's."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from torch import nn

from tutelage import losses
from tutelage.compress import Shrink, Smaller, plain, shrink
from tutelage.data import as_model_input
from tutelage.errors import InputError
from tutelage.evaluation.cost import multiply_adds, parameters
from tutelage.evaluation.predict import predict, task_scores
from tutelage.files import sha256, write_json
from tutelage.models import load_weights, save_weights, weights_as_bytes
from tutelage.objective import Objective, Term
from tutelage.recipe import Recipe
from tutelage.report import numbers
from tutelage.run.armplan import ArmPlan
from tutelage.run.beginnings import EXAMPLES, nets_beside, steps_beside
from tutelage.run.chosen import chosen_student, student_named
from tutelage.run.cohorts import Workshop, torch_settings, train_cohort
from tutelage.run.execute import facts_of
from tutelage.run.folder import RunFolder
from tutelage.run.job import Job, job_of_recipe
from tutelage.run.students import load_student, save_student
from tutelage.teachers import ModuleTeacher
from tutelage.training import Arm, StopSignals, make_device

__all__ = ["Compressed", "Compressing", "compress_run", "compress_weights"]

# What `student.json` says beside the facts that build a student.
_ARM = "compressed"


@final
@dataclass(frozen=True, slots=True)
class Compressing:
    """What to do, and where to.

    Args:
        shrink: how the model gets smaller.
        out: the folder for its file and facts.
        finetune: epochs in which it then learns from the model it was, by softened answers and labels; 0: none.
        trust: whether code that a recipe names may run.
        quiet: no progress.
    """

    shrink: Shrink
    out: Path | str
    finetune: int = 0
    trust: bool = False
    quiet: bool = True

    def check(self) -> None:
        """Refuse what cannot be asked for.

        Raises:
            InputError: nothing is to be done, or the folder holds something already.
        """
        if not self.shrink:
            raise InputError("nothing makes the model smaller", expected="one or more of --prune, --rank, --layers")
        if self.finetune < 0:
            raise InputError("a model learns for 0 epochs or more", given=self.finetune)
        if (Path(self.out).expanduser() / "student.json").exists():
            raise InputError(f"{self.out} holds a student already", fix="choose another folder with --out")


@final
@dataclass(frozen=True, slots=True)
class Size:
    """One state of the model."""

    name: str
    parameters: int
    multiply_adds: int  # of one example; 0 where the counter meets an operation that it cannot follow
    file_bytes: int
    val_accuracy: float


@final
@dataclass(frozen=True, slots=True)
class Compressed:
    """A model before and after."""

    model: str
    file: Path
    states: tuple[Size, ...]
    notices: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"model": self.model, "file": str(self.file), "states": [asdict(one) for one in self.states],
                "notices": list(self.notices)}  # fmt: skip

    def summary(self) -> str:
        """A table for a person, and how to go on."""
        head = ["", "parameters", "mult.-adds", "file", "validation"]
        rows = [
            [one.name, f"{one.parameters:,}", f"{one.multiply_adds:,}", numbers.size(one.file_bytes),
             numbers.percent(one.val_accuracy, 2)]
            for one in self.states
        ]  # fmt: skip
        lines = [f"{self.model}, written to {self.file}", *numbers.columns([head, *rows])]
        lines.append(f"to let it learn in a comparison: student.weights: {self.file}")
        return "\n".join([*lines, *(f"notice: {text}" for text in self.notices)])


def compress_run(name: Path | str, how: Compressing, *, seed: int | None = None) -> Compressed:
    """Make the student of one arm of a finished run smaller.

    Args:
        name: a run's folder, with an arm after a colon: `runs/a:scratch`; by default the arm of the headline.
        how: what to do.
        seed: whose student; by default the first.

    Raises:
        InputError: no such run, arm or seed.
        ModelError: the student cannot be built again, or not be made so small.
        DamagedError: a file is not what it was.
        DataError: the data cannot be used.
    """
    how.check()
    chosen = chosen_student(name, seed=seed, trust=how.trust)
    return _compressed(chosen.title, chosen.module, chosen.config, chosen.job, how)


def compress_weights(
    recipe: Recipe, weights: Path | str, how: Compressing, *, student: str | None = None
) -> Compressed:
    """Make a model smaller that tutelage did not train: weights of a recipe's student.

    Args:
        recipe: says what the student is, and which data it knows.
        weights: a safetensors file.
        how: what to do.
        student: which, where the recipe has several.

    Raises:
        RecipeError, InputError: the recipe, or an option, cannot be right.
        ModelError, DamagedError: the weights are missing, damaged, those of another net, or cannot be made so small.
        DataError: the data cannot be used.
    """
    how.check()
    file = Path(weights).expanduser()
    job = job_of_recipe(recipe, trust=how.trust)
    name = student_named(job, student)
    plan, steps = job.students[name], steps_beside(file)
    with torch.random.fork_rng():
        module = nets_beside(plan.anew, file, steps)[0]()
    notices = load_weights(module, file)
    config = {**plan.config, "smaller": [*plan.config.get("smaller", ()), *steps]}  # type: ignore[misc]
    return _compressed(str(file), module, config, job, how, tuple(notices))


def _compressed(
    model: str, module: nn.Module, config: Mapping[str, Any], job: Job, how: Compressing, notices: tuple[str, ...] = ()
) -> Compressed:
    job = replace(job.teaching, store=None)
    train = job.splits.train
    few = train.take(torch.arange(min(EXAMPLES, len(train))))
    module.eval()
    file = Path(how.out).expanduser() / "student.safetensors"
    with torch_settings(job), torch.random.fork_rng():
        small = shrink(module, how.shrink, as_model_input(few.inputs), few.targets, classes=len(train.classes))
        states = [_size("before", module, job), _size("after", plain(small.module), job)]
        facts = {**config, "smaller": [*(config.get("smaller") or ()), *small.steps]}
        if how.finetune:
            learned = _learned(module, small, job, how)
            save_student(file, learned, facts)
            states.append(_size("finetuned", load_student(file.parent, trust=how.trust), job))
        else:
            save_weights(plain(small.module), file)
            write_json(file.with_suffix(".json"), {"sha256": sha256(file), "kept_epoch": 0, "curve": [], **facts})
    return Compressed(model, file, tuple(states), notices)


def _size(name: str, module: nn.Module, job: Job) -> Size:
    val = job.splits.val
    example = as_model_input(val.inputs[:1])
    try:
        adds = multiply_adds(module, example)
    except (RuntimeError, NotImplementedError):
        adds = 0
    batches = Workshop.plain(None, val)  # type: ignore[arg-type]
    accuracy = task_scores(predict(module, batches, torch.device("cpu")), val.labels, val.sizes)["accuracy"]
    return Size(name, parameters(module), adds, len(weights_as_bytes(module)), accuracy)


def _learned(large: nn.Module, small: Smaller, job: Job, how: Compressing) -> Arm:
    """The smaller model after a few epochs of learning from what it was."""
    terms = [Term(losses.soft_target, weight=0.9, temperature=4.0), Term(losses.cross_entropy, weight=0.1)]
    arms = {_ARM: ArmPlan("", _ARM, Objective(terms).for_tasks(job.splits.train.sizes))}
    train = job.train.model_copy(update={"epochs": how.finetune})
    device = make_device(job.device, precision=train.precision)
    teacher = ModuleTeacher(large.to(device.device))
    with (
        tempfile.TemporaryDirectory(prefix="tutelage-") as place,
        StopSignals(fix="the same command starts again") as signals,
        RunFolder.open(Path(place) / "work", overwrite=False, quiet=how.quiet) as folder,
    ):
        folder.begin(job.config, lambda earlier: [], facts_of(job))
        shop = Workshop(folder, device, signals, how.quiet)
        made = train_cohort(
            job, shop, name=_ARM, seed=job.seeds[0], train=train, teacher=teacher, arms=arms,
            builds={"": lambda: small.module},
        )  # fmt: skip
    large.cpu()
    return made[_ARM]

"""Distillation without data: a generator makes inputs up, teacher and student answer them, and both sides learn.

It goes through the one loop: the generator is the source of the batches, and has its own turn between them.

    <out>/datafree.json             what was asked for
          checkpoints/              where it stands; a killed call continues with the same bits
          student.safetensors       the student, and student.json with the facts that build it again
          generator.safetensors     what made its inputs

Without data there is nothing to choose an epoch by, so the last one is kept; and nothing to judge by, so nothing is
said of how good the student is: judge it on real examples.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from tutelage.attacks import answering
from tutelage.data import Examples, plain_batches
from tutelage.distiller import Distiller
from tutelage.errors import DamagedError, InputError, TrainingError
from tutelage.evaluation.predict import predict, validation_scores
from tutelage.files import hold, read_json, sha256, sweep, write_json
from tutelage.models import Classifier, ModelSpec, build, load_weights, save_weights, state_digest
from tutelage.objective import Objective
from tutelage.strategies.generators import Generator, Learner
from tutelage.strategies.inventing import Inventor, Rounds
from tutelage.strategies.inversion import class_names, differentiable
from tutelage.strategies.methods import Aims, Method, method_by_name, objective_of
from tutelage.teachers import ModuleTeacher
from tutelage.training import (
    Arm,
    Checkpoints,
    Cohort,
    Device,
    Moment,
    Progress,
    Stop,
    StopSignals,
    fit,
    learning_rate,
    make_device,
    make_optimizer,
)

__all__ = ["DataFree", "Distilled", "distill_without_data"]

Model = nn.Module | str | Mapping[str, Any]
Tell = Callable[[str], None]
_FIX = "the same call continues"
_LAST = "last"  # a score that is always the same: of equals the loop keeps the last
_CHECKED = 512


@final
@dataclass(frozen=True, slots=True)
class DataFree:
    """How it is done.

    Args:
        batch_size: inputs made for a step, ≥ 2.
        lr: the student's learning rate at the start, for AdamW.
        generator_lr: the generator's, for Adam.
        noise, width: size of the generator; see `Generator`.
        at: pairs (student's layer, teacher's layer) whose attention is matched as well, as zero-shot transfer does.
        aims: the generator's aims, where they should be others than the method's.

    Raises:
        InputError: an option out of range.
    """

    batch_size: int = 128
    lr: float = 0.002
    generator_lr: float = 0.001
    noise: int = 64
    width: int = 32
    at: tuple[tuple[str, str], ...] = ()
    aims: Aims | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 2 or self.batch_size % 1:
            raise InputError("the batch size is out of range", given=self.batch_size, expected="a whole number ≥ 2")
        for name, value in (("lr", self.lr), ("generator_lr", self.generator_lr)):
            if not 0.0 < value < float("inf"):
                raise InputError("a learning rate is out of range", given=f"{name}={value}", expected="a number > 0")


@final
@dataclass(frozen=True, slots=True, eq=False)
class Distilled:
    """What came of it."""

    folder: Path
    student: nn.Module  # in eval mode
    generator: Generator  # in eval mode
    curve: list[dict[str, float]]  # a row for every round


def distill_without_data(
    teacher: nn.Module,
    student: Model,
    shape: Sequence[int],
    classes: int | Sequence[str],
    *,
    out: Path | str,
    method: str = "dafl",
    steps: int = 2000,
    seed: int = 0,
    settings: DataFree | None = None,
    val: Examples | None = None,
    device: str = "auto",
    checkpoint_seconds: float = 30.0,
    tell: Tell = lambda _: None,
    quiet: bool = True,
) -> Distilled:
    """Distil a teacher into a student without a single example.

    Args:
        teacher: maps (B, *shape) to logits (B, C); put into eval mode, frozen, and the same afterwards.
        student: a module, of which a copy learns; or the name of a model, or {"model": "cnn", "args": {"width": 8}},
            which is then scaled as the teacher is, where that is a classifier of ours.
        shape: of one input; pictures lie in [0, 1].
        classes: names in the order of the logits, or how many there are.
        out: the folder. The same call again continues one that was stopped, or reads what it made.
        method: "dafl" (what the teacher is sure of), "zskt" or "dfad" (what the student cannot do yet).
        steps: of the student, rounded up to even rounds of at most 100.
        seed: of student, generator and noise.
        settings: how.
        val: real examples that choose the round whose student is kept. By default the last is, and no data is used.
        device: auto, cpu, cuda, cuda:N or mps.
        checkpoint_seconds: at most this much work is lost when the call is killed.
        tell, quiet: who hears of progress, and whether anything is shown.

    Raises:
        InputError: an option out of range, or the folder holds something else.
        ModelError: teacher and student do not fit the shape or each other.
        TrainingError: a number that is not finite, or the teacher changed.
        DamagedError: a file is not what it was.
        BusyError: another process is at the folder.
        Interrupted: a signal came; everything is saved.

    References:
        Chen and others 2019, arXiv 1904.01186; Micaelli, Storkey 2019, arXiv 1905.09768; Fang and others 2019, arXiv
        1912.11006.
    """
    how = settings or DataFree()
    chosen = method_by_name(method)
    if how.aims is not None:
        chosen = Method(chosen.line, how.aims, chosen.student_steps)
    if steps < 1 or steps % 1:
        raise InputError("steps is out of range", given=steps, expected="a whole number ≥ 1")
    names, folder = class_names(classes), Path(out).expanduser()
    place = make_device(device)
    differentiable(teacher, "teacher").to(place.device)
    learner, config = _student(student, teacher, tuple(shape), names, seed)
    objective = objective_of(method, how.at)
    told = ModuleTeacher(teacher, places=objective.teacher_places)
    asked = {
        "format": 1, "method": method, "aims": asdict(chosen.aims), "steps": steps, "seed": seed,
        **{key: value for key, value in asdict(how).items() if key != "aims"},
        "shape": list(shape), "classes": names, "teacher": told.fingerprint(), "student": state_digest(learner),
        "validation": None if val is None else val.fingerprint,
    }  # fmt: skip
    generator = _generator(teacher, tuple(shape), how, seed)
    plan = _Plan(
        teacher, learner.to(place.device), generator.to(place.device), chosen, how, objective,
        Rounds.of(steps), seed, val, len(names),
    )  # fmt: skip
    with hold(folder):
        sweep(folder)
        _begin(folder, asked)
        if not (folder / "student.json").is_file():
            arm = _train(plan, folder, told, place, seconds=checkpoint_seconds, tell=tell, quiet=quiet)
            if told.fingerprint() != asked["teacher"]:
                raise TrainingError("the teacher changed while its student learned", fix="look for code that trains it")
            _save(folder, arm, generator, config | {"data_free": asked})
        curve = _load(folder, plan)
    return Distilled(folder, plan.student.eval(), plan.generator.eval(), curve)


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """Everything of one call that decides its result."""

    teacher: nn.Module
    student: nn.Module
    generator: Generator
    method: Method
    how: DataFree
    objective: Objective
    rounds: Rounds
    seed: int
    val: Examples | None
    classes: int


def _begin(folder: Path, asked: Mapping[str, Any]) -> None:
    """Write down what is asked for, or see that it is what was asked for before."""
    path = folder / "datafree.json"
    if not path.is_file():
        strange = sorted(one.name for one in folder.iterdir() if not one.name.startswith("."))
        if strange:
            raise InputError(
                f"{folder} holds something else", given=", ".join(strange[:5]), expected="an empty folder, or a new one"
            )
        write_json(path, asked)
        return
    before, now = read_json(path), json.loads(json.dumps(asked))
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if changed:
        raise InputError(
            f"{folder} holds a distillation of other settings",
            given="; ".join(f"{key}: {str(before.get(key))[:60]} → {str(now.get(key))[:60]}" for key in changed),
            fix="choose another folder, or ask for the same",
        )


def _train(
    plan: _Plan, folder: Path, told: ModuleTeacher, place: Device, *, seconds: float, tell: Tell, quiet: bool
) -> Arm:
    """The student's arm at its end, from wherever the folder stands."""
    inventor = Inventor(
        Learner(plan.generator, plan.how.generator_lr), plan.method, plan.teacher, plan.student,
        batch_size=plan.how.batch_size, rounds=plan.rounds, lr=plan.how.generator_lr, seed=plan.seed,
    )  # fmt: skip
    arm = _arm(plan, inventor, told, place)
    cohort = Cohort("data-free", plan.seed, [arm], told)
    checkpoints = Checkpoints(folder / "checkpoints", seconds=seconds, tell=tell, device=place)
    if checkpoints.restore(cohort, device=place.device):
        tell(f"continuing at step {cohort.at.step:,}/{plan.rounds.count * plan.rounds.steps:,}")

    def validate(student: nn.Module) -> dict[str, float]:
        x = inventor.sample(_CHECKED)
        with torch.no_grad(), answering(plan.teacher) as ask, answering(student) as ask_student:
            said, heard = ask(x).argmax(-1), ask_student(x).argmax(-1)
        kinds = torch.bincount(said, minlength=plan.classes).double() / len(said)
        # The number of a round by itself: without data the last is as good as any, and has seen most.
        scores = {"agreement": float((said == heard).double().mean()), "rarest": float(kinds.min()), _LAST: 0.0}
        if plan.val is None:
            return scores
        logits = predict(student, plain_batches(plan.val, _CHECKED), place.device)
        return scores | validation_scores(logits, plan.val.targets)

    with StopSignals(fix=_FIX) as signals, _Bar(tell, quiet=quiet) as bar:
        signals.checkpoints = checkpoints
        # The generator's turn comes before anything is saved: a step is both.
        fit(
            cohort, inventor, validate, place, epochs=plan.rounds.count, listeners=[inventor, signals, checkpoints, bar]
        )
    return arm


def _arm(plan: _Plan, inventor: Inventor, told: ModuleTeacher, place: Device) -> Arm:
    example = place.place(next(inventor.epoch(0)))
    with torch.random.fork_rng():
        torch.manual_seed(plan.seed)
        distiller = Distiller(plan.student, told, plan.objective, example=example)
    optimizer = make_optimizer("adamw", distiller.parameters(), lr=plan.how.lr)
    distiller.student = place.prepare(distiller.student, optimizer)
    # What learns along with the student, and the generator with its moments: kept, but no part of the student.
    beside = {} if distiller.student is plan.student else dict(distiller.student.named_children())
    extras = nn.ModuleDict({"generator": inventor.learner} | {n: m for n, m in beside.items() if n != "student"})
    return Arm(
        "student", distiller, optimizer, learning_rate("cosine", optimizer, lr=plan.how.lr), student=plan.student,
        extras=extras, stop=Stop(metric=_LAST if plan.val is None else "accuracy"),
    )  # fmt: skip


def _student(
    student: Model, teacher: nn.Module, shape: tuple[int, ...], names: Sequence[str], seed: int
) -> tuple[nn.Module, dict[str, Any]]:
    """The student as it starts, and the facts that build it again."""
    config: dict[str, Any] = {"input_shape": list(shape), "classes": list(names), "model": None}
    if isinstance(student, nn.Module):
        if student is teacher:
            raise InputError("teacher and student are the same object", fix="give the student a copy, or another model")
        return copy.deepcopy(student), config
    given: dict[str, Any] = {"model": student} if isinstance(student, str) else dict(student)
    if "model" not in given or set(given) - {"model", "args"}:
        raise InputError("no such student", given=str(student), expected='a module, "cnn", or {"model": …, "args": …}')
    mean, std = [0.0], [1.0]
    if isinstance(teacher, Classifier):
        mean, std = (part.reshape(-1).tolist() for part in (teacher.normalise.mean, teacher.normalise.std))
    spec = ModelSpec(given["model"], given.get("args", {}), None)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = build(spec, input_shape=shape, classes=len(names), mean=mean, std=std)
    return made, config | {"model": spec.name, "args": dict(spec.args), "mean": mean, "std": std}


def _generator(teacher: nn.Module, shape: tuple[int, ...], how: DataFree, seed: int) -> Generator:
    """A fresh one; for inputs that are no pictures it is as spread as the data that the teacher was trained on."""
    scale: dict[str, Tensor] = {}
    if isinstance(teacher, Classifier) and len(shape) != 3:
        scale = {"mean": teacher.normalise.mean.cpu(), "std": teacher.normalise.std.cpu()}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Generator(shape, noise=how.noise, width=how.width, **scale)


def _save(folder: Path, arm: Arm, generator: nn.Module, config: Mapping[str, Any]) -> None:
    """Write what came of it; `student.json`, the last, says that all is whole."""
    save_weights(generator, folder / "generator.safetensors")
    arm.student.load_state_dict(arm.best)
    path = folder / "student.safetensors"
    save_weights(arm.student, path)
    facts = {"sha256": sha256(path), "kept_epoch": arm.best_epoch, "curve": arm.curve, **config}
    write_json(path.with_name("student.json"), facts)


def _load(folder: Path, plan: _Plan) -> list[dict[str, float]]:
    """Read back what `_save` wrote, into the plan's own models; the curve comes back."""
    facts, path = read_json(folder / "student.json"), folder / "student.safetensors"
    if "curve" not in facts or not path.is_file() or sha256(path) != facts.get("sha256"):
        raise DamagedError(f"{path} is not what was written", fix=f"remove {folder} to make it again")
    load_weights(plan.student, path)
    load_weights(plan.generator, folder / "generator.safetensors")
    return [dict(row) for row in facts["curve"]]


@final
class _Bar(Progress):
    """Shows how far it is, and tells of agreement, since there is no labelled part to score."""

    def on_epoch_end(self, cohort: Cohort, at: Moment) -> None:
        row = cohort.arms[0].curve[-1]
        self._tell(
            f"step {at.step:,}/{at.steps:,}: the student agrees with the teacher on {row['val_agreement']:.1%} of "
            f"fresh inputs; {row['val_rarest']:.1%} of them are of the rarest class"
        )

    def on_end(self, cohort: Cohort, at: Moment) -> None:
        """What came of it is told by its caller."""

"""`distill()`: the same run as a recipe's, for models and data that are already in Python's hands."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tutelage import losses
from tutelage.data import Splits, Views, from_arrays, load
from tutelage.errors import InputError
from tutelage.models import ModelSpec, build, merge, state_digest
from tutelage.models.kerasnet import KerasNet, is_keras
from tutelage.objective import Loss, Objective, Term
from tutelage.recipe import RESUMABLE, Student, Train, from_mapping, store_settings, train_settings
from tutelage.run.armplan import arms_of
from tutelage.run.examples import facts_of_data, statistics
from tutelage.run.execute import Run, execute
from tutelage.run.job import Job, StudentPlan, TeacherPlan, student_plan
from tutelage.run.judge import describe
from tutelage.run.questions import check_terms
from tutelage.run.storeplan import store_plan
from tutelage.run.tasks import with_tasks
from tutelage.run.teacherplan import opening
from tutelage.teachers import EnsembleTeacher, Teacher, as_teacher
from tutelage.words import answers_elsewhere

__all__ = ["distill"]

# What a description may say of how a student begins.
_BEGINNINGS = frozenset({"weights", "adapter", "frozen", "head", "start", "layers", "prune", "quantise", "rank"})

Data = Splits | str | tuple[Any, Any]
Model = str | Mapping[str, Any] | nn.Module | Callable[[], nn.Module]


def distill(
    teacher: Teacher | nn.Module | str | Mapping[str, Any],
    student: Model | Mapping[str, Model],
    data: Data,
    *,
    out: Path | str,
    objective: Sequence[Term | Loss] | None = None,
    arms: Mapping[str, Sequence[Term | Loss]] | None = None,
    seeds: Sequence[int] = (0,),
    views: Views | None = None,
    teacher_epochs: int | None = None,
    store: str | Mapping[str, Any] | None = None,
    compress: Sequence[str] = (),
    export: Sequence[str] = (),
    device: str = "auto",
    overwrite: bool = False,
    quiet: bool = False,
    **train: Any,
) -> Run:
    """Distil a teacher into a student, beside the same student without a teacher, and report what came of it.

    Args:
        teacher: a trained torch module, a fitted model of another framework (scikit-learn, XGBoost, LightGBM, ONNX
            Runtime, Keras, TensorFlow, JAX), anything that answers, or the name of a model to train first ("cnn", or
            {"model": "cnn", "args": {"width": 64}}); {"model": "sklearn:tfidf", "reads": "text"} is fitted first.
        student: a module (every arm and seed starts from its weights), a function that builds one (called anew for
            every seed), or the name of a model; or several of these by name, as {"small": …, "tiny": …}. Where only
            parts of it are to learn: {"model": …, "weights": …, "adapter": {"rank": 8}}, or a module that
            `tutelage.models.adapt` returned.
        data: splits, the name of a source ("digits"), or (inputs, labels) to be split.
        out: the run's folder. The same call again continues a run that was stopped.
        objective: terms of the arm "distilled"; by default 0.9 · soft_target at T = 4 and 0.1 · cross_entropy.
        arms: further arms by name.
        seeds: one run of all arms for each; three or more tell how much chance there is in the result.
        views: random views of the training images.
        teacher_epochs: how long to train a teacher that was given by name; as long as the student by default.
        store: "auto", or keys of a recipe's `teacher.store` such as {"views": 4, "codec": "fp16"}: ask the teacher once
            and keep its answers on disk.
        compress: formats in which every student's weights are also written and judged: "fp16", "int8".
        export: formats of files that run without tutelage, in which every student is also written, compared with its
            model and judged: "onnx", "onnx-int8", "torch".
        device: auto, cpu, cuda, cuda:N or mps.
        overwrite: remove what an earlier run left in `out`.
        quiet: no progress.
        train: keys of a recipe's `train` part: epochs, batch_size, lr, optimizer, ….

    Returns:
        The run: its folder, its report, its verdict in words.

    Raises:
        TutelageError: everything a user can mend, as the tree in `tutelage.errors` says.
    """
    settings = train_settings({"epochs": 10, **train})
    splits = _splits(data)
    mean, std = statistics(splits.train)

    def builder(spec: ModelSpec) -> Callable[[], nn.Module]:
        shape, classes = splits.train.shape, len(splits.train.outputs)
        vocabulary, separator = splits.train.vocabulary, splits.train.separator
        return lambda: build(
            spec, input_shape=shape, classes=classes, mean=mean, std=std, vocabulary=vocabulary, separator=separator
        )

    default = [Term(losses.soft_target, weight=0.9, temperature=4.0), Term(losses.cross_entropy, weight=0.1)]
    chosen: dict[str, Objective] = {"scratch": Objective([losses.cross_entropy])}
    chosen["distilled"] = Objective(objective or default)
    chosen |= {name: Objective(terms) for name, terms in (arms or {}).items()}
    if splits.train.separator:
        check_terms(chosen)
    chosen = with_tasks(chosen, splits.train.sizes)
    places = [place for objective in chosen.values() for place in objective.teacher_places]
    plan = _teacher(teacher, builder, settings, teacher_epochs, list(dict.fromkeys(places)), splits.train.outputs)
    plans: dict[str, StudentPlan] = {}
    descriptions: dict[str, str] = {}
    for name, one in _students(student).items():
        plans[name], descriptions[name] = _student(one, builder, facts_of_data(splits))
    record: dict[str, Any] = {
        "student": descriptions.get("") or descriptions,
        "teacher": plan.describes,
        "data": splits.fingerprint,
        "views": str(views or Views()),
        "arms": {name: describe(o) + _listens(o) for name, o in chosen.items()},
        "seeds": list(seeds),
        "train": settings.model_dump(mode="json"),
    }
    if compress:
        record["compress"] = list(compress)
    if export:
        record["export"] = list(export)
    kept = None
    if store is not None:
        spec = store_settings({} if store == "auto" else store)
        record["store"] = spec.model_dump(mode="json")
        kept = store_plan(
            spec, views or Views(), chosen, classes=len(splits.train.outputs), seeds=seeds, train=settings
        )
    text = "".join(f"# {line}\n" for line in _lines(record))
    job = Job(
        name="python", config=text, seeds=tuple(seeds), splits=splits, views=views or Views(), teacher=plan,
        students=plans, arms=arms_of(plans, chosen), train=settings, device=device, compress=tuple(compress),
        export=tuple(export), store=kept,
    )  # fmt: skip

    def differences(before: str) -> list[str]:
        old, new = (dict(line.split(": ", 1) for line in said.splitlines()) for said in (before, text))
        keys = [f"# {key}" for key in RESUMABLE]
        changed = [key for key in {**old, **new} if key not in keys and old.get(key) != new.get(key)]
        return [f"{key.removeprefix('# ')}: {old.get(key)} → {new.get(key)}" for key in changed]

    return execute(
        job, Path(out), differences=differences, overwrite=overwrite, quiet=quiet, command="tutelage.distill(…)"
    )


def _listens(objective: Objective) -> str:
    """Where an objective listens, and by which connectors; nothing where it reads no features."""
    places = [
        f"{place.student} → {place.teacher} ({place.map or term.connector})"
        for term in objective.terms
        for place in term.places
    ]
    return f" at {', '.join(places)}" if places else ""


def _lines(record: Mapping[str, Any], prefix: str = "") -> list[str]:
    lines = []
    for key, value in record.items():
        if isinstance(value, Mapping):
            lines += _lines(value, f"{prefix}{key}.")
        else:
            lines.append(f"{prefix}{key}: {value}")
    return lines


def _splits(data: Data) -> Splits:
    if isinstance(data, Splits):
        return data
    if isinstance(data, str):
        return load(data, path=None, val=0.1, test=0.2, seed=0)
    if isinstance(data, tuple) and len(data) == 2:
        return from_arrays(*data, val=0.1, test=0.2, seed=0)
    raise InputError(
        "this is no data to learn from",
        given=type(data).__name__,
        expected="tutelage.data.Splits, the name of a source, or (inputs, labels)",
    )


def _spec(model: str | Mapping[str, Any], role: str) -> ModelSpec:
    if isinstance(model, str):
        return ModelSpec(model, {}, None)
    unknown = set(model) - {"model", "args"}
    if unknown or "model" not in model:
        raise InputError(
            f"the {role} is described by model and args", given=dict(model), expected='{"model": "cnn", "args": {…}}'
        )
    return ModelSpec(model["model"], model.get("args", {}), None)


def _teacher(
    teacher: Teacher | nn.Module | str | Mapping[str, Any],
    builder: Callable[[ModelSpec], Callable[[], nn.Module]],
    settings: Train,
    epochs: int | None,
    places: Sequence[str],
    classes: Sequence[str],
) -> TeacherPlan:
    if isinstance(teacher, (str, Mapping)):
        told = {"model": teacher} if isinstance(teacher, str) else dict(teacher)
        reads = str(told.pop("reads", ""))
        spec = _spec(told, "teacher")
        if answers_elsewhere(spec.name):
            words = f"{spec.name} {dict(spec.args)}"
            return TeacherPlan(opens=opening(spec), reads=reads, describes=words, spec=spec)
        if reads:
            raise InputError(
                "a torch teacher that reads a view of its own is trained by a recipe", given=f"reads {reads}",
                fix="write a recipe, or pass a trained module as tutelage.teachers.Reading(ModuleTeacher(net), view)",
            )  # fmt: skip
        longer = settings if epochs is None else settings.model_copy(update={"epochs": epochs})
        return TeacherPlan(build=builder(spec), train=longer, describes=f"{spec.name} {dict(spec.args)}")
    given = as_teacher(teacher, places, classes)
    module = given.panel() if isinstance(given, EnsembleTeacher) else getattr(given, "module", None)
    return TeacherPlan(given=given, module=module, describes=given.fingerprint())


def _students(student: Model | Mapping[str, Model]) -> dict[str, Model]:
    """Students by name; one alone has none. A description of a model is a mapping as well, with the key `model`."""
    if isinstance(student, Mapping) and "model" not in student:
        for name in student:
            if re.fullmatch(r"[a-z0-9_][a-z0-9_-]{0,39}", str(name)) is None:
                raise InputError(f"{name!r} cannot name a student", expected="at most 40 of a-z, 0-9, `_` and `-`")
        if not student:
            raise InputError("nobody learns", expected="a student, or several by name")
        return dict(student)
    return {"": student}


def _student(
    student: Model, builder: Callable[[ModelSpec], Callable[[], nn.Module]], facts: Mapping[str, object]
) -> tuple[StudentPlan, str]:
    """How to build it, beside the facts that build it again, and how to record it."""
    if isinstance(student, Mapping) and set(student) & _BEGINNINGS:
        spec = _described(student)
        parts = ", ".join(f"{key} {value}" for key, value in spec.model_dump(exclude_defaults=True).items())
        return student_plan(spec, builder, facts), parts
    if isinstance(student, (str, Mapping)):
        named = _spec(student, "student")
        config = {"model": named.name, "args": dict(named.args), **facts}
        return StudentPlan(builder(named), config), f"{named.name} {dict(named.args)}"
    if is_keras(student):
        student = KerasNet(student)
    if isinstance(student, nn.Module):
        kept = copy.deepcopy(student)
        plain = merge(kept)
        return StudentPlan(lambda: copy.deepcopy(kept), {}, lambda: copy.deepcopy(plain)), state_digest(kept)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        example = _as_module(student())
    if not isinstance(example, nn.Module):
        raise InputError("the student's builder returns no module", given=type(example).__name__)
    digest = hashlib.sha256(f"{example} {state_digest(example)}".encode()).hexdigest()
    return StudentPlan(lambda: _as_module(student()), {}, lambda: merge(_as_module(student()))), digest


def _as_module(model: Any) -> Any:
    """A model of Keras as the torch module that it is; all others as they are."""
    return KerasNet(model) if is_keras(model) else model


def _described(student: Mapping[str, Any]) -> Student:
    """A student in the words of a recipe, read as a recipe's, with its messages."""
    given = {key: str(value) if isinstance(value, Path) else value for key, value in student.items()}
    rest = {"name": "python", "data": {"source": "arrays"}, "train": {"epochs": 1}}
    rest["teacher"] = {"model": "mlp", "train": {"epochs": 1}}
    spec = from_mapping({**rest, "student": given}).student
    assert spec is not None
    return spec

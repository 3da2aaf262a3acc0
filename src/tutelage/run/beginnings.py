"""Students that begin as something larger: as their teacher or an earlier student, pruned, of lower rank, or thinned.

What they begin with depends on trained weights, so it is made once the teacher is there, and kept in the run's folder:
a run that goes on, and every process of it, begins with the very same numbers.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tutelage.compress import Prune, Rank, Shrink, Smaller, Thin, plain, rebuilt, remasked, shrink
from tutelage.data import Examples, as_model_input
from tutelage.errors import DamagedError, InputError, ModelError
from tutelage.evaluation.cost import multiply_adds, parameters
from tutelage.evaluation.predict import predict, task_scores
from tutelage.files import read_json, sha256, write_json
from tutelage.models import adapt, load_weights, save_weights
from tutelage.recipe import Student
from tutelage.recipe.learners import TEACHER
from tutelage.run.teacherplan import TeacherPlan
from tutelage.teachers import ModuleTeacher

if TYPE_CHECKING:
    from tutelage.run.cohorts import Workshop
    from tutelage.run.job import Job, StudentPlan
    from tutelage.run.teacher import TeacherInHand

__all__ = [
    "EXAMPLES", "Beginning", "beginning_of", "begun", "keep_smaller", "nets_beside", "planned", "steps_beside",
    "told_smaller",
]  # fmt: skip

EXAMPLES = 512  # of the training part, by which importance is told


@dataclass(frozen=True, slots=True, eq=False)
class Beginning:
    """How a student comes by what it begins with."""

    shrink: Shrink
    of_teacher: bool = False
    frozen: tuple[str, ...] = ()
    rewind: int | None = None  # after how many epochs of the teacher's training; None: as it is now
    planned: bool = False  # whether the student's plan knows how to build something of its kind
    origin: Callable[[], nn.Module] | None = None  # with its weights, where these are not the teacher's


def beginning_of(spec: Student) -> Beginning | None:
    """What a recipe says of it; None where the student begins like any other."""
    if not spec.begins_smaller:
        return None
    rewind = spec.prune.rewind_epochs if spec.prune is not None and spec.prune.rewind else None
    how = Shrink(
        None if spec.layers is None else Thin(**spec.layers.model_dump()),
        None if spec.prune is None else Prune(**spec.prune.model_dump(exclude={"rewind", "rewind_epochs"})),
        None if spec.rank is None else Rank(**spec.rank.model_dump()),
    )
    return Beginning(how, spec.model == TEACHER, tuple(spec.frozen), rewind)


def steps_beside(weights: Path | None) -> list[dict[str, Any]]:
    """How the net of a file of weights was made smaller before, by the facts that lie beside it.

    Raises:
        DamagedError: the facts are of another file.
    """
    facts = None if weights is None else weights.with_name("student.json")
    if weights is None or facts is None or weights.name != "student.safetensors" or not facts.is_file():
        return []
    known = read_json(facts)
    steps = known.get("smaller", [])
    if steps and weights.is_file() and sha256(weights) != known.get("sha256"):
        raise DamagedError(f"{weights} was altered since it was saved", fix="restore the file from a copy")
    return list(steps)


def nets_beside(
    net: Callable[[], nn.Module], weights: Path, steps: Sequence[Mapping[str, Any]]
) -> tuple[Callable[[], nn.Module], Callable[[], nn.Module]]:
    """What builds the smaller net of such a file, and what fills it as well."""

    def smaller() -> nn.Module:
        return _rebuilt(net, steps)

    def filled() -> nn.Module:
        module = smaller()
        load_weights(module, weights)
        return module

    return smaller, filled


# ---- before anything is trained --------------------------------------------------------------------------------------


def planned(students: Mapping[str, StudentPlan], teacher: TeacherPlan, train: Examples) -> dict[str, StudentPlan]:
    """The plans, those that begin smaller now with a builder of something of their kind, from an untrained teacher.

    Args:
        students: by name; what is planned already stays as it is.
        teacher: who is begun with.
        train: of whose kind the inputs are.

    Raises:
        ModelError: there is no one teacher that is a module.
        InputError: it is to be rewound, but is not trained here.
    """
    found = dict(students)
    for name, plan in students.items():
        how = plan.begins
        if how is None or how.planned:
            continue
        if how.of_teacher:
            plan = replace(plan, plain=_net_of(teacher, how, name), config=_described(plan.config, teacher))
        origin = how.origin or plan.plain
        assert origin is not None
        found[name] = replace(plan, begins=replace(how, planned=True), build=_trial(origin, how, train))
    return found


def _trial(origin: Callable[[], nn.Module], how: Beginning, train: Examples) -> Callable[[], nn.Module]:
    """Built once, and only if somebody asks: of a large model it takes a while."""

    @functools.cache
    def made() -> nn.Module:
        with torch.random.fork_rng():
            return _adapted(_smaller(origin(), how, train).module, how)

    return lambda: copy.deepcopy(made())


def _described(config: Mapping[str, object], teacher: TeacherPlan) -> dict[str, object]:
    """The student's facts, with the teacher's name and arguments; none where only the caller can build the teacher."""
    return {} if teacher.spec is None else {"model": teacher.spec.name, "args": dict(teacher.spec.args), **config}


def _net_of(teacher: TeacherPlan, how: Beginning, name: str) -> Callable[[], nn.Module]:
    where = f"students.{name}" if name else "student"
    if how.rewind is not None and (teacher.train is None or how.rewind > teacher.train.epochs):
        raise InputError(
            "a student is rewound to the beginning of its teacher's training, which is not part of this run",
            where=f"{where}.prune.rewind", expected="`teacher.train`, of no fewer epochs",
            fix="leave `rewind` out",
        )  # fmt: skip
    module = teacher.module
    if module is not None:
        return lambda: copy.deepcopy(module)
    if teacher.build is None or teacher.members:
        raise ModelError(
            "a student can begin as one teacher that is a module", where=where,
            given=f"{len(teacher.members)} teachers" if teacher.members else "answers only", fix="name one `teacher`",
        )  # fmt: skip
    return teacher.build


def _smaller(module: nn.Module, how: Beginning, train: Examples, early: nn.Module | None = None) -> Smaller:
    few = train.take(torch.arange(min(EXAMPLES, len(train))))
    classes = len(train.classes)
    return shrink(module, how.shrink, as_model_input(few.inputs), few.targets, classes=classes, early=early)


def _adapted(module: nn.Module, how: Beginning) -> nn.Module:
    return adapt(module.requires_grad_(True), frozen=how.frozen)


# ---- once the teacher is there ---------------------------------------------------------------------------------------


def begun(job: Job, shop: Workshop, hand: TeacherInHand) -> dict[str, StudentPlan]:
    """The plans, whose students now begin with what the trained weights say; it is kept in the run's folder.

    Raises:
        ModelError: the weights cannot be made so small.
        DamagedError: what was kept is not what it was.
    """
    found = dict(job.students)
    for name, plan in job.students.items():
        how = plan.begins
        if how is None:
            continue
        assert plan.plain is not None
        file = shop.folder.path / "checkpoints" / "beginnings" / f"{name or 'student'}.safetensors"
        if shop.device.rank == 0 and not file.with_suffix(".json").is_file():
            with torch.random.fork_rng():
                large = _origin(how, hand)
                small = _smaller(large, how, job.teaching.splits.train, _early(job, shop, how))
            keep_smaller(file, small)
            shop.folder.tell(told_smaller(name, large, small.module, _judge(job, shop)))
        shop.device.barrier()
        facts = read_json(file.with_suffix(".json"))
        if sha256(file) != facts.get("sha256"):
            raise DamagedError(
                f"{file} was altered since it was saved", fix=f"remove {file.with_suffix('.json')} to make it again"
            )
        steps = facts["steps"]
        net = functools.partial(_rebuilt, plan.plain, steps)
        earlier = list(plan.config.get("smaller", ()))  # type: ignore[call-overload]
        config = {**plan.config, "smaller": [*earlier, *steps]} if plan.config else plan.config
        found[name] = replace(plan, plain=net, build=functools.partial(_loaded, net, file, steps, how), config=config)
    return found


def keep_smaller(file: Path, small: Smaller) -> None:
    """Write what a student begins with, and how its net is built."""
    save_weights(plain(small.module), file)
    write_json(file.with_suffix(".json"), {"sha256": sha256(file), "steps": list(small.steps)})


def told_smaller(
    name: str, large: nn.Module, small: nn.Module, judge: Callable[[nn.Module], tuple[float, Tensor]]
) -> str:
    """In a line: how much smaller, and what that cost before anything learns."""
    (before, example), (after, _) = judge(large), judge(small)
    small = plain(small)
    shares = f"{parameters(small) / parameters(large):.1%} of the parameters"
    with contextlib.suppress(RuntimeError, NotImplementedError):  # an operation that the counter cannot follow
        shares += f", {multiply_adds(small, example) / multiply_adds(large, example):.1%} of the multiply-adds"
    title = f"student {name}".rstrip()
    return f"{title}: begins with {shares}; {before:.2%} → {after:.2%} of the validation part"


def _judge(job: Job, shop: Workshop) -> Callable[[nn.Module], tuple[float, Tensor]]:
    val = job.splits.val

    def judge(module: nn.Module) -> tuple[float, Tensor]:
        logits = predict(copy.deepcopy(module).to(shop.device.device), shop.plain(val), shop.device.device)
        return task_scores(logits, val.labels, val.sizes)["accuracy"], as_model_input(val.inputs[:1])

    return judge


def _origin(how: Beginning, hand: TeacherInHand) -> nn.Module:
    if not how.of_teacher:
        assert how.origin is not None
        return how.origin()
    assert hand.module is not None
    if getattr(hand.module, "order", None) is not None:
        raise ModelError(
            "the teacher's classes stand in another order than the data's, which a student's file cannot say",
            fix="write the teacher's weights with its classes in the order of the data's first",
        )
    return copy.deepcopy(hand.module).cpu()


def _early(job: Job, shop: Workshop, how: Beginning) -> nn.Module | None:
    """The teacher as it was early in its training."""
    if how.rewind is None:
        return None
    from tutelage.run.route import route_of  # which knows cohorts, and these know jobs

    teacher = job.teacher
    assert teacher.build is not None
    if how.rewind:
        assert teacher.train is not None
        anchor = route_of(job, shop, teacher.train.epochs, []).anchors[how.rewind - 1]
        assert isinstance(anchor, ModuleTeacher)
        return copy.deepcopy(anchor.module).cpu()
    torch.manual_seed(teacher.seed)
    return teacher.build()


def _rebuilt(net: Callable[[], nn.Module], steps: Sequence[Mapping[str, Any]]) -> nn.Module:
    return rebuilt(net(), steps).requires_grad_(True)


def _loaded(net: Callable[[], nn.Module], file: Path, steps: Sequence[Mapping[str, Any]], how: Beginning) -> nn.Module:
    with torch.random.fork_rng():
        module = net()
    load_weights(module, file)
    if any(step["how"] == "zeros" for step in steps):
        remasked(module)
    return _adapted(module.train(), how)

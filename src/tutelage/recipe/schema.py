"""What a recipe says: the data, who teaches, who learns, the arms that are compared, and how they are trained.

    Recipe ─┬─ data ── views           teacher ── train (or weights)
            ├─ student                 arms: name -> terms (loss, weight, temperature)
            └─ train ── stop           report

Every default stands in this room and nowhere else (`dataset`, `learning`, `learners`, `attacks` and `combining` hold
parts of it); a recipe that is written out names them all. Names that only other rooms know, of losses, models and data
sources, are checked by `check_names` with the lists those rooms keep.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator

from tutelage.errors import InputError
from tutelage.recipe.attacks import AttackSpec, RobustnessSpec
from tutelage.recipe.combining import Combine, settled
from tutelage.recipe.dataset import Data
from tutelage.recipe.kinds import (
    Arguments,
    ArmName,
    Compressions,
    Device,
    Exports,
    Identifier,
    LayerPairs,
    Positive,
    Precision,
    RecordedViews,
    RunName,
    Section,
    Seed,
    Seeds,
    SourceOrTeacher,
    Text,
    Trackers,
    auto_or,
    words,
)
from tutelage.recipe.learners import Student, comes_with_weights
from tutelage.recipe.learning import Train
from tutelage.recipe.moving import ScheduleSpec, Temperature, Weight
from tutelage.recipe.places import Places
from tutelage.words import is_fitted

SCRATCH = "scratch"
# Keys whose change does not make another run of it: where to compute and what to measure, not what is trained. Ask
# `resumable`, which knows those of several teachers, and what lies below a key, as well.
RESUMABLE = frozenset(
    {
        "device",
        "export",
        "train.checkpoint_seconds",
        "teacher.train.checkpoint_seconds",
        "report.attack",
        "report.bootstrap",
        "report.latency",
        "report.trackers",
        # How an address is asked, and what that may cost, not what it answers.
        *(
            f"teacher.args.{key}"
            for key in ("budget", "price", "in_flight", "timeout", "deadline", "retries", "key_env", "key_header")
        ),
    }
)


def resumable(key: str) -> bool:
    """Whether a run may go on where this dotted key has changed."""
    one = re.sub(r"^teachers\.[^.]+\.", "teacher.", key)
    return re.sub(r"^(report\.attack|teacher\.args\.(?:budget|price))\..*", r"\1", one) in RESUMABLE


class Store(Section):
    """The teacher's answers on disk, asked for once and used by every student, seed and epoch."""

    views: RecordedViews = "auto"
    """none: plain examples; a number: that many recorded views of each; replay: every view that seeds and epochs draw;
    auto: none where nothing is random, else 4, or replay where that is not more."""
    codec: Annotated[
        str,
        Field(pattern=r"^(fp32|fp16|bf16|int8|top-[1-9][0-9]{0,4}|sample-[1-9][0-9]{0,4})$"),
        words("fp32, fp16, bf16, int8, top-K or sample-N, such as top-16 or sample-64"),
    ] = "fp32"
    """How logits are written; fp32 is exact. `tutelage cache estimate` tells what others save and what they lose."""
    temperature: Positive | None = None
    """At which the tail of top-K, or the draws of sample-N, are taken; null takes that of the arms."""
    precision: Precision | None = None
    """The number format in which the teacher answers; null takes that of the training."""
    features: Annotated[tuple[Text, ...], Field(strict=False), words("a list of layers such as [net.3]")] = ()
    """Layers whose outputs are stored beside the logits, by path or pattern."""


class Teacher(Section):
    """The model that is trusted: loaded from weights, or trained first."""

    model: Text
    """A built-in model, `hf:type`, `hf:owner/name`, `hf:/folder`, or `package.module:function`."""
    args: Arguments = Field(default_factory=dict)
    """Arguments of the model."""
    reads: Text | None = None
    """The view of the examples that it reads, where `data.inputs` names several; null: what students read."""
    weights: Text | None = None
    """A safetensors file with its weights."""
    train: Annotated[Train | None, Field(validate_default=True)] = None
    """How to train it, where there are no weights yet."""
    seed: Seed = 0
    """From which its weights start."""
    cross_fit: Annotated[Annotated[int, Field(ge=2, le=20)] | None, Field(validate_default=True)] = None
    """In how many folds the training part is cut for a teacher that learns from it: what students hear of an example
    is then said by one that learned from the other folds, and so not by heart; null: by one that learned from all."""
    store: Annotated[
        Store | None,
        auto_or(Literal["auto"] | Store | None),
    ] = None
    """Whether its answers are stored and read from disk: auto, or how; null asks it anew at every step."""

    @field_validator("train")
    @classmethod
    def _one_origin(cls, train: Train | None, info: ValidationInfo) -> Train | None:
        if "model" not in info.data or "weights" not in info.data:
            return train
        weights, model = info.data["weights"], info.data["model"]
        if train is not None and weights is not None:
            raise InputError("a teacher is loaded or trained, not both", fix="keep one of `weights:` and `train:`")
        if train is None and weights is None and not comes_with_weights(model):
            raise InputError(
                f"the teacher `{model}` knows nothing yet",
                fix="give `weights:` with its file, or `train:` to train it first",
            )
        return train

    @field_validator("cross_fit")
    @classmethod
    def _learns_here(cls, cross_fit: int | None, info: ValidationInfo) -> int | None:
        data = info.data
        if cross_fit is None or {"model", "train"} - data.keys():
            return cross_fit
        if data["train"] is not None or is_fitted(data["model"]):
            return cross_fit
        raise InputError(
            "only a teacher that learns in this run can be cross-fitted", given=data["model"],
            expected="one with `train:`, or that is fitted, such as sklearn:tfidf", fix="leave `cross_fit` out",
        )  # fmt: skip


class TermSpec(Section):
    """One loss of an arm, and how much it weighs."""

    loss: Text
    """The loss by name: built in, offered by an installed package, or `package.module:function`."""
    weight: Weight = 1.0
    """What it is multiplied by."""
    temperature: Temperature | None = None
    """What logits are divided by, for losses that have one; null keeps the loss's own default."""
    name: Identifier | None = None
    """What reports call it; the loss's name by default."""
    options: Arguments = Field(default_factory=dict)
    """Further arguments of the loss. Its `class_weights` may be balanced, effective (as effective numbers weigh, or
    {effective: β}), or a number for each class."""
    at: LayerPairs = ()
    """For losses that read features: the layers, such as {student: net.stages.1, teacher: net.stages.2}."""
    connector: Literal["auto", "none", "linear", "mlp", "block"] = "auto"
    """What brings the student's features into the teacher's shape; auto is linear where widths differ, else none."""
    gradient: Literal["label", "max", "cross_entropy", "projection"] = "label"
    """For losses that read gradients: of which number of each answer."""
    attack: AttackSpec | None = None
    """For losses that read answers to attacked inputs: what attacks."""
    source: SourceOrTeacher = None
    """Who is listened to: teacher (or null), ema, peers, pseudo, route, the name of an arm, or more precisely a mapping
    such as {ema: 0.99}."""
    companion: Arguments = Field(default_factory=dict)
    """Settings of what learns along for this loss, where something does."""
    task: Text | None = None
    """Of which task's logits and labels it is, where the data has several; null: of each of them, added up."""

    @field_validator("weight", "temperature")
    @classmethod
    def _in_range(cls, value: float | ScheduleSpec | None, info: ValidationInfo) -> float | ScheduleSpec | None:
        if isinstance(value, ScheduleSpec):
            least = value.build().least
            if least < 0 or (least == 0 and info.field_name == "temperature"):
                bound = "above 0" if info.field_name == "temperature" else "at 0 or above"
                raise InputError(f"a {info.field_name} must stay {bound}; this schedule reaches {least:g}")
        return value


Terms = Annotated[
    tuple[TermSpec, ...],
    Field(strict=False, min_length=1),
    words("a list of at least one term such as - {loss: cross_entropy}"),
]


def _default_arms() -> dict[str, tuple[TermSpec, ...]]:
    soft = TermSpec(loss="soft_target", weight=0.9, temperature=4.0)
    return {
        SCRATCH: (TermSpec(loss="cross_entropy"),),
        "distilled": (soft, TermSpec(loss="cross_entropy", weight=0.1)),
    }


class Report(Section):
    """What is measured at the end."""

    bootstrap: Annotated[int, Field(ge=100, le=1_000_000)] = 10_000
    """Resamples behind every interval."""
    latency: bool = True
    """Whether to time the models."""
    attack: RobustnessSpec | None = None
    """What attacks every model at the end, for an accuracy under attack beside the plain one; null attacks nobody."""
    trackers: Trackers = ()
    """Where else to write curves and results: tensorboard, wandb (offline), mlflow; each needs its extra."""


class Recipe(Section):
    """A whole comparison: a student, or several, trained side by side with and without their teacher."""

    name: RunName
    """What the run is called."""
    seeds: Seeds = (0, 1, 2)
    """One cohort is trained for each; null draws one by chance."""
    data: Data
    teachers: dict[ArmName, Teacher] = Field(
        default_factory=dict,
        json_schema_extra={"expected_keys": "at most 40 of a-z, 0-9, `_` and `-`, the first not `-`"},
    )
    """Several teachers by name, in place of `teacher`: arms name their layers as `<teacher>.<layer>`."""
    teacher: Annotated[Teacher | None, Field(validate_default=True)] = None
    """The teacher, where there is one."""
    combine: Annotated[Combine | None, Field(validate_default=True)] = None
    """How several `teachers` answer as one; null, the mean of their probabilities."""
    students: dict[ArmName, Student] = Field(
        default_factory=dict,
        json_schema_extra={"expected_keys": "at most 40 of a-z, 0-9, `_` and `-`, the first not `-`"},
    )
    """Several students by name, in place of `student`: every one is trained by every arm, as `<student>.<arm>`."""
    student: Annotated[Student | None, Field(validate_default=True)] = None
    """The student, where there is one."""
    arms: dict[ArmName, Terms] = Field(
        default_factory=_default_arms,
        min_length=1,
        json_schema_extra={"expected_keys": "at most 40 of a-z, 0-9, `_` and `-`, the first not `-`"},
    )
    """What is compared, by name; `scratch`, the student without a teacher, is added where it is missing."""
    train: Train
    """How every arm of the student is trained."""
    compress: Compressions = ()
    """Formats in which every student's weights are also written and judged: fp16 halves the file, int8 quarters it."""
    export: Exports = ()
    """Formats of files that run without tutelage, in which every student is also written, compared with its model, and
    judged: onnx, onnx-int8, torch."""
    device: Device = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    threads: Annotated[int, Field(ge=1, le=256)] | None = None
    """How many threads torch may use; null leaves its own choice. Very small nets learn faster on one."""
    report: Report = Report()
    """What to measure for the report."""

    _places: Places = PrivateAttr(default_factory=Places)

    @field_validator("arms")
    @classmethod
    def _with_scratch(cls, arms: dict[str, tuple[TermSpec, ...]]) -> dict[str, tuple[TermSpec, ...]]:
        # First, since every other arm is compared with it.
        scratch = arms.get(SCRATCH) or (TermSpec(loss="cross_entropy"),)
        return {SCRATCH: scratch, **{name: terms for name, terms in arms.items() if name != SCRATCH}}

    @field_validator("teacher")
    @classmethod
    def _somebody_teaches(cls, teacher: Teacher | None, info: ValidationInfo) -> Teacher | None:
        if "teachers" in info.data and (teacher is None) == (not info.data["teachers"]):
            if teacher is not None:
                raise InputError("`teachers` is there as well", fix="keep one of them")
            raise InputError(
                "expected a mapping with `model`, got nothing",
                fix="fill it in, or name several under `teachers:`; `tutelage models` lists what there is",
            )
        return teacher

    @field_validator("combine")
    @classmethod
    def _of_these(cls, combine: Combine | None, info: ValidationInfo) -> Combine | None:
        several = info.data.get("teachers")
        if several is None or "teacher" not in info.data:
            return combine
        return settled(combine, several)

    @field_validator("student")
    @classmethod
    def _somebody_learns(cls, student: Student | None, info: ValidationInfo) -> Student | None:
        if "students" in info.data and (student is None) == (not info.data["students"]):
            if student is not None:
                raise InputError("`students` is there as well", fix="keep one of them")
            raise InputError(
                "expected a mapping with `model`, got nothing",
                fix="fill it in, or name several under `students:`; `tutelage models` lists what there is",
            )
        return student

    @property
    def trusted(self) -> dict[str, Teacher]:
        """The teachers by name, sorted, so that their order in the file says nothing; one alone has no name."""
        return {"": self.teacher} if self.teacher is not None else dict(sorted(self.teachers.items()))

    @property
    def learners(self) -> dict[str, Student]:
        """The students by name; one alone is called by no name."""
        return {"": self.student} if self.student is not None else dict(self.students)

    @property
    def places(self) -> Places:
        """Where each value was written, for messages about what only other rooms can check."""
        return self._places

    def placed(self, places: Places) -> Self:
        """The same recipe, knowing where its values were written."""
        self._places = places
        return self

    def continuing(self, earlier: Recipe) -> Recipe:
        """The same recipe; where its seeds were drawn by chance, with those that an earlier run of it drew."""
        if not self._places.seeds_by_chance:
            return self
        return self.model_copy(update={"seeds": earlier.seeds})

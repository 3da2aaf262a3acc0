"""The kinds of values that a recipe is made of, each with the words in which a message asks for it.

Types are taken literally: text is no number, `true` is not 1, and a number that is not finite is none. Where a rule
cannot be read off the type (`a number > 0` can), the JSON Schema keyword `expected` carries the words.
"""

from __future__ import annotations

import math
import secrets
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from tutelage.errors import InputError, nearest
from tutelage.recipe.scalars import show
from tutelage.sources import Ema, FromArm, Peers, Pseudo, Route, Source, as_source
from tutelage.words import MAPS

# Names that some file systems keep for devices, whatever their case or suffix.
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


class Section(BaseModel):
    """A mapping of the recipe: unknown keys refused, types literal, never changed once read."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


def words(expected: str) -> Any:
    """What messages ask for, where the type does not say it."""
    return Field(json_schema_extra={"expected": expected})


def _no_device(name: str) -> str:
    if name.split(".")[0].lower() in _DEVICES:
        raise InputError(f"{show(name)} cannot be the name of a file everywhere", fix="choose another name")
    return name


def _arguments(values: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of something that is built later; by then nobody knows the line any more."""
    for key in values:
        if not key.isidentifier():
            raise InputError(f"{show(key)} cannot be the name of an argument", expected="letters, digits and _")
    _plain(values)
    return values


def _plain(value: object) -> None:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            _plain(item)
    elif isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"expected finite numbers, got {show(value)}")
    elif not (value is None or isinstance(value, (str, bool, int, float))):
        raise InputError(f"{show(value)} cannot be written into a recipe", expected="numbers, text, lists or mappings")


def _seeds(value: object) -> object:
    """`null` asks for a seed by chance; the recipe that is written out holds the one that was drawn."""
    return [secrets.randbelow(2**32)] if value is None else value


def _once(values: tuple[int, ...]) -> tuple[int, ...]:
    if twice := sorted({value for value in values if values.count(value) > 1}):
        raise InputError(f"the seed {twice[0]} stands here twice, and would only repeat its numbers")
    return values


def _views(value: object) -> object:
    if value in ("auto", "none", "replay") or (type(value) is int and value >= 1):
        return value
    raise InputError(f"expected auto, none, replay, or a number of recorded views such as 4, got {show(value)}")


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    if twice := sorted({value for value in values if values.count(value) > 1}):
        raise InputError(f"{twice[0]} stands here twice")
    return values


def _pairs(value: object) -> object:
    """One place for a list of one; a text for a layer that both sides have."""
    given = value if isinstance(value, (list, tuple)) else [value]
    return [{"student": one, "teacher": one} if isinstance(one, str) else one for one in given]


def _map(value: object) -> object:
    if value is None or value in MAPS:
        return value
    fix = nearest(value, MAPS) if isinstance(value, str) else None
    raise InputError(f"expected {', '.join(MAPS)} or null, got {show(value)}", fix=fix)


def auto_or(kinds: Any) -> Any:
    """`auto` stands for a mapping of nothing but defaults; `kinds` is what editors are told."""
    return BeforeValidator(_auto, json_schema_input_type=kinds)


def _auto(value: object) -> object:
    if value == "auto":
        return {}
    if value is None or isinstance(value, (dict, BaseModel)):
        return value
    raise InputError(f"expected auto, or a mapping such as {{views: 4, codec: fp16}}, got {show(value)}")


Text = Annotated[str, Field(min_length=1, max_length=4096)]
Identifier = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"), words("a name of letters, digits and _")]
RunName = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"),
    words("a name of at most 64 letters, digits, `.`, `_` or `-`, the first a letter or digit"),
    AfterValidator(_no_device),
]
ArmName = Annotated[
    str,
    Field(pattern=r"^[a-z0-9_][a-z0-9_-]{0,39}$"),
    AfterValidator(_no_device),
]
Device = Annotated[str, Field(pattern=r"^[a-z]+(:[0-9]+)?$"), words("auto, cpu, cuda, cuda:1, mps or the like")]
Arguments = Annotated[dict[str, Any], AfterValidator(_arguments)]

Compressions = Annotated[
    tuple[Literal["fp16", "int8"], ...], Field(strict=False), AfterValidator(_distinct), words("a list of fp16, int8")
]
Exports = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=40)], ...],
    Field(strict=False),
    AfterValidator(_distinct),
    words("a list of formats such as [onnx, onnx-int8]"),
]
Trackers = Annotated[
    tuple[Literal["tensorboard", "wandb", "mlflow"], ...],
    Field(strict=False),
    AfterValidator(_distinct),
    words("a list of tensorboard, wandb, mlflow"),
]
Count = Annotated[int, Field(ge=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]

RecordedViews = Annotated[
    str | int,
    BeforeValidator(_views, json_schema_input_type=Literal["auto", "none", "replay"] | Annotated[int, Field(ge=1)]),
]
Precision = Annotated[
    Literal["32", "bf16", "fp16", "auto"],
    # 32 is a number to YAML, and nobody should have to quote it.
    BeforeValidator(
        lambda value: "32" if type(value) is int and value == 32 else value,
        json_schema_input_type=Literal["32", 32, "bf16", "fp16", "auto"],
    ),
]


LayerMap = Annotated[
    str | None, BeforeValidator(_map, json_schema_input_type=Literal["uniform", "last", "first"] | None)
]


class PlaceSpec(Section):
    """A layer of the student beside one of the teacher."""

    student: Text
    """The student's layer, by path or by a pattern that one layer answers to."""
    teacher: Text
    """The teacher's layer, likewise."""
    map: LayerMap = None
    """Both are patterns of several layers, where `*` stands for one part of a path, lined up so: uniform, the student's
    m-th of M beside the teacher's ⌈m · N / M⌉-th of N; last or first, beside as many of the teacher's; null, one layer
    each."""


class SourceSpec(Section):
    """Who is listened to in the teacher's place: one of these."""

    arm: Text | None = None
    """The finished student of another arm, `<arm>` of the same student or `<student>.<arm>`."""
    ema: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] | None = None
    """The student's own moving average, with this decay."""
    peers: Literal["each", "mean_logits", "mean_probabilities", "best", "least_logits"] | None = None
    """The same arm's other students, who learn at the same time, and how they answer as one."""
    pseudo: Probability | None = None
    """What the teacher (or `arm`) said of the plain examples, where it was at least this sure."""
    route: Count | None = None
    """The teacher at so many points of its own training, one after the other."""
    per_class: Count | None = None
    """At most so many pseudo-labels of every class, the surest."""
    every: Annotated[Count, Field(validate_default=True)] = 1
    """Peers answer as they were at the last of every so many steps."""

    @field_validator("every")
    @classmethod
    def _one(cls, every: int, info: ValidationInfo) -> int:
        data = info.data
        named = [key for key in ("arm", "ema", "peers", "pseudo", "route") if data.get(key) is not None]
        if len(named) != 1 and sorted(named) != ["arm", "pseudo"]:
            raise InputError(
                f"a term listens to one source, not to {len(named)}",
                expected="one of arm, ema, peers, pseudo, route", fix="leave `source` out to listen to the teacher",
            )  # fmt: skip
        if every > 1 and named != ["peers"]:
            raise InputError("`every` belongs to peers", fix="leave it out")
        if data.get("per_class") is not None and "pseudo" not in named:
            raise InputError("`per_class` belongs to pseudo", fix="leave it out")
        return every

    def build(self) -> Source:
        """What it describes."""
        if self.pseudo is not None:
            return Pseudo(self.pseudo, self.per_class, self.arm)
        if self.route is not None:
            return Route(self.route)
        if self.ema is not None:
            return Ema(self.ema)
        return FromArm(self.arm) if self.arm is not None else Peers(self.peers or "each", self.every)


def _source(value: object) -> object:
    """A word for a source; the teacher is nobody else."""
    if not isinstance(value, str) or not value:
        return value
    source = as_source(value)
    if isinstance(source, FromArm):
        return {"arm": value}
    words = {
        "ema": {"ema": Ema().decay}, "peers": {"peers": Peers().how}, "pseudo": {"pseudo": Pseudo().confidence},
        "route": {"route": Route().anchors},
    }  # fmt: skip
    return words.get(value)


SourceOrTeacher = Annotated[
    SourceSpec | None,
    BeforeValidator(_source, json_schema_input_type=Text | SourceSpec | None),
    words("teacher, ema, peers, pseudo, route, the name of an arm, or a mapping such as {ema: 0.99}"),
]

LayerPairs = Annotated[
    tuple[PlaceSpec, ...],
    Field(strict=False),
    BeforeValidator(_pairs, json_schema_input_type=Text | PlaceSpec | list[Text | PlaceSpec]),
    words("a layer, or {student: net.stages.1, teacher: net.stages.2}, or a list of these"),
]

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
_SeedList = Annotated[
    tuple[Seed, ...],
    Field(strict=False, min_length=1, max_length=1000),
    words("a list of whole numbers such as [0, 1, 2]"),
]
Seeds = Annotated[_SeedList, AfterValidator(_once), BeforeValidator(_seeds, json_schema_input_type=_SeedList | None)]

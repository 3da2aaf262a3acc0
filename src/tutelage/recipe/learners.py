"""What a recipe says of a student: its model, what it starts from, and what of it learns."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from tutelage.errors import InputError
from tutelage.recipe.kinds import Arguments, Count, Fraction, Positive, Section, Seed, Text, words

TEACHER = "teacher"  # as a student's model: the teacher's own
_Layers = Annotated[tuple[Text, ...], Field(strict=False), words("a list of layers such as [net.head]")]


class AdapterSpec(Section):
    """Small parts that learn in place of the student's own weights; merged into these in the file that ships."""

    kind: Literal["lora", "dora"] = "lora"
    """lora: two thin matrices beside every layer; dora: the length of each row of its weight learns as well."""
    rank: Count = 8
    """The inner size of the two matrices; PEFT calls it r."""
    alpha: Positive = 16.0
    """Their product is multiplied by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.0
    """The share of a layer's inputs that its adapter does not see while it learns."""
    targets: Annotated[_Layers, Field(min_length=1)] = ("*",)
    """The layers that get an adapter, by path (with all inside) or pattern: linear ones and ungrouped convolutions."""
    train: _Layers = ()
    """Layers that learn fully, without an adapter, such as [net.head]."""


class HeadSpec(Section):
    """The teacher's last layer in the place of the student's own, behind a projector; both ship with the student."""

    student: Text
    """The student's last convolutional stage, right in front of the mean over places."""
    teacher: Text
    """The teacher's."""
    factor: Count = 2
    """By which the projector is narrower inside than the teacher's stage."""


class BlocksSpec(Section):
    """Blocks of a chain of equal blocks that are left out, or averaged into one; one of keep, every, average."""

    keep: Annotated[
        tuple[Annotated[int, Field(ge=0)], ...] | None,
        Field(strict=False, min_length=1), words("a list of blocks such as [0, 2, 4]"),
    ] = None  # fmt: skip
    """The blocks that stay, by number from 0."""
    every: Annotated[int, Field(ge=2)] | None = None
    """The first of every so many stays."""
    average: Annotated[int, Field(ge=2)] | None = None
    """The mean of every so many neighbours stays."""
    at: Annotated[Text | None, Field(validate_default=True)] = None
    """The chain's path; null takes the longest chain of equal blocks."""

    @field_validator("at")
    @classmethod
    def _one_way(cls, at: str | None, info: ValidationInfo) -> str | None:
        named = [key for key in ("keep", "every", "average") if info.data.get(key) is not None]
        if {"keep", "every", "average"} <= info.data.keys() and len(named) != 1:
            raise InputError("blocks are left out in one way", expected="one of keep, every, average")
        return at


class PruneSpec(Section):
    """What is cut out of a student that knows something already, before it learns."""

    to: Fraction
    """What is left: of `of` where channels go, of the weights where single ones do."""
    of: Literal["multiply_adds", "parameters"] = "multiply_adds"
    """What the share is of, where channels go."""
    by: Literal["magnitude", "taylor", "random"] = "magnitude"
    """How importance is told: the size of weights, the first-order change of the loss, or not at all."""
    kind: Literal["structured", "unstructured"] = "structured"
    """structured: whole channels, which needs the extra `compress`; unstructured: single weights, which stay zero."""
    rewind: bool = False
    """Whether what is left of an unstructured student begins with the teacher's early weights, not its last ones."""
    rewind_epochs: Annotated[int, Field(ge=0, validate_default=True)] = 0
    """After how many epochs of the teacher's training these are taken; 0: before the first."""

    @field_validator("rewind_epochs")
    @classmethod
    def _only_masks(cls, epochs: int, info: ValidationInfo) -> int:
        if info.data.get("rewind") and info.data.get("kind") == "structured":
            raise InputError("only single weights can be rewound", fix="add kind: unstructured, or leave `rewind` out")
        if epochs and info.data.get("rewind") is False:
            raise InputError("`rewind_epochs` belongs to rewind: true", fix="leave it out")
        return epochs


class RankSpec(Section):
    """Layers of a student that knows something already, each put into two thinner ones where that saves numbers."""

    to: Fraction
    """What is left."""
    of: Literal["parameters", "energy"] = "parameters"
    """What the share is of: the model's parameters, or each layer's squared singular values."""
    layers: Annotated[_Layers, Field(min_length=1)] = ("*",)
    """The layers, by path (with all inside) or pattern: linear ones and ungrouped convolutions."""


class QuantiseSpec(Section):
    """Rounding that a student learns with, so that the file in whole numbers answers as it learned to."""

    weights: Literal["int8", "int4"] = "int8"
    """Of linear layers and convolutions; one scale for every output channel."""
    activations: Literal["int8", "float"] = "int8"
    """Of what goes into these layers; float leaves it as it is, and rounds the weights alone."""
    after: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.5
    """The share of training after which it learns with rounding; before that ranges are watched only."""
    still: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, validate_default=True)] = 0.9
    """The share after which ranges and the statistics of batch norms do not move any more."""

    @field_validator("still")
    @classmethod
    def _in_order(cls, still: float, info: ValidationInfo) -> float:
        if still < info.data.get("after", 0.0):
            raise InputError("ranges stand still before rounding begins", expected="after ≤ still")
        return still


class Student(Section):
    """The small model that is to ship."""

    model: Text
    """A built-in model, `hf:type`, `hf:owner/name`, `hf:/folder`, or `package.module:function`; or `teacher`: the
    teacher's own net, which begins with its weights."""
    args: Arguments = Field(default_factory=dict)
    """Arguments of the model."""
    reads: Text | None = None
    """The view of the examples that it reads, where `data.inputs` names several; null: the first."""
    weights: Text | None = None
    """A safetensors file with weights that every seed starts from; null starts from chance."""
    adapter: AdapterSpec | None = None
    """What learns in place of its weights; null lets all of it learn. Needs the extra `peft`."""
    frozen: _Layers = ()
    """Layers that do not learn, by path (with all inside) or pattern; not even the statistics of their batch norms."""
    head: HeadSpec | None = None
    """Lets the student end in its teacher's last layer, which does not learn; null keeps its own."""
    start: Seed = 0
    """Added to the run's seed for the first weights: by this, two students of one net differ."""
    layers: BlocksSpec | None = None
    """Blocks of it that are left out before it learns; for a student that begins with weights."""
    prune: PruneSpec | None = None
    """What is cut out of it before it learns, likewise."""
    rank: Annotated[RankSpec | None, Field(validate_default=True)] = None
    """How far the rank of its layers is lowered before it learns, likewise."""
    quantise: QuantiseSpec | None = None
    """Rounding that it learns with, for `export: [onnx-int8]`; null learns in float alone."""

    @field_validator("adapter")
    @classmethod
    def _something_to_adapt(cls, adapter: AdapterSpec | None, info: ValidationInfo) -> AdapterSpec | None:
        if adapter is None or "model" not in info.data or "weights" not in info.data:
            return adapter
        if info.data["weights"] is None and not comes_with_weights(info.data["model"]):
            raise InputError(
                f"the student `{info.data['model']}` knows nothing yet that could be adapted",
                fix="give its `weights:`, a safetensors file such as an earlier run's student",
            )
        return adapter

    @field_validator("head")
    @classmethod
    def _nothing_adapted(cls, head: HeadSpec | None, info: ValidationInfo) -> HeadSpec | None:
        if head is not None and info.data.get("adapter") is not None:
            raise InputError("a student with adapters keeps its own last layer", fix="leave `adapter` or `head` out")
        return head

    @field_validator("rank")
    @classmethod
    def _something_smaller(cls, rank: RankSpec | None, info: ValidationInfo) -> RankSpec | None:
        data = info.data
        if {"model", "weights", "adapter", "head", "layers", "prune"} - data.keys():
            return rank
        prune, of_teacher = data["prune"], data["model"] == TEACHER
        smaller = any(one is not None for one in (data["layers"], prune, rank))
        if of_teacher and (data["weights"] is not None or data["args"]):
            raise InputError("a student that begins as its teacher has no weights or args of its own",
                             fix="leave them out, or name its model")  # fmt: skip
        if (smaller or of_teacher) and (data["adapter"] is not None or data["head"] is not None):
            raise InputError("a student that is made smaller has no adapter, and keeps its own last layer",
                             fix="leave `adapter` and `head` out")  # fmt: skip
        if smaller and not of_teacher and data["weights"] is None and not comes_with_weights(data["model"]):
            raise InputError(
                f"the student `{data['model']}` knows nothing yet that could be made smaller",
                fix="write model: teacher, or give its `weights:`",
            )
        if prune is not None and prune.rewind and (not of_teacher or rank is not None or data["layers"] is not None):
            raise InputError(
                "only the teacher's own weights can be rewound", expected="model: teacher, and prune alone"
            )
        return rank

    @field_validator("quantise")
    @classmethod
    def _rounded_alone(cls, quantise: QuantiseSpec | None, info: ValidationInfo) -> QuantiseSpec | None:
        others = [key for key in ("adapter", "head", "layers", "prune", "rank") if info.data.get(key) is not None]
        if info.data.get("model") == TEACHER:
            others.append("model: teacher")
        if quantise is not None and others:
            raise InputError(
                f"a student that learns with rounding takes no {', '.join(others)}",
                fix="do the one in a run of its own, and name its student.safetensors under `weights` in the next",
            )
        return quantise

    @property
    def begins_smaller(self) -> bool:
        """Whether it begins as its teacher, or as something larger than it is to be."""
        return self.model == TEACHER or any(one is not None for one in (self.layers, self.prune, self.rank))


def comes_with_weights(model: str) -> bool:
    """Whether what a name leads to may bring weights: a function, a folder or the hub, but no mere type of model."""
    kind, colon, rest = model.partition(":")
    return bool(colon) and (kind != "hf" or "/" in rest or rest.startswith((".", "~")))

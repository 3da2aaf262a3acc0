"""What a recipe says of a student: its model, what it starts from, and what of it learns."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from tutelage.errors import InputError
from tutelage.recipe.kinds import Arguments, Count, Positive, Section, Seed, Text, words

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


class Student(Section):
    """The small model that is to ship."""

    model: Text
    """A built-in model, `hf:type`, `hf:owner/name`, `hf:/folder`, or `package.module:function`."""
    args: Arguments = Field(default_factory=dict)
    """Arguments of the model."""
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


def comes_with_weights(model: str) -> bool:
    """Whether what a name leads to may bring weights: a function, a folder or the hub, but no mere type of model."""
    kind, colon, rest = model.partition(":")
    return bool(colon) and (kind != "hf" or "/" in rest or rest.startswith((".", "~")))

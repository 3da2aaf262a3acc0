"""What a recipe says of its data: where they come from, how they are divided, and in what views they are seen."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from tutelage.errors import InputError
from tutelage.recipe.kinds import Arguments, ArmName, Count, Fraction, NotNegative, Probability, Section, Text, words

__all__ = ["AnswerSpec", "Data", "InputSpec", "ViewsSpec"]

_Columns = Annotated[tuple[Text, ...], BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
                     Field(strict=False), words("a column, or a list of columns")]  # fmt: skip


class InputSpec(Section):
    """One view of the examples, made of columns: of text, of ids, of numbers and categories, of an image or a sound."""

    text: _Columns = ()
    """Columns of text; two make a pair."""
    tokens: Arguments | None = None
    """For text: read as tokens; vocabulary (8000) and length (64) of a tokenizer that is trained on the training part,
    or source, a folder with a tokenizer.json."""
    words: Count | None = None
    """For text: read as the TF-IDF of that many most frequent words."""
    ids: Text | None = None
    """A column of numbers that name things, separated by spaces, such as a user's history of items."""
    numbers: _Columns = ()
    """Columns of numbers."""
    categories: _Columns = ()
    """Columns of names; they may stand beside numbers."""
    image: Text | None = None
    """A column of pictures."""
    sound: Text | None = None
    """A column of sounds, read as log-mel spectrograms."""
    options: Arguments = Field(default_factory=dict)
    """Further settings of the kind, such as {mels: 40} of a sound."""

    def spec(self) -> dict[str, Any]:
        """As the data room takes it."""
        said = self.model_dump(exclude={"options"}, exclude_none=True)
        return {**{key: value for key, value in said.items() if value != ()}, **self.options}


class AnswerSpec(Section):
    """Answers that are part of a text: they are learned in place of classes, as the tokens where they begin and end."""

    text: Text
    """The column of what the answers say; empty where there is none."""
    start: Text | None = None
    """The column of the character of the text, counted from 0, at which they begin; null: where the text first says
    it."""


class ViewsSpec(Section):
    """Random views of the training examples; all are off unless named."""

    flip: Probability = 0.0
    """How often an image is mirrored left to right."""
    shift: Annotated[int, Field(ge=0)] = 0
    """By how many pixels at most it is moved in either direction."""
    rotate: Annotated[float, Field(ge=0, le=180, allow_inf_nan=False)] = 0.0
    """By how many degrees at most it is turned either way."""
    crop: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    """The least share of a side that a random crop keeps; 1 crops nothing."""
    erase: Probability = 0.0
    """How often a random rectangle is blanked."""
    mixup: NotNegative = 0.0
    """Alpha of the Beta distribution by which two examples are blended; 0 is off."""
    cutmix: NotNegative = 0.0
    """Alpha of the Beta distribution by which a patch of another example is pasted in; 0 is off."""


class Data(Section):
    """Where the examples come from and how they are divided."""

    source: Text
    """A built-in set, or the kind of files at `path`."""
    path: Text | None = None
    """Where the files lie."""
    train: Text | None = None
    """An .npz file with x and y that takes the place of the training part, such as `tutelage synthesize` makes."""
    task: ArmName = "label"
    """What the labels are of, where there are further tasks; terms name tasks."""
    val: Fraction = 0.1
    """The share kept for choosing, where the set has no validation part of its own."""
    test: Fraction = 0.2
    """The share kept for judging, where the set has no test part of its own."""
    label: Text | None = None
    """Of a source of columns: the column of the classes; null where the source says it."""
    tasks: dict[ArmName, Text] = Field(
        default_factory=dict,
        json_schema_extra={"expected_keys": "at most 40 of a-z, 0-9, `_` and `-`, the first not `-`"},
    )
    """Of a source of columns: further tasks by name, and the columns of their classes."""
    answer: AnswerSpec | None = None
    """Of a source of columns: what is learned in place of a label, where answers are part of a text."""
    group: Text | None = None
    """Of a source of columns: what is equal in this one stays in one part, such as a voice or a patient."""
    inputs: dict[ArmName, InputSpec] = Field(
        default_factory=dict,
        json_schema_extra={"expected_keys": "at most 40 of a-z, 0-9, `_` and `-`, the first not `-`"},
    )
    """Of a source of columns: the views of an example by name, and what each is made of."""
    image_size: Count | None = None
    """Side in pixels that images are scaled to; required where they differ in size."""
    views: ViewsSpec = ViewsSpec()
    """Random views of the training examples, the same for all arms."""
    fold: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,2}/[1-9][0-9]{0,2}$"), words("i/k such as 2/5")] | None = None
    """Which of k folds is the test part, such as 2/5; `tutelage crossval` runs them all."""
    limit: Count | None = None
    """Use only this many training examples, for trials."""
    labelled: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    """The share of each class whose labels are used; the others are learned from without. A teacher that the recipe
    trains learns from the labelled ones only."""
    unlabelled: Text | None = None
    """More examples to learn from, without labels: an .npz file with x, or a folder of images; of a source of columns
    rest: the rows that lack a label."""
    longtail: Annotated[float, Field(ge=1, le=1e6, allow_inf_nan=False)] | None = None
    """Thin the training part out to a long tail: the last class has this many times fewer examples than the first."""
    balance: Literal["none", "over", "under"] = "none"
    """What an epoch shows of classes that are not equally frequent: over repeats examples of the rare ones until all
    are as frequent as the most frequent one, under leaves out others of the frequent ones in every epoch."""

    @field_validator("test")
    @classmethod
    def _something_left(cls, test: float, info: ValidationInfo) -> float:
        val = info.data.get("val", 0.0)
        if val + test >= 1:
            raise InputError(f"val and test together leave nothing to train on: {val:g} + {test:g} ≥ 1")
        return test

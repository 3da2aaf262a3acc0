"""What a recipe says of its data: where they come from, how they are divided, and in what views they are seen."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from tutelage.errors import InputError
from tutelage.recipe.kinds import ArmName, Count, Fraction, NotNegative, Probability, Section, Text, words

__all__ = ["Data", "ViewsSpec"]


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
    """What the labels are of, where an .npz file holds further ones as targets_<task>; terms name tasks."""
    val: Fraction = 0.1
    """The share kept for choosing, where the set has no validation part of its own."""
    test: Fraction = 0.2
    """The share kept for judging, where the set has no test part of its own."""
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
    """More examples to learn from, without labels: an .npz file with x, or a folder of images."""
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

"""What companions that read layers share: which layers, of which shapes, and settings that make sense."""

from __future__ import annotations

from collections.abc import Sequence

from tutelage.companions.protocol import Around
from tutelage.errors import InputError, ModelError
from tutelage.objective import Term
from tutelage.taps import feature_at
from tutelage.types import Outputs

__all__ = ["Shape", "count_of", "maps", "shapes_of", "shown"]

Shape = tuple[int, ...]  # with the batch in front


def shapes_of(term: Term, ours: Outputs, around: Around) -> list[tuple[Shape, Shape]]:
    """The shapes of the student's and the teacher's feature at each place of a term."""
    told = around.told(term.speaker)
    return [
        (
            tuple(feature_at(ours.features, place.student, "the student").shape),
            tuple(feature_at(told.features, place.teacher, "the teacher").shape),
        )
        for place in term.places
    ]


def maps(shapes: Sequence[Shape], what: str) -> None:
    """Require maps.

    Raises:
        ModelError: one is none.
    """
    for shape in shapes:
        if len(shape) != 4:
            raise ModelError(
                f"{what} is made of maps", given=shown(shape), expected="(B, C, H, W)",
                fix="listen to convolutional layers of both sides",
            )  # fmt: skip


def count_of(term: Term, setting: str, default: int) -> int:
    """A whole number among a companion's settings; null stands for the default.

    Raises:
        InputError: it is none, or below 1.
    """
    value = term.companion[setting]
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(
            f"the setting `{setting}` of what learns along is out of range",
            given=value, expected="a whole number ≥ 1, or null",
        )  # fmt: skip
    return value


def shown(shape: Shape) -> str:
    """A shape for people."""
    return "(B, " + ", ".join(map(str, shape[1:])) + ")"

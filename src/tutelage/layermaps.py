"""Layers of two models side by side where nobody names them one by one: patterns, and how they are lined up.

    at: {student: "net.blocks.*", teacher: "net.blocks.*", map: uniform}

Here `*` stands for one part of a path, so that `net.blocks.*` means the blocks and nothing inside them.
"""

from __future__ import annotations

import dataclasses
from fnmatch import fnmatchcase

from torch import nn

from tutelage.errors import InputError, ModelError, nearest
from tutelage.objective import Objective, Place, Term
from tutelage.sources import Ema
from tutelage.words import MAPS

__all__ = ["lined_up", "pairs"]


def pairs(student: list[str], teacher: list[str], how: str) -> list[tuple[str, str]]:
    """Each of the student's layers beside one of the teacher's.

    Args:
        student: M ≥ 1 layers, from the first to the last.
        teacher: N ≥ 1 layers.
        how: a key of `words.MAPS`.

    Raises:
        InputError: no such map.
        ModelError: the student has more layers than the teacher, and the map takes each of the teacher's once.
    """
    ours, theirs = len(student), len(teacher)
    if how not in MAPS:
        raise InputError(f"no layer map `{how}`", expected="one of " + ", ".join(MAPS), fix=nearest(how, MAPS))
    if how == "uniform":
        return [(layer, teacher[-(-(m * theirs) // ours) - 1]) for m, layer in enumerate(student, 1)]
    if ours > theirs:
        raise ModelError(
            "the student has more layers than the teacher to be lined up with",
            given=f"{ours} of the student's, {theirs} of the teacher's", expected="at most as many",
            fix="use map: uniform, or a pattern of fewer layers",
        )  # fmt: skip
    chosen = teacher[theirs - ours :] if how == "last" else teacher[:ours]
    return list(zip(student, chosen, strict=True))


def lined_up(objective: Objective, student: nn.Module, teacher: nn.Module | None) -> Objective:
    """An objective whose maps have become pairs of layers; the same one where it has none.

    Args:
        objective: what learns by it.
        student: who does.
        teacher: whose layers are meant; None where no module is known.

    Raises:
        ModelError: a pattern that no layer answers to, a teacher whose layers are not known, or layers that cannot be
            lined up.
        InputError: a loss that reads one place meets several.
    """
    if not any(place.map for term in objective.terms for place in term.places):
        return objective
    terms = []
    for term in objective.terms:
        if any(place.map for place in term.places):
            term = dataclasses.replace(
                term, at=[pair for one in term.places for pair in _of(term, one, student, teacher)]
            )
        terms.append(term)
    return Objective(terms)


def _of(term: Term, place: Place, student: nn.Module, teacher: nn.Module | None) -> list[tuple[str, str]]:
    if not place.map:
        return [(place.student, place.teacher)]
    # A moving average has the layers of its student.
    told = student if isinstance(term.speaker, Ema) else teacher if term.speaker is None else None
    if told is None:
        raise ModelError(
            f"term `{term.name}` lines layers up, but nobody knows those of who is listened to", given=place.teacher,
            expected="a teacher that is a torch module", fix="name pairs: at: [{student: …, teacher: …}, …]",
        )  # fmt: skip
    return pairs(_layers(student, place.student), _layers(told, place.teacher), place.map)


def _layers(module: nn.Module, pattern: str) -> list[str]:
    """The layers whose path matches part by part, in the order in which the model has them."""
    parts, names = pattern.split("."), [name for name, _ in module.named_modules() if name]
    split = {name: name.split(".") for name in names}
    found = [
        name
        for name, own in split.items()
        if len(own) == len(parts) and all(fnmatchcase(one, part) for one, part in zip(own, parts, strict=True))
    ]
    if not found:
        raise ModelError(
            f"the model has no layer `{pattern}` to line up", expected="a pattern such as net.stages.*",
            fix=nearest(pattern, names),
        )  # fmt: skip
    return found

"""Classes as letters: the question with its choices, and what an answer says of each.

A class's name may be several tokens, and two names may begin alike; a letter is one token, so the probability of an
answer's first token is that of a class. What a server tells is the few likeliest tokens, from which `shares` makes a
distribution over all classes; `docs/remote-teachers.md` says what is lost.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from tutelage.errors import InputError

__all__ = ["DEFAULT_PROMPT", "Position", "Prompt", "Told", "label_in", "labels_for", "shares", "votes"]

DEFAULT_PROMPT = """Which of these classes fits the text best?

{classes}

Text:
{text}

Answer with the {label} of the class alone."""
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_GAPS = re.compile(r"(\{classes\}|\{text\}|\{label\})")
# What tokenizers write for a blank, and what models put around a letter.
_AROUND = " \t\r\n▁Ġ\"'`*([{<“‘"
_BEHIND = _AROUND + ".):,]}>”’"
_LEAD = re.compile(r"(?:the\s+)?(?:answer|class|label|letter)(?:\s+is)?\s*[:\-]?\s*", re.IGNORECASE)

Floats = NDArray[np.float64]


def labels_for(classes: int) -> tuple[str, ...]:
    """A, B, C … for up to 26 classes; else 1, 2, 3 …, which may be several tokens."""
    return tuple(_LETTERS[:classes]) if classes <= len(_LETTERS) else tuple(map(str, range(1, classes + 1)))


@final
class Prompt:
    """A template with gaps for classes and text.

    Args:
        template: with {classes} and {text} once each, and {label} wherever it says "letter" or "number".
        names: of the classes, as the model is told them.

    Raises:
        InputError: a gap is missing, or there twice.
    """

    def __init__(self, template: str, names: Sequence[str]) -> None:
        for gap in ("{classes}", "{text}"):
            if template.count(gap) != 1:
                raise InputError(
                    f"the prompt has {template.count(gap) or 'no'} places for {gap[1:-1]}", where="teacher.args.prompt",
                    expected=f"{gap} once",
                )  # fmt: skip
        # Cut once: what a text holds is never taken for a gap.
        self._parts = _GAPS.split(template)
        self.names = tuple(names)
        self.labels = labels_for(len(self.names))
        self._word = "letter" if len(self.names) <= len(_LETTERS) else "number"

    def ask(self, text: str, shift: int = 0, *, remind: bool = False) -> str:
        """The question about a text.

        Args:
            text: as it is.
            shift: class number (k + shift) mod C stands beside the k-th label.
            remind: say at the end once more what an answer looks like.
        """
        count = len(self.names)
        listed = "\n".join(f"{label}. {self.names[(k + shift) % count]}" for k, label in enumerate(self.labels))
        filled = {"{classes}": listed, "{text}": text, "{label}": self._word}
        asked = "".join(filled.get(part, part) for part in self._parts)
        if remind:
            shown = ", ".join(self.labels) if count <= 26 else f"1 … {count}"
            asked += f"\n\nThe answer must be one of {shown}, and nothing else."
        return asked


@final
@dataclass(frozen=True, slots=True)
class Position:
    """One token of an answer: what was said, and the likeliest candidates with their log-probabilities."""

    token: str
    top: tuple[tuple[str, float], ...]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """What one answer says of the labels.

    Args:
        chances: (C,) probabilities, a distribution.
        mass: of the labels together, before they were made one; None where nothing is known of it.
        unseen: how many labels were not among what the server told.
    """

    chances: Floats
    mass: float | None = None
    unseen: int = 0


def shares(positions: Sequence[Position], labels: Sequence[str], *, least: float, floor: float) -> Told | None:
    """Probabilities of labels, from those of an answer's first token that is more than a blank or a bracket.

    Variants of one label (" A", "A", "(A") add up. A label that the server did not tell gets an equal part of what the
    told tokens leave over, but no more than the unlikeliest told token, for else it would have been told; and at least
    `floor`. Then all are divided by their sum, which leaves out what is no label.

    Args:
        positions: of the answer.
        labels: in the order of the choices.
        least: labels that hold less together are no answer.
        floor: the least probability of a class, before the division.

    Returns:
        None where the answer names no class.
    """
    first = next((one for one in positions if one.token.strip(_AROUND)), None)
    if first is None:
        return None
    place = {label: number for number, label in enumerate(labels)}
    found, seen = np.zeros(len(labels)), np.zeros(len(labels), dtype=bool)
    total, smallest = 0.0, 1.0
    for token, logarithm in first.top:
        chance = math.exp(min(logarithm, 0.0))
        total, smallest = total + chance, min(smallest, chance)
        number = place.get(token.strip(_BEHIND))
        if number is not None:
            found[number] += chance
            seen[number] = True
    mass = float(found.sum())
    if mass < least or mass <= 0.0:
        return None
    unseen = int((~seen).sum())
    each = min(max(0.0, 1.0 - total) / unseen, smallest) if unseen else 0.0
    chances = np.maximum(np.where(seen, found, each), floor)
    return Told(chances / chances.sum(), min(mass, 1.0), unseen)


def votes(answers: Sequence[str], prompt: Prompt, shift: int, *, smoothing: float) -> Told | None:
    """Shares of sampled answers, smoothed towards equal ones; None where none of them names a class."""
    count = len(prompt.names)
    named = [prompt.names[(k + shift) % count] for k in range(count)]
    found = [number for said in answers if (number := label_in(said, prompt.labels, named)) is not None]
    if not found:
        return None
    share = np.bincount(found, minlength=count) / len(found)
    return Told((1.0 - smoothing) * share + smoothing / count)


def label_in(answer: str, labels: Sequence[str], names: Sequence[str]) -> int | None:
    """Which choice a free answer names: `B`, `(B)`, `B. sport`, `Answer: B`, `**sport**`; None where that is not plain.

    "A good question" names none: a letter counts only where a sign, or the end, follows it.

    Args:
        answer: all of it.
        labels: in the order of the choices.
        names: likewise.
    """
    text = answer.strip().strip(_BEHIND)
    lead = _LEAD.match(text)
    for said in (text, text[lead.end() :].strip(_BEHIND) if lead else ""):
        if said in labels:
            return labels.index(said)
        plain = [name.strip().casefold() for name in names]
        if plain.count(said.casefold()) == 1:
            return plain.index(said.casefold())
        begun = re.match(r"([A-Z]|[0-9]{1,6})\s*[.):\]*\-–,\n]", said)
        if begun and begun[1] in labels:
            return labels.index(begun[1])
        begun = re.match(r"([A-Z]|[0-9]{1,6})\s+(.+)", said, re.DOTALL)
        if begun and begun[1] in labels:
            number = labels.index(begun[1])
            if begun[2].strip().casefold() == plain[number]:
                return number
    return None

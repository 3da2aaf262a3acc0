"""Logits become what a client is told: of one task, task by task, or as a stretch of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from tutelage.errors import DamagedError
from tutelage.evaluation.spans import LONGEST, best_spans
from tutelage.export import Facts
from tutelage.export.tasks import shares_of
from tutelage.serve.columns import Columns
from tutelage.serve.reading import Asked, Options
from tutelage.serve.refusals import RefusedError

__all__ = ["Answers"]

Numbers = NDArray[np.float32]


@final
class Answers:
    """What one file's logits mean; made once for a file.

    Args:
        facts: of the file.
        columns: what makes its inputs of rows; None where it reads pictures, or numbers that nothing made.

    Raises:
        DamagedError: the file's tasks and its classes do not fit, or are not those of questions.
    """

    def __init__(self, facts: Facts, columns: Columns | None) -> None:
        self._classes, self._shares, self._columns = facts.classes, shares_of(facts), columns
        self._questions = facts.separator > 0
        sizes = {name: len(share.classes) for name, share in self._shares.items()}
        if self._questions and (list(sizes) != ["start", "end"] or sizes["start"] != sizes["end"]):
            raise DamagedError(
                "this file answers questions, but not with where an answer starts and ends", where=facts.name or None,
                given=", ".join(f"{name}: {size}" for name, size in sizes.items()),
                expected="as many places for `start` as for `end`", fix="export the student again",
            )  # fmt: skip

    @property
    def most(self) -> int:
        """What `top` may be at most: the classes of the task that has most of them."""
        return max((len(share.classes) for share in self._shares.values()), default=len(self._classes))

    @property
    def about(self) -> dict[str, Any]:
        """What `/model` says of several tasks, and of questions; nothing where there is one task."""
        if not self._shares:
            return {}
        told: dict[str, Any] = {"tasks": {name: list(share.classes) for name, share in self._shares.items()}}
        if self._questions:
            column = None if self._columns is None else self._columns.context
            told["answers"] = {"column": column, "places": self.most, "longest": LONGEST}
        return told

    def check(self, options: Options) -> None:
        """Refuse what cannot be told.

        Raises:
            RefusedError: 422, several likely stretches of a text.
        """
        if self._questions and options.top is not None:
            raise RefusedError(
                422, "this model answers with a place in a text, and tells the likeliest one only", given="top",
                fix="leave `top` out; `logits=true` tells how likely each place is to start or to end an answer",
            )  # fmt: skip

    def is_long(self, asked: Asked) -> bool:
        """Whether it takes so long to find the words that others would wait: texts are cut into tokens once more."""
        return self._questions and asked.texts is not None

    def tell(self, logits: Numbers, asked: Asked, options: Options) -> dict[str, Any]:
        """What to send, ready for JSON.

        Args:
            logits: (B, C).
            asked: whose answer it is.
            options: what it is to hold.

        Returns:
            `classes`, the likeliest of each example; `probabilities` (B, C), or with `top` (B, top) of {"class",
            "probability"}, the likeliest first. Of several tasks `tasks`, the same for each of them. Of questions
            `answers`, for each {"text", "start", "end", "probability", "none"}, or without texts {"first", "last",
            "probability", "none"}. And, where asked for, `logits` (B, C) and `ids`.

        Raises:
            RefusedError: 500, the model answered with numbers that are not finite.
        """
        if not np.isfinite(logits).all():
            raise RefusedError(
                500, "the model answered with numbers that are not finite", expected="finite logits",
                fix="look at the file with `tutelage eval`; other inputs may be answered",
            )  # fmt: skip
        if self._questions:
            told: dict[str, Any] = {"answers": self._spans(logits, asked)}
        elif self._shares:
            shares = self._shares.items()
            told = {"tasks": {name: _chosen(logits[:, one.columns], one.classes, options.top) for name, one in shares}}
        else:
            told = _chosen(logits, self._classes, options.top)
        if options.logits:
            told["logits"] = logits.tolist()
        if asked.ids is not None:
            told["ids"] = asked.ids
        return told

    def _spans(self, logits: Numbers, asked: Asked) -> list[dict[str, Any]]:
        """Of every row the best pair of places, as words where there are texts."""
        start, end = (logits[:, share.columns] for share in self._shares.values())
        places = best_spans(start, end)
        rows = np.arange(len(places))
        odds = _probabilities(start)[rows, places[:, 0]] * _probabilities(end)[rows, places[:, 1]]
        none = (places[:, 0] == 0).tolist()
        if asked.texts is None or self._columns is None:
            return [
                {"first": first, "last": last, "probability": chance, "none": without}
                for (first, last), chance, without in zip(places.tolist(), odds.tolist(), none, strict=True)
            ]
        found = self._columns.words(asked.texts, places)
        return [
            {"text": words, "start": begin, "end": stop, "probability": chance, "none": without}
            for (words, begin, stop), chance, without in zip(found, odds.tolist(), none, strict=True)
        ]


def _chosen(logits: Numbers, classes: Sequence[str], top: int | None) -> dict[str, Any]:
    """The likeliest class of each row of one task's logits (B, C), and how likely it and the others are."""
    probabilities = _probabilities(logits)
    order = np.argsort(-logits, axis=-1, kind="stable")
    told: dict[str, Any] = {"classes": [classes[row[0]] for row in order]}
    if top is None:
        told["probabilities"] = probabilities.tolist()
    else:
        told["top"] = [
            [{"class": classes[c], "probability": float(chances[c])} for c in row[:top]]
            for row, chances in zip(order, probabilities, strict=True)
        ]
    return told


def _probabilities(logits: Numbers) -> NDArray[np.float64]:
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    found: NDArray[np.float64] = shifted / shifted.sum(-1, keepdims=True)
    return found

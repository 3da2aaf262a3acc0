"""Logits become what a client is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tutelage.serve.reading import Asked, Options
from tutelage.serve.refusals import RefusedError

__all__ = ["answer"]


def answer(logits: NDArray[np.float32], classes: Sequence[str], asked: Asked, options: Options) -> dict[str, Any]:
    """What to send, ready for JSON.

    Args:
        logits: (B, C).
        classes: their names.
        asked: whose answer it is.
        options: what it is to hold.

    Returns:
        `classes`, the likeliest of each example; `probabilities` (B, C), or with `top` (B, top) of
        {"class", "probability"}, the likeliest first; and, where asked for, `logits` (B, C) and `ids`.

    Raises:
        RefusedError: 500, the model answered with numbers that are not finite.
    """
    if not np.isfinite(logits).all():
        raise RefusedError(
            500, "the model answered with numbers that are not finite", expected="finite logits",
            fix="look at the file with `tutelage eval`; other inputs may be answered",
        )  # fmt: skip
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    probabilities = shifted / shifted.sum(-1, keepdims=True)
    order = np.argsort(-logits, axis=-1, kind="stable")
    told: dict[str, Any] = {"classes": [classes[row[0]] for row in order]}
    if options.top is None:
        told["probabilities"] = probabilities.tolist()
    else:
        told["top"] = [
            [{"class": classes[c], "probability": float(chances[c])} for c in row[: options.top]]
            for row, chances in zip(order, probabilities, strict=True)
        ]
    if options.logits:
        told["logits"] = logits.tolist()
    if asked.ids is not None:
        told["ids"] = asked.ids
    return told

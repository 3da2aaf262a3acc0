"""Pictures of test examples for the report: what the student forgot, to be looked at rather than counted."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from tutelage.data import Examples, as_model_input

__all__ = ["forgotten_pictures"]

_MOST = 24
_SIDE = 64


def forgotten_pictures(
    test: Examples, ids: Sequence[int], said: Mapping[str, Sequence[np.ndarray[Any, np.dtype[Any]]]]
) -> list[dict[str, str]]:
    """The first of the named test examples, with the truth and what the students took them for.

    Args:
        test: the test part.
        ids: content ids of those to be shown.
        said: arm -> logits (N, C) of each of its students; the first arm is the one that is spoken of.

    Returns:
        `{"true", "said", "png"}` for each, the picture in base64; nothing where examples are no images of one or three
        channels.
    """
    if not test.is_image or test.shape[0] not in (1, 3) or not said:
        return []
    students = next(iter(said.values()))
    places = {int(id_): row for row, id_ in enumerate(test.ids.tolist())}
    found = []
    for id_ in ids[:_MOST]:
        row = places[int(id_)]
        answers = [int(np.argmax(logits[row])) for logits in students]
        most = max(sorted(set(answers)), key=answers.count)
        pixels = as_model_input(test.inputs[row : row + 1].clone())[0]
        true = test.classes[int(test.targets[row])]
        found.append({"true": true, "said": test.classes[most], "png": base64.b64encode(_png(pixels)).decode()})
    return found


def _png(pixels: Tensor) -> bytes:
    """An image (C, H, W) in [0, 1] as PNG; larger ones are scaled down, standardised ones stretched to the range."""
    from PIL import Image

    values = pixels.double().numpy()
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        values = (values - low) / max(high - low, 1e-12)
    array = (values * 255).round().astype(np.uint8)
    picture = Image.fromarray(array[0] if len(array) == 1 else np.moveaxis(array, 0, -1))
    picture.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()

"""Pictures or texts of test examples for the report: what the student forgot, to be looked at rather than counted."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from tutelage.data import Examples, as_model_input
from tutelage.data.encoders import encoder_of
from tutelage.data.encoders.ids import Ids
from tutelage.data.encoders.text import Tokens, texts_of

__all__ = ["forgotten_pictures"]

_MOST = 24
_SIDE = 64
_LETTERS = 200


def forgotten_pictures(
    test: Examples, ids: Sequence[int], said: Mapping[str, Sequence[np.ndarray[Any, np.dtype[Any]]]]
) -> list[dict[str, str]]:
    """The first of the named test examples, with the truth and what the students took them for.

    Args:
        test: the test part.
        ids: content ids of those to be shown.
        said: arm -> logits (N, C) of each of its students; the first arm is the one that is spoken of.

    Returns:
        `{"true", "said", "png"}` for each, the picture in base64, or `{"true", "said", "text"}`, its first 200
        characters; nothing where examples are neither texts nor images of one or three channels.
    """
    if not said:
        return []
    written = _texts(test)
    if written is None and (not test.is_image or test.shape[0] not in (1, 3)):
        return []
    students = next(iter(said.values()))
    places = {int(id_): row for row, id_ in enumerate(test.ids.tolist())}
    found = []
    for id_ in ids[:_MOST]:
        row = places[int(id_)]
        answers = [int(np.argmax(logits[row])) for logits in students]
        most = max(sorted(set(answers)), key=answers.count)
        names = {"true": test.classes[int(test.targets[row])], "said": test.classes[most]}
        if written is not None:
            found.append({**names, "text": _short(written(row))})
            continue
        pixels = as_model_input(test.inputs[row : row + 1].clone())[0]
        found.append({**names, "png": base64.b64encode(_png(pixels)).decode()})
    return found


def _texts(test: Examples) -> Callable[[int], str] | None:
    """What a row of the test part says, where its student reads text: as it was, or put together from its tokens."""
    own = test.encodings.get(test.reads, {})
    if own.get("kind") not in ("tokens", "words", "ids"):
        return None
    for view, made in test.encodings.items():
        if made.get("kind") == "plain" and view in test.views and set(made["columns"]) & set(own["columns"]):
            plain = test.views[view]
            return lambda row: texts_of(plain[row : row + 1])[0]
    encoder = encoder_of(own)
    if isinstance(encoder, Ids):
        known = encoder.known
        return lambda row: " ".join(known[one - 2] if one > 1 else "?" for one in test.inputs[row].tolist() if one)
    return (lambda row: _joined(encoder, test.inputs[row])) if isinstance(encoder, Tokens) else None


def _joined(encoder: Tokens, tokens: Tensor) -> str:
    """Roughly what was written: special tokens left out, marks of spaces turned back."""
    ids = [0 if one == encoder.swap else one for one in tokens.tolist() if one]
    if encoder.tokenizer.decoder is not None:
        return str(encoder.tokenizer.decode(ids, skip_special_tokens=True))
    special = encoder.tokenizer.get_added_tokens_decoder()
    signs = [encoder.tokenizer.id_to_token(one) or "" for one in ids if one not in special]
    return "".join(signs).replace("▁", " ")


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _LETTERS else f"{flat[: _LETTERS - 1]}…"


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

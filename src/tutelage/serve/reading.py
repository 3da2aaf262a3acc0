"""Bodies of requests become rows for the model, or a refusal that says what is wrong with them."""

from __future__ import annotations

import base64
import binascii
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from tutelage.data.rows import Rows
from tutelage.errors import nearest
from tutelage.export import Inputs
from tutelage.serve.columns import Columns
from tutelage.serve.pictures import read_pictures
from tutelage.serve.refusals import RefusedError

__all__ = ["KINDS", "Asked", "Options", "read"]

_JSON, _RAW, _PICTURES = "application/json", "application/octet-stream", ("image/png", "image/jpeg")
KINDS = (_JSON, _RAW, *_PICTURES)
_KEYS = ("inputs", "images", "rows", "ids")
_OPTIONS = ("logits", "top")
_SHOWN = 60


@final
@dataclass(frozen=True, slots=True)
class Asked:
    """What one request asks.

    Args:
        rows: (B, *input_shape) float32, or int64 tokens.
        ids: what the client calls them, or None.
        texts: the columns that the rows were made of, where an answer is a part of one of them.
    """

    rows: Inputs
    ids: list[str | int] | None = None
    texts: Rows | None = None


@final
@dataclass(frozen=True, slots=True)
class Options:
    """What one request wants to know.

    Args:
        top: only so many of the likeliest classes; None for the probabilities of all.
        logits: whether to send the logits as well.
    """

    top: int | None = None
    logits: bool = False

    @classmethod
    def of(cls, pairs: Sequence[tuple[str, str]], classes: int) -> Options:
        """From what stands behind the `?` of an address.

        Raises:
            RefusedError: 400, no such option, one twice, or a value that it cannot have.
        """
        given = dict(pairs)
        if len(given) < len(pairs):
            raise RefusedError(400, "an option stands twice", given=_short(pairs), expected="each once")
        for name in given:
            if name not in _OPTIONS:
                raise RefusedError(400, f"no option `{_short(name)}`", fix=nearest(name[:_SHOWN], _OPTIONS))
        top, logits = given.get("top"), given.get("logits", "false")
        # Without `isascii` other scripts' digits would pass; the length keeps `int` from working for long.
        if top is not None and not (top.isascii() and top.isdecimal() and len(top) < 10 and 1 <= int(top) <= classes):
            raise RefusedError(400, "`top` is out of range", given=_short(top), expected=f"1 … {classes}")
        if logits not in ("true", "false"):
            raise RefusedError(400, "`logits` is neither true nor false", given=_short(logits))
        return cls(None if top is None else int(top), logits == "true")


def read(kind: str, body: bytes, shape: tuple[int, ...], most: int, columns: Columns | None = None) -> Asked:
    """Rows of a body.

    Args:
        kind: one of `KINDS`.
        body: all of it.
        shape: of one input.
        most: bytes that pictures may have together when they have the model's size.
        columns: what the model reads by name; None where it reads pictures, or numbers that nothing made.

    Raises:
        RefusedError: 400 where it is not what its kind says, 413 or 422 where its numbers or pictures cannot be used.
    """
    if kind == _RAW:
        return Asked(_checked(_raw(body, shape, _words_of(columns)), shape, columns))
    if kind in _PICTURES:
        return Asked(read_pictures([body], shape, most=most))
    told = _parsed(body)
    rows: Inputs
    texts: Rows | None = None
    if "inputs" in told:
        rows = _checked(_numbers(told["inputs"], shape, _words_of(columns)), shape, columns)
    elif "rows" in told:
        if columns is None:
            raise RefusedError(422, "this model reads no columns", fix="send `inputs` or `images`")
        named = columns.named(told["rows"], most)
        rows, texts = columns.made(named), named if columns.context is not None else None
    else:
        rows = read_pictures(_files(told["images"]), shape, most=most)
    return Asked(rows, _ids(told["ids"], len(rows)) if "ids" in told else None, texts)


def _words_of(columns: Columns | None) -> int:
    return 0 if columns is None else columns.vocabulary


def _raw(body: bytes, shape: tuple[int, ...], vocabulary: int = 0) -> Inputs:
    kind, told = ("<i8", "int64") if vocabulary else ("<f4", "float32")
    size = np.dtype(kind).itemsize * math.prod(shape)
    if not body or len(body) % size:
        raise RefusedError(
            422, "the body holds no whole number of examples", given=f"{len(body):,} bytes",
            expected=f"a multiple of {size:,}: {told}, little-endian, {_shape(shape)}",
        )  # fmt: skip
    return np.frombuffer(body, kind).astype(told).reshape(-1, *shape)


def _parsed(body: bytes) -> Mapping[str, Any]:
    try:
        told = json.loads(body.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_no_twins)
    except RefusedError:
        raise
    except RecursionError:
        raise RefusedError(400, "the JSON is nested too deeply", expected="lists of numbers") from None
    except ValueError as error:  # not UTF-8, no JSON, or a number of thousands of digits
        raise RefusedError(400, "the body is no JSON", given=_short(error)) from None
    if not isinstance(told, dict):
        raise RefusedError(400, "the JSON is no object", given=_kind(told), expected='for instance {"inputs": …}')
    for key in told:
        if key in _OPTIONS:
            raise RefusedError(
                400, f"`{key}` is an option, not part of the body", fix=f"ask for /predict?{key}=…"
            )  # fmt: skip
        if key not in _KEYS:
            raise RefusedError(400, f"no key `{_short(key)}`", fix=nearest(key[:_SHOWN], _KEYS))
    given = [key for key in _KEYS[:3] if key in told]
    if len(given) != 1:
        raise RefusedError(
            400, "the JSON needs either `inputs` or `images`, or `rows`", given=" and ".join(given) or "neither",
            expected='{"inputs": nested lists of numbers}, {"images": [base64 of PNG or JPEG files]} or '
            '{"rows": [{"column": …}]}',
        )  # fmt: skip
    return told


def _no_constant(name: str) -> Any:
    raise RefusedError(422, "an input is not finite", given=name, expected="finite numbers")


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise RefusedError(400, "a key stands twice in the JSON", expected="each once")
    return found


def _numbers(nested: Any, shape: tuple[int, ...], vocabulary: int = 0) -> Inputs:
    """Nested lists as an array, level by level.

    NumPy would take `true` for 1 and "0.5" for 0.5, and one long text among numbers would make every cell as large.
    """
    flat: list[Any] = [nested]
    for size in (None, *shape):
        if set(map(type, flat)) != {list} or (size is not None and set(map(len, flat)) != {size}):
            raise _odd_shape(nested, shape)
        flat = list(itertools.chain.from_iterable(flat))
        if not flat:
            raise _odd_shape(nested, shape)
    odd = set(map(type, flat)) - {int, float}
    if list in odd:
        raise _odd_shape(nested, shape)
    if vocabulary and not odd and float in set(map(type, flat)):
        raise RefusedError(
            422, "a token is no whole number", given=_short(next(one for one in flat if type(one) is float)),
            expected=f"0 … {vocabulary - 1:,}",
        )  # fmt: skip
    if odd:
        wrong = next(value for value in flat if type(value) in odd)
        raise RefusedError(422, "an input is no number", given=_kind(wrong), expected="numbers")
    try:
        if vocabulary:
            return np.array(flat, dtype=np.int64).reshape(-1, *shape)
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as that
            return np.array(flat, dtype=np.float64).astype(np.float32).reshape(-1, *shape)
    except OverflowError:
        fitting = f"0 … {vocabulary - 1:,}" if vocabulary else "numbers that float32 holds"
        raise RefusedError(422, "an input is too large a number", expected=fitting) from None


def _odd_shape(nested: Any, shape: tuple[int, ...]) -> RefusedError:
    found, inner = list[int](), nested
    while isinstance(inner, list):
        found.append(len(inner))
        inner = inner[0] if inner else None
    fix = None
    if tuple(found) == shape:
        fix = "put it in one more pair of brackets: a batch of one"
    given = f"the first of each level have the lengths {tuple(found)[:8]}" if found else _kind(nested)
    return RefusedError(
        422, "the inputs have another shape than the model's", given=given,
        expected=f"lists of shape {_shape(shape)}, all of one length on each level", fix=fix,
    )  # fmt: skip


def _checked(rows: Inputs, shape: tuple[int, ...], columns: Columns | None) -> Inputs:
    """Rows that a model can answer: tokens that it knows; finite numbers, and in [0, 1] where they are pictures."""
    if vocabulary := _words_of(columns):
        bad = (rows < 0) | (rows >= vocabulary)
        if bad.any():
            raise RefusedError(
                422, "a token is not in the vocabulary", given=f"{rows[bad][0]} in example {bad.nonzero()[0][0]}",
                expected=f"0 … {vocabulary - 1:,}, 0 behind short rows",
            )  # fmt: skip
        return rows
    bad = ~np.isfinite(rows)
    if bad.any():
        raise RefusedError(
            422, "an input is not finite", given=f"{rows[bad][0]} in example {bad.nonzero()[0][0]}",
            expected="finite numbers",
        )  # fmt: skip
    if len(shape) == 3 and columns is None:
        bad = (rows < 0) | (rows > 1)
        if bad.any():
            raise RefusedError(
                422, "an input is out of range", given=f"{rows[bad][0]:g} in example {bad.nonzero()[0][0]}",
                expected="pixels from 0 to 1", fix="divide bytes by 255; mean and deviation are inside the model",
            )  # fmt: skip
    return rows


def _files(texts: Any) -> list[bytes]:
    if not isinstance(texts, list) or not texts or set(map(type, texts)) != {str}:
        raise RefusedError(
            422, "`images` is no list of texts", given=_kind(texts), expected="base64 of PNG or JPEG files, one or more"
        )
    found = []
    for number, text in enumerate(texts):
        try:
            found.append(base64.b64decode(text, validate=True))
        except (binascii.Error, ValueError):
            raise RefusedError(
                422, f"picture {number} is no base64", given=_short(text),
                fix="send only what follows `base64,`" if text.startswith("data:") else None,
            ) from None  # fmt: skip
    return found


def _ids(ids: Any, count: int) -> list[str | int]:
    if not isinstance(ids, list) or not set(map(type, ids)) <= {str, int} or len(ids) != count:
        raise RefusedError(
            422, "`ids` do not name the examples", given=f"{len(ids):,}" if isinstance(ids, list) else _kind(ids),
            expected=f"a list of {count:,} texts or whole numbers",
        )  # fmt: skip
    return ids


def _shape(shape: tuple[int, ...]) -> str:
    return f"(B, {', '.join(map(str, shape))})"


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _short(value: object) -> str:
    """The beginning of something that a client sent."""
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"

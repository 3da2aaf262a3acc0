"""What makes a model's inputs of columns: one file for each kind, chosen by what a recipe says of a view."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from tutelage.data.encoders.protocol import Encoder
from tutelage.data.rows import Rows
from tutelage.errors import DamagedError, InputError, nearest

__all__ = ["KINDS", "Encoder", "check_spec", "columns_of", "encoder_of", "fit"]

# What names a kind in `data.inputs`, and what it makes.
KINDS = {
    "text": "text: as tokens where `tokens` says how, as frequencies of words where `words` does, else as it is",
    "ids": "a column of numbers that name things, separated by spaces, such as what somebody bought",
    "numbers": "columns of numbers, scaled by the training part",
    "categories": "columns of names, one number for each frequent one",
    "image": "a column of pictures",
    "sound": "a column of sounds, as log-mel spectrograms or waveforms",
}


def check_spec(spec: Mapping[str, Any], rows: Rows, where: str) -> tuple[str, dict[str, Any]]:
    """The kind of a view and what is said of it, once it is known that the rows have its columns.

    Raises:
        InputError: the view is of no kind or of several, or names columns that are not there.
    """
    given = {key: value for key, value in spec.items() if value is not None and value != ()}
    table = given.keys() & {"numbers", "categories"}
    kinds = (given.keys() & set(KINDS)) - table
    if len(kinds) + bool(table) != 1:
        raise InputError(
            "a view is made of one kind of columns", where=where, given=", ".join(sorted(kinds | table)) or "none",
            expected="one of " + ", ".join(KINDS),
        )  # fmt: skip
    for column in _columns(given):
        rows.column(column, where)
    for column in _columns({"numbers": given.get("numbers", ())}):
        rows.numbers(column, where)
    return ("table" if table else next(iter(kinds))), given


def fit(spec: Mapping[str, Any], rows: Rows, where: str) -> Encoder:
    """Make the encoder of a view, and let it learn what it has to from these rows.

    Args:
        spec: what `data.inputs` says of the view.
        rows: the training part.
        where: what messages call the view.

    Raises:
        InputError: the view is of no kind or of several, or names columns that are not there.
        DataError: nothing can be made of these columns.
    """
    kind, given = check_spec(spec, rows, where)
    columns = _columns(given)
    rest = {key: value for key, value in given.items() if key not in KINDS}
    if kind == "table":
        from tutelage.data.encoders.table import fit_table

        numbers, categories = given.get("numbers", ()), given.get("categories", ())
        return _made(fit_table, rest, where, rows, numbers=tuple(numbers), categories=tuple(categories))
    if kind == "image":
        from tutelage.data.encoders.pictures import fit_picture

        return _made(fit_picture, rest, where, rows, columns[0])
    if kind == "sound":
        from tutelage.data.encoders.sound import fit_sound, fit_waveform

        if rest.pop("waveform", False):
            return _made(fit_waveform, rest, where, rows, columns[0])
        return _made(fit_sound, rest, where, rows, columns[0])
    if kind == "ids":
        from tutelage.data.encoders.ids import fit_ids

        return _made(fit_ids, rest, where, rows, columns[0])
    return _fit_text(rows, columns, rest, where)


def _fit_text(rows: Rows, columns: tuple[str, ...], rest: dict[str, Any], where: str) -> Encoder:
    tokens, words = rest.pop("tokens", None), rest.pop("words", None)
    if tokens is not None and words is not None:
        raise InputError("a text becomes tokens or frequencies of words, not both", where=where)
    if tokens is not None:
        from tutelage.data.encoders.text import fit_tokens

        return _made(fit_tokens, {**tokens, **rest}, where, rows, columns)
    if words is not None:
        from tutelage.data.encoders.words import fit_words

        return _made(fit_words, {"features": words, **rest}, where, rows, columns)
    from tutelage.data.encoders.text import fit_plain

    return _made(fit_plain, rest, where, rows, columns)


def _made(make: Callable[..., Encoder], options: Mapping[str, Any], where: str, *args: Any, **known: Any) -> Encoder:
    """Call what fits an encoder, with options that it has."""
    parameters = inspect.signature(make).parameters.values()
    names = [one.name for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY and one.name not in known]
    for option in options:
        if option not in names:
            raise InputError(
                f"a view of this kind has no option `{option}`", where=where, expected=", ".join(names) or "none",
                fix=nearest(option, names),
            )  # fmt: skip
    return make(*args, **known, **options)


def encoder_of(facts: Mapping[str, Any]) -> Encoder:
    """The encoder that wrote these facts.

    Raises:
        DamagedError: none of this version did.
    """
    from tutelage.data.encoders import ids, pictures, sound, table, text, words

    makers: dict[str, Callable[[Mapping[str, Any]], Encoder]] = {
        "tokens": text.tokens_of, "plain": text.plain_of, "ids": ids.ids_of, "words": words.words_of,
        "table": table.table_of, "picture": pictures.picture_of, "sound": sound.sound_of, "waveform": sound.waveform_of,
    }  # fmt: skip
    kind = facts.get("kind")
    if kind not in makers:
        raise DamagedError("these inputs are of an unknown kind", given=str(kind), expected=", ".join(makers))
    try:
        return makers[str(kind)](facts)
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"what made these inputs ({kind}) cannot be read", given=repr(error)) from error


def columns_of(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns that a view reads."""
    return _columns({key: value for key, value in spec.items() if value is not None})


def _columns(given: Mapping[str, Any]) -> tuple[str, ...]:
    found: list[str] = []
    for kind in KINDS:
        value = given.get(kind, ())
        found += [value] if isinstance(value, str) else list(value)
    return tuple(found)

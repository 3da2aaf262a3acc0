"""Text as what models read: tokens of a vocabulary learned from the training part or brought along by a model, the
plain bytes for teachers that split words themselves.

In every tensor made here 0 is padding and stands behind.

Shapes:  N rows · L places.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tutelage.data.encoders.facts import reading, shape_of
from tutelage.data.encoders.options import LONGEST, names, whole
from tutelage.data.encoders.switching import Switch
from tutelage.data.encoders.tokenizing import (
    MOST_TOKENS,
    learned,
    opened,
    padding_of,
    padding_told,
    read_tokenizer,
)
from tutelage.data.rows import Rows
from tutelage.errors import InputError, ModelError

__all__ = [
    "BETWEEN",
    "Plain",
    "Tokens",
    "fit_plain",
    "fit_tokens",
    "plain_of",
    "texts_of",
    "tokens_of",
]

BETWEEN: Final = "\x1f"  # of plain columns: the "unit separator" that ASCII has for this
_AT_ONCE: Final = 4096  # rows; all at once would hold every token as an object


@final
@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """Columns to tokens (N, L) int32: `[CLS] a [SEP]`, or `[CLS] a [SEP] b [SEP]` of two columns.

    `swap` is the id that the tokenizer itself pads with. Where it is not 0 these two change places, so that 0 is
    padding for everybody; a pretrained model's net changes them back.
    """

    columns: tuple[str, ...]
    length: int
    lower: bool
    swap: int
    tokenizer: Any
    vocabulary: int
    switch: Switch | None = None

    def encode(self, rows: Rows) -> Tensor:
        """(N, length) int32; what is longer is cut, of two columns the longer one first.

        Raises:
            InputError: there is no such column.
            ModelError: the tokenizer cannot read a text.
        """
        texts = _joined(rows, self.columns)
        if (switch := self.switch) is not None:
            texts = [
                switch.of(one) if isinstance(one, str) else (switch.of(one[0]), switch.of(one[1])) for one in texts
            ]
        found = np.zeros((len(texts), self.length), dtype=np.int32)
        for row, one in self._read_all(texts):
            found[row, : len(one.ids)] = self._swapped(one.ids)
        return torch.from_numpy(found)

    def _read(self, texts: Sequence[str | tuple[str, str]]) -> list[Any]:
        try:
            found: list[Any] = self.tokenizer.encode_batch(texts)
        except Exception as error:  # the library's own, of no class of its own
            raise ModelError(
                "the tokenizer cannot read these texts", given=" ".join(str(error).split())[:240],
                fix="give it a token for what it does not know",
            ) from error  # fmt: skip
        return found

    def _swapped(self, ids: Sequence[int]) -> NDArray[np.int32]:
        own = np.asarray(ids, dtype=np.int32)
        return np.where(own == 0, self.swap, np.where(own == self.swap, 0, own)) if self.swap else own

    def facts(self) -> dict[str, Any]:
        """The whole tokenizer and how it is used; of switching that it was done, as that is for learning only."""
        switched = {} if self.switch is None else {"switched": self.switch.digest}
        return {
            "kind": "tokens", "columns": list(self.columns), "length": self.length, "lower": self.lower,
            "swap": self.swap, "tokenizer": self.tokenizer.to_str(), **switched,
        }  # fmt: skip

    @property
    def separator(self) -> int:
        """The id that stands between the two texts of a pair, as the tensors have it.

        Raises:
            InputError: these are no pairs.
            ModelError: the tokenizer puts nothing between them.
        """
        if len(self.columns) != 2:
            raise InputError(
                "questions and what holds their answers are two columns of text", given=", ".join(self.columns),
                expected="such as text: [question, context]",
            )  # fmt: skip
        pair = self.tokenizer.encode("a", "a")
        ends = [place for place, side in enumerate(pair.sequence_ids) if side == 0]
        if not ends or ends[-1] + 1 >= len(pair.ids) or pair.sequence_ids[ends[-1] + 1] is not None:
            raise ModelError("this tokenizer puts nothing between a question and its text", expected="such as [SEP]")
        return int(self._swapped([pair.ids[ends[-1] + 1]])[0])

    def places(self, rows: Rows, spans: NDArray[np.int64]) -> NDArray[np.int64]:
        """The first and the last token (N, 2) of characters [begin, end) of the second column, given as (N, 2); (0, 0)
        for nothing, and for what is not read to its end."""
        found, texts = np.zeros_like(spans), _joined(rows, self.columns)
        for row, one in self._read_all(texts):
            begin, end = spans[row].tolist()
            # Spaces around words are part of no token.
            inside = [one.char_to_token(place, 1) for place in range(begin, end)] if end else []
            read = [place for place in inside if place is not None]
            if read and not texts[row][1][one.offsets[read[-1]][1] : end].strip():
                found[row] = read[0], read[-1]
        return found

    def characters(self, rows: Rows, places: NDArray[np.int64]) -> list[tuple[int, int]]:
        """The other way round: the characters [begin, end) of the second column from the first to the last of these
        tokens (N, 2); (0, 0) for what is not there."""
        found = [(0, 0)] * len(rows)
        for row, one in self._read_all(_joined(rows, self.columns)):
            first, last = places[row].tolist()
            if 0 < first <= last < len(one.ids) and one.sequence_ids[first] == one.sequence_ids[last] == 1:
                found[row] = one.offsets[first][0], one.offsets[last][1]
        return found

    def _read_all(self, texts: Sequence[str | tuple[str, str]]) -> Iterator[tuple[int, Any]]:
        for first in range(0, len(texts), _AT_ONCE):
            yield from enumerate(self._read(texts[first : first + _AT_ONCE]), start=first)

    def unswitched(self) -> Self:
        """The same without code-switching, for rows that nothing is learned from."""
        return replace(self, switch=None)


@final
@dataclass(frozen=True, slots=True)
class Plain:
    """Columns to their UTF-8 bytes (N, length) uint8; `texts_of` reads them again."""

    columns: tuple[str, ...]
    length: int

    @property
    def vocabulary(self) -> int:
        """0: bytes are no tokens."""
        return 0

    def encode(self, rows: Rows) -> Tensor:
        """(N, length) uint8, cut between characters; of several columns the longest are cut first."""
        found = np.zeros((len(rows), self.length), dtype=np.uint8)
        for row, texts in enumerate(zip(*(rows.texts(name) for name in self.columns), strict=True)):
            raw = _cut([_bytes(text) for text in texts], self.length)
            found[row, : len(raw)] = np.frombuffer(raw, dtype=np.uint8)
        return torch.from_numpy(found)

    def facts(self) -> dict[str, Any]:
        """Which columns, and how many bytes."""
        return {"kind": "plain", "columns": list(self.columns), "length": self.length}


# ---- fitted on the training part -------------------------------------------------------------------------------------


def fit_tokens(
    rows: Rows,
    columns: Sequence[str],
    *,
    vocabulary: int = 8000,
    length: int = 64,
    source: str | Path | None = None,
    lower: bool = True,
    code_switch: Mapping[str, Any] | None = None,
) -> Tokens:
    """A vocabulary of byte pairs learned from these rows, each text of which counts once, or the tokenizer of a model.

    The same texts give the same vocabulary in any order and on any machine: what is learned are merges of pairs of
    characters by their counts (Sennrich, Haddow, Birch 2016, arXiv 1508.07909), ties by the pair itself. WordPiece is
    not used, as the library's trainer numbers its pieces in the order of a hash table.

    Args:
        rows: the training part.
        columns: one or more columns of text; the first is one side of a pair, all others joined the other one.
        vocabulary: how many tokens at most, padding included; little text gives fewer.
        length: L, the special tokens included.
        source: a folder with `tokenizer.json` (Hugging Face), or such a file, used as it is: nothing is learned, and
            `vocabulary` and `lower` say nothing.
        lower: whether upper and lower case are one.
        code_switch: words that are replaced by their translations in what is learned from; see `Switch.of_recipe`.

    Raises:
        InputError: a size that cannot be; no such column; no such folder.
        DataError: these rows hold no text.
        ModelError: a tokenizer that is not usable here, such as one without a padding token.
        DamagedError: a tokenizer.json that is not one.
        MissingExtraError: the package tokenizers is not installed.
    """
    columns = _named(columns, rows.name)
    whole("length", length, 4 if len(columns) == 1 else 8, LONGEST, where=rows.name)
    switch = None if code_switch is None else Switch.of_recipe(code_switch)
    sides = min(len(columns), 2)
    if source is not None:
        path = Path(str(source)).expanduser()
        tokenizer, ids, told = opened(read_tokenizer(path), sides, length)
        swap = padding_of(ids, padding_told(path), told)
        return Tokens(columns, length, bool(lower), swap, tokenizer, max(ids.values()) + 1, switch)
    whole("vocabulary", vocabulary, 32, MOST_TOKENS - 1, where=rows.name)
    # Each side on its own: a pair is never read as one text.
    texts = {side for text in _joined(rows, columns) for side in ([text] if isinstance(text, str) else text)}
    if switch is not None:
        texts |= {switch.of(text) for text in texts}
    tokenizer, ids, _ = opened(learned(sorted(texts - {""}), vocabulary, lower, rows.name), sides, length)
    return Tokens(columns, length, bool(lower), 0, tokenizer, max(ids.values()) + 1, switch)


def fit_plain(rows: Rows, columns: Sequence[str], *, limit: int = 2000) -> Plain:
    """Plain text of as many bytes as the longest of these rows takes, `limit` at most.

    Raises:
        InputError: a limit that cannot be; no such column.
    """
    columns = _named(columns, rows.name)
    whole("limit", limit, 8 + len(columns), LONGEST, where=rows.name)
    longest = max((len(BETWEEN.encode().join(map(_bytes, texts))) for texts in _side_by_side(rows, columns)), default=0)
    return Plain(columns, min(max(longest, 8), limit))


# ---- made again from facts -------------------------------------------------------------------------------------------


def tokens_of(facts: Mapping[str, Any]) -> Tokens:
    """What `Tokens.facts` tells.

    Raises:
        DamagedError: that is not what these are.
        ModelError: a tokenizer that is not usable here.
        MissingExtraError: the package tokenizers is not installed.
    """
    with reading("tokens", facts):
        columns, length, swap = *shape_of(facts), facts["swap"]
        text, lower = facts["tokenizer"], facts["lower"]
        if not isinstance(text, str) or type(swap) is not int or type(lower) is not bool:
            raise TypeError("tokenizer")
    tokenizer, ids, _ = opened(text, min(len(columns), 2), length)
    with reading("tokens", facts):
        if not 0 <= swap <= max(ids.values()):
            raise ValueError("swap")
    return Tokens(columns, length, lower, swap, tokenizer, max(ids.values()) + 1)


def plain_of(facts: Mapping[str, Any]) -> Plain:
    """What `Plain.facts` tells.

    Raises:
        DamagedError: that is not what these are.
    """
    with reading("plain", facts):
        return Plain(*shape_of(facts))


def texts_of(tensor: Tensor) -> list[str]:
    """The texts of plain bytes (N, L) uint8; columns are joined by a space."""
    rows = [bytes(row).rstrip(b"\0") for row in tensor.to("cpu", torch.uint8).numpy()]
    return [row.decode("utf-8", "replace").replace(BETWEEN, " ").strip() for row in rows]


# ---- texts -----------------------------------------------------------------------------------------------------------


def _named(columns: Sequence[str], where: str) -> tuple[str, ...]:
    found = names("text", columns, where=where)
    if not found:
        raise InputError("text is read from columns", where=where, expected="a list of one or more names")
    return found


def _joined(rows: Rows, columns: Sequence[str]) -> list[str | tuple[str, str]]:
    """One text a row, or two: the first column, and all others joined by a space."""
    texts = [[_clean(text) for text in one] for one in _side_by_side(rows, columns)]
    if len(columns) == 1:
        return [one[0] for one in texts]
    return [(one[0], " ".join(filter(None, one[1:]))) for one in texts]


def _side_by_side(rows: Rows, columns: Sequence[str]) -> Iterable[tuple[str, ...]]:
    return zip(*(rows.texts(name) for name in columns), strict=True)


def _clean(text: str) -> str:
    """Without halves of surrogate pairs, which no file of text can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _bytes(text: str) -> bytes:
    """Without what means padding or the end of a column."""
    return text.replace("\0", " ").replace(BETWEEN, " ").encode("utf-8", "replace")


def _cut(sides: list[bytes], room: int) -> bytes:
    """The sides joined, in `room` bytes: the longest are cut to equal lengths, between characters."""
    level = left = room - (len(sides) - 1)
    for number, size in enumerate(sorted(map(len, sides))):
        level = left // (len(sides) - number)  # what each of the longer ones may have
        if size > level:
            break
        left -= size
    return BETWEEN.encode().join(side[:level].decode("utf-8", "ignore").encode() for side in sides)

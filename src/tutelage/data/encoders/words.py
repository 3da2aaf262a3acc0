"""Text as the weights of its words: how often each of the most frequent words stands in it, by how rare it is.

tf–idf as in Salton & Buckley (Information Processing & Management, 1988): a word that stands k times in a text, and in
d of the n texts of the training part at all, weighs (1 + ln k) · (1 + ln((1 + n) / (1 + d))). A text's weights are
divided by their length as a vector and multiplied by √features: the mean of their squares is then 1, the size of inputs
that nets and their learning rates are made for. No order, no grammar: a thousand numbers, which any net can read.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from tutelage.data.encoders.facts import reading
from tutelage.data.encoders.options import whole
from tutelage.data.rows import Rows
from tutelage.errors import DataError, InputError

__all__ = ["Words", "fit_words", "words_of"]

MOST_FEATURES = 50_000
_WORD = re.compile(r"\w\w+")  # letters, digits and underscores of any script, two at least


@final
@dataclass(frozen=True, slots=True)
class Words:
    """Columns of text to (N, features) float32; made by `fit_words` or `words_of`."""

    columns: tuple[str, ...]
    words: tuple[str, ...]
    rarity: tuple[float, ...]  # of each word, 1 + ln((1 + n) / (1 + d))
    length: float  # of a text's weights as a vector

    @property
    def vocabulary(self) -> int:
        """0: these are no tokens."""
        return 0

    @property
    def names(self) -> tuple[str, ...]:
        """What each of the numbers is."""
        return self.words

    def encode(self, rows: Rows) -> Tensor:
        """The view (N, features) float32; a text without any of the words is all zeros.

        Raises:
            InputError: a column is not there, or holds no text.
        """
        place = {word: number for number, word in enumerate(self.words)}
        view = np.zeros((len(rows), len(self.words)), dtype=np.float32)
        for number, text in enumerate(_texts(rows, self.columns)):
            counts = Counter(place[word] for word in _words(text) if word in place)
            weights = {at: (1.0 + math.log(count)) * self.rarity[at] for at, count in counts.items()}
            # Added up without rounding, so that neither the order of words nor other texts decide a bit.
            size = math.sqrt(math.fsum(weight * weight for weight in weights.values()))
            for at, weight in weights.items():
                view[number, at] = self.length * (weight / size)
        return torch.from_numpy(view)

    def facts(self) -> Mapping[str, Any]:
        """All that makes it again, as JSON."""
        return {
            "kind": "words", "columns": list(self.columns), "words": list(self.words), "rarity": list(self.rarity),
            "length": self.length,
        }  # fmt: skip


def fit_words(rows: Rows, columns: Sequence[str], *, features: int = 1000) -> Words:
    """Learn from the training rows which words count, and how rare they are.

    Args:
        rows: the training part, and nothing else.
        columns: with text, read one after the other, as if written in capitals nowhere.
        features: how many words: those that stand there most often; of equally frequent ones the first by alphabet.

    Raises:
        InputError: a column is not there, or holds no text; the number is out of range.
        DataError: there are no words.
    """
    if not columns:
        raise InputError("words are read from one column of text at least", where=rows.name)
    features = whole("features", features, 1, MOST_FEATURES, where=rows.name)
    often: Counter[str] = Counter()
    texts_with: Counter[str] = Counter()
    for text in _texts(rows, columns):
        found = Counter(_words(text))
        often.update(found)
        texts_with.update(found.keys())
    words = sorted(sorted(often, key=lambda word: (-often[word], word))[:features])
    if not words:
        raise DataError("there are no words to learn from", where=rows.name, given=", ".join(columns))
    rarity = tuple(1.0 + math.log((1 + len(rows)) / (1 + texts_with[word])) for word in words)
    return Words(tuple(columns), tuple(words), rarity, math.sqrt(len(words)))


def words_of(facts: Mapping[str, Any]) -> Words:
    """An encoder of words made again from its facts.

    Raises:
        DamagedError: they are not whole.
    """
    with reading("words", facts):
        words, rarity = tuple(map(str, facts["words"])), tuple(map(float, facts["rarity"]))
        assert 0 < len(words) == len(rarity) == len(set(words)) <= MOST_FEATURES, "one weight for each word"
        assert all(0.0 < weight < math.inf for weight in rarity), "weights are positive"
        length = float(facts["length"])
        assert 0.0 < length < math.inf, "a length is positive"
        return Words(tuple(map(str, facts["columns"])), words, rarity, length)


def _texts(rows: Rows, columns: Sequence[str]) -> list[str]:
    return [" ".join(parts) for parts in zip(*(rows.texts(column) for column in columns), strict=True)]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())

"""Sentences whose words have tags, as rows: one for each word, with what stands around it.

A tagger that reads a word in its window is a classifier of words, so everything that is said of examples holds for it:
views, stores, files, intervals. What it cannot do is let one tag depend on the tag before.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tutelage.data.images import printable
from tutelage.data.rows import Column
from tutelage.errors import DataError

__all__ = ["tagged_columns"]

_REACH = 5  # words to either side
_HERE = "_"  # stands for the word itself in its window


def tagged_columns(path: Path, text: str) -> dict[str, Column]:
    """Columns `word`, `context`, `tag` and `sentence` of a text in the form of the CoNLL shared tasks.

    One word on a line, its tag the last of what stands behind it, an empty line after each sentence; lines that begin
    with `-DOCSTART-` are no words. `context` holds up to five words to either side, with `_` in the word's place;
    `sentence` numbers the sentences, so that it can be the group.

    Raises:
        DataError: a word has no tag, or there are no words.
    """
    columns: dict[str, list[str]] = {name: [] for name in ("word", "context", "tag", "sentence")}
    sentence: list[tuple[str, str]] = []
    number = 0

    def close() -> None:
        nonlocal number
        words = [word for word, _ in sentence]
        for place, (word, tag) in enumerate(sentence):
            before, behind = words[max(0, place - _REACH) : place], words[place + 1 : place + 1 + _REACH]
            columns["word"].append(word)
            columns["context"].append(" ".join([*before, _HERE, *behind]))
            columns["tag"].append(tag)
            columns["sentence"].append(str(number))
        number += bool(sentence)
        sentence.clear()

    for line_number, line in enumerate(text.splitlines(), 1):
        parts = line.split()
        if not parts:
            close()
        elif not parts[0].startswith("-DOCSTART-"):
            if len(parts) < 2:
                raise DataError(
                    f"a word of {printable(path)} has no tag", given=f"line {line_number}: {parts[0]!r:.60}",
                    expected="a word, spaces or a tab, and its tag",
                )  # fmt: skip
            sentence.append((parts[0], parts[-1]))
    close()
    return {name: np.array(values, dtype=object) for name, values in columns.items()}

"""Questions about Debian's packages whose answers stand in their descriptions, made of tags that volunteers gave.

Distant supervision (Mintz, Bills, Snow, Jurafsky 2009, ACL; for questions Joshi, Choi, Weld, Zettlemoyer 2017, arXiv
1705.03551): where a package is tagged `uitoolkit::gtk` and its description says GTK+, that word answers which toolkit
it uses. Nobody wrote these answers down, so some of them are wrong.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np

from tutelage.data.rows import Rows
from tutelage.data.sets.debian import Stanza, descriptions, distinct, fetch_lists, read_list
from tutelage.data.sets.debian_words import FACETS, WORDS
from tutelage.data.sets.protocol import Set
from tutelage.errors import DataError

__all__ = ["SET", "questions"]

_FILE = "questions.json.gz"
_MOST = 800  # rows of one facet whose answer is of one value
_UNANSWERED = 4  # answered questions of a facet for each one that the text does not answer


@final
@dataclass(frozen=True, slots=True)
class _Words:
    """What names the values of a facet in a text."""

    values: Mapping[str, re.Pattern[str]]  # value, as it stands in a tag -> its words
    any: re.Pattern[str]

    @classmethod
    def of(cls, facet: str, values: Iterable[str]) -> _Words:
        own = WORDS.get(facet, {})
        forms = {value: said for value in sorted(values) if (said := own.get(value, _plain(value)))}
        return cls(
            {value: _pattern(said) for value, said in forms.items()},
            _pattern([form for said in forms.values() for form in said]),
        )


def _plain(value: str) -> tuple[str, ...]:
    """How a value is written where no table says otherwise: `text-mode` also with a space, words also with an s."""
    last = value.rpartition(":")[2]
    return tuple(dict.fromkeys((last, last.replace("-", " "), f"{last}s")))


def _pattern(forms: Iterable[str]) -> re.Pattern[str]:
    """Whole words, the longest that fits; those of one or two letters as they are written, others in any case. A star
    at the end stands for further letters."""
    parts = []
    for form in sorted(set(forms), key=lambda form: (-len(form), form)):
        word = re.escape(form.removesuffix("*")) + (r"\w*" if form.endswith("*") else "")
        parts.append(word if len(form) <= 2 else f"(?i:{word})")
    return re.compile(rf"(?<![\w+#])(?:{'|'.join(parts)})(?![\w+#])")


class _Answer(NamedTuple):
    """Where a text names a value; nothing of both where it does not."""

    text: str
    start: int


class _Asked(NamedTuple):
    """What is asked about a package, and what its description says."""

    package: str
    facet: str
    answer: _Answer


def fetch(folder: Path, tell: Callable[[str], None]) -> None:
    """Fetch Debian's lists with descriptions in English, and keep the questions that follow from them."""
    fetch_lists(folder, tell)
    lists = folder / "Packages.gz", folder / "Translation-en.gz"
    tell("asking questions")
    made = {name: column.tolist() for name, column in questions(*map(read_list, lists)).columns.items()}
    # Texts in an .npz file would all be as wide as the longest.
    with (folder / _FILE).open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) as out:
        out.write(json.dumps(made, ensure_ascii=False).encode())
    for path in lists:
        path.unlink()


def read(folder: Path) -> Rows:
    """The questions that `fetch` wrote down."""
    return _rows(json.loads(read_list(folder / _FILE)))


def questions(packages: str, english: str) -> Rows:
    """Questions about the packages of a list, in the order of their names, with answers out of their descriptions.

    A package that is tagged in a facet of `FACETS` is asked about where its description names one of the tag's values;
    the first place where it does is the answer. Of more than 800 answers of one value those stay whose package and
    facet have the least hashes, so that no answer is right for everything. For every four questions that are answered
    there is one of the same facet that is not, about a package that has no tag of it, and whose description names none
    of its values.

    Args:
        packages: a list of packages.
        english: a list of descriptions.

    Returns:
        Columns question, text (the context), answer ("" where there is none), start (the character of `text` at which
        the answer begins, 0 where there is none), facet, package, source.

    Raises:
        DataError: no package has tags.
    """
    said = descriptions(english)
    found: dict[str, Stanza] = {}
    for one in distinct(packages, said):
        if one.tags:
            found.setdefault(one.package, one)
    if not found:
        raise DataError(
            "these lists of Debian have no tags, of which questions are made", given="no line `Tag:` at all",
            expected="such as `Tag: implemented-in::perl, role::program`",
            fix="fetch this set on a system of Debian's",
        )  # fmt: skip
    texts = {name: said[one.key][1] for name, one in found.items()}
    masked = {name: _masked(text) for name, text in texts.items()}
    asked = [one for facet in FACETS for one in _of_facet(facet, _values(facet, found.values()), masked)]
    asked.sort(key=lambda one: one[:2])
    columns: dict[str, list[Any]] = {
        "question": [FACETS[one.facet][1] for one in asked],
        "text": [texts[one.package] for one in asked],
        "answer": [one.answer.text for one in asked],
        "start": [one.answer.start for one in asked],
        "facet": [one.facet for one in asked],
        "package": [one.package for one in asked],
        "source": [found[one.package].source for one in asked],
    }
    return _rows(columns)


def _rows(columns: Mapping[str, list[Any]]) -> Rows:
    made = {name: np.array(values, dtype=np.float64 if name == "start" else object) for name, values in columns.items()}
    return Rows("debian-questions", made)


def _values(facet: str, packages: Iterable[Stanza]) -> dict[str, list[str]]:
    """Package -> the values that its tags give a facet, for those that have any."""
    begins = FACETS[facet][0]
    values = {one.package: [tag[len(begins) :] for tag in one.tags if tag.startswith(begins)] for one in packages}
    return {package: said for package, said in values.items() if said}


def _of_facet(facet: str, values: Mapping[str, list[str]], texts: Mapping[str, str]) -> list[_Asked]:
    """What is asked of one facet: questions with an answer, not too many of any value, and some without."""
    words = _Words.of(facet, {value for said in values.values() for value in said} - {"TODO"})
    ordered = sorted(texts, key=lambda package: hashlib.sha256(f"{facet}\0{package}".encode()).digest())
    asked: list[_Asked] = []
    counts: dict[str, int] = {}
    for package in ordered:
        value, answer = _answer(words, values.get(package, ()), texts[package])
        if answer.text and counts.get(value, 0) < _MOST:
            counts[value] = counts.get(value, 0) + 1
            asked.append(_Asked(package, facet, answer))
    silent = (one for one in ordered if one not in values and not words.any.search(texts[one]))
    wanted = len(asked) // _UNANSWERED
    return asked + [_Asked(one, facet, _Answer("", 0)) for one in itertools.islice(silent, wanted)]


def _answer(words: _Words, values: Iterable[str], text: str) -> tuple[str, _Answer]:
    """The value that a text names first, and where; of those that begin at one place the longest."""
    found = [
        (one.start(), -len(one[0]), value, one[0])
        for value in values
        if value in words.values and (one := words.values[value].search(text))
    ]
    start, _, value, said = min(found, default=(0, 0, "", ""))
    return value, _Answer(said, start)


# Addresses and paths name formats and protocols that a package has nothing to do with.
_ADDRESS = re.compile(r"\S*(?:://|www\.|@)\S*")
_PATH = re.compile(r"(?<!\w)/\w[\w.+-]*/\S*")


def _masked(text: str) -> str:
    """A text of the same length with spaces for addresses and paths."""
    if "@" in text or "://" in text or "www." in text:
        text = _ADDRESS.sub(_spaces, text)
    return _PATH.sub(_spaces, text) if "/" in text else text


def _spaces(found: re.Match[str]) -> str:
    return " " * len(found[0])


SET = Set(
    name="debian-questions",
    line="25,000 questions about software, answered by a word of its description, or not at all; 15 kinds",
    licence="as free as each package",
    carrier="Debian: lists Packages and Translation-en",
    megabytes=12,
    fetch=fetch,
    read=read,
    label="facet",
    group="source",
    inputs={"q": {"text": ["question", "text"], "tokens": {"vocabulary": 8000, "length": 128}}},
    args={"answer": {"text": "answer", "start": "start"}},
)

"""Looking a text up in a catalogue: exactly, then by template, then piece by piece.

A template is a regular expression whose gaps take anything; of several that fit, the one with the most characters of
its own wins. What a gap in backticks or quotation marks holds is a name and stays; so does one that the translation
writes `{=0}`. A template with few letters, such as `{0} of {1}`, fits many sentences by chance, so what its gaps hold
must be known, or be no sentence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import final

__all__ = ["LANGUAGES", "Translator", "translator"]

LANGUAGES = ("en", "zh")
_GAP = re.compile(r"\{(\d+)\}")
_SAID_GAP = re.compile(r"\{(=?)(\d+)\}")  # `{=0}`: names, never translated
_WORDS = re.compile(r"[A-Za-z]{2}")
_PROSE = re.compile(r"(?<![\w`‘/.-])[A-Za-z]{2,}[,;:]? [a-z]{2,}(?![\w=_`’/(])")
_UNITS = re.compile(r"(?<=\d) (?=(?:%|pp|ms|s|min|h|KiB|MiB|GiB|B)(?![A-Za-z]))")
_RANGE = re.compile(r"(?<=\d)…(?=[\d+−])")
_UNIT = re.compile(r"\{0\} [a-z]+(?: [a-z]+)?(?: \(\{1\}\))?")  # `{0} seeds`, which only counts
_LABEL = re.compile(r"\w+(?:: |  +)\{0\}")
_COUNT = re.compile(r"[~+−-]?\d\S*|\S*[\u2e80-\uffef]\S*")
_SENTENCES = re.compile(r"(?<=[.!?]) (?=[A-Z‘])")
_SENTENCE_OF_KEY = re.compile(r"[.!?](?= [A-Z‘]| ?\{\d+\})")
_APART = re.compile(r"(?<=[\u2e80-\uffef]) (?=[\u2e80-\uffef])")  # Chinese puts no space between its words
_WEAK = 10  # letters of a template below which its gaps are looked at
_DEEP = 12
_KEPT = 50_000
# What parts a text into texts, and how it is written in Chinese; the first that occurs outside brackets is taken.
_PARTS = (("\n", "\n"), ("; ", "；"), (" → ", " → "), (" · ", " · "), (": ", "："), (", ", "，"))


@final
@dataclass(frozen=True, slots=True)
class _Template:
    pattern: re.Pattern[str]
    core: str  # its longest stretch of letters, looked for before the pattern is tried
    own: int  # how many characters are its own
    labelled: bool  # whether it begins with a label
    weak: bool  # whether it fits many texts by chance
    counts: bool  # whether its gap is a number
    sentences: int
    gaps: tuple[int, ...]
    verbatim: frozenset[int]  # gaps that hold names
    said: str


@final
class Translator:
    """A catalogue, made ready for many look-ups.

    Args:
        entries: English text or template -> the same in the other language, with the gaps of the key in any order.
    """

    def __init__(self, entries: Mapping[str, str]) -> None:
        self.keys = frozenset(entries)
        self._exact = {key: said for key, said in entries.items() if not _GAP.search(key)}
        made = [_made(key, said) for key, said in entries.items() if _GAP.search(key)]
        # What begins with a label, `warning: {0}`, comes before what could stand behind it.
        self._templates = tuple(sorted(made, key=lambda one: (not one.labelled, -one.own)))
        self._known: dict[tuple[str, frozenset[str]], str] = {}

    def translate(self, text: str, names: frozenset[str] = frozenset()) -> str:
        """The text in the other language, or itself; `names` stay as they are, whatever the catalogue says of them."""
        if not _WORDS.search(text):
            return text
        found = self._known.get((text, names))
        if found is None:
            if len(self._known) > _KEPT:
                self._known.clear()
            found = self._known[text, names] = self._fitted(text, names)
        return found

    def _fitted(self, text: str, names: frozenset[str]) -> str:
        """Without what was put in for browsers, no-break spaces and joiners, which come back around numbers."""
        plain = text.replace("\u00a0", " ").replace("\u2060", "")
        core = plain.strip()
        found = self._look_up(core, names, 0)
        if found == core:
            return text
        start = plain[: len(plain) - len(plain.lstrip())] if not _cjk(found[0]) else ""
        end = plain[len(plain.rstrip()) :] if not _cjk(found[-1]) else ""
        if plain != text:
            found = _RANGE.sub("…\u2060", _UNITS.sub("\u00a0", found))
        return start + found + end

    def _look_up(self, text: str, names: frozenset[str], depth: int) -> str:
        if not _WORDS.search(text) or text in names or depth > _DEEP:
            return text
        if (said := self._exact.get(text)) is not None:
            return said
        sentences = [text] if "\n" in text else _SENTENCES.split(text)
        if len(sentences) == 1:
            found = self._by_template(text, names, depth, 1)
            return self._in_parts(text, names, depth) if found is None else found
        # A template of one sentence could swallow several in its gaps, so those of several come first.
        found = self._by_template(text, names, depth, 2)
        if found is None:
            found = self._joined(sentences, names, depth)
            whole = self._by_template(text, names, depth, 1) if not _no_prose(found) else None
            if whole is not None and _letters(whole) < _letters(found):
                found = whole
        return found

    def _by_template(self, text: str, names: frozenset[str], depth: int, sentences: int) -> str | None:
        """By the template with the most characters of its own, of those with so many sentences or more."""
        for one in self._templates:
            if one.sentences < sentences or one.core not in text or (match := one.pattern.fullmatch(text)) is None:
                continue
            if not all(map(_balanced, match.groups())):
                continue  # it was cut within brackets
            held = [
                part if gap in one.verbatim else self._gap(part, names, depth)
                for gap, part in zip(one.gaps, match.groups(), strict=True)
            ]
            if (one.counts and not _COUNT.fullmatch(held[0])) or (one.weak and not all(map(_no_prose, held))):
                continue
            values = dict(zip(one.gaps, held, strict=True))
            return _APART.sub("", _SAID_GAP.sub(lambda gap: values[int(gap[2])], one.said))  # noqa: B023
        return None

    def _gap(self, text: str, names: frozenset[str], depth: int) -> str:
        return self._look_up(text.strip(), names, depth + 1) if text.strip() else ""

    def _joined(self, sentences: list[str], names: frozenset[str], depth: int) -> str:
        said = ""
        for one in sentences:
            found = self._look_up(one, names, depth + 1)
            said += found if not said or _cjk(said[-1]) else f" {found}"
        return said

    def _in_parts(self, text: str, names: frozenset[str], depth: int) -> str:
        if text[-1] == "." and len(text) > 1:
            found = self._look_up(text[:-1], names, depth + 1)
            return text if found == text[:-1] else found.rstrip("。") + "。"
        if text[0] == "(" and text[-1] == ")" and _outside(text, ")") == [text[:-1], ""]:
            found = self._look_up(text[1:-1], names, depth + 1)
            return text if found == text[1:-1] else f"（{found}）"
        for mark, written in _PARTS:
            parts = _outside(text, mark)
            if len(parts) == 1:
                continue
            bare = [part.strip() for part in parts]
            said = [self._look_up(part, names, depth + 1) if part else "" for part in bare]
            if mark == "\n":  # lines keep where they begin
                said = [part[: len(part) - len(part.lstrip())] + one for part, one in zip(parts, said, strict=True)]
                return "\n".join(said) if "".join(said) != "".join(parts) else text
            if said != bare and all(map(_no_prose, said)):
                return written.join(said)
        return text


def _made(key: str, said: str) -> _Template:
    literals = _GAP.split(key)[::2]
    gaps = tuple(int(number) for number in _GAP.findall(key))
    # A gap at the end takes all; one inside takes as little as it can.
    pattern = "(.*?)".join(re.escape(literal) for literal in literals)
    around = zip(gaps, literals, literals[1:], strict=False)
    verbatim = frozenset(gap for gap, before, after in around if before[-1:] + after[:1] in ("``", "‘’"))
    verbatim |= {int(gap) for kept, gap in _SAID_GAP.findall(said) if kept}
    letters = sum(letter.isalpha() for literal in literals for letter in literal)
    return _Template(
        re.compile(pattern, re.DOTALL if "\n" in key else 0), max(literals, key=len), sum(map(len, literals)),
        _LABEL.match(key) is not None, letters < _WEAK, _UNIT.fullmatch(key) is not None,
        len(_SENTENCE_OF_KEY.findall(key)) + 1, gaps, verbatim, said,
    )  # fmt: skip


def _outside(text: str, mark: str) -> list[str]:
    """The parts of a text between marks that stand outside brackets and quotation marks."""
    if mark not in text:
        return [text]
    parts, deep, start = list[str](), 0, 0
    for index, letter in enumerate(text):
        if letter in "([{‘":
            deep += 1
        elif letter in ")]}’" and letter != mark:
            deep -= 1
        if deep <= (1 if mark == ")" else 0) and text.startswith(mark, index) and index >= start:
            parts.append(text[start:index])
            start = index + len(mark)
    return [*parts, text[start:]]


def _balanced(text: str) -> bool:
    """Whether every bracket that opens closes, and none closes that did not open."""
    deep = 0
    for letter in text:
        deep += (letter == "(") - (letter == ")")
        if deep < 0:
            return False
    return deep == 0


def _no_prose(text: str) -> bool:
    return _PROSE.search(text) is None


def _letters(text: str) -> int:
    return sum(letter.isascii() and letter.isalpha() for letter in text)


def _cjk(letter: str) -> bool:
    return letter > "\u2fff"


@cache
def translator(language: str) -> Translator:
    """The translator of one of `LANGUAGES` but English."""
    return Translator(json.loads(resources.files(__package__).joinpath(f"{language}.json").read_text(encoding="utf-8")))


def check_gaps(entries: Mapping[str, str]) -> Iterable[str]:
    """Entries whose translation names a gap that the template does not have."""
    for key, said in entries.items():
        if {gap for _, gap in _SAID_GAP.findall(said)} - set(_GAP.findall(key)):
            yield key

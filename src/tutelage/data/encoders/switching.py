"""Code-switched text: some words of a sentence said in another language, for a student that shall understand both.

A teacher reads the sentence as it is, its student the switched copy (Qin, Ni, Zhang, Che 2020, "CoSDA-ML:
multi-lingual code-switching data augmentation for zero-shot cross-lingual NLP", IJCAI, arXiv 2006.06402).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, final

from tutelage.errors import DamagedError, InputError, nearest

__all__ = ["Switch"]

_WORD = re.compile(r"\w+")
_MOST_BYTES = 256 << 20


@final
@dataclass(frozen=True, slots=True)
class Switch:
    """Which words are replaced by which; what becomes of a text depends on the text and `seed` alone.

    Args:
        words: a word in lower case -> what may stand in its place, one or more.
        share: of the words that have a translation, how many are replaced, in [0, 1]; 0 leaves every text as it is.
        seed: another one replaces other words.
    """

    words: Mapping[str, tuple[str, ...]]
    share: float = 0.5
    seed: int = 0

    def of(self, text: str) -> str:
        """A text with some of its words replaced."""
        if not self.share:
            return text
        head = hashlib.blake2b(f"{self.seed} {text}".encode(), digest_size=16).digest()

        def said(found: re.Match[str]) -> str:
            choices = self.words.get(found[0].lower())
            if not choices:
                return found[0]
            drawn = hashlib.blake2b(found.start().to_bytes(8, "little"), key=head, digest_size=8).digest()
            chance, which = int.from_bytes(drawn[:4], "little"), int.from_bytes(drawn[4:], "little")
            return choices[which % len(choices)] if chance < self.share * 2**32 else found[0]

        return _WORD.sub(said, text)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that tell it from another one."""
        said = json.dumps([sorted(self.words.items()), self.share, self.seed])
        return hashlib.sha256(said.encode()).hexdigest()[:16]

    @classmethod
    def of_recipe(cls, told: Mapping[str, Any]) -> Self:
        """What a recipe says: `{words: /file.tsv, share: 0.5, seed: 0}`.

        The file holds a word and its translation a line, with a tab between; a word may have several lines. In place
        of a file `words` may be a mapping of words to texts or lists of texts.

        Raises:
            InputError: an unknown or missing setting; no such file.
            DamagedError: a file that is no such list.
        """
        if not isinstance(told, Mapping):
            raise InputError("code_switch is a mapping", given=f"{told!r:.80}", expected="words: /file.tsv, share: 0.5")
        unknown = sorted(set(told) - {"words", "share", "seed"})
        if unknown or "words" not in told:
            raise InputError(
                f"code_switch takes no `{unknown[0]}`" if unknown else "code_switch needs `words`",
                where="code_switch", expected="words: /file.tsv, share: 0.5, seed: 0",
                fix=nearest(unknown[0], ("words", "share", "seed")) if unknown else None,
            )  # fmt: skip
        share, seed, words = told.get("share", 0.5), told.get("seed", 0), told["words"]
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
            raise InputError("`share` is a share of words", where="code_switch", given=share, expected="0 … 1")
        if type(seed) is not int:
            raise InputError("`seed` is a whole number", where="code_switch", given=seed)
        pairs = words.items() if isinstance(words, Mapping) else _pairs(Path(str(words)).expanduser())
        found: dict[str, list[str]] = {}
        for word, one in pairs:
            found.setdefault(str(word).lower(), []).extend(map(str, one if isinstance(one, (list, tuple)) else [one]))
        return cls({word: tuple(sorted(set(said))) for word, said in found.items()}, float(share), seed)


def _pairs(path: Path) -> list[tuple[str, str]]:
    if not path.is_file():
        raise InputError(
            f"there is no file {path}", where="code_switch.words", expected="word, tab, translation a line"
        )
    if path.stat().st_size > _MOST_BYTES:
        raise InputError(
            "this list of words is too large", where=str(path), expected=f"{_MOST_BYTES >> 20} MiB at most"
        )
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DamagedError("the list of words is not UTF-8", where=str(path)) from error
    pairs = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        word, _, said = (part.strip() for part in line.partition("\t"))
        if not word or not said:
            raise DamagedError(
                "no word and translation with a tab between", where=f"{path}, line {number}", given=line[:80]
            )
        pairs.append((word, said))
    return pairs

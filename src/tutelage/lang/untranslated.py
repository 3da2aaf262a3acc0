"""What of the extracted templates needs no translation, and why."""

from __future__ import annotations

import re

__all__ = ["is_exempt"]

_REASONS = {
    "code to be copied": (
        r"\A(?:import |from [\w.]+ import|def |x, |x = np\.|\.reshape\(|layers = |halve = |stage = |"
        r"if x\.dim|@misc|partial\(|\[net\.| *at: |gradient: label  #|attack: \{eps: |encoding = |rows = Rows\(|"
        r"ids, swap = |\{0\}: np\.|\(?\"a first |print\(\[|first = 0|places = |\(\"What is it |\(\"Which programming )"
    ),
    "markup": r"<!doctype|<meta |\A\{0\} \{1\}\Z",
    "class names of a data set": r"\A(?:Ankle boot|Bag|Sneaker|Shirt|Sandal|Coat|Dress|Pullover|Trouser)\Z",
    "classes of style": r"\A(?:heat difference|(?:open|curve|range|range thin) \{0\}|\w+ halo)\Z",
    "the same in both languages": r"\A(?:SHA-256|Null|args|\{0\} TiB|tutelage \{0\}, Python \{1\}\s.*)\Z",
    "a file for programs": r"\A# The recipe as it was run",
}
_EXEMPT = re.compile("|".join(_REASONS.values()), re.DOTALL)


def is_exempt(template: str) -> bool:
    """Whether a template stays as it is in every language, for one of the reasons above."""
    return _EXEMPT.search(template) is not None

"""The card of a student in another language: Markdown line by line, code and the head for machines as they are."""

from __future__ import annotations

import re

from tutelage.lang import language, say

__all__ = ["say_markdown"]

_OPENING = re.compile(r"(\s*(?:#{1,6} |- |\d+\. )?)(.*)", re.DOTALL)
_SUMMARY = re.compile(r"(?<=<summary>).*?(?=</summary>)")
_ESCAPED = re.compile(r"\\([\\`*_\[\]<>#|])")
_MARKS = re.compile(r"([\\`*_\[\]#|])")


def say_markdown(text: str) -> str:
    """A Markdown text in the language now spoken; fenced code and the YAML head stay."""
    if language() == "en":
        return text
    lines, fence, head = list[str](), "", False
    for index, line in enumerate(text.split("\n")):
        if line == "---" and (index == 0 or head):
            head = not head
        elif not head and line.startswith("```") and (not fence or line == fence):
            fence = "" if fence else re.match("`+", line)[0]  # type: ignore[index]
        elif not head and not fence:
            line = _line(line)
        lines.append(line)
    return "\n".join(lines)


def _line(line: str) -> str:
    if "<summary>" in line:
        return _SUMMARY.sub(lambda found: say(found[0]), line)
    if line.startswith("| "):
        cells = re.split(r"(?<!\\)\|", line)[1:-1]
        return "|" + "|".join(f" {_text(cell.strip())} " for cell in cells) + "|"
    opening = _OPENING.fullmatch(line)
    assert opening is not None
    return opening[1] + _text(opening[2])


def _text(text: str) -> str:
    """Without its backslashes, which come back; as it stands where there are none."""
    plain = _ESCAPED.sub(r"\1", text).replace("&lt;", "<").replace("&gt;", ">")
    if plain == text or (said := say(plain)) == plain:
        return say(text)
    return _MARKS.sub(r"\\\1", said).replace("<", "&lt;").replace(">", "&gt;")

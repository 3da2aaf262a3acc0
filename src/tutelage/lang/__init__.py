"""The language that people are addressed in. English stays in the code; texts are translated where they leave it.

A catalogue, `zh.json`, says for an English text, or a template with gaps `{0}`, `{1}` …, how it reads in another
language. What a gap holds is translated in its turn if the catalogue knows it; numbers and names stay. A text that no
entry fits stays English: a missing translation is never an error. Files for programs (JSON, logs) are never translated.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Protocol, TypeVar

from tutelage.errors import InputError, Problem, TutelageError, nearest
from tutelage.lang.catalogue import LANGUAGES, translator

__all__ = [
    "LANGUAGES", "VARIABLE", "after", "html_language", "language", "missing", "of_command", "parse", "say",
    "say_error", "speak", "speaking", "translate",
]  # fmt: skip

VARIABLE = "TUTELAGE_LANG"
_HTML = {"zh": "zh-CN"}
_language: ContextVar[str] = ContextVar("language", default="en")
_names: ContextVar[frozenset[str]] = ContextVar("names", default=frozenset())


def language() -> str:
    """The language now spoken: `en`, or one of the others of `LANGUAGES`."""
    return _language.get()


def html_language() -> str:
    """The language now spoken as HTML names it: `en`, `zh-CN`."""
    return _HTML.get(language(), language())


def parse(word: str, where: str = "--lang") -> str:
    """A language as people write it: `zh`, `zh-CN`, `zh_CN.UTF-8`, `EN`.

    Raises:
        InputError: there is no catalogue for it.
    """
    found = word.strip().lower().replace("_", "-").partition(".")[0].partition("-")[0]
    if found not in LANGUAGES:
        expected = " or ".join(LANGUAGES)
        raise InputError(f"no language `{word}`", where=where, expected=expected, fix=nearest(found, LANGUAGES))
    return found


def of_command(words: Sequence[str], environment: Mapping[str, str] = os.environ) -> str:
    """The language that a command line, or else the environment, asks for; `en` where that is none of ours.

    It is looked up before anything is parsed, so that the parser's own complaints are understood as well.
    """
    asked = environment.get(VARIABLE) or "en"
    for index, word in enumerate(words):
        if word == "--":
            break
        if word == "--lang" and index + 1 < len(words):
            asked = words[index + 1]
        elif word.startswith("--lang="):
            asked = word.partition("=")[2]
    try:
        return parse(asked)
    except InputError:
        return "en"


def speak(chosen: str) -> None:
    """Speak a language from now on, in this thread."""
    _language.set(chosen)


@contextlib.contextmanager
def speaking(chosen: str | None = None, names: Iterable[str] = ()) -> Iterator[None]:
    """Speak a language for a while; None keeps the one now spoken. `names` are words of the data: they stay."""
    before = _language.set(language() if chosen is None else chosen), _names.set(frozenset(names))
    try:
        yield
    finally:
        _language.reset(before[0])
        _names.reset(before[1])


def say(text: str) -> str:
    """A text in the language now spoken."""
    spoken = language()
    return text if spoken == "en" else translator(spoken).translate(text, _names.get())


def after(label: str) -> str:
    """A label with what parts it from its text: full-width punctuation brings its own space."""
    return f"{label} " if language() == "en" else label


def translate(text: str, chosen: str, names: Collection[str] = ()) -> str:
    """A text in a language; the text itself where no entry of the catalogue fits."""
    return text if chosen == "en" else translator(chosen).translate(text, frozenset(names))


def say_error(error: TutelageError) -> str:
    """The whole message of an error in the language now spoken, with its labels."""
    if language() == "en":
        return str(error)
    problems: Sequence[Problem] = getattr(error, "problems", (error.problem,))
    head = [say(f"{len(problems)} problems")] if len(problems) > 1 else []
    return "\n".join([*head, *(_problem(problem) for problem in problems)])


def _problem(problem: Problem) -> str:
    lines = [say(problem.what) + (f"（{say(problem.where)}）" if problem.where else "")]
    if problem.given is not None:
        # A single word is what the user wrote, not what we say of it.
        lines.append(f"  {say('given')}  {say(problem.given) if ' ' in problem.given else problem.given}")
    if problem.expected is not None:
        lines.append(f"  {say('expected')}  {say(problem.expected)}")
    if problem.fix is not None:
        lines.append(f"{say('hint')}：{say(problem.fix)}")
    return "\n".join(lines)


class _Template(Protocol):
    @property
    def template(self) -> str: ...


_Any = TypeVar("_Any", bound=_Template)


def missing(found: Iterable[_Any], chosen: str) -> list[_Any]:
    """The templates that the catalogue of a language has no entry for, of those that it ought to have."""
    from tutelage.lang.untranslated import is_exempt

    known = translator(chosen).keys
    return [one for one in found if one.template not in known and not is_exempt(one.template)]

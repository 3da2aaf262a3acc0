"""Every error a user can meet says what is wrong, what was given, what was expected, and what to do.

    TutelageError            1    something went wrong while running
    ├── InputError           2    a value is wrong: a flag, an argument, a shape
    │   ├── RecipeError      2    one or more problems of one recipe, all at once
    │   └── MissingExtraError 2   an optional dependency is not installed; names the extra
    ├── MismatchError        3    data and models do not fit, or cannot be used
    │   ├── DataError        3
    │   └── ModelError       3
    ├── GateError            4    a quality gate failed
    ├── DamagedError         5    a file is not what it claims to be
    ├── BusyError            6    somebody else holds this folder
    ├── TrainingError        1    training met a number that is not one
    └── Interrupted    130/143    stopped by a signal, state saved

The number is the exit code of the command line. 101 is kept for faults of our own, which are not in this tree.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

INTERNAL_FAULT = 101


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, in the words of the template *what (where) / given / expected / fix*."""

    what: str
    where: str | None = None
    given: str | None = None
    expected: str | None = None
    fix: str | None = None

    def text(self) -> str:
        lines = [self.what + (f" ({self.where})" if self.where else "")]
        if self.given is not None:
            lines.append(f"  given     {self.given}")
        if self.expected is not None:
            lines.append(f"  expected  {self.expected}")
        if self.fix is not None:
            lines.append(f"hint: {self.fix}")
        return "\n".join(lines)


class TutelageError(Exception):
    """The root: `str(error)` is the whole message, without a leading `error:`."""

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        given: object = None,
        expected: str | None = None,
        fix: str | None = None,
    ) -> None:
        shown = None if given is None else str(given)
        self.problem = Problem(what, where, shown, expected, fix)
        super().__init__(self.problem.text())


class InputError(TutelageError, ValueError):
    """A value that was passed in cannot be right."""

    exit_code = 2


class RecipeError(InputError):
    """All problems of one recipe together, so that one look mends them all."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(problems[0].what)
        self.problems = tuple(problems)
        text = "\n".join(problem.text() for problem in self.problems)
        if len(self.problems) > 1:
            text = f"{len(self.problems)} problems\n{text}"
        self.args = (text,)


class MissingExtraError(InputError, ImportError):
    """An optional dependency is missing."""

    def __init__(self, package: str, extra: str, *, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package `{package}`, which is not installed",
            fix=f"pip install 'tutelage[{extra}]'",
        )


class MismatchError(TutelageError, ValueError):
    """Data, teacher and student do not fit together."""

    exit_code = 3


class DataError(MismatchError):
    """The data cannot be used."""


class ModelError(MismatchError):
    """A model cannot be built, loaded or used with this data."""


class GateError(TutelageError):
    """A quality gate that the user set was not met."""

    exit_code = 4


class DamagedError(TutelageError):
    """A file is truncated, altered, or not of the kind it claims to be."""

    exit_code = 5


class BusyError(TutelageError):
    """Another process holds what this one needs."""

    exit_code = 6


class TrainingError(TutelageError):
    """Training produced a number that is not finite."""


class Interrupted(TutelageError):  # noqa: N818  not a fault: the user asked for it
    """A signal asked the run to stop; everything up to the last step is saved."""

    def __init__(self, signal_number: int, *, fix: str) -> None:
        super().__init__("stopped; everything so far is saved", fix=fix)
        self.exit_code = 128 + signal_number


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean …?` for a mistyped name, or the list of names when none is near."""
    names = sorted(known)
    close = difflib.get_close_matches(name.lower(), [n.lower() for n in names], n=1, cutoff=0.6)
    if close:
        match = next(n for n in names if n.lower() == close[0])
        return f"did you mean `{match}`?"
    shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    return f"known names: {shown}"

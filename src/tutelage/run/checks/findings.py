"""What a check says: findings, each with a level, numbers, and what to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, final

from tutelage.errors import TutelageError

__all__ = ["Checked", "Finding", "Level", "fault", "first_line", "notice", "ok", "percent", "several", "warning"]

Level = Literal["ok", "notice", "warning", "fault"]


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    title: str
    text: str
    fix: str | None = None

    def line(self) -> str:
        """One line for a person."""
        return f"{self.level:<8} {self.title}: {self.text}" + (f" → {self.fix}" if self.fix else "")


@final
@dataclass(frozen=True, slots=True)
class Checked:
    """What was found before anything is trained."""

    name: str
    findings: tuple[Finding, ...]

    def of(self, level: Level) -> tuple[Finding, ...]:
        """The findings of one level."""
        return tuple(finding for finding in self.findings if finding.level == level)

    def summary(self) -> str:
        """One line for each finding."""
        return "\n".join(finding.line() for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        counts = {f"{level}s": len(self.of(level)) for level in ("fault", "warning", "notice")}
        return {"recipe": self.name, **counts, "findings": [asdict(finding) for finding in self.findings]}


def ok(title: str, text: str) -> Finding:
    """All is well."""
    return Finding("ok", title, text)


def notice(title: str, text: str, fix: str | None = None) -> Finding:
    """Good to know."""
    return Finding("notice", title, text, fix)


def warning(title: str, text: str, fix: str | None = None) -> Finding:
    """Probably not what was meant."""
    return Finding("warning", title, text, fix)


def fault(title: str, what: str | TutelageError, fix: str | None = None) -> Finding:
    """A run would fail, or its numbers would mean nothing; an error is told on one line."""
    if isinstance(what, str):
        return Finding("fault", title, what, fix)
    problem = what.problem
    text = problem.what + (f" ({problem.where})" if problem.where else "")
    for word, said in (("given", problem.given), ("expected", problem.expected)):
        text += f"; {word}: {said}" if said is not None else ""
    return Finding("fault", title, _one_line(text), _one_line(problem.fix or "") or fix)


def _one_line(text: str) -> str:
    return "; ".join(line.strip() for line in text.splitlines())


def percent(share: float) -> str:
    """`0.121` -> `12.1 %`."""
    return f"{100 * share:.1f} %"


def several(count: int, what: str) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{count:,} {what}" + "s" * (count != 1)


def first_line(error: Exception) -> str:
    """What an error of torch or of the user's code says, in short."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:240]

"""Who stands beside whom in a run: each arm with its part, its student, and the arm that it is held against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

from tutelage.errors import InputError, nearest
from tutelage.evaluation.judged import Arm

TEACHER = "teacher"


def seeds_of(arm: Arm) -> list[int]:
    """The seeds of an arm's students, in their order."""
    return [student.seed for student in arm.students if student.seed is not None]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Lineup:
    """The arms of a run, whose names, students and methods are known to fit together."""

    arms: tuple[Arm, ...]
    method: str  # that of the arms which learned without the teacher

    @classmethod
    def of(cls, arms: Sequence[Arm], method: str) -> Lineup:
        """Check the arms, and fill in what a compressed arm takes from the one it was made from.

        Raises:
            InputError: arms without students, repeated names or seeds, or a compressed arm of nothing.
        """
        _check(arms)
        first = {arm.name: arm for arm in arms if not arm.compression}
        filled = [_filled(arm, first) for arm in arms]
        roles = Counter((arm.student, arm.method) for arm in filled if not arm.compression)
        for (student, name), count in roles.items():
            if count > 1:
                raise InputError(
                    f"{count} arms train student `{student}` by method `{name}`",
                    expected="one arm for every student and method",
                )
        return cls(tuple(filled), method)

    @property
    def plain(self) -> list[Arm]:
        """The arms that were trained, and not made from another one's files."""
        return [arm for arm in self.arms if not arm.compression]

    @property
    def headline(self) -> Arm:
        """The first arm that listens to the teacher; where none does, the first arm."""
        return next((arm for arm in self.plain if arm.distilled), self.plain[0])

    def baseline(self, arm: Arm) -> str | None:
        """The arm in which the same student learned without the teacher; an arm of that method is its own."""
        own = (one.name for one in self.plain if one.student == arm.student and one.method == self.method)
        return next(own, None)

    def role(self, arm: Arm) -> str:
        """baseline, distilled, compressed or other."""
        if arm.compression:
            return "compressed"
        if arm.method == self.method:
            return "baseline"
        return "distilled" if arm.distilled else "other"

    def against_baselines(self) -> dict[str, str]:
        """Distilled arm -> its baseline, for those that have one."""
        found = {arm.name: self.baseline(arm) for arm in self.plain if self.role(arm) == "distilled"}
        return {name: baseline for name, baseline in found.items() if baseline is not None}

    def compared(self) -> dict[str, str]:
        """Every arm that is held against a baseline: the distilled ones, and then those that learned in another way
        without a teacher."""
        untaught = {arm.name: self.baseline(arm) for arm in self.plain if self.role(arm) == "other"}
        return self.against_baselines() | {name: other for name, other in untaught.items() if other is not None}

    def against_originals(self) -> dict[str, str]:
        """Compressed arm -> the arm it was made from."""
        return {arm.name: arm.of for arm in self.arms if arm.compression}


def _check(arms: Sequence[Arm]) -> None:
    names = [arm.name for arm in arms]
    if not arms or len(set(names)) < len(names) or TEACHER in names:
        raise InputError(
            "arms need names of their own", given=", ".join(names) or "none", expected="distinct names, not `teacher`"
        )
    for arm in arms:
        seeds = seeds_of(arm)
        if not seeds or len(set(seeds)) < len(arm.students):
            raise InputError(
                f"arm `{arm.name}` needs one student for each seed",
                given=f"{len(arm.students)} students, seeds {seeds}",
            )
    if not set.intersection(*(set(seeds_of(arm)) for arm in arms)):
        raise InputError("the arms share no seed, so nothing can be paired", given=", ".join(names))
    trained = [arm.name for arm in arms if not arm.compression]
    for arm in arms:
        if bool(arm.of) != bool(arm.compression) or (arm.of and arm.of not in trained):
            raise InputError(
                f"arm `{arm.name}` does not say what was compressed, and how",
                given=f"of `{arm.of}`, compression `{arm.compression}`",
                expected="the name of an arm that was trained, and of a compression; or neither",
                fix=nearest(arm.of, trained) if trained else None,
            )


def _filled(arm: Arm, first: dict[str, Arm]) -> Arm:
    if not arm.compression:
        return replace(arm, method=arm.method or arm.name)
    origin = first[arm.of]
    return replace(arm, student=arm.student or origin.student, method=arm.method or origin.method or origin.name)

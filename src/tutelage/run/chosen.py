"""One student of a finished run, loaded from its file, with what its run says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from torch import nn

from tutelage.data import Splits
from tutelage.errors import DataError, InputError, nearest
from tutelage.export import FORMATS
from tutelage.files import read_json
from tutelage.run.job import Job, job_of_recipe
from tutelage.run.saved import finished_arm, recipe_of, refuse_folds
from tutelage.run.students import load_student, read_facts, student_file

__all__ = ["Chosen", "chosen_student", "same_data", "student_named"]

# What `student.json` says beside the facts that build a student.
_BOOKKEEPING = ("kept_epoch", "curve", "learned", "quantised")


@final
@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """A student, and where it comes from."""

    home: Path
    arm: str
    seed: int
    module: nn.Module
    told: Mapping[str, Any]  # all that stands beside its weights
    job: Job

    @property
    def config(self) -> dict[str, Any]:
        """The facts that build it again."""
        return {key: self.told[key] for key in self.told if key not in _BOOKKEEPING and not key.startswith("sha256")}

    @property
    def title(self) -> str:
        """What messages call it."""
        return f"{self.home}:{self.arm}, seed {self.seed}"


def chosen_student(name: Path | str, *, seed: int | None, trust: bool) -> Chosen:
    """The student that `RUN` or `RUN:ARM` and a seed mean.

    Args:
        name: a run's folder, with an arm after a colon: `runs/a:scratch`; by default the arm of the headline.
        seed: whose; by default the first.
        trust: whether code that the run's recipe names may run.

    Raises:
        InputError: no such run, arm or seed, or a run whose folder does not say where its data is.
        ModelError: the student cannot be built again.
        DamagedError: a file is not what it was.
    """
    home, arm, report = finished_arm(name)
    refuse_folds(home, report)
    row = next(model for model in report["models"] if model["name"] == arm)
    if row["compression"] in FORMATS:
        raise InputError(
            f"the arm `{arm}` is a file that was exported already", given=row["compression"],
            fix=f"name the arm it was made from: {home}:{row['of']}",
        )  # fmt: skip
    seeds = [int(one["seed"]) for one in row["runs"]]
    chosen = seeds[0] if seed is None else seed
    if chosen not in seeds:
        raise InputError(
            f"the run has no student of seed {chosen}", where="--seed", expected=f"one of {', '.join(map(str, seeds))}"
        )
    weights = student_file(home, row["of"] or arm, chosen, row["compression"])
    module = load_student(weights.parent, compression=row["compression"], trust=trust)
    job = job_of_recipe(recipe_of(home), trust=trust)
    return Chosen(home, arm, chosen, module, read_facts(weights), job)


def student_named(job: Job, name: str | None) -> str:
    """Which of a recipe's students is meant; where there is one, nobody has to say.

    Raises:
        InputError: none of that name, or several and no name.
    """
    found = next(iter(job.students)) if name is None and len(job.students) == 1 else name or ""
    if found not in job.students:
        raise InputError(
            f"no student `{found}` in this recipe" if found else "the recipe has several students",
            expected="RECIPE:STUDENT", fix=nearest(found, filter(None, job.students)),
        )  # fmt: skip
    return found


def same_data(splits: Splits, home: Path) -> None:
    """That a run's data is what it was: what was learned from must not come into a test part.

    Raises:
        DataError: it has changed.
    """
    before = read_json(home / "manifest.json").get("data", {}).get("fingerprint")
    if splits.fingerprint != before:
        raise DataError(
            "the data has changed since the run", where=splits.train.name,
            given=f"fingerprint {splits.fingerprint[:12]}", expected=str(before)[:12], fix="restore the data",
        )  # fmt: skip

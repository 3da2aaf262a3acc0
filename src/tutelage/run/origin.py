"""A finished run as a beginning: one arm's students, the teacher from its file, and the data as it was divided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from torch import nn

from tutelage.errors import DamagedError, InputError
from tutelage.export import FORMATS
from tutelage.files import read_json, read_text, sha256
from tutelage.recipe import Recipe, diff, from_mapping, from_text
from tutelage.run.chosen import same_data
from tutelage.run.execute import Run
from tutelage.run.job import Job, job_of_recipe
from tutelage.run.saved import finished_arm, refuse_folds
from tutelage.run.students import load_student, read_facts, student_file
from tutelage.run.teacherplan import TeacherPlan

__all__ = ["Origin", "origin_of"]

_CHANGEABLE = ("train", "seeds", "device", "threads")


@final
@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """A finished run, and one arm of it, whose students everybody shares."""

    home: Path
    arm: str
    recipe: Recipe  # of the run, with changes
    job: Job  # its data with labels, its teacher from its file; without arms
    files: Mapping[int, Path]  # seed -> the shared student's file
    compression: str
    student: str  # its name in the recipe
    trust: bool

    @property
    def told(self) -> dict[str, Any]:
        """By which it is known again."""
        teachers = self.job.teacher.members or {"": self.job.teacher}
        return {
            "arm": self.arm,
            "shared": {str(seed): sha256(path) for seed, path in self.files.items()},
            "teacher": {name: sha256(plan.weights) for name, plan in teachers.items() if plan.weights is not None},
        }

    def shared(self, seed: int) -> nn.Module:
        """The shared student, anew."""
        return load_student(self.files[seed].parent, compression=self.compression, trust=self.trust)

    def config(self, seed: int) -> dict[str, Any]:
        """The facts by which its file is built again."""
        apart = {"kept_epoch", "curve", "learned"}
        facts = read_facts(self.files[seed])
        return {key: value for key, value in facts.items() if key not in apart and not key.startswith("sha256")}


def origin_of(run: Run | Path | str, changes: Sequence[str], trust: bool, *, taught: bool) -> Origin:
    """Take up a finished run.

    Args:
        run: the run or its folder, with an arm after a colon; by default the arm of the headline.
        changes: keys of its recipe, as `--set` takes them.
        trust: whether code that its recipe names may run.
        taught: whether its teacher is needed as well.

    Raises:
        InputError: there is no such run, arm or seed, or a key that is the run's.
        DataError: the data is not what the run had.
        DamagedError: a file is not what it was.
    """
    home, arm, report = finished_arm(run.folder if isinstance(run, Run) else run)
    refuse_folds(home, report)
    home = home.resolve()
    text = read_text(home / "config.yaml")
    if all(line.startswith("#") for line in text.splitlines() if line.strip()):
        raise InputError(
            f"the run in {home} was made in Python, so its folder does not say where its data and teacher are",
            expected="a run of a recipe", fix="write it as a recipe: `tutelage recipes` lists examples",
        )  # fmt: skip
    before = from_text(text, str(home / "config.yaml"))
    recipe = from_mapping(before.model_dump(mode="json"), list(changes)) if changes else before
    for line in diff(before, recipe):
        if line.split(":")[0].split(".")[0] not in _CHANGEABLE:
            raise InputError(
                f"`{line.split(':')[0]}` is the run's and cannot be changed for its users", given=line,
                expected="keys of " + ", ".join(_CHANGEABLE),
            )  # fmt: skip
    row = next(model for model in report["models"] if model["name"] == arm)
    if row["compression"] in FORMATS:
        raise InputError(
            f"`{arm}` is a file that runs elsewhere, and cannot learn any more", where=str(home),
            expected="the arm that it was written from", fix=f"name {row['of']}",
        )  # fmt: skip
    files = {one: student_file(home, row["of"] or arm, one, row["compression"]) for one in recipe.seeds}
    for one, path in files.items():
        if not path.is_file():
            seeds = ", ".join(str(each["seed"]) for each in row["runs"])
            raise InputError(f"the run has no student of seed {one}", where="seeds", expected=f"seeds of it: {seeds}")
        if read_facts(path).get("model") is None:
            load_student(path.parent)  # which says why it cannot be built
    job = job_of_recipe(recipe, trust=trust)
    if job.splits.train.tasks:
        raise InputError(
            "personal students learn one task, but the run's data has several", given=", ".join(job.splits.train.sizes)
        )
    same_data(job.splits, home)
    # Of the users' own examples partners are drawn and views are made, so what a store holds is about other inputs.
    teacher = _from_files(job.teacher, home) if taught else TeacherPlan()
    job = replace(job.teaching, teacher=teacher, arms={}, store=None, balance="none")
    return Origin(home, arm, recipe, job, files, row["compression"], row["student"], trust)


def _from_files(plan: TeacherPlan, home: Path) -> TeacherPlan:
    """The teacher as the run kept it, so that it is not trained again."""
    if plan.members:
        return replace(plan, members={name: _from_files(one, home) for name, one in plan.members.items()})
    if plan.opens is not None:
        raise InputError(
            "the teacher of this run is no torch module, and cannot stand beside users' students",
            given=plan.describes, fix="use --anchor student",
        )  # fmt: skip
    file = home / "teacher" / f"{plan.slug}.safetensors"
    if not file.is_file() or read_json(file.with_suffix(".json")).get("sha256") != sha256(file):
        raise DamagedError(f"{file} is missing or was altered", fix="restore the run's folder")
    return replace(plan, weights=file, train=None, store=None)

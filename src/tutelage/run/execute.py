"""The way of one run, from a job to a report."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, final

import torch
from torch import nn

from tutelage import __version__
from tutelage.errors import DamagedError, ModelError
from tutelage.evaluation.cost import parameters
from tutelage.evaluation.scorecard import FORMAT
from tutelage.extensions import versions_of
from tutelage.files import read_json, read_text
from tutelage.models import learning_count, merge
from tutelage.recipe import Recipe, diff, from_text, resumable
from tutelage.report import verdict
from tutelage.run.alignment import aligned
from tutelage.run.answers import answering
from tutelage.run.arms import check_companions, check_learning
from tutelage.run.beginnings import begun, planned
from tutelage.run.cohorts import Workshop, torch_settings
from tutelage.run.exports import export_students, rehearse
from tutelage.run.folder import RunFolder, check_place
from tutelage.run.heads import filled, headed
from tutelage.run.job import Job, job_of_recipe
from tutelage.run.judge import describe, judge
from tutelage.run.several import refuse_another
from tutelage.run.students import same_beginning, student_file
from tutelage.run.teacher import TeacherInHand, check_teacher, obtain_teacher
from tutelage.run.waves import train_seed
from tutelage.taps import Taps
from tutelage.training import Device, StopSignals, make_device, open_trackers

__all__ = ["Run", "execute", "facts_of", "read_report", "run_recipe"]


@final
@dataclass(frozen=True, slots=True)
class Run:
    """A finished run."""

    folder: Path
    report: Mapping[str, Any]

    @property
    def verdict(self) -> str:
        """The outcome in plain words."""
        return verdict(self.report).text

    def student(self, arm: str = "distilled", seed: int | None = None) -> Path:
        """The folder of one student; see `load_student`."""
        chosen = self.report["seeds"][0] if seed is None else seed
        return student_file(self.folder, arm, chosen).parent

    def summary(self) -> str:
        """Verdict, warnings and where to read on."""
        said = verdict(self.report)
        lines = [said.text, *(f"warning: {text}" for text in said.warnings), f"report: {self.folder / 'report.html'}"]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """For programs: the report with its folder."""
        return {"folder": str(self.folder), "verdict": self.verdict, "report": dict(self.report)}


def run_recipe(
    recipe: Recipe,
    out: Path | str,
    *,
    trust: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    command: str | None = None,
    store: Path | str | None = None,
) -> Run:
    """Run a recipe in a folder; go on where an earlier call stopped; leave a finished run as it is.

    Args:
        recipe: what to do.
        out: the folder, exactly as given.
        trust: whether code that the recipe names may run.
        overwrite: remove what an earlier run left in the folder.
        quiet: no progress.
        command: how the report says to repeat it.
        store: where stores of teacher answers lie; `$TUTELAGE_STORE`, else the user's cache folder.

    Raises:
        TutelageError: everything a user can mend, as the tree in `tutelage.errors` says.
    """

    check_place(Path(out))
    earlier = Path(out).expanduser() / "config.yaml"
    if earlier.is_file() and not overwrite:
        # Seeds that were drawn by chance are drawn once: a run that goes on keeps its own.
        recipe = recipe.continuing(from_text(read_text(earlier), str(earlier)))

    def differences(text: str) -> list[str]:
        return [line for line in diff(from_text(text, str(earlier)), recipe) if not resumable(line.split(":")[0])]

    job = job_of_recipe(recipe, trust=trust, store=store)
    return execute(
        job, Path(out), differences=differences, overwrite=overwrite, quiet=quiet,
        command=command or f"tutelage run {Path(out) / 'config.yaml'} --out {out}",
    )  # fmt: skip


def execute(
    job: Job, out: Path, *, differences: Callable[[str], list[str]], overwrite: bool, quiet: bool, command: str
) -> Run:
    """Run a job in a folder; see `run_recipe`."""
    students = planned(job.students, job.teacher, job.splits.train)
    job = replace(job, students=headed(students, job.teacher, job.splits.train))
    builds = {name: plan.build for name, plan in job.students.items()}
    job = replace(job, arms=aligned(job.arms, builds, job.teacher))
    device = make_device(job.device, precision=job.train.precision, engine=job.train.engine)
    if device.rank != 0:
        # Of several processes the first keeps the folder; the others learn along and write nothing.
        device.barrier()
        follower = RunFolder.follow(out)
        if follower.complete:
            return Run(follower.path, {})
        return _under_way(job, follower, device, quiet=True, command=command)
    with RunFolder.open(out, overwrite=overwrite, quiet=quiet) as folder:
        refuse_another(folder, "run")
        folder.begin(job.config, differences, facts_of(job))
        device.barrier()
        if folder.complete:
            folder.tell(f"already complete; to run it again, choose another --out or add --overwrite ({out})")
            return Run(folder.path, read_report(folder.path / "report.json"))
        return _under_way(job, folder, device, quiet=quiet, command=command)


def _under_way(job: Job, folder: RunFolder, device: Device, *, quiet: bool, command: str) -> Run:
    """Everything between the begin of a run and its end, however it ends."""
    started = time.monotonic()
    folder.manifest["processes"] = device.world
    with StopSignals(fix=f"the same command continues: {command}") as signals, torch_settings(job):
        try:
            names = job.trackers if device.rank == 0 else ()
            with open_trackers(names, folder.path, facts_of(job), recipe=job.config, tell=folder.tell) as trackers:
                return _run(job, Workshop(folder, device, signals, quiet, trackers), started, command)
        finally:
            # The time it took counts; a killed process loses only what it did since its start.
            folder.manifest["wall_seconds"] = folder.manifest.get("wall_seconds", 0.0) + time.monotonic() - started
            folder.save()


def _run(job: Job, shop: Workshop, started: float, command: str) -> Run:
    folder = shop.folder
    students = _build_early(job)
    rehearse(job, students)
    teacher = obtain_teacher(job, shop)
    job = replace(job, students=filled(job.students, teacher.module, job.splits.train))
    _same_teacher(folder, teacher)
    same_beginning(folder, job.students)
    job = replace(job, students=begun(job, shop, teacher))
    students |= {name: plan.build() for name, plan in job.students.items() if plan.begins is not None}
    for name, one in {"": teacher, **teacher.members}.items():
        plan = job.teacher.members.get(name, job.teacher)
        shop.trackers.rows(plan.slug, plan.seed, one.curve)
    _introduce(job, shop, teacher, students)
    answers, recorded = answering(job, shop, teacher)
    for number, seed in enumerate(job.seeds, 1):
        train_seed(job, shop, seed, hand=teacher, answers=answers, recorded=recorded)
        export_students(job, shop, seed)
        folder.tell(f"seed {seed} done ({number} of {len(job.seeds)})")
    shop.device.barrier()
    if shop.device.rank != 0:
        return Run(folder.path, {})
    folder.tell("judging the students' files on the test part")
    seconds = folder.manifest["wall_seconds"] + time.monotonic() - started
    report = judge(job, shop, teacher, wall_seconds=seconds, command=command)
    shop.trackers.final(report, verdict=verdict(report).text, page=folder.path / "report.html")
    folder.manifest["artifacts"] = {
        str(student_file(Path(), model["of"] or model["name"], run["seed"], model["compression"])): run["sha256"]
        for model in report["models"] if model["role"] != "teacher" for run in model["runs"]
    }  # fmt: skip
    folder.seal()
    return Run(folder.path, report)


def read_report(path: Path) -> dict[str, Any]:
    """The report.json of a finished run.

    Raises:
        DamagedError: it is not what this version writes.
    """
    report = read_json(path)
    if report.get("format") != FORMAT:
        raise DamagedError(
            f"{path} is no report of this version",
            given=str(report.get("format")),
            expected=FORMAT,
            fix="add --overwrite to run again, or choose another --out",
        )
    try:
        for model in report["models"]:
            # What reports did not say while a run had one student and one format of its file.
            for key, value in {"student": "", "method": model["name"], "of": "", "compression": ""}.items():
                model.setdefault(key, value)
    except (KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{path} is not what a run wrote", given=repr(error)) from error
    return report


def _build_early(job: Job) -> dict[str, nn.Module]:
    """Build what can be built before the teacher costs anything: most mistakes in a recipe come out here."""
    with torch.random.fork_rng():
        students = {name: plan.build() for name, plan in job.students.items()}
        for student in students.values():
            check_learning(job.train, student)
        for arm in job.arms.values():
            Taps(students[arm.student], arm.objective.student_places).close()
            check_companions(job, arm, students[arm.student])
        check_teacher(job)
    return students


def _same_teacher(folder: RunFolder, teacher: TeacherInHand) -> None:
    """A run has one teacher: where it goes on, the one it began with."""
    now = teacher.identity
    before = folder.manifest.setdefault("teacher", now)
    if now != before:
        raise ModelError(
            "the teacher is not the one that this run began with",
            given=now[:16],
            expected=str(before)[:16],
            fix="bring the old weights back, or choose another folder with --out",
        )
    folder.save()


def _introduce(job: Job, shop: Workshop, teacher: TeacherInHand, students: Mapping[str, nn.Module]) -> None:
    """Say what is about to happen, with sizes."""
    for model in (teacher.module, *(one.module for one in teacher.members.values()), *students.values()):
        for notice in getattr(model, "notices", ()):
            shop.folder.tell(notice)
    for notice in job.notices:
        shop.folder.tell(notice)
    if job.labelled is not None:
        few, all_ = int(torch.isin(job.splits.train.ids, job.labelled).sum()), len(job.splits.train)
        shop.folder.tell(f"data: {few:,} of {all_:,} training examples have labels")
    size = f"{parameters(teacher.module):,} parameters" if teacher.module is not None else "no module"
    sizes = [f"student {name} {_size(one)}".replace("  ", " ") for name, one in students.items()]
    shop.folder.tell(f"teacher {size}, {', '.join(sizes)} parameters")
    for method in dict.fromkeys(arm.method for arm in job.arms.values()):
        said = {name: describe(arm.objective) for name, arm in job.arms.items() if arm.method == method}
        # Students differ where one of them is taught by another arm of its own.
        alike = {method: next(iter(said.values()))} if len(set(said.values())) == 1 else said
        for name, words in alike.items():
            shop.folder.tell(f"arm {name}: {words}")


def _size(student: nn.Module) -> str:
    """How many numbers a student has, and how many learn, where that is not all of them."""
    whole, learn = parameters(merge(student)), learning_count(student)
    return f"{whole:,}" if learn == whole else f"{whole:,} ({learn:,} learn)"


def facts_of(job: Job) -> dict[str, Any]:
    """What the manifest records of the machine, the versions and the data."""
    packages = ("torch", "numpy", "safetensors", "scikit-learn")
    splits = job.splits
    return {
        "environment": {
            "tutelage": __version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in packages},
            **versions_of(term.loss for arm in job.arms.values() for term in arm.objective.terms),
            "system": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            "threads": str(job.threads or torch.get_num_threads()),
        },
        "recipe": job.name,
        "seeds": list(job.seeds),
        "deterministic": job.train.deterministic,
        "classes": list(splits.train.classes),
        "data": {
            "source": splits.train.name,
            "fingerprint": splits.fingerprint,
            "counts": {"train": len(splits.train), "val": len(splits.val), "test": len(splits.test)},
        },
        "trusted_code": job.trusted,
    }

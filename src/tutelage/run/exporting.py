"""One model as files that run elsewhere: a student of a finished run, or weights of anybody's in a recipe's student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, final

import torch
from torch import nn

from tutelage.errors import GateError, InputError, ModelError, TutelageError
from tutelage.export import FORMATS, Artifact, Facts, check_formats, export_model
from tutelage.models import load_weights
from tutelage.progress import Meter
from tutelage.recipe import Recipe
from tutelage.report import numbers
from tutelage.run.chosen import chosen_student, same_data, student_named
from tutelage.run.exports import CALIBRATION, Material, facts_for, material
from tutelage.run.job import Job, job_of_recipe
from tutelage.run.students import as_learned

__all__ = ["Exported", "How", "export_run", "export_weights"]


@final
@dataclass(frozen=True, slots=True)
class How:
    """What to write, and what to ask of it.

    Args:
        formats: keys of `FORMATS`.
        max_drop: the accuracy that a file may lose, as a share; None does not ask.
        calibrate: training examples that ranges of activations come from.
        out: the folder for the files; None: a place beside the model.
        trust: whether code that a recipe names may run.
        quiet: no progress.
    """

    formats: Sequence[str] = ("onnx",)
    max_drop: float | None = 0.005
    calibrate: int = CALIBRATION
    out: Path | str | None = None
    trust: bool = False
    quiet: bool = True

    def check(self) -> None:
        """Refuse what cannot be asked for.

        Raises:
            InputError: an unknown format, or an option out of range.
        """
        if not self.formats:
            raise InputError("no format is named", expected="one or more of " + ", ".join(FORMATS))
        check_formats(self.formats)
        if self.max_drop is not None and not 0 <= self.max_drop <= 1:
            raise InputError("--max-drop is a share", given=self.max_drop, expected="0 to 1, for instance 0.005")
        if self.out is not None and not str(self.out).strip():
            raise InputError("--out is empty", expected="a folder, for instance exports")


@final
@dataclass(frozen=True, slots=True)
class Exported:
    """What came of exporting one model."""

    model: str
    folder: Path
    artifacts: tuple[Artifact, ...]
    refused: Mapping[str, TutelageError]  # by format
    notices: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        files = [asdict(one) | {"path": str(one.path)} for one in self.artifacts]
        refused = {how: error.problem.what for how, error in self.refused.items()}
        return {"model": self.model, "folder": str(self.folder), "artifacts": files, "refused": refused,
                "notices": list(self.notices)}  # fmt: skip

    def summary(self) -> str:
        """A table for a person: the files, how they compare with their model, and how to ask them."""
        lines = [f"{self.model}, written to {self.folder}"]
        if self.artifacts:
            head = ["format", "file", "size", "same class", "largest difference", "accuracy", "the model's"]
            lines += numbers.columns([head, *(_cells(one) for one in self.artifacts)])
            compared = self.artifacts[0].parity
            batches = ", ".join(map(str, compared.batches))
            lines.append(
                f"compared by {compared.examples:,} examples in batches of {batches}, the worst of which is shown; "
                f"logits spread by {compared.spread:.3g}"
            )
        return "\n".join([*lines, *(f"notice: {text}" for text in self.notices)])

    def check(self) -> None:
        """Raise what kept a format from being written.

        Raises:
            GateError: a file answered otherwise than its model, or several formats failed, of which one did so.
            TutelageError: likewise, for other reasons.
        """
        found = self.refused
        if len(found) == 1:
            raise next(iter(found.values()))
        if found:
            kinds = (GateError, InputError, ModelError, TutelageError)
            kind = next(one for one in kinds if any(isinstance(error, one) for error in found.values()))
            raise kind(
                f"{len(found)} formats were not written",
                given="\n            ".join(f"{how}: {error.problem.what}" for how, error in found.items()),
                fix=next((error.problem.fix for error in found.values() if isinstance(error, kind)), None),
            )


def _cells(one: Artifact) -> list[str]:
    parity = one.parity
    accuracy, known = (
        numbers.MISSING if value is None else numbers.percent(value, 2)
        for value in (parity.accuracy, parity.model_accuracy)
    )
    same, difference = numbers.percent(parity.agreement, 2), f"{parity.difference:.2g}"
    return [one.format, one.path.name, numbers.size(one.bytes), same, difference, accuracy, known]


def export_run(name: Path | str, how: How | None = None, *, seed: int | None = None) -> Exported:
    """Write the student of one arm of a finished run.

    Args:
        name: a run's folder, with an arm after a colon: `runs/a:scratch`; by default the arm of the headline.
        how: the formats, and what is asked of them; by default onnx.
        seed: whose student; by default the first.

    Raises:
        InputError: no such run, arm, seed or format, or a run whose folder does not say where its data is.
        DataError: the data is not what the run learned from.
        ModelError: the student cannot be built again.
        DamagedError: a file is not what it was.
    """
    how = how or How()
    how.check()
    chosen = chosen_student(name, seed=seed, trust=how.trust)
    same_data(chosen.job.splits, chosen.home)
    facts = facts_for(chosen.config, f"{chosen.job.name} {chosen.arm} seed {chosen.seed}")
    usual = chosen.home / "exports" / f"{chosen.arm}-seed-{chosen.seed}"
    return _written(chosen.title, chosen.module, facts, chosen.job, how, usual=usual, learned=chosen.told)


def export_weights(
    recipe: Recipe, weights: Path | str, how: How | None = None, *, student: str | None = None
) -> Exported:
    """Write a model that tutelage did not train: weights of a recipe's student.

    Args:
        recipe: says what the student is, and by which data files are compared with it.
        weights: a safetensors file.
        how: the formats, and what is asked of them; by default onnx.
        student: which, where the recipe has several.

    Raises:
        RecipeError, InputError: the recipe, or an option, cannot be right.
        ModelError, DamagedError: the weights are missing, damaged, or those of another net.
        DataError: the data cannot be used.
    """
    how = how or How()
    how.check()
    file = Path(weights).expanduser()
    job = job_of_recipe(recipe, trust=how.trust)
    name = student_named(job, student)
    plan = job.students[name]
    with torch.random.fork_rng():
        module = plan.anew()
    told = load_weights(module, file)
    place = Path(how.out).expanduser() if how.out is not None else file.parent / "exports" / file.stem
    clash = [one for one in how.formats if (place / _file_of(one)).resolve() == file.resolve()]
    if clash:
        raise InputError("the weights would be written over", given=str(file), fix="choose another folder with --out")
    facts = facts_for(plan.config, f"{job.name} {name} {file.stem}".replace("  ", " "))
    return _written(str(file), module.eval(), facts, job, how, usual=place, told=told)


def _file_of(how: str) -> str:
    return f"student{FORMATS[how].suffix}"


def _written(
    model: str,
    module: nn.Module,
    facts: Facts,
    job: Job,
    how: How,
    *,
    usual: Path,
    told: Sequence[str] = (),
    learned: Mapping[str, Any] = MappingProxyType({}),
) -> Exported:
    """Every format of one model; one that fails does not keep the others from being written."""
    stuff: Material = material(job.teaching.splits, calibrate=how.calibrate)
    place = usual if how.out is None else Path(how.out).expanduser()
    made: list[Artifact] = []
    refused: dict[str, TutelageError] = {}
    formats = list(dict.fromkeys(how.formats))
    with Meter("files", len(formats), unit="files", tell=lambda line: None, quiet=how.quiet) as meter:
        for one in formats:
            meter.note(one)
            try:
                done = export_model(
                    as_learned(module, learned, one), facts, place / _file_of(one), how=one,
                    calibration=stuff.calibration, inputs=stuff.inputs, targets=stuff.targets, max_drop=how.max_drop,
                )  # fmt: skip
                made.append(done)
            except (GateError, InputError, ModelError) as error:
                refused[one] = error
            meter.advance()
    return Exported(model, place, tuple(made), refused, (*told, *stuff.notices))

"""What the page shows: the student as ONNX files, its teacher, and test images on which the two were already asked."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from tutelage.data import Examples, as_model_input
from tutelage.demo.teacher import TeacherAtHand, teacher_of_run
from tutelage.errors import GateError, InputError, ModelError
from tutelage.export import FORMATS, export_model
from tutelage.lang.names import names_in
from tutelage.run.chosen import same_data
from tutelage.run.evalfiles import eval_files, read_eval_file
from tutelage.run.exports import facts_for, material
from tutelage.run.job import Job, job_of_recipe
from tutelage.run.saved import finished_arm, recipe_of, refuse_folds
from tutelage.run.students import as_learned, load_student, read_facts, student_file

__all__ = ["Exhibit", "Picked", "prepare"]

_FORMATS = ("onnx", "onnx-int8")  # that a browser reads, the first one first
_LOOKED_AT = 512  # test images
_EACH = 10  # test images on which student and teacher differ, and as many on which they agree


@final
@dataclass(frozen=True, slots=True)
class Picked:
    """One test image: numbers of classes, by the data and by the two models of the run."""

    true: int
    teacher: int
    student: int


@final
@dataclass(frozen=True, slots=True, eq=False)
class Exhibit:
    """All that the server needs, in memory: the run's folder is not looked at again."""

    run: str  # name of the recipe
    arm: str
    seed: int
    classes: tuple[str, ...]  # of the main task
    shape: tuple[int, int, int]
    files: Mapping[str, bytes]  # "onnx", perhaps "onnx-int8" -> the student
    teacher: TeacherAtHand
    images: NDArray[np.float32]  # (K, C, H, W), those of `picked`
    picked: tuple[Picked, ...]  # those on which the two differ first
    light_ground: bool  # whether the borders of test images are light
    threads: int
    names: frozenset[str]  # words that are names and stay in every language
    notices: tuple[str, ...]


def prepare(run: Path | str, *, seed: int | None = None, threads: int = 1, trust: bool = False) -> Exhibit:
    """Load the student and the teacher of a finished run, and write the student as ONNX.

    Args:
        run: its folder, with an arm after a colon; by default the arm of the headline.
        seed: whose student; None takes the first.
        threads: of the teacher.
        trust: whether code that the run's recipe names may run.

    Raises:
        InputError: no such run, arm or seed, or its inputs are no images with values in [0, 1].
        DataError: the data is not what it was.
        ModelError: a model cannot be built again, or not exported.
        GateError: the student's file answers otherwise than the student.
        DamagedError: a file is not what the run wrote.
        MissingExtraError: onnx is not installed.
    """
    home, arm, report = finished_arm(run)
    refuse_folds(home, report)
    home = home.resolve()
    row = next(model for model in report["models"] if model["name"] == arm)
    seed = _seed(seed, [int(each["seed"]) for each in row["runs"]])
    file = student_file(home, row["of"] or arm, seed, row["compression"])
    facts = read_facts(file)
    shape = _image_shape(facts["input_shape"], facts.get("encoding"))
    if row["compression"] in FORMATS and row["compression"] not in _FORMATS:
        raise InputError(
            f"the arm `{arm}` is a file that no browser reads", given=row["compression"],
            expected=f"an arm of {' or '.join(_FORMATS)}, or one whose weights can be written so",
            fix=f"name the arm that it was made from: {home}:{row['of']}",
        )  # fmt: skip
    job = job_of_recipe(recipe_of(home), trust=trust)
    same_data(job.splits, home)
    images = as_model_input(job.splits.test.inputs[:_LOOKED_AT].clone())
    if images.min() < 0 or images.max() > 1:
        raise InputError(
            "the demo shows images, but the values of these do not lie between 0 and 1", where=job.splits.test.name,
            given=f"{float(images.min()):.3g} … {float(images.max()):.3g}",
            fix="train on bytes, or on numbers in [0, 1]; mean and deviation are the model's own business",
        )  # fmt: skip
    files, notices = _written(file, row["compression"], facts, job, trust)
    rows, picked = _picked(home, arm, seed, job.splits.test)
    return Exhibit(
        run=str(report["recipe"]["name"]),
        arm=arm,
        seed=seed,
        classes=job.splits.test.classes,
        shape=shape,
        files=files,
        teacher=TeacherAtHand(teacher_of_run(job, home), threads=threads),
        images=as_model_input(job.splits.test.inputs[rows].clone()).numpy(),
        picked=picked,
        light_ground=_light_ground(images),
        threads=threads,
        names=names_in(report),
        notices=tuple(notices),
    )


def _seed(asked: int | None, known: Sequence[int]) -> int:
    if asked is None:
        return known[0]
    if asked not in known:
        raise InputError(f"the run has no student of seed {asked}", expected=f"one of {', '.join(map(str, known))}")
    return asked


def _image_shape(given: Sequence[int], encoding: Mapping[str, Any] | None) -> tuple[int, int, int]:
    if (encoding or {}).get("kind") not in (None, "picture"):
        columns = (encoding or {}).get("columns") or (encoding or {}).get("column") or "columns of a table"
        raise InputError(
            "the demo shows pictures, but this student reads none",
            given=f"inputs made of {columns if isinstance(columns, str) else ', '.join(columns)}",
            expected="a run on grey or RGB images",
            fix="write a file with `tutelage export`, and ask it with `tutelage serve`, which takes rows of columns",
        )  # fmt: skip
    if len(given) != 3 or given[0] not in (1, 3):
        raise InputError(
            "the demo needs a run on images", given=f"inputs of shape {tuple(given)}",
            expected="grey or RGB images: (1, H, W) or (3, H, W)",
        )  # fmt: skip
    channels, height, width = map(int, given)
    return channels, height, width


def _written(
    file: Path, how: str, facts: Mapping[str, Any], job: Job, trust: bool
) -> tuple[dict[str, bytes], list[str]]:
    """The student as ONNX, and in 8 bits if that answers as it does; and what a person should know of them.

    Args:
        file: its weights, or the file that the run exported.
        how: the format of that; "" for plain weights.
        facts: what `read_facts` says of it.
        job: of the run's recipe.
        trust: whether code that the recipe names may run.
    """
    if how in _FORMATS:
        return {how: file.read_bytes()}, []
    student = load_student(file.parent, compression=how, trust=trust)
    stuff, told = material(job.teaching.splits), facts_for(facts, job.name)
    files: dict[str, bytes] = {}
    notices: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for form in _FORMATS:
            path = Path(folder) / f"student{FORMATS[form].suffix}"
            try:
                export_model(
                    as_learned(student, facts, form), told, path, how=form, calibration=stuff.calibration,
                    inputs=stuff.inputs,
                )  # fmt: skip
            except (GateError, ModelError) as error:
                if FORMATS[form].exact:
                    raise
                notices.append(f"not shown in 8 bits: {error.problem.what}")
            else:
                files[form] = path.read_bytes()
    return files, notices


def _picked(home: Path, arm: str, seed: int, test: Examples) -> tuple[torch.Tensor, tuple[Picked, ...]]:
    """Rows of the test part, by what the run saved of both models: first where they differ, then where they agree."""
    student = read_eval_file(eval_files(home, arm, seed)["test"], len(test.classes))
    teacher = read_eval_file(eval_files(home, "teacher", None)["test"], len(test.classes))
    place = {int(id_): row for row, id_ in enumerate(test.ids.tolist())}
    taught = {int(id_): int(best) for id_, best in zip(teacher.ids, teacher.logits.argmax(-1), strict=True)}
    differ: list[tuple[int, Picked]] = []
    agree: dict[int, list[tuple[int, Picked]]] = {}
    for id_, true, best in zip(student.ids.tolist(), student.labels.tolist(), student.logits.argmax(-1), strict=True):
        one = (place[id_], Picked(true, taught[id_], int(best)))
        if one[1].teacher != one[1].student:
            differ.append(one)
        else:
            agree.setdefault(true, []).append(one)
    # One of every class, then a second of every class; ids are hashes, so that the first are as good as any.
    rounds = [own[turn] for turn in range(_EACH) for _, own in sorted(agree.items()) if turn < len(own)]
    chosen = [*differ[:_EACH], *rounds[:_EACH]]
    return torch.tensor([row for row, _ in chosen], dtype=torch.int64), tuple(one for _, one in chosen)


def _light_ground(images: torch.Tensor) -> bool:
    """Whether most of what lies at the borders of images (N, C, H, W) is light."""
    border = torch.ones(images.shape[-2:], dtype=torch.bool)
    border[1:-1, 1:-1] = False
    return bool(images[..., border].mean() > 0.5)

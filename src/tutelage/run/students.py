"""The student that ships: weights beside the few facts that build it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from tutelage.compress import plain as unmasked
from tutelage.compress import rebuilt
from tutelage.compress.quantise import is_quantised, ranges_of, requantised, unquantised
from tutelage.data.examples import separator_of, vocabulary_of
from tutelage.errors import DamagedError, ModelError
from tutelage.export import FORMATS, RunnerModule, open_artifact
from tutelage.files import read_json, sha256, write_json
from tutelage.models import (
    ModelSpec,
    build,
    is_adapted,
    learning_count,
    load_weights,
    merge,
    parameter_count,
    save_weights,
)
from tutelage.models.reuse import HeadFacts, with_head
from tutelage.run.folder import RunFolder
from tutelage.run.job import StudentPlan
from tutelage.training import Arm

__all__ = ["as_learned", "learned_of", "load_student", "read_facts", "same_beginning", "save_student", "student_file"]


def student_file(root: Path, arm: str, seed: int, compression: str = "") -> Path:
    """`<root>/students/<arm>/seed-<n>/student.safetensors`, or the file beside it of a compression or an export."""
    return root / "students" / arm / f"seed-{seed}" / _file_name(compression)


def _file_name(how: str) -> str:
    """Of a compression `student.<how>.safetensors`, of a format of files that run elsewhere as that format has it."""
    if how in FORMATS:
        return f"student{FORMATS[how].suffix}"
    return f"student.{how}.safetensors" if how else "student.safetensors"


def save_student(path: Path, arm: Arm, config: Mapping[str, Any], compress: Sequence[str] = ()) -> None:
    """Write the last and the best weights by validation, these also in the formats of `compress`.

    Adapters are merged into what they adapted, masks into what they mask: the files fit the plain architecture. Of one
    that learned with rounding they hold the float weights; its ranges stand in `student.json`, see `as_learned`.
    `student.json`, written last, says that all are whole, and how many parameters learned where that is not all.
    """
    save_weights(_plain(arm.student), path.with_name("last.safetensors"))
    arm.student.load_state_dict(arm.best)
    plain, learned = _plain(arm.student), learning_count(arm.student)
    save_weights(plain, path)
    sums = {"sha256": sha256(path)}
    for how in compress:
        file = path.with_name(f"student.{how}.safetensors")
        save_weights(plain, file, how=how)
        sums[f"sha256.{how}"] = sha256(file)
    facts = {**sums, "kept_epoch": arm.best_epoch, "curve": arm.curve, **config}
    if is_adapted(arm.student) or learned < parameter_count(plain):
        facts["learned"] = learned
    if is_quantised(arm.student):
        facts["quantised"] = ranges_of(arm.student)
    write_json(path.with_name("student.json"), facts)


def _plain(student: nn.Module) -> nn.Module:
    return unmasked(unquantised(merge(student)))


def as_learned(module: nn.Module, facts: Mapping[str, Any], how: str) -> nn.Module:
    """A student from its plain file as it goes into a format: rounded as it learned to be, where both can say so.

    Args:
        module: with the weights of the file.
        facts: what `read_facts` says of it.
        how: the format, a key of `export.FORMATS`.

    Raises:
        DamagedError: the ranges are not those of this net.
    """
    return requantised(module, facts.get("quantised")) if FORMATS[how].learned else module


def learned_of(path: Path) -> int | None:
    """How many parameters of a saved student learned; None where all did."""
    learned = read_json(path.with_name("student.json")).get("learned")
    return None if learned is None else int(learned)


def same_beginning(folder: RunFolder, students: Mapping[str, StudentPlan]) -> None:
    """All seeds of a run begin with the same weights, also those that are trained after a stop.

    Raises:
        ModelError: a student's file of weights is not the one that this run began with.
    """
    for name, plan in students.items():
        if plan.weights is None:
            continue
        now = sha256(plan.weights)
        before = folder.manifest.setdefault("begins", {}).setdefault(name, now)
        if now != before:
            raise ModelError(
                "the student's weights are not those that this run began with",
                where=str(plan.weights),
                given=now[:16],
                expected=str(before)[:16],
                fix="bring the old weights back, or choose another folder with --out",
            )
    folder.save()


def read_facts(path: Path) -> dict[str, Any]:
    """What `save_student` wrote beside a student's weights, once these weights are seen to be the ones it wrote.

    `sha256` is the sum of this very file, compressed or not.

    Raises:
        DamagedError: the weights or the facts are missing, or not what they were.
    """
    facts = read_json(path.with_name("student.json"))
    fix = f"remove {path.parent} to train this student again"
    if {"sha256", "kept_epoch", "curve"} - set(facts):
        raise DamagedError(f"{path.with_name('student.json')} does not say what it should", fix=fix)
    if not path.is_file():
        raise DamagedError(f"{path} is missing", fix=fix)
    key = _sum_key(path)
    if sha256(path) != facts.get(key):
        raise DamagedError(f"{path} was altered since it was saved", fix=fix)
    return facts | {"sha256": facts[key]}


def _sum_key(path: Path) -> str:
    """Under which `student.json` keeps the sum of a file: sha256, or sha256.<compression or format>."""
    exported = next((how for how in FORMATS if how != "safetensors" and path.name == _file_name(how)), "")
    how = exported or path.name.removeprefix("student").removesuffix(".safetensors").removeprefix(".")
    return f"sha256.{how}" if how else "sha256"


def load_student(folder: Path | str, *, compression: str = "", trust: bool = False) -> nn.Module:
    """Load a student that a run made, in eval mode: images in [0, 1] go in, logits come out.

    Args:
        folder: `<run>/students/<arm>/seed-<n>`.
        compression: which of its files: "" as it was trained, else a format of the recipe's `compress` or `export`;
            what was exported is asked through its own runtime and cannot learn.
        trust: whether code that its recipe named may run to build it, or code that its file holds.

    Raises:
        ModelError: it was built by code of the caller, so only the caller can build it again.
        DamagedError: a file is not what it was.
    """
    folder = Path(folder)
    if not (folder / "student.json").is_file():
        raise ModelError(f"no student in {folder}", expected="a folder such as runs/first/students/distilled/seed-0")
    file = folder / _file_name(compression)
    facts = read_facts(file)
    if compression in FORMATS:
        return RunnerModule(open_artifact(file, trust=trust))
    if facts.get("model") is None:
        raise ModelError(
            f"the student in {folder} was built by code outside tutelage",
            fix="build it with that code, then tutelage.models.load_weights(module, path)",
        )
    spec = ModelSpec(facts["model"], facts["args"], None)
    model = build(
        spec,
        input_shape=tuple(facts["input_shape"]),
        classes=len(facts["classes"]),
        mean=facts["mean"],
        std=facts["std"],
        vocabulary=vocabulary_of(facts),
        separator=separator_of(facts),
        trust=trust,
    )
    if facts.get("head") is not None:
        with_head(model, HeadFacts.of_json(facts["head"]))
    rebuilt(model, facts.get("smaller"))
    load_weights(model, file)
    return model.eval()

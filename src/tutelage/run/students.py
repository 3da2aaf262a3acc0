"""The student that ships: weights beside the few facts that build it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from tutelage.errors import DamagedError, ModelError
from tutelage.files import read_json, sha256, write_json
from tutelage.models import ModelSpec, build, load_weights, save_weights
from tutelage.training import Arm

__all__ = ["load_student", "read_facts", "save_student", "student_file"]


def student_file(root: Path, arm: str, seed: int, compression: str = "") -> Path:
    """`<root>/students/<arm>/seed-<n>/student.safetensors`, or `student.<compression>.safetensors` beside it."""
    name = f"student.{compression}.safetensors" if compression else "student.safetensors"
    return root / "students" / arm / f"seed-{seed}" / name


def save_student(path: Path, arm: Arm, config: Mapping[str, Any], compress: Sequence[str] = ()) -> None:
    """Write the last and the best weights by validation, these also in the formats of `compress`.

    `student.json`, written last, says that all are whole.
    """
    save_weights(arm.student, path.with_name("last.safetensors"))
    arm.student.load_state_dict(arm.best)
    save_weights(arm.student, path)
    sums = {"sha256": sha256(path)}
    for how in compress:
        file = path.with_name(f"student.{how}.safetensors")
        save_weights(arm.student, file, how=how)
        sums[f"sha256.{how}"] = sha256(file)
    facts = {**sums, "kept_epoch": arm.best_epoch, "curve": arm.curve, **config}
    write_json(path.with_name("student.json"), facts)


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
    how = path.name.removeprefix("student").removesuffix(".safetensors")
    if sha256(path) != facts.get(f"sha256{how}"):
        raise DamagedError(f"{path} was altered since it was saved", fix=fix)
    return facts | {"sha256": facts[f"sha256{how}"]}


def load_student(folder: Path | str, *, compression: str = "", trust: bool = False) -> nn.Module:
    """Load a student that a run made, in eval mode: images in [0, 1] go in, logits come out.

    Args:
        folder: `<run>/students/<arm>/seed-<n>`.
        compression: which of its files: "" as it was trained, else a format of the recipe's `compress`.
        trust: whether code that its recipe named may run to build it.

    Raises:
        ModelError: it was built by code of the caller, so only the caller can build it again.
        DamagedError: a file is not what it was.
    """
    folder = Path(folder)
    if not (folder / "student.json").is_file():
        raise ModelError(f"no student in {folder}", expected="a folder such as runs/first/students/distilled/seed-0")
    file = folder / f"student{f'.{compression}' * bool(compression)}.safetensors"
    facts = read_facts(file)
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
        trust=trust,
    )
    load_weights(model, file)
    return model.eval()

"""The student that ships: weights beside the few facts that build it again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from tutelage.errors import DamagedError, ModelError
from tutelage.files import read_json, sha256, write_json
from tutelage.models import ModelSpec, build, load_weights, save_weights
from tutelage.training import Arm

__all__ = ["load_student", "read_facts", "save_student", "student_file"]


def student_file(root: Path, arm: str, seed: int) -> Path:
    """`<root>/students/<arm>/seed-<n>/student.safetensors`."""
    return root / "students" / arm / f"seed-{seed}" / "student.safetensors"


def save_student(path: Path, arm: Arm, config: Mapping[str, Any]) -> None:
    """Write the last and the best weights by validation; `student.json`, written last, says that both are whole."""
    save_weights(arm.student, path.with_name("last.safetensors"))
    arm.student.load_state_dict(arm.best)
    save_weights(arm.student, path)
    facts = {"sha256": sha256(path), "kept_epoch": arm.best_epoch, "curve": arm.curve, **config}
    write_json(path.with_name("student.json"), facts)


def read_facts(path: Path) -> dict[str, Any]:
    """What `save_student` wrote beside a student's weights, once the weights are seen to be the ones it wrote.

    Raises:
        DamagedError: the weights or the facts are missing, or not what they were.
    """
    facts = read_json(path.with_name("student.json"))
    fix = f"remove {path.parent} to train this student again"
    if {"sha256", "kept_epoch", "curve"} - set(facts):
        raise DamagedError(f"{path.with_name('student.json')} does not say what it should", fix=fix)
    if not path.is_file():
        raise DamagedError(f"{path} is missing", fix=fix)
    if sha256(path) != facts["sha256"]:
        raise DamagedError(f"{path} was altered since it was saved", fix=fix)
    return facts


def load_student(folder: Path | str, *, trust: bool = False) -> nn.Module:
    """Load a student that a run made, in eval mode: images in [0, 1] go in, logits come out.

    Args:
        folder: `<run>/students/<arm>/seed-<n>`.
        trust: whether code that its recipe named may run to build it.

    Raises:
        ModelError: it was built by code of the caller, so only the caller can build it again.
        DamagedError: a file is not what it was.
    """
    folder = Path(folder)
    if not (folder / "student.json").is_file():
        raise ModelError(f"no student in {folder}", expected="a folder such as runs/first/students/distilled/seed-0")
    facts = read_facts(folder / "student.safetensors")
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
    load_weights(model, folder / "student.safetensors")
    return model.eval()

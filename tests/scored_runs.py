"""Folders of finished runs that nobody trained: a report made by `scorecard` and the answers it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.evaluation import Arm, DataFacts, Judged, RunFacts, scorecard
from tutelage.evaluation.cost import Latency
from tutelage.report import write_report
from tutelage.run.evalfiles import Kept, write_eval_file

CLASSES = ("cat", "dog", "horse", "crow")
ROWS = {"test": 120, "val": 40, "train": 24}
LABELS = {part: np.arange(count) % len(CLASSES) for part, count in ROWS.items()}
IDS = {part: np.random.default_rng(7).permutation(count) + 2**61 for part, count in ROWS.items()}
STORE = {
    "key": "k" * 16,
    "rows": 900,
    "asked": 900,
    "seconds": 1.25,
    "bytes": 4096,
    "codec": "dense16",
    "views": "plain",
}


def answers(strength: float, seed: int, parts: Sequence[str]) -> dict[str, Any]:
    """Logits in float32, as a run saves them, for some parts."""
    found = {}
    for part in parts:
        generator = np.random.default_rng([seed, len(part)])
        noise = generator.normal(size=(ROWS[part], len(CLASSES)))
        found[part] = (strength * np.eye(len(CLASSES))[LABELS[part]] + noise).astype(np.float32)
    return found


def judged(strength: float, draw: int, parts: Sequence[str], **more: Any) -> Judged:
    said = answers(strength, draw, parts)
    return Judged(said["test"], val_logits=said.get("val"), train_logits=said.get("train"), **more)


def times(scale: float) -> list[Latency]:
    return [Latency(batch, 1.1 * scale * batch, 1.0 * scale * batch, 1.3 * scale * batch, 2.0 * scale * batch, 70, 1)
            for batch in (1, 64)]  # fmt: skip


def arms_of(seeds: Sequence[int], students: Sequence[str], compress: Sequence[str], parts: Sequence[str]) -> list[Arm]:
    """For every student a baseline and two taught arms, and of the first one compressed copies."""
    found: list[Arm] = []
    for number, student in enumerate(students):
        for method, strength in (("scratch", 1.2), ("distilled", 1.9), ("warm", 1.6)):
            name = f"{student}.{method}" if student else method
            models = [
                judged(
                    strength + 0.2 * number, 100 * len(found) + seed, parts, parameters=90 + number,
                    file_bytes=800 - 100 * number, sha256=f"{seed:064x}", seed=seed, kept_epoch=2,
                    multiply_adds=70 + number,
                    curve=[{"epoch": 1, "loss": float("nan"), "val_accuracy": 0.5},
                           {"epoch": 2, "loss": 0.1 + seed, "val_accuracy": 0.6}],
                )
                for seed in seeds
            ]  # fmt: skip
            found.append(Arm(name, models, method != "scratch", f"words of {method}", student, method))
    for compression in compress:
        first = found[1]
        smaller = [
            replace(one, logits=np.round(np.asarray(one.logits)), file_bytes=200, curve=()) for one in first.students
        ]
        found.append(
            Arm(f"{first.name}.{compression}", smaller, True, first.describes, first.student, first.method,
                first.name, compression)
        )  # fmt: skip
    return found


def make_report(
    seeds: Sequence[int] = (0, 1, 2),
    students: Sequence[str] = ("",),
    compress: Sequence[str] = (),
    *,
    parts: Sequence[str] = ("test", "val"),
    timed: bool = True,
    store: bool = False,
    **more: Any,
) -> tuple[dict[str, Any], Judged, list[Arm]]:
    """A report, and the teacher and arms that it was made from."""
    arms = arms_of(seeds, students, compress, parts)
    teacher = judged(2.4, 9_999, parts, parameters=1000, file_bytes=9000, sha256="a" * 64, multiply_adds=900)
    given: Mapping[str, Any] = {
        "data": DataFacts("pets", {part: [rows // 4] * 4 for part, rows in ROWS.items()}, "f" * 64, "e" * 64),
        "run": RunFacts("small", "name: small", "tutelage run small", "import torch", {"torch": "2"}, 1.5, True,
                        STORE if store else None),
        "latency": {name: times(1 + index) for index, name in enumerate(["teacher", *(arm.name for arm in arms)])}
        if timed else None,
        "warnings": ["the disk was slow"],
        "teacher_val_accuracy": 0.875,
        "resamples": 300,
    }  # fmt: skip
    report = scorecard(
        labels=LABELS["test"],
        ids=IDS["test"],
        classes=CLASSES,
        teacher=teacher,
        arms=arms,
        val_labels=LABELS["val"] if "val" in parts else None,
        train_labels=LABELS["train"] if "train" in parts else None,
        **given | more,
    )
    return report, teacher, arms


def make_run(folder: Path, *shape: Any, **more: Any) -> Path:
    """The folder of a finished run: report, pages, and eval/ as a run writes it."""
    report, teacher, arms = make_report(*shape, **more)
    (folder / "eval").mkdir(parents=True)
    named = [("teacher", teacher)] + [(f"{arm.name}-seed-{one.seed}", one) for arm in arms for one in arm.students]
    for name, model in named:
        for part, logits in (("test", model.logits), ("val", model.val_logits), ("train", model.train_logits)):
            if logits is not None:
                file = folder / "eval" / (f"{name}.npz" if part == "test" else f"{name}-{part}.npz")
                write_eval_file(file, Kept(IDS[part], LABELS[part], np.asarray(logits)))
    report["pictures"] = [{"true": "cat", "said": "dog", "png": ""}]
    write_report(folder, report)
    return folder

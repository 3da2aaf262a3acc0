"""Teachers that answer about no example that they learned from."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tutelage.data import from_rows
from tutelage.errors import InputError, TutelageError
from tutelage.recipe import from_mapping
from tutelage.run import run_recipe
from tutelage.run.checks import check_recipe
from tutelage.run.cohorts import Workshop
from tutelage.run.crossfit import obtain_crossfitted
from tutelage.run.job import job_of_recipe
from tutelage.run.teacher import is_ready, obtain_teacher
from tutelage.teachers import TableTeacher
from tutelage.teachers.crossfit import CrossFitted, fold_numbers
from tutelage.types import Batch


def _csv(place: Path, count: int = 300) -> Path:
    """Numbers that tell the class three times in four: a deep tree learns the others by heart."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(count, 3))
    kind = np.where((x[:, 0] > 0) ^ (draw.random(count) < 0.25), "up", "down")
    lines = [f"{a:.6f},{b:.6f},{c:.6f},{one},p{n % 60}" for n, ((a, b, c), one) in enumerate(zip(x, kind, strict=True))]
    path = place / "rows.csv"
    path.write_text("a,b,c,kind,who\n" + "\n".join(lines))
    return path


def _recipe(place: Path, teacher: dict[str, Any], **given: Any) -> dict[str, Any]:
    inputs = {"t": {"numbers": ["a", "b", "c"]}}
    data = {"source": "rows", "path": str(_csv(place)), "label": "kind", "group": "who", "inputs": inputs}
    return {
        "name": "cross", "seeds": [0], "threads": 1, "train": {"epochs": 2}, "data": data, "teacher": teacher,
        "student": {"model": "mlp", "args": {"width": 4}}, "arms": {"soft": [{"loss": "soft_target"}]}, **given,
    }  # fmt: skip


def test_each_row_is_answered_by_who_never_saw_it() -> None:
    ids = torch.tensor([5, 9, 12, 40])
    folds = np.array([1, 0, 1, 0])
    everybody = torch.tensor([2, 5, 9, 12, 40, 77])
    tables = [TableTeacher(everybody, torch.full((6, 2), float(value))) for value in (9, 0, 1)]
    teacher = CrossFitted(tables[0], tables[1:], ids, folds)
    batch = Batch(ids=everybody, inputs={"x": torch.zeros(6, 1)}, target=torch.zeros(6, dtype=torch.int64), view=0)
    logits = teacher.answer(batch).logits
    assert isinstance(logits, torch.Tensor)
    assert logits[:, 0].tolist() == [9.0, 1.0, 0.0, 1.0, 0.0, 9.0]
    other = CrossFitted(tables[0], tables[1:], ids, 1 - folds)
    assert other.fingerprint() != teacher.fingerprint()
    assert CrossFitted(tables[0], tables[1:], ids, folds).fingerprint() == teacher.fingerprint()


def test_a_group_and_a_content_share_a_fold() -> None:
    rows = {"a": [float(n // 2) for n in range(240)], "kind": ["xy"[n % 2] for n in range(240)]}
    rows["who"] = [f"p{n % 30}" for n in range(240)]
    splits = from_rows(rows, label="kind", inputs={"t": {"numbers": ["a"]}}, group="who")
    train = splits.train
    folds = fold_numbers(train, 3)
    assert train.groups is not None
    assert len(train) > len(set(train.ids.tolist()))
    for keys in (train.ids.tolist(),):
        assert len(set(zip(keys, folds.tolist(), strict=True))) == len(set(keys))
    alone = fold_numbers(replace(train, groups=None), 3)
    assert np.bincount(alone).min() > len(train) / 6
    with pytest.raises(InputError, match="a fold of the teacher's has no example"):
        fold_numbers(train.take(torch.arange(2)), 3)


@pytest.mark.parametrize("kind", ["fitted", "trained"])
def test_a_tree_says_by_heart_what_its_kind_doubts(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    fitted = {"model": "sklearn:DecisionTreeClassifier"}
    trained = {"model": "mlp", "args": {"width": 64}, "train": {"epochs": 60, "lr": 0.03}}
    teacher: dict[str, Any] = fitted if kind == "fitted" else trained
    plain = run_recipe(from_mapping(_recipe(tmp_path, teacher), ()), tmp_path / "plain", quiet=True)
    recipe = from_mapping(_recipe(tmp_path, teacher | {"cross_fit": 4}), ())
    crossed = run_recipe(recipe, tmp_path / "crossed", quiet=True)
    judged = {run.report["models"][0]["metrics"]["accuracy"]["value"] for run in (plain, crossed)}
    assert len(judged) == 1  # what is judged is the teacher of all examples, in both
    seen: list[Any] = []

    def watched(job: Any, shop: Workshop) -> Any:
        found = obtain_teacher(job, shop)
        if job.teacher.cross_fit:
            train = job.splits.train
            batch = Batch(ids=train.ids, inputs={"x": train.inputs}, target=train.targets, view=0)
            for one in (found.teacher, found.teacher.whole):
                seen.append(float((one.answer(batch).logits.argmax(-1) == train.targets).double().mean()))
        return found

    monkeypatch.setattr(sys.modules["tutelage.run.execute"], "obtain_teacher", watched)
    run_recipe(recipe, tmp_path / "again", quiet=True)
    doubted, by_heart = seen
    assert by_heart > 0.9 if kind == "fitted" else by_heart > doubted + 0.05
    assert 0.5 < doubted < 0.85


def test_stored_answers_are_the_same(tmp_path: Path) -> None:
    teacher = {"model": "sklearn:DecisionTreeClassifier", "cross_fit": 3}
    live = run_recipe(from_mapping(_recipe(tmp_path, teacher), ()), tmp_path / "live", quiet=True)
    stored = _recipe(tmp_path, teacher | {"store": "auto"})
    kept = run_recipe(from_mapping(stored, ()), tmp_path / "kept", store=tmp_path / "store", quiet=True)
    files = [one.folder / "students" / "soft" / "seed-0" / "student.safetensors" for one in (live, kept)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_what_cannot_be_cross_fitted_is_refused(tmp_path: Path) -> None:
    weights = {"model": "mlp", "weights": "w.safetensors", "cross_fit": 3}
    with pytest.raises(TutelageError, match="only a teacher that learns in this run"):
        from_mapping(_recipe(tmp_path, weights), ())
    with pytest.raises(TutelageError, match="cross_fit"):
        from_mapping(_recipe(tmp_path, {"model": "sklearn:DecisionTreeClassifier", "cross_fit": 1}), ())
    trained = {"model": "mlp", "train": {"epochs": 1}, "cross_fit": 2}
    arms = {"seen": [{"loss": "hint", "at": {"student": "net.0", "teacher": "net.0"}}]}
    job = job_of_recipe(from_mapping(_recipe(tmp_path, trained, arms=arms), ()), trust=False)
    with pytest.raises(InputError, match="layers of their own"):
        obtain_crossfitted(job, None, lambda *_: None)  # type: ignore[arg-type, return-value]


def test_check_refuses_what_the_run_would(tmp_path: Path) -> None:
    teacher = {"model": "sklearn:DecisionTreeClassifier", "cross_fit": 3}
    recipe = _recipe(tmp_path, teacher)
    said = [
        finding for finding in check_recipe(from_mapping(recipe, ())).findings if "cross-fitted in 3" in finding.text
    ]
    assert len(said) == 1
    recipe["data"] |= {"views": {"mixup": 0.2}}
    with pytest.raises(InputError, match="a blend of two examples"):
        check_recipe(from_mapping(recipe, ()))


def test_nothing_is_ready_before_all_parts_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    trained = {"model": "mlp", "args": {"width": 8}, "train": {"epochs": 1}}
    run_recipe(from_mapping(_recipe(tmp_path, trained), ()), tmp_path / "whole", quiet=True)
    crossed = from_mapping(_recipe(tmp_path, trained | {"cross_fit": 2}), ())
    assert is_ready(job_of_recipe(from_mapping(_recipe(tmp_path, trained), ()), trust=False))
    assert not is_ready(job_of_recipe(crossed, trust=False))
    run_recipe(crossed, tmp_path / "crossed", quiet=True)
    assert is_ready(job_of_recipe(crossed, trust=False))

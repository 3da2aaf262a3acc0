"""Cross-validation: ordinary runs by fold, one report about every example, and an interval that knows folds overlap."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import tutelage
from command_line import call
from tutelage.data import load, pool
from tutelage.errors import DamagedError, InputError
from tutelage.evaluation.folds import over_folds
from tutelage.recipe import Recipe, from_mapping
from tutelage.run import run_recipe
from tutelage.run.cohorts import Workshop
from tutelage.run.crossval import cross_validate
from tutelage.run.job import Job
from tutelage.run.rescore import rescore
from tutelage.run.teacher import TeacherInHand

TINY = {
    "name": "tiny",
    "seeds": [0, 1],
    "data": {"source": "digits"},
    "teacher": {"model": "mlp", "args": {"width": 16}, "train": {"epochs": 2, "batch_size": 64, "lr": 0.01}},
    "student": {"model": "mlp", "args": {"width": 4, "depth": 1}},
    "train": {"epochs": 2, "batch_size": 64, "lr": 0.01},
    "compress": ["fp16"],
    "report": {"bootstrap": 200, "latency": False},
}


def tiny(*changes: str) -> Recipe:
    return from_mapping(TINY, changes)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> tutelage.Run:
    return cross_validate(tiny(), tmp_path_factory.mktemp("cv") / "three", folds=3, quiet=True)


def test_every_example_is_answered_once_by_a_model_that_never_saw_it(three: tutelage.Run) -> None:
    everything = pool(load("digits"))
    for name in ("teacher", "scratch-seed-0", "distilled-seed-1", "distilled.fp16-seed-1"):
        kept = np.load(three.folder / "eval" / f"{name}.npz")
        assert np.array_equal(np.sort(kept["ids"]), np.sort(everything.ids.numpy()))
        inside = [np.load(three.folder / f"fold-{n}" / "eval" / f"{name}.npz")["ids"] for n in (1, 2, 3)]
        assert np.array_equal(kept["ids"], np.concatenate(inside))
        learned = np.load(three.folder / "fold-1" / "eval" / f"{name}-train.npz")["ids"]
        assert not np.isin(inside[0], learned).any()
    assert three.report["data"]["totals"]["test"] == len(everything)


def test_the_pooled_accuracy_is_that_of_the_folds_by_their_size(three: tutelage.Run) -> None:
    parts = [json.loads((three.folder / f"fold-{n}" / "report.json").read_text()) for n in (1, 2, 3)]
    sizes = [part["data"]["totals"]["test"] for part in parts]
    for index, model in enumerate(three.report["models"]):
        inside = [part["models"][index]["metrics"]["accuracy"]["value"] for part in parts]
        assert model["metrics"]["accuracy"]["value"] == pytest.approx(np.average(inside, weights=sizes), abs=1e-12)
    [item] = three.report["folds"]["comparisons"]
    ours, theirs = ([p["models"][i]["metrics"]["accuracy"]["value"] for p in parts] for i in (3, 1))
    assert [model["name"] for model in three.report["models"]][1::2] == ["scratch", "distilled"]
    np.testing.assert_allclose(item["per_fold"], np.subtract(ours, theirs), atol=1e-12)


def test_its_folder_can_be_compared_and_recomputed_like_any_run(three: tutelage.Run) -> None:
    assert rescore(three.folder) == json.loads((three.folder / "report.json").read_text())
    found = call("compare", f"{three.folder}:scratch", f"{three.folder}:distilled")
    assert found.code == 0, found.err
    assert f"{len(pool(load('digits'))):,} test examples" in found.out
    page = (three.folder / "report.html").read_text()
    assert "Fold by fold, 3 of them" in page
    assert 'load_student("fold-1/students/distilled/seed-0")' in three.report["load_snippet"]


def test_the_same_call_again_trains_nothing_and_writes_the_same(three: tutelage.Run) -> None:
    before = (three.folder / "report.json").read_bytes()
    students = {p: p.stat().st_mtime_ns for p in three.folder.rglob("*.safetensors")}
    cross_validate(tiny(), three.folder, folds=3, quiet=True)
    assert (three.folder / "report.json").read_bytes() == before
    assert {p: p.stat().st_mtime_ns for p in three.folder.rglob("*.safetensors")} == students


def test_stopped_between_folds_it_goes_on(three: tutelage.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tutelage.run import crossval

    whole, done = crossval.run_recipe, list[Path]()

    def once(recipe: Recipe, out: Path, **more: Any) -> tutelage.Run:
        if done:
            raise KeyboardInterrupt
        done.append(out)
        return whole(recipe, out, **more)

    with monkeypatch.context() as patch:
        patch.setattr(crossval, "run_recipe", once)
        with pytest.raises(KeyboardInterrupt):
            cross_validate(tiny(), tmp_path / "cv", folds=3, quiet=True)
    assert not (tmp_path / "cv" / "report.json").exists()
    again = cross_validate(tiny(), tmp_path / "cv", folds=3, quiet=True)
    for key in ("models", "comparisons", "folds", "per_class"):
        assert again.report[key] == three.report[key]


def test_another_number_of_folds_needs_another_folder(three: tutelage.Run) -> None:
    with pytest.raises(InputError, match="another number of folds"):
        cross_validate(tiny(), three.folder, folds=2, quiet=True)
    with pytest.raises(InputError, match="another recipe"):
        cross_validate(tiny("train.lr=0.02"), three.folder, folds=3, quiet=True)
    with pytest.raises(InputError, match="two folds or more"):
        cross_validate(tiny(), three.folder, folds=1, quiet=True)


def test_a_given_teacher_may_know_the_answers_and_that_is_said(three: tutelage.Run, tmp_path: Path) -> None:
    weights = tmp_path / "teacher.safetensors"
    shutil.copy(three.folder / "fold-1" / "teacher" / "teacher.safetensors", weights)
    given = {**TINY, "seeds": [0], "teacher": {"model": "mlp", "args": {"width": 16}, "weights": str(weights)}}
    run = cross_validate(from_mapping(given), tmp_path / "cv", folds=2, quiet=True)
    assert any("not trained fold by fold" in warning["text"] for warning in run.report["warnings"])


def test_on_the_command_line(three: tutelage.Run) -> None:
    recipe = three.folder.parent / "tiny.yaml"
    recipe.write_text(json.dumps(TINY))
    found = call("crossval", str(recipe), "--folds", "3", "--out", str(three.folder), "--quiet")
    assert found.code == 0, found.err
    assert "fold by fold: ‘distilled’ − ‘scratch’" in found.out
    assert call("run", str(recipe), "--set", "data.fold=4/3", "--out", str(three.folder.parent / "no")).code == 2


def test_the_interval_over_folds_is_the_corrected_one() -> None:
    differences = [0.01, 0.03, -0.005, 0.02, 0.015]
    found, p = over_folds(differences, tested=200, trained=700)
    error = math.sqrt((1 / 5 + 200 / 700) * np.var(differences, ddof=1))
    low, high = stats.t.interval(0.95, df=4, loc=np.mean(differences), scale=error)
    assert (found.value, found.ci_low, found.ci_high) == pytest.approx((np.mean(differences), low, high))
    assert p == pytest.approx(2 * stats.t.sf(abs(np.mean(differences)) / error, df=4))
    plain = stats.ttest_1samp(differences, 0.0)
    assert p > plain.pvalue
    assert over_folds([0.1, 0.1], tested=10, trained=20)[1] is None
    with pytest.raises(InputError, match="two or more"):
        over_folds([0.1], tested=10, trained=20)


# ---- folders ---------------------------------------------------------------------------------------------------------


def test_a_run_and_a_cross_validation_do_not_share_a_folder(three: tutelage.Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds a cross-validation"):
        run_recipe(tiny(), three.folder, quiet=True)
    run = run_recipe(tiny("seeds=[0]", "train.epochs=1"), tmp_path / "run", quiet=True)
    before = (run.folder / "report.json").read_bytes()
    with pytest.raises(InputError, match="holds an ordinary run"):
        cross_validate(tiny("seeds=[0]", "train.epochs=1"), run.folder, folds=2, quiet=True)
    assert (run.folder / "report.json").read_bytes() == before


def test_a_mistake_in_the_first_fold_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no optimizer"):
        cross_validate(tiny("train.optimizer=adamx"), tmp_path / "cv", folds=2, quiet=True)
    mended = cross_validate(tiny("seeds=[0]", "train.epochs=1"), tmp_path / "cv", folds=2, quiet=True)
    assert mended.report["folds"]["count"] == 2


def test_damage_in_one_fold_does_not_orphan_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    execute = sys.modules["tutelage.run.execute"]  # the function of this name hides it
    judge = execute.judge

    def damaged(job: Job, shop: Workshop, teacher: TeacherInHand, *, wall_seconds: float, command: str) -> Any:
        if shop.folder.path.name == "fold-2":
            raise DamagedError("a file was altered")
        return judge(job, shop, teacher, wall_seconds=wall_seconds, command=command)

    monkeypatch.setattr(execute, "judge", damaged)
    with pytest.raises(DamagedError, match="a file was altered"):
        cross_validate(tiny("seeds=[0]", "train.epochs=1"), tmp_path / "cv", folds=2, quiet=True)
    first = json.loads((tmp_path / "cv" / "fold-1" / "manifest.json").read_text())
    monkeypatch.setattr(execute, "judge", judge)
    assert cross_validate(tiny("seeds=[0]", "train.epochs=1"), tmp_path / "cv", folds=2, quiet=True).report["folds"]
    assert json.loads((tmp_path / "cv" / "fold-1" / "manifest.json").read_text()) == first | {"starts": 2}


def test_overwriting_with_a_run_removes_the_folds_and_only_these(three: tutelage.Run, tmp_path: Path) -> None:
    home = tmp_path / "cv"
    shutil.copytree(three.folder, home)
    (home / "fold-notes").mkdir()
    (home / "fold-notes" / "mine.txt").write_text("kept")
    run_recipe(tiny("seeds=[0]", "train.epochs=1"), home, overwrite=True, quiet=True)
    assert [path.name for path in home.glob("fold-*")] == ["fold-notes"]


@pytest.mark.parametrize("command", [("bench",), ("eval", "digits")])
def test_models_are_asked_for_by_fold(three: tutelage.Run, command: tuple[str, ...]) -> None:
    found = call(command[0], str(three.folder), *command[1:])
    assert found.code == 2
    assert f"such as {three.folder / 'fold-1'}" in found.err


def test_several_processes_are_refused_before_one_waits_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="one process"):
        cross_validate(tiny(), tmp_path / "cv", folds=2, quiet=True)
    assert not (tmp_path / "cv").exists()

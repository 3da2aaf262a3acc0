"""Several teachers in a recipe: from the command line to the report, live and stored, killed and gone on."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from command_line import call
from ensemble_runs import BASE, HARD, MEMBERS, at, empty, lines, run, save_wide, several, students, taught
from tutelage.errors import ModelError
from tutelage.recipe import Combine, Recipe, dump, from_mapping, from_text, load, resumable
from tutelage.run import build_store, estimate_store
from tutelage.run.bench import bench_run
from tutelage.run.checks import check_recipe
from tutelage.run.crossval import cross_validate
from tutelage.run.job import job_of_recipe
from tutelage.run.rescore import rescore
from tutelage.teachers import COMBINATIONS
from tutelage.training import Trackers


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUTELAGE_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    save_wide(taught())
    return tmp_path


# From the command line to the report


def test_from_the_command_line(place: Path) -> None:
    Path("recipe.yaml").write_text(yaml.safe_dump(BASE))
    checked = call("check", "recipe.yaml")
    assert checked.code == 0, checked.err
    assert "teacher big: it has yet to be trained, for 2 epochs" in checked.out
    assert re.search(r"teacher wide's answers: [0-9.]+ % of 179 validation rows right", checked.out)
    assert "of the teachers' " in checked.out

    done = call("run", "recipe.yaml", "--out", "out")
    assert done.code == 0, done.err
    report = json.loads(Path("out/report.json").read_text())
    row, each = report["models"][0], {one["name"]: one for one in report["teachers"]}
    assert list(each) == ["big", "wide"]
    for key in ("parameters", "file_bytes"):
        assert row[key] == sum(one[key] for one in each.values())
    assert each["wide"]["parameters"] == 64 * 32 + 32 + 32 * 10 + 10
    assert row["multiply_adds"] > each["wide"]["parameters"]
    assert len(each["big"]["training"]) == 2
    assert each["wide"]["training"] == []
    log = Path("out/log.txt").read_text()
    for name, one in each.items():
        assert f"teacher {name}: {one['val_accuracy']:.2%} of the validation part" in log
        assert Path(f"out/teacher/teacher-{name}.safetensors").stat().st_size == one["file_bytes"]
    assert f"by mean_probabilities: {report['teacher_val_accuracy']:.2%} of the validation part" in log
    assert report["training"].keys() >= {"scratch", "distilled"}
    cohorts = {json.loads(line)["arm"] for line in Path("out/metrics.jsonl").read_text().splitlines()}
    assert cohorts == {"teacher-big", "scratch", "distilled"}

    again = rescore("out")
    assert again["teachers"] == report["teachers"]
    assert call("report", "out").code == 0
    checked = call("check", "recipe.yaml")  # the trained one is in the cache now
    assert re.search(r"teachers together: by mean_probabilities .* the best of them, `(big|wide)`, [0-9]", checked.out)


def test_the_judged_teacher_is_the_mean_of_its_files(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    curves: list[tuple[str, int, int]] = []
    monkeypatch.setattr(Trackers, "rows", lambda _, arm, seed, rows: curves.append((arm, seed, len(list(rows)))))
    found = run(several("combine.weights={big: 3, wide: 1}", "teachers.big.seed=7"), "out")
    assert ("teacher-big", 7, 2) in curves
    saved = np.load("out/eval/teacher.npz")
    job = job_of_recipe(several(), trust=False)
    test = job.splits.test.inputs.float() / 255
    mean = torch.zeros(len(test), 10)
    for name, share in (("big", 0.75), ("wide", 0.25)):
        module = empty(name).eval()
        module.load_state_dict(load_file(f"out/teacher/teacher-{name}.safetensors"))
        with torch.no_grad():
            mean += share * module(test).softmax(-1)
    assert torch.allclose(torch.from_numpy(saved["logits"]).softmax(-1), mean, atol=1e-5)
    right = float((mean.argmax(-1) == job.splits.test.targets).double().mean())
    assert found.report["models"][0]["metrics"]["accuracy"]["value"] == pytest.approx(right)

    timed = bench_run("out", batch_sizes=(1,), seconds=0.05)
    assert [one.name for one in timed.models] == ["teacher", "distilled", "scratch"]
    whole = timed.models[0]
    row = found.report["models"][0]
    assert (whole.parameters, whole.file_bytes) == (row["parameters"], row["file_bytes"])
    assert whole.multiply_adds == row["multiply_adds"]


@pytest.mark.parametrize("how", ["mean_probabilities", "random_example"])
def test_stored_answers_are_the_live_ones_bit_for_bit(how: str, place: Path) -> None:
    recipe = several(f"combine.how={how}")
    run(recipe, "live")
    both = ("teachers.big.store=auto", "teachers.wide.store=auto")
    report = run(several(f"combine.how={how}", *both), "stored").report
    assert students("stored") == students("live")
    assert report["answers"]["rows"] == 2 * 400
    assert len(list(Path("store").iterdir())) == 2
    run(several(f"combine.how={how}", both[0]), "one")
    assert students("one") == students("live")
    assert "of big are read from disk; wide will be asked at every step" in Path("one/log.txt").read_text()
    assert "0 of 400 rows asked" in Path("one/log.txt").read_text()


def test_members_losses_and_layers_work_live_and_stored(place: Path) -> None:
    arms = {"members": [MEMBERS, HARD], "layers": [at("big.net.stages.1"), HARD]}
    run(several(arms=arms), "live")
    stores = ("teachers.big.store=auto", "teachers.wide.store=auto")
    checked = check_recipe(several(*stores, arms=arms))
    assert not checked.of("fault"), lines(checked, "fault")
    assert "reads net.hidden.2 (8,) beside the teacher's big.net.stages.1 (6, 4, 4)" in lines(checked, "ok")
    run(several(*stores, arms=arms), "stored")
    assert students("stored") == students("live")
    run(several(arms={"members": [MEMBERS], "layers": [HARD]}), "other")
    ours, other = students("live"), students("other")
    for name in ours:
        assert (ours[name] == other[name]) is ("scratch" in name)


def test_the_other_forms_run_and_differ(place: Path) -> None:
    found = {}
    forms = ("entropy", "confidence", "random_step")
    for how in forms:
        run(several(f"combine.how={how}", "data.limit=100", "train.epochs=1"), how)
        found[how] = students(how)["students/distilled/seed-0/student.safetensors"]
    assert len(set(found.values())) == len(forms)
    # The one form that is not of the same classes is told apart: see test_tasks.
    assert set(get_args(Combine.model_fields["how"].annotation)) == {*COMBINATIONS, "tasks"}


def test_the_order_in_which_teachers_are_written_says_nothing() -> None:
    weights = "combine.weights={wide: 1, big: 2}"
    found = []
    for teachers in (BASE["teachers"], dict(reversed(BASE["teachers"].items()))):
        plan = job_of_recipe(several(weights, teachers=teachers), trust=False).teacher
        found.append((list(plan.members), plan.describes, plan.combine))
    assert found[0] == found[1]
    assert found[0][0] == found[0][2]["names"] == ["big", "wide"]
    assert found[0][2]["weights"] == [2, 1]


def test_a_member_whose_classes_stand_in_another_order_is_met_by_name(place: Path) -> None:
    straight = run(several(), "straight").report
    state = {name: value.clone() for name, value in taught().state_dict().items()}
    for name in list(state)[-2:]:  # of the last layer
        state[name] = state[name].flip(0)
    turned = empty("wide")
    turned.load_state_dict(state)
    save_wide(turned)
    classes = [str(digit) for digit in range(9, -1, -1)]
    (place / "wide.json").write_text(json.dumps({"classes": classes}))
    found = run(several(), "turned").report
    assert found["teachers"][1]["val_accuracy"] == straight["teachers"][1]["val_accuracy"]
    accuracies = [one["models"][0]["metrics"]["accuracy"]["value"] for one in (found, straight)]
    assert accuracies[0] == accuracies[1] > 0.8
    kept = [load_file(Path(out, "students/distilled/seed-0/student.safetensors")) for out in ("turned", "straight")]
    assert all(torch.allclose(value, kept[1][name], atol=1e-3) for name, value in kept[0].items())
    assert "teacher wide: its classes stand in another order than the data's" in Path("turned/log.txt").read_text()
    said = lines(check_recipe(several()), "notice")
    assert "class names of teacher wide: its classes stand in another order" in said

    save_wide(taught())
    with pytest.raises(ModelError, match=r"the teacher wide's class names contradict its answers"):
        run(several(), "wrong")


# Killed, gone on, changed

CHILD = """
import os, signal, sys
from tutelage.recipe import from_mapping
from tutelage.run import run_recipe
from tutelage.training.progress import MetricsFile

whole = MetricsFile.on_epoch_end

def killed(self, cohort, at):
    whole(self, cohort, at)
    if cohort.name == "teacher-tall":
        os.kill(os.getpid(), signal.SIGKILL)

MetricsFile.on_epoch_end = killed
run_recipe(from_mapping(eval(sys.argv[1])), "killed", quiet=True)
"""


def test_killed_it_goes_on_with_the_same_bits(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teachers = BASE["teachers"] | {"tall": {**BASE["teachers"]["big"], "seed": 1}}
    for one in ("big", "tall"):
        teachers[one] = {**teachers[one], "train": {**teachers[one]["train"], "checkpoint_seconds": 0}}
    small = {"data": {"source": "digits", "limit": 100}, "combine": {"how": "random_example"}}
    recipe = BASE | small | {"teachers": teachers}
    monkeypatch.setenv("TUTELAGE_CACHE", str(place / "first"))
    child = [sys.executable, "-c", CHILD, repr(recipe)]
    done = subprocess.run(child, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not Path("killed/teacher/teacher-tall.safetensors").exists()

    teachers["tall"] = {**teachers["tall"], "train": {**teachers["tall"]["train"], "checkpoint_seconds": 9}}
    run(from_mapping(recipe), "killed")
    log = Path("killed/log.txt").read_text()
    assert re.search(r"teacher-tall: continuing at step [34]/[68]", log)
    assert "teacher big: found in the cache" in log
    monkeypatch.setenv("TUTELAGE_CACHE", str(place / "second"))
    run(from_mapping(recipe), "straight")
    assert students("killed") == students("straight")
    for name in ("big", "tall", "wide"):
        file = f"teacher/teacher-{name}.safetensors"
        assert Path("killed", file).read_bytes() == Path("straight", file).read_bytes()
    assert len(list((place / "second" / "teachers").iterdir())) == 2  # one for each that was trained


def test_a_run_goes_on_only_with_its_own_teachers(place: Path) -> None:
    run(several(), "out")
    assert "already complete" in call_run("out", several("teachers.big.train.checkpoint_seconds=9"))
    assert "combine.how: mean_probabilities → entropy" in call_run("out", several("combine.how=entropy"))
    manifest = json.loads(Path("out/manifest.json").read_text())
    Path("out/manifest.json").write_text(json.dumps(manifest | {"outcome": "running"}))
    save_wide(empty("wide"))
    with pytest.raises(ModelError, match="not the one that this run began with"):
        run(several(), "out")


def call_run(out: str, recipe: Recipe) -> str:
    Path("changed.yaml").write_text(dump(recipe))
    done = call("run", "changed.yaml", "--out", out)
    return done.out + done.err


def test_which_keys_a_run_may_change() -> None:
    assert resumable("teachers.big.train.checkpoint_seconds")
    assert resumable("report.bootstrap")
    assert not resumable("teachers.big.train.epochs")
    assert not resumable("teachers.checkpoint_seconds")


# Stores


def test_stores_of_several_are_built_and_estimated_without_a_run(place: Path) -> None:
    built = build_store(several(), quiet=True)
    assert (built.rows, built.asked) == (800, 800)
    assert build_store(several("teachers.wide.store=auto"), quiet=True).asked == 0
    assert built.place == place / "store"
    found = estimate_store(several(), quiet=True)
    assert found.rows == 800
    codecs = {one.codec: one for one in found.codecs}
    assert set(codecs) == {"fp32", "fp16", "bf16", "int8"}
    assert codecs["fp32"].bytes == 800 * codecs["fp32"].row_bytes
    assert codecs["fp32"].error == 0.0
    assert codecs["int8"].error is not None
    assert 0.0 < codecs["int8"].error < 0.2
    single = estimate_store(several("teachers.big.store=auto"), quiet=True)
    assert single.rows == 400


def test_recorded_views_are_shared_by_all(place: Path) -> None:
    views = ("data.views.shift=1", "train.epochs=3", "data.limit=200")
    both = ("teachers.big.store={views: 2}", "teachers.wide.store={views: 2}")
    found = run(several(*views, *both), "out").report
    assert found["answers"]["rows"] == 2 * 2 * 200
    assert found["answers"]["views"] == 2
    # Whoever is asked live is shown the recorded views as well.
    run(several(*views, both[0]), "one")
    assert students("one") == students("out")


# The rest


def test_a_recipe_written_out_reads_back() -> None:
    recipe = several("combine.weights={big: 2, wide: 1}", "teachers.big.store=auto")
    assert from_text(dump(recipe)) == recipe
    assert several().combine == Combine()
    assert load("digits").combine is None


def test_the_recipe_that_comes_along_is_a_good_one() -> None:
    listed = call("recipes")
    assert "ensemble-digits" in listed.out
    recipe = load("ensemble-digits", ["train.epochs=1", "seeds=[0]", "teachers.strokes.train.epochs=1"])
    assert set(recipe.trusted) == {"strokes", "pixels"}
    found = check_recipe(recipe)
    assert not found.of("fault"), lines(found, "fault")
    assert "about" in next(one.text for one in found.findings if one.title == "teacher strokes's time")


def test_cross_validation_says_which_teacher_was_given(place: Path) -> None:
    found = cross_validate(several("data.limit=200", "train.epochs=1"), "folds", folds=2, quiet=True).report
    [said] = found["notices"]
    assert said.startswith("The teacher wide was given, not trained fold by fold")
    each = json.loads(Path("folds/fold-1/report.json").read_text())["teachers"]
    assert found["models"][0]["runs"][0]["parameters"] == sum(one["parameters"] for one in each)

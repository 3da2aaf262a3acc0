"""Several teachers in a recipe: from the command line to the report, live and stored, killed and gone on."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

from command_line import call
from tutelage.errors import InputError, ModelError, RecipeError
from tutelage.losses import cross_entropy
from tutelage.models import save_weights
from tutelage.recipe import Combine, Recipe, dump, from_mapping, from_text, load, resumable
from tutelage.run import build_store, estimate_store, run_recipe
from tutelage.run.bench import bench_run
from tutelage.run.checks import Checked, check_recipe
from tutelage.run.crossval import cross_validate
from tutelage.run.execute import Run
from tutelage.run.job import job_of_recipe
from tutelage.run.rescore import rescore
from tutelage.teachers import COMBINATIONS

SOFT, HARD = {"loss": "soft_target", "weight": 0.9, "temperature": 4}, {"loss": "cross_entropy", "weight": 0.1}
BASE: dict[str, Any] = {
    "name": "several",
    "seeds": [0],
    "data": {"source": "digits", "limit": 400},
    "teachers": {
        "wide": {"model": "mlp", "args": {"width": 32, "depth": 1}, "weights": "wide.safetensors"},
        "big": {"model": "cnn", "args": {"width": 4}, "train": {"epochs": 2, "batch_size": 32, "lr": 0.01}},
    },
    "student": {"model": "mlp", "args": {"width": 8, "depth": 1}},
    "arms": {"distilled": [SOFT, HARD]},
    "train": {"epochs": 2, "batch_size": 32, "lr": 0.01},
    "report": {"latency": False, "bootstrap": 100},
    "threads": 1,
}
MEMBERS = {"loss": "adaptive_ensemble", "temperature": 4}
FEATURES = {"loss": "relational_distance", "at": {"student": "net.hidden.2", "teacher": "big.net.stages.1"}}


@pytest.fixture(scope="module")
def taught() -> nn.Module:
    """The net called `wide` after a few full-batch steps."""
    job = job_of_recipe(from_mapping(BASE), trust=False)
    build = job.teacher.members["wide"].build
    assert build is not None
    torch.manual_seed(0)
    module, train = build(), job.splits.train
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        cross_entropy(module(train.inputs.float() / 255), train.targets).backward()
        optimizer.step()
    return module.eval()


@pytest.fixture(autouse=True)
def place(taught: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUTELAGE_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    save_weights(taught, tmp_path / "wide.safetensors")
    return tmp_path


def several(*changes: str, **keys: Any) -> Recipe:
    return from_mapping(BASE | keys, changes)


def run(recipe: Recipe, out: str) -> Run:
    return run_recipe(recipe, out, quiet=True)


def students(out: str) -> dict[str, bytes]:
    found = {str(path.relative_to(out)): path.read_bytes() for path in sorted(Path(out).glob("students/*/*/*.safetens*"))}
    assert found
    return found


def refused(*changes: str, **keys: Any) -> str:
    with pytest.raises(InputError) as caught:
        job_of_recipe(several(*changes, **keys), trust=False)
    return str(caught.value)


def lines(found: Checked, level: str) -> str:
    return "\n".join(one.line() for one in found.findings if one.level == level)


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
    assert re.search(r"teachers together: by mean_probabilities [0-9.]+ % .*the best of them, `(big|wide)`", checked.out)


def test_the_judged_teacher_is_the_mean_of_its_files(place: Path) -> None:
    found = run(several("combine.weights={big: 3, wide: 1}"), "out")
    saved = np.load("out/eval/teacher.npz")
    job = job_of_recipe(several(), trust=False)
    test = job.splits.test.inputs.float() / 255
    mean = torch.zeros(len(test), 10)
    for name, share in (("big", 0.75), ("wide", 0.25)):
        build = job.teacher.members[name].build
        assert build is not None
        module = build().eval()
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
    arms = {"members": [MEMBERS, HARD], "layers": [FEATURES, HARD]}
    run(several(arms=arms), "live")
    stores = ("teachers.big.store=auto", "teachers.wide.store=auto")
    checked = check_recipe(several(*stores, arms=arms))
    assert not checked.of("fault"), lines(checked, "fault")
    assert "reads net.hidden.2 (8,) beside the teacher's big.net.stages.1 (8," in lines(checked, "ok")
    run(several(*stores, arms=arms), "stored")
    assert students("stored") == students("live")
    run(several(arms={"members": [MEMBERS], "layers": [HARD]}), "other")
    ours, other = students("live"), students("other")
    for name in ours:
        assert (ours[name] == other[name]) is ("scratch" in name)


def test_every_form_runs_and_they_differ(place: Path) -> None:
    found = {}
    for how in COMBINATIONS:
        run(several(f"combine.how={how}", "data.limit=100", "train.epochs=1"), how)
        found[how] = students(how)["students/distilled/seed-0/student.safetensors"]
    assert len(set(found.values())) == len(COMBINATIONS)
    assert set(get_args(Combine.model_fields["how"].annotation)) == set(COMBINATIONS)


def test_the_order_in_which_teachers_are_written_says_nothing(place: Path) -> None:
    other = dict(reversed(BASE["teachers"].items()))
    run(several("combine.how=random_example"), "one")
    run(several("combine.how=random_example", teachers=other), "other")
    assert students("one") == students("other")


def test_a_member_whose_classes_stand_in_another_order_is_met_by_name(taught: nn.Module, place: Path) -> None:
    straight = run(several(), "straight").report
    state = {name: value.clone() for name, value in taught.state_dict().items()}
    for name in list(state)[-2:]:  # of the last layer
        state[name] = state[name].flip(0)
    build = job_of_recipe(several(), trust=False).teacher.members["wide"].build
    assert build is not None
    turned = build()
    turned.load_state_dict(state)
    save_weights(turned, place / "wide.safetensors")
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

    save_weights(taught, place / "wide.safetensors")
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
    recipe = BASE | {"teachers": teachers, "combine": {"how": "random_example"}}
    monkeypatch.setenv("TUTELAGE_CACHE", str(place / "first"))
    child = [sys.executable, "-c", CHILD, repr(recipe)]
    done = subprocess.run(child, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not Path("killed/teacher/teacher-tall.safetensors").exists()

    teachers["tall"] = {**teachers["tall"], "train": {**teachers["tall"]["train"], "checkpoint_seconds": 9}}
    run(from_mapping(recipe), "killed")
    log = Path("killed/log.txt").read_text()
    assert "teacher-tall: continuing at step 1" in log
    assert "teacher big: found in the cache" in log
    monkeypatch.setenv("TUTELAGE_CACHE", str(place / "second"))
    run(from_mapping(recipe), "straight")
    assert students("killed") == students("straight")
    for name in ("big", "tall", "wide"):
        file = f"teacher/teacher-{name}.safetensors"
        assert Path("killed", file).read_bytes() == Path("straight", file).read_bytes()
    assert len(list((place / "second" / "teachers").iterdir())) == 2  # one for each that was trained


def test_a_run_goes_on_only_with_its_own_teachers(taught: nn.Module, place: Path) -> None:
    run(several(), "out")
    assert "already complete" in call_run("out", several("teachers.big.train.checkpoint_seconds=9"))
    assert "combine.how: mean_probabilities → entropy" in call_run("out", several("combine.how=entropy"))
    manifest = json.loads(Path("out/manifest.json").read_text())
    Path("out/manifest.json").write_text(json.dumps(manifest | {"outcome": "running"}))
    build = job_of_recipe(several(), trust=False).teacher.members["wide"].build
    assert build is not None
    save_weights(build(), place / "wide.safetensors")
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
    said = refused(*views, both[0], "teachers.wide.store={views: 3}")
    assert "the stores of the teachers hold other views (teachers.wide.store.views)" in said
    assert "hint: write `views: 2` for both" in said


# What is wrong


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["combine.weights={bgi: 1, wide: 2}"], "no teacher is called `bgi`, which has a weight\nhint: did you mean `big`?"),
        (["combine.weights={big: 1}"], "the weights name no `wide`\n  expected  one for each of wide, big"),
        (["combine.weights={big: 0, wide: 0}"], "the weights do not fit the teachers (combine)"),
        (["combine.how=mean_probability"], "hint: did you mean `mean_probabilities`?"),
        (["combine.how=mean_logits", "combine.temperature=2"], "`mean_logits` has no temperature (combine)"),
        (["combine.weight={big: 1}"], "unknown key `weight` (--set combine.weight={big: 1})\nhint: did you mean `weights`?"),
        (["teacher.model=mlp", "teacher.weights=x"], "`teacher`: `teachers` is there as well"),
        (["teachers=null"], "`teachers`: expected a mapping, got nothing"),
        (["teachers={}"], "`teacher`: expected a mapping with `model`, got nothing"),
        (["teachers.Big.model=mlp"], "the name 'Big' in `teachers` cannot be used"),
        (["teachers.big.mdel=mlp"], "unknown key `mdel`"),
        (["teachers.big.model=cmn"], "unknown model 'cmn' (--set teachers.big.model=cmn)\nhint: did you mean `cnn`?"),
        (["teachers.tall={model: mlp}"], "`teachers.tall.train`: the teacher `mlp` knows nothing yet"),
        (["teachers.big.store={codec: top-3}"], "`top-3` keeps a part of the classes"),
        (["combine.how=confidence", "data.views.mixup=0.2"], "weights by confidence need one label per example"),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_what_was_meant(changes: list[str], said: str) -> None:
    assert said in refused(*changes)


@pytest.mark.parametrize(
    ("term", "how", "said"),
    [
        (FEATURES | {"at": {"student": "net.hidden.2", "teacher": "bgi.net.stages.1"}}, "entropy",
         "the place `bgi.net.stages.1` does not say of which teacher (arms.distilled)\n"
         "  expected  <name>.<layer> with one of big, wide, or *.<layer> for all\n"
         "hint: did you mean `big.net.stages.1`?"),
        (FEATURES | {"at": {"student": "net.hidden.2", "teacher": "net.stages.1"}}, "entropy",
         "hint: for instance `big.net.stages.1`"),
        (FEATURES, "random_step", "one teacher speaks at a time, but it reads `big.net.stages.1`"),
        (MEMBERS, "random_example", "one teacher speaks at a time, but `adaptive_ensemble` reads every teacher"),
        ({"loss": "jacobian_matching"}, "entropy", "several teachers have no gradient at the input as one"),
    ],
)  # fmt: skip
def test_what_a_form_does_not_answer_is_refused_early(term: dict[str, Any], how: str, said: str) -> None:
    assert said in refused(f"combine.how={how}", arms={"distilled": [term, HARD]})


def test_arms_at_several_temperatures_need_a_word(place: Path) -> None:
    arms = {"warm": [SOFT], "cold": [SOFT | {"temperature": 2}]}
    said = refused(arms=arms)
    assert "at one temperature, but the arms read at several (combine.temperature)\n  given     2, 4" in said
    for change in ("combine.temperature=3", "combine.how=mean_logits"):
        job = job_of_recipe(several(change, arms=arms), trust=False)
        assert job.teacher.combine["temperature"] == (3 if "=3" in change else None)
    # What reads the members for itself does not read the mean.
    job = job_of_recipe(several(arms={"a": [SOFT, MEMBERS | {"temperature": 9}]}), trust=False)
    assert job.teacher.combine["temperature"] == 4


def test_one_teacher_has_nothing_to_combine_and_no_members() -> None:
    single = {key: value for key, value in BASE.items() if key != "teachers"} | {"teacher": BASE["teachers"]["wide"]}
    with pytest.raises(RecipeError, match="there is one teacher, and nothing to combine"):
        from_mapping(single | {"combine": {"how": "entropy"}})
    with pytest.raises(InputError, match="reads every member of an ensemble, but there is one teacher"):
        job_of_recipe(from_mapping(single | {"arms": {"a": [MEMBERS]}}), trust=False)


def test_the_same_teacher_twice_is_refused() -> None:
    big = BASE["teachers"]["big"]
    with pytest.raises(RecipeError, match="`a` and `b` are the same teacher twice\nhint: give each a `seed`"):
        several(teachers={"a": big, "b": big | {"store": "auto"}})
    assert list(several(teachers={"b": big, "a": big | {"seed": 1}}).trusted) == ["a", "b"]
    wide = BASE["teachers"]["wide"]
    with pytest.raises(RecipeError, match=r"hint: keep one of them, and say by `combine\.weights`"):
        several(teachers={"a": wide, "b": wide})


def test_a_wrong_layer_or_optimizer_of_one_is_told_before_any_is_trained(place: Path) -> None:
    tall = BASE["teachers"] | {"tall": {**BASE["teachers"]["big"], "seed": 1}}
    wrong: list[tuple[Callable[[], Recipe], str]] = [
        (lambda: several(teachers=tall, arms={"a": [FEATURES | {"at": {"student": "net.hidden.2", "teacher": "tall.net.stage.1"}}]}),
         "the model has no layer `net.stage.1` (teacher tall)\nhint: did you mean `net.stages"),
        (lambda: several("teachers.tall.train.optimizer=sdg", teachers=tall), "sdg"),
        (lambda: several("teachers.tall.args={witdh: 3}", teachers=tall), "witdh"),
        (lambda: several("teachers.wide.args.width=16", teachers=tall), "(teacher wide"),
    ]  # fmt: skip
    for number, (recipe, said) in enumerate(wrong):
        with pytest.raises((InputError, ModelError)) as caught:
            run(recipe(), f"out{number}")
        assert said in str(caught.value)
        assert not Path(f"out{number}/metrics.jsonl").exists()


def test_a_check_tells_of_each_teacher_what_is_wrong(taught: nn.Module, place: Path) -> None:
    build = job_of_recipe(several(), trust=False).teacher.members["wide"].build
    assert build is not None
    save_weights(build(), place / "wide.safetensors")  # it has learned nothing
    arms = {"a": [FEATURES | {"at": {"student": "net.hidden.2", "teacher": "big.net.stage.1"}}]}
    found = lines(check_recipe(several(arms=arms)), "fault")
    assert "teacher big: the model has no layer `net.stage.1`" in found
    found = lines(check_recipe(several()), "fault")
    assert "teacher wide's answers:" in found
    assert "teacher big" not in found
    (place / "wide.safetensors").unlink()
    found = lines(check_recipe(several()), "fault")
    assert "teacher wide: " in found


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

"""Runs of several tasks at once: from the command line and from Python to the report, live, stored and by fold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from scipy import stats
from torch import nn

import tutelage
from command_line import call
from tutelage import losses
from tutelage.data import from_arrays, load
from tutelage.errors import DamagedError, InputError, RecipeError
from tutelage.evaluation.significance import holm
from tutelage.models import ModelSpec, build, load_weights
from tutelage.objective import Term
from tutelage.recipe import Recipe, from_mapping
from tutelage.run import load_student, run_recipe
from tutelage.run.crossval import cross_validate
from tutelage.run.job import job_of_recipe, statistics
from tutelage.run.rescore import rescore

TASKS = {"digit": 10, "parity": 2, "large": 2}
COLUMNS = {"digit": slice(0, 10), "parity": slice(10, 12), "large": slice(12, 14)}
NET = {"model": "mlp", "args": {"width": 24}}
TEACHER = {**NET, "train": {"epochs": 3, "lr": 0.01}}
BASE: dict[str, Any] = {
    "name": "three",
    "seeds": [0, 1],
    "data": {"source": "arrays", "path": "digits.npz", "task": "digit"},
    "teacher": TEACHER,
    "student": {"model": "mlp", "args": {"width": 12}},
    "train": {"epochs": 2, "lr": 0.01},
    "report": {"latency": False, "bootstrap": 200},
}
SINGLE = {key: value for key, value in BASE.items() if key != "teacher"}


def recipe(*changes: str, **keys: Any) -> Recipe:
    return from_mapping({**(SINGLE if "teachers" in keys else BASE), **keys}, changes)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from sklearn.datasets import load_digits

    found, home = load_digits(), tmp_path_factory.mktemp("tasks")
    x, y = np.rint(found.images * (255 / 16)).astype(np.uint8), found.target
    further = {"targets_parity": y % 2, "classes_parity": np.array(["even", "odd"]), "targets_large": (y >= 5) * 1}
    np.savez(home / "digits.npz", x=x, y=y, **further)
    return home


@pytest.fixture(autouse=True)
def _here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_STORE", str(place / "store"))
    monkeypatch.chdir(place)


@pytest.fixture(scope="module")
def three(place: Path) -> tutelage.Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        return run_recipe(recipe(), place / "three", quiet=True)


def answers(run: tutelage.Run, model: str) -> dict[str, np.ndarray]:
    with np.load(run.folder / "eval" / f"{model}.npz") as saved:
        return {key: saved[key] for key in saved.files}


def weights(run: tutelage.Run, arm: str = "distilled", seed: int = 0) -> dict[str, torch.Tensor]:
    return load_file(run.student(arm, seed) / "student.safetensors")


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def right(run: tutelage.Run, model: str) -> dict[str, np.ndarray]:
    """Task -> which test examples a model got right, from the file of its answers."""
    own = answers(run, model)
    truth = {"digit": own["labels"], "parity": own["labels_parity"], "large": own["labels_large"]}
    return {task: own["logits"][:, COLUMNS[task]].argmax(1) == truth[task] for task in TASKS}


# From the recipe to the report


def test_from_the_command_line(place: Path) -> None:
    Path("recipe.yaml").write_text(yaml.safe_dump(BASE | {"seeds": [0], "train": {"epochs": 1}}))
    checked = call("check", "recipe.yaml")
    assert checked.code == 0, checked.out + checked.err
    assert "classes of test, task parity: least frequent `even` 178, most frequent `odd` 181" in checked.out
    assert "answers (8, 14) to a real batch" in checked.out
    done = call("run", "recipe.yaml", "--out", "said")
    assert done.code == 0, done.err
    assert "cross_entropy (of digit) + cross_entropy (of parity) + cross_entropy (of large)" in done.err + done.out
    assert call("check", "recipe.yaml").out.count("teacher's answers, task ") == 3
    again = call("report", "said")
    assert again.code == 0, again.err
    for page, words in (("said/report.html", "Task by task"), ("said/README.md", "answers 3 tasks at once")):
        assert words in Path(page).read_text()


def test_every_task_is_scored_from_the_saved_answers(three: tutelage.Run) -> None:
    found = three.report["tasks"]
    assert [(row["name"], len(row["classes"])) for row in found["each"]] == list(TASKS.items())
    assert found["main"] == "digit"
    models = {"teacher": ["teacher"]} | {arm: [f"{arm}-seed-{n}" for n in (0, 1)] for arm in ("scratch", "distilled")}
    share = {name: [right(three, one) for one in files] for name, files in models.items()}
    for row in found["each"]:
        task = row["name"]
        for model in row["models"]:
            values = [float(one[task].mean()) for one in share[model["name"]]]
            assert [run["accuracy"] for run in model["runs"]] == pytest.approx(values)
            assert model["accuracy"]["value"] == pytest.approx(np.mean(values))
        (compared,) = row["comparisons"]
        pairs = zip(share["distilled"], share["scratch"], strict=True)
        differences = [float(ours[task].mean() - theirs[task].mean()) for ours, theirs in pairs]
        assert compared["difference"]["value"] == pytest.approx(np.mean(differences))
        reach = stats.t.ppf(0.975, 1) * np.std(differences, ddof=1) / np.sqrt(2)
        wide = compared["difference"]["ci_high"] - compared["difference"]["value"]
        # Chance over test examples is added where two seeds happen to agree more than that.
        assert wide >= reach - 1e-9
    means = {row["name"]: row["accuracy"]["value"] for row in found["mean"]}
    for name, runs in share.items():
        assert means[name] == pytest.approx(np.mean([[one[task].mean() for task in TASKS] for one in runs]))
    compared = [row["comparisons"][0] for row in found["each"]]
    assert [one["p_adjusted"] for one in compared] == pytest.approx(holm([one["p"] for one in compared]))


def test_the_main_task_is_reported_as_ever(three: tutelage.Run) -> None:
    report = three.report
    first = report["tasks"]["each"][0]
    assert report["classes"] == [str(number) for number in range(10)]
    for row, model in zip(report["models"], first["models"], strict=True):
        assert row["metrics"]["accuracy"] == model["accuracy"]
    left, own = dict(report["comparisons"][0]), dict(first["comparisons"][0])
    for one in (left, own):
        one.pop("p_adjusted")
    assert own.pop("task") == "digit"
    assert own == left


def test_the_epoch_is_chosen_by_the_mean_over_tasks(three: tutelage.Run) -> None:
    facts = json.loads((three.student() / "student.json").read_text())
    assert facts["tasks"] == TASKS
    assert facts["classes"][9:11] == ["digit: 9", "parity: even"]
    for row in facts["curve"]:
        assert row["val_accuracy"] == pytest.approx(np.mean([row[f"val_accuracy_{task}"] for task in TASKS]))
    best = max(facts["curve"], key=lambda row: (row["val_accuracy"], row["epoch"]))
    assert facts["kept_epoch"] == best["epoch"]
    student = load_student(three.student())
    test = load("arrays", path="digits.npz", val=0.1, test=0.2).test
    with torch.no_grad():
        said = student(test.inputs / 255).numpy()
    assert np.allclose(said, answers(three, "distilled-seed-0")["logits"], atol=1e-5)


def test_the_same_numbers_come_from_the_answers_again(three: tutelage.Run, tmp_path: Path) -> None:
    again = rescore(three.folder)
    assert again == json.loads((three.folder / "report.json").read_text())
    path = three.folder / "eval" / "scratch-seed-1.npz"
    kept, whole = answers(three, "scratch-seed-1"), path.read_bytes()
    try:
        logits = kept["logits"].copy()
        logits[0, 11] += 1.0
        np.savez(path, **kept | {"logits": logits})
        with pytest.raises(DamagedError, match="other answers to the task `parity`"):
            rescore(three.folder)
    finally:
        path.write_bytes(whole)


def test_stored_answers_teach_the_same(three: tutelage.Run, tmp_path: Path) -> None:
    stored = run_recipe(recipe("seeds=[0]", "teacher.store=auto"), tmp_path / "stored", quiet=True)
    for arm in ("scratch", "distilled"):
        assert same(weights(stored, arm), weights(three, arm))
    with pytest.raises(InputError, match="only a part of all logits"):
        job_of_recipe(recipe("teacher.store.codec=top-4"), trust=False)


def test_terms_weigh_tasks_against_each_other(three: tutelage.Run, tmp_path: Path) -> None:
    hard = {"loss": "cross_entropy"}
    arms = {
        "digit": [hard | {"task": "digit"}],
        "stated": [hard, {"loss": "soft_target", "task": "large", "weight": 2}],
    }
    run = run_recipe(recipe("seeds=[0]", "train.epochs=1", arms=arms), tmp_path / "stated", quiet=True)
    begun = run_recipe(recipe("seeds=[0]", "train.epochs=1", "train.lr=1e-30"), tmp_path / "begun", quiet=True)
    last = next(name for name, value in reversed(weights(run, "digit").items()) if value.shape == (14,))
    moved = weights(run, "digit")[last] - weights(begun)[last]
    assert bool((moved[:10] != 0).all())
    # Nothing is learned of the other tasks, and AdamW's decay alone moves what has no gradient.
    assert float(moved[10:].abs().max()) < 1e-3 < float(moved[:10].abs().max())
    described = {row["name"]: row["describes"] for row in run.report["models"]}
    assert described["stated"].endswith("cross_entropy (of large) + 2 · soft_target (of large)")


def test_folds_are_pooled_task_by_task(tmp_path: Path) -> None:
    run = cross_validate(recipe("seeds=[0]", "train.epochs=1"), tmp_path / "cv", folds=2, quiet=True)
    found = {row["name"]: row for row in run.report["tasks"]["each"]}
    for task in TASKS:
        model = next(one for one in found[task]["models"] if one["name"] == "distilled")
        assert model["accuracy"]["value"] == pytest.approx(right(run, "distilled-seed-0")[task].mean())
    assert len(answers(run, "teacher")["labels_large"]) == 1797
    assert rescore(run.folder)["tasks"] == run.report["tasks"]


# From Python


def test_from_python(place: Path, tmp_path: Path) -> None:
    with np.load("digits.npz") as arrays:
        x, y, parity = arrays["x"], arrays["y"], arrays["targets_parity"]
    data = from_arrays(x, y, val=0.1, test=0.2, tasks={"parity": parity})
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 12))
    run = tutelage.distill(
        teacher, NET, data, out=tmp_path / "python", quiet=True, epochs=1, seeds=[0],
        arms={"one": [Term(losses.cross_entropy, task="parity")]},
    )  # fmt: skip
    assert [row["name"] for row in run.report["tasks"]["each"]] == ["label", "parity"]
    assert run.report["models"][-1]["describes"] == "cross_entropy (of parity)"
    assert answers(run, "one-seed-0")["logits"].shape[1] == 12
    with pytest.raises(RecipeError, match="did you mean `parity`"):
        tutelage.distill(
            teacher, NET, data, out=tmp_path / "wrong", quiet=True, objective=[Term(losses.cross_entropy, task="party")]
        )


def test_one_task_is_as_ever(tmp_path: Path) -> None:
    data = {"source": "digits", "limit": 200}
    run = run_recipe(recipe("seeds=[0]", "train.epochs=1", data=data), tmp_path / "one", quiet=True)
    named = run_recipe(
        recipe("seeds=[0]", "train.epochs=1", "data.task=digit", data=data), tmp_path / "named", quiet=True
    )
    assert "tasks" not in run.report
    assert list(answers(run, "teacher")) == ["ids", "logits", "labels"]
    assert same(weights(run), weights(named))
    assert "Task by task" not in (run.folder / "report.html").read_text()


# Teachers of one task each


def taught(**changes: Any) -> Recipe:
    teachers = dict.fromkeys(("large", "digit", "parity"), TEACHER) | changes
    chosen = {name: one for name, one in teachers.items() if one is not None}
    return recipe("seeds=[0]", "train.epochs=1", teachers=chosen, combine={"how": "tasks"})


def test_each_of_several_teachers_has_a_task_of_its_own(tmp_path: Path) -> None:
    run = run_recipe(taught(), tmp_path / "each", quiet=True)
    assert [one["name"] for one in run.report["teachers"]] == list(TASKS)
    splits, said = load("arrays", path="digits.npz", val=0.1, test=0.2), answers(run, "teacher")
    mean, std = statistics(splits.train)
    for task, columns in COLUMNS.items():
        alone = build(ModelSpec("mlp", NET["args"]), input_shape=(1, 8, 8), classes=TASKS[task], mean=mean, std=std)
        load_weights(alone, run.folder / "teacher" / f"teacher-{task}.safetensors")
        with torch.no_grad():
            expected = alone.eval()(splits.test.inputs / 255).numpy()
        assert np.allclose(said["logits"][:, columns], expected, atol=1e-5)
        truth = said["labels" if task == "digit" else f"labels_{task}"]
        assert (expected.argmax(1) == truth).mean() > 0.8
    stores = {name: TEACHER | {"store": "auto"} for name in TASKS}
    stored = run_recipe(taught(**stores), tmp_path / "stored", quiet=True)
    assert same(weights(run), weights(stored))


def test_a_teacher_of_one_task_sees_no_other() -> None:
    job = job_of_recipe(taught(), trust=False)
    assert list(job.members) == list(TASKS)
    for task, one in job.members.items():
        parts = one.splits.train, one.splits.val, one.splits.test
        assert [part.sizes for part in parts] == [{task: TASKS[task]}] * 3
        assert torch.equal(parts[0].targets, job.splits.train.labels[task])
        assert torch.equal(parts[0].ids, job.splits.train.ids)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: taught(parity=None, party=TEACHER), r"`party` is named like no task(?s:.*)did you mean `parity`"),
        (lambda: taught(large=None), "nobody teaches the task `large`"),
        (lambda: recipe(teachers={"a": TEACHER, "b": TEACHER | {"seed": 1}}), "mean nothing"),
        (
            lambda: recipe(data={"source": "digits"}, combine={"how": "tasks"}, teachers={"label": TEACHER}),
            "need data with several",
        ),
        (lambda: recipe("report.attack={eps: 0.1}"), "with several tasks nobody says on which"),
        (lambda: recipe("data.task=parity"), "cannot be called like a further one"),
        (
            lambda: recipe(arms={"a": [{"loss": "cross_entropy", "task": "pariti"}]}),
            r"arms\.a(?s:.*)did you mean `parity`",
        ),
    ],
)
def test_what_cannot_be_meant_is_told_before_anything_is_trained(make: Any, what: str) -> None:
    with pytest.raises((InputError, RecipeError), match=what):
        job_of_recipe(make(), trust=False)

"""Whole runs: what lies in the folder, what is refused, what is reused, and that a kill changes nothing."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, f1_score
from torch import nn

import tutelage
from tutelage.data import Views, load
from tutelage.errors import DamagedError, InputError, ModelError, TrainingError
from tutelage.evaluation.calibration import fit_temperature
from tutelage.losses import cross_entropy, decoupled, soft_target
from tutelage.models import ModelSpec, build, state_digest
from tutelage.recipe import Recipe, from_mapping
from tutelage.run import load_student, run_recipe

TINY = {
    "name": "tiny",
    "seeds": [0, 1],
    "data": {"source": "digits", "limit": 400, "views": {"shift": 1}},
    "teacher": {"model": "mlp", "args": {"width": 32}, "train": {"epochs": 3, "batch_size": 32, "lr": 0.01}},
    "student": {"model": "mlp", "args": {"width": 4, "depth": 1, "dropout": 0.1}},
    "train": {"epochs": 3, "batch_size": 32, "lr": 0.01},
    "report": {"bootstrap": 200, "latency": False},
}


def tiny(*changes: str) -> Recipe:
    return from_mapping(TINY, changes)


def students(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("students/*/*/*.safetensors"))
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tutelage.Run:
    return run_recipe(tiny(), tmp_path_factory.mktemp("runs") / "tiny", quiet=True)


def test_a_run_leaves_what_the_documentation_says(finished: tutelage.Run) -> None:
    names = {str(p.relative_to(finished.folder)) for p in finished.folder.rglob("*") if p.is_file()}
    expected = {"config.yaml", "manifest.json", "metrics.jsonl", "log.txt", "report.json", "report.html", "README.md"}
    expected |= {
        "teacher/teacher.safetensors",
        "teacher/teacher.json",
        *(f"eval/teacher{part}.npz" for part in ("", "-val", "-train")),
    }
    for arm in ("scratch", "distilled"):
        for seed in (0, 1):
            expected |= {
                f"students/{arm}/seed-{seed}/{n}" for n in ("student.safetensors", "last.safetensors", "student.json")
            }
            expected |= {f"eval/{arm}-seed-{seed}{part}.npz" for part in ("", "-val", "-train")}
    assert expected <= names
    assert not [name for name in names if name.endswith(".tmp")]
    assert {name.split("/")[0] for name in names - expected} <= {"checkpoints", ".lock"}


def test_the_report_says_what_the_saved_answers_say(finished: tutelage.Run) -> None:
    for model in finished.report["models"]:
        for run in model["runs"]:
            name = "teacher" if model["role"] == "teacher" else f"{model['name']}-seed-{run['seed']}"
            with np.load(finished.folder / "eval" / f"{name}.npz") as saved:
                truth, chosen = saved["labels"], saved["logits"].argmax(-1)
            assert run["metrics"]["accuracy"] == pytest.approx(accuracy_score(truth, chosen))
            assert run["metrics"]["macro_f1"] == pytest.approx(f1_score(truth, chosen, average="macro"))


def test_the_temperature_comes_from_the_saved_validation_answers(finished: tutelage.Run) -> None:
    val = load("digits", path=None, val=0.1, test=0.2).val
    for model in finished.report["models"]:
        for run in model["runs"]:
            name = "teacher" if model["role"] == "teacher" else f"{model['name']}-seed-{run['seed']}"
            with np.load(finished.folder / "eval" / f"{name}-val.npz") as saved:
                assert np.array_equal(saved["ids"], val.ids.numpy())
                assert np.array_equal(saved["labels"], val.targets.numpy())
                fitted = fit_temperature(saved["logits"].astype(np.float64), saved["labels"])
            assert run["metrics"].get("temperature") == (None if fitted is None else pytest.approx(fitted.value))
    assert any("temperature" in model["metrics"] for model in finished.report["models"])


def test_the_report_judges_the_file_that_ships(finished: tutelage.Run) -> None:
    for model in finished.report["models"]:
        if model["role"] == "teacher":
            continue
        for run in model["runs"]:
            path = finished.student(model["name"], run["seed"]) / "student.safetensors"
            assert run["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
            assert run["file_bytes"] == path.stat().st_size
            with np.load(finished.folder / "eval" / f"{model['name']}-seed-{run['seed']}.npz") as saved:
                expected = torch.from_numpy(saved["logits"])
            test = load("digits", path=None, val=0.1, test=0.2).test
            with torch.no_grad():
                answers = load_student(path.parent)(test.inputs.float() / 255)
            torch.testing.assert_close(answers, expected, rtol=1e-5, atol=1e-5)


def test_arms_of_a_seed_start_alike_and_seeds_differ(finished: tutelage.Run) -> None:
    digests = {name: students(finished.folder)[name] for name in students(finished.folder) if "last" not in name}
    assert len(set(digests.values())) == 4
    rows = [json.loads(line) for line in (finished.folder / "metrics.jsonl").read_text().splitlines()]
    assert {(row["cohort"], row["arm"], row["epoch"]) for row in rows} == {
        (cohort, arm, epoch)
        for cohort in ("seed-0", "seed-1")
        for arm in ("scratch", "distilled")
        for epoch in (1, 2, 3)
    } | {("teacher", "teacher", epoch) for epoch in (1, 2, 3)}


def test_the_same_call_again_does_nothing(finished: tutelage.Run) -> None:
    before = {
        p: p.stat().st_mtime_ns
        for p in finished.folder.rglob("*")
        if p.name not in ("log.txt", "manifest.json", ".lock")
    }
    again = run_recipe(tiny(), finished.folder, quiet=True)
    assert again.verdict == finished.verdict
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert json.loads((finished.folder / "manifest.json").read_text())["test_looks"] == 1


def test_another_recipe_in_the_folder_is_refused_with_the_difference(finished: tutelage.Run) -> None:
    with pytest.raises(InputError, match=r"train\.lr: 0\.01 → 0\.02") as caught:
        run_recipe(tiny("train.lr=0.02"), finished.folder, quiet=True)
    assert "--out" in str(caught.value)
    assert "--overwrite" in str(caught.value)


def test_what_does_not_change_the_result_may_change(finished: tutelage.Run) -> None:
    assert run_recipe(tiny("train.checkpoint_seconds=5"), finished.folder, quiet=True).verdict == finished.verdict


def test_the_saved_recipe_runs_again_to_the_same_bits(finished: tutelage.Run, tmp_path: Path) -> None:
    from tutelage.recipe import load as load_recipe

    again = run_recipe(load_recipe(finished.folder / "config.yaml"), tmp_path / "again", quiet=True)
    assert students(again.folder) == students(finished.folder)
    log = (again.folder / "log.txt").read_text()
    assert "teacher: found in the cache" in log


def test_a_cached_teacher_that_was_altered_is_trained_again(finished: tutelage.Run, tmp_path: Path) -> None:
    for path in Path(os.environ["TUTELAGE_CACHE"]).glob("teachers/*/teacher.safetensors"):
        raw = bytearray(path.read_bytes())
        raw[-1] ^= 1
        path.write_bytes(raw)
    again = run_recipe(tiny(), tmp_path / "again", quiet=True)
    assert "the cached one cannot be used" in (again.folder / "log.txt").read_text()
    assert students(again.folder) == students(finished.folder)


def test_overwrite_removes_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run_recipe(tiny("seeds=[0]"), folder, quiet=True)
    (folder / "notes.md").write_text("mine")
    again = run_recipe(tiny("seeds=[1]"), folder, overwrite=True, quiet=True)
    assert again.report["seeds"] == [1]
    assert not (folder / "students" / "scratch" / "seed-0").exists()
    assert (folder / "notes.md").read_text() == "mine"


def test_a_student_altered_before_it_is_judged_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run_recipe(tiny("seeds=[0]"), folder, quiet=True)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"outcome": "running"}))
    path = folder / "students" / "scratch" / "seed-0" / "student.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DamagedError, match="was altered since it was saved"):
        run_recipe(tiny("seeds=[0]"), folder, quiet=True)


def test_changed_data_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(90, 6)).astype(np.float32), np.arange(90) % 3
    np.savez(tmp_path / "set.npz", x=x, y=y)
    recipe = from_mapping(TINY, ["data.source=arrays", f"data.path={tmp_path / 'set.npz'}", "data.limit=null",
                                 "data.views={}", "seeds=[0]", "train.epochs=1"])  # fmt: skip
    folder = tmp_path / "run"
    run_recipe(recipe, folder, quiet=True)
    np.savez(tmp_path / "set.npz", x=x + 1, y=y)
    with pytest.raises(tutelage.errors.DataError, match="the data has changed since this run began"):
        run_recipe(recipe, folder, quiet=True)
    os.utime(tmp_path / "set.npz")
    order = rng.permutation(90)
    np.savez(tmp_path / "set.npz", x=x[order], y=y[order])  # the same examples in another order are the same data
    assert run_recipe(recipe, folder, quiet=True).report["seeds"] == [0]


def test_distil_from_python_in_a_few_lines(tmp_path: Path) -> None:
    splits = load("digits", path=None, val=0.1, test=0.2)
    teacher = build(ModelSpec("mlp"), input_shape=(1, 8, 8), classes=10, mean=[0.3], std=[0.3])
    digest = state_digest(teacher)
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    untouched = state_digest(student)
    run = tutelage.distill(
        teacher, student, splits, out=tmp_path / "run", epochs=2, lr=0.01, views=Views(shift=1),
        objective=[tutelage.Term(soft_target, 0.5, 2.0), cross_entropy],
        arms={"dkd": [tutelage.Term(decoupled, 0.5), cross_entropy]}, quiet=True,
    )  # fmt: skip
    assert state_digest(teacher) == digest
    assert [model["name"] for model in run.report["models"]] == ["teacher", "scratch", "distilled", "dkd"]
    loaded = load_file(run.student("dkd") / "student.safetensors")
    assert loaded.keys() == student.state_dict().keys()
    assert state_digest(student) == untouched
    with pytest.raises(ModelError, match="built by code outside tutelage"):
        load_student(run.student())
    with pytest.raises(InputError, match=r"train\.epochs: 2 → 3"):
        tutelage.distill(teacher, student, splits, out=run.folder, epochs=3, lr=0.01, quiet=True)


def test_a_teacher_that_changes_is_caught(tmp_path: Path) -> None:
    class Drifting(nn.Module):
        """Counts its calls in a buffer, as a careless statistic would."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))
            self.inner = nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return self.inner(x.flatten(1))

    with pytest.raises(TrainingError, match="the teacher changed while its students learned"):
        tutelage.distill(Drifting(), "mlp", "digits", out=tmp_path / "run", epochs=1, quiet=True)


def test_teacher_and_students_by_name(tmp_path: Path) -> None:
    run = tutelage.distill(
        {"model": "mlp", "args": {"width": 16}}, lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "digits",
        out=tmp_path / "run", epochs=1, seeds=(0, 1), quiet=True,
    )  # fmt: skip
    assert run.report["models"][0]["parameters"] > run.report["models"][1]["parameters"] == 650


KILLED = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tutelage.recipe import load
from tutelage.run import run_recipe
run_recipe(load(sys.argv[1]), Path(sys.argv[2]), quiet=True)
"""


def test_killed_at_random_moments_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    from tutelage.recipe import dump

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        dump(tiny("train.checkpoint_seconds=0.05", "teacher.train.checkpoint_seconds=0.05", "train.epochs=40"))
    )

    def command(name: str) -> list[str]:
        return [sys.executable, "-c", KILLED, str(recipe), str(tmp_path / name)]

    def environment(name: str) -> dict[str, str]:
        return os.environ | {"TUTELAGE_CACHE": str(tmp_path / f"cache-{name}")}

    subprocess.run(command("straight"), check=True, env=environment("straight"))
    expected = students(tmp_path / "straight")
    assert len(expected) == 8
    chance = random.Random(1)
    kills = 0
    for _ in range(60):
        process = subprocess.Popen(command("killed"), env=environment("killed"))
        folder = tmp_path / "killed" / "metrics.jsonl"
        start = time.monotonic()
        while not folder.exists() and process.poll() is None and time.monotonic() - start < 60:
            time.sleep(0.01)
        time.sleep(chance.uniform(1.5, 3.5) if kills else 0.1)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        if kills == 3:
            subprocess.run(command("killed"), check=True, env=environment("killed"))
            break
    assert kills >= 1
    assert students(tmp_path / "killed") == expected
    assert not list((tmp_path / "killed").rglob("*.tmp"))


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    from tutelage import errors

    assert errors.__doc__ is not None
    drawn = dict(re.findall(r"(\w+(?:Error|Interrupted)?) +(\d+)(?:/\d+)?(?:  |$)", errors.__doc__, re.M))
    found = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.TutelageError)]
    assert {c.__name__ for c in found} == set(drawn)
    assert {c.__name__: str(c.exit_code) for c in found if c is not errors.Interrupted} == {
        name: code for name, code in drawn.items() if name != "Interrupted"
    }


def test_the_snippets_of_the_card_load_the_student(finished: tutelage.Run, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(finished.folder, moved)
    card = (moved / "README.md").read_text(encoding="utf-8")
    snippets = re.findall(r"^```python\n(.*?)^```", card, re.MULTILINE | re.DOTALL)
    assert ["tutelage" in snippet for snippet in snippets] == [True, False]
    shown: list[str] = []
    for snippet in snippets:
        assert str(finished.folder) not in snippet
        # Both answer the same to the same picture.
        asked = "x = torch.arange(64.0).reshape(1, 1, 8, 8) / 64\nprint(student(x).detach().numpy().round(3).tolist())"
        code = f"{snippet}\n{asked}"
        shown.append(
            subprocess.run([sys.executable, "-c", code], cwd=moved, capture_output=True, text=True, check=True).stdout
        )
    assert shown[0] == shown[1]
    assert len(json.loads(shown[0])[0]) == 10


def test_the_teacher_learns_in_its_own_precision(tmp_path: Path) -> None:
    plain = run_recipe(tiny("seeds=[0]"), tmp_path / "plain", quiet=True)
    half = run_recipe(tiny("seeds=[0]", "teacher.train.precision=bf16"), tmp_path / "half", quiet=True)
    teachers = [load_file(run.folder / "teacher" / "teacher.safetensors") for run in (plain, half)]
    assert any(not torch.equal(teachers[0][name], teachers[1][name]) for name in teachers[0])
    # Students without a teacher do not notice.
    digests = [students(run.folder) for run in (plain, half)]
    name = "students/scratch/seed-0/last.safetensors"
    assert digests[0][name] == digests[1][name]

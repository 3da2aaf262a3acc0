"""Iterating until a target is reached: ordinary runs by round, decided on validation alone, never twice."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as reference

import tutelage
from command_line import call
from tutelage.errors import DamagedError, GateError, InputError, RecipeError, TutelageError
from tutelage.recipe import Recipe, from_mapping
from tutelage.run import Iteration, iterate, run_recipe
from tutelage.run.crossval import cross_validate
from tutelage.run.iteration import METRICS, Goal
from tutelage.run.rounds import parse_adjust, rounds_of

TINY = {
    "name": "tiny",
    "seeds": [0, 1],
    "data": {"source": "digits"},
    "teacher": {"model": "mlp", "args": {"width": 16}, "train": {"epochs": 2, "batch_size": 64, "lr": 0.01}},
    "student": {"model": "mlp", "args": {"width": 4, "depth": 1}},
    "train": {"epochs": 1, "batch_size": 64, "lr": 0.03},
    "compress": ["fp16"],
    "report": {"bootstrap": 200, "latency": False},
}
# With four units the students reach about 0.2 in an epoch, with forty-eight about 0.7.
TARGET = 0.4
WIDTHS = {"student.args.width": [4, 48, 64]}
EPOCH = ("seeds=[0]", "train.lr=0.02")


def tiny(*changes: str) -> Recipe:
    return from_mapping(TINY, changes)


def again(home: Path, **changes: Any) -> Iteration:
    return iterate(tiny(), home, **{"target": TARGET, "adjust": WIDTHS, "quiet": True} | changes)


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Iteration:
    """Reached in the second round of three."""
    return again(tmp_path_factory.mktemp("iterate") / "second")


@pytest.fixture
def copied(second: Iteration, tmp_path: Path) -> Path:
    return Path(shutil.copytree(second.folder, tmp_path / "copy"))


def trained(home: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in home.rglob("*.safetensors")}


# ---- reaching the target ---------------------------------------------------------------------------------------------


def test_it_stops_at_the_first_round_that_reaches_the_target(second: Iteration) -> None:
    assert second.reached
    second.check()
    assert [one["reached"] for one in second.result["rounds"]] == [False, True]
    assert second.result["chosen"] == second.result["tried"] == 2
    assert second.result["planned"] == 3
    assert sorted(path.name for path in second.folder.glob("round-*")) == ["round-1", "round-2"]
    assert [one["values"] for one in second.result["rounds"]] == [{"student.args.width": w} for w in (4, 48)]
    assert second.run.folder == second.folder / "round-2"
    assert second.run.report == json.loads((second.folder / "round-2" / "report.json").read_text())
    assert json.loads((second.folder / "iterate.json").read_text()) == second.result


def test_the_decision_is_the_kept_epochs_of_the_students_on_validation(second: Iteration) -> None:
    for one in second.result["rounds"]:
        home = second.folder / f"round-{one['round']}"
        said = one["validation"]
        by_curve = []
        for seed in (0, 1):
            facts = json.loads((home / "students" / "distilled" / f"seed-{seed}" / "student.json").read_text())
            [kept] = [row for row in facts["curve"] if row["epoch"] == facts["kept_epoch"]]
            by_curve.append(kept["val_accuracy"])
        assert [row["value"] for row in said["per_seed"]] == by_curve
        assert said["mean"] == pytest.approx(np.mean(by_curve), abs=1e-15)
        assert said["sd"] == pytest.approx(np.std(by_curve, ddof=1), abs=1e-15)
        assert one["reached"] == (np.mean(by_curve) >= TARGET)


def test_test_figures_are_those_of_the_chosen_round_with_a_warning(second: Iteration) -> None:
    assert not any("test" in one for one in second.result["rounds"])
    row = next(row for row in second.run.report["models"] if row["name"] == "distilled")
    assert second.result["test"] == {"round": 2, "metrics": {"accuracy": row["metrics"]["accuracy"]}}
    [warning] = second.result["warnings"]
    assert warning.startswith("The round was chosen among 2 by validation")
    assert f"{row['metrics']['accuracy']['value'] * 100:.2f} %" in second.summary()
    first = json.loads((second.folder / "round-1" / "report.json").read_text())
    other = next(row for row in first["models"] if row["name"] == "distilled")
    assert f"{other['metrics']['accuracy']['value'] * 100:.2f} %" not in second.summary()


def test_the_teacher_is_trained_once_and_is_the_same_in_all_rounds(second: Iteration) -> None:
    weights = [(second.folder / f"round-{n}" / "teacher" / "teacher.safetensors").read_bytes() for n in (1, 2)]
    assert weights[0] == weights[1]
    assert "teacher: found in the cache" in (second.folder / "round-2" / "log.txt").read_text()


def test_a_round_is_what_the_recipe_with_its_values_gives(second: Iteration, tmp_path: Path) -> None:
    alone = run_recipe(tiny("student.args.width=48"), tmp_path / "alone", quiet=True)
    assert alone.report["models"] == second.run.report["models"]


def test_the_folder_says_what_happened_and_leads_to_the_reports(second: Iteration) -> None:
    page = (second.folder / "README.md").read_text()
    for number in (1, 2):
        assert f"(round-{number}/report.html)" in page
        assert (second.folder / f"round-{number}" / "report.html").is_file()
    assert "round 2 reached the target" in page
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert len({line.count("|") for line in rows}) == 1
    assert [line.split("|")[2].strip() for line in rows] == [
        "student.args.width",
        rows[1].split("|")[2].strip(),
        "",
        "4",
        "48",
    ]


def referred(metric: str, labels: Any, logits: Any, teacher: Any) -> float:
    """The same metric by scikit-learn, or by hand."""
    said = logits.argmax(1)
    shares = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    if metric == "nll":
        return float(reference.log_loss(labels, shares))
    if metric == "brier":
        return float(((shares - np.eye(10)[labels]) ** 2).sum(1).mean())
    if metric == "agreement":
        return float(np.mean(teacher.argmax(1) == said))
    score = {"macro_f1": reference.f1_score, "macro_recall": reference.recall_score}[metric]
    return float(score(labels, said, average="macro"))


def test_other_metrics_of_the_validation_part(copied: Path) -> None:
    before = trained(copied)
    for metric in ("macro_f1", "macro_recall", "nll", "brier", "agreement"):
        target = {"at most": 10.0, "at least": 0.01}[METRICS[metric]]
        found = again(copied, metric=metric, target=target)
        assert (found.result["chosen"], found.result["tried"]) == (1, 2)
        for one in found.result["rounds"]:
            folder = copied / f"round-{one['round']}" / "eval"
            teacher = np.load(folder / "teacher-val.npz")["logits"]
            for row in one["validation"]["per_seed"]:
                kept = np.load(folder / f"distilled-seed-{row['seed']}-val.npz")
                expected = referred(metric, kept["labels"], kept["logits"], teacher)
                assert row["value"] == pytest.approx(expected, abs=1e-6)
    assert trained(copied) == before


def test_compressed_students_have_a_validation_score_of_their_own(copied: Path) -> None:
    found = again(copied, arm="distilled.fp16")
    assert found.result["arm"] == "distilled.fp16"
    [first, _] = found.result["rounds"]
    row = next(row for row in found.run.report["models"] if row["name"] == "distilled.fp16")
    assert found.result["rounds"][1]["file_bytes"] == row["file_bytes"]
    kept = np.load(copied / "round-1" / "eval" / "distilled.fp16-seed-1-val.npz")
    assert first["validation"]["per_seed"][1]["value"] == np.mean(kept["logits"].argmax(1) == kept["labels"])


# ---- never reached ---------------------------------------------------------------------------------------------------


def test_without_a_round_that_reaches_it_the_best_is_named_and_more_can_be_tried(
    second: Iteration, copied: Path
) -> None:
    before = trained(copied)
    missed = again(copied, target=0.999, adjust={"student.args.width": [4, 48]})
    assert not missed.reached
    assert missed.result["chosen"] == 2
    assert trained(copied) == before
    with pytest.raises(GateError, match=r"no round reached the target: 2 rounds tried") as caught:
        missed.check()
    assert caught.value.exit_code == 4
    assert "in round 2" in str(caught.value)
    more = again(copied, target=0.999)
    assert more.result["tried"] == 3
    assert before.items() <= trained(copied).items()
    # A target that is lowered changes the choice, not how often was tried.
    lower = again(copied)
    assert (lower.result["chosen"], lower.result["tried"]) == (2, 3)
    assert lower.result["warnings"][0].startswith("The round was chosen among 3")


def test_of_equal_rounds_the_first_is_the_best() -> None:
    assert Goal(0.9).best([0.5, 0.7, 0.7]) == 1
    assert Goal(0.1, "nll").best([0.5, 0.2, 0.2]) == 1


@pytest.mark.parametrize(("value", "metric", "met"), [
    (0.95, "accuracy", True), (0.9499, "accuracy", False), (0.96, "macro_f1", True),
    (0.95, "nll", True), (0.9501, "nll", False),
])  # fmt: skip
def test_the_target_itself_is_good_enough(value: float, metric: str, met: bool) -> None:
    assert Goal(0.95, metric).met(value) is met


# ---- stopping and going on -------------------------------------------------------------------------------------------


def test_the_same_call_again_does_nothing_and_says_the_same(second: Iteration) -> None:
    before, said = trained(second.folder), (second.folder / "iterate.json").read_bytes()
    assert again(second.folder).result == second.result
    assert (second.folder / "iterate.json").read_bytes() == said
    assert trained(second.folder) == before


def test_stopped_in_a_round_it_goes_on_to_the_same_end(
    second: Iteration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = sys.modules["tutelage.run.execute"]  # the function of this name hides it
    judge = execute.judge

    def stopped(job: Any, shop: Any, *more: Any, **others: Any) -> Any:
        if shop.folder.path.name == "round-2":
            raise KeyboardInterrupt
        return judge(job, shop, *more, **others)

    with monkeypatch.context() as patch:
        patch.setattr(execute, "judge", stopped)
        with pytest.raises(KeyboardInterrupt):
            again(tmp_path / "stopped")
    assert not (tmp_path / "stopped" / "iterate.json").exists()
    before = trained(tmp_path / "stopped")
    assert any("round-2" in path.parts for path in before)
    found = again(tmp_path / "stopped")
    students = {path for path in before if "students" in path.parts}
    assert {path: trained(tmp_path / "stopped")[path] for path in students} == {p: before[p] for p in students}

    def timeless(result: Any) -> Any:
        own = [{key: one[key] for key in one if key != "wall_seconds"} for one in result["rounds"]]
        return {**result, "rounds": own, "command": ""}

    assert timeless(found.result) == timeless(second.result)


def test_seeds_by_chance_are_drawn_once(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"target": 1e-6, "adjust": {"train.epochs": [1]}, "quiet": True}
    first = iterate(tiny("seeds=null"), tmp_path / "out", **asked)
    assert iterate(tiny("seeds=null"), tmp_path / "out", **asked).result == first.result


def test_another_recipe_or_other_values_need_another_folder(second: Iteration) -> None:
    before = trained(second.folder)
    with pytest.raises(InputError, match="another recipe"):
        iterate(tiny("train.lr=0.02"), second.folder, target=TARGET, adjust=WIDTHS, quiet=True)
    with pytest.raises(InputError, match=r"holds other rounds\n.*round 2: student.args.width=8\n.*width=48"):
        again(second.folder, adjust={"student.args.width": [4, 8, 64]})
    with pytest.raises(InputError, match=r"holds other rounds\n.*round 2: none"):
        again(second.folder, adjust={"student.args.width": [4]})
    assert trained(second.folder) == before
    assert again(second.folder).result == second.result


def test_runs_of_other_kinds_do_not_share_its_folder(second: Iteration, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds the rounds of an iteration"):
        run_recipe(tiny(), second.folder, quiet=True)
    with pytest.raises(InputError, match="holds the rounds of an iteration"):
        cross_validate(tiny(), second.folder, folds=2, quiet=True)
    run = run_recipe(tiny(*EPOCH), tmp_path / "run", quiet=True)
    with pytest.raises(InputError, match="holds an ordinary run"):
        iterate(tiny(*EPOCH), run.folder, target=TARGET, adjust=WIDTHS, quiet=True)
    cross_validate(tiny(*EPOCH), tmp_path / "cv", folds=2, quiet=True)
    with pytest.raises(InputError, match="holds a cross-validation"):
        iterate(tiny(*EPOCH), tmp_path / "cv", target=TARGET, adjust=WIDTHS, quiet=True)


def test_overwriting_removes_the_rounds_and_only_these(copied: Path) -> None:
    (copied / "round-notes").mkdir()
    (copied / "round-notes" / "mine.txt").write_text("kept")
    found = iterate(tiny(*EPOCH), copied, target=0.999, adjust={"student.args.width": [4]}, overwrite=True, quiet=True)
    assert sorted(path.name for path in copied.glob("round-*")) == ["round-1", "round-notes"]
    assert found.result["tried"] == 1
    assert found.result["warnings"] == []
    assert found.result["rounds"][0]["validation"]["sd"] is None


def test_damage_in_one_round_does_not_orphan_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    execute = sys.modules["tutelage.run.execute"]
    judge = execute.judge

    def damaged(job: Any, shop: Any, *more: Any, **others: Any) -> Any:
        if shop.folder.path.name == "round-2":
            raise DamagedError("a file was altered")
        return judge(job, shop, *more, **others)

    monkeypatch.setattr(execute, "judge", damaged)
    asked: dict[str, Any] = {"target": 0.999, "adjust": {"student.args.width": [4, 5]}, "quiet": True}
    with pytest.raises(DamagedError, match="a file was altered"):
        iterate(tiny(*EPOCH), tmp_path / "out", **asked)
    first = json.loads((tmp_path / "out" / "round-1" / "manifest.json").read_text())
    monkeypatch.setattr(execute, "judge", judge)
    assert iterate(tiny(*EPOCH), tmp_path / "out", **asked).result["tried"] == 2
    assert json.loads((tmp_path / "out" / "round-1" / "manifest.json").read_text()) == first


def test_altered_answers_decide_nothing(copied: Path) -> None:
    path = copied / "round-1" / "eval" / "distilled-seed-0-val.npz"
    kept = dict(np.load(path))
    np.savez(path, **kept | {"logits": np.eye(10, dtype=np.float32)[kept["labels"]]})
    with pytest.raises(DamagedError, match="other answers than the report was made from"):
        again(copied)


# ---- which rounds ----------------------------------------------------------------------------------------------------


def test_together_and_each() -> None:
    lists = {"train.epochs": [1, 2, 3], "student.args.width": [4, 8]}

    def values(order: str) -> list[tuple[int, int]]:
        return [(one.recipe.train.epochs, one.recipe.student.args["width"]) for one in rounds_of(tiny(), lists, order)]

    assert values("together") == [(1, 4), (2, 8), (3, 8)]
    assert values("each") == [(1, 4), (1, 8), (2, 4), (2, 8), (3, 4), (3, 8)]
    one = rounds_of(tiny("train.lr=0.03"), {"arms.distilled.0.temperature": [2.5]})[0].recipe
    assert one.arms["distilled"][0].temperature == 2.5
    assert one.train.lr == 0.03
    assert one.seeds == (0, 1)


def test_values_as_they_are_typed() -> None:
    found = parse_adjust(
        ["train.epochs=5, 10", "train.optimizer_args={betas: [0.9, 0.99], eps: 1e-8},{}", "train.scheduler=null,'a,b'"]
    )
    assert found == {
        "train.epochs": [5, 10],
        "train.optimizer_args": [{"betas": [0.9, 0.99], "eps": 1e-8}, {}],
        "train.scheduler": [None, "a,b"],
    }


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adjust": {}}, "needs something to adjust"),
        ({"adjust": {"data.limit": [10, 20]}}, "rounds are compared on the same examples"),
        ({"adjust": {"seeds": [[0], [1]]}}, "rounds are compared over the same seeds"),
        ({"adjust": {"teacher.args.width": [8, 16]}}, "the same teacher, which is trained once"),
        ({"adjust": {"report.bootstrap": [200, 300]}}, "it changes nothing that a student learns"),
        ({"adjust": {"train.checkpoint_seconds": [1, 2]}}, "it changes nothing that a student learns"),
        ({"adjust": {"tran.epochs": [1, 2]}}, "no key `tran`.*\nhint: did you mean `train`"),
        ({"adjust": {"train.epoch": [1, 2]}}, "round 1, train.epoch=1"),
        ({"adjust": {"train.epochs": 5}}, "needs a list of values"),
        ({"adjust": {"train.epochs": [1, object()]}}, "no recipe can hold"),
        ({"adjust": {"train.epochs": [1, 0]}}, r"round 2, train.epochs=0"),
        ({"adjust": {"student.args.wide": [1, 2]}}, r"round 1, student.args.wide=1"),
        ({"adjust": {"student.args.width": [4, -1]}}, r"round 2, student.args.width=-1"),
        ({"adjust": {"train.optimizer": ["adamw", "adamx"]}}, r"round 2, train.optimizer=adamx"),
        ({"adjust": {"train.epochs": [1, 2, 1]}}, "rounds 1 and 3 are the same"),
        ({"adjust": {"train.epochs": list(range(1, 1001))}}, "too many rounds"),
        ({"target": 60}, r"this is no target for accuracy[\s\S]*did you mean 0.6\?"),
        ({"target": float("nan")}, "this is no target"),
        ({"target": 0.0, "metric": "nll"}, "this is no target for nll"),
        ({"metric": "macro_f2"}, "no metric `macro_f2`[\\s\\S]*did you mean `macro_f1`"),
        ({"arm": "destilled"}, "no arm `destilled`[\\s\\S]*did you mean `distilled`"),
        ({"order": "both"}, "no order `both`"),
    ],
    ids=lambda value: None if isinstance(value, str) else next(iter(value)),
)
def test_mistakes_are_told_before_anything_is_trained(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TutelageError, match=message) as caught:
        again(tmp_path / "out", **changes)
    assert caught.value.exit_code in (2, 3)
    assert not (tmp_path / "out").exists() or os.listdir(tmp_path / "out") == [".lock"]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["train.epochs"], "a key with values"),
        (["=1,2"], "a key with values"),
        (["train.epochs=1,,2"], "a key with values"),
        (["train.epochs=1", "train.epochs=2"], "adjusted twice"),
    ],
)
def test_mistyped_adjustments(typed: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_adjust(typed)


def test_brackets_that_do_not_close_are_told_with_the_text() -> None:
    with pytest.raises(RecipeError, match=r"--adjust train.optimizer_args=\{betas: 1,2"):
        parse_adjust(["train.optimizer_args={betas: 1,2"])


def test_several_processes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="one process"):
        again(tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---- on the command line ---------------------------------------------------------------------------------------------


def test_on_the_command_line(second: Iteration, copied: Path) -> None:
    recipe = copied.parent / "tiny.yaml"
    recipe.write_text(json.dumps(TINY))
    words = ["iterate", str(recipe), "--adjust", "student.args.width=4,48,64", "--out", str(copied), "--quiet"]
    found = call(*words, "--target", str(TARGET))
    assert found.code == 0, found.err
    assert "round 2 reached the target" in found.out
    assert "warning: The round was chosen among 2 by validation" in found.out
    command = json.loads((copied / "iterate.json").read_text())["command"]
    assert command == " ".join(["tutelage", *words, "--target", str(TARGET)])
    missed = call(*words[:2], "--adjust", "student.args.width=4,48", *words[4:], "--target", "0.999", "--json")
    assert missed.code == 4
    assert "no round reached the target" in missed.err
    said = json.loads(missed.out)
    assert said["folder"] == str(copied)
    assert (said["reached"], said["chosen"]) == (False, 2)
    wrong = call(*words, "--target", "0.9", "--adjust", "data.val=0.2,0.3")
    assert wrong.code == 2
    assert "`data.val` cannot be adjusted" in wrong.err
    assert call(*words[:2], "--target", "0.9").code == 2


def test_it_is_a_name_of_the_package() -> None:
    assert tutelage.iterate is iterate

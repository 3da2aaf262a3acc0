"""A report computed again from saved answers alone: the same to the last bit, or a plain word about what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scored_runs import make_run
from tutelage.errors import DamagedError, InputError
from tutelage.evaluation.rebuild import differences
from tutelage.evaluation.scoring import digest
from tutelage.run.evalfiles import Kept, eval_files, read_eval_file, write_eval_file
from tutelage.run.rescore import rescore

RUNS: dict[str, dict[str, Any]] = {
    "one-seed": {"seeds": (3,)},
    "three-seeds": {},
    "two-students": {"students": ("small", "tiny"), "parts": ("test", "val", "train")},
    "compressed": {"compress": ("fp16", "int8")},
    "everything": {
        "seeds": (5, 1), "students": ("small", "tiny"), "compress": ("int8",), "parts": ("test", "val", "train"),
        "store": True,
    },
    "store-answers": {"seeds": (0,), "store": True},
    "no-latency": {"timed": False},
    "only-test-answers": {"parts": ("test",)},
    "another-baseline": {"baseline": "warm"},
    "no-baseline": {"baseline": "none of them", "teacher_val_accuracy": None, "warnings": ()},
}  # fmt: skip


@pytest.mark.parametrize("shape", RUNS.values(), ids=RUNS)
def test_every_key_of_the_report_comes_out_the_same(tmp_path: Path, shape: dict[str, Any]) -> None:
    folder = make_run(tmp_path / "run", **shape)
    stored = json.loads((folder / "report.json").read_text())
    made = rescore(folder)
    assert list(made) == list(stored)
    for key, value in stored.items():
        assert made[key] == value, key
    # Not only equal as numbers: the file would have the same bytes.
    assert json.dumps(made) == json.dumps(stored)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("rescore") / "run", (0, 1), parts=("test", "val", "train"))


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    (tmp_path / "eval").mkdir()
    for file in [run / "report.json", *sorted((run / "eval").iterdir())]:
        (tmp_path / file.relative_to(run)).write_bytes(file.read_bytes())
    return tmp_path


def rewrite(path: Path, **change: Callable[[Any], Any]) -> None:
    with np.load(path) as saved:
        arrays = {name: change.get(name, lambda array: array)(saved[name]) for name in saved.files}
    np.savez(path, **arrays)


def bump(array: np.ndarray) -> np.ndarray:
    """One number, moved by its last bit."""
    return np.concatenate([np.nextafter(array[:1], np.inf, dtype=array.dtype), array[1:]])


@pytest.mark.parametrize(
    "name", ["teacher.npz", "teacher-train.npz", "scratch-seed-0.npz", "distilled-seed-1-val.npz", "warm-seed-1.npz"]
)
@pytest.mark.parametrize("harm", ["missing", "cut", "last-bit", "order", "labels", "ids", "narrow", "empty"])
def test_answers_that_are_not_those_of_the_run_are_named(copy: Path, name: str, harm: str) -> None:
    path = copy / "eval" / name
    if harm == "missing":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    elif harm == "empty":
        path.write_bytes(b"")
    elif harm == "order":
        rewrite(path, **dict.fromkeys(("ids", "logits", "labels"), lambda array: array[::-1]))
    elif harm == "narrow":
        rewrite(path, logits=lambda array: array[:, 1:])
    else:
        changes = {"last-bit": {"logits": bump}, "labels": {"labels": lambda a: (a + 1) % 4},
                   "ids": {"ids": lambda a: a + 1}}  # fmt: skip
        rewrite(path, **changes[harm])
    # Sums name the file itself; where only the questions differ, either of the two files may be the wrong one.
    with pytest.raises(DamagedError) as caught:
        rescore(copy)
    assert str(copy / "eval") in str(caught.value)
    if harm not in ("labels", "ids", "order") or not name.startswith("teacher"):
        assert name in str(caught.value)


def test_answers_may_be_kept_in_more_digits(copy: Path) -> None:
    before = rescore(copy)
    rewrite(copy / "eval" / "teacher.npz", logits=lambda array: array.astype(np.float64))
    assert rescore(copy) == before


def test_a_folder_without_answers_or_report_is_refused(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    for file in (copy / "eval").iterdir():
        file.unlink()
    (copy / "eval").rmdir()
    with pytest.raises(DamagedError, match="eval is missing"):
        rescore(copy)
    with pytest.raises(InputError, match="no finished run"):
        rescore(tmp_path_factory.mktemp("nothing"))


def altered(folder: Path, change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    report = json.loads((folder / "report.json").read_text())
    change(report)
    (folder / "report.json").write_text(json.dumps(report))
    return report


def test_a_report_of_an_earlier_version_says_so(copy: Path) -> None:
    altered(copy, lambda report: report.pop("resamples"))
    with pytest.raises(InputError, match="earlier version"):
        rescore(copy)


@pytest.mark.parametrize(
    "change",
    [
        lambda report: report["models"].clear(),
        lambda report: report.update(models={}),
        lambda report: report["models"][1]["runs"][0].pop("answers"),
        lambda report: report["models"][1].update(of="nobody"),
        lambda report: report["models"][1]["runs"][0].update(seed="x"),
        lambda report: report["data"]["counts"].pop(),
        lambda report: report["data"].pop("totals"),
        lambda report: report["classes"].pop(),
        lambda report: report.update(recipe=None),
        lambda report: report["models"][1]["latency"][0].update(p50_ms=0),
        lambda report: report.update(resamples=-1),
        lambda report: report.update(training=3),
    ],
)
def test_a_report_that_no_run_wrote_is_damaged(copy: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    altered(copy, change)
    with pytest.raises(DamagedError, match="is not what a run wrote"):
        rescore(copy)


def test_what_was_altered_by_hand_comes_out_as_it_was(copy: Path) -> None:
    before = json.loads((copy / "report.json").read_text())

    def change(report: dict[str, Any]) -> None:
        report["models"][2]["metrics"]["accuracy"]["value"] = 0.999
        report["comparisons"][0]["decision"] = "none"
        report["per_class"][1]["recall"]["distilled"] = 1.0
        report["frontier"]["points"].pop()
        del report["compressions"]
        report["warnings"] = []

    after = altered(copy, change)
    made = rescore(copy)
    assert made == before
    value = before["models"][2]["metrics"]["accuracy"]["value"]
    decision = before["comparisons"][0]["decision"]
    assert differences(after, made) == [
        f"models.distilled.metrics.accuracy.value: 0.999, by the answers {value}",
        f"comparisons.distilled.decision: none, by the answers {decision}",
        "compressions: missing",
        "frontier.points: 3 entries, by the answers 4 entries",
        f"per_class.dog.recall.distilled: 1.0, by the answers {before['per_class'][1]['recall']['distilled']}",
        f"warnings: 0 entries, by the answers {len(before['warnings'])} entries",
    ]


def test_last_digits_are_no_difference_and_words_about_a_report_no_part_of_it() -> None:
    before = {"a": 0.1 + 0.2, "b": [1, None, "x"], "verdict": 1, "c": True}
    assert differences(before, {"a": 0.3, "b": [1, None, "x"], "c": True}) == []
    assert differences(before, {"a": 0.30001, "b": [1, 0, "y"], "c": False}) == [
        "a: 0.30000000000000004, by the answers 0.30001",
        "b.1: None, by the answers 0",
        "b.2: x, by the answers y",
        "c: True, by the answers False",
    ]
    assert differences({"a": 1}, {}) == ["a: not made from the answers"]


def test_answers_come_back_from_their_file_as_they_were_and_in_the_same_bytes(tmp_path: Path) -> None:
    kept = Kept(np.array([2**62, 1]), np.array([1, 0]), np.array([[0.1, -np.inf], [1.5, 2.0]], dtype=np.float32))
    for name in ("one.npz", "two.npz"):
        write_eval_file(tmp_path / name, kept)
    found = read_eval_file(tmp_path / "one.npz", 2)
    assert (found.ids.tolist(), found.labels.tolist()) == ([2**62, 1], [1, 0])
    assert found.logits.dtype == np.float32
    assert np.array_equal(found.logits, kept.logits)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    assert eval_files(tmp_path, "a.int8", 3)["val"] == tmp_path / "eval" / "a.int8-seed-3-val.npz"


def test_a_sum_belongs_to_numbers_not_to_the_type_that_keeps_them() -> None:
    logits = np.array([[1.5, -2.0]], dtype=np.float32)
    assert digest(logits) == digest(logits.astype(np.float64)) == digest(np.asfortranarray(logits))
    assert digest(np.int32([1, 2])) == digest(np.int64([1, 2]))
    assert len({digest(logits), digest(logits.T), digest(-logits), digest(logits, logits), digest(logits[0])}) == 5

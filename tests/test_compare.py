"""Finished runs side by side: against scipy, closed forms and slow twins; what is refused; what a gate lets by."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.utils import resample

from test_bad_inputs import Outcome
from tutelage import cli
from tutelage.cli.compare import compare
from tutelage.errors import DamagedError, DataError, GateError, InputError, MismatchError
from tutelage.evaluation import metrics
from tutelage.evaluation.differences import bootstrap_rows, ece_difference, welch
from tutelage.recipe import from_mapping
from tutelage.run import run_recipe
from tutelage.run.compare import compare_many, compare_runs

N, CLASSES = 300, ("ant", "bee", "cow")
LABELS = np.arange(N) % 3
IDS = np.random.default_rng(5).permutation(N).astype(np.int64) * 7919 - 10**15


def answers(share: float, seed: int, spread: float = 1.0) -> np.ndarray:
    """Logits that name the label for about `share` of the examples; how hard an example is, all seeds agree on."""
    ease = np.random.default_rng(99).uniform(size=N)
    generator = np.random.default_rng([seed, round(share * 1000)])
    right = 0.7 * ease + 0.3 * generator.uniform(size=N) < share
    logits = generator.normal(0.0, 0.3, size=(N, 3))
    logits[np.arange(N), np.where(right, LABELS, (LABELS + 1) % 3)] += 2.0
    return (logits * spread).astype(np.float32)


def written(home: Path, arms: dict[str, dict[int, np.ndarray]], **changes: Any) -> Path:
    """A run's folder with what a comparison reads; `order` shuffles the rows of its files."""
    ids, labels = changes.get("ids", IDS), changes.get("labels", LABELS)
    order = changes.get("order", np.arange(len(ids)))
    (home / "eval").mkdir(parents=True)
    models: list[dict[str, Any]] = [{"name": "teacher", "role": "teacher", "runs": []}]
    for arm, seeds in arms.items():
        runs = []
        for seed, logits in seeds.items():
            rows = {"ids": ids[order], "logits": logits[order], "labels": labels[order]}
            np.savez(home / "eval" / f"{arm}-seed-{seed}.npz", **rows)
            runs.append({"seed": seed, "metrics": {"accuracy": float(np.mean(logits.argmax(1) == labels))}})
        models.append({"name": arm, "role": "distilled", "runs": runs})
    report = {
        "format": "tutelage-report-1", "headline": next(iter(arms)), "models": models,
        "classes": list(changes.get("classes", CLASSES)),
    }  # fmt: skip
    (home / "report.json").write_text(json.dumps(report))
    (home / "manifest.json").write_text(json.dumps({"outcome": changes.get("outcome", "complete")}))
    return home


def arm(share: float, *seeds: int, spread: float = 1.0) -> dict[str, dict[int, np.ndarray]]:
    return {"distilled": {seed: answers(share, seed, spread) for seed in seeds}}


def right(share: float, *seeds: int) -> np.ndarray:
    return np.stack([answers(share, seed).argmax(1) == LABELS for seed in seeds])


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command line with this command in it, in this process."""
    if "compare" not in cli.cli.commands:
        monkeypatch.setitem(cli.cli.commands, "compare", compare)

    def called(*words: object) -> Outcome:
        out, err = io.StringIO(), io.StringIO()
        monkeypatch.setattr(sys, "argv", ["tutelage", "compare", *map(str, words)])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as caught:
            cli.main()
        return Outcome(caught.value.code, out.getvalue(), err.getvalue())

    return called


# ---- a real run ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    part = {"model": "mlp", "args": {"width": 8, "depth": 1}}
    train = {"epochs": 1, "batch_size": 32, "lr": 0.01}
    recipe = from_mapping({
        "name": "tiny", "seeds": [0, 1], "data": {"source": "digits", "limit": 200}, "train": train, "student": part,
        "teacher": {**part, "train": train}, "report": {"bootstrap": 100, "latency": False},
    })  # fmt: skip
    return run_recipe(recipe, tmp_path_factory.mktemp("compare") / "run", quiet=True).folder


def test_the_arms_of_a_real_run_differ_as_its_report_says(finished: Path, tmp_path: Path) -> None:
    report = json.loads((finished / "report.json").read_text())
    for folder in ("eval", "report.json", "manifest.json"):  # nothing else of the run is needed
        source = finished / folder
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / folder)
    found = compare_runs(f"{tmp_path}:scratch", tmp_path, resamples=100)
    told = report["comparisons"][0]
    for key in ("difference", "by_seed", "by_example", "p", "p_adjusted", "per_seed", "minimum_detectable", "decision"):
        assert found.accuracy[key] == told[key], key
    distilled = next(model for model in report["models"] if model["name"] == "distilled")
    for key in ("accuracy", "nll", "ece"):
        assert found.levels["second"][key] == pytest.approx(distilled["metrics"][key]["value"])
    for row, other in zip(found.per_class, report["per_class"], strict=True):
        assert (row["change"], row["p_adjusted"]) == (other["change"], other["p_adjusted"])
    assert found.second.endswith(":distilled")
    assert found.seeds == (0, 1)


# ---- numbers ---------------------------------------------------------------------------------------------------------


def test_common_seeds_make_pairs_as_in_scipy(tmp_path: Path) -> None:
    first, second = written(tmp_path / "a", arm(0.7, 1, 2, 3, 4)), written(tmp_path / "b", arm(0.8, 2, 3, 4, 9))
    found = compare_runs(first, second)
    ours, theirs = right(0.8, 2, 3, 4).mean(axis=1), right(0.7, 2, 3, 4).mean(axis=1)
    expected = stats.ttest_rel(ours, theirs)
    interval = expected.confidence_interval(0.95)
    difference = found.accuracy["difference"]
    assert found.seeds == (2, 3, 4)
    assert found.accuracy["p"] == pytest.approx(expected.pvalue)
    assert difference["value"] == pytest.approx(float(np.mean(ours - theirs)))
    assert (difference["ci_low"], difference["ci_high"]) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert [text.rsplit(" ", 1)[1] for text in found.notices] == ["1", "9"]
    assert found.accuracy["decision"] == "gain"
    assert "better" in found.summary()


def test_single_seeds_are_judged_by_the_examples(tmp_path: Path) -> None:
    found = compare_runs(written(tmp_path / "a", arm(0.7, 3)), written(tmp_path / "b", arm(0.72, 3)))
    a, b = right(0.7, 3)[0], right(0.72, 3)[0]
    gained, lost = int((b & ~a).sum()), int((a & ~b).sum())
    assert found.accuracy["p"] == pytest.approx(stats.binomtest(gained, gained + lost).pvalue)
    assert found.accuracy["minimum_detectable"] == pytest.approx(1.959964 * np.sqrt((gained + lost) / N) / np.sqrt(N))
    change = b.astype(float) - a
    slow = [np.mean(resample(change, stratify=LABELS, random_state=i)) for i in range(800)]
    low, high = np.quantile(slow, [0.025, 0.975])
    difference = found.accuracy["difference"]
    assert difference["ci_low"] == pytest.approx(low, abs=2.1 / N)
    assert difference["ci_high"] == pytest.approx(high, abs=2.1 / N)  # it moves in steps of 1/N
    assert found.accuracy["by_seed"] is None
    assert "single run, seed 3" in found.summary()
    assert "the luck of another training is not in this interval" in found.summary()


def test_without_a_common_seed_only_the_examples_make_pairs(tmp_path: Path) -> None:
    first, second = written(tmp_path / "a", arm(0.7, 0, 1, 2)), written(tmp_path / "b", arm(0.75, 5, 6))
    found = compare_runs(first, second)
    a, b = right(0.7, 0, 1, 2), right(0.75, 5, 6)
    expected = stats.ttest_ind(b.mean(axis=1), a.mean(axis=1), equal_var=False)
    interval = expected.confidence_interval(0.95)
    difference = found.accuracy["difference"]
    assert found.seeds == ()
    assert found.accuracy["p"] == pytest.approx(expected.pvalue)
    assert (difference["ci_low"], difference["ci_high"]) == (pytest.approx(interval.low), pytest.approx(interval.high))
    change = b.mean(axis=0) - a.mean(axis=0)
    error = np.sqrt(sum(change[c == LABELS].var() * 100 for c in range(3))) / N
    by_example = found.accuracy["by_example"]
    assert by_example["value"] == pytest.approx(float(change.mean()))
    assert by_example["ci_high"] - by_example["ci_low"] == pytest.approx(2 * 1.96 * error, rel=0.05)
    assert "no seed is common" in found.summary()
    pairs = [(answers(0.7, i).argmax(1) == answers(0.75, j).argmax(1)).mean() for i in (0, 1, 2) for j in (5, 6)]
    assert found.agreement == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize("seeds", [(5,), (5, 6)])
def test_one_run_against_others_of_other_seeds_has_no_spread_by_seed(tmp_path: Path, seeds: tuple[int, ...]) -> None:
    found = compare_runs(written(tmp_path / "a", arm(0.7, 0)), written(tmp_path / "b", arm(0.75, *seeds)))
    a, b = right(0.7, 0)[0].astype(float), right(0.75, *seeds).mean(axis=0)
    assert found.accuracy["basis"] == "examples"
    gained, lost = int((b > a).sum()), int((b < a).sum())
    expected = stats.binomtest(gained, gained + lost) if len(seeds) == 1 else stats.ttest_rel(b, a)
    assert found.accuracy["p"] == pytest.approx(expected.pvalue)
    assert "single run on at least one side" in found.summary()


def test_nll_has_the_interval_of_resampled_rows(tmp_path: Path) -> None:
    first, second = written(tmp_path / "a", arm(0.7, 1, 2)), written(tmp_path / "b", arm(0.8, 1, 2))
    found = compare_runs(first, second).nll

    def each(share: float) -> np.ndarray:
        log_p = [stats_log_softmax(answers(share, seed)) for seed in (1, 2)]
        return -np.mean(log_p, axis=0)[np.arange(N), LABELS]

    change = each(0.8) - each(0.7)
    error = np.sqrt(sum(change[c == LABELS].var() * 100 for c in range(3))) / N
    assert found.value == pytest.approx(float(change.mean()))
    assert found.ci_low == pytest.approx(found.value - 1.96 * error, abs=0.1 * error)
    assert found.ci_high == pytest.approx(found.value + 1.96 * error, abs=0.1 * error)


def stats_log_softmax(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    return wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))


def test_ece_has_the_interval_of_resampled_rows() -> None:
    ours, theirs = (metrics.as_logits(answers(0.8, 1, spread)) for spread in (2.0, 1.0))
    found = ece_difference([ours], [theirs], LABELS, 2000)
    value = metrics.ece(ours, LABELS) - metrics.ece(theirs, LABELS)
    slow = []
    for turn in range(400):
        a, b, y = resample(ours, theirs, LABELS, stratify=LABELS, random_state=turn)
        slow.append(metrics.ece(a, y) - metrics.ece(b, y))
    low, high = np.quantile(slow, [0.025, 0.975]) - np.mean(slow) + value
    assert found.value == pytest.approx(value)
    assert found.ci_low == pytest.approx(low, abs=0.1 * (high - low))
    assert found.ci_high == pytest.approx(high, abs=0.1 * (high - low))


def test_what_bins_make_of_drawn_rows_is_what_ece_makes_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from tutelage.evaluation import differences

    seen: list[tuple[np.ndarray, np.ndarray]] = []

    def spy(value: float, statistic: Any, labels: np.ndarray, resamples: int, **_: Any) -> Any:
        rows = np.random.default_rng(0).integers(0, labels.size, size=(20, labels.size))
        seen.append((rows, statistic(rows)))

    monkeypatch.setattr(differences, "bootstrap_rows", spy)
    ours, theirs = ([metrics.as_logits(answers(share, seed)) for seed in (1, 2)] for share in (0.8, 0.6))
    differences.ece_difference(ours, theirs, LABELS, 100)
    (rows, values) = seen[0]
    slow = [
        np.mean([metrics.ece(one[row], LABELS[row]) for one in ours])
        - np.mean([metrics.ece(one[row], LABELS[row]) for one in theirs])
        for row in rows
    ]
    assert values == pytest.approx(np.asarray(slow), abs=1e-12)


def test_rows_are_drawn_within_their_class_and_fewer_times_where_there_are_many() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])

    def counted(rows: np.ndarray) -> np.ndarray:
        assert (np.sort(labels[rows], axis=1) == labels).all()
        return np.zeros(len(rows))

    assert "500 resamples" in bootstrap_rows(0.0, counted, labels, 500).method
    big = np.arange(100_000) % 2
    assert "200 resamples" in bootstrap_rows(0.0, lambda rows: np.zeros(len(rows)), big, 10_000).method


def test_equal_means_over_seeds_do_not_make_an_interval_of_no_width() -> None:
    found, p = welch([0.5, 0.5], [0.5, 0.5], 100)
    assert found is not None
    assert found.ci_low is not None
    assert found.ci_low < 0.0
    assert p == pytest.approx(1.0)


def test_shuffled_rows_give_the_same_numbers(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(N)
    first, second = written(tmp_path / "a", arm(0.7, 1, 2)), written(tmp_path / "b", arm(0.75, 1, 2))
    shuffled = written(tmp_path / "c" / "b", arm(0.75, 1, 2), order=order)
    plain, other = (compare_runs(first, one, resamples=500).to_json() for one in (second, shuffled))
    for found in (plain, other):
        found.pop("second")
        found["accuracy"].pop("name")
    assert plain == other


def test_several_runs_are_adjusted_by_holm(tmp_path: Path) -> None:
    first = written(tmp_path / "a", arm(0.7, 1, 2, 3))
    others = [written(tmp_path / f"b{share}", arm(share, 1, 2, 3)) for share in (0.71, 0.8, 0.9)]
    found = compare_many(first, others, resamples=100)
    raw = [one.accuracy["p"] for one in found]
    order = np.argsort(raw)
    expected = np.maximum.accumulate([min(1.0, (3 - rank) * raw[index]) for rank, index in enumerate(order)])
    assert [found[index].accuracy["p_adjusted"] for index in order] == pytest.approx(list(expected))
    assert "by Holm over 3 comparisons" in found[0].summary()
    assert "Holm" not in compare_runs(first, others[0], resamples=100).summary()


def test_classes_are_adjusted_by_benjamini_and_hochberg(tmp_path: Path) -> None:
    first, second = written(tmp_path / "a", arm(0.6, 1, 2)), written(tmp_path / "b", arm(0.8, 1, 2))
    change = right(0.8, 1, 2).mean(axis=0) - right(0.6, 1, 2).mean(axis=0)
    raw = [stats.ttest_1samp(change[c == LABELS], 0.0).pvalue for c in range(3)]
    found = compare_runs(first, second, resamples=100).per_class
    assert [row["p_adjusted"] for row in found] == pytest.approx(list(stats.false_discovery_control(raw)))
    assert [row["change"] for row in found] == pytest.approx([change[c == LABELS].mean() for c in range(3)])


# ---- the command and its gate ----------------------------------------------------------------------------------------

GATES = [
    ("worse", 0.9, 0.7, ["--max-drop", "1"], 4),
    ("worse, allowed", 0.9, 0.7, ["--max-drop", "60"], 0),
    ("worse, no gate", 0.9, 0.7, [], 0),
    ("unclear", 0.70, 0.702, ["--max-drop", "0"], 0),
    ("unclear, strict", 0.70, 0.702, ["--max-drop", "0", "--strict"], 4),
    ("better, strict", 0.6, 0.9, ["--max-drop", "0", "--strict"], 0),
]


@pytest.mark.parametrize(("name", "before", "after", "words", "code"), GATES, ids=[row[0] for row in GATES])
def test_the_gate(
    name: str, before: float, after: float, words: list[str], code: int, tmp_path: Path, call: Any
) -> None:
    first, second = written(tmp_path / "a", arm(before, 1, 2, 3)), written(tmp_path / "b", arm(after, 1, 2, 3))
    done = call(first, second, "--resamples", "200", *words)
    assert done.code == code, done.err
    assert f"{second}:distilled against {first}:distilled" in done.out
    assert ("no measurable difference" in done.out) == name.startswith("unclear")
    if words:
        assert f"gate {'passed' if code == 0 else 'failed'}" in done.out
        assert ("the interval's ends are" in done.err) == (code == 4)
        found = compare_runs(first, second, max_drop=float(words[1]), strict="--strict" in words, resamples=200)
        assert found.gate is not None
        ends = found.accuracy["difference"]
        assert (found.gate.low, found.gate.high) == (100 * ends["ci_low"], 100 * ends["ci_high"])
        with contextlib.nullcontext() if code == 0 else pytest.raises(GateError):
            found.check()


def test_json_for_programs_also_where_the_gate_fails(tmp_path: Path, call: Any) -> None:
    first, second = written(tmp_path / "a", arm(0.9, 1, 2)), written(tmp_path / "b", arm(0.5, 1))
    done = call(f"{first}:distilled", second, "--json", "--max-drop", "2", "--resamples", "200")
    (found,) = json.loads(done.out)
    assert done.code == 4
    assert found["decision"] == "worse"
    assert found["gate"]["passed"] is False
    assert found["gate"]["high"] < -2
    assert found["seeds"] == [1]


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "no finished run in nowhere"),
        (["b:distiled"], "did you mean `distilled`?"),
        (["b:teacher"], "no arm `teacher`"),
        (["a"], "the same arm of the same run twice"),
        (["b", "b:distilled"], "the same arm of the same run twice"),
        (["./a"], "the same arm of the same run twice"),
        ([], "Missing argument"),
        (["b", "--strict"], "--max-drop"),
        (["b", "--max-drop", "-1"], "0 … 100 percentage points"),
        (["b", "--max-drop", "nan"], "0 … 100 percentage points"),
        (["b", "--resamples", "5"], "resamples ≥ 100"),
        (["running"], "is not complete"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_word(words: list[str], said: str, tmp_path: Path, call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written(Path("a"), arm(0.7, 1))
    written(Path("b"), arm(0.8, 1))
    written(Path("running"), arm(0.8, 1), outcome="running")
    done = call("a", *words)
    assert done.code == 2
    assert said in done.err
    assert done.out == ""


def test_other_test_examples_are_refused_with_counts(tmp_path: Path, call: Any) -> None:
    first = written(tmp_path / "a", arm(0.7, 1))
    other = IDS.copy()
    other[:4] += 1
    labels = LABELS.copy()
    labels[10] = (labels[10] + 1) % 3
    second = written(tmp_path / "b", arm(0.7, 1), ids=other, labels=labels)
    with pytest.raises(DataError, match=r"5 of 300 examples .* only in .*5 of 300 only in .*296 ids in both"):
        compare_runs(first, second)
    assert call(first, second).code == 3
    fewer = written(tmp_path / "c", {"distilled": {1: answers(0.7, 1)[:290]}}, ids=IDS[:290], labels=LABELS[:290])
    with pytest.raises(DataError, match=r"0 of 290 .* 10 of 300 only in"):
        compare_runs(first, fewer)


def test_other_classes_are_refused_with_their_names(tmp_path: Path) -> None:
    first = written(tmp_path / "a", arm(0.7, 1))
    with pytest.raises(MismatchError, match=r"(?s)only .*b:distilled: dog.*only .*a:distilled: cow"):
        compare_runs(first, written(tmp_path / "b", arm(0.7, 1), classes=("ant", "bee", "dog")))
    with pytest.raises(MismatchError, match="same classes in another order"):
        compare_runs(first, written(tmp_path / "c", arm(0.7, 1), classes=("bee", "ant", "cow")))


def broken(path: Path, how: str) -> None:
    """Damage an answer file in one way."""
    rows: dict[str, Any] = {"ids": IDS, "logits": answers(0.7, 1), "labels": LABELS}
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:500])
    elif how == "pickle":
        np.savez(path, **rows | {"ids": np.array([{}] * N, dtype=object)})
    elif how == "text":
        path.write_text("hello")
    elif how == "one array":
        with path.open("wb") as file:
            np.save(file, IDS)
    elif how == "no labels":
        np.savez(path, ids=IDS, logits=rows["logits"])
    elif how == "short logits":
        np.savez(path, **rows | {"logits": rows["logits"][:-1]})
    elif how == "wide logits":
        np.savez(path, **rows | {"logits": np.zeros((N, 5), np.float32)})
    elif how == "NaN":
        np.savez(path, **rows | {"logits": np.full((N, 3), np.nan)})
    elif how == "label":
        np.savez(path, **rows | {"labels": LABELS + 1})
    elif how == "ids":
        np.savez(path, **rows | {"ids": IDS.astype(float)})
    else:
        np.savez(path, **rows | {"logits": rows["logits"][::-1]})


DAMAGE = {
    "missing": "No such file", "truncated": "not what a run wrote", "pickle": "allow_pickle", "text": "pickle",
    "one array": "not what a run wrote", "no labels": "labels", "short logits": "wrong shape",
    "wide logits": "not what a run wrote", "NaN": "NaN", "label": "not a class number", "ids": "ids are float64",
    "other answers": "holds other answers than the report was made from",
}  # fmt: skip


@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_answers_are_told(how: str, tmp_path: Path, call: Any) -> None:
    first, second = written(tmp_path / "a", arm(0.7, 1)), written(tmp_path / "b", arm(0.7, 1))
    broken(second / "eval" / "distilled-seed-1.npz", how)
    done = call(first, second)
    assert done.code == 5
    assert DAMAGE[how] in done.err
    assert "distilled-seed-1.npz" in done.err


def test_a_damaged_report_is_told(tmp_path: Path) -> None:
    first, second = written(tmp_path / "a", arm(0.7, 1)), written(tmp_path / "b", arm(0.7, 1))
    whole = json.loads((second / "report.json").read_text())
    (second / "report.json").write_text(json.dumps({key: whole[key] for key in whole if key != "models"}))
    with pytest.raises(DamagedError, match="models"):
        compare_runs(first, second)
    (second / "report.json").write_text("{")
    with pytest.raises(DamagedError, match="cannot read"):
        compare_runs(first, second)
    (second / "report.json").unlink()
    with pytest.raises(InputError, match="no finished run"):
        compare_runs(first, second)

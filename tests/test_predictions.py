"""`tutelage eval FILE`: predictions of any tool, alone and against others, in every form, and what is refused."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as reference

from command_line import call
from tutelage.errors import DamagedError, DataError, GateError, InputError
from tutelage.evaluation import multilabel, regression, retrieval
from tutelage.run.predictions import Asked, evaluate_predictions

N = 240
QUICK = Asked(resamples=300)
Arrays = dict[str, np.ndarray]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def classification(noise: float, seed: int = 0) -> Arrays:
    labels = np.random.default_rng(0).integers(0, 4, size=N)
    logits = 2 * np.eye(4)[labels] + noise * np.random.default_rng(seed).normal(size=(N, 4))
    return {"ids": np.arange(N) * 7, "logits": logits, "labels": labels}


def several(noise: float, seed: int = 0) -> Arrays:
    targets = (np.random.default_rng(0).uniform(size=(N, 5)) < 0.3).astype(int)
    scores = 0.2 + 0.5 * targets + noise * np.random.default_rng(seed).normal(size=targets.shape)
    return {"ids": np.arange(N), "scores": scores.clip(0, 1), "targets": targets}


def numeric(noise: float, seed: int = 0) -> Arrays:
    targets = np.random.default_rng(0).normal(size=N)
    said = targets + noise * np.random.default_rng(seed).normal(size=N)
    return {"ids": np.arange(N), "predictions": said, "targets": targets, "variance": np.full(N, noise**2)}


def ranked(noise: float, seed: int = 0) -> Arrays:
    relevance = np.random.default_rng(0).integers(0, 3, size=600)
    scores = relevance + noise * np.random.default_rng(seed).normal(size=600)
    queries = np.repeat([f"query {i}" for i in range(60)], 10)
    return {"queries": queries, "ids": np.tile(np.arange(10), 60), "scores": scores, "relevance": relevance}


FORMS: dict[str, Callable[..., Arrays]] = {
    "classification": classification, "multilabel": several, "regression": numeric, "retrieval": ranked,
}  # fmt: skip
every_form = pytest.mark.parametrize("form", FORMS)


def save(name: str, arrays: Arrays, order: np.ndarray | None = None) -> str:
    np.savez(name, **{key: value if order is None else value[order] for key, value in arrays.items()})
    return name


# ---- alone -----------------------------------------------------------------------------------------------------------


def test_every_form_is_told_by_its_arrays_and_scored_by_its_module() -> None:
    found = {form: evaluate_predictions(save("one.npz", make(0.5)), asked=QUICK) for form, make in FORMS.items()}
    assert {form: one.task for form, one in found.items()} == {form: form for form in FORMS}
    values = {form: {k: e.value for k, e in one.verdict.metrics[0].items()} for form, one in found.items()}
    data = several(0.5)
    assert values["multilabel"] == pytest.approx(multilabel.measure(data["scores"], data["targets"], threshold=0.5))
    data = numeric(0.5)
    expected = regression.measure(data["predictions"], data["targets"], variance=data["variance"])
    assert values["regression"] == pytest.approx(expected)
    data = ranked(0.5)
    expected = retrieval.measure(data["queries"], data["scores"], data["relevance"])
    assert values["retrieval"] == pytest.approx(expected)
    data = classification(0.5)
    said = data["logits"].argmax(axis=1)
    ours = values["classification"]
    assert ours["accuracy"] == pytest.approx(reference.accuracy_score(data["labels"], said))
    assert ours["macro_recall"] == pytest.approx(reference.balanced_accuracy_score(data["labels"], said))
    odds = np.exp(data["logits"])
    odds /= odds.sum(axis=1, keepdims=True)
    assert ours["nll"] == pytest.approx(reference.log_loss(data["labels"], odds))
    assert ours["macro_auc"] == pytest.approx(reference.roc_auc_score(data["labels"], odds, multi_class="ovr"))
    for one in found.values():
        for estimate in one.verdict.metrics[0].values():
            if estimate.ci_low is not None:
                assert estimate.ci_low <= estimate.value <= estimate.ci_high  # type: ignore[operator]
        json.dumps(one.to_json(), allow_nan=False)
        assert one.metric in one.summary()


def test_classes_and_labels_have_a_row_each() -> None:
    found = evaluate_predictions(save("one.npz", classification(1.0)), asked=QUICK).to_json()
    labels, said = classification(1.0)["labels"], classification(1.0)["logits"].argmax(axis=1)
    recalls = reference.recall_score(labels, said, average=None)
    assert [row["recall"] for row in found["rows"]] == pytest.approx(list(recalls))
    assert sum(row["n"] for row in found["rows"]) == N
    rows = evaluate_predictions(save("two.npz", several(1.0)), asked=QUICK).to_json()["rows"]
    assert [row["true"] for row in rows] == several(1.0)["targets"].sum(axis=0).tolist()


def test_probabilities_scores_and_named_classes_are_read_as_what_they_are() -> None:
    logits = classification(1.0)
    odds = np.exp(logits["logits"])
    odds /= odds.sum(axis=1, keepdims=True)
    rest = {"ids": logits["ids"], "labels": logits["labels"]}
    one = evaluate_predictions(save("one.npz", logits), asked=QUICK)
    for name in ("probabilities", "scores"):
        other = evaluate_predictions(save("other.npz", {name: odds, **rest}), asked=QUICK)
        assert other.verdict.metrics[0]["nll"].value == pytest.approx(one.verdict.metrics[0]["nll"].value)
        assert any("read as probabilities" in text for text in other.notices) is (name == "scores")
    named = save("named.npz", {"predictions": odds.argmax(axis=1), **rest})
    both = evaluate_predictions("one.npz", named, QUICK)
    assert set(both.verdict.metrics[1]) == {"accuracy", "macro_precision", "macro_recall", "macro_f1"}
    assert both.verdict.differences["accuracy"].value == 0.0
    assert any("without scores" in text for text in both.notices)
    with pytest.raises(DataError, match="add up to 1"):
        evaluate_predictions(save("bad.npz", {"probabilities": 2 * odds, **rest}))


def test_named_classes_may_be_fewer_than_those_of_the_other_file() -> None:
    labels = np.array([0, 1, 0, 1] * 10)
    save("one.npz", {"ids": np.arange(40), "predictions": labels, "labels": labels})
    save("two.npz", {"ids": np.arange(40), "predictions": np.where(labels == 1, 2, 0), "labels": labels})
    found = evaluate_predictions("one.npz", "two.npz", QUICK)
    assert found.verdict.differences["accuracy"].value == 0.5
    assert found.verdict.decisions["accuracy"] == "gain"


def test_a_table_is_read_as_the_arrays_it_holds() -> None:
    data = several(0.5)
    lines = ["id," + ",".join(f"score_{i}" for i in range(5)) + "," + ",".join(f"target_{i}" for i in range(5))]
    for row in range(N):
        values = [data["ids"][row], *(repr(float(v)) for v in data["scores"][row]), *data["targets"][row]]
        lines.append(",".join(map(str, values)))
    Path("table.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = evaluate_predictions("table.csv", save("arrays.npz", data), QUICK)
    assert found.task == "multilabel"
    assert found.verdict.metrics[0] == found.verdict.metrics[1]
    Path("numbers.csv").write_text("id,prediction,target\na,1,1.5\nb,2,2.5\nc,4,3.5\n", encoding="utf-8")
    assert evaluate_predictions("numbers.csv", asked=QUICK).verdict.metrics[0]["mae"].value == pytest.approx(0.5)
    Path("classes.csv").write_text("id,label,score_0,score_1\n1,0,2.5,1\n2,1,0,1\n3,1,0.5,0\n", encoding="utf-8")
    assert evaluate_predictions("classes.csv", asked=QUICK).verdict.metrics[0]["accuracy"].value == pytest.approx(2 / 3)


def test_validation_predictions_choose_the_threshold_and_the_temperature() -> None:
    validation = several(0.4, seed=5)
    found = evaluate_predictions(
        save("test.npz", several(0.4)), asked=Asked(val=save("val.npz", validation), resamples=300)
    )
    chosen = multilabel.best_threshold(validation["scores"], validation["targets"])
    assert found.settings["threshold"] == chosen
    named = several(0.4)["scores"] >= chosen
    expected = reference.f1_score(several(0.4)["targets"], named, average="micro")
    assert found.verdict.metrics[0]["micro_f1"].value == pytest.approx(expected)
    save("logits.npz", classification(1.0))
    tuned = evaluate_predictions(
        "logits.npz", asked=Asked(val=save("val.npz", classification(1.0, seed=3)), resamples=300)
    ).verdict.metrics[0]
    assert tuned["temperature"].value != 1.0
    assert tuned["nll_scaled"].value < tuned["nll"].value
    with pytest.raises(InputError, match="look better for it"):
        evaluate_predictions("test.npz", "test.npz", Asked(val="val.npz"))
    with pytest.raises(InputError, match="nothing is tuned"):
        evaluate_predictions(save("r.npz", numeric(1.0)), asked=Asked(val="val.npz"))


# ---- against others --------------------------------------------------------------------------------------------------


@every_form
def test_rows_meet_by_id_whatever_their_order(form: str) -> None:
    good, bad = FORMS[form](0.3, seed=1), FORMS[form](1.5, seed=2)
    order = np.random.default_rng(0).permutation(len(good["ids"]))
    straight = evaluate_predictions(save("a.npz", good), save("b.npz", bad), QUICK)
    mixed = evaluate_predictions("a.npz", save("c.npz", bad, order), QUICK)
    assert mixed.verdict == straight.verdict
    main = straight.metric
    assert straight.verdict.decisions[main] == "gain"
    turned = evaluate_predictions("b.npz", "a.npz", QUICK)
    assert turned.verdict.decisions[main] == "worse"
    for name, one in straight.verdict.differences.items():
        assert turned.verdict.differences[name].value == pytest.approx(-one.value)
    same = evaluate_predictions("a.npz", "a.npz", QUICK)
    assert {one.value for one in same.verdict.differences.values()} == {0.0}
    assert set(same.verdict.decisions.values()) <= {"none", None}


def test_the_difference_of_accuracies_is_tested_by_mcnemar() -> None:
    good, bad = classification(1.0, seed=1), classification(1.5, seed=2)
    found = evaluate_predictions(save("a.npz", good), save("b.npz", bad), QUICK).verdict
    right = [one["logits"].argmax(axis=1) == one["labels"] for one in (good, bad)]
    gained, lost = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    assert found.p == pytest.approx(stats.binomtest(gained, gained + lost).pvalue)
    assert found.differences["accuracy"].value == pytest.approx((gained - lost) / N)


def test_numbers_and_text_name_the_same_examples() -> None:
    data = numeric(0.5)
    save("a.npz", data)
    save("b.npz", data | {"ids": data["ids"].astype(str)})
    assert evaluate_predictions("a.npz", "b.npz", QUICK).verdict.differences["rmse"].value == 0.0


def test_ids_that_stand_twice_are_said() -> None:
    data = classification(1.0)
    save("a.npz", data | {"ids": np.minimum(data["ids"], 7 * (N - 2))})
    notices = evaluate_predictions("a.npz", "a.npz", QUICK).notices
    assert notices == ("1 id stands more than once; such rows met in the order of their files",)


@every_form
def test_other_examples_are_refused_with_counts(form: str) -> None:
    data = FORMS[form](0.5)
    rows = len(data["ids"])
    save("a.npz", data)
    save("b.npz", data | {"ids": np.where(np.arange(rows) < 3, 10**6 + np.arange(rows), data["ids"])})
    with pytest.raises(DataError, match="different examples") as caught:
        evaluate_predictions("a.npz", "b.npz")
    assert f"3 of {rows} ids only in a.npz, 3 of {rows} only in b.npz; {rows - 3} in both" in str(caught.value)
    save("c.npz", data, np.arange(rows - 5))
    with pytest.raises(DataError, match=f"5 of {rows} ids only in a.npz, 0 of {rows - 5} only in c.npz"):
        evaluate_predictions("a.npz", "c.npz")


@every_form
def test_another_truth_is_refused_with_a_count(form: str) -> None:
    data = FORMS[form](0.5)
    truth = next(name for name in ("labels", "relevance", "targets") if name in data)
    other = data[truth].copy()
    other[:2] = 1 - np.minimum(other[:2], 1)
    save("a.npz", data)
    save("b.npz", data | {truth: other})
    with pytest.raises(DataError, match=rf"2 of {len(other)} rows"):
        evaluate_predictions("a.npz", "b.npz")


def test_unknown_labels_and_variances_of_one_side_are_not_taken_for_both() -> None:
    data = several(0.5)
    unknown = np.zeros(data["targets"].shape, dtype=bool)
    unknown[0, 0] = True
    save("a.npz", data)
    save("b.npz", data | {"unknown": unknown})
    with pytest.raises(DataError, match="1 of 240 rows"):
        evaluate_predictions("a.npz", "b.npz")
    assert evaluate_predictions("b.npz", "b.npz", QUICK).verdict.differences["map"].value == 0.0
    save("c.npz", numeric(0.5))
    save("d.npz", {name: one for name, one in numeric(0.5).items() if name != "variance"})
    found = evaluate_predictions("c.npz", "d.npz", QUICK)
    assert "nll" not in found.verdict.differences
    assert "only one of the files states variances; both were judged without" in found.notices


@pytest.mark.parametrize(
    ("form", "allowed", "refused"),
    [("classification", 90, 1), ("multilabel", 90, 1), ("retrieval", 90, 1), ("regression", 5, 0.05)],
)
def test_the_gate_falls_where_a_larger_drop_is_shown(form: str, allowed: float, refused: float) -> None:
    save("good.npz", FORMS[form](0.3, seed=1))
    save("bad.npz", FORMS[form](1.5, seed=2))
    evaluate_predictions("bad.npz", "good.npz", Asked(max_drop=allowed, resamples=300)).check()
    evaluate_predictions("good.npz", "bad.npz", Asked(max_drop=0, resamples=300)).check()
    failed = evaluate_predictions("bad.npz", "good.npz", Asked(max_drop=refused, resamples=300))
    assert failed.gate is not None
    assert not failed.gate.passed
    with pytest.raises(GateError, match="loses too much"):
        failed.check()


def test_a_gate_does_not_pass_what_it_cannot_judge() -> None:
    save("a.npz", classification(0.5))
    with pytest.raises(DataError, match="no gate can judge"):
        evaluate_predictions("a.npz", "a.npz", Asked(metric="aurc", max_drop=1, resamples=300))
    save("b.npz", classification(0.5), np.arange(1))
    with pytest.raises(DataError, match="more than one example"):
        evaluate_predictions("b.npz", "b.npz", Asked(max_drop=1, resamples=300))


# ---- the command line ------------------------------------------------------------------------------------------------


def test_from_the_command_line() -> None:
    save("good.npz", several(0.3, seed=1))
    save("bad.npz", several(0.9, seed=2))
    words = ("eval", "bad.npz", "--against", "good.npz", "--resamples", "300")
    done = call(*words, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert (found["task"], found["against"]["decision"]) == ("multilabel", "worse")
    assert found["against"]["differences"]["hamming_loss"]["decision"] == "worse"
    assert found["against"]["differences"]["hamming_loss"]["value"] > 0
    failed = call(*words, "--max-drop", "1")
    assert failed.code == 4
    assert failed.out.startswith("bad.npz against good.npz: worse (map)")
    assert "error: bad.npz loses too much against good.npz" in failed.err
    assert call(*words, "--max-drop", "1", "--metric", "coverage_error").code == 0  # one more label to look at
    assert "k 3" in call("eval", save("q.npz", ranked(0.5)), "--k", "3").out


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["none.npz"], 2, "there is no file none.npz"),
        (["c.npz", "digits"], 2, "needs no source of data"),
        (["c.npz", "--part", "val"], 2, "--part is for runs"),
        (["c.npz", "--trust"], 2, "--trust is for runs"),
        (["run", "digits", "--against", "c.npz"], 2, "--against is for files of predictions"),
        (["run", "digits", "--max-drop", "1"], 2, "--max-drop is for files"),
        (["run"], 2, "be asked about?"),
        (["c.npz", "--task", "regresion"], 2, "did you mean `regression`"),
        (["c.npz", "--task", "retrieval"], 3, "c.npz has no queries"),
        (["c.npz", "--max-drop", "1"], 2, "--against OTHER"),
        (["c.npz", "--against", "c.npz", "--max-drop", "-1"], 2, "cannot be allowed"),
        (["c.npz", "--metric", "acuracy"], 2, "did you mean `accuracy`"),
        (["c.npz", "--metric", "temperature"], 2, "better direction"),
        (["c.npz", "--resamples", "3"], 2, "out of range"),
        (["c.npz", "--against", "m.npz"], 3, "one row of class numbers (m.npz)"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_asked_is_refused(words: list[str], code: int, says: str) -> None:
    save("c.npz", classification(1.0))
    save("m.npz", several(1.0))
    done = call("eval", *words)
    assert done.code == code, done.err
    assert says in done.err
    assert not done.out


LABELS = np.array([0, 1, 1])
BAD: dict[str, tuple[Arrays, str]] = {
    "no truth": ({"logits": np.ones((3, 2))}, "do not say what the task is"),
    "nothing read": ({"x": np.ones(3)}, "none that is read"),
    "lengths": ({"logits": np.ones((2, 2)), "labels": LABELS}, "differ in length"),
    "label out of range": ({"logits": np.ones((3, 2)), "labels": LABELS + 1}, "a label is not a class number"),
    "nan": ({"logits": np.full((3, 2), np.nan), "labels": LABELS}, "cannot be judged"),
    "ids": ({"logits": np.ones((3, 2)), "labels": LABELS, "ids": np.ones(3)}, "ids have the wrong"),
    "few ids": ({"logits": np.ones((3, 2)), "labels": LABELS, "ids": LABELS[:2]}, "ids have the wrong"),
    "text": ({"predictions": np.array(["a", "b"]), "targets": np.ones(2)}, "something else than numbers"),
    "shapes": ({"predictions": np.ones((3, 2)), "targets": np.ones(3)}, "wrong shapes"),
    "queries": ({"queries": np.ones(2), "scores": np.ones(2), "relevance": np.ones(2)}, "integers or text"),
    "irrelevant": ({"queries": LABELS, "scores": np.ones(3), "relevance": np.zeros(3)}, "`ndcg` is not defined"),
    "no label is true": ({"scores": np.ones((3, 2)), "targets": np.zeros((3, 2), int)}, "`map` is not defined"),
}


@pytest.mark.parametrize("case", BAD)
def test_arrays_that_cannot_be_scored_are_refused(case: str) -> None:
    arrays, says = BAD[case]
    with pytest.raises((DataError, InputError), match=re.escape(says)):
        evaluate_predictions(save("bad.npz", arrays), asked=QUICK)


def test_files_that_are_none_are_refused_and_pickles_are_never_opened() -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (Path("opened"),))

    save("objects.npz", {"logits": np.array([Trap()], dtype=object), "labels": LABELS})
    Path("pickle.npz").write_bytes(pickle.dumps(Trap()))
    Path("half.npz").write_bytes(Path(save("c.npz", classification(1.0))).read_bytes()[:900])
    Path("text.npz").write_text("not an archive")
    np.save("array.npy", np.ones(3))
    Path("array.npy").rename("array.npz")
    for name in ("objects.npz", "pickle.npz", "half.npz", "text.npz", "array.npz"):
        with pytest.raises(DamagedError, match="cannot be read as arrays"):
            evaluate_predictions(name)
    assert not Path("opened").exists()
    tables = {"empty.csv": "id,label\n", "ragged.csv": "id,label,score_0\n1,0\n", "gap.csv": "score_0,score_2\n1,2\n"}
    for name, text in tables.items():
        Path(name).write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=r"no rows|another length|do not count"):
            evaluate_predictions(name)
    Path("bytes.csv").write_bytes(b"id,label\n\xff\xfe,1\n")
    with pytest.raises(DamagedError, match="as a table"):
        evaluate_predictions("bytes.csv")


@every_form
def test_one_example_has_values_and_no_intervals(form: str) -> None:
    data = FORMS[form](0.1)
    rows = np.arange(len(data["ids"]))[:10] if form == "retrieval" else np.flatnonzero(
        data.get("targets", data.get("labels")).reshape(N, -1).any(axis=1)
    )[:1]  # fmt: skip
    found = evaluate_predictions(save("a.npz", data, rows), "a.npz", QUICK)
    assert found.verdict.units == 1
    assert all(one.ci_low is None for one in found.verdict.differences.values())
    assert set(found.verdict.decisions.values()) == {None}
    assert any("too few for intervals" in text for text in found.notices)
    assert "no decision" in found.summary()
    json.dumps(found.to_json(), allow_nan=False)

"""scikit-learn as a teacher: handed over, fitted by name, kept in a file, and all that it refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foreign_models import arrays, batch, batch_of, close, digits, forest, logistic, same_live_and_stored, softmax
from tutelage.errors import DamagedError, InputError, ModelError
from tutelage.teachers import as_teacher
from tutelage.teachers.foreign import open_foreign, wrap
from tutelage.teachers.foreign.need import quiet

NAMES = digits().train.classes
FIT = (digits().train.inputs, digits().train.targets)
BOOSTED = {"max_iter": 4, "max_leaf_nodes": 5}


def opened(model: str, args: dict[str, Any] | None = None, **options: Any) -> Any:
    return open_foreign(model, args or {}, **{"classes": NAMES, "fit": FIT, **options})


def test_a_student_of_a_forest_has_the_same_bits_live_and_stored(tmp_path: Path) -> None:
    run = same_live_and_stored(forest(), tmp_path)
    given = forest().score(digits().test.inputs.flatten(1).numpy() / np.float32(255), digits().test.targets.numpy())
    told = {model["name"]: model for model in run.report["models"]}["teacher"]
    assert told["metrics"]["accuracy"]["value"] == pytest.approx(given)


@pytest.mark.parametrize("make", [forest, logistic])
def test_answers_are_the_estimators_own(make: Any) -> None:
    asked = batch_of()
    expected = make().predict_proba(asked.inputs["x"].flatten(1).numpy())
    teacher = as_teacher(make(), classes=NAMES)
    close(softmax(teacher.answer(asked).logits), expected, 1e-6)
    before = teacher.fingerprint()
    assert teacher.fingerprint() == before == as_teacher(make()).fingerprint()


def test_classes_by_name_in_another_order_and_with_one_missing() -> None:
    from sklearn.linear_model import LogisticRegression

    x, y = arrays()
    names = np.array(["zero", "eight", "two", "nine", "four", "five", "six", "seven", "one", "three"])
    few = y != 3
    model = LogisticRegression(max_iter=300).fit(x[few], names[y[few]])
    asked = batch_of()
    found = softmax(wrap(model, classes=list(names)).answer(asked).logits)
    expected = model.predict_proba(asked.inputs["x"].flatten(1).numpy())
    assert list(model.classes_) != [one for one in names if one != "nine"]
    for place, name in enumerate(model.classes_):
        close(found[:, list(names).index(name)], expected[:, place])
    assert found[:, 3].max() < 1e-11
    with pytest.raises(ModelError, match="knows classes that the data does not have"):
        wrap(model, classes=NAMES)
    with pytest.raises(ModelError, match="the data's are not known here"):
        as_teacher(model)


@pytest.mark.parametrize("name", ["LinearSVC", "NearestCentroid", "RidgeClassifier", "Perceptron"])
def test_those_without_probabilities_answer_with_margins_or_classes(name: str) -> None:
    teacher = opened(f"sklearn:{name}")
    asked = batch_of(60)
    labels = asked.target.numpy()
    assert (teacher.answer(asked).logits.argmax(-1).numpy() == labels).mean() > 0.7


def test_two_classes_have_one_margin() -> None:
    from sklearn.svm import LinearSVC

    x, y = arrays()
    model = LinearSVC(random_state=0).fit(x, (y > 4).astype(int))
    asked = batch_of()
    logits = wrap(model, classes=["low", "high"]).answer(asked).logits
    margin = model.decision_function(asked.inputs["x"].flatten(1).numpy())
    close((logits[:, 1] - logits[:, 0]).numpy(), margin, 1e-5)


def test_fitted_by_name_it_is_the_same_every_time() -> None:
    one, two, other = (opened("sklearn:HistGradientBoostingClassifier", BOOSTED, seed=s) for s in (0, 0, 1))
    trees = [opened("sklearn:ExtraTreesClassifier", {"n_estimators": 3}, seed=seed) for seed in (0, 0, 1)]
    asked = batch_of()
    assert torch.equal(one.answer(asked).logits, two.answer(asked).logits)
    assert one.fingerprint() == two.fingerprint()
    assert trees[0].fingerprint() == trees[1].fingerprint() != trees[2].fingerprint()
    assert (other.answer(asked).logits.argmax(-1) == asked.target).float().mean() > 0.6
    scaled = opened("sklearn:LogisticRegression", {"standardise": True, "max_iter": 50})
    plain = opened("sklearn:LogisticRegression", {"max_iter": 50})
    assert scaled.fingerprint() != plain.fingerprint()


def test_labels_that_training_lacks() -> None:
    x, y = FIT
    few = (y != 9).nonzero().flatten()
    teacher = opened("sklearn:GaussianNB", fit=(x[few], y[few]))
    assert softmax(teacher.answer(batch_of()).logits)[:, 9].max() < 1e-11


@pytest.mark.parametrize("model", ["HistGradientBoostingClassifier", "MLPClassifier"])
def test_kept_it_is_found_again(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = BOOSTED if model.startswith("Hist") else {"hidden_layer_sizes": [5], "max_iter": 3}
    first = opened(f"sklearn:{model}", args, keep=tmp_path / "teacher")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["teacher.json", "teacher.skops"]
    fitted: list[str] = []
    monkeypatch.setattr("tutelage.teachers.foreign.scikit._fitted", lambda *_: fitted.append("again"))
    again = opened(f"sklearn:{model}", args, keep=tmp_path / "teacher")
    assert not fitted
    assert again.fingerprint() == first.fingerprint()
    assert torch.equal(again.answer(batch_of()).logits, first.answer(batch_of()).logits)


def test_an_altered_file_is_refused_and_other_arguments_fit_anew(tmp_path: Path) -> None:
    keep = tmp_path / "teacher"
    first = opened("sklearn:GaussianNB", keep=keep)
    other = opened("sklearn:GaussianNB", {"var_smoothing": 0.1}, keep=keep)
    assert other.fingerprint() != first.fingerprint()
    (tmp_path / "teacher.skops").write_bytes(b"something else")
    with pytest.raises(DamagedError, match="was altered"):
        opened("sklearn:GaussianNB", {"var_smoothing": 0.1}, keep=keep)


def test_without_skops_it_is_fitted_again_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skops.io", None)
    first = opened("sklearn:GaussianNB", keep=tmp_path / "teacher")
    assert [one.name for one in tmp_path.iterdir()] == ["teacher.json"]
    assert opened("sklearn:GaussianNB", keep=tmp_path / "teacher").fingerprint() == first.fingerprint()
    told = json.loads((tmp_path / "teacher.json").read_text())
    (tmp_path / "teacher.json").write_text(json.dumps(told | {"digest": "0" * 64}))
    with pytest.raises(ModelError, match="was fitted again, and is another one"):
        opened("sklearn:GaussianNB", keep=tmp_path / "teacher")
    (tmp_path / "m.skops").write_bytes(b"x")
    with pytest.raises(InputError, match=r"tutelage\[skops\]"):
        opened(f"sklearn:{tmp_path / 'm.skops'}")


def test_a_file_of_skops(tmp_path: Path) -> None:
    with quiet():
        import skops.io

    skops.io.dump(forest(), tmp_path / "forest.skops")
    teacher = opened(f"sklearn:{tmp_path / 'forest.skops'}", fit=None)
    assert torch.equal(teacher.answer(batch_of()).logits, as_teacher(forest()).answer(batch_of()).logits)
    (tmp_path / "half.skops").write_bytes((tmp_path / "forest.skops").read_bytes()[:500])
    with pytest.raises(DamagedError, match="cannot be read as a skops file"):
        opened(f"sklearn:{tmp_path / 'half.skops'}", fit=None)
    (tmp_path / "empty.skops").write_bytes(b"")
    with pytest.raises(DamagedError, match="is empty"):
        opened(f"sklearn:{tmp_path / 'empty.skops'}", fit=None)


def _through(x: Any) -> Any:
    return x


def test_code_in_a_file_runs_only_when_trusted(tmp_path: Path) -> None:
    with quiet():
        import skops.io
    from sklearn.naive_bayes import GaussianNB
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    sys.modules.setdefault(_through.__module__, sys.modules[__name__])
    model = make_pipeline(FunctionTransformer(_through), GaussianNB()).fit(*arrays())
    skops.io.dump(model, tmp_path / "code.skops")
    with pytest.raises(InputError, match=r"runs their code(.|\n)*--trust") as caught:
        opened(f"sklearn:{tmp_path / 'code.skops'}", fit=None)
    assert "_through" in str(caught.value)
    teacher = opened(f"sklearn:{tmp_path / 'code.skops'}", fit=None, trust=True)
    assert torch.equal(teacher.answer(batch_of()).logits, wrap(model).answer(batch_of()).logits)


TEXTS = [(word, label) for label, words in enumerate(("red rose bloom", "fast car road", "deep blue sea"))
         for word in (words, f"a {words}", f"{words} again", words.upper())]  # fmt: skip


def _bytes_of(texts: list[str]) -> torch.Tensor:
    return torch.tensor([list(text.encode().ljust(30, b"\0")) for text in texts], dtype=torch.uint8)


@pytest.mark.parametrize("args", [{}, {"analyzer": "char_wb", "ngram": 3}, {"max_features": 9, "ngram": 1, "C": 1.0}])
def test_text_by_its_words(args: dict[str, Any], tmp_path: Path) -> None:
    fit = _bytes_of([text for text, _ in TEXTS]), torch.tensor([label for _, label in TEXTS])
    names, keep = ["plant", "wheels", "water"], tmp_path / "t"
    teacher = open_foreign("sklearn:tfidf", args, classes=names, fit=fit, view="raw", keep=keep)
    asked = batch(_bytes_of(["the blue sea", "a rose in bloom"]), view="raw")
    assert teacher.answer(asked).logits.argmax(-1).tolist() == [2, 0]
    again = open_foreign("sklearn:tfidf", args, classes=names, fit=fit, view="raw", keep=keep)
    assert torch.equal(again.answer(asked).logits, teacher.answer(asked).logits)
    assert again.fingerprint() == teacher.fingerprint()


@pytest.mark.parametrize(
    ("model", "args", "message"),
    [
        ("RandomForrest", {}, "did you mean `RandomForestClassifier`"),
        ("StackingClassifier", {}, "no classifier `StackingClassifier` that can be made by its name"),
        ("SVC", {"c": 1}, "takes no argument `c`"),
        ("SVC", {"C": -1.0}, "`SVC` cannot be fitted"),
        ("SVC", {"random_state": 3}, "from the teacher's seed"),
        ("tfidf", {"ngrams": 3}, "did you mean `ngram`"),
        ("tfidf", {"ngram": 0}, "whole number"),
        ("tfidf", {"C": True}, "a number above 0"),
        ("tfidf", {"analyzer": "bytes"}, "reads other pieces"),
        ("tfidf", {}, "reads plain text"),
    ],
)
def test_names_and_arguments_that_are_wrong(model: str, args: dict[str, Any], message: str) -> None:
    with pytest.raises((InputError, ModelError), match=message):
        opened(f"sklearn:{model}", args)


def test_what_cannot_be_learned() -> None:
    with pytest.raises(ModelError, match="`GaussianNB` reads numbers, and this view holds text"):
        opened("sklearn:GaussianNB", fit=(_bytes_of(["a", "b"]), torch.tensor([0, 1])))
    with pytest.raises(ModelError, match=r"cannot be fitted: .*class"):
        opened("sklearn:LogisticRegression", fit=(FIT[0], torch.zeros_like(FIT[1])))
    from sklearn.svm import SVC

    with pytest.raises(ModelError, match="this one is not"):
        as_teacher(SVC())
    asked = batch(torch.rand(3, 7))
    with pytest.raises(ModelError, match="64 features"):
        wrap(forest(), classes=NAMES).answer(asked)

"""XGBoost and LightGBM as teachers: their margins are the logits, from files as from objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foreign_models import arrays, batch, batch_of, close, digits, lightgbm_model, same_live_and_stored, softmax
from foreign_models import xgboost_model as xgboost_classifier
from tutelage.errors import DamagedError, ModelError
from tutelage.teachers import as_teacher
from tutelage.teachers.foreign import open_foreign, wrap
from tutelage.teachers.foreign.need import quiet

NAMES = digits().train.classes


def rows() -> Any:
    return batch_of().inputs["x"].flatten(1).numpy()


@pytest.mark.parametrize("make", [xgboost_classifier, lightgbm_model])
def test_a_student_has_the_same_bits_live_and_stored(make: Any, tmp_path: Path) -> None:
    same_live_and_stored(make(), tmp_path)


def test_xgboost_says_its_own_probabilities(tmp_path: Path) -> None:
    model = xgboost_classifier()
    expected = model.predict_proba(rows())
    model.save_model(tmp_path / "m.json")
    model.save_model(tmp_path / "m.ubj")
    files = [open_foreign(f"xgboost:{tmp_path / name}", {}, classes=NAMES) for name in ("m.json", "m.ubj")]
    for teacher in (as_teacher(model, classes=NAMES), as_teacher(model.get_booster()), *files):
        before = teacher.fingerprint()
        close(softmax(teacher.answer(batch_of()).logits), expected, 1e-5)
        assert teacher.fingerprint() == before


def test_lightgbm_says_its_own_probabilities(tmp_path: Path) -> None:
    model = lightgbm_model()
    with quiet():
        expected = model.predict_proba(rows())
    model.booster_.save_model(tmp_path / "m.txt")
    file = open_foreign(f"lightgbm:{tmp_path / 'm.txt'}", {}, classes=NAMES)
    for teacher in (as_teacher(model, classes=NAMES), as_teacher(model.booster_), file):
        before = teacher.fingerprint()
        close(softmax(teacher.answer(batch_of()).logits), expected, 1e-5)
        assert teacher.fingerprint() == before


def _two(kind: str, **options: Any) -> Any:
    x, y = arrays()
    names = np.array(["high", "low"])[(y < 5).astype(int)]
    with quiet():
        if kind == "xgboost":
            from xgboost import XGBClassifier

            return XGBClassifier(n_estimators=5, max_depth=3, n_jobs=1, **options).fit(x, (y < 5).astype(int))
        from lightgbm import LGBMClassifier

        return LGBMClassifier(n_estimators=5, num_leaves=5, n_jobs=1, verbose=-1, **options).fit(x, names)


@pytest.mark.parametrize(
    ("kind", "options"), [("xgboost", {}), ("lightgbm", {}), ("lightgbm", {"objective": "binary", "sigmoid": 0.5})]
)
def test_of_two_classes_the_margin_is_the_second_ones(kind: str, options: dict[str, Any]) -> None:
    model = _two(kind, **options)
    # LightGBM's own names come in another order than the data's.
    classes = ["high", "low"] if kind == "xgboost" else ["low", "high"]
    found = softmax(wrap(model, classes=classes).answer(batch_of()).logits)
    with quiet():
        expected = model.predict_proba(rows())
    close(found[:, classes.index("low")], expected[:, 1], 1e-5)


def test_one_sigmoid_for_each_class_becomes_one_distribution() -> None:
    with quiet():
        from lightgbm import LGBMClassifier

        model = LGBMClassifier(
            objective="multiclassova", n_estimators=3, num_leaves=4, n_jobs=1, verbose=-1
        ).fit(*arrays())  # fmt: skip
        raw = model.booster_.predict(rows())
    close(softmax(as_teacher(model).answer(batch_of()).logits), raw / raw.sum(-1, keepdims=True), 1e-6)


def test_rounds_after_the_best_one_do_not_count() -> None:
    from xgboost import XGBClassifier

    x, y = arrays()
    model = XGBClassifier(n_estimators=30, max_depth=4, learning_rate=1.0, early_stopping_rounds=2, n_jobs=1)
    model.fit(x[:200], y[:200], eval_set=[(x[200:], y[200:])], verbose=False)
    assert model.best_iteration + 1 < model.get_booster().num_boosted_rounds()
    close(softmax(as_teacher(model).answer(batch_of()).logits), model.predict_proba(rows()), 1e-5)


def test_files_that_are_none(tmp_path: Path) -> None:
    model, text = xgboost_classifier(), lightgbm_model().booster_.model_to_string()
    model.save_model(tmp_path / "m.json")
    half = (tmp_path / "m.json").read_text()
    cases = {
        "half.json": half[: len(half) // 2], "other.json": "{}",
        "half.txt": text[: len(text) // 2], "page.txt": "<html>",
    }  # fmt: skip
    for name, content in cases.items():
        (tmp_path / name).write_text(content)
        prefix = "xgboost" if name.endswith("json") else "lightgbm"
        with pytest.raises(DamagedError, match=f"no model of {'XGBoost' if prefix == 'xgboost' else 'LightGBM'}"):
            open_foreign(f"{prefix}:{tmp_path / name}", {}, classes=NAMES)


def test_what_was_trained_for_something_else() -> None:
    from xgboost import XGBClassifier, XGBRegressor

    with quiet():
        from lightgbm import LGBMRegressor

    x, y = arrays()
    with quiet():
        numbers = [
            XGBRegressor(n_estimators=1, n_jobs=1).fit(x, y).get_booster(),
            LGBMRegressor(n_estimators=1, n_jobs=1, verbose=-1).fit(x, y).booster_,
        ]
    for model in numbers:
        with pytest.raises(ModelError, match="something else than classes"):
            as_teacher(model)
    with pytest.raises(ModelError, match="this one is not"):
        as_teacher(XGBClassifier())


@pytest.mark.parametrize("make", [xgboost_classifier, lightgbm_model])
def test_data_that_do_not_fit(make: Any) -> None:
    import torch

    with pytest.raises(ModelError, match=r"reads other inputs(.|\n)*\(64\)"):
        as_teacher(make()).answer(batch(torch.rand(3, 1, 5, 5)))
    with pytest.raises(ModelError, match=r"10 classes|classes that the data does not have"):
        as_teacher(make(), classes=("a", "b")).answer(batch_of())

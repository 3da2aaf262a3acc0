"""XGBoost as a teacher: its margins are logits already, so nothing is lost in probabilities on the way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from tutelage.errors import DamagedError, ModelError
from tutelage.teachers.foreign.bridge import ForeignTeacher, Settings
from tutelage.teachers.foreign.digest import file_digest, found_file
from tutelage.teachers.foreign.need import need, quiet, threads

__all__ = ["teacher_of_booster", "teacher_of_xgboost_file"]

_MANY = ("multi:softprob", "multi:softmax")
_TWO = ("binary:logistic", "binary:logitraw", "reg:logistic")


def teacher_of_xgboost_file(
    model: str, *, classes: Sequence[str] | None, view: str = "x", settings: Settings | None = None,
    name: str = "teacher",
) -> ForeignTeacher:  # fmt: skip
    """A model that `save_model` wrote, as JSON or UBJSON.

    Raises:
        ModelError: there is no such file, or it is no classifier.
        DamagedError: it is no such model.
        MissingExtraError: XGBoost is not installed.
    """
    path = found_file(model, suffixes=(".json", ".ubj"), whose="XGBoost")
    xgboost = need("xgboost", package="xgboost-cpu", extra="xgboost", purpose="a teacher of XGBoost")
    booster = xgboost.Booster()
    try:
        with quiet():
            booster.load_model(path)
    except Exception as error:
        raise DamagedError(f"{path} is no model of XGBoost", given=str(error).strip().splitlines()[-1][:200]) from error
    return teacher_of_booster(
        booster, classes=classes, view=view, settings=settings, name=name, digest=file_digest(path)
    )


def teacher_of_booster(
    model: Any, *, classes: Sequence[str] | None = None, view: str = "x", settings: Settings | None = None,
    name: str = "teacher", digest: str | None = None,
) -> ForeignTeacher:  # fmt: skip
    """A `Booster`, or a fitted `XGBClassifier`; trees that came after the best round do not count.

    Raises:
        ModelError: it was trained for something else than classes.
    """
    own: list[Any] | None = None
    booster = model
    if hasattr(model, "get_booster") and getattr(model, "classes_", None) is None:
        raise ModelError(
            f"a {type(model).__name__} that is fitted as a classifier can be a teacher, and this one is not",
            fix="call its fit(inputs, labels) first",
        )
    if hasattr(model, "get_booster"):
        own = [one.item() if hasattr(one, "item") else one for one in model.classes_]
        booster = model.get_booster()
    learner = json.loads(booster.save_config())["learner"]
    objective = str(learner["objective"]["name"])
    if objective not in _MANY + _TWO:
        raise ModelError(
            f"the {name} was trained for something else than classes", given=objective,
            expected=", ".join(_MANY + _TWO),
        )  # fmt: skip
    # Written down by the library's training with early stopping; otherwise all rounds count.
    best = booster.attr("best_iteration")
    rounds = (0, 0) if best is None else (0, int(best) + 1)
    booster.set_param({"nthread": threads()})

    def answer(inputs: Any) -> Any:
        with quiet():
            return booster.inplace_predict(
                np.asarray(inputs, dtype=np.float32), iteration_range=rounds, predict_type="margin",
                validate_features=False,
            )  # fmt: skip

    def whole() -> str:
        return hashlib.sha256(bytes(booster.save_raw("ubj"))).hexdigest()

    return ForeignTeacher(
        answer, gives="logits", own=own, classes=classes, view=view, name=name, settings=settings,
        shape=(int(booster.num_features()),), digest=digest or whole, block=None,
    )  # fmt: skip

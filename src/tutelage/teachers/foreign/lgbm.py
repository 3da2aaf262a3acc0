"""LightGBM as a teacher: its raw scores are logits already, so nothing is lost in probabilities on the way."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from tutelage.errors import DamagedError, ModelError
from tutelage.teachers.foreign.bridge import ForeignTeacher, Settings
from tutelage.teachers.foreign.digest import file_digest, found_file
from tutelage.teachers.foreign.need import need, quiet, threads

__all__ = ["teacher_of_lightgbm", "teacher_of_lightgbm_file"]


def teacher_of_lightgbm_file(
    model: str, *, classes: Sequence[str] | None, view: str = "x", settings: Settings | None = None,
    name: str = "teacher",
) -> ForeignTeacher:  # fmt: skip
    """A model that `Booster.save_model` wrote.

    Raises:
        ModelError: there is no such file, or it is no classifier.
        DamagedError: it is no such model.
        MissingExtraError: LightGBM is not installed.
    """
    path = found_file(model, suffixes=(".txt",), whose="LightGBM")
    lightgbm = need("lightgbm", package="lightgbm", extra="lightgbm", purpose="a teacher of LightGBM")
    # Its own reader ends the process where a file is cut off in the middle of a tree.
    text = path.read_bytes().decode("utf-8", "replace")
    if not text.startswith("tree\n") or "\nend of trees" not in text:
        raise DamagedError(f"{path} is no model of LightGBM, or not the whole of one", fix="copy it again")
    try:
        with quiet():
            booster = lightgbm.Booster(model_str=text)
    except Exception as error:
        raise DamagedError(f"{path} is no model of LightGBM", given=str(error).splitlines()[0][:200]) from error
    return teacher_of_lightgbm(
        booster, classes=classes, view=view, settings=settings, name=name, digest=file_digest(path)
    )


def teacher_of_lightgbm(
    model: Any, *, classes: Sequence[str] | None = None, view: str = "x", settings: Settings | None = None,
    name: str = "teacher", digest: str | None = None,
) -> ForeignTeacher:  # fmt: skip
    """A `Booster`, or a fitted `LGBMClassifier`; trees that came after the best round do not count.

    Raises:
        ModelError: it was trained for something else than classes.
    """
    own: list[Any] | None = None
    booster = model
    if hasattr(model, "booster_"):
        own = [one.item() if hasattr(one, "item") else one for one in model.classes_]
        booster = model.booster_
    text = booster.model_to_string()
    found = re.search(r"^objective=(\S+)(.*)$", text, re.MULTILINE)
    objective = "" if found is None else found.group(1)
    slope = 1.0
    if objective == "binary" and found is not None:
        # p = 1 / (1 + exp(−slope · raw)).
        told = re.search(r"sigmoid:(\S+)", found.group(2))
        slope = 1.0 if told is None else float(told.group(1))
    elif objective not in ("multiclass", "multiclassova"):
        raise ModelError(
            f"the {name} was trained for something else than classes", given=objective or "no objective",
            expected="binary, multiclass, multiclassova",
        )  # fmt: skip
    one_by_one = objective == "multiclassova"  # a sigmoid for each class: no logits of one distribution

    def answer(inputs: Any) -> Any:
        with quiet():
            raw = booster.predict(np.asarray(inputs, dtype=np.float32), raw_score=not one_by_one, num_threads=threads())
        return raw / raw.sum(-1, keepdims=True) if one_by_one else raw * slope

    def whole() -> str:
        return hashlib.sha256(booster.model_to_string().encode()).hexdigest()

    return ForeignTeacher(
        answer, gives="probabilities" if one_by_one else "logits", own=own, classes=classes, view=view, name=name,
        settings=settings, shape=(int(booster.num_feature()),), digest=digest or whole, block=None,
    )  # fmt: skip

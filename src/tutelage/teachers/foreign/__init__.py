"""Teachers from other frameworks: a file or a fitted object of any of these answers a student of tutelage.

Nothing here imports a framework before one of its models is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from tutelage.errors import InputError, nearest
from tutelage.teachers.foreign.bridge import FLOOR, ForeignTeacher, Settings
from tutelage.teachers.foreign.live import NO_FEATURES, OTHER_WAYS, is_live, wrap
from tutelage.teachers.protocol import Teacher
from tutelage.words import is_fitted

__all__ = [
    "FLOOR",
    "FOREIGN",
    "ForeignTeacher",
    "Settings",
    "is_foreign",
    "is_live",
    "open_foreign",
    "wrap",
]

FOREIGN: Mapping[str, str] = {
    "sklearn": "a classifier of scikit-learn by its name, or `tfidf` for text, fitted on the training part; "
    "or /file.skops",
    "xgboost": "/file.json or /file.ubj, a classifier of XGBoost",
    "lightgbm": "/file.txt, a classifier of LightGBM",
    "onnx": "/file.onnx, run by ONNX Runtime",
    "keras": "/file.keras, a model of Keras 3",
    "savedmodel": "/folder, a SavedModel of TensorFlow",
    "jax": "package.module:function, which returns a function of arrays; needs --trust",
}
_COMMON = ("classes", "gives", "floor", "layout", "scale")
_FURTHER: Mapping[str, tuple[str, ...]] = {"onnx": ("input", "output"), "savedmodel": ("signature", "output")}


def is_foreign(model: str) -> bool:
    """Whether a model's name means a teacher of another framework."""
    return model.partition(":")[0] in FOREIGN and ":" in model


def open_foreign(
    model: str,
    args: Mapping[str, object],
    *,
    classes: Sequence[str],
    fit: tuple[Tensor, Tensor] | None = None,
    view: str = "x",
    seed: int = 0,
    trust: bool = False,
    keep: Path | None = None,
    places: Sequence[str] = (),
) -> Teacher:
    """A teacher by its name: `prefix:what`, where the prefix is a key of `FOREIGN`.

    Args:
        model: what to open; a relative path begins where tutelage runs.
        args: of every one of them `classes` (the names of its outputs in their order), `gives` (logits, probabilities
            or classes), `floor` (the least probability), `layout` of pictures (NCHW, NHWC), `scale` (what inputs in
            [0, 1] are multiplied by); of ONNX `input` and `output`; of a SavedModel `signature` and `output`; of what
            is fitted, the estimator's own; of JAX, the function's own.
        classes: the data's classes in their order.
        fit: the training part's inputs of the view and its labels, for those that are fitted.
        view: of the inputs that it reads.
        seed: of those that are fitted.
        trust: whether a name may run code of the user's own.
        keep: a path without ending, beside which a fitted one is kept and found again.
        places: layers that answer features; of Keras on torch only.

    Returns:
        A teacher whose answers are logits (B, C) in the data's order; of Keras on torch a `ModuleTeacher`.

    Raises:
        InputError: the name or an argument is wrong, or names code without trust.
        ModelError: there is no such file, or it does not fit the data.
        DamagedError: the file is not what it claims to be.
        MissingExtraError: the framework is not installed; names the extra.
    """
    prefix, _, what = model.partition(":")
    if prefix not in FOREIGN or not what:
        raise InputError(
            f"`{model}` names no teacher of another framework", expected=", ".join(f"{one}:…" for one in FOREIGN),
            fix=nearest(prefix, FOREIGN),
        )  # fmt: skip
    settings, rest = _settings(model, args)
    if places and prefix != "keras":
        raise InputError(NO_FEATURES, given=", ".join(places), fix=OTHER_WAYS)
    told: dict[str, Any] = {"classes": classes, "view": view, "settings": settings}
    if prefix == "sklearn":
        return _of_sklearn(what, rest, told, fit, seed=seed, trust=trust, keep=keep)
    if prefix == "jax":
        from tutelage.teachers.foreign.jax_function import teacher_of_jax

        return teacher_of_jax(what, rest, trust=trust, **told)
    options = {"reads" if name == "input" else name: value for name, value in rest.items()}
    if prefix == "keras":
        options["places"] = places
    return _of_file(prefix, what, {**told, **options})


def _settings(model: str, args: Mapping[str, object]) -> tuple[Settings, dict[str, object]]:
    """What is said of every teacher, and the rest, of which only estimators and functions take what they like."""
    prefix = model.partition(":")[0]
    known = [*_COMMON, *_FURTHER.get(prefix, ())]
    for name in args:
        if name not in known and prefix != "jax" and not is_fitted(model):
            raise InputError(
                f"`{prefix}:` takes no argument `{name}`", expected=", ".join(known), fix=nearest(name, known)
            )
    said: dict[str, Any] = {name: args[name] for name in _COMMON if name in args}
    if isinstance(said.get("classes"), list):
        said["classes"] = tuple(str(one) for one in said["classes"])
    return Settings(**said), {name: value for name, value in args.items() if name not in _COMMON}


def _of_file(prefix: str, what: str, told: dict[str, Any]) -> Teacher:
    if prefix == "xgboost":
        from tutelage.teachers.foreign.xgb import teacher_of_xgboost_file

        return teacher_of_xgboost_file(what, **told)
    if prefix == "lightgbm":
        from tutelage.teachers.foreign.lgbm import teacher_of_lightgbm_file

        return teacher_of_lightgbm_file(what, **told)
    if prefix == "onnx":
        from tutelage.teachers.foreign.onnx_file import teacher_of_onnx

        return teacher_of_onnx(what, **told)
    if prefix == "keras":
        from tutelage.teachers.foreign.keras_model import teacher_of_keras_file

        return teacher_of_keras_file(what, **told)
    from tutelage.teachers.foreign.saved_model import teacher_of_saved_model

    return teacher_of_saved_model(what, **told)


def _of_sklearn(
    what: str,
    args: Mapping[str, object],
    told: Mapping[str, Any],
    fit: tuple[Tensor, Tensor] | None,
    *,
    seed: int,
    trust: bool,
    keep: Path | None,
) -> Teacher:
    from tutelage.teachers.foreign.scikit import Fitting, fitted_teacher, teacher_of_skops

    if what.endswith(".skops"):
        return teacher_of_skops(what, trust=trust, **told)
    if fit is None:
        raise InputError(f"sklearn:{what} is fitted on the training part, and none was given", fix="give fit=(x, y)")
    return fitted_teacher(Fitting(what, args, *fit, seed, keep), **told)

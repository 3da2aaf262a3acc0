"""Objects of other frameworks that are in Python's hands: known by what they are made of, without importing any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tutelage.errors import InputError
from tutelage.models.kerasnet import is_keras
from tutelage.teachers.foreign.bridge import Settings
from tutelage.teachers.protocol import Teacher

__all__ = ["NO_FEATURES", "OTHER_WAYS", "is_live", "wrap"]

NO_FEATURES = "a teacher of another framework answers no features"
OTHER_WAYS = "match its logits, or use a torch module, or Keras on torch"


def is_live(model: object) -> bool:
    """Whether `wrap` knows what to do with it."""
    return _kind(model) is not None


def wrap(
    model: Any,
    *,
    classes: Sequence[str] | None = None,
    view: str = "x",
    settings: Settings | None = None,
    name: str = "teacher",
    places: Sequence[str] = (),
    output: str | None = None,
) -> Teacher:
    """A fitted estimator or pipeline of scikit-learn, a booster or classifier of XGBoost or LightGBM, an
    `onnxruntime.InferenceSession`, a model of Keras, a signature or model of TensorFlow, or a function of JAX.

    Args:
        model: the object; it is not changed.
        classes: the data's classes in their order; without them only numbered outputs can be told apart.
        view: of a batch's inputs that it reads.
        settings: what it does not say of itself.
        places: layers that answer features; of Keras on torch only.
        output: of several outputs the one that is the answer; of ONNX and TensorFlow only.

    Raises:
        InputError: it is none of these.
        ModelError: it does not fit the data, or answers no features.
    """
    kind = _kind(model)
    told: dict[str, Any] = {"classes": classes, "view": view, "settings": settings, "name": name}
    if kind == "keras":
        from tutelage.teachers.foreign.keras_model import teacher_of_keras

        return teacher_of_keras(model, places=places, **told)
    if kind is None:
        raise InputError(
            f"a {type(model).__name__} is no model of a framework that is known here", given=type(model).__module__,
            expected="scikit-learn, XGBoost, LightGBM, ONNX Runtime, Keras, TensorFlow, JAX",
            fix="ForeignTeacher(function, digest='a name for this very model') takes any function of arrays",
        )  # fmt: skip
    if places:
        raise InputError(NO_FEATURES, given=", ".join(places), fix=OTHER_WAYS)
    return _wrapped(kind, model, told, output)


def _wrapped(kind: str, model: Any, told: dict[str, Any], output: str | None) -> Teacher:
    if kind == "xgboost":
        from tutelage.teachers.foreign.xgb import teacher_of_booster

        return teacher_of_booster(model, **told)
    if kind == "lightgbm":
        from tutelage.teachers.foreign.lgbm import teacher_of_lightgbm

        return teacher_of_lightgbm(model, **told)
    if kind == "onnx":
        from tutelage.teachers.foreign.onnx_file import teacher_of_session

        return teacher_of_session(model, output=output, **told)
    if kind == "tensorflow":
        from tutelage.teachers.foreign.saved_model import teacher_of_signature

        signatures = getattr(model, "signatures", {})
        function = signatures.get("serving_default", model) if hasattr(signatures, "get") else model
        return teacher_of_signature(function, output=output, keeps=model, **told)
    if kind == "jax":
        from tutelage.teachers.foreign.jax_function import teacher_of_function

        return teacher_of_function(model, **told)
    from tutelage.teachers.foreign.scikit import teacher_of_estimator

    return teacher_of_estimator(model, **told)


def _kind(model: object) -> str | None:
    """The framework whose object it is; an estimator of somebody else's is one of scikit-learn by its methods."""
    homes = {kind.__module__.partition(".")[0] for kind in type(model).__mro__}
    if is_keras(model):
        return "keras"
    if "xgboost" in homes and (hasattr(model, "get_booster") or hasattr(model, "save_config")):
        return "xgboost"
    if "lightgbm" in homes and (hasattr(model, "booster_") or hasattr(model, "model_to_string")):
        return "lightgbm"
    if "onnxruntime" in homes and hasattr(model, "get_inputs"):
        return "onnx"
    if "tensorflow" in homes and (hasattr(model, "signatures") or hasattr(model, "structured_input_signature")):
        return "tensorflow"
    if homes & {"jax", "jaxlib"} and callable(model):
        return "jax"
    if hasattr(model, "predict") and hasattr(model, "get_params") and not isinstance(model, type):
        return "sklearn"
    return None

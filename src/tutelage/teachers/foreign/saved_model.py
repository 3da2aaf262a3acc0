"""A SavedModel of TensorFlow as a teacher: its function for serving, as TensorFlow Serving would call it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.errors import DamagedError, InputError, ModelError, nearest
from tutelage.teachers.foreign.bridge import ForeignTeacher, Settings
from tutelage.teachers.foreign.digest import file_digest
from tutelage.teachers.foreign.need import need, quiet, threads

__all__ = ["teacher_of_saved_model", "teacher_of_signature"]


def teacher_of_saved_model(
    model: str, *, classes: Sequence[str] | None, view: str = "x", settings: Settings | None = None,
    name: str = "teacher", signature: str = "serving_default", output: str | None = None,
) -> ForeignTeacher:  # fmt: skip
    """A folder with `saved_model.pb`. Its graph can hold operations that read and write files: take it only from whom
    you trust, as TensorFlow itself says of its models.

    Args:
        signature: which of its functions answers.
        output: which of that function's outputs is the answer; needed where it has several.

    Raises:
        ModelError: there is no such folder.
        InputError: there is no such function or output, or it is not clear which is meant.
        DamagedError: it cannot be loaded.
        MissingExtraError: TensorFlow is not installed.
    """
    path = Path(model).expanduser()
    if not (path / "saved_model.pb").is_file():
        raise ModelError(
            f"there is no saved_model.pb in {path}", given=model, expected="a folder that TensorFlow saved"
        )
    tf = need("tensorflow", package="tensorflow", extra="tensorflow", purpose="a teacher in a SavedModel")
    try:  # only before its first operation; later it keeps what it has
        tf.config.threading.set_intra_op_parallelism_threads(threads())
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:
        pass
    try:
        with quiet():
            loaded = tf.saved_model.load(str(path))
    except Exception as error:
        raise DamagedError(
            f"{path} cannot be loaded as a SavedModel", given=f"{type(error).__name__}: {str(error)[:200]}"
        ) from error
    found: Mapping[str, Any] = loaded.signatures
    if signature not in found:
        raise InputError(
            f"the {name} has no signature `{signature}`", expected=", ".join(found) or "a model saved with one",
            fix=nearest(signature, found) if found else "save it with signatures=…, or by `model.export(folder)`",
        )  # fmt: skip
    return teacher_of_signature(
        found[signature], classes=classes, view=view, settings=settings, name=name, output=output,
        digest=f"{file_digest(path)} {signature}", keeps=loaded,
    )  # fmt: skip


def teacher_of_signature(
    function: Any, *, classes: Sequence[str] | None = None, view: str = "x", settings: Settings | None = None,
    name: str = "teacher", output: str | None = None, digest: str | None = None, keeps: object = None,
) -> ForeignTeacher:  # fmt: skip
    """A concrete function of TensorFlow, such as `model.signatures["serving_default"]`.

    Args:
        keeps: what has to live as long as the function.
    """
    given: Mapping[str, Any] = function.structured_input_signature[1]
    if len(given) != 1:
        raise InputError(
            f"the {name} reads {len(given)} inputs", given=_listed(given), expected="one",
            fix="save it with a signature that has one input",
        )  # fmt: skip
    (reads, spec), outputs = next(iter(given.items())), function.structured_outputs
    if not isinstance(outputs, Mapping):
        raise InputError(f"the {name} does not name its outputs", given=type(outputs).__name__)
    if output is None and len(outputs) != 1:
        raise InputError(
            f"the {name} has {len(outputs)} outputs", given=_listed(outputs),
            fix=f"name one: output: {next(iter(outputs), '…')}",
        )  # fmt: skip
    asked = next(iter(outputs)) if output is None else output
    if asked not in outputs:
        raise InputError(
            f"the {name} has no output `{asked}`", expected=_listed(outputs), fix=nearest(asked, outputs)
        )  # fmt: skip
    tf = need("tensorflow", package="tensorflow", extra="tensorflow", purpose="a teacher of TensorFlow")
    texts = spec.dtype == tf.string
    shape = None if spec.shape.rank is None else tuple(spec.shape.as_list())

    def answer(inputs: Any, _: object = keeps) -> Any:  # its variables go when nobody holds the model
        if texts:
            array = np.array(inputs, dtype=object).reshape(-1, *[1] * (len(shape or (0,)) - 1))
        else:
            array = np.asarray(inputs).astype(spec.dtype.as_numpy_dtype, copy=False)
        with quiet():
            return function(**{reads: tf.constant(array, dtype=spec.dtype)})[asked].numpy()

    def whole() -> str:
        told = hashlib.sha256(f"{function.structured_input_signature} {asked}".encode())
        told.update(function.graph.as_graph_def().SerializeToString(deterministic=True))
        for variable in function.graph.variables:
            told.update(np.ascontiguousarray(variable.numpy()).tobytes())
        return told.hexdigest()

    fixed = shape[0] if shape else None
    return ForeignTeacher(
        answer, classes=classes, view=view, name=name, settings=settings,
        shape=None if texts or shape is None else shape[1:], digest=f"{digest} {asked}" if digest else whole,
        block=fixed or 64, fixed=fixed is not None,
    )  # fmt: skip


def _listed(parts: Mapping[str, Any]) -> str:
    return "; ".join(f"{name}: {one.dtype.name} {one.shape}" for name, one in parts.items())

"""An ONNX file as a teacher, run by ONNX Runtime on the CPU, whoever wrote it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.errors import DamagedError, InputError, ModelError, nearest
from tutelage.teachers.foreign.bridge import ForeignTeacher, Settings
from tutelage.teachers.foreign.digest import file_digest, found_file, object_digest
from tutelage.teachers.foreign.need import need, quiet, threads

__all__ = ["teacher_of_onnx", "teacher_of_session"]

_KINDS = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16,
    "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(uint8)": np.uint8, "tensor(string)": np.object_,
}  # fmt: skip


def teacher_of_onnx(
    model: str, *, classes: Sequence[str] | None, view: str = "x", settings: Settings | None = None,
    name: str = "teacher", reads: str | None = None, output: str | None = None,
) -> ForeignTeacher:  # fmt: skip
    """An ONNX file of any opset that ONNX Runtime knows.

    Args:
        reads: the input that gets the examples; needed where there are several of which more than one could.
        output: the one that is the answer; needed where several could be.

    Raises:
        InputError: there is no such input or output, or it is not clear which is meant.
        DamagedError: it is no such file.
        MissingExtraError: ONNX Runtime is not installed.
    """
    path = found_file(model, suffixes=(".onnx",), whose="ONNX Runtime")
    runtime = need("onnxruntime", package="onnxruntime", extra="onnx", purpose="a teacher in ONNX")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads()
    options.inter_op_num_threads = 1
    try:
        with quiet():
            session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's own types stand in a private module
        raise DamagedError(
            f"{path} is no ONNX file that can be run", given=str(error).split("\n")[0][:300],
            fix="is what it keeps beside itself (…onnx.data) there as well?",
        ) from error  # fmt: skip
    return teacher_of_session(
        session, classes=classes, view=view, settings=settings, name=name, reads=reads, output=output,
        digest=_digest(path),
    )  # fmt: skip


def _digest(path: Path) -> str:
    """Of the file, and of the weights that it may keep beside itself."""
    beside = sorted(path.parent.glob(f"{path.name}?data"))
    return " ".join(file_digest(one) for one in (path, *beside))


def teacher_of_session(
    session: Any, *, classes: Sequence[str] | None = None, view: str = "x", settings: Settings | None = None,
    name: str = "teacher", reads: str | None = None, output: str | None = None, digest: str | None = None,
) -> ForeignTeacher:  # fmt: skip
    """An `onnxruntime.InferenceSession`."""
    inputs, outputs = list(session.get_inputs()), list(session.get_outputs())
    given = _chosen("input", inputs, reads, [one for one in inputs if not _is_beside(one.name)], name)
    floats = [one for one in outputs if one.type in ("tensor(float)", "tensor(double)", "tensor(float16)")]
    rows = [one for one in floats if len(one.shape or (0, 0)) == 2]
    asked = _chosen("output", outputs, output, rows or floats, name)
    others = [one for one in inputs if one.name != given.name]
    unknown = [one.name for one in others if not _is_beside(one.name)]
    if unknown:
        raise InputError(
            f"the {name} reads more than one view can say", given=_listed(inputs),
            expected="one input, and masks or segments of tokens beside it",
        )  # fmt: skip
    kind = _KINDS.get(given.type)
    if kind is None:
        raise ModelError(f"the {name} reads {given.type}, which no view holds", expected=", ".join(_KINDS))
    shape = [one if isinstance(one, int) else None for one in given.shape]
    texts = kind is np.object_

    def answer(rows: Any) -> Any:
        if texts:
            array = np.array(rows, dtype=object).reshape(-1, *[1] * (len(shape) - 1))
        else:
            array = np.asarray(rows).astype(kind, copy=False)
        feed = {given.name: array}
        for one in others:
            beside = array != 0 if "mask" in one.name else np.zeros_like(array)
            feed[one.name] = beside.astype(_KINDS.get(one.type, np.int64))
        return session.run([asked.name], feed)[0]

    fixed = shape[0] if shape else None
    path = getattr(session, "_model_path", None)
    if digest is None:
        kept = getattr(session, "_model_bytes", None)
        digest = _digest(Path(path)) if path else object_digest(kept)
    return ForeignTeacher(
        answer, classes=classes, view=view, name=name, settings=settings, shape=None if texts else shape[1:],
        digest=f"{digest} {given.name} {asked.name}", block=fixed or 64, fixed=fixed is not None,
    )  # fmt: skip


def _is_beside(title: str) -> bool:
    """Whether an input says of tokens which of them count, or to which text they belong."""
    return "mask" in title or "token_type" in title or "segment" in title


def _chosen(role: str, offered: list[Any], wanted: str | None, likely: list[Any], name: str) -> Any:
    """The one that was named, or the only one that can be meant."""
    if wanted is not None:
        found = next((one for one in offered if one.name == wanted), None)
        if found is None:
            raise InputError(
                f"the {name} has no {role} `{wanted}`", expected=_listed(offered),
                fix=nearest(wanted, [one.name for one in offered]),
            )  # fmt: skip
        return found
    if len(likely) != 1:
        raise InputError(
            f"the {name} has {len(likely) or 'no'} {role}s that could be meant", given=_listed(offered),
            fix=f"name one: {role}: {(likely or offered)[0].name}",
        )  # fmt: skip
    return likely[0]


def _listed(offered: list[Any]) -> str:
    return "; ".join(f"{one.name}: {one.type} {one.shape}" for one in offered)

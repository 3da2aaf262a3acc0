"""A function as a teacher: of JAX, or of whatever else takes arrays and returns them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tutelage.errors import InputError, ModelError, TutelageError
from tutelage.extensions import imported
from tutelage.teachers.foreign.bridge import ForeignTeacher, Settings
from tutelage.teachers.foreign.digest import object_digest
from tutelage.teachers.foreign.need import need, quiet

__all__ = ["teacher_of_function", "teacher_of_jax"]


def teacher_of_jax(
    model: str, args: Mapping[str, object], *, classes: Sequence[str], view: str = "x",
    settings: Settings | None = None, trust: bool = False, name: str = "teacher",
) -> ForeignTeacher:  # fmt: skip
    """What `package.module:function` returns when it is called with `args`: a function of arrays.

    Args:
        trust: whether the code may run.

    Raises:
        InputError: it is not trusted, cannot be imported, or is no function.
        ModelError: it fails, or returns no function.
        MissingExtraError: JAX is not installed.
    """
    if not trust:
        raise InputError(
            "a recipe names code, and code runs only when you say so", given=f"jax:{model}",
            fix="if you trust whoever wrote it, run it with --trust",
        )  # fmt: skip
    need("jax", package="jax", extra="jax", purpose="a teacher of JAX")
    make = imported(model, failed=ModelError)
    if not callable(make):
        raise InputError(f"`{model}` is no function", given=type(make).__name__, expected="a function")
    try:
        with quiet():
            function = make(**args)
    except TutelageError:
        raise
    except Exception as error:
        raise ModelError(
            f"`{model}` fails: {type(error).__name__}: {str(error)[:200]}",
            given=", ".join(f"{key}={value!r}" for key, value in args.items()) or "no arguments",
            expected="a function that returns the teacher: a function of arrays",
        ) from error
    if not callable(function):
        raise ModelError(
            f"`{model}` returns no teacher", given=type(function).__name__,
            expected="a function: inputs (B, …) to logits (B, C)",
        )  # fmt: skip
    return teacher_of_function(function, classes=classes, view=view, settings=settings, name=name)


def teacher_of_function(
    function: Callable[[Any], Any], *, classes: Sequence[str] | None = None, view: str = "x",
    settings: Settings | None = None, name: str = "teacher", digest: str | None = None,
) -> ForeignTeacher:  # fmt: skip
    """A function of arrays, (B, …) to (B, C), as a teacher.

    Its digest is of its code and of all the data that it closes over or finds by name in its own module: weights count
    wherever they are reached that way.
    """

    def answer(inputs: Any) -> Any:
        with quiet():
            return np.asarray(function(inputs))

    return ForeignTeacher(
        answer, classes=classes, view=view, name=name, settings=settings,
        digest=digest or (lambda: object_digest(function)),
    )  # fmt: skip

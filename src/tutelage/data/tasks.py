"""Further labels of the same examples, for models that learn several tasks at once."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from tutelage.data.examples import Examples, listed
from tutelage.data.splits import Splits
from tutelage.errors import DataError, InputError, nearest

__all__ = ["check_task", "further_arrays", "further_targets", "name_task", "only", "splits_of"]

_NAME = re.compile(r"[a-z0-9_][a-z0-9_-]{0,39}")
_INPUTS = ("x", "x_test", "x_train", "x_val")

Arrays = dict[str, NDArray[Any]]


def check_task(name: str, where: str) -> None:
    """Refuse what cannot name a task.

    Raises:
        DataError: it is too long, or holds something else than is written in recipes and file names.
    """
    if _NAME.fullmatch(name) is None:
        raise DataError(
            f"{name!r} cannot name a task", where=where, expected="at most 40 of a-z, 0-9, `_` and `-`", fix="rename it"
        )


def further_arrays(
    arrays: Arrays, where: str
) -> tuple[Arrays, dict[str, tuple[list[NDArray[Any]], NDArray[Any] | None]]]:
    """The labels of further tasks apart from the rest of a file.

    Args:
        arrays: of the file.
        where: what messages call it.

    Returns:
        What is no label of a further task; and task -> its labels, part by part in the order of their names (test,
        train, val), and the array of its classes' names, if there is one.

    Raises:
        DataError: a part without labels, names of classes without labels, or a name that no task can have.
    """
    rest = {key: array for key, array in arrays.items() if not key.startswith(("targets_", "classes_"))}
    suffixes = [key[1:] for key in _INPUTS if key in rest]
    keys = [key.removeprefix("targets_") for key in arrays if key.startswith("targets_")]
    tasks: dict[str, tuple[list[NDArray[Any]], NDArray[Any] | None]] = {}
    for key in keys:
        # Where the file has parts, what stands behind the last underscore is one of them.
        suffix = next((one for one in suffixes if one and key.endswith(one)), "")
        name = key.removesuffix(suffix)
        if name in tasks:
            continue
        check_task(name, where)
        wanted = [f"targets_{name}{one}" for one in suffixes]
        if missing := [one for one in wanted if one not in arrays]:
            raise DataError(
                f"{where} lacks labels of the task `{name}`", given=f"targets_{key}", expected=listed(wanted),
                fix=f"save {missing[0]} as well",
            )  # fmt: skip
        tasks[name] = [arrays[one] for one in wanted], arrays.get(f"classes_{name}")
    lonely = [key for key in arrays if key.startswith("classes_") and key.removeprefix("classes_") not in tasks]
    if lonely:
        name = lonely[0].removeprefix("classes_")
        raise DataError(
            f"{where} names classes of a task that has no labels", given=lonely[0], expected=f"targets_{name}",
            fix=nearest(name, tasks) if tasks else f"save targets_{name}, or leave {lonely[0]} out",
        )  # fmt: skip
    return rest, tasks


def further_targets(examples: Examples, index: Tensor) -> dict[str, Tensor]:
    """Task -> the labels (B,) of the chosen examples, for all tasks but the main one."""
    return {name: task.targets.index_select(0, index) for name, task in examples.tasks.items()}


def name_task(splits: Splits, task: str) -> Splits:
    """The same with another name for the main task.

    Raises:
        InputError: a further task has that name.
    """
    if task in splits.train.tasks:
        raise InputError(
            "the main task cannot be called like a further one", where="data.task", given=task,
            fix="choose another name, or leave it out",
        )  # fmt: skip
    return replace(splits, **{part: replace(getattr(splits, part), task=task) for part in ("train", "val", "test")})


def only(examples: Examples, task: str) -> Examples:
    """The same examples with one of their tasks, as if there were no other.

    Raises:
        InputError: they have no such task.
    """
    if task not in examples.names:
        raise InputError(f"no task `{task}`", expected="one of " + ", ".join(examples.names),
                         fix=nearest(task, examples.names))  # fmt: skip
    return replace(examples, targets=examples.labels[task], classes=examples.names[task], task=task, tasks={})


def splits_of(splits: Splits, task: str) -> Splits:
    """The same splits with one of their tasks, as if there were no other."""
    return replace(splits, train=only(splits.train, task), val=only(splits.val, task), test=only(splits.test, task))

"""What the data of a recipe become: examples, their scale, and what a student's file must remember of them."""

from __future__ import annotations

from pathlib import Path

import torch

from tutelage.data import Examples, Splits, as_model_input, fold_of, load
from tutelage.data.learned import Answer, Learned
from tutelage.data.sources import load_rows, made_of_rows
from tutelage.data.tasks import name_task
from tutelage.data.unlabelled import REST
from tutelage.errors import InputError, nearest
from tutelage.recipe import Recipe

__all__ = ["check_reads", "examples_of", "facts_of_data", "learned_of", "statistics"]

_SCALED = ("table", "words", "sound")  # kinds of inputs that their encoders scale


def examples_of(recipe: Recipe) -> tuple[Splits, tuple[str, ...]]:
    """The three parts of a recipe's data as its students read them, and what a person should know of them.

    Raises:
        InputError, DataError: what the data room says.
    """
    splits, told = _read(recipe)
    # Of questions the tasks have names of their own: start and end.
    return (splits if splits.train.separator else name_task(splits, recipe.data.task)), told


def _read(recipe: Recipe) -> tuple[Splits, tuple[str, ...]]:
    source = recipe.data
    fold = None if source.fold is None else (int(source.fold.split("/")[0]), int(source.fold.split("/")[1]))
    path = Path(source.path) if source.path else None
    if made_of_rows(source.source):
        reads = {one.reads for one in recipe.learners.values()}
        if len(reads) > 1:
            raise InputError(
                "all students of a run read the same view", where="students", given=str(sorted(map(str, reads)))
            )
        splits, told = load_rows(
            source.source, path=path, learned=learned_of(recipe), group=source.group, reads=reads.pop(),
            inputs={view: one.spec() for view, one in source.inputs.items()}, val=source.val, test=source.test,
            fold=fold, rest=source.unlabelled == REST,
        )  # fmt: skip
        return splits, tuple(f"data: {text}" for text in told)
    if source.inputs or source.group or source.label or source.tasks or source.answer:
        raise InputError(
            f"the source `{source.source}` has no columns", where="data.inputs",
            fix="leave out `inputs`, `label`, `tasks`, `answer` and `group`, or choose a source such as rows",
        )  # fmt: skip
    splits = load(source.source, path=path, val=source.val, test=source.test, seed=0, image_size=source.image_size)
    return (splits if fold is None else fold_of(splits, *fold, val=source.val)), ()


def learned_of(recipe: Recipe) -> Learned:
    """What a recipe says is learned of columns.

    Raises:
        InputError: both classes and answers.
    """
    source = recipe.data
    answer = None if source.answer is None else Answer(source.answer.text, source.answer.start)
    return Learned.of(source.label, source.tasks, answer)


def check_reads(recipe: Recipe, train: Examples) -> None:
    """Refuse a teacher that reads a view which the examples do not have.

    Raises:
        InputError: which one, and what there is.
    """
    for name, one in recipe.trusted.items():
        with_name = f"teachers.{name}" if name else "teacher"
        if one.reads and one.reads != train.reads and one.reads not in train.views:
            raise InputError(
                f"there is no view `{one.reads}`", where=f"{with_name}.reads",
                expected="one of " + ", ".join(train.views or [train.reads]), fix=nearest(one.reads, train.views),
            )  # fmt: skip


def facts_of_data(splits: Splits) -> dict[str, object]:
    """What of the data a student's file must remember to be built again."""
    mean, std = statistics(splits.train)
    shape, classes = list(splits.train.shape), list(splits.train.outputs)
    # Which of the logits are of which task; of one task all are.
    tasks: dict[str, object] = {"tasks": splits.train.sizes} if splits.train.tasks else {}
    made = splits.train.encodings.get(splits.train.reads)
    encoding: dict[str, object] = {"encoding": dict(made)} if made is not None else {}
    return {"input_shape": shape, "classes": classes, "mean": mean, "std": std, **tasks, **encoding}


def statistics(train: Examples) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the training part: per channel of images, over everything otherwise; 0 and 1 where
    inputs are no quantities, or were scaled when they were made."""
    if train.encodings.get(train.reads, {}).get("kind") in _SCALED or train.inputs.dtype == torch.int32:
        return [0.0], [1.0]
    inputs = as_model_input(train.inputs)
    axes = [0, 2, 3] if inputs.ndim == 4 else list(range(inputs.ndim))
    # In float64, so that the numbers do not depend on how many threads added them up.
    inputs = inputs.double()
    mean, std = inputs.mean(axes), inputs.std(axes, correction=0)
    return mean.reshape(-1).float().tolist(), std.clamp(min=1e-6).reshape(-1).float().tolist()

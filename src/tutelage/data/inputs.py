"""Rows become examples: what is learned and groups from columns, parts by group, and for each view an encoder that has
seen the training part only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from tutelage.data.encoders import Encoder, check_spec, columns_of, fit
from tutelage.data.encoders.text import Tokens
from tutelage.data.examples import Examples, Task, listed
from tutelage.data.folds import fold_of
from tutelage.data.learned import Learned
from tutelage.data.rows import Column, Rows
from tutelage.data.splits import Splits, assemble
from tutelage.errors import DataError, InputError, nearest

__all__ = ["from_rows", "read_again", "told_rows"]

_PARTS = ("train", "val", "test")


def from_rows(
    rows: Rows | Mapping[str, Any],
    *,
    inputs: Mapping[str, Mapping[str, Any]],
    label: str | None = None,
    tasks: Mapping[str, str] | None = None,
    answer: Mapping[str, str] | None = None,
    reads: str | None = None,
    group: str | None = None,
    part: str | None = None,
    val: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    fold: tuple[int, int] | None = None,
    name: str = "rows",
) -> Splits:
    """Make examples of rows, and three parts of them.

    Args:
        rows: columns of equal length, such as {"text": [...], "section": [...]}.
        label: the column of the classes; rows without a label are left out.
        tasks: further columns of classes by the name of a task, for models that learn several at once; rows that lack
            one of them are left out.
        answer: in place of a label, for answers that are part of a text: {"text": column of what they say, "start":
            column of the character of the context at which they begin}; without `start` it is where the text first
            says it, and rows whose text does not are left out. "" is no answer. The examples have the tasks `start`
            and `end`, places of tokens, of which 0 is "no answer".
        inputs: view -> what it is made of, as a recipe's `data.inputs`: {"en": {"text": ["title", "body"], "tokens":
            {"length": 64}}, "t": {"numbers": ["age"], "categories": ["town"]}}. Rows that say nothing in one of the
            views are left out.
        reads: the view that students read; by default the first.
        group: a column such as the source or the speaker: what is equal in it stays in one part.
        part: a column that says train, val or test, in place of a random division.
        val: share of the examples that decide.
        test: share that is looked at once.
        seed: of the division.
        fold: (i, k): the test part is fold i of k.
        name: of the set.

    Raises:
        InputError: a column or view is not there.
        DataError: the rows cannot be used.
    """
    return told_rows(
        rows if isinstance(rows, Rows) else _rows(rows, name), learned=Learned.of(label, tasks, answer), inputs=inputs,
        reads=reads, group=group, part=part, val=val, test=test, seed=seed, fold=fold,
    )[0]  # fmt: skip


def told_rows(
    rows: Rows,
    *,
    learned: Learned,
    inputs: Mapping[str, Mapping[str, Any]],
    reads: str | None = None,
    group: str | None = None,
    part: str | None = None,
    val: float,
    test: float,
    seed: int = 0,
    fold: tuple[int, int] | None = None,
    rest: bool = False,
) -> tuple[Splits, list[str]]:
    """The same, and what a person should know of it; with `rest` also the rows that lack a label, as `Splits.rest`."""
    if not inputs:
        raise InputError("nothing says what models read", where="data.inputs", expected="at least one view")
    if learned.missing:
        raise InputError(
            "nothing says what is learned", where="data.label", expected="a column of classes, or `answer`",
        )  # fmt: skip
    reads = next(iter(inputs)) if reads is None else reads
    if reads not in inputs:
        raise InputError(
            f"there is no view `{reads}`", expected="one of " + ", ".join(inputs), fix=nearest(reads, inputs)
        )
    for view, spec in inputs.items():
        check_spec(spec, rows, f"data.inputs.{view}")
    _check_questions(learned, inputs)
    found = _usable(rows, learned, inputs, fate="learned from without" if rest else "left out")
    kept, notices = found.kept, found.notices
    splits = _divided(kept, learned, inputs, group, part, val=val, test=test, seed=seed, allow_twins=part is not None)
    if fold is not None:
        splits = fold_of(splits, *fold, val=val, seed=seed)
    if rest:
        splits = replace(splits, rest=_without_labels(found.rest, splits, learned, inputs, group, part))
    seen = kept.take(splits.train.origins.numpy())
    if splits.rest is not None:
        seen = seen.followed_by(found.rest.take(splits.rest.origins.numpy()))
    encoders = {view: fit(spec, seen, f"data.inputs.{view}") for view, spec in inputs.items()}
    notices += [f"view `{view}`: {text}" for view, one in encoders.items() for text in getattr(one, "notices", ())]
    # What happens to the words that are learned from does not happen to those that judge.
    plain = {view: one.unswitched() if isinstance(one, Tokens) else one for view, one in encoders.items()}
    cut = list[int]()

    def filled(part: Examples) -> Examples:
        learns = part is splits.train or part is splits.rest
        own = found.rest if part is splits.rest else kept
        made, lost = _filled(part, own, encoders if learns else plain, reads, learned)
        cut.append(lost)
        return made

    made = splits.each(filled)
    return made, [*notices, *_cut_off(sum(cut), len(kept))]


def read_again(rows: Rows, encoding: Mapping[str, Any], learned: Learned) -> tuple[Examples, list[str]]:
    """Rows as a student reads them whose file holds this encoding, for instance to judge it on new ones; and what a
    person should know of them.

    Raises:
        InputError: a column that it reads is not there.
        DataError: nothing is left of the rows.
    """
    from tutelage.data.encoders import encoder_of

    encoder = encoder_of(encoding)
    inputs = {"x": {"text": encoder.columns}}
    _check_columns(learned, len(encoder.columns))
    kept = _usable(rows, learned, inputs).kept
    made, cut = _filled(_bare(kept, learned, inputs), kept, {"x": encoder}, "x", learned)
    return made, _cut_off(cut, len(kept))


def _cut_off(cut: int, number: int) -> list[str]:
    if not cut:
        return []
    return [
        f"{cut:,} of {number:,} answers stand behind the last token that is read; for these `no answer` is right, so "
        "that no model finds them: more `length` reads further"
    ]


def _rows(columns: Mapping[str, Any], name: str) -> Rows:
    made: dict[str, Column] = {}
    for key, values in columns.items():
        array = np.asarray(values)
        if array.dtype.kind in "US" or array.dtype == object:
            array = np.array(["" if value is None else str(value) for value in array.tolist()], dtype=object)
        elif array.ndim == 1:
            array = array.astype(np.float64)
        elif array.dtype != np.uint8:
            array = array.astype(np.float32)
        made[str(key)] = array
    return Rows(name, made)


def _check_questions(learned: Learned, inputs: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse views in whose tokens an answer has no place."""
    if learned.answer is None:
        return
    spec = next(iter(inputs.values()))
    if len(inputs) > 1 or not spec.get("tokens"):
        raise InputError(
            "the places of an answer are those of one view's tokens, which teacher and student read both",
            where="data.inputs", given=", ".join(inputs) if len(inputs) > 1 else "a view without `tokens`",
            expected="such as {x: {text: [question, context], tokens: {length: 128}}}",
        )  # fmt: skip
    _check_columns(learned, len(columns_of(spec)))
    if spec["tokens"].get("code_switch"):
        raise InputError(
            "an answer has no place in a text whose words are replaced", where="data.inputs",
            fix="leave `code_switch` out",
        )  # fmt: skip


def _check_columns(learned: Learned, number: int) -> None:
    if learned.answer is not None and number != 2:
        raise InputError(
            "a question and the text that holds its answer are two columns", where="data.inputs",
            given=f"{number} column{'s' * (number > 1)}", expected="such as text: [question, context]",
        )  # fmt: skip


class _Usable(NamedTuple):
    kept: Rows  # say what is learned, and something to read in every view
    rest: Rows  # say something to read, but not what is learned
    notices: list[str]


def _usable(
    rows: Rows, learned: Learned, inputs: Mapping[str, Mapping[str, Any]], *, fate: str = "left out"
) -> _Usable:
    said, read, notices = np.ones(len(rows), dtype=bool), np.ones(len(rows), dtype=bool), []
    for where, column in learned.columns.items():
        full = np.array([bool(text) for text in rows.texts(column, where)], dtype=bool)
        if lost := int((said & ~full).sum()):
            notices.append(f"{lost:,} of {len(rows):,} rows have no `{column}`, and are {fate}")
        said &= full
    if learned.answer is not None:
        _, there = learned.answer.spans(rows, columns_of(next(iter(inputs.values())))[1])
        if lost := int((~there).sum()):
            notices.append(f"{lost:,} of {len(rows):,} answers are not in their text, and are left out")
        said &= there
    for view, spec in inputs.items():
        columns = [rows.column(name, f"data.inputs.{view}") for name in columns_of(spec)]
        texts = [column for column in columns if column.dtype == object]
        if not columns or len(texts) < len(columns):
            continue  # numbers that are missing, and pictures, are the encoder's business
        full = np.array([any(cells) for cells in zip(*(c.tolist() for c in texts), strict=True)], dtype=bool)
        if lost := int((said & read & ~full).sum()):
            notices.append(f"{lost:,} rows say nothing in the view `{view}`, and are left out")
        read &= full
    if not (said & read).any():
        raise DataError(
            "no row says what is learned and has something to read", where=rows.name, given=f"{len(rows):,} rows"
        )
    kept = rows if (said & read).all() else rows.take(np.flatnonzero(said & read))
    return _Usable(kept, rows.take(np.flatnonzero(read & ~said)), notices)


def _without_labels(
    rows: Rows, splits: Splits, learned: Learned, inputs: Mapping[str, Mapping[str, Any]], group: str | None,
    part: str | None,
) -> Examples | None:  # fmt: skip
    """Examples of rows without labels, but of those whose group or content stands among what judges, or that are said
    to be of another part than train; None if there are none left."""
    if learned.answer is not None:
        raise InputError(
            "a question without an answer is an example like others", where="data.unlabelled", given="rest",
            fix="leave it out",
        )  # fmt: skip
    if not len(rows):
        return None
    blank, train = torch.zeros(len(rows), dtype=torch.int64), splits.train
    contents = _contents(rows, [name for spec in inputs.values() for name in columns_of(spec)])
    groups = None if group is None else _groups(rows, group, "rest ")
    tasks = {name: Task(blank, task.classes) for name, task in train.tasks.items()}
    pool = Examples.make(
        torch.zeros(len(rows), 1), blank, train.classes, train.name, tasks=tasks, contents=contents, groups=groups
    )
    if part is not None:
        said = np.array(rows.texts(part, "data.part"))[pool.origins.numpy()]
        pool = pool.take(torch.from_numpy(np.flatnonzero(said == "train")))
    for judges in (splits.val, splits.test):
        apart = ~torch.isin(pool.ids, judges.ids)
        if pool.groups is not None and judges.groups is not None:
            apart &= ~torch.isin(pool.groups, judges.groups)
        pool = pool.take(apart.nonzero().flatten())
    return pool if len(pool) else None


def _contents(rows: Rows, columns: Sequence[str]) -> list[bytes]:
    """What a row says in these columns, whatever their order in a recipe."""
    parts: list[list[bytes]] = []
    for name in sorted(set(columns)):
        column = rows.column(name)
        if column.dtype == object:
            parts.append([text.encode(errors="surrogatepass") for text in column.tolist()])
        else:
            parts.append([np.ascontiguousarray(value).tobytes() for value in column])
    return [b"\x1f".join(b"%d:%s" % (len(cell), cell) for cell in cells) for cells in zip(*parts, strict=True)]


def _groups(rows: Rows, group: str, mark: str = "") -> list[str]:
    """The group of every row; one that names none is alone."""
    return [text or f"\0{mark}{row}" for row, text in enumerate(rows.texts(group, "data.group"))]


def _bare(rows: Rows, learned: Learned, inputs: Mapping[str, Mapping[str, Any]], group: str | None = None) -> Examples:
    """Examples that have ids, labels and groups, but nothing to read yet; origins are their rows."""
    targets, classes, tasks = learned.bare(rows)
    contents = _contents(rows, [name for spec in inputs.values() for name in columns_of(spec)])
    groups = None if group is None else _groups(rows, group)
    blank = torch.zeros(len(rows), 1)
    return Examples.make(blank, targets, classes, rows.name, tasks=tasks, contents=contents, groups=groups)


def _divided(
    rows: Rows, learned: Learned, inputs: Mapping[str, Mapping[str, Any]], group: str | None, part: str | None, *,
    val: float, test: float, seed: int, allow_twins: bool,
) -> Splits:  # fmt: skip
    """Three parts of examples that have nothing to read yet."""
    bare = _bare(rows, learned, inputs, group)
    parts = {"train": bare}
    if part is not None:
        said = np.array(rows.texts(part, "data.part"))[bare.origins.numpy()]
        odd = sorted(set(said.tolist()) - set(_PARTS))
        if odd or "train" not in said:
            raise DataError(
                f"`{part}` does not say which part each row is in", where="data.part",
                given=listed(odd or sorted(set(said))), expected="train, and perhaps val and test",
            )  # fmt: skip
        rows_of = {which: torch.from_numpy(np.flatnonzero(said == which)) for which in _PARTS}
        parts = {which: bare.take(index) for which, index in rows_of.items() if len(index)}
        if {"train", "val", "test"} == set(parts):
            return Splits(parts["train"], parts["val"], parts["test"], own_test=True)
    return assemble(parts, val=val, test=test, seed=seed, where=rows.name, allow_overlap=allow_twins)


def _filled(
    bare: Examples, rows: Rows, encoders: Mapping[str, Encoder], reads: str, learned: Learned
) -> tuple[Examples, int]:
    """With something to read; and how many answers are not read to their end."""
    chosen = rows.take(bare.origins.numpy())
    views = {view: encoder.encode(chosen) for view, encoder in encoders.items()}
    encodings = {view: {**encoder.facts(), "vocabulary": encoder.vocabulary} for view, encoder in encoders.items()}
    reader, cut = encoders[reads], 0
    if learned.answer is not None:
        assert isinstance(reader, Tokens)
        bare, cut = learned.placed(bare, chosen, reader)
        encodings[reads]["separator"] = reader.separator
    further = views if len(views) > 1 else {}
    made = replace(bare, inputs=views[reads], reads=reads, encodings=encodings, views=further)
    if learned.answer is not None:
        # Only now it is known what twins have for answers: equal questions of one text have one order by these.
        order = np.lexsort((made.tasks["end"].targets.numpy(), made.targets.numpy(), made.ids.numpy()))
        made = made.take(torch.from_numpy(order))
    return made, cut

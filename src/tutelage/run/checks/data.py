"""What a run learns from and is judged by: counts, copies, leaks, labels that contradict each other, odd inputs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tutelage.data import Examples, Splits, leaks
from tutelage.data.examples import listed
from tutelage.data.tasks import only
from tutelage.evaluation.significance import minimum_detectable
from tutelage.run.checks.findings import Finding, fault, notice, ok, percent, several, warning

__all__ = ["conflicting", "data_findings"]

Ints = NDArray[np.int64]
# Large sets hold a few labels that contradict each other, which cannot move a result; more of them are a mistake.
_TOLERATED = 0.001
_FLAT = 0.02  # of the whole range: an input that spans less shows nothing
_FEW_TESTED = 200
_DISCORDANCE = 0.1
_UNLIKE = 100.0
_CUT = 0.25


def data_findings(splits: Splits) -> Iterator[Finding]:
    """All that can be said of the examples without a model."""
    parts = {"train": splits.train, "val": splits.val, "test": splits.test}
    shape = "×".join(map(str, splits.train.shape))
    sizes = ", ".join(f"{len(part):,} {name}" for name, part in parts.items())
    kind = str(splits.train.inputs.dtype).removeprefix("torch.")
    yield ok("data", f"{sizes}; inputs {shape} {kind}, {len(splits.train.classes):,} classes")
    if splits.train.separator:
        yield from (_answers(name, part) for name, part in parts.items())
    else:
        yield from (_counts(name, part) for name, part in parts.items())
        for task in splits.train.tasks:
            yield from (_counts(f"{name}, task {task}", only(part, task)) for name, part in parts.items())
    yield from _copies(splits.train)
    yield from _leaks(parts, splits)
    yield from _inputs(splits.train)
    tested = len(splits.test)
    if tested < _FEW_TESTED:
        least = percent(minimum_detectable(_DISCORDANCE, tested)).removesuffix(" %")
        yield notice(
            "test part",
            f"{several(tested, 'example')} can only show differences of {least} points and more "
            f"(at 95 %, between models that differ on {_DISCORDANCE:.0%} of them)",
            "a larger data.test, if there are examples to spare",
        )


def _answers(name: str, part: Examples) -> Finding:
    """Of questions: how many have an answer, and how long these are."""
    there = part.targets > 0
    if not bool(there.any()):
        return fault(
            f"answers of {name}", "no text that is read holds one", "a greater `length`, or look at `data.answer`"
        )
    lengths = (part.tasks["end"].targets - part.targets)[there] + 1
    median = int(lengths.median())
    said = f"{percent(float(there.double().mean()))} of {len(part):,} questions have one in the text that is read, "
    return ok(
        f"answers of {name}", f"{said}half of {several(median, 'token')} at most, the longest of {int(lengths.max())}"
    )


def _counts(name: str, part: Examples) -> Finding:
    counts = torch.bincount(part.targets, minlength=len(part.classes))
    least, most = int(counts.argmin()), int(counts.argmax())
    missing = [part.classes[i] for i in (counts == 0).nonzero().flatten().tolist()]
    if missing:
        said = f"{len(missing)} of {len(counts)} classes have no example: {listed(missing)}"
        return warning(f"classes of {name}", said, "give every part examples of every class")
    if int(counts[least]) == int(counts[most]):
        return ok(f"classes of {name}", f"{int(counts[least]):,} of each ({percent(1 / len(counts))})")
    return ok(
        f"classes of {name}",
        f"least frequent `{part.classes[least]}` {int(counts[least]):,}, "
        f"most frequent `{part.classes[most]}` {int(counts[most]):,} ({percent(float(counts[most]) / len(part))})",
    )


def conflicting(ids: Ints, targets: Ints) -> Ints:
    """The content ids that stand under more than one label, each once, sorted."""
    pairs = np.unique(np.stack([ids, targets]), axis=1)
    found, counts = np.unique(pairs[0], return_counts=True)
    return np.asarray(found[counts > 1], dtype=np.int64)


def _copies(train: Examples) -> Iterator[Finding]:
    ids, targets = train.ids.numpy(), train.targets.numpy()
    _, counts = np.unique(ids, return_counts=True)
    copies = int((counts - 1).sum())
    if copies:
        said = f"{several(copies, 'example')} of {len(ids):,} repeat another one's content"
        yield notice("copies in train", said, "each counts as often as it stands there; remove what is not meant")
    else:
        yield ok("copies in train", "none")
    torn = conflicting(ids, targets)
    if len(torn):
        number = int(np.isin(ids, torn).sum())
        worst = _named(train, torn)
        said = (
            f"{number} examples of {several(len(torn), 'content')} have the same input but different labels ({worst})"
        )
        level = fault if number > _TOLERATED * len(ids) else warning
        yield level("labels of train", said, "decide on one label for each, or remove them")


def _named(part: Examples, torn: Ints) -> str:
    """The labels of the first few contents, by name."""
    found = []
    for content in torn[:3]:
        own = np.unique(part.targets.numpy()[part.ids.numpy() == content]).tolist()
        found.append(" and ".join(f"`{part.classes[label]}`" for label in own))
    return "; ".join(found) + ("; …" if len(torn) > len(found) else "")


def _leaks(parts: dict[str, Examples], splits: Splits) -> Iterator[Finding]:
    shared = leaks(splits)
    if not any(shared.values()):
        yield ok("overlaps of parts", "none")
        return
    said = ", ".join(f"{count:,} of {between}" for between, count in shared.items() if count)
    yield fault("overlaps of parts", f"the same examples stand in two parts: {said}", "remove them from one of the two")
    arrays = [(part.ids.numpy(), part.targets.numpy()) for part in parts.values()]
    within = np.concatenate([conflicting(*own) for own in arrays])
    everywhere = conflicting(*(np.concatenate(column) for column in zip(*arrays, strict=True)))
    torn = len(np.setdiff1d(everywhere, within))
    if torn:
        yield fault(
            "labels between parts", f"{several(torn, 'content')} have different labels in different parts",
            "decide on one label for each, or remove them",
        )  # fmt: skip


def _inputs(train: Examples) -> Iterator[Finding]:
    if train.vocabulary:
        yield _tokens(train)
        return
    rows = train.inputs.reshape(len(train), -1)
    low, high = (extreme.float() for extreme in torch.aminmax(rows, dim=1))
    least, greatest = float(low.min()), float(high.max())
    whole = greatest - least
    text = f"values {least:g} … {greatest:g}"
    if whole == 0.0:
        yield fault("inputs", f"every input is the same constant, {least:g}", "look at how the data was made")
        return
    if train.is_image:
        flat = int((high - low <= _FLAT * whole).sum())
        constant = int((high == low).sum())
        if flat:
            yield warning(
                "inputs", f"{text}; {several(flat, 'image')} of {len(rows):,} show (nearly) nothing: they span at most "
                f"{_FLAT:.0%} of the range, {constant:,} of them a single value", "look at them, and remove them",
            )  # fmt: skip
            return
        made = train.reads in train.encodings  # and scaled, by an encoder that travels with the student
        if train.inputs.dtype.is_floating_point and not made and not 0.0 <= least <= greatest <= 1.0:
            text += ": standardised already, which models here do themselves"
            yield notice("inputs", text, "images in 0 … 1 serve every model, also those that bring their own scaling")
            return
        what = "example" if made else "image"
        yield ok("inputs", f"{text}; every {what} shows something")
        return
    yield from _features(rows, text, scaled=train.reads in train.encodings)


def _tokens(train: Examples) -> Finding:
    """How long texts are, and how many of them end where the input does."""
    lengths, most = (train.inputs != 0).sum(1), train.shape[0]
    full = float((lengths == most).double().mean())
    text = f"{most} tokens of {train.vocabulary:,} kinds; half of the texts have {int(lengths.median())} or fewer"
    if full > _CUT:
        return notice("inputs", f"{text}, {percent(full)} fill all {most} and were perhaps cut", "a greater `length`")
    return ok("inputs", text)


def _features(rows: Tensor, text: str, *, scaled: bool) -> Iterator[Finding]:
    """Columns of a table: one that never varies says nothing, and one that varies much more drowns the others."""
    spread = rows.double().std(0, correction=0)
    varies = spread > 1e-6 * spread.max()
    lost = int((~varies).sum())
    if lost:
        said = f"{text}; {several(lost, 'feature')} of {rows.shape[1]:,} never vary"
        yield warning("inputs", said, "leave them out")
    ratio = float(spread[varies].max() / spread[varies].min())
    if ratio > _UNLIKE and not scaled:  # of what an encoder scaled, rare categories vary little by their nature
        said = f"{text}; the feature that varies most does so {ratio:,.0f} times as much as the one that varies least"
        yield warning("inputs", said, "standardise each feature: models here scale all of them alike")
    elif not lost:
        yield ok("inputs", f"{text}; every feature varies")

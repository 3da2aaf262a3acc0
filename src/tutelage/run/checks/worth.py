"""What a linear model reaches within seconds: whether a teacher deserves the name, and views belong together."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from tutelage.data import Examples, as_model_input
from tutelage.data.encoders.text import texts_of
from tutelage.evaluation.significance import wilson
from tutelage.run.checks.findings import Finding, notice, ok, percent, warning
from tutelage.run.job import Job

__all__ = ["aligned_findings", "linear_share", "worth_finding"]

_LEARNED = 4_000  # training rows that the linear model sees
_MOST_NUMBERS = 4_096  # of one input; more take longer than a check should


def worth_finding(title: str, train: Examples, rows: Examples, share: float) -> Finding | None:
    """Compare a teacher's accuracy with a linear model's on the same rows.

    Args:
        title: what the teacher is called.
        train: its training part.
        rows: the validation rows that it was asked about.
        share: how many of these it had right.

    Returns:
        What there is to say; None where a linear model would take too long.
    """
    least = linear_share(train, rows)
    if least is None:
        return None
    said = f"a linear model that learned from {min(_LEARNED, len(train)):,} training rows has {percent(least)} right"
    if least < share:
        return ok(f"{title}'s worth", f"{said}, the {title} {percent(share)}")
    highest = wilson(share, len(rows)).ci_high
    return (warning if highest is not None and highest < least else notice)(
        f"{title}'s worth", f"{said}, no less than the {title} with {percent(share)} of {len(rows):,}",
        "train it longer, choose a stronger one or combine several: a student can hardly learn what its teacher lacks",
    )  # fmt: skip


def aligned_findings(job: Job) -> Iterator[Finding]:
    """Whether each of several views tells the classes at all: one that was joined to the wrong rows tells nothing."""
    splits = job.teaching.splits
    for view in dict.fromkeys([splits.train.reads, *splits.train.views]) if splits.train.views else ():
        train, val = splits.train.reading(view), splits.val.reading(view)
        share = linear_share(train, val)
        if share is None:
            continue
        most = float(torch.bincount(val.targets).max()) / len(val)
        least = wilson(share, len(val)).ci_low
        said = f"a linear model that reads it has {percent(share)} right, "
        said += f"always the most frequent class {percent(most)}"
        if least is not None and least > most:
            yield ok(f"view {view}", f"{said}: it belongs to these labels")
        else:
            yield warning(
                f"view {view}", f"{said}: it hardly tells the classes",
                "look at some rows: were its columns joined to the right ones?",
            )  # fmt: skip


def linear_share(train: Examples, rows: Examples) -> float | None:
    """The share (0 … 1) of `rows` that a linear model has right which learned from some thousand training rows."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MaxAbsScaler

    if train.inputs.dtype != rows.inputs.dtype or len(np.unique(train.targets[:_LEARNED])) < 2:
        return None
    if train.inputs[0].numel() > _MOST_NUMBERS and not _is_text(train):
        return None
    # Rows stand in the order of a hash, so the first ones are a random choice of them.
    x, other = _numbers(train, slice(0, _LEARNED)), _numbers(rows, slice(None))
    line = LogisticRegression(max_iter=50, C=10.0, tol=1e-2, solver="saga", random_state=0)
    model = make_pipeline(MaxAbsScaler(), line)
    with warnings.catch_warnings():
        # What is asked is what little effort reaches, not an optimum.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, train.targets[:_LEARNED].numpy())
    return float((model.predict(other) == rows.targets.numpy()).mean())


def _is_text(examples: Examples) -> bool:
    return examples.inputs.dtype == torch.uint8 and examples.inputs.ndim == 2


def _numbers(examples: Examples, part: slice) -> Any:
    """(N, D) numbers: of tokens, 1 + log of how often each one comes, of a text its words, as a sparse matrix."""
    raw = examples.inputs[part]
    if _is_text(examples):
        from sklearn.feature_extraction.text import HashingVectorizer

        return HashingVectorizer(n_features=2**15, alternate_sign=False).transform(texts_of(raw))
    if not examples.vocabulary:
        return as_model_input(raw).reshape(len(raw), -1).numpy()
    from scipy.sparse import csr_matrix

    tokens = raw.numpy()
    row, _ = np.nonzero(tokens)
    shape = (len(tokens), examples.vocabulary)
    counts: Any = csr_matrix((np.ones(len(row), np.float32), (row, tokens[tokens > 0])), shape=shape)
    counts.sum_duplicates()
    counts.data = 1.0 + np.log(counts.data)
    return counts

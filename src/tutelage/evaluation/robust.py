"""Accuracy under attack, as a report keeps it: one record for each run, and their means.

A record is measured, not computed from answers: who makes a report again from saved answers takes it as it stands.

    accuracy, fgsm, clean   shares of the attacked examples that stay right under PGD, under one step, and as they are
    eps, steps, step, restarts, examples    how it was attacked, and how many examples of the test part were
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tutelage.data import Examples, as_model_input
from tutelage.errors import InputError
from tutelage.evaluation.significance import over_seeds, wilson

__all__ = ["METHODS", "Record", "attacked_examples", "check_attackable", "robust_row", "settings_of"]

Record = Mapping[str, Any]
_SHARES = ("accuracy", "fgsm", "clean")
_SETTINGS = ("eps", "steps", "step", "restarts", "examples")

METHODS = {
    "robust_accuracy": "share of the attacked test examples that are answered rightly as they are and after projected "
    "gradient ascent (PGD) on the cross-entropy, within the largest change eps and within [0, 1], from every random "
    "start; each model by its own gradients, in eval mode; an upper bound, since a stronger attack may find more"
}


def attacked_examples(test: Examples, count: int) -> Examples:
    """The first of the test part in the order of their ids, which are hashes: a sample, and always the same one."""
    return test.take(torch.argsort(test.ids, stable=True)[:count])


def check_attackable(test: Examples) -> None:
    """Refuse, before anything is trained, an attack on inputs of which nobody knows where they end.

    Raises:
        InputError: they are not all in [0, 1], or of several tasks.
    """
    if test.tasks:
        raise InputError(
            "an attack makes a model err, but with several tasks nobody says on which", where="report.attack",
            given=", ".join(test.names), expected="one task", fix="take report.attack out",
        )  # fmt: skip
    if test.vocabulary:
        raise InputError(
            "an attack moves numbers a little, and tokens are none", where="report.attack",
            fix="take report.attack out",
        )  # fmt: skip
    least, largest = (float(bound) for bound in as_model_input(test.inputs).aminmax())
    if least < 0.0 or largest > 1.0:
        raise InputError(
            "an attack needs to know where inputs end", where="report.attack",
            given=f"numbers from {least:g} to {largest:g}", expected="[0, 1]",
            fix="scale the inputs before, or take report.attack out",
        )  # fmt: skip


def robust_row(records: Sequence[Record | None]) -> dict[str, Any] | None:
    """The means over the runs of a model; None unless all of them were attacked in the same way.

    Args:
        records: one for each run.

    Returns:
        The settings, an estimate over seeds for each of the shares, and `accuracy_items`, Wilson's interval over the
        attacked examples.
    """
    known = [record for record in records if record is not None]
    if not known or len(known) < len(records) or any(settings_of(one) != settings_of(known[0]) for one in known):
        return None
    n = int(known[0]["examples"])
    means = {key: over_seeds([float(one[key]) for one in known], n).within(0.0, 1.0) for key in _SHARES}
    return {
        **{key: estimate.to_json() for key, estimate in means.items()},
        "accuracy_items": wilson(min(1.0, means["accuracy"].value), n, seeds=len(known)).to_json(),
        **settings_of(known[0]),
    }


def settings_of(record: Record) -> dict[str, Any]:
    """How it was attacked."""
    return {key: record[key] for key in _SETTINGS}

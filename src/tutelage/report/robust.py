"""Accuracy under attack, beside the plain one on the same examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tutelage.report import numbers, parts
from tutelage.report.figures import colour
from tutelage.report.markup import Safe, tag
from tutelage.report.tables import bounded, stacked, table

Report = Mapping[str, Any]
_CHANCE = 0.01  # a random start may miss an example or two that the single step finds

__all__ = ["ahead", "how", "known", "robust"]


def known(report: Report) -> Report | None:
    """How models were attacked: the robust accuracy of the first that was; None where nobody was attacked."""
    return next((model["robust"] for model in report["models"] if "robust" in model), None)


def how(found: Report) -> str:
    """The attack in words: `PGD with eps 0.03, 20 steps of 0.00375, from 1 random start`."""
    starts = numbers.plural(found["restarts"], "random start")
    steps = numbers.plural(found["steps"], "step")
    return f"PGD with eps {found['eps']:g}, {steps} of {found['step']:.3g}, from {starts}"


def robust(report: Report) -> Safe | None:
    """The section of the page; None where nobody was attacked."""
    found = known(report)
    if found is None:
        return None
    seeds = numbers.plural(len(report["seeds"]), "seed")
    return parts.section(
        "Under attack",
        f"Each model was attacked by its own gradients, so that it errs: {how(found)}; and by a single step (FGSM). "
        f"n = {found['examples']:,}, the first of the test part in the order of their ids, {seeds}. A number of an "
        "input may change by eps at most, within [0, 1]. An example counts that is answered rightly as it is and under "
        "attack. These are upper bounds: a stronger attack may find more.",
        tag("div", _table(report), class_="card wide"),
        tag("p", masked, class_="note") if (masked := _masked(report)) else None,
    )


def _table(report: Report) -> Safe:
    rows = []
    for model in report["models"]:
        if "robust" not in model:
            continue
        own = model["robust"]
        name = tag("span", model["name"], class_=f"key {colour(report, model['name'])}")
        shares = [
            stacked(numbers.percent(own[key]["value"]), bounded(own[key])) for key in ("clean", "fgsm", "accuracy")
        ]
        kept = own["accuracy"]["value"] / own["clean"]["value"] if own["clean"]["value"] else None
        rows.append([name, *shares, stacked(numbers.interval(own["accuracy_items"])), stacked(numbers.percent(kept))])
    head = ["Model", "As they are ↑", "One step ↑", "PGD ↑", "95 % over these examples", "Stays right"]
    return table(head, rows)


def _masked(report: Report) -> str | None:
    """A weak attack that does more than the strong one tells of the strong one, not of the model."""
    odd = [
        f"‘{model['name']}’" for model in report["models"]
        if "robust" in model and model["robust"]["accuracy"]["value"] - model["robust"]["fgsm"]["value"] > _CHANCE
    ]  # fmt: skip
    if not odd:
        return None
    return (
        f"For {', '.join(odd)} one step does more than many: the steps are too small or too few, or the model hides "
        "its gradients. Do not trust these numbers; more steps, or more restarts, may tell."
    )


def ahead(report: Report) -> list[str]:
    """What the card says of it, one sentence; nothing where nobody was attacked."""
    found = known(report)
    if found is None:
        return []
    return [
        f"Robust accuracy is that under attack, each model by its own gradients: {how(found)}, on "
        f"{found['examples']:,} test examples. It is an upper bound.\n"
    ]

"""What a teacher's outputs are called, and the order in which the data calls them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.data.examples import listed
from tutelage.models import Classifier
from tutelage.models.formats import FORMATS

__all__ = ["NAMES_FIX", "contradiction", "meet_by_name", "names_of", "plain_name"]

NAMES_FIX = "its names stand in the wrong order: mend them in its config, or in the .json beside its weights"


def names_of(module: nn.Module, weights: Path | None) -> list[str] | None:
    """The class names that a teacher brings along: in a Hugging Face config, or in the facts beside a run's model."""
    for part in module.modules():
        names = getattr(getattr(part, "config", None), "id2label", None)
        if isinstance(names, Mapping) and names:
            found = [str(names[key]) for key in sorted(names, key=int)]
            # What transformers writes where nobody named them.
            return None if found == [f"LABEL_{number}" for number in range(len(found))] else found
    if weights is None:
        return None
    # student.int8.safetensors has its facts in student.json, as the file that it was made from.
    beside = weights.with_suffix("")
    beside = beside.with_suffix("") if beside.suffix.removeprefix(".") in FORMATS else beside
    try:
        facts: Any = json.loads(beside.with_name(f"{beside.name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    kept = facts.get("classes") if isinstance(facts, dict) else None
    return kept if isinstance(kept, list) and all(isinstance(name, str) for name in kept) else None


def meet_by_name(module: nn.Module, own: Sequence[str] | None, data: Sequence[str]) -> str | None:
    """Put a teacher's logits into the order of the data's classes, where its own names say that they stand in another.

    Args:
        module: of which a `Classifier` can be reordered.
        own: the names of its outputs, if it brings any.
        data: the data's classes.

    Returns:
        What was done, in words; None where nothing was to be done, or the names are not the same set.
    """
    if own is None or not isinstance(module, Classifier):
        return None
    theirs, ours = [plain_name(name) for name in own], [plain_name(name) for name in data]
    if theirs == ours or sorted(theirs) != sorted(ours) or len(set(ours)) < len(ours):
        return None
    module.reorder([theirs.index(name) for name in ours])
    return (
        "its classes stand in another order than the data's; its answers are put into the data's, by name: "
        f"teacher {listed(list(own))}; data {listed(list(data))}"
    )


def contradiction(module: nn.Module | None, logits: Tensor, labels: Tensor, main: int | None = None) -> str | None:
    """Where classes were met by name, whether the answers bear the names out; what speaks against them, if not.

    Args:
        module: whose logits they are.
        logits: (N, C), in the order of the data.
        labels: (N,), of several tasks those of the main one.
        main: how many classes that one has, whose logits stand first; None where there is one task.
    """
    order = getattr(module, "order", None)
    if not isinstance(order, Tensor):
        return None
    as_they_stood = torch.empty_like(logits)
    as_they_stood[:, order.cpu()] = logits
    first = (one[:, :main] for one in (logits, as_they_stood))
    by_name, by_position = (float((one.argmax(-1) == labels).double().mean()) for one in first)
    return f"{by_name:.1%} right by name, {by_position:.1%} by position" if by_position > by_name else None


def plain_name(name: str) -> str:
    """A name without what people write differently: case, underscores, blanks around it."""
    return name.strip().replace("_", " ").casefold()

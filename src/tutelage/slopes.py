"""How one number of each answer changes with the input or with a layer: what losses on gradients compare.

Which number is said by a key of `objective.GRADIENTS`; it is the same one for teacher and student, whoever is asked. A
slope is called `layer@number`, or `@number` where it is taken with respect to the input.

Shapes:  B batch · C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tutelage.data.draws import Stream, mix
from tutelage.errors import InputError, ModelError
from tutelage.losses import cross_entropy
from tutelage.taps import feature_name, split_place
from tutelage.types import Batch, Logits, Sampled, TopK

__all__ = ["best_class", "check_second", "signs", "slopes"]


def slopes(
    logits: Tensor,
    at: Mapping[str, Tensor],
    wanted: Sequence[str],
    batch: Batch,
    best: Tensor | None,
    *,
    graph: bool,
) -> dict[str, Tensor]:
    """Gradients of one number of each example, each of the shape of what it is taken with respect to.

    Args:
        logits: (B, C), with their graph.
        at: "" for the input, and layer -> what it put out, all on the way to the logits.
        wanted: places such as "@label" or "net.stages.1@max".
        batch: where labels and ids are.
        best: (B,) the class that the teacher ranks first; read for "max" only.
        graph: keep it, so that the step can be differentiated through the gradient.

    Raises:
        InputError: a gradient at the label's logit for mixed examples.
        ModelError: the logits do not depend on a layer.
    """
    found: dict[str, Tensor] = {}
    for number in dict.fromkeys(split_place(place)[1] for place in wanted):
        layers = [feature_name(at, layer, "the model") for layer, of in map(split_place, wanted) if of == number]
        with torch.enable_grad():
            value = _number(logits, number, batch, best)
            gradients = torch.autograd.grad(
                value, [at[layer] for layer in layers], create_graph=graph, retain_graph=True, allow_unused=True
            )
        for layer, gradient in zip(layers, gradients, strict=True):
            if gradient is None:
                raise ModelError(
                    f"the logits do not depend on what `{layer or 'the input'}` puts out",
                    fix="listen to a layer on the way from the input to the logits",
                )
            found[f"{layer}@{number}"] = gradient
    return found


def check_second(found: Mapping[str, Tensor]) -> None:
    """Make sure that gradients can be differentiated again, before a step fails in the middle of it.

    The graph is read, not run: where an operation has no second derivative, autograd leaves a node that only complains.

    Raises:
        ModelError: they cannot.
    """
    seen: set[Any] = set()
    left = [slope.grad_fn for slope in found.values()]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        left += [following for following, _ in node.next_functions]
        if node.name() in ("torch::autograd::Error", "torch::autograd::NotImplemented"):
            raise ModelError(
                "this student has no second derivative, which losses on gradients learn through",
                given="an operation whose backward pass can be run, but not differentiated",
                expected="operations that can be differentiated twice; every net of tutelage can",
                fix="write that operation out, such as a fused attention, or use a loss on features or logits",
            )


def best_class(logits: Logits) -> Tensor:
    """The class that a teacher ranks first, (B,).

    Raises:
        InputError: it answered with drawn classes, which do not tell.
    """
    if isinstance(logits, TopK):
        return logits.indices.gather(-1, logits.values.argmax(-1, keepdim=True)).squeeze(-1)
    if isinstance(logits, Sampled):
        raise InputError(
            'the gradient at "max" needs the teacher\'s own choice, which drawn classes do not tell',
            given=f"{logits.indices.shape[-1]} drawn classes", expected="all logits, or the k largest",
        )  # fmt: skip
    return logits.detach().argmax(-1)


def signs(ids: Tensor, view: int, classes: int) -> Tensor:
    """A row of +1 and −1 for each example, (B, C) float32; in the mean over examples Σ ± z sees the whole Jacobian.

    They depend on (id, view) alone, so that teacher, student, other arms and stored answers meet the same ones.
    """
    keys = ids.cpu().numpy()[:, None]
    words = mix(Stream.SIGN, view, keys, torch.arange(classes).numpy())
    return torch.from_numpy((words >> 63).astype("float32") * 2.0 - 1.0).to(ids.device)


def _number(logits: Tensor, number: str, batch: Batch, best: Tensor | None) -> Tensor:
    """Sums over examples: each one's gradient is then its own, whoever else is in the batch."""
    if number == "cross_entropy":
        return cross_entropy(logits, batch.target) * len(batch)
    if number == "projection":
        return (logits * signs(batch.ids, batch.view, logits.shape[-1])).sum()
    if number == "label" and batch.target.ndim > 1:
        raise InputError(
            'the gradient at "label" needs one, but mixed examples have none',
            given=f"targets of shape {tuple(batch.target.shape)}",
            fix='turn mixup and cutmix off, or take the gradient of "max" or "cross_entropy"',
        )
    chosen = batch.target if number == "label" else best
    assert chosen is not None
    return logits.gather(-1, chosen.unsqueeze(-1)).sum()

"""Fewer channels: what a model needs least is cut out of it, with everything that is tied to it.

Which channels hang together, across additions, norms and concatenations, is found by Torch-Pruning (Fang et al. 2023,
CVPR, arXiv 2301.12900). A few channels of the least importance go at a time, over all layers, until the target is met.
Importance counts as a multiple of what it was on average in the same layers at the beginning: anew after every cut, a
layer with a few large channels would lose all others, since each cut lifts the mean by which the next ones are judged.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.compress.steps import sizes_of, sizes_step
from tutelage.errors import MissingExtraError, ModelError
from tutelage.evaluation.cost import multiply_adds, parameters

__all__ = ["cut_channels"]

_ROUNDS = 100  # about so many times a few channels go
# No layer goes below this share of the channels that it would keep if all lost the same share, while others can.
_LEAST = 0.8
_FEW = 1e-3  # a share below which every layer has one channel left


def cut_channels(
    module: nn.Module, *, to: float, of: str, by: str, examples: Tensor, targets: Tensor, classes: int
) -> dict[str, Any]:
    """Cut channels out of a module, in place, until it costs no more than a share of what it did.

    Args:
        module: (B, …) -> (B, outputs), in evaluation mode, all of it learning.
        to: the share, in (0, 1).
        of: "multiply_adds" or "parameters".
        by: "magnitude", the L2 norm of all that a channel reads and writes; "taylor", the first-order change of the
            loss (Molchanov et al. 2019, CVPR, arXiv 1906.10771); or "random".
        examples: (N, …), which the gradients for "taylor" are taken on.
        targets: (N,) their classes.
        classes: the first so many outputs are those of the targets.

    Returns:
        The step by which the plain net gets the same shapes; see `steps.rebuilt`.

    Raises:
        ModelError: no channel of it can be cut, or not as many as asked.
        MissingExtraError: Torch-Pruning is not installed.
    """
    before = sizes_of(module)
    few = examples[:2]
    measure: Callable[[], int] = (
        (lambda: multiply_adds(module, few[:1])) if of == "multiply_adds" else (lambda: parameters(module))
    )
    whole = measure()
    with _tracing():
        importance = _importance(by)
        if by == "taylor":
            F.cross_entropy(module(examples)[:, :classes], targets).backward()  # type: ignore[no-untyped-call]
        graph = _graph(module, few)
        fixed = _fixed(module, few, graph)
        start = {group[0].dep.target.module: score for group, score in _scores(graph, importance, fixed)}
        first = {root: (len(score), float(score.mean())) for root, score in start.items()}
        now, least = whole, _LEAST * to**0.5  # costs go with the square of the channels, those read and those written
        while now > to * whole:
            scores = _scores(graph, importance, fixed)
            while not (cut := _cut_some(scores, graph, first, least)) and least > _FEW:
                least /= 2  # where not all costs do
            if not cut:
                raise ModelError(
                    "channels alone do not make this model so small",
                    given=f"to {to:g} of the {of.replace('_', '-')}",
                    expected=f"at least {now / whole:.3f}, where the layers that can be cut have few channels left",
                    fix="choose a larger share, or prune single weights: kind: unstructured",
                )
            now = measure()
        for parameter in module.parameters():
            parameter.grad = None
    return sizes_step(before, module)


@contextmanager
def _tracing() -> Iterator[None]:
    """Torch-Pruning follows the graph of gradients, and warns of parameters that it treats as it should."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.enable_grad():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        yield


def _importance(by: str) -> Any:
    try:
        from torch_pruning.pruner import importance
    except ImportError as error:
        raise MissingExtraError("torch-pruning", "compress", purpose="cutting channels out") from error
    kinds = {
        "magnitude": importance.GroupMagnitudeImportance, "taylor": importance.GroupTaylorImportance,
        "random": importance.RandomImportance,
    }  # fmt: skip
    return kinds[by]() if by == "random" else kinds[by](normalizer=None)


def _graph(module: nn.Module, few: Tensor) -> Any:
    from torch_pruning import DependencyGraph

    try:
        return DependencyGraph().build_dependency(module, example_inputs=few, verbose=False)
    except Exception as error:
        raise _untraceable(error) from error


def _untraceable(error: Exception) -> ModelError:
    return ModelError(
        "which channels of this model hang together cannot be found out",
        given=" ".join(f"{type(error).__name__}: {error}".split())[:200],
        fix="prune single weights (kind: unstructured), lower its rank, or leave blocks out",
    )


def _fixed(module: nn.Module, few: Tensor, graph: Any) -> list[nn.Module]:
    """The layers whose outputs cannot change one by one: the last one, heads of attention, groups of channels.

    It is tried: a copy loses one channel of each, and has to answer as before in shape.
    """
    names = {layer: path for path, layer in module.named_modules()}
    found = []
    for group in list(graph.get_all_groups()):
        root = group[0].dep.target.module
        trial = copy.deepcopy(module)
        try:
            again = _graph(trial, few)
            layer = trial.get_submodule(names[root])
            one = again.get_pruning_group(layer, again.get_pruner_of_module(layer).prune_out_channels, [0])
            if not again.check_pruning_group(one):
                raise ValueError("the only channel")
            one.prune()
            with torch.no_grad():
                good = trial(few).shape == module(few).shape
        except Exception:  # whatever a model's own code says of sizes that it did not expect
            good = False
        if not good:
            found.append(root)
    if len(found) == len(list(graph.get_all_groups())):
        raise ModelError(
            "no channel of this model can be cut out",
            fix="prune single weights (kind: unstructured), lower its rank, or leave blocks out",
        )
    return found


def _scores(graph: Any, importance: Any, fixed: list[nn.Module]) -> list[tuple[Any, Tensor]]:
    """The groups that can be cut, each with the importance of its channels, float64."""
    with torch.no_grad():
        found = [(group, importance(group)) for group in graph.get_all_groups(ignored_layers=list(fixed))]
    return [(group, score.double().cpu()) for group, score in found if score is not None and len(score) > 1]


def _cut_some(
    scores: list[tuple[Any, Tensor]], graph: Any, first: dict[nn.Module, tuple[int, float]], least: float
) -> bool:
    """Cut the channels of the least importance, about a hundredth of all there were; whether any could go.

    Args:
        scores: of every group that can be cut.
        graph: that they are of.
        first: root of a group -> how many channels it had at first, and their mean importance.
        least: the share of its first channels that a group keeps.
    """
    worth = []
    for group, score in scores:
        count, mean = first[group[0].dep.target.module]
        keep = max(1, round(least * count))
        own = score / mean if mean > 0 else score
        # The best ones stay, whatever the others are worth.
        worth.append(own.index_fill(0, torch.sort(own, descending=True, stable=True).indices[:keep], float("inf")))
    if not worth or not bool(torch.isfinite(torch.cat(worth)).any()):
        return False
    total = sum(count for count, _ in first.values())
    order = torch.sort(torch.cat(worth), stable=True).indices[: max(1, total // _ROUNDS)]
    start = 0
    for (group, score), own in zip(scores, worth, strict=True):
        here = order[(order >= start) & (order < start + len(score))] - start
        here = here[torch.isfinite(own[here])]
        start += len(score)
        if len(here):
            item = group[0]
            graph.get_pruning_group(item.dep.target.module, item.dep.handler, sorted(here.tolist())).prune()
    return True

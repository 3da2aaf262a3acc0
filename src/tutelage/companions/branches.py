"""Further copies of what a student has behind one of its layers, so that it can be an ensemble while it learns.

input ─► layers before ─► feature ─┬─► layers behind (the student's own) ─► logits, which ship
                                   ├─► copy 1 ─► logits
                                   └─► copy 2 ─► logits          gate(feature) ─► shares
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Self, final

import torch
from torch import Tensor, nn

from tutelage.companions.protocol import Around, Companion, Seen
from tutelage.companions.rows import averaged
from tutelage.errors import InputError, ModelError
from tutelage.objective import Term, read_view
from tutelage.taps import feature_at, feature_name
from tutelage.types import Outputs

__all__ = ["Branches"]


class _Given(nn.Module):
    """Stands in a branch for the layer whose output it is handed."""

    def __init__(self) -> None:
        super().__init__()
        self.feature: Tensor | None = None

    def forward(self, *_: object) -> Tensor | None:
        return self.feature


class _Branch(nn.Module):
    """What a student does behind one layer.

    Args:
        student: copied; the copy keeps its weights, and nothing of what runs before the layer.
        place: the layer's path.
        example: (B, …) an input, to see what runs when.
    """

    def __init__(self, student: nn.Module, place: str, example: Tensor) -> None:
        super().__init__()
        self.rest = copy.deepcopy(student).requires_grad_(True)
        for module in self.rest.modules():
            module._forward_hooks.clear()  # taps listen to the student, not to its copies
        for name in _over(self.rest, place, example):
            self.rest.set_submodule(name, nn.Identity())
        self.given = _Given()
        self.rest.set_submodule(place, self.given)

    def forward(self, x: Tensor, feature: Tensor) -> Tensor:
        self.given.feature = feature
        try:
            logits: Tensor = self.rest(x)
        finally:
            self.given.feature = None  # no graph outlives its step
        return logits

    def draw(self, place: str) -> None:
        """Other first weights, as its layers draw their own."""
        for module in self.modules():
            draws = getattr(module, "reset_parameters", None)
            if callable(draws):
                draws()
            elif any(True for _ in module.parameters(recurse=False)):
                raise _unfit(place, f"{type(module).__name__} does not know how to draw its first weights")


def _over(module: nn.Module, place: str, example: Tensor) -> list[str]:
    """The layers that have run when a place has, and never run again; none that lies inside another of them."""
    events: list[str] = []
    handles = [
        one.register_forward_hook(lambda *_, name=name: events.append(name))
        for name, one in module.named_modules()
        if name
    ]
    try:
        with _at_rest(module), torch.no_grad():
            module(example)
    finally:
        for handle in handles:
            handle.remove()
    until = events.index(place)
    later = set(events[until:])
    over = [name for name in dict.fromkeys(events[:until]) if name not in later and not name.startswith(f"{place}.")]
    return [name for name in over if not any(name.startswith(f"{other}.") for other in over)]


@contextlib.contextmanager
def _at_rest(module: nn.Module) -> Iterator[None]:
    """In eval mode, and afterwards as it was."""
    modes = [(one, one.training) for one in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for one, mode in modes:
            one.training = mode


@final
class Branches(Companion):
    """Branches beside the student's own, and a gate over all of them; see `losses.native_ensemble`.

    Args:
        branches: all but the student's own.
        place: the layer behind which they begin.
        width: of its output.
        view: of the batch that the student reads.
    """

    def __init__(self, branches: list[_Branch], place: str, width: int, view: str) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.gate = nn.Linear(width, len(branches) + 1)
        self.place, self.view = place, view

    @classmethod
    def build(cls, term: Term, student: nn.Module, ours: Outputs, around: Around) -> Self:
        count = term.companion["count"]
        if isinstance(count, bool) or not isinstance(count, int) or count < 2:
            raise InputError("an ensemble has several branches", given=f"count={count}", expected="2 or more")
        place = feature_name(ours.features, term.places[0].student, "the student")
        feature, x = ours.features[place], around.inputs
        assert isinstance(ours.logits, Tensor)
        branches = []
        for _ in range(count - 1):
            branch = _branch(student, place, x)
            _check(branch, place, x, feature, ours.logits)
            branch.draw(place)
            _check(branch, place, x, feature, None)
            branches.append(branch)
        return cls(branches, place, averaged(feature).shape[-1], around.view)

    def forward(self, ours: Outputs, seen: Seen) -> list[Tensor]:
        feature = feature_at(ours.features, self.place, "the student")
        x = read_view(seen.batch, self.view)
        # Dropout draws from torch's generators; whoever draws next must not notice.
        with torch.random.fork_rng([feature.device] if feature.device.type == "cuda" else []):
            found = [branch(x, feature) for branch in self.branches]
        with torch.autocast(feature.device.type, enabled=False):
            return [*found, self.gate(averaged(feature)).softmax(-1)]


def _branch(student: nn.Module, place: str, x: Tensor) -> _Branch:
    try:
        return _Branch(student, place, x)
    except (RuntimeError, ValueError, AttributeError) as error:
        raise _unfit(place, f"{type(error).__name__}: {error}") from error


def _check(branch: _Branch, place: str, x: Tensor, feature: Tensor, logits: Tensor | None) -> None:
    """That a branch is a function of the feature alone, and with the student's weights says what the student says.

    Raises:
        ModelError: it is not, or it does not.
    """
    try:
        with _at_rest(branch), torch.no_grad():
            found = branch(x, feature)
            other = branch(x.flip(0) + 1, feature)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise _unfit(place, f"{type(error).__name__}: {error}") from error
    expected = found if logits is None else logits
    if not (
        torch.equal(found, other) and found.shape == expected.shape and torch.allclose(found, expected, 1e-4, 1e-5)
    ):
        raise _unfit(place, "what follows reads more than what this layer puts out")


def _unfit(place: str, why: str) -> ModelError:
    return ModelError(
        f"the student has no part behind `{place}` that could be copied as a branch",
        given=why,
        expected="a student that is a chain: all that follows the layer reads its output and nothing from before it",
        fix="use mlp, cnn or dscnn with a stage such as net.stages.0, or a chain of your own",
    )

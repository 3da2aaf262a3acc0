"""Listening in on named layers: what they put out while a model runs, without a change to the model.

A place is a path as `named_modules()` gives it, or a pattern over such paths: `layers.2`, `layers.*`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Self, final

from torch import Tensor, nn

from tutelage.errors import ModelError, nearest

__all__ = ["Taps", "feature_at", "feature_name", "split_place"]


def split_place(place: str) -> tuple[str, str]:
    """The layer of a place, "" for the input, and of which number its gradient is meant, "" for what it puts out."""
    layer, _, number = place.partition("@")
    return layer, number


def feature_at(features: Mapping[str, Tensor], place: str, whose: str) -> Tensor:
    """What one layer put out, of all that was captured.

    Args:
        features: layer -> what it put out.
        place: the path of a layer, or a pattern that one of them answers to.
        whose: for the message: "the student" or "the teacher".

    Raises:
        ModelError: none does, or several do.
    """
    return features[feature_name(features, place, whose)]


def feature_name(features: Mapping[str, Tensor], place: str, whose: str) -> str:
    """Which layer a place means, of all that was captured; a pattern means gradients only where it says so.

    Raises:
        ModelError: none, or several.
    """
    if place in features:
        return place
    layer, number = split_place(place)
    split = {name: split_place(name) for name in features}
    found = [name for name, (path, of) in split.items() if of == number and fnmatchcase(path, layer)]
    if len(found) != 1:
        raise ModelError(
            f"{whose} answers {'no' if not found else 'several'} features at `{place}`",
            given=", ".join(found or features) or "logits only",
            expected="one layer",
            fix="capture this layer: `places` of a module, `teacher.store.features` of a store" if not found
            else "name one of them",
        )  # fmt: skip
    return found[0]


@final
class Taps:
    """Keeps the last output of every tapped layer; a context manager that takes its hooks away again.

    Args:
        module: to listen to.
        places: paths or patterns of its layers; a layer whose gradient is meant, such as "net.stages.1@max", is kept on
            the way to the logits, so that they can be differentiated by it. The input, "@max", has no layer.

    Raises:
        ModelError: a place that no layer has; the message names the nearest one.
    """

    def __init__(self, module: nn.Module, places: Sequence[str]) -> None:
        layers = {name: layer for name, layer in module.named_modules() if name}
        chosen: dict[str, nn.Module] = {}
        differentiated: set[str] = set()
        for place, number in map(split_place, places):
            if number and not place:
                continue
            found = {name: layer for name, layer in layers.items() if fnmatchcase(name, place)}
            if not found:
                raise ModelError(f"the model has no layer `{place}`", fix=nearest(place, layers))
            chosen |= found
            differentiated |= set(found) if number else set()
        self.places = tuple(sorted(chosen))
        self._kept: dict[str, Tensor] = {}
        self._handles = [
            layer.register_forward_hook(self._listener(name, name in differentiated)) for name, layer in chosen.items()
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()

    def take(self) -> dict[str, Tensor]:
        """What every place put out since the last call.

        Raises:
            ModelError: a place did not run, or does not put out a tensor.
        """
        kept, self._kept = self._kept, {}
        missing = [place for place in self.places if place not in kept]
        if missing:
            raise ModelError(
                f"the layer `{missing[0]}` put out no tensor",
                given="it did not run, or its output is a structure",
                fix="tap a layer inside it, or the one that follows",
            )
        return {place: kept[place] for place in self.places}

    def _listener(self, name: str, differentiated: bool) -> Any:
        def listen(module: nn.Module, inputs: object, output: object) -> Tensor | None:
            self._kept.pop(name, None)
            if not isinstance(output, Tensor):
                return None
            # The layer that follows may work in place, as many a ReLU does. On a copy of the copy, where the first one
            # has to lie on the way to the logits.
            self._kept[name] = kept = output.clone()
            return kept.clone() if differentiated else None

        return listen

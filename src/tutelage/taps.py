"""Listening in on named layers: what they put out while a model runs, without a change to the model.

A place is a path as `named_modules()` gives it, or a pattern over such paths: `layers.2`, `layers.*`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Self, final

from torch import Tensor, nn

from tutelage.errors import ModelError, nearest

__all__ = ["Taps", "feature_at"]


def feature_at(features: Mapping[str, Tensor], place: str, whose: str) -> Tensor:
    """What one layer put out, of all that was captured.

    Args:
        features: layer -> what it put out.
        place: the path of a layer, or a pattern that one of them answers to.
        whose: for the message: "the student" or "the teacher".

    Raises:
        ModelError: none does, or several do.
    """
    if place in features:
        return features[place]
    found = [name for name in features if fnmatchcase(name, place)]
    if len(found) != 1:
        raise ModelError(
            f"{whose} answers {'no' if not found else 'several'} features at `{place}`",
            given=", ".join(found or features) or "logits only",
            expected="one layer",
            fix="capture this layer: `places` of a module, `teacher.store.features` of a store" if not found
            else "name one of them",
        )  # fmt: skip
    return features[found[0]]


@final
class Taps:
    """Keeps the last output of every tapped layer; a context manager that takes its hooks away again.

    Args:
        module: to listen to.
        places: paths or patterns of its layers.

    Raises:
        ModelError: a place that no layer has; the message names the nearest one.
    """

    def __init__(self, module: nn.Module, places: Sequence[str]) -> None:
        layers = {name: layer for name, layer in module.named_modules() if name}
        chosen: dict[str, nn.Module] = {}
        for place in places:
            found = {name: layer for name, layer in layers.items() if fnmatchcase(name, place)}
            if not found:
                raise ModelError(f"the model has no layer `{place}`", fix=nearest(place, layers))
            chosen |= found
        self.places = tuple(sorted(chosen))
        self._kept: dict[str, Tensor] = {}
        self._handles = [layer.register_forward_hook(self._listener(name)) for name, layer in chosen.items()]

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

    def _listener(self, name: str) -> Any:
        def listen(module: nn.Module, inputs: object, output: object) -> None:
            self._kept.pop(name, None)
            if isinstance(output, Tensor):
                # The layer that follows may work in place, as many a ReLU does.
                self._kept[name] = output.clone()

        return listen

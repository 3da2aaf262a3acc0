"""Keras 3 as a teacher: on the backend torch a module like any other, with features; on another one a function."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tutelage.errors import ModelError
from tutelage.models.kerasnet import KerasNet, keras_library, load_keras, on_torch, shape_of
from tutelage.teachers.foreign.bridge import ForeignTeacher, Settings
from tutelage.teachers.foreign.digest import file_digest, found_file
from tutelage.teachers.foreign.need import quiet
from tutelage.teachers.foreign.order import order_of
from tutelage.teachers.module import ModuleTeacher
from tutelage.teachers.protocol import Teacher

_FILL = 16

__all__ = ["teacher_of_keras", "teacher_of_keras_file"]


def teacher_of_keras_file(
    model: str, *, classes: Sequence[str] | None, view: str = "x", settings: Settings | None = None,
    name: str = "teacher", places: Sequence[str] = (),
) -> Teacher:  # fmt: skip
    """A `.keras` file; code that it may hold is not run.

    Raises:
        ModelError: there is no such file, or it needs code.
        DamagedError: it is no such file.
        MissingExtraError: Keras is not installed.
    """
    path = found_file(model, suffixes=(".keras",), whose="Keras")
    return teacher_of_keras(
        load_keras(path), classes=classes, view=view, settings=settings, name=name, digest=file_digest(path),
        places=places,
    )  # fmt: skip


def teacher_of_keras(
    model: Any, *, classes: Sequence[str] | None = None, view: str = "x", settings: Settings | None = None,
    name: str = "teacher", digest: str | None = None, places: Sequence[str] = (),
) -> Teacher:  # fmt: skip
    """A Keras model; whether it gives probabilities is read from its last layer.

    Args:
        places: layers whose outputs are answered as features, on the backend torch only.

    Raises:
        ModelError: it is not built, has several inputs or outputs, or cannot answer features.
    """
    told = settings or Settings()
    if on_torch() and told.gives != "classes":
        return _native(model, classes, view, told, name, places)
    if places:
        raise ModelError(
            f"the {name} answers no features: Keras computes with {keras_library().backend.backend()} here",
            given=", ".join(places), fix="set KERAS_BACKEND=torch before Keras is imported",
        )  # fmt: skip
    shape = shape_of(model)
    convert = keras_library().ops.convert_to_numpy

    def answer(inputs: Any) -> Any:
        with quiet():
            return convert(model(inputs, training=False))

    return ForeignTeacher(
        answer, gives=_gives(model), classes=classes, view=view, name=name, settings=told, shape=shape,
        digest=digest or (lambda: _weights_digest(model)),
    )  # fmt: skip


def _native(
    model: Any, classes: Sequence[str] | None, view: str, told: Settings, name: str, places: Sequence[str]
) -> ModuleTeacher:
    net: nn.Module = KerasNet(model, gives=told.gives, fill=_FILL)
    outputs = model.output_shape[-1] if getattr(model, "outputs", None) else None
    order = None
    if told.classes is not None:
        placed = order_of(told.classes, classes, len(told.classes), name)
        if sorted(placed.places) != list(range(placed.count)):
            raise ModelError(
                f"the {name} has no output for some of the data's classes", given=f"{len(placed.places)} outputs",
                expected=f"one for each of {placed.count} classes",
            )  # fmt: skip
        order = [placed.places.index(one) for one in range(placed.count)]
    elif outputs is not None:
        order_of(None, classes, max(2, int(outputs)), name)
    if told.scale != 1.0 or order is not None:
        net = _Reading(net, told.scale, order)
    return ModuleTeacher(net, view=view, places=places)


class _Reading(nn.Module):
    """A module whose inputs are scaled, and whose outputs are put in the order of the data's classes."""

    def __init__(self, net: nn.Module, scale: float, order: Sequence[int] | None) -> None:
        super().__init__()
        self.net = net
        self.scale = scale
        self.order = None if order is None else list(order)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x * self.scale if x.is_floating_point() else x)
        return logits if self.order is None else logits[:, torch.tensor(self.order, device=logits.device)]


def _gives(model: Any) -> str | None:
    """What the last layer says, or None where it says nothing."""
    outputs = getattr(model, "outputs", None)
    if not outputs:
        return None
    layer = outputs[0]._keras_history.operation
    if type(layer).__name__ == "Softmax":
        return "probabilities"
    said = getattr(getattr(layer, "activation", None), "__name__", "")
    return {"softmax": "probabilities", "sigmoid": "probabilities", "linear": "logits"}.get(said)


def _weights_digest(model: Any) -> str:
    digest = hashlib.sha256(str(model.get_config()).encode())
    for variable in model.variables:
        array = np.ascontiguousarray(variable)
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()

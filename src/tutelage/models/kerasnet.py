"""A Keras model as a torch module like any other: on the backend torch it computes with torch's own tensors.

So a Keras model learns as a student and answers as a teacher, with features and gradients. What differs is put right
here: pictures have their channels last, names of variables depend on what else a process has made, statistics of batch
norms are parameters that nobody trains, dropout has a generator of its own, and the last layer is often a softmax.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, final

import torch
from torch import Tensor, nn

from tutelage.errors import DamagedError, InputError, MissingExtraError, ModelError, nearest
from tutelage.progress import quiet

__all__ = ["KerasNet", "from_file", "is_keras", "keras_library", "load_keras", "on_torch", "shape_of"]

_FLOOR = 1e-12
_LAST = {"linear": "logits", "softmax": "softmax", "log_softmax": "logits", "sigmoid": "sigmoid"}


def keras_library() -> Any:
    """Keras 3; on the backend torch, unless somebody chose another one or imported it before.

    Raises:
        MissingExtraError: it is not installed, or its backend is not.
    """
    os.environ.setdefault("KERAS_BACKEND", "torch")
    try:
        with quiet():
            import keras
    except ImportError as error:
        missing = "keras" if (error.name or "keras").startswith("keras") else str(error.name)
        extra = {"tensorflow": "tensorflow", "jax": "jax"}.get(missing, "keras")
        raise MissingExtraError(missing, extra, purpose="a Keras model") from error
    return keras


def on_torch() -> bool:
    """Whether Keras computes with torch in this process."""
    return bool(keras_library().backend.backend() == "torch")


def is_keras(model: object) -> bool:
    """Whether it is a model of Keras 3; imports nothing."""
    return any(
        (kind.__module__ + ".").startswith("keras.") and kind.__name__ == "Model" for kind in type(model).__mro__
    )


def load_keras(path: Path) -> Any:
    """A model from a `.keras` file, without running code that it may hold.

    Raises:
        ModelError: there is no such file, or it needs code.
        DamagedError: it is no such file.
    """
    if not path.is_file():
        raise ModelError(f"there is no file {path}", fix="look at the path; a relative one begins where tutelage runs")
    keras = keras_library()
    if path.suffix != ".keras":
        raise InputError("a Keras model is read from a file that ends in .keras", given=str(path))
    try:
        with quiet():
            return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # every layer has its own way to fail
        reason = " ".join(str(error).split())[:300]
        if "unsafe" in reason.lower() or "safe_mode" in reason or "Could not locate" in reason:
            raise ModelError(
                f"{path.name} needs code that it cannot bring along safely", given=reason,
                fix="load it in Python, where its code is yours, and hand the model over",
            ) from error  # fmt: skip
        raise DamagedError(f"{path} is no Keras file, or it is damaged", given=reason, fix="copy it again") from error


def from_file(name: str, args: Mapping[str, object]) -> tuple[KerasNet, float]:
    """The module of a `.keras` file, and what inputs in [0, 1] are multiplied by.

    Args:
        args: `gives` ("logits" or "probabilities"; by the last layer where it is left out), `scale` (1), and `fresh`:
            with weights that are drawn anew from torch's generator, in place of the file's.

    Raises:
        InputError: an argument that there is not, or one that is out of range.
        ModelError, DamagedError: what `load_keras` says.
    """
    for key in args:
        if key not in ("gives", "scale", "fresh"):
            raise InputError(
                f"`keras:` takes no argument `{key}`", expected="gives, scale, fresh",
                fix=nearest(key, ["gives", "scale", "fresh"]),
            )  # fmt: skip
    gives, scale, fresh = args.get("gives"), args.get("scale", 1.0), args.get("fresh", False)
    if gives not in (None, "logits", "probabilities"):
        raise InputError("a Keras model gives something else", given=gives, expected="logits or probabilities")
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0.0 < scale <= 1e6:
        raise InputError("`scale` of a Keras model is out of range", given=scale, expected="0 < scale ≤ 1,000,000")
    model = load_keras(Path(name).expanduser())
    net = KerasNet(_drawn(model) if fresh else model, gives=None if gives is None else str(gives))
    return net, float(scale)


def _drawn(model: Any) -> Any:
    """Another model of the same layers, whose first weights follow from torch's generator."""
    numbers = random.getstate()  # which Keras draws from, layer by layer
    try:
        random.seed(int(torch.randint(2**62, ())))
        return _anew(model)
    finally:
        random.setstate(numbers)


def shape_of(model: Any) -> tuple[int | None, ...] | None:
    """The shape of one input of a model with one input; None where it does not say.

    Raises:
        ModelError: it has several inputs, or several outputs.
    """
    for role in ("inputs", "outputs"):
        found = getattr(model, role, None)
        if found is not None and len(found) != 1:
            raise ModelError(
                f"the Keras model has {len(found)} {role}", given=", ".join(f"{one.name} {one.shape}" for one in found),
                expected="one", fix="make one with `keras.Model(inputs, outputs)` of those that are meant",
            )  # fmt: skip
    given = getattr(model, "inputs", None)
    return None if not given else tuple(given[0].shape[1:])


@final
class KerasNet(nn.Module):
    """A built Keras model on the backend torch: inputs as tutelage has them to logits (B, C).

    Trained weights are parameters, statistics are buffers, both called by their number and kind, `v003_kernel`, in the
    order of the model's variables; dropout draws from torch's generator. Layers are listened to under `layers.`, by
    their names in Keras, in which numbers that Keras made up count from this model's own first layer of the kind.

    Args:
        model: a built `keras.Model`; it is used as it is, not copied.
        gives: "logits" or "probabilities"; None goes by the last layer, and takes logits where that says nothing.
        fill: batches are filled up to a multiple of this with their last row, and answered without it: a teacher's
            answer then has the same bits in a short batch as in a long one, which products of an odd size may round
            otherwise.

    Raises:
        ModelError: it is not built, does not compute with torch, or answers several questions at once.
    """

    _model: Any  # a Keras model
    _open: Any  # its last layer, where that puts a softmax on the logits
    _seeds: list[Any]  # variables of generators
    _tied: list[tuple[str, Any]]  # our name, the variable

    def __init__(self, model: Any, *, gives: str | None = None, fill: int = 1) -> None:
        super().__init__()
        if not on_torch():
            raise ModelError(
                "this Keras model does not compute with torch", given=f"backend {keras_library().backend.backend()}",
                expected="KERAS_BACKEND=torch, set before Keras is imported",
            )  # fmt: skip
        if not model.built:
            raise ModelError(
                "the Keras model is not built, so it has no weights yet", fix="call it once, or begin it with an Input"
            )
        self._wanted = shape_of(model)
        self._said = gives
        self.fill = fill
        self.rows: int | None = None  # of the batch that is being answered, where it was filled up
        last = None if gives is not None else _last(model)
        self.gives = gives or (_LAST[last[1]] if last is not None else "logits")
        object.__setattr__(self, "_model", model)  # not as a part: its own names are not to be relied on
        object.__setattr__(self, "_open", None if last is None or self.gives == "logits" else last[0])
        object.__setattr__(self, "_seeds", [])
        object.__setattr__(self, "_tied", self._variables(model))
        names = _own_names(model)
        self.layers = nn.ModuleDict({name: nn.Identity() for name in names})
        for name, layer in names.items():
            layer.register_forward_hook(_Passing(self, name))
        self.config = _config(model, {layer.name: name for name, layer in names.items()})

    @property
    def keras_model(self) -> Any:
        """The Keras model, with the weights as they are now; `keras_model.save(…)` writes it for Keras."""
        return self._model

    def _variables(self, model: Any) -> list[tuple[str, Any]]:
        tied: list[tuple[str, Any]] = []
        for variable in model.variables:
            if not variable.dtype.startswith(("float", "bfloat")):
                self._seeds.append(variable)
                continue
            name = f"v{len(tied):03}_{re.sub('[^a-z0-9_]', '_', variable.path.rpartition('/')[2].lower())}"
            value = variable.value
            if value.ndim == 2:
                # Laid out in memory as torch does its own: in the other order products of few columns round a row
                # otherwise by where in the batch it stands, and a stored answer would not be the live one.
                value.data = value.data.t().contiguous().t()
            if variable.trainable:
                self.register_parameter(name, value if isinstance(value, nn.Parameter) else nn.Parameter(value))
            else:
                self.register_buffer(name, value.detach())
            tied.append((name, variable))
        for name, variable in tied:
            variable._value = getattr(self, name)
        return tied

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """What moves or casts the module gives it other tensors: Keras is to compute with these."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, variable in self._tied:
            variable._value = getattr(self, name)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> KerasNet:
        """A module of its own with the same weights; hooks stay with the first."""
        twin = KerasNet(_anew(self._model), gives=self._said, fill=self.fill)
        twin.to(next(iter(self.state_dict().values())).device)
        twin.load_state_dict(self.state_dict())
        for (_, theirs), (_, ours) in zip(twin.named_parameters(), self.named_parameters(), strict=True):
            theirs.requires_grad_(ours.requires_grad)
        twin.train(self.training)
        memo[id(self)] = twin
        return twin

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            # Masks follow from torch's generator like everybody's: the same step, the same mask.
            with torch.no_grad():
                for seed in self._seeds:
                    seed.value.copy_(torch.randint(2**31 - 1, (2,)))
        count, missing = len(x), -len(x) % self.fill if self.fill > 1 else 0
        if missing:
            x, self.rows = torch.cat([x, x[-1:].expand(missing, *x.shape[1:])]), count
        try:
            with keras_library().device(_device(x)), _opened(self._open):
                answer: object = self._model(_turned(x, self._wanted), training=self.training)
        finally:
            self.rows = None
        if isinstance(answer, Tensor) and missing:
            answer = answer[:count]
        if not isinstance(answer, Tensor) or answer.ndim != 2:
            shown = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
            raise ModelError(
                "the Keras model does not answer with one row of numbers", given=shown, expected=f"({len(x)}, C)"
            )
        if self.gives == "probabilities":
            answer = answer.clamp(min=_FLOOR).log()
            one = torch.log1p(-answer.exp().clamp(max=1.0 - 1e-7))
        else:
            one = torch.zeros_like(answer)
        return answer if answer.shape[-1] > 1 else torch.cat([one, answer], dim=-1)


@final
class _Passing:
    """Hands what a Keras layer puts out to the place where others listen, pictures with their channels first."""

    def __init__(self, net: KerasNet, name: str) -> None:
        self._net = weakref.ref(net)  # the model must not keep alive whoever listened to it once
        self._name = name

    def __call__(self, layer: Any, given: Any, answer: Any) -> None:
        net = self._net()
        if net is not None and isinstance(answer, Tensor) and answer.device.type != "meta":
            seen = answer if net.rows is None else answer[: net.rows]
            last = getattr(layer, "data_format", None) or keras_library().config.image_data_format()
            net.layers[self._name](seen.permute(0, 3, 1, 2) if seen.ndim == 4 and last == "channels_last" else seen)


def _turned(x: Tensor, wanted: Sequence[int | None] | None) -> Tensor:
    """Channels last for pictures, one row where the model reads rows."""
    if x.ndim == 4 and (wanted is None or len(wanted) == 3):
        first = wanted is not None and wanted[0] == x.shape[1] and wanted[2] != x.shape[1]
        return x if first else x.permute(0, 2, 3, 1)
    if wanted is not None and len(wanted) == 1 and x.ndim > 2:
        return x.flatten(1)
    if wanted is not None and len(wanted) == 2 and x.ndim == 4 and x.shape[1] == 1:
        return x[:, 0]
    return x


def _last(model: Any) -> tuple[Any, str] | None:
    """The last layer, and its activation where that is one we know."""
    outputs = getattr(model, "outputs", None)
    if not outputs:
        return None
    layer = outputs[0]._keras_history.operation
    if type(layer).__name__ == "Softmax":
        return layer, "softmax"
    name = getattr(getattr(layer, "activation", None), "__name__", "")
    if name == "sigmoid" and outputs[0].shape[-1] != 1:
        raise ModelError(
            "the Keras model says of every class by itself whether it holds", given="sigmoid over several outputs",
            expected="one distribution over the classes: a softmax, or logits",
        )  # fmt: skip
    return (layer, name) if name in _LAST else None


@contextlib.contextmanager
def _opened(layer: Any) -> Iterator[None]:
    """While a model runs, its last layer passes its logits on instead of their softmax, whose tail rounds to 0."""
    if layer is None:
        yield
        return
    if type(layer).__name__ == "Softmax":
        kept = layer.call
        object.__setattr__(layer, "call", lambda inputs, *_, **__: inputs)
        try:
            yield
        finally:
            object.__setattr__(layer, "call", kept)
        return
    kept = layer.__dict__["activation"]
    layer.__dict__["activation"] = lambda x: x
    try:
        yield
    finally:
        layer.__dict__["activation"] = kept


def _own_names(model: Any) -> dict[str, Any]:
    """Layers by names that do not depend on what else this process made, in order; inputs are none."""
    found: dict[str, Any] = {}
    for layer in model._flatten_layers(include_self=False):
        kind = re.sub(r"(?<!^)(?=[A-Z][a-z])", "_", type(layer).__name__).lower()
        if type(layer).__name__ == "InputLayer" or layer in found.values():
            continue
        auto = re.fullmatch(rf"{_snake(type(layer).__name__)}(_\d+)?|{kind}(_\d+)?", layer.name)
        base = re.sub(r"_\d+$", "", layer.name) if auto else layer.name.replace(".", "_")
        base = f"{base}_" if hasattr(nn.ModuleDict, base) else base
        name = next(one for one in (base, *(f"{base}_{n}" for n in range(1, 10_000))) if one not in found)
        found[name] = layer
    return found


def _snake(name: str) -> str:
    """How Keras spells the name of a kind of layer: BatchNormalization is batch_normalization."""
    return re.sub("([a-z])([A-Z])", r"\1_\2", re.sub("(.)([A-Z][a-z0-9]+)", r"\1_\2", name)).lower()


def _config(model: Any, names: dict[str, str]) -> str:
    """What the model is made of, as text, with our names for its layers; empty where it cannot be said."""
    try:
        text = json.dumps(model.get_config(), sort_keys=True, default=str)
    except Exception:  # a model of the user's own class says what it likes
        return ""
    for theirs, ours in sorted(names.items(), key=lambda item: -len(item[0])):
        text = text.replace(f'"{theirs}"', f'"{ours}"')
    return re.sub(r'"(seed|name)": ("(sequential|functional|input_layer|keras_tensor)[^"]*"|[0-9]+)', r'"\1": ""', text)


def _anew(model: Any) -> Any:
    """Another model of the same layers.

    Raises:
        ModelError: Keras cannot make it again from what it says of itself.
    """
    try:
        with quiet(), keras_library().device("cpu"):
            twin = type(model).from_config(model.get_config())
            if not twin.built:
                twin.build(model.input_shape)
    except Exception as error:
        raise ModelError(
            "Keras cannot make a second model like this one, and every arm needs its own",
            given=" ".join(str(error).split())[:300],
            fix="make it of Keras's own layers, or give its class a `get_config`; or hand over a function that builds "
            "it, as the student",
        ) from error
    return twin


def _device(x: Tensor) -> str:
    return "cpu" if x.device.type == "cpu" else f"{x.device.type}:{x.device.index or 0}"

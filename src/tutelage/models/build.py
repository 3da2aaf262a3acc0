"""A model from its name, checked on two blank examples before anybody trains it.

Three kinds of names: a net of tutelage (`cnn`), a Hugging Face model (`hf:resnet`, `hf:/folder`, `hf:owner/name`), and
a function of the user's own (`package.module:function`), which is code and runs only when trusted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from tutelage.errors import InputError, ModelError, TutelageError, nearest
from tutelage.extensions import imported
from tutelage.models import huggingface, kerasnet
from tutelage.models.classifier import Classifier
from tutelage.models.nets import NETS
from tutelage.models.textnets import answerable, check_places
from tutelage.models.weights import load_weights
from tutelage.tasks import IMPOSSIBLE

__all__ = ["ModelSpec", "build"]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What a recipe says about a model."""

    name: str
    args: Mapping[str, object] = field(default_factory=dict)
    weights: Path | None = None


def build(
    spec: ModelSpec,
    *,
    input_shape: tuple[int, ...],
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    vocabulary: int = 0,
    separator: int = 0,
    trust: bool = False,
    role: str = "student",
) -> Classifier:
    """The model of a spec for this data, with its weights if it names some; in train mode.

    Args:
        input_shape: shape of one example.
        classes: number of classes of the data.
        mean, std: scaling of the data, in [0, 1] for images; a model that brings its own keeps that, with a notice.
        vocabulary: how many tokens there are, where an example is a row of them; 0 where it is none.
        separator: the token that ends a text, where examples are questions about texts: the model answers with places,
            two classes for each token (see `tutelage.models.textnets`). 0 where they are none.
        trust: whether a name may run code of the user's own.
        role: how messages call the model.

    Raises:
        InputError: the name or an argument is wrong, or names code without trust.
        ModelError: the model cannot be built, does not fit the data, or its weights do not fit it.
        DamagedError: the file of weights is damaged.
    """
    if not input_shape or min(input_shape) < 1 or classes < 2:
        raise InputError(
            "a classifier needs examples with a shape and at least two classes",
            given=f"shape {tuple(input_shape)}, {classes} classes",
        )
    if separator:
        check_places(input_shape, classes, vocabulary, separator)
    # Only what reads tokens is told how many there are, and only what answers with places what ends a text: nets and
    # functions for all else stay as they are.
    told = {name: size for name, size in (("vocabulary", vocabulary), ("separator", separator)) if size}
    notices: list[str] = []
    if spec.name.startswith("hf:") and huggingface.is_pretrained(spec.name[3:]):
        loaded = huggingface.pretrained(spec.name[3:], spec.args, input_shape=input_shape, classes=classes, **told)
        net, mean, std = loaded.net, loaded.mean or mean, loaded.std or std
        notices += loaded.notices
    elif spec.name.startswith("keras:"):
        # What it was trained on is inputs in [0, 1] times a number, not scaled as these data would be.
        net, scale = kerasnet.from_file(spec.name[6:], spec.args)
        mean, std = [0.0], [1.0 / scale]
    else:
        net = _make(spec, input_shape, classes, told, trust)
    classifier = Classifier(net, input_shape=input_shape, classes=classes, mean=mean, std=std, vocabulary=vocabulary)
    _probe(classifier, spec.name, role, separator)
    if spec.weights is not None:
        notices += load_weights(classifier, spec.weights)
    classifier.notices = [f"{role}: {notice}" for notice in notices]
    return classifier.train()


def _make(
    spec: ModelSpec, input_shape: tuple[int, ...], classes: int, told: Mapping[str, int], trust: bool
) -> nn.Module:
    try:
        if spec.name.startswith("hf:"):
            return huggingface.from_type(spec.name[3:], spec.args, input_shape=input_shape, classes=classes, **told)
        if ":" in spec.name:
            return _call(spec.name, spec.args, input_shape, classes, trust, told)
        return _built_in(spec.name, spec.args, input_shape, classes, told)
    except (RuntimeError, MemoryError) as error:
        # What torch says when the weights alone do not fit into memory.
        raise ModelError(f"`{spec.name}` cannot be made: {_line(error)}", given=_shown(spec.args)) from error


def _built_in(
    name: str, args: Mapping[str, object], input_shape: tuple[int, ...], classes: int, told: Mapping[str, int]
) -> nn.Module:
    info = NETS.get(name)
    if info is None:
        raise InputError(
            f"there is no model `{name}`",
            expected=f"one of {', '.join(NETS)}; hf:<type>; package.module:function",
            fix=nearest(name, NETS),
        )
    takes = ", ".join(
        f"{arg} ({'whole number' if isinstance(default, int) else 'number'}, {default})"
        for arg, default in info.args.items()
    )
    for arg, value in args.items():
        if arg not in info.args:
            raise InputError(f"`{name}` takes no argument `{arg}`", expected=takes, fix=nearest(arg, info.args))
        wanted = (int,) if isinstance(info.args[arg], int) else (int, float)
        if isinstance(value, bool) or not isinstance(value, wanted):
            raise InputError(f"`{arg}` of `{name}` is of the wrong type", given=f"{arg}={value!r}", expected=takes)
    return info.make(input_shape, classes, **told, **args)


def _call(
    name: str, args: Mapping[str, object], input_shape: tuple[int, ...], classes: int, trust: bool,
    told: Mapping[str, int],
) -> nn.Module:  # fmt: skip
    """The module that a function of the user's own returns."""
    if not trust:
        raise InputError(
            "a recipe names code, and code runs only when you say so",
            given=name,
            expected=f"one of {', '.join(NETS)}; hf:<type>",
            fix="if you trust whoever wrote it, run it with --trust",
        )
    target = imported(name, failed=ModelError)
    if not callable(target):
        raise InputError(f"`{name}` is no function", given=type(target).__name__, expected="a function")
    try:
        net = target(input_shape=input_shape, classes=classes, **told, **args)
    except TutelageError:
        raise
    except Exception as error:
        raise ModelError(
            f"`{name}` fails: {type(error).__name__}: {_line(error)}",
            given=f"input_shape={input_shape}, classes={classes}" + (f", {_shown(args)}" if args else ""),
            expected="a function that takes these and returns a torch module",
        ) from error
    if not isinstance(net, nn.Module):
        raise ModelError(f"`{name}` returns no model", given=type(net).__name__, expected="a torch.nn.Module")
    return net


def _probe(classifier: Classifier, name: str, role: str, separator: int = 0) -> None:
    """Two blank examples through the model in eval mode: neither its buffers nor the random numbers of the run move."""
    classifier.eval()
    blank = torch.zeros(2, *classifier.input_shape, dtype=torch.int64 if classifier.vocabulary else torch.float32)
    if separator:  # one of them a question of no words about a text of nothing but unknown ones
        blank[1] = 1
        blank[1, 1] = blank[1, -1] = separator
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            answer: object = classifier(blank)
    except Exception as error:
        raise ModelError(
            f"the {role} `{name}` cannot read the data: {_line(error)}",
            given=f"two examples of shape {classifier.input_shape}",
            expected=f"logits of shape (2, {classifier.classes})",
        ) from error
    if not isinstance(answer, Tensor) or not answer.is_floating_point():
        given = f"a tensor of {answer.dtype}" if isinstance(answer, Tensor) else type(answer).__name__
        raise ModelError(
            f"the {role} `{name}` answers no logits", given=given, expected="one tensor of floating-point numbers"
        )
    if tuple(answer.shape) != (2, classifier.classes):
        raise ModelError(
            f"{role} answers {tuple(answer.shape)}, the data has {classifier.classes} classes",
            given=name,
            expected=f"(2, {classifier.classes}) for two examples",
        )
    if separator and not bool((answer[~answerable(blank, separator).repeat(1, 2)] == IMPOSSIBLE).all()):
        raise ModelError(
            f"the {role} `{name}` answers with places that cannot be answers", given=name,
            expected=f"the logit {IMPOSSIBLE:g} at the question, separators and padding",
            fix="end the net in tutelage.models.textnets.Places, or mask its logits as `masked` there does",
        )  # fmt: skip


def _shown(args: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in args.items()) or "no arguments"


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:240] if lines else type(error).__name__

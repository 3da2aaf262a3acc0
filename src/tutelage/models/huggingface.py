"""Classifiers of Hugging Face transformers, of images, text and sounds, and models for questions about texts: from a
config without weights, or a folder or hub name with them.

No code from a folder or the hub is ever run: remote code is refused, pickled weights are refused, and a config's wish
for a kernel from the hub is not followed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from tutelage.errors import InputError, ModelError, nearest
from tutelage.models.huggingface_package import OWN_KERNELS, Family, Wrapped, explained, family_of, quiet, words
from tutelage.models.huggingface_text import Vocabulary, answering, check_tokens, has_head, net_of, text_settings
from tutelage.models.weights import check_finite

__all__ = ["HuggingFaceNet", "Pretrained", "from_type", "is_pretrained", "pretrained"]


@final
class HuggingFaceNet(Wrapped):
    """The logits of a transformers model, as a tensor."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) or (B, samples) -> (B, classes)."""
        logits: Tensor = self.model(x).logits
        return logits


@dataclass(frozen=True, slots=True)
class Pretrained:
    """A model with weights, and how it wants its inputs scaled, where its folder says so."""

    net: nn.Module
    mean: list[float] | None
    std: list[float] | None
    notices: list[str] = field(default_factory=list)


def is_pretrained(source: str) -> bool:
    """Whether `hf:source` names a folder or a hub repository, rather than a type of model."""
    return "/" in source or source.startswith((".", "~"))


def from_type(
    kind: str, args: Mapping[str, object], *, input_shape: tuple[int, ...], classes: int, vocabulary: int = 0,
    separator: int = 0,
) -> nn.Module:  # fmt: skip
    """A classifier with fresh weights from a config, `args` being fields of that config.

    Args:
        kind: a type of transformers, such as resnet, bert or wav2vec2.
        input_shape: (C, H, W), (L,) of tokens, or (samples,).
        vocabulary: how many tokens there are; 0 where inputs are none.
        separator: the token that ends a text, where the model answers questions with places; else 0.

    Raises:
        InputError: there is no such type for such inputs, or no such field.
        ModelError: the fields do not fit each other.
        MissingExtraError: transformers is not installed.
    """
    package = answering(family_of(kind, input_shape, vocabulary), separator)
    if kind not in package.kinds:
        raise InputError(
            f"`{kind}` is no model of transformers for questions about texts"
            if separator
            else f"`{kind}` is no {package.name} classifier of transformers",
            given=f"hf:{kind}",
            expected="hf:<type>, hf:/folder or hf:owner/name",
            fix=nearest(kind, package.kinds),
        )
    # The common fields steer loading, or follow from the data; only what shapes the net is open.
    fields = {k: v for k, v in package.config.for_model(kind).to_dict().items() if k not in package.common}
    fields = {name: value for name, value in fields.items() if not name.startswith("_")}
    settings = _settings(package, fields, input_shape, vocabulary)
    unknown = sorted(set(args) - set(fields))
    if unknown:
        raise InputError(
            f"`hf:{kind}` takes no argument `{unknown[0]}`",
            expected=", ".join(sorted(fields)),
            fix=nearest(unknown[0], fields),
        )
    try:
        with quiet():
            config = package.config.for_model(kind, num_labels=2 if separator else classes, **{**settings, **args})
            # Where a type has several classes, transformers reads this field unasked, and fresh configs lack it.
            names = package.kinds[kind]
            config.architectures = [names if isinstance(names, str) else names[0]]
            model = package.model.from_config(config, trust_remote_code=False, dtype=torch.float32, **OWN_KERNELS)
    except Exception as error:
        # The configs check some of their fields; the models meet the rest as errors of any class.
        raise ModelError(
            f"transformers cannot build hf:{kind}: {words(error)}",
            given=", ".join(f"{name}={value!r}" for name, value in args.items()) or "no arguments",
        ) from error
    if package.name != "text":
        return HuggingFaceNet(model)
    told = Vocabulary(separator=separator) if separator else Vocabulary()
    return net_of(model, told, classes=classes, separator=separator)


def _settings(
    package: Family, fields: dict[str, object], input_shape: tuple[int, ...], vocabulary: int
) -> dict[str, object]:
    """What of a config follows from the data; what nobody may say otherwise is taken out of its fields."""
    settings: dict[str, object] = {}
    if package.name == "text":
        settings = text_settings(fields, input_shape[0], vocabulary)
        for name in ("vocab_size", "pad_token_id"):
            fields.pop(name, None)
    if package.name == "image":
        if fields.pop("num_channels", None) is not None:
            settings["num_channels"] = input_shape[0]
        if isinstance(fields.get("image_size"), int):
            settings["image_size"] = input_shape[1] if input_shape[1] == input_shape[2] else list(input_shape[1:])
    if "apply_spec_augment" in fields:  # it draws from a generator that no seed of a run reaches
        settings["apply_spec_augment"] = False
    return settings


def pretrained(
    source: str, args: Mapping[str, object], *, input_shape: tuple[int, ...], classes: int, vocabulary: int = 0,
    separator: int = 0,
) -> Pretrained:  # fmt: skip
    """A classifier with its weights, from a folder or from the hub.

    Args:
        source: a folder, or owner/name of the hub.
        args: `new_head`: put a fresh last layer with as many outputs as the data has classes; a text encoder without a
            head gets the mean of its last states and a linear layer, for places a linear layer on each of them.
            `freeze`: only that new layer learns.
        input_shape: (C, H, W), (L,) of tokens, or (samples,).
        vocabulary: how many tokens there are; 0 where inputs are none.
        separator: the token that ends a text, where the model answers questions with places; else 0.

    Raises:
        InputError: another argument.
        ModelError: the weights are not complete, or do not fit the data.
        DamagedError: a file that is not what it says.
        MissingExtraError: transformers is not installed.
    """
    package = answering(family_of(source, input_shape, vocabulary), separator)
    new_head, freeze = _flags(source, args)
    local = source.startswith(("/", ".", "~")) or Path(source).is_dir()
    place = str(Path(source).expanduser()) if local else source
    if local and not Path(place).is_dir():
        raise ModelError(f"there is no folder {place}", expected="a folder with config.json and model.safetensors")
    safe = {"local_files_only": local, "trust_remote_code": False}
    with quiet(), explained(source, local):
        config = package.config.from_pretrained(place, **safe)
        _check_config(source, config, input_shape)
        _as_wanted(config, new_head, classes, separator)
        told = _vocabulary(place, local, config) if package.name == "text" else None
        encoder = told is not None and new_head and not has_head(config, separator)
        if told is not None:
            config.pad_token_id = told.padding
        model, report = (package.body if encoder else package.model).from_pretrained(
            place,
            config=config,
            use_safetensors=True,
            ignore_mismatched_sizes=new_head,
            output_loading_info=True,
            dtype=torch.float32,
            **OWN_KERNELS,
            **safe,
        )
        mean, std = _scaling(place, local) if package.name == "image" else (None, None)
    net: Wrapped
    if told is None:
        net = HuggingFaceNet(model)
    else:
        check_tokens(source, model, told, length=input_shape[0], vocabulary=vocabulary)
        told = told.of_questions(source, separator) if separator else told
        net = net_of(model, told, classes=classes, separator=separator, encoder=encoder)
    own = None if not encoder else "head.ends" if separator else "head"
    notices = _fresh_layers(source, report, new_head, own)
    check_finite(place, model.state_dict())
    if freeze:
        net.freeze()
    if mean is not None:
        notices.append(f"{source} declares how its inputs are scaled, and that is used: mean {mean}, std {std}")
    return Pretrained(net, mean, std, notices)


def _flags(source: str, args: Mapping[str, object]) -> tuple[bool, bool]:
    unknown = sorted(set(args) - {"new_head", "freeze"})
    new_head, freeze = args.get("new_head", False), args.get("freeze", False)
    if unknown or not isinstance(new_head, bool) or not isinstance(freeze, bool):
        given = unknown[0] if unknown else ", ".join(f"{name}={value!r}" for name, value in args.items())
        raise InputError(
            f"hf:{source} comes with its own config and takes two arguments",
            given=given,
            expected="new_head: true or false; freeze: true or false",
        )
    if freeze and not new_head:
        raise InputError(f"nothing of hf:{source} would learn", given="freeze: true", fix="add new_head: true")
    return new_head, freeze


def _as_wanted(config: Any, new_head: bool, classes: int, separator: int) -> None:
    """What of a folder's config is ours to say."""
    config.return_dict = True
    if new_head or separator:
        config.num_labels = 2 if separator else classes
    if hasattr(config, "apply_spec_augment"):
        config.apply_spec_augment = False  # as of a fresh one


def _check_config(source: str, config: Any, input_shape: tuple[int, ...]) -> None:
    channels = getattr(config, "num_channels", input_shape[0])
    if len(input_shape) == 3 and channels != input_shape[0]:
        raise ModelError(
            f"hf:{source} reads images of {channels} channels, the data has {input_shape[0]}",
            fix=f"load the data with channels: {channels}",
        )
    if getattr(config, "quantization_config", None) is not None:
        raise ModelError(f"hf:{source} is quantised", fix="use the repository with the full weights")


def _beside(place: str, name: str, local: bool) -> Path | None:
    """A file beside the weights, in a folder or the hub's cache; None where there is none."""
    from transformers.utils.hub import cached_file

    try:
        return Path(str(cached_file(place, name, local_files_only=local)))
    except OSError:
        return None


def _vocabulary(place: str, local: bool, config: Any) -> Vocabulary:
    if local:
        return Vocabulary.of_folder(Path(place), config)
    _beside(place, "tokenizer_config.json", local)
    tokenizer = _beside(place, "tokenizer.json", local)
    return Vocabulary.of_folder(None if tokenizer is None else tokenizer.parent, config)


def _scaling(place: str, local: bool) -> tuple[list[float] | None, list[float] | None]:
    """Mean and deviation for inputs in [0, 1] from the model's preprocessor file, where there is one."""
    path = _beside(place, "preprocessor_config.json", local)
    if path is None:
        return None, None
    settings = json.loads(path.read_text(encoding="utf-8"))
    # The file speaks of bytes times a factor; tutelage's inputs are bytes / 255 already.
    scale = 255.0 * settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 255.0
    if not settings.get("do_normalize", True):
        return [0.0], [1.0 / scale]
    if "image_mean" not in settings or "image_std" not in settings:
        return None, None
    return [round(m / scale, 9) for m in settings["image_mean"]], [round(s / scale, 9) for s in settings["image_std"]]


def _fresh_layers(source: str, report: Mapping[str, Any], new_head: bool, own: str | None) -> list[str]:
    """What the weights did not fill: a new last layer where one was asked for, else an error.

    `own` is the layer that we added to an encoder, whose pooler nobody hears then.
    """
    names = {*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])}
    names = {name for name in names if own is None or not name.startswith("pooler.")}
    fresh = sorted(name for name in names if not name.endswith("num_batches_tracked"))  # a count that nothing reads
    if fresh and not (new_head and len(fresh) <= 2):
        raise ModelError(
            f"the weights of hf:{source} are not complete: {len(fresh)} tensors missing",
            given=", ".join(fresh[:5]),
            fix="use a trained classifier, or add new_head: true to the arguments to train a new last layer",
        )
    fresh += [f"{own}.weight", f"{own}.bias"] if own else []
    return [f"{', '.join(fresh)} of {source} are new and not trained yet"] if fresh else []

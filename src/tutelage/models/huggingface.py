"""Image classifiers of Hugging Face transformers: from a config without weights, or a folder or hub name with them.

No code from a folder or the hub is ever run: remote code is refused, pickled weights are refused, and a config's wish
for a kernel from the hub is not followed. The package is imported when the first such model is built, not before.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from tutelage.errors import DamagedError, InputError, MissingExtraError, ModelError, TutelageError, nearest
from tutelage.models.weights import check_finite

__all__ = ["HuggingFaceNet", "Pretrained", "from_type", "is_pretrained", "pretrained"]

# Kernels are code: whatever a config file names, transformers chooses among its own.
_OWN_KERNELS: dict[str, Any] = {"attn_implementation": None, "experts_implementation": None}


@final
class HuggingFaceNet(nn.Module):
    """The logits of a transformers model, as a tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x).logits
        return logits


@dataclass(frozen=True, slots=True)
class Pretrained:
    """A model with weights, and how it wants its inputs scaled, where its folder says so."""

    net: nn.Module
    mean: list[float] | None
    std: list[float] | None
    notices: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Transformers:
    """What is used of the package."""

    config: Any
    model: Any
    kinds: Mapping[str, Sequence[str]]  # types of image classifiers and their classes
    common: frozenset[str]  # fields that every config has


def is_pretrained(source: str) -> bool:
    """Whether `hf:source` names a folder or a hub repository, rather than a type of model."""
    return "/" in source or source.startswith((".", "~"))


def from_type(kind: str, args: Mapping[str, object], *, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """A classifier with fresh weights from a config, `args` being fields of that config."""
    package = _transformers(kind, input_shape)
    if kind not in package.kinds:
        raise InputError(
            f"`{kind}` is no image classifier of transformers",
            given=f"hf:{kind}",
            expected="hf:<type>, hf:/folder or hf:owner/name",
            fix=nearest(kind, package.kinds),
        )
    # The common fields steer loading, or follow from the data; only what shapes the net is open.
    fields = {k: v for k, v in package.config.for_model(kind).to_dict().items() if k not in package.common}
    fields = {name: value for name, value in fields.items() if not name.startswith("_")}
    settings: dict[str, object] = {}
    if fields.pop("num_channels", None) is not None:
        settings["num_channels"] = input_shape[0]
    if isinstance(fields.get("image_size"), int):
        settings["image_size"] = input_shape[1] if input_shape[1] == input_shape[2] else list(input_shape[1:])
    unknown = sorted(set(args) - set(fields))
    if unknown:
        raise InputError(
            f"`hf:{kind}` takes no argument `{unknown[0]}`",
            expected=", ".join(sorted(fields)),
            fix=nearest(unknown[0], fields),
        )
    try:
        with _quiet():
            config = package.config.for_model(kind, num_labels=classes, **{**settings, **args})
            # Where a type has several classes, transformers reads this field unasked, and fresh configs lack it.
            names = package.kinds[kind]
            config.architectures = [names if isinstance(names, str) else names[0]]
            model = package.model.from_config(config, trust_remote_code=False, dtype=torch.float32, **_OWN_KERNELS)
    except Exception as error:
        # The configs check some of their fields; the models meet the rest as errors of any class.
        raise ModelError(
            f"transformers cannot build hf:{kind}: {_words(error)}",
            given=", ".join(f"{name}={value!r}" for name, value in args.items()) or "no arguments",
        ) from error
    return HuggingFaceNet(model)


def pretrained(source: str, args: Mapping[str, object], *, input_shape: tuple[int, ...], classes: int) -> Pretrained:
    """A classifier with its weights, from a folder or from the hub.

    The one argument is `new_head`: put a fresh last layer with as many outputs as the data has classes.
    """
    package = _transformers(source, input_shape)
    new_head = _new_head(source, args)
    local = source.startswith(("/", ".", "~")) or Path(source).is_dir()
    place = str(Path(source).expanduser()) if local else source
    if local and not Path(place).is_dir():
        raise ModelError(f"there is no folder {place}", expected="a folder with config.json and model.safetensors")
    safe = {"local_files_only": local, "trust_remote_code": False}
    with _quiet(), _explained(source, local):
        config = package.config.from_pretrained(place, **safe)
        _check_config(source, config, input_shape)
        config.return_dict = True
        if new_head:
            config.num_labels = classes
        model, report = package.model.from_pretrained(
            place,
            config=config,
            use_safetensors=True,
            ignore_mismatched_sizes=new_head,
            output_loading_info=True,
            dtype=torch.float32,
            **_OWN_KERNELS,
            **safe,
        )
        mean, std = _scaling(place, local)
    notices = _fresh_layers(source, report, new_head)
    check_finite(place, model.state_dict())
    if mean is not None:
        notices.append(f"{source} declares how its inputs are scaled, and that is used: mean {mean}, std {std}")
    return Pretrained(HuggingFaceNet(model), mean, std, notices)


def _transformers(source: str, input_shape: tuple[int, ...]) -> _Transformers:
    try:
        from transformers import AutoConfig, AutoModelForImageClassification, PretrainedConfig
        from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as KINDS
    except ImportError as error:
        raise MissingExtraError("transformers", "hf", purpose=f"the model hf:{source}") from error
    if len(input_shape) != 3:
        raise ModelError(
            f"hf:{source} reads images",
            given=f"examples of shape {input_shape}",
            expected="(channels, height, width)",
        )
    return _Transformers(AutoConfig, AutoModelForImageClassification, KINDS, frozenset(PretrainedConfig().to_dict()))


def _new_head(source: str, args: Mapping[str, object]) -> bool:
    unknown = sorted(set(args) - {"new_head"})
    value = args.get("new_head", False)
    if unknown or not isinstance(value, bool):
        raise InputError(
            f"hf:{source} comes with its own config and takes one argument",
            given=unknown[0] if unknown else f"new_head={value!r}",
            expected="new_head: true or false",
        )
    return value


def _check_config(source: str, config: Any, input_shape: tuple[int, ...]) -> None:
    channels = getattr(config, "num_channels", input_shape[0])
    if channels != input_shape[0]:
        raise ModelError(
            f"hf:{source} reads images of {channels} channels, the data has {input_shape[0]}",
            fix=f"load the data with channels: {channels}",
        )
    if getattr(config, "quantization_config", None) is not None:
        raise ModelError(f"hf:{source} is quantised", fix="use the repository with the full weights")


def _scaling(place: str, local: bool) -> tuple[list[float] | None, list[float] | None]:
    """Mean and deviation for inputs in [0, 1] from the model's preprocessor file, where there is one."""
    from transformers.utils.hub import cached_file

    try:
        path = cached_file(place, "preprocessor_config.json", local_files_only=local)
    except OSError:
        return None, None
    settings = json.loads(Path(str(path)).read_text(encoding="utf-8"))
    # The file speaks of bytes times a factor; tutelage's inputs are bytes / 255 already.
    scale = 255.0 * settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 255.0
    if not settings.get("do_normalize", True):
        return [0.0], [1.0 / scale]
    if "image_mean" not in settings or "image_std" not in settings:
        return None, None
    return [round(m / scale, 9) for m in settings["image_mean"]], [round(s / scale, 9) for s in settings["image_std"]]


def _fresh_layers(source: str, report: Mapping[str, Any], new_head: bool) -> list[str]:
    """What the weights did not fill: a new last layer where one was asked for, else an error."""
    names = {*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])}
    fresh = sorted(name for name in names if not name.endswith("num_batches_tracked"))  # a count that nothing reads
    if fresh and not (new_head and len(fresh) <= 2):
        raise ModelError(
            f"the weights of hf:{source} are not complete: {len(fresh)} tensors missing",
            given=", ".join(fresh[:5]),
            fix="use a trained image classifier, or add new_head: true to the arguments to train a new last layer",
        )
    return [f"{', '.join(fresh)} of {source} are new and not trained yet"] if fresh else []


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the package's progress bars and advice, and with its settings as they were afterwards."""
    from transformers.utils import logging as package_log

    logging: Any = package_log
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def _explained(source: str, local: bool) -> Iterator[None]:
    try:
        yield
    except TutelageError:
        raise
    except SafetensorError as error:
        raise DamagedError(
            f"the weights in {source} cannot be read: {error}", fix="copy or download the folder again"
        ) from error
    except Exception as error:
        remote = "trust_remote_code" in str(error) or "custom code" in str(error)
        fix = (
            "code from a model folder is never run; build it in a function of yours and name package.module:function"
            if remote
            else "the folder needs config.json and model.safetensors, as save_pretrained writes them"
            if local
            else "check the name and the connection, or download the folder elsewhere and write hf:/path/to/it"
        )
        raise ModelError(f"transformers cannot load {source}: {_words(error)}", fix=fix) from error


def _words(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:240] if lines else type(error).__name__

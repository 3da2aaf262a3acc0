"""The package transformers, kept quiet and explained, and the families of its classifiers that are used here.

It is imported when the first such model is built, not before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self, final

from safetensors import SafetensorError
from torch import nn

from tutelage.errors import DamagedError, MissingExtraError, ModelError, TutelageError

__all__ = ["OWN_KERNELS", "Family", "Wrapped", "explained", "family_of", "quiet", "words"]

# Kernels are code: whatever a config file names, transformers chooses among its own.
OWN_KERNELS: Final[Mapping[str, Any]] = {"attn_implementation": None, "experts_implementation": None}
_SOUND: Final = 400  # samples, below which the first layers of such nets have nothing to put out


class Wrapped(nn.Module):
    """A transformers model inside a net that answers with a tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.still = False

    @property
    def body(self) -> nn.Module:
        """All of it but what makes classes of its features."""
        found = self.model.base_model
        assert isinstance(found, nn.Module)
        return found

    def freeze(self) -> None:
        """From now on only the last layers learn; the body stays in eval mode, without dropout."""
        self.still = True
        self.body.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """As of any module, but for what is frozen."""
        super().train(mode)
        if self.still:
            self.body.eval()
        return self


@final
@dataclass(frozen=True, slots=True)
class Family:
    """What is used of the package for one kind of inputs."""

    name: str  # "image", "text" or "audio"
    config: Any
    model: Any
    body: Any  # the same models without their heads
    kinds: Mapping[str, str | Sequence[str]]  # types of classifiers and their classes
    common: frozenset[str]  # fields that every config has


def family_of(source: str, input_shape: tuple[int, ...], vocabulary: int) -> Family:
    """The family of classifiers that reads such examples.

    Raises:
        MissingExtraError: transformers is not installed.
        ModelError: none does.
    """
    try:
        import transformers as package
        from transformers.models.auto import modeling_auto as names
    except ImportError as error:
        raise MissingExtraError("transformers", "hf", purpose=f"the model hf:{source}") from error
    family: tuple[str, Any, Any]
    if vocabulary and len(input_shape) == 1:
        kinds = names.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
        family = "text", package.AutoModelForSequenceClassification, kinds
    elif len(input_shape) == 3:
        family = "image", package.AutoModelForImageClassification, names.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    elif len(input_shape) == 1 and input_shape[0] >= _SOUND:
        family = "audio", package.AutoModelForAudioClassification, names.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES
    else:
        raise ModelError(
            f"hf:{source} reads images, tokens or sounds", given=f"examples of shape {input_shape}",
            expected=f"(channels, height, width), rows of tokens, or (samples,) of {_SOUND} or more",
        )  # fmt: skip
    common = frozenset(package.PretrainedConfig().to_dict())
    return Family(family[0], package.AutoConfig, family[1], package.AutoModel, family[2], common)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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
def explained(source: str, local: bool) -> Iterator[None]:
    """Whatever the package raises becomes an error that says what to do."""
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
        raise ModelError(f"transformers cannot load {source}: {words(error)}", fix=fix) from error


def words(error: Exception) -> str:
    """What an error says, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:240] if lines else type(error).__name__

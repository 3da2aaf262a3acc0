"""A student that learns only in small parts: adapters beside frozen layers, or a few layers of its own.

The adapters are those of PEFT, put into the module where it stands: every layer keeps its path, so that who listens to
`net.head` hears the adapted layer. `merge` adds what was learned to the weights and gives back the architecture as it
was, so that a file that ships knows nothing of adapters.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final, final

import torch
from torch import nn

from tutelage.errors import InputError, MissingExtraError, ModelError, nearest

__all__ = ["KINDS", "Adapter", "adapt", "is_adapted", "learning_count", "merge", "takes_any_order"]

KINDS: Final[Mapping[str, str]] = {
    "lora": "two thin matrices beside a layer, whose product is added to its weight",
    "dora": "the same, and the length of every row of the weight learns on its own",
}

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
# These read the weights of layers inside them instead of calling the layers, past any adapter.
_READERS = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
_EXPECTED = "Linear, Conv1d, Conv2d or Conv3d; ungrouped, called by its parent, sharing its weight with no other layer"


@final
@dataclass(frozen=True, slots=True)
class Adapter:
    """What learns of a student in place of its own weights.

    Args:
        kind: "lora" (Hu et al., ICLR 2022, arXiv 2106.09685) or "dora" (Liu et al., ICML 2024, arXiv 2402.09353).
        rank: the inner size of the two matrices, 1 or more.
        alpha: their product is multiplied by alpha / rank; above 0.
        dropout: the share of a layer's inputs that the adapter does not see while it learns, in [0, 1).
        targets: paths or patterns of layers that get an adapter; a path means everything inside as well.
        train: paths or patterns of layers that learn fully, such as a new head; these get no adapter.

    Raises:
        InputError: a value that cannot be.
    """

    kind: str = "lora"
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: Sequence[str] = ("*",)
    train: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"there is no adapter `{self.kind}`", expected=", ".join(KINDS))
        good = self.rank >= 1 and self.alpha > 0 and 0 <= self.dropout < 1
        if not good:
            raise InputError(
                "an adapter of such sizes cannot be",
                given=f"rank={self.rank}, alpha={self.alpha:g}, dropout={self.dropout:g}",
                expected="rank ≥ 1, alpha > 0, 0 ≤ dropout < 1",
            )
        if isinstance(self.targets, str) or isinstance(self.train, str):
            raise InputError("`targets` and `train` are lists of layers", expected='such as ["net.head"]')


def adapt(module: nn.Module, adapter: Adapter | None = None, *, frozen: Sequence[str] = ()) -> nn.Module:
    """Choose what of a module learns; in place, and the module is returned.

    With an adapter everything is frozen but the adapters and the layers of `adapter.train`; without one everything
    learns but `frozen`. What is frozen stays the same to the last bit: its statistics of batch norms do not move
    either, since such norms work as in eval mode whatever the module's mode is. Before the first step the module's
    answers are the same to the last bit. An adapter's first weights are drawn from torch's generator.

    Args:
        module: whose weights are worth keeping.
        adapter: what learns in their place; needs the extra `peft`.
        frozen: paths or patterns of layers that do not learn, whatever else names them.

    Raises:
        ModelError: a layer that is not there, or that can take no adapter; nothing would learn.
        InputError: the module is adapted already.
        MissingExtraError: PEFT is not installed.
    """
    if adapter is None and not frozen:
        return module
    if is_adapted(module):
        raise InputError("the module has adapters already", fix="merge them first: tutelage.models.merge(module)")
    layers = dict(module.named_modules(remove_duplicate=False))
    still = _inside(layers, frozen, "frozen")
    if adapter is None:
        learns = set(layers) - still
    else:
        learns = _inside(layers, adapter.train, "adapter.train") - still
        _inject(module, adapter, _targets(layers, adapter, learns | still))
    for name in learns if adapter is not None else still:
        for parameter in layers[name].parameters(recurse=False):
            parameter.requires_grad_(name in learns)
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise ModelError("nothing of this model would learn", fix="freeze fewer layers, or give it an adapter")
    for name, layer in layers.items():
        if name not in learns and any(True for _ in layer.buffers()) and not any(True for _ in layer.children()):
            layer.register_forward_pre_hook(_in_eval)
    return module


def merge(module: nn.Module) -> nn.Module:
    """The module in its plain architecture: a copy with the adapters added to the weights they stood beside.

    A module without adapters is given back itself. The copy's answers are the module's up to rounding. What did not
    learn does not learn in the copy either; `requires_grad_(True)` makes it.
    """
    if not is_adapted(module):
        return module
    from peft.tuners.tuners_utils import BaseTunerLayer

    # DoRA takes views of weights, which another order of memory does not allow.
    plain = copy.deepcopy(module).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for name, layer in list(plain.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            plain.set_submodule(name, layer.get_base_layer())
    for layer in plain.modules():
        hooks = layer._forward_pre_hooks
        for key in [key for key, hook in hooks.items() if hook is _in_eval]:
            del hooks[key]
    del plain.peft_config
    merged: nn.Module = plain
    return merged


def is_adapted(module: nn.Module) -> bool:
    """Whether `adapt` put adapters into a module that are still there."""
    return "peft_config" in vars(module)


def takes_any_order(module: nn.Module) -> bool:
    """Whether a module's weights may lie in channels-last order: not with DoRA, which takes views of its matrices."""
    return not any(config.use_dora for config in vars(module).get("peft_config", {}).values())


def learning_count(module: nn.Module) -> int:
    """How many numbers of a module learn; shared ones count once."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def _inside(layers: Mapping[str, nn.Module], patterns: Sequence[str], where: str) -> set[str]:
    """The paths that patterns name, and everything inside these."""
    found: set[str] = set()
    for pattern in patterns:
        named = {path for path in layers if fnmatchcase(path, pattern)}
        if not named:
            raise ModelError(
                f"the model has no layer `{pattern}`", where=where, fix=nearest(pattern, filter(None, layers))
            )
        found |= named | {path for path in layers if any(_is_in(path, one) for one in named)}
    return found


def _targets(layers: Mapping[str, nn.Module], adapter: Adapter, but: set[str]) -> list[str]:
    """The layers that get an adapter, in the order of the model."""
    owners = Counter(id(p) for layer in {*layers.values()} for p in layer.parameters(recurse=False))
    places = Counter(id(layer) for layer in layers.values())
    read = {path for name, one in layers.items() if isinstance(one, _READERS) for path in layers if _is_in(path, name)}
    able = {
        path
        for path, layer in layers.items()
        if path and path not in read and isinstance(layer, _LAYERS) and getattr(layer, "groups", 1) == 1
        # What is shared would be merged into its other places as well, where no adapter was heard.
        if places[id(layer)] == 1 and all(owners[id(p)] == 1 for p in layer.parameters(recurse=False))
    }  # fmt: skip
    chosen: set[str] = set()
    for pattern in adapter.targets:
        found = _inside(layers, [pattern], "adapter.targets")
        if not found & able:
            kinds = sorted({type(layers[path]).__name__ for path in found})
            raise ModelError(
                f"`{pattern}` leads to no layer that can take an adapter", where="adapter.targets",
                given=", ".join(kinds[:6]), expected=_EXPECTED,
            )  # fmt: skip
        chosen |= found & able
    if not chosen - but:
        raise ModelError("no layer is left to take an adapter", fix="name fewer layers under `train` and `frozen`")
    return [path for path in layers if path in chosen - but]


def _is_in(path: str, parent: str) -> bool:
    return not parent or path.startswith(f"{parent}.")


def _inject(module: nn.Module, adapter: Adapter, targets: Sequence[str]) -> None:
    """Put PEFT's layers in the places of the targets, in the mode of what they stand for."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise MissingExtraError("peft", "peft", purpose="an adapter") from error
    # As one pattern, since PEFT takes a list for endings of paths.
    config = LoraConfig(
        r=adapter.rank, lora_alpha=adapter.alpha, lora_dropout=adapter.dropout, use_dora=adapter.kind == "dora",
        target_modules="|".join(re.escape(path) for path in targets),
    )  # fmt: skip
    modes = [module.get_submodule(path).training for path in targets]
    try:
        inject_adapter_in_model(config, module)
    except (ImportError, TypeError, ValueError, NotImplementedError) as error:  # such as a package that is too old
        raise ModelError(f"PEFT cannot adapt this model: {' '.join(str(error).split())[:240]}") from error
    for path, mode in zip(targets, modes, strict=True):
        module.get_submodule(path).train(mode)


def _in_eval(layer: nn.Module, _: object) -> None:
    """Before a frozen layer runs: its statistics do not move, whoever has set the mode of the whole since."""
    layer.training = False

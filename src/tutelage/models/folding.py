"""A frozen model without its batch norms: the same answers, fewer passes over memory.

In eval mode a batch norm is a fixed scale and shift per channel, which the convolution before it can take over. That is
safe only where the traced graph shows that the one feeds the other and nothing else. Where it shows nothing, nothing is
folded.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

__all__ = ["fold_batchnorm"]

_PAIRS = {nn.Conv1d: nn.BatchNorm1d, nn.Conv2d: nn.BatchNorm2d, nn.Conv3d: nn.BatchNorm3d, nn.Linear: nn.BatchNorm1d}
_KEEPS_RANK = (nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Dropout, nn.Identity)


def fold_batchnorm(module: nn.Module) -> nn.Module:
    """A copy in eval mode whose batch norms are folded into the convolutions and linear layers before them.

    Module names stay; a folded batch norm becomes an identity, so a tap on it sees what it saw before, while a tap on a
    folded convolution now sees the normalised output. The copy can no longer be trained as the original was. A module
    that cannot be traced comes back as a plain copy.
    """
    folded = copy.deepcopy(module).eval()
    try:
        graph = fx.Tracer().trace(folded)
    except Exception:
        # Tracing runs the module's own code on stand-ins for tensors, which may fail in any way.
        return folded
    modules = dict(folded.named_modules(remove_duplicate=False))
    for layer, norm in _foldable(graph, modules):
        fuse = fuse_linear_bn_eval if type(modules[layer]) is nn.Linear else fuse_conv_bn_eval
        folded.set_submodule(layer, fuse(modules[layer], modules[norm]))
        folded.set_submodule(norm, nn.Identity().eval())
    return folded


def _foldable(graph: fx.Graph, modules: Mapping[str, nn.Module]) -> list[tuple[str, str]]:
    """Names of layers and of the batch norms that can go into them."""
    calls = Counter(id(modules[str(node.target)]) for node in graph.nodes if node.op == "call_module")
    owners = Counter(id(module) for module in modules.values())
    # Weights that are read directly would change under their reader.
    read = [str(node.target) for node in graph.nodes if node.op == "get_attr"]

    def alone(name: str) -> bool:
        module = modules[name]
        hooked = module._forward_hooks or module._forward_pre_hooks
        touched = any(target.startswith(f"{name}.") for target in read)
        return calls[id(module)] == 1 and owners[id(module)] == 1 and not hooked and not touched

    pairs = []
    for node in graph.nodes:
        before = node.args[0] if node.op == "call_module" and len(node.args) == 1 else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
            continue
        layer, norm = str(before.target), str(node.target)
        if _PAIRS.get(type(modules[layer])) is not type(modules[norm]) or not (alone(layer) and alone(norm)):
            continue
        if not isinstance(modules[norm].running_mean, torch.Tensor):
            continue  # it normalises by the batch even in eval mode
        if type(modules[layer]) is nn.Linear and not _is_matrix(before, modules):
            continue
        pairs.append((layer, norm))
    return pairs


def _is_matrix(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a linear layer's input surely is (B, D): on (B, T, D) a batch norm would mean the T.

    Followed back through layers that keep the number of dimensions, to one that flattens.
    """
    while isinstance(node.args[0] if node.args else None, fx.Node):
        source = node.args[0]
        assert isinstance(source, fx.Node)
        if source.op != "call_module":
            return False
        layer = modules[str(source.target)]
        if isinstance(layer, nn.Flatten):
            return layer.start_dim == 1 and layer.end_dim == -1
        if not isinstance(layer, _KEEPS_RANK):
            return False
        node = source
    return False

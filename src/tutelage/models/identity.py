"""What a model computes with its weights: two nets may share these and differ in an activation or a stride.

Layers, their settings, and the source of their own classes are digested. What cannot be seen is a function elsewhere
that a layer calls; stored answers are compared with live ones for that reason.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["architecture_digest"]

# What every module has; and where a pretrained model happened to lie.
_NO_SETTINGS = {*vars(nn.Module()), "name_or_path"}


def architecture_digest(module: nn.Module) -> str:
    """SHA-256 over layers, settings and source; the same in every process, on every device."""
    # Some layers show the address of a function, which is another one in every process.
    digest = hashlib.sha256(re.sub(r"0x[0-9a-f]+", "", str(module)).encode())
    for name, layer in module.named_modules():
        settings = sorted((key, _told(value)) for key, value in vars(layer).items() if key not in _NO_SETTINGS)
        digest.update(f"{name} {type(layer).__qualname__} {settings!r}\n".encode())
    kinds = {base for layer in module.modules() for base in type(layer).__mro__}
    own = {kind for kind in kinds if not kind.__module__.startswith(("torch.", "builtins"))}
    for source in sorted(map(_source, own)):
        digest.update(source.encode())
    return digest.hexdigest()


def _told(value: Any) -> str:
    """What a setting says, in words that every process chooses alike; of unknown objects only their kind."""
    if value is None or isinstance(value, (bool, int, float, str, torch.dtype, slice, range)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}({', '.join(map(_told, value))})"
    if isinstance(value, (set, frozenset)):
        return f"set({', '.join(sorted(map(_told, value)))})"
    if isinstance(value, Mapping):
        return f"dict({', '.join(sorted(f'{_told(key)}: {_told(one)}' for key, one in value.items()))})"
    if isinstance(value, (Tensor, np.ndarray)):
        tensor = torch.as_tensor(value).detach().cpu().contiguous()
        data = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
        return f"{tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(data).hexdigest()}"
    if isinstance(value, functools.partial):
        return f"partial({_told(value.func)}, {_told(value.args)}, {_told(value.keywords)})"
    if isinstance(getattr(value, "__code__", None), type(_told.__code__)):
        return f"{value.__qualname__} {_body(value)}"
    return str(getattr(value, "__qualname__", type(value).__qualname__))


def _source(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        # Written in a shell that is gone: the compiled body still tells functions apart.
        forward = getattr(kind, "forward", None)
        return f"{kind.__qualname__} {_body(forward) if hasattr(forward, '__code__') else ''}"


def _body(function: Any) -> str:
    code = function.__code__
    constants = [one for one in code.co_consts if one is None or isinstance(one, (bool, int, float, str, tuple))]
    return f"{code.co_code!r} {code.co_names} {re.sub('0x[0-9a-f]+', '', repr(constants))}"

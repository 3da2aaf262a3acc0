"""Weights move between a file and a module completely, or not at all.

Every check comes before the first number is copied, so a file that does not fit leaves the module as it was. What can
be mended without guessing (a prefix of a wrapper, half precision) is mended, and said.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from tutelage.errors import DamagedError, ModelError
from tutelage.files import write_bytes
from tutelage.models.formats import pack, unpack
from tutelage.models.reading import read_tensors

__all__ = ["check_finite", "load_weights", "save_weights", "state_digest", "weights_as_bytes"]

_PREFIXES = ("module.", "_orig_mod.", "model.")  # DataParallel, torch.compile, Lightning


def load_weights(module: nn.Module, path: Path) -> list[str]:
    """Fill a module with the weights of a file, and return what the user should know about it.

    Raises:
        ModelError: the file is missing, of a kind that is not read, or of another model.
        DamagedError: the file is not what it claims to be, or holds numbers that are not finite.
    """
    tensors, notices = read_tensors(path)
    tensors, said = unpack(tensors)
    notices += said
    expected = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    naming = _best_naming(tensors, module, expected)
    notices += naming.notices
    found = {name: tensors[old] for old, name in naming.names.items()}
    _check_names(path, found, expected, naming.home)
    _check_shapes(path, found, expected, module)
    fitted, cast = _fit(path, found, expected)
    notices += cast
    kept = sorted(expected.keys() - fitted.keys())
    if kept:
        notices.append(f"the file holds no {', '.join(kept)}; left as they were")
    if any(_rescaled(fitted[name], expected[name]) for name in fitted if name.startswith("normalise.")):
        notices.append("inputs are scaled as they were for these weights, not as this data would be")
    module.load_state_dict({**module.state_dict(), **fitted})
    return notices


def save_weights(module: nn.Module, path: Path, *, how: str | None = None) -> None:
    """Write parameters and buffers as safetensors; the same weights give the same bytes.

    Args:
        how: a key of `formats.FORMATS`; as they are where it is None.
    """
    write_bytes(path, weights_as_bytes(module, how=how))


def check_finite(source: Path | str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that no training step could have left in good order.

    Raises:
        DamagedError: a number is NaN or infinite.
    """
    bad = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        raise DamagedError(
            f"{source} holds weights that are not finite numbers",
            given=f"NaN or infinity in {len(bad)} of {len(tensors)} tensors: {_first(bad)}",
            fix="training diverged before it was saved: use an earlier checkpoint",
        )


def weights_as_bytes(module: nn.Module, *, how: str | None = None) -> bytes:
    """The safetensors file of a module, in a format of `formats.FORMATS` if one is named."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in module.state_dict().items():
        tensor = value.detach().cpu().contiguous()
        # The format has no sharing: tied weights are written once for each name.
        tensors[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    if how is not None:
        tensors = pack(tensors, how)
    # One entry of metadata only: with more, their order, and so the bytes, would differ from process to process.
    data: bytes = save(tensors, metadata={"format": "pt"})
    return data


def state_digest(module: nn.Module) -> str:
    """SHA-256 over the names, dtypes, shapes and bytes of all parameters and buffers: equal only for equal models."""
    digest = hashlib.sha256()
    parts = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    for name, value in sorted(parts, key=lambda part: part[0]):
        tensor = value.detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _Naming:
    """One way to read the names of a file."""

    names: Mapping[str, str]  # in the file -> in the module
    home: str  # what the file leaves out at the front, because it holds an inner part only
    notices: list[str]


def _best_naming(tensors: Mapping[str, Tensor], module: nn.Module, expected: Mapping[str, Tensor]) -> _Naming:
    """The reading of the file's names under which most of them are known; the plainest of equals."""
    namings = [
        _Naming({old: home + name for old, name in stripped.items()}, home, notices)
        for stripped, notices in _strippings(list(tensors))
        for home in _homes([name for name, _ in module.named_parameters()])
    ]
    return max(namings, key=lambda naming: sum(name in expected for name in naming.names.values()))


def _strippings(names: list[str]) -> Iterator[tuple[dict[str, str], list[str]]]:
    """The names as they are, then with one wrapper's prefix after another taken off."""
    current = {name: name for name in names}
    notices: list[str] = []
    yield dict(current), list(notices)
    while current:
        first = next(iter(current.values()))
        # torch.compile also wraps inner modules, so its prefix may stand anywhere and on some names only.
        if any("_orig_mod." in name for name in current.values()):
            prefix = "_orig_mod."
            stripped = {old: name.replace(prefix, "") for old, name in current.items()}
        else:
            found = [p for p in _PREFIXES if first.startswith(p) and all(n.startswith(p) for n in current.values())]
            if not found:
                return
            prefix = found[0]
            stripped = {old: name.removeprefix(prefix) for old, name in current.items()}
        if len(set(stripped.values())) < len(stripped):
            return
        notices.append(f"took the prefix `{prefix}` off the names")
        current = stripped
        yield dict(current), list(notices)


def _homes(names: list[str]) -> list[str]:
    """The prefixes that all parameters share: "" and, for a wrapped net, "net." and so on inwards."""
    homes = [""]
    while names:
        head, dot, _ = names[0].removeprefix(homes[-1]).partition(".")
        deeper = homes[-1] + head + dot
        if not dot or not all(name.startswith(deeper) for name in names):
            break
        homes.append(deeper)
    return homes


def _check_names(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor], home: str) -> None:
    missing = [name for name in expected if name not in found and name.startswith(home)]
    unexpected = [name for name in found if name not in expected]
    if missing or unexpected:
        raise ModelError(
            f"{path} holds the weights of another model: "
            f"{len(missing)} of {len(expected)} names missing, {len(unexpected)} unexpected",
            given=_first(unexpected) if unexpected else "nothing more than known names",
            expected=_first(missing) if missing else "nothing more than that",
            fix="name the model and arguments that these weights were trained with",
        )


def _check_shapes(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor], module: nn.Module) -> None:
    wrong = [name for name, tensor in found.items() if tensor.shape != expected[name].shape]
    if not wrong:
        return
    matrices = [name for name, value in module.named_parameters() if value.ndim >= 2]
    head = matrices[-1] if matrices else ""
    bias = head.removesuffix("weight") + "bias"
    if head in wrong and set(wrong) <= {head, bias} and found[head].shape[1:] == expected[head].shape[1:]:
        raise ModelError(
            f"the weights have {len(found[head])} classes, the data has {len(expected[head])}",
            where=str(path),
            fix="use weights that were trained on the classes of this data",
        )
    raise ModelError(
        f"{path} holds the weights of another model: {len(wrong)} of {len(expected)} shapes differ",
        given=_first([f"{name} {tuple(found[name].shape)}" for name in wrong]),
        expected=_first([f"{name} {tuple(expected[name].shape)}" for name in wrong]),
        fix="name the model and arguments that these weights were trained with",
    )


def _fit(
    path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """Every tensor in the dtype of its place, all numbers finite."""
    fitted: dict[str, Tensor] = {}
    casts: set[tuple[torch.dtype, torch.dtype]] = set()
    for name, tensor in found.items():
        dtype = expected[name].dtype
        if tensor.dtype != dtype:
            if not (tensor.is_floating_point() and dtype.is_floating_point):
                raise ModelError(
                    f"{name} in {path} is of another kind of number",
                    given=_plain(tensor.dtype),
                    expected=_plain(dtype),
                    fix="use weights that were not quantised",
                )
            casts.add((tensor.dtype, dtype))
        fitted[name] = tensor.to(dtype)
    check_finite(path, fitted)
    notices = [f"weights stored as {_plain(a)} were turned into {_plain(b)}" for a, b in sorted(casts, key=str)]
    return fitted, notices


def _rescaled(new: Tensor, old: Tensor) -> bool:
    # Half precision and statistics of another split of the same data are no other scaling.
    return not torch.allclose(new.cpu(), old.cpu(), rtol=0.01)


def _first(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

"""Reading a file of weights that somebody else made: whole, harmless, or refused with the reason.

The kind is told from the bytes, not from the name. Nothing in the file is ever run: safetensors holds no code, and a
pickle goes through torch's restricted reader. Where that reader refuses there is no second, less careful attempt.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tutelage.errors import DamagedError, ModelError, TutelageError
from tutelage.files import human_bytes

__all__ = ["read_tensors"]

_LONGEST_HEADER = 100_000_000  # the limit of the safetensors format itself
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_SAVE_AGAIN = (
    "where the model was made: safetensors.torch.save_file(model.state_dict(), 'model.safetensors'), then use that file"
)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a `.safetensors` file or a `.pt` state dict by name, and what was done to find them.

    Raises:
        ModelError: there is no such file, or it is of a kind that is not read.
        DamagedError: it is not what it claims to be: truncated, a web page, a git-LFS pointer.
    """
    start, size = _open(path)
    _check_download(path, start, size)
    # A safetensors file begins with the length of its header, which may by chance begin as an archive or a pickle does;
    # read as such a length, the start of those would point far beyond their end.
    ours = start[8:9] == b"{" and 8 + int.from_bytes(start[:8], "little") <= size
    if start.startswith(b"PK") and not ours:
        _check_archive(path, size)
        return _named_tensors(path, _load_pickle(path))
    if start.startswith(b"\x80") and not ours:
        _check_protocol(path, start)
        return _named_tensors(path, _load_pickle(path))
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        _check_header(path, size)
        try:
            return load_file(path), []
        except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
            raise DamagedError(f"{path} is no valid safetensors file: {error}", fix=_COPY_AGAIN) from error
    if not any(start):
        raise DamagedError(f"{path} holds zeros: it was never written out", fix=_COPY_AGAIN)
    raise ModelError(
        f"{path} is of an unknown kind",
        given=f"a file that begins with {start[:8]!r}",
        expected="a .safetensors file, or a state dict in a .pt file",
    )


_COPY_AGAIN = "copy or download the file again, and compare its size with the original"


def _open(path: Path) -> tuple[bytes, int]:
    """The first bytes and the size of a regular file."""
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.suffix in (".safetensors", ".pt", ".pth"))
        fix = f"name the file: {path / inside[0]}" if inside else "name a .safetensors or .pt file"
        if (path / "config.json").is_file():
            fix = f"for a Hugging Face folder write the model as hf:{path} and leave the weights out"
        raise ModelError(f"{path} is a folder", expected="a file of weights", fix=fix)
    if not path.is_file():
        raise ModelError(f"there is no file {path}", expected="a .safetensors file, or a state dict in a .pt file")
    try:
        with path.open("rb") as file:
            return file.read(256), path.stat().st_size
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error


def _check_download(path: Path, start: bytes, size: int) -> None:
    if size == 0:
        raise DamagedError(f"{path} is empty", fix=_COPY_AGAIN)
    if start.startswith(b"version https://git-lfs"):
        raise DamagedError(
            f"{path} is a {size}-byte git-LFS pointer, not the weights it stands for",
            fix="run `git lfs pull` in that repository",
        )
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise DamagedError(
            f"{path} is a web page, not weights: a download that failed",
            fix="download it again; a page in its place often asks for a login or a licence",
        )


def _check_header(path: Path, size: int) -> None:
    """Compare what the header of a safetensors file promises with the file, before anything is mapped."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > _LONGEST_HEADER:
            raise DamagedError(
                f"{path} is no safetensors file: its header would be {human_bytes(length)} long",
                given=f"a file of {human_bytes(size)}",
                fix=_COPY_AGAIN,
            )
        header = file.read(length)
    promised = 8 + length
    if promised <= size:
        try:
            entries = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
            promised += max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
            raise DamagedError(f"the header of {path} cannot be read: {error}", fix=_COPY_AGAIN) from error
    if promised != size:
        doubt = "an incomplete copy?" if promised > size else "something was added at its end"
        raise DamagedError(
            f"{path} is {human_bytes(size)}, its header promises {human_bytes(promised)}: {doubt}",
            given=f"{size:,} bytes",
            expected=f"{promised:,} bytes",
            fix=_COPY_AGAIN,
        )


def _check_archive(path: Path, size: int) -> None:
    """Look into a torch file's zip archive before torch does: torn, a program, a bomb, or changed."""
    try:
        with zipfile.ZipFile(path) as archive:
            _check_entries(path, archive.infolist(), size)
            # torch writes checksums and does not read them.
            changed = archive.testzip()
    except TutelageError:
        raise
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, RuntimeError, zlib.error) as error:
        raise DamagedError(f"{path} is torn ({error}): an incomplete copy?", fix=_COPY_AGAIN) from error
    if changed is not None:
        raise DamagedError(
            f"{path} has changed since it was written: the checksum of {changed} differs", fix=_COPY_AGAIN
        )


def _check_entries(path: Path, entries: list[zipfile.ZipInfo], size: int) -> None:
    names = [entry.filename for entry in entries]
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        raise ModelError(
            f"{path} is a TorchScript program, and programs are not run", expected="a state dict", fix=_SAVE_AGAIN
        )
    if not any(name.endswith("data.pkl") for name in names):
        raise ModelError(f"{path} is an archive, but no torch file", expected="a state dict", fix=_SAVE_AGAIN)
    # torch stores without compression, so the parts can never add up to more than the whole.
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or (
        sum(entry.file_size for entry in entries) > size
    ):
        raise DamagedError(f"{path} was not written by torch: it would unpack to more than it holds", fix=_SAVE_AGAIN)


def _check_protocol(path: Path, start: bytes) -> None:
    if start[1:2] > b"\x02":
        raise ModelError(
            f"{path} is a pickle that torch did not write, and it was not opened",
            given=f"pickle protocol {start[1]}",
            expected="a state dict",
            fix=_SAVE_AGAIN,
        )


def _load_pickle(path: Path) -> Any:
    try:
        # A file, not its name: by the name torch would choose another reader.
        with path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        text = str(error)
        refused = re.search(r"GLOBAL (\S+)", text)
        if refused is None and "Unsupported" not in text:
            first = text.strip().splitlines()[-1] if text.strip() else "it ends too early"
            raise DamagedError(f"{path} cannot be read: {first}", fix=_COPY_AGAIN) from error
        raise _refusal(path, refused.group(1) if refused else "an unknown instruction") from error
    except Exception as error:
        # The reader meets whatever a damaged file makes of its bytes: KeyError, EOFError, RuntimeError, ….
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DamagedError(f"{path} cannot be read: {first}", fix=_COPY_AGAIN) from error


def _refusal(path: Path, name: str) -> ModelError:
    """Say what a pickle wanted to run; a saved module is the innocent and most common case."""
    names = {name}
    with contextlib.suppress(Exception):  # only the wording depends on it, and old files are not disassembled
        names |= set(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    shown = ", ".join(sorted(names)[:3])
    if any(known.startswith("torch.nn.") for known in names):
        return ModelError(
            f"{path} holds a whole model with its code, and code from files is not run",
            given=f"a pickle that calls {shown}",
            expected="a state dict",
            fix=_SAVE_AGAIN,
        )
    return ModelError(
        f"{path} would run code when it is read; nothing was run",
        given=f"a pickle that calls {shown}",
        expected="a file of tensors only",
        fix=_SAVE_AGAIN,
    )


def _named_tensors(path: Path, value: Any) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict in a loaded value, taken out of the training state around it."""
    notices: list[str] = []
    for _ in _WRAPPERS:
        if not isinstance(value, Mapping) or any(isinstance(item, Tensor) for item in value.values()):
            break
        inner = next((key for key in _WRAPPERS if isinstance(value.get(key), Mapping)), None)
        if inner is None:
            break
        beside = sorted(str(key) for key in value if key != inner)
        notices.append(f"took the weights from `{inner}`" + (f", not {', '.join(beside[:5])}" if beside else ""))
        value = value[inner]
    if not isinstance(value, Mapping) or not value:
        raise ModelError(
            f"{path} holds no state dict",
            given="an empty one" if isinstance(value, Mapping) else type(value).__name__,
            expected="names with their tensors",
            fix=_SAVE_AGAIN,
        )
    others = [str(key) for key, item in value.items() if not isinstance(key, str) or not _is_plain(item)]
    if others:
        raise ModelError(
            f"{path} holds more than plain tensors",
            given=f"{len(others)} other entries: {', '.join(others[:5])}",
            expected="names with their tensors",
            fix=_SAVE_AGAIN,
        )
    return dict(value), notices


def _is_plain(item: object) -> bool:
    """A dense tensor with its numbers in memory: not sparse, quantised, or on the meta device."""
    if not isinstance(item, Tensor):
        return False
    return item.layout is torch.strided and not item.is_quantized and item.device.type == "cpu"

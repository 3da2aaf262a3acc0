"""Files that ship: written under another name, loaded again, compared with their model, and only then kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from torch import Tensor, nn

from tutelage.compress.quantise import unquantised
from tutelage.errors import InputError, nearest
from tutelage.export.aot import open_aot, write_aot
from tutelage.export.executorch import open_executorch, write_executorch
from tutelage.export.facts import Facts, Runner
from tutelage.export.onnx import open_onnx, write_onnx
from tutelage.export.openvino import open_openvino, write_openvino, write_openvino_int8
from tutelage.export.parity import LEAST, Parity, compare, gate
from tutelage.export.plain import open_plain, write_plain
from tutelage.export.program import open_program, write_program
from tutelage.export.quantised import write_int8
from tutelage.files import sha256, sync_folder

__all__ = ["FORMATS", "Artifact", "Format", "check_formats", "export_model", "format_of", "open_artifact"]


_Write = Callable[[nn.Module, Facts, Tensor, Path], None]


@final
@dataclass(frozen=True, slots=True)
class Format:
    """One kind of file.

    Args:
        line: what it is, for lists.
        suffix: of its file.
        exact: whether it computes with the model's own numbers.
        write: (module, facts, real examples, path) → the file.
        open: (path, threads) → something to ask.
        unpacks: whether reading it may run code that it holds, so that only trusted files may be read.
        learned: whether it keeps the ranges of a module that learned with rounding; others get its float weights.
    """

    line: str
    suffix: str
    exact: bool
    write: _Write
    open: Callable[..., Runner]
    unpacks: bool = False
    learned: bool = False


def _floats(write: _Write) -> _Write:
    """Of a module that learned with rounding the float weights."""
    return lambda module, facts, inputs, path: write(unquantised(module), facts, inputs, path)


FORMATS: Mapping[str, Format] = {
    "safetensors": Format(
        "weights with the facts that build the net", ".safetensors", True, _floats(write_plain), open_plain
    ),
    "onnx": Format("ONNX with a free batch size, in float32", ".onnx", True, _floats(write_onnx), open_onnx),
    "onnx-int8": Format(
        "ONNX in 8 bits, ranges from real examples", ".int8.onnx", False, write_int8, open_onnx, learned=True
    ),
    "torch": Format("a program of torch.export", ".pt2", True, _floats(write_program), open_program, True),
    "aot": Format("compiled for one kind of processor", ".aoti.pt2", True, _floats(write_aot), open_aot, True),
    "executorch": Format(
        "a program for phones and small boards", ".pte", True, _floats(write_executorch), open_executorch
    ),
    "openvino": Format("OpenVINO's graph and weights", ".openvino.zip", True, _floats(write_openvino), open_openvino),
    "openvino-int8": Format(
        "OpenVINO in 8 bits by NNCF", ".int8.openvino.zip", False, _floats(write_openvino_int8), open_openvino
    ),
}


@final
@dataclass(frozen=True, slots=True)
class Artifact:
    """A file that was written and found to answer as its model does."""

    path: Path
    format: str
    bytes: int
    sha256: str
    parity: Parity


def check_formats(names: Iterable[str], *, where: str | None = None) -> None:
    """Refuse formats that there are none of.

    Raises:
        InputError: one is unknown.
    """
    for name in names:
        if name not in FORMATS:
            raise InputError(f"no format `{name}`", where=where, fix=nearest(name, FORMATS))


def format_of(path: Path) -> str | None:
    """The format of a file by the end of its name, the longest that fits; None where none does."""
    fitting = [name for name, form in FORMATS.items() if path.name.endswith(form.suffix)]
    return max(fitting, key=lambda name: len(FORMATS[name].suffix), default=None)


def export_model(
    module: nn.Module,
    facts: Facts,
    path: Path,
    *,
    how: str,
    calibration: Tensor,
    inputs: Tensor,
    targets: Tensor | None = None,
    max_drop: float | None = None,
) -> Artifact:
    """Write a model in a format, load the file, and keep it if it answers as the model does.

    Args:
        module: maps (B, …) in [0, 1], or int64 tokens (B, L), to logits (B, C).
        facts: what travels inside.
        path: of the file; one that is there is replaced when the new one is found good.
        how: a key of `FORMATS`.
        calibration: (N, …) real examples for ranges of activations, not those it is judged by.
        inputs: (256 or more, …) real examples to compare by.
        targets: their labels.
        max_drop: the accuracy that the file may lose, as a share.

    Raises:
        InputError: no such format, or too few examples.
        GateError: the file answers otherwise; it is not kept.
        ModelError, MissingExtraError: it cannot be written at all.
    """
    check_formats([how])
    if len(inputs) < LEAST:
        raise InputError(
            "too few examples to compare a file with its model by", given=len(inputs), expected=f"{LEAST} or more"
        )
    form = FORMATS[how]
    module = module if form.learned else unquantised(module)
    # A folder of its own, since writers and readers go by the file's ending; a run sweeps what a killed one left.
    place = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    place.mkdir(parents=True, exist_ok=True)
    trial = place / path.name
    try:
        form.write(module, facts, calibration, trial)
        parity = compare(module, form.open(trial), inputs, targets, facts)
        gate(parity, exact=form.exact, max_drop=max_drop, what=path.name)
        trial.replace(path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return Artifact(path, how, path.stat().st_size, sha256(path), parity)


def open_artifact(path: Path | str, *, threads: int | None = None, trust: bool = False) -> Runner:
    """Load a file that `export_model` wrote, of whichever format.

    Args:
        path: the file.
        threads: of the runtime; None leaves its own choice.
        trust: whether a file may run code that it holds, which reading a torch program may do.

    Raises:
        InputError: no such file, a suffix of no format, or one that needs trust.
        DamagedError, ModelError: it is not what its suffix says.
        MissingExtraError: its runtime is not installed.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(f"no file {path}", expected="a file that `tutelage export` wrote")
    how = format_of(path)
    if how is not None:
        if FORMATS[how].unpacks and not trust:
            raise InputError(
                f"reading {path.name} may run code that it holds", expected="a file from somebody you trust",
                fix="add --trust (trust=True in Python), or export it as onnx, which holds none",
            )  # fmt: skip
        return FORMATS[how].open(path, threads=threads)
    suffixes = ", ".join(dict.fromkeys(form.suffix for form in FORMATS.values()))
    raise InputError(f"{path} is of no format that can be asked", expected=f"a file ending in {suffixes}")

"""Weights: a file fits completely or leaves the module untouched, and reading it never runs anything."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from tutelage.errors import DamagedError, ModelError, TutelageError
from tutelage.models import Classifier, ModelSpec, build, load_weights, save_weights, state_digest, weights_as_bytes

SHAPE = (1, 8, 8)


def make(classes: int = 10, **args: object) -> Classifier:
    return build(ModelSpec("cnn", {"width": 4, **args}), input_shape=SHAPE, classes=classes, mean=[0.3], std=[0.35])


@pytest.fixture
def model() -> Classifier:
    torch.manual_seed(3)
    return make()


def refuse(path: Path, error: type[TutelageError], *words: str) -> None:
    """The file is refused with these words, and the module is as it was."""
    module = make()
    before = state_digest(module)
    with pytest.raises(error) as caught:
        load_weights(module, path)
    assert type(caught.value) is error
    assert [word for word in words if word not in str(caught.value)] == []
    assert len(str(caught.value).splitlines()) <= 6
    assert state_digest(module) == before


# There and back


def test_saved_weights_come_back_bit_for_bit(model: Classifier, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "student.safetensors"
    save_weights(model, path)
    other = make()
    assert state_digest(other) != state_digest(model)
    assert load_weights(other, path) == []
    assert state_digest(other) == state_digest(model)
    assert [p.name for p in path.parent.iterdir()] == ["student.safetensors"]


def test_the_bytes_of_a_model_do_not_depend_on_layout_or_process(model: Classifier) -> None:
    plain = weights_as_bytes(model)
    digest = state_digest(model)
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    assert weights_as_bytes(model) == plain
    assert state_digest(model) == digest
    code = (
        "import sys, torch; from torch import nn; from tutelage.models import weights_as_bytes; torch.manual_seed(0); "
        "sys.stdout.buffer.write(weights_as_bytes(nn.Linear(3, 2)))"
    )
    torch.manual_seed(0)
    here = weights_as_bytes(nn.Linear(3, 2))
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    there = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=environment)
    assert there.stdout == here


def test_tied_weights_are_written_for_each_of_their_names(tmp_path: Path) -> None:
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    save_weights(tied, tmp_path / "tied.safetensors")
    other = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    assert load_weights(other, tmp_path / "tied.safetensors") == []
    assert torch.equal(other[0].weight, other[1].weight)


def test_the_digest_sees_every_kind_of_change(model: Classifier) -> None:
    digests = {state_digest(model)}
    with torch.no_grad():
        model.get_parameter("net.head.bias")[0] += 1e-7
    digests.add(state_digest(model))
    model.get_buffer("net.stages.0.1.running_mean")[0] += 1e-7
    digests.add(state_digest(model))
    model.get_buffer("net.stages.0.1.num_batches_tracked").add_(1)
    digests.add(state_digest(model))
    digests.add(state_digest(model.half()))
    assert len(digests) == 5
    assert state_digest(nn.Linear(2, 3, bias=False)) != state_digest(nn.Linear(3, 2, bias=False))


# Files of others that fit


Dict = dict[str, Any]


@pytest.mark.parametrize(
    ("change", "notices"),
    [
        (lambda sd: sd, []),
        (lambda sd: {f"module.{k}": v for k, v in sd.items()}, ["took the prefix `module.` off"]),
        (lambda sd: {f"_orig_mod.{k}": v for k, v in sd.items()}, ["took the prefix `_orig_mod.` off"]),
        (lambda sd: {k.replace("net.", "net._orig_mod."): v for k, v in sd.items()}, ["`_orig_mod.`"]),
        (
            lambda sd: {"epoch": 3, "state_dict": {f"model.{k}": v for k, v in sd.items()}},
            ["took the weights from `state_dict`, not epoch", "took the prefix `model.` off"],
        ),
        (lambda sd: {"model_state_dict": sd, "optimizer": {}}, ["from `model_state_dict`, not optimizer"]),
        (
            lambda sd: {f"module.{k.removeprefix('net.')}": v for k, v in sd.items() if k.startswith("net.")},
            ["took the prefix `module.` off", "the file holds no normalise.mean, normalise.std; left as they were"],
        ),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_wrappings_are_taken_off_with_a_notice(
    model: Classifier, tmp_path: Path, change: Callable[[Dict], Dict], notices: list[str], zipped: bool
) -> None:
    torch.save(change(dict(model.state_dict())), tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    other = make()
    said = load_weights(other, tmp_path / "w.pt")
    assert state_digest(other) == state_digest(model)
    assert len(said) == len(notices)
    assert all(notice in line for notice, line in zip(notices, said, strict=True))


def test_a_module_whose_own_names_begin_so_keeps_them(tmp_path: Path) -> None:
    own = nn.ModuleDict({"model": nn.Linear(2, 2)})
    save_weights(own, tmp_path / "w.safetensors")
    assert load_weights(nn.ModuleDict({"model": nn.Linear(2, 2)}), tmp_path / "w.safetensors") == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_turned_into_that_of_the_module(
    model: Classifier, tmp_path: Path, dtype: torch.dtype
) -> None:
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in model.state_dict().items()}
    (tmp_path / "w.safetensors").write_bytes(save(state))
    other = make()
    said = load_weights(other, tmp_path / "w.safetensors")
    assert said == [f"weights stored as {str(dtype).removeprefix('torch.')} were turned into float32"]
    assert all(p.dtype == torch.float32 for p in other.parameters())
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0.01, atol=0.01)


def test_weights_bring_their_own_scaling_and_say_so(model: Classifier, tmp_path: Path) -> None:
    save_weights(model, tmp_path / "w.safetensors")
    spec = ModelSpec("cnn", {"width": 4}, tmp_path / "w.safetensors")
    other = build(spec, input_shape=SHAPE, classes=10, mean=[0.9], std=[0.1], role="teacher")
    assert state_digest(other) == state_digest(model)
    assert other.notices == ["teacher: inputs are scaled as they were for these weights, not as this data would be"]


# Files that do not fit


def test_weights_of_another_model_are_counted(model: Classifier, tmp_path: Path) -> None:
    state = {k: v for k, v in model.state_dict().items() if "stages.2" not in k}
    state |= {f"extra.{i}": torch.zeros(1) for i in range(7)}
    (tmp_path / "w.safetensors").write_bytes(save(state))
    refuse(
        tmp_path / "w.safetensors",
        ModelError,
        "12 of 40 names missing, 7 unexpected",
        "extra.0, extra.1, extra.2, extra.3, extra.4, …",
        "net.stages.2.0.weight, net.stages.2.1.weight",
    )
    (tmp_path / "v.safetensors").write_bytes(weights_as_bytes(make(width=5)))
    refuse(tmp_path / "v.safetensors", ModelError, "shapes differ", "(5, 1, 3, 3)", "(4, 1, 3, 3)")


def test_another_number_of_classes_is_recognised(tmp_path: Path) -> None:
    save_weights(make(classes=100), tmp_path / "w.safetensors")
    refuse(tmp_path / "w.safetensors", ModelError, "the weights have 100 classes, the data has 10")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_damage(model: Classifier, tmp_path: Path, value: float) -> None:
    with torch.no_grad():
        model.get_parameter("net.head.weight")[0, 0] = value
    save_weights(model, tmp_path / "w.safetensors")
    refuse(tmp_path / "w.safetensors", DamagedError, "NaN or infinity in 1 of 40 tensors: net.head.weight")


def test_overflow_in_the_cast_is_damage_too(model: Classifier, tmp_path: Path) -> None:
    state = {k: v.double() * 1e300 if k == "net.head.bias" else v for k, v in model.state_dict().items()}
    (tmp_path / "w.safetensors").write_bytes(save(state))
    refuse(tmp_path / "w.safetensors", DamagedError, "not finite")


def test_quantised_and_sparse_tensors_are_no_weights(model: Classifier, tmp_path: Path) -> None:
    state = dict(model.state_dict())
    integers = {k: v.to(torch.int8) if k == "net.head.weight" else v for k, v in state.items()}
    (tmp_path / "w.safetensors").write_bytes(save(integers))
    refuse(tmp_path / "w.safetensors", ModelError, "another kind of number", "int8", "float32")
    sparse = {k: v.to_sparse() if k == "net.head.weight" else v for k, v in state.items()}
    torch.save(sparse, tmp_path / "w.pt")
    refuse(tmp_path / "w.pt", ModelError, "more than plain tensors", "net.head.weight")


def test_a_tensor_that_claims_to_be_vast_is_never_made(model: Classifier, tmp_path: Path) -> None:
    torch.save({k: torch.zeros(1).expand(10**7, 10**7) for k in model.state_dict()}, tmp_path / "w.pt")
    refuse(tmp_path / "w.pt", ModelError, "40 of 40 shapes differ")


# Files that are not what they claim to be


def test_no_file_a_folder_or_nothing_in_it(tmp_path: Path) -> None:
    refuse(tmp_path / "no.pt", ModelError, "there is no file")
    refuse(tmp_path, ModelError, "is a folder")
    (tmp_path / "w.pt").write_bytes(b"")
    refuse(tmp_path / "w.pt", DamagedError, "is empty")
    refuse(tmp_path, ModelError, f"name the file: {tmp_path / 'w.pt'}")
    (tmp_path / "config.json").write_text("{}")
    refuse(tmp_path, ModelError, f"hf:{tmp_path}")


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 123456\n"


@pytest.mark.parametrize(
    ("name", "data", "error", "words"),
    [
        ("w.safetensors", LFS, DamagedError, [f"{len(LFS)}-byte git-LFS pointer", "git lfs pull"]),
        ("w.pt", b"\n<!DOCTYPE html><title>Log in</title>", DamagedError, ["web page"]),
        ("w.safetensors", b"<html><body>404", DamagedError, ["web page"]),
        ("w.safetensors", (2**63).to_bytes(8, "little") + b"{}", DamagedError, ["header would be", "TiB"]),
        ("w.safetensors", (10**6).to_bytes(8, "little") + b"{}", DamagedError, ["10 B, its header promises 976.6 KiB"]),
        ("w.safetensors", (9).to_bytes(8, "little") + b"not json!", DamagedError, ["header of", "cannot be read"]),
        ("w.safetensors", (90000).to_bytes(8, "little") + b"[" * 90000, DamagedError, ["cannot be read"]),
        ("w.safetensors", (7).to_bytes(8, "little") + b'{"a":1}', DamagedError, ["cannot be read"]),
        ("w.safetensors", b"abc", DamagedError, ["a file of 3 B"]),
        ("w.pt", bytes(5000), DamagedError, ["holds zeros"]),
        ("w.pt", b"PK\x03\x04 and no more", DamagedError, ["is torn"]),
        ("w.h5", b"\x89HDF\r\n\x1a\n" + bytes(99), ModelError, ["unknown kind", "safetensors"]),
    ],
)
def test_what_a_file_really_is_is_said(
    tmp_path: Path, name: str, data: bytes, error: type[TutelageError], words: list[str]
) -> None:
    (tmp_path / name).write_bytes(data)
    refuse(tmp_path / name, error, *words)


def test_an_incomplete_copy_is_measured(model: Classifier, tmp_path: Path) -> None:
    data = weights_as_bytes(model)
    (tmp_path / "w.safetensors").write_bytes(data[:-1])
    refuse(
        tmp_path / "w.safetensors", DamagedError, "incomplete copy?", f"{len(data) - 1:,} bytes", f"{len(data):,} bytes"
    )
    (tmp_path / "w.safetensors").write_bytes(data + b"x")
    refuse(tmp_path / "w.safetensors", DamagedError, "added at its end")


def torch_bytes(value: object, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_a_file_cut_anywhere_is_an_error_of_ours(model: Classifier, tmp_path: Path, kind: str) -> None:
    whole = weights_as_bytes(model) if kind == "safetensors" else torch_bytes(model.state_dict(), kind == "zip")
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pt")
    module = make()
    before = state_digest(module)
    for part in range(40):
        path.write_bytes(whole[: len(whole) * part // 40])
        with pytest.raises(DamagedError):
            load_weights(module, path)
    assert state_digest(module) == before


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_a_file_with_wrong_bytes_anywhere_is_an_error_of_ours_or_harmless(tmp_path: Path, kind: str) -> None:
    model = build(ModelSpec("cnn", {"width": 2}), input_shape=SHAPE, classes=10, mean=[0.3], std=[0.35])
    whole = weights_as_bytes(model) if kind == "safetensors" else torch_bytes(model.state_dict(), kind == "zip")
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        data = bytearray(whole)
        # Of safetensors the header: no format without checksums can tell one weight from another.
        for place in random.integers(0, 3000 if kind == "safetensors" else len(data), size=2):
            data[place] ^= int(random.integers(1, 256))
        (tmp_path / "w").write_bytes(data)
        try:
            load_weights(model, tmp_path / "w")
        except TutelageError:
            refused += 1
    assert refused > 100


def test_a_flipped_bit_in_a_torch_file_is_found(model: Classifier, tmp_path: Path) -> None:
    whole = bytearray(torch_bytes(model.state_dict()))
    weight = model.get_parameter("net.head.weight").detach().numpy().tobytes()
    whole[whole.index(weight) + 1] ^= 1
    (tmp_path / "w.pt").write_bytes(whole)
    refuse(tmp_path / "w.pt", DamagedError, "checksum")


def test_an_archive_that_unpacks_to_more_than_it_holds_is_not_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data.pkl", bytes(50_000_000))
    assert (tmp_path / "w.pt").stat().st_size < 100_000
    refuse(tmp_path / "w.pt", DamagedError, "unpack to more than it holds")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([1, 2], "list"),
        ({}, "an empty one"),
        (torch.zeros(3), "Tensor"),
        ({"epoch": 3, "best": 0.9}, "2 other entries: epoch, best"),
        ({"a": torch.zeros(1), 3: torch.zeros(1)}, "1 other entries: 3"),
        ({"state_dict": {"model": {"state_dict": {"model": {}}}}}, "more than plain tensors"),
    ],
)
def test_a_torch_file_without_a_state_dict_says_what_it_holds(tmp_path: Path, value: object, words: str) -> None:
    torch.save(value, tmp_path / "w.pt")
    refuse(tmp_path / "w.pt", ModelError, words)


# Files that would run code


class Payload:
    """Pickled, it is a call; `reduce` says of what."""

    def __init__(self, *call: object) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], tuple(self.call[1:])


def touch(canary: Path) -> list[Payload]:
    return [
        Payload(os.system, f"touch {canary}"),
        Payload(exec, f"open({str(canary)!r}, 'w')"),
        Payload(open, str(canary), "w"),
        Payload(subprocess.call, ["touch", str(canary)]),
    ]


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("kind", ["zip", "legacy", "hidden", "pickle 2", "pickle 4", "pickle 0", "npy", "npz"])
def test_a_payload_is_refused_and_nothing_runs(tmp_path: Path, kind: str, number: int) -> None:
    canary = tmp_path / "canary"
    payload = touch(canary)[number]
    path = tmp_path / "w.pt"
    if kind in ("zip", "legacy"):
        path.write_bytes(torch_bytes({"state_dict": payload}, kind == "zip"))
    elif kind == "hidden":  # under the other name: the bytes decide
        path = tmp_path / "w.safetensors"
        path.write_bytes(torch_bytes({"a": torch.zeros(2), "b": payload}))
    elif kind.startswith("pickle"):
        path.write_bytes(pickle.dumps(payload, protocol=int(kind[-1])))
    elif kind == "npy":
        with path.open("wb") as file:
            np.save(file, np.array([payload], dtype=object), allow_pickle=True)
    else:
        with path.open("wb") as file:
            np.savez(file, a=np.array([payload], dtype=object))
    refuse(path, ModelError)
    assert not canary.exists()


def test_a_whole_pickled_model_is_refused_with_the_way_out(tmp_path: Path) -> None:
    for zipped in (True, False):
        (tmp_path / "w.pt").write_bytes(torch_bytes(nn.Sequential(nn.Linear(2, 2)), zipped))
        refuse(tmp_path / "w.pt", ModelError, "whole model", "torch.nn.modules", "model.state_dict()")


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore:`torch.jit:FutureWarning")
def test_a_torchscript_program_is_refused(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "w.pt"))
    refuse(tmp_path / "w.pt", ModelError, "TorchScript program")


def test_there_is_no_second_less_careful_attempt(
    model: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    real = torch.load

    def spy(*args: Any, **kwargs: Any) -> Tensor:
        asked.append(kwargs.get("weights_only"))
        value: Tensor = real(*args, **kwargs)
        return value

    monkeypatch.setattr(torch, "load", spy)
    (tmp_path / "w.pt").write_bytes(torch_bytes(touch(tmp_path / "canary")[0]))
    refuse(tmp_path / "w.pt", ModelError, "would run code", "nothing was run", "system")
    torch.save(model.state_dict(), tmp_path / "v.pt")
    load_weights(make(), tmp_path / "v.pt")
    assert asked == [True, True]


@pytest.mark.parametrize("low", [0x80, 0x50])
def test_the_length_of_a_header_is_not_taken_for_another_kind_of_file(low: int, tmp_path: Path) -> None:
    """A header of 0x…80 bytes begins the file as a pickle does, one of 0x4b50 bytes as an archive ("PK")."""

    module = nn.Linear(3, 2)
    wanted = 0x0180 if low == 0x80 else 0x4B50
    state = dict(module.state_dict())
    # Spaces in the metadata make the header as long as it has to be.
    plain = int.from_bytes(save(state, metadata={"pad": ""})[:8], "little")
    data = save(state, metadata={"pad": " " * (wanted - plain)})
    assert int.from_bytes(data[:8], "little") == wanted
    (tmp_path / "weights.safetensors").write_bytes(data)
    other = nn.Linear(3, 2)
    assert load_weights(other, tmp_path / "weights.safetensors") == []
    assert torch.equal(other.weight, module.weight)

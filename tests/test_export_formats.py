"""Formats of other runtimes: each is written and asked where its runtime is installed, and named where it is not."""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from tutelage.errors import DamagedError, GateError, InputError, MissingExtraError, ModelError
from tutelage.export import FORMATS, Facts, export_model, format_of, open_artifact
from tutelage.export import artifacts as room
from tutelage.models import ModelSpec, build

SHAPE = (1, 8, 8)
FACTS = Facts(("ant", 'b"ée', "cat", "dog"), SHAPE, "cnn", {"width": 4, "depth": 2}, (0.4,), (0.3,), "pets")
X = torch.rand(300, *SHAPE, generator=torch.Generator().manual_seed(1))
openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="the extra `openvino` is not installed")
executorch = pytest.mark.skipif(find_spec("executorch") is None, reason="the extra `executorch` is not installed")
compiled = pytest.mark.skipif(
    "TUTELAGE_TEST_COMPILED" not in os.environ, reason="compiling takes half a minute; set TUTELAGE_TEST_COMPILED=1"
)


def made(name: str, **args: int) -> nn.Module:
    torch.manual_seed(3)
    net = build(ModelSpec(name, args, None), input_shape=SHAPE, classes=4, mean=[0.4], std=[0.3])
    target = (X.mean((1, 2, 3)) * 40).long() % 4
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for _ in range(10):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(X[:64]), target[:64]).backward()
        optimizer.step()
    return net.eval()


CNN = made("cnn", width=4, depth=2)


def answers(module: nn.Module = CNN) -> NDArray[np.float32]:
    with torch.no_grad():
        return np.asarray(module(X).numpy())


def export(path: Path, how: str, module: nn.Module = CNN) -> Any:
    return export_model(module, FACTS, path, how=how, calibration=X[:64], inputs=X)


def check_exact(how: str, home: Path) -> Path:
    path = home / f"a{FORMATS[how].suffix}"
    found = export(path, how)
    assert found.parity.agreement == 1.0
    assert [one.name for one in home.iterdir()] == [path.name]
    runner = open_artifact(path, threads=1, trust=True)
    assert runner.facts == FACTS
    first = runner(X[:7].numpy())
    kept = first.copy()
    runner(X[7:14].numpy())
    np.testing.assert_array_equal(first, kept)  # an answer is the caller's own
    for size in (1, 2, 33, 300):
        np.testing.assert_allclose(runner(X[:size].numpy()), answers()[:size], rtol=1e-4, atol=1e-4)
    return path


# ---- OpenVINO --------------------------------------------------------------------------------------------------------


@openvino
def test_openvino_answers_as_its_model_does(tmp_path: Path) -> None:
    path = check_exact("openvino", tmp_path)
    before = path.read_bytes()
    export(path, "openvino")
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["model.xml", "model.bin", "tutelage.json"]
    assert abs(len(before) - path.stat().st_size) < 0.05 * len(before)


@openvino
@pytest.mark.skipif(find_spec("nncf") is None, reason="NNCF of the extra `openvino` is not installed")
@pytest.mark.parametrize(("name", "args"), [("cnn", {"width": 4, "depth": 2}), ("transformer", {"width": 16})])
def test_openvino_in_eight_bits_is_near_at_every_batch_size(name: str, args: dict[str, int], tmp_path: Path) -> None:
    module = made(name, **args)
    plain = export(tmp_path / "a.openvino.zip", "openvino", module)
    small = export(tmp_path / "a.int8.openvino.zip", "openvino-int8", module)
    assert small.bytes < plain.bytes
    assert small.parity.alike > 0.98
    assert small.parity.difference > 0


def test_eight_bits_that_go_by_the_batch_are_not_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As a transformer by NNCF with SmoothQuant: right alone and in full batches, wrong in rows of some sizes."""

    class Runner:
        facts = FACTS

        def __call__(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
            with torch.no_grad():
                found = CNN(torch.from_numpy(inputs)).numpy()
            if len(inputs) == 7:
                found[3:] = np.roll(found[3:], 1, axis=-1)
            return np.asarray(found)

    def write(module: nn.Module, facts: Facts, inputs: torch.Tensor, path: Path) -> None:
        path.write_bytes(b"x")

    form = room.Format("wrong", ".int8.openvino.zip", False, write, lambda path, threads=None: Runner())
    monkeypatch.setattr(room, "FORMATS", {"openvino-int8": form})
    with pytest.raises(GateError, match="an example's class depends on the batch it comes in"):
        export(tmp_path / "a.int8.openvino.zip", "openvino-int8")
    assert not list(tmp_path.iterdir())


@openvino
@pytest.mark.parametrize("damage", ["text", "no-facts", "cut"])
def test_what_is_no_such_archive_is_told_apart(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "a.openvino.zip"
    path.write_bytes(b"not an archive")
    if damage != "text":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("model.xml", "<net" if damage == "cut" else "<net/>")
            archive.writestr("model.bin", b"")
            if damage == "cut":
                archive.writestr("tutelage.json", FACTS.to_text())
    with pytest.raises(DamagedError, match="no archive of an OpenVINO model"):
        open_artifact(path)


@pytest.mark.parametrize("how", ["openvino", "openvino-int8"])
def test_without_openvino_the_extra_is_named(how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(MissingExtraError, match=r"tutelage\[openvino\]"):
        export(tmp_path / f"a{FORMATS[how].suffix}", how)
    path = tmp_path / f"b{FORMATS[how].suffix}"
    path.write_bytes(b"x")
    with pytest.raises(MissingExtraError, match=r"tutelage\[openvino\]"):
        open_artifact(path)
    assert "CI" not in os.environ, "the environment is as it was"


# ---- ExecuTorch ------------------------------------------------------------------------------------------------------


@executorch
@pytest.mark.parametrize("name", ["cnn", "transformer"])
def test_executorch_answers_as_its_model_does(name: str, tmp_path: Path) -> None:
    if name == "cnn":
        check_exact("executorch", tmp_path)
        return
    module = made("transformer", width=8, depth=1, patch=4)
    export(tmp_path / "t.pte", "executorch", module)
    found = open_artifact(tmp_path / "t.pte")(X.numpy())
    np.testing.assert_allclose(found, answers(module), rtol=1e-4, atol=1e-4)


@executorch
def test_a_damaged_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pte").write_bytes(b"no program" * 100)
    with pytest.raises(DamagedError, match="no ExecuTorch program of ours"):
        open_artifact(tmp_path / "a.pte")


def test_without_executorch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("executorch", "executorch.exir", "executorch.runtime"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"tutelage\[executorch\]"):
        export(tmp_path / "a.pte", "executorch")
    (tmp_path / "b.pte").write_bytes(b"x")
    with pytest.raises(MissingExtraError, match=r"tutelage\[executorch\]"):
        open_artifact(tmp_path / "b.pte")


# ---- compiled --------------------------------------------------------------------------------------------------------


@compiled
def test_compiled_code_answers_as_its_model_does(tmp_path: Path) -> None:
    path = check_exact("aot", tmp_path)
    with pytest.raises(InputError, match="may run code that it holds"):
        open_artifact(path)


def test_without_a_compiler_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    builder = pytest.importorskip("torch._inductor.cpp_builder")

    def nothing() -> str:
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(builder, "get_cpp_compiler", nothing)
    with pytest.raises(ModelError, match="needs a C\\+\\+ compiler") as told:
        export(tmp_path / "a.aoti.pt2", "aot")
    assert "CXX" in str(told.value.problem.fix)
    assert not list(tmp_path.iterdir())


def test_what_is_no_package_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.aoti.pt2"
    path.write_bytes(b"not a package")
    assert format_of(path) == "aot"
    with pytest.raises(DamagedError, match="no package of AOTInductor"):
        open_artifact(path, trust=True)


def test_every_format_has_an_ending_of_its_own() -> None:
    endings: Callable[[str], Path] = lambda how: Path(f"student{FORMATS[how].suffix}")  # noqa: E731
    assert {how: format_of(endings(how)) for how in FORMATS} == {how: how for how in FORMATS}

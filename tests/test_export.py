"""Files that ship: they answer as their model does or are not kept, and what is no such file is told apart."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tutelage.errors import DamagedError, GateError, InputError, MissingExtraError, ModelError
from tutelage.export import FORMATS, Facts, RunnerModule, export_model, format_of, open_artifact
from tutelage.export.facts import KEY
from tutelage.export.parity import compare, gate
from tutelage.models import ModelSpec, build

SHAPE, CLASSES = (1, 8, 8), ("ant", "bee", "cat", "dog")
FACTS = Facts(CLASSES, SHAPE, "mlp", {"width": 12, "depth": 1}, (0.4,), (0.3,), "pets")
X = torch.rand(300, *SHAPE, generator=torch.Generator().manual_seed(1))
SUFFIXES = {"onnx": "a.onnx", "onnx-int8": "a.int8.onnx", "safetensors": "a.safetensors", "torch": "a.pt2"}


def net() -> nn.Module:
    """An MLP whose answers differ enough from one another that eight bits do not blur them."""
    torch.manual_seed(3)
    spec = ModelSpec("mlp", {"width": 12, "depth": 1}, None)
    made = build(spec, input_shape=SHAPE, classes=len(CLASSES), mean=[0.4], std=[0.3])
    with torch.no_grad():
        for value in made.parameters():
            value.mul_(2.0)
    return made.eval()


NET = net()


def answers(inputs: Tensor) -> NDArray[np.float32]:
    with torch.no_grad():
        return NET(inputs).numpy()


def export(path: Path, how: str, **more: Any) -> Any:
    given = {"calibration": X[:64], "inputs": X, "targets": torch.from_numpy(answers(X).argmax(-1))} | more
    return export_model(NET, FACTS, path, how=how, **given)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("files")
    for how, name in SUFFIXES.items():
        made = export(home / name, how)
        assert made.bytes == (home / name).stat().st_size
        assert made.parity.model_accuracy == 1.0
    return {how: home / name for how, name in SUFFIXES.items()}


# ---- a file and its model --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [how for how in SUFFIXES if how != "onnx-int8"])
def test_an_exact_file_has_its_models_answers_at_every_batch_size(files: dict[str, Path], how: str) -> None:
    runner = open_artifact(files[how], threads=1, trust=True)
    assert runner.facts == FACTS
    for size in (1, 2, 5, 33):
        found = runner(X[:size].numpy())
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, answers(X[:size]), rtol=1e-4, atol=1e-4)


def test_eight_bits_are_near_and_smaller(files: dict[str, Path]) -> None:
    found = open_artifact(files["onnx-int8"])(X.numpy())
    assert 0 < np.abs(found - answers(X)).max() < 0.1 * answers(X).std()
    kinds = {one.data_type for one in onnx.load(str(files["onnx-int8"])).graph.initializer if len(one.dims) == 2}
    assert kinds == {onnx.TensorProto.INT8}


def test_nothing_but_the_files_is_left(files: dict[str, Path]) -> None:
    home = files["onnx"].parent
    assert {path.name for path in home.iterdir()} == set(SUFFIXES.values())
    assert {how: format_of(path) for how, path in files.items()} == {how: how for how in SUFFIXES}
    assert format_of(Path("model.bin")) is None


def test_the_same_model_gives_the_same_bytes(files: dict[str, Path], tmp_path: Path) -> None:
    for how in ("onnx", "onnx-int8"):
        export(tmp_path / SUFFIXES[how], how)
        assert (tmp_path / SUFFIXES[how]).read_bytes() == files[how].read_bytes()


def test_a_program_of_another_language_finds_what_it_needs(files: dict[str, Path]) -> None:
    model = onnx.load(str(files["onnx"]))
    told = json.loads({one.key: one.value for one in model.metadata_props}[KEY])
    assert (told["classes"], told["input_shape"]) == (list(CLASSES), list(SHAPE))
    assert "grey, 8×8" in told["preprocessing"]
    assert [one.name for one in model.graph.input] == [told["input"]]
    assert [one.name for one in model.graph.output] == [told["output"]]


def test_a_runner_can_be_asked_like_a_module(files: dict[str, Path]) -> None:
    module = RunnerModule(open_artifact(files["onnx"]))
    with torch.inference_mode():
        np.testing.assert_allclose(module(X[:3]).numpy(), answers(X[:3]), rtol=1e-4, atol=1e-4)
    assert not list(module.parameters())
    assert not module.training


# ---- parity ----------------------------------------------------------------------------------------------------------


class Fake:
    """A runner that may answer otherwise at some batch sizes."""

    facts = FACTS

    def __init__(self, change: Callable[[NDArray[np.float32], int], NDArray[np.float32]]) -> None:
        self.change = change

    def __call__(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.change(answers(torch.from_numpy(inputs)), len(inputs))


def test_parity_is_what_an_independent_count_finds() -> None:
    noise = np.random.default_rng(0).normal(0.0, 0.4, answers(X).shape).astype(np.float32)
    row = {x.tobytes(): number for number, x in enumerate(X.numpy())}

    class Noisy:
        facts = FACTS

        def __call__(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
            rows = [row[one.tobytes()] for one in inputs]
            return answers(X)[rows] + noise[rows] * (len(inputs) == 7)

    labels = torch.arange(300) % 4
    found = compare(NET, Noisy(), X, labels)
    plain, sevens = answers(X), answers(X) + noise * (np.arange(300) < 294)[:, None]  # 300 = 42 · 7 + 6
    same = sum(a.argmax() == b.argmax() for a, b in zip(plain, sevens, strict=True)) / 300
    assert found.agreement == found.alike == pytest.approx(same)
    assert same < 1
    assert found.difference == found.between == pytest.approx(np.abs(sevens - plain).max(), rel=1e-5)
    assert found.spread == pytest.approx(plain.std(), rel=1e-5)
    right = [float((one.argmax(-1) == labels.numpy()).mean()) for one in (plain, sevens)]
    assert found.model_accuracy == pytest.approx(right[0])
    assert found.accuracy == pytest.approx(min(right))


def test_a_file_that_is_wrong_in_full_batches_only_is_refused() -> None:
    def shifted(logits: NDArray[np.float32], size: int) -> NDArray[np.float32]:
        return np.roll(logits, 1, axis=-1) if size == 32 else logits

    found = compare(NET, Fake(shifted), X)
    assert found.alike < 0.95
    for exact in (True, False):
        with pytest.raises(GateError, match="depends on the batch it comes in"):
            gate(found, exact=exact, what="a.onnx")


def test_only_quantised_files_may_differ_and_none_may_answer_nonsense() -> None:
    near = compare(NET, Fake(lambda logits, size: logits + np.float32(0.02) * logits.std()), X)
    gate(near, exact=False, what="a.int8.onnx")
    with pytest.raises(GateError, match="logits differ by"):
        gate(near, exact=True, what="a.onnx")
    with pytest.raises(GateError, match="not finite"):
        gate(compare(NET, Fake(lambda logits, size: logits * np.float32(np.nan)), X), exact=False, what="a.onnx")


def test_a_drop_of_accuracy_is_held_against_what_is_allowed() -> None:
    labels = torch.from_numpy(answers(X).argmax(-1))
    row = X[0].numpy()

    class OneWrong:
        facts = FACTS

        def __call__(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
            found = answers(torch.from_numpy(inputs))
            found[[np.array_equal(one, row) for one in inputs]] *= -1
            return found

    found = compare(NET, OneWrong(), X, labels)
    assert found.accuracy == pytest.approx(299 / 300)
    gate(found, exact=False, max_drop=0.004, what="a")
    with pytest.raises(GateError, match=r"accuracy falls by 0.33%, more than the 0.30% that --max-drop allows"):
        gate(found, exact=False, max_drop=0.003, what="a")


# ---- what is not kept ------------------------------------------------------------------------------------------------


def test_a_file_of_another_model_is_not_kept_and_the_old_one_stays(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(files["safetensors"].read_bytes())
    before, form = path.read_bytes(), FORMATS["safetensors"]

    def altered(module: nn.Module, facts: Facts, inputs: Tensor, target: Path) -> None:
        other = net()
        with torch.no_grad():
            next(reversed(list(other.parameters()))).add_(torch.tensor([0.5, 0.0, 0.0, 0.0]))
        form.write(other, facts, inputs, target)

    monkeypatch.setitem(FORMATS, "safetensors", replace(form, write=altered))  # type: ignore[misc]
    with pytest.raises(GateError, match=r"a.safetensors does not answer as its model does") as error:
        export(path, "safetensors")
    assert error.value.exit_code == 4
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_writer_that_fails_halfway_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def torn(module: nn.Module, facts: Facts, inputs: Tensor, target: Path) -> None:
        target.write_bytes(b"half")
        raise ModelError("cannot")

    monkeypatch.setitem(FORMATS, "onnx", replace(FORMATS["onnx"], write=torn))  # type: ignore[misc]
    with pytest.raises(ModelError, match="cannot"):
        export(tmp_path / "new" / "a.onnx", "onnx")
    assert list((tmp_path / "new").iterdir()) == []


class Branching(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        flat = inputs.flatten(1)[:, :4]
        return flat if float(flat.sum()) > 0 else -flat


@pytest.mark.parametrize("how", ["onnx", "torch"])
def test_what_cannot_be_traced_is_said(tmp_path: Path, how: str) -> None:
    with pytest.raises(ModelError, match="torch cannot") as error:
        export_model(Branching(), FACTS, tmp_path / SUFFIXES[how], how=how, calibration=X, inputs=X)
    assert "depends on values" in str(error.value.problem.fix)
    assert list(tmp_path.iterdir()) == []


def test_weights_alone_are_of_no_use_where_only_the_caller_can_build(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="code outside tutelage"):
        export_model(
            NET, replace(FACTS, model=None), tmp_path / "a.safetensors", how="safetensors", calibration=X, inputs=X
        )


def test_too_few_examples_and_unknown_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="too few examples"):
        export(tmp_path / "a.onnx", "onnx", inputs=X[:255])
    with pytest.raises(InputError, match="did you mean `onnx`"):
        export(tmp_path / "a.onnx", "onxx")


# ---- what is no such file --------------------------------------------------------------------------------------------


@pytest.fixture
def model(files: dict[str, Path]) -> Iterator[Any]:
    return onnx.load(str(files["onnx"]))


@pytest.mark.parametrize(
    "hurt",
    [
        lambda data: b"",
        lambda data: b"no model at all",
        lambda data: data[: len(data) // 2],
        lambda data: bytes(reversed(data)),
        lambda data: b"\x80\x04cos\nsystem\n(S'true'\ntR.",  # what a pickle would start with
    ],
    ids=["empty", "text", "half", "reversed", "pickle"],
)
@pytest.mark.parametrize("how", ["onnx", "safetensors", "torch"])
def test_a_damaged_file_is_told(
    files: dict[str, Path], tmp_path: Path, how: str, hurt: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / SUFFIXES[how]
    path.write_bytes(hurt(files[how].read_bytes()))
    with pytest.raises(DamagedError) as error:
        open_artifact(path, trust=True)
    assert error.value.exit_code == 5
    assert str(path) in str(error.value)


def test_a_file_may_not_reach_for_others(model: Any, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(4 * 12 * 64))
    (tmp_path / "inner").mkdir()
    weight = next(one for one in model.graph.initializer if len(one.dims) == 2)
    size = len(weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "../secret"), ("offset", "0"), ("length", str(size))):
        weight.external_data.add(key=key, value=value)
    path = tmp_path / "inner" / "a.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(DamagedError, match="no ONNX file that can be run"):
        open_artifact(path)


def test_operators_that_nobody_knows_are_told(model: Any, tmp_path: Path) -> None:
    model.graph.node[-1].op_type, model.graph.node[-1].domain = "Run", "evil.example"
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(DamagedError, match="no ONNX file that can be run"):
        open_artifact(tmp_path / "a.onnx")


def test_a_file_without_facts_or_with_foreign_ones_is_told(model: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    entry = next(one for one in model.metadata_props if one.key == KEY)
    for text in ("[1]", "{}", '{"format": "tutelage.artifact/9"}', entry.value.replace('"classes"', '"names"')):
        entry.value = text
        path.write_bytes(model.SerializeToString())
        with pytest.raises(DamagedError, match="does not say what goes in and what comes out"):
            open_artifact(path)
    del model.metadata_props[:]
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="does not say which classes it knows"):
        open_artifact(path)


def test_what_may_run_code_is_opened_only_where_it_is_trusted(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="may run code") as error:
        open_artifact(files["torch"])
    assert "--trust" in str(error.value.problem.fix)
    with pytest.raises(InputError, match="no file"):
        open_artifact(tmp_path / "none.onnx")
    (tmp_path / "a.bin").write_bytes(b"")
    with pytest.raises(InputError, match="of no format that can be asked"):
        open_artifact(tmp_path / "a.bin")


@pytest.mark.parametrize(("package", "of"), [("onnx", "writing ONNX"), ("onnxruntime", "running ONNX")])
def test_a_package_that_is_missing_is_named_with_its_extra(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, of: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=f"{of} needs the package `{package}`") as error:
        export(tmp_path / "a.onnx", "onnx") if package == "onnx" else open_artifact(files["onnx"])
    assert error.value.problem.fix == "pip install 'tutelage[onnx]'"

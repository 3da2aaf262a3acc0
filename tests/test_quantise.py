"""Students that learn with rounding: what a layer computes, what training sees, and the file that computes the same."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tutelage
from tutelage.compress.quantise import (
    Quantise,
    is_quantised,
    quantise,
    ranges_of,
    requantised,
    row_scales,
    unquantised,
    walk,
    watch,
)
from tutelage.errors import DamagedError, InputError, ModelError, RecipeError
from tutelage.export import Facts, export_model, open_artifact
from tutelage.models import ModelSpec, build, fold_batchnorm
from tutelage.recipe import from_mapping
from tutelage.run import load_student, run_recipe
from tutelage.run.students import as_learned, read_facts
from tutelage.training import Checkpoints

SHAPE = (1, 8, 8)
FACTS = Facts(tuple("abcd"), SHAPE)
X = torch.rand(300, *SHAPE, generator=torch.Generator().manual_seed(1))


def made(name: str = "cnn", how: Quantise | None = None, **args: Any) -> nn.Module:
    torch.manual_seed(3)
    spec = ModelSpec(name, args or {"width": 4, "depth": 2}, None)
    net = build(spec, input_shape=SHAPE, classes=4, mean=[0.4], std=[0.3])
    with torch.no_grad():
        for value in net.parameters():
            value.mul_(1.5)
    return net if how is None else quantise(net, how)


def learn(module: nn.Module, steps: int = 10) -> nn.Module:
    """Learn a rule of brightness, long enough for every stage."""
    target = (X.mean((1, 2, 3)) * 40).long() % 4
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    module.train()
    for step in range(steps):
        walk(module, step / steps)
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(X[:64]), target[:64]).backward()
        optimizer.step()
    return module.eval()


def by_hand(x: Tensor, low: float, high: float) -> np.ndarray[Any, Any]:
    """To the nearest of 256 numbers of a grid that holds 0, in float64."""
    scale = (high - low) / 255
    zero = np.clip(np.round(-low / scale), 0, 255)
    return np.asarray((np.clip(np.round(x.double().numpy() / scale) + zero, 0, 255) - zero) * scale)


# ---- what a layer computes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 4])
def test_a_rounded_layer_is_the_product_of_rounded_numbers(bits: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 3))
    plain = copy.deepcopy(net)
    quantise(net, Quantise(f"int{bits}"))
    x = torch.randn(50, 6)
    watch(net, x)
    low, high = ranges_of(net)["ranges"]["0"]
    assert (low, high) == (pytest.approx(float(x.min())), pytest.approx(float(x.max())))
    weight, most = plain[0].weight.detach().double().numpy(), 2 ** (bits - 1) - 1
    scale = np.abs(weight).max(1, keepdims=True) / most
    expected = by_hand(x, low, high) @ (np.round(weight / scale) * scale).T + plain[0].bias.detach().numpy()
    found = net.eval()(x).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - plain(x).detach().numpy()).max() > 1e-3, "rounding is seen"


def test_codes_of_folded_weights_are_those_of_plain_ones() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 5, 3, bias=False), nn.BatchNorm2d(5)).eval()
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([1.0, -0.3, 0.02, 5.0, -2.0]))
        net[1].running_var.uniform_(0.1, 3.0)
    folded = fold_batchnorm(net)

    def codes(weight: Tensor) -> Tensor:
        return (weight / row_scales(weight, 8).reshape(-1, 1, 1, 1)).round()

    signs = net[1].weight.sign().reshape(-1, 1, 1, 1)
    off = (codes(net[0].weight) * signs - codes(folded[0].weight)).abs()
    assert off.max() <= 1
    assert (off > 0).float().mean() < 0.02, "but for ties"


def test_gradients_pass_straight_through_and_stop_where_numbers_are_cut() -> None:
    net = quantise(nn.Sequential(nn.Linear(2, 1, bias=False)), Quantise(after=0.0))
    net.rounding.walk(0.5)
    net[0].seen.ends.copy_(torch.tensor([0.0, 1.0]))
    net.eval()
    x = torch.tensor([[0.303, 7.0]], requires_grad=True)
    net(x).sum().backward()
    weight = net[0].weight.detach()
    step = float(row_scales(weight, 8))
    assert x.grad is not None
    assert float(x.grad[0, 0]) == pytest.approx(float(weight[0, 0]), abs=step)
    assert float(x.grad[0, 1]) == 0.0
    grid = 1 / 255
    assert net[0].weight.grad is not None
    torch.testing.assert_close(net[0].weight.grad, torch.tensor([[round(0.303 / grid) * grid, 1.0]]))


# ---- what training sees ----------------------------------------------------------------------------------------------


def test_before_its_share_a_student_learns_like_any_other() -> None:
    plain, rounded = made(), made(how=Quantise(after=0.5))
    for net in (plain, rounded):
        net.train()
        net(X[:32]).sum().backward()
    for (name, one), (_, other) in zip(plain.named_parameters(), rounded.named_parameters(), strict=True):
        assert torch.equal(one, other), name
        assert torch.equal(one.grad, other.grad), name  # type: ignore[arg-type]
    walk(rounded, 0.5)
    assert not torch.equal(rounded(X[:32]), plain(X[:32]))


def test_ranges_follow_batches_and_stand_still_at_the_end() -> None:
    net = made(how=Quantise(after=0.2, still=0.6)).train()
    net(X[:32])
    first = ranges_of(net)["ranges"]["net.stages.0.0"]
    inputs = (X[:32] - 0.4) / 0.3
    assert first == [pytest.approx(float(inputs.min())), pytest.approx(float(inputs.max()))]
    net(X[:32] * 3)
    second = ranges_of(net)["ranges"]["net.stages.0.0"]
    most = float((X[:32] * 3 - 0.4).max() / 0.3)
    assert second[1] == pytest.approx(first[1] + 0.01 * (most - first[1]))
    walk(net, 0.6)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.train()(X[32:64] * 9)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    walk(net, 0.3)
    net.train()(X[32:64] * 9)
    assert not torch.equal(before["net.stages.0.1.running_mean"], net.state_dict()["net.stages.0.1.running_mean"])


def test_a_copy_is_a_student_of_its_own() -> None:
    net = made(how=Quantise())
    other = copy.deepcopy(net)
    walk(other, 1.0)
    other.train()(X[:8])
    assert int(net.rounding.stage) == 0  # type: ignore[union-attr,arg-type]
    assert all(end == 0.0 for ends in ranges_of(net)["ranges"].values() for end in ends)


def test_taking_the_rounding_off_gives_the_plain_student() -> None:
    net = learn(made(how=Quantise()))
    plain = unquantised(net)
    assert is_quantised(net)
    assert not is_quantised(plain)
    assert plain.state_dict().keys() == made().state_dict().keys()
    assert [type(one) for one in plain.modules()] == [type(one) for one in made().modules()]
    again = requantised(plain, ranges_of(net))
    assert torch.equal(again(X), net(X))
    assert unquantised(plain) is plain
    assert requantised(plain, None) is plain


# ---- the file --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "how", "args"),
    [
        ("cnn", Quantise(), {"width": 4, "depth": 2}),
        ("cnn", Quantise("int4", "float"), {"width": 4, "depth": 2}),
        ("mlp", Quantise("int4"), {"width": 12, "depth": 1}),
    ],
    ids=["cnn-int8", "cnn-int4-weights", "mlp-int4"],
)
def test_the_file_computes_what_training_saw(name: str, how: Quantise, args: dict[str, Any], tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
    net = learn(made(name, how, **args))
    path = tmp_path / "a.int8.onnx"
    # Ranges of other examples would cut nearly everything off: the file has the learned ones.
    found = export_model(net, FACTS, path, how="onnx-int8", calibration=X[:32] * 0.01, inputs=X)
    assert found.parity.agreement > 0.98
    told, rounded = open_artifact(path, threads=1)(X.numpy()), net(X).detach().numpy()
    typical = np.abs(told - rounded).mean()
    assert typical < 0.1 * np.abs(unquantised(net)(X).detach().numpy() - rounded).mean()
    graph = onnx.load(str(path)).graph
    kinds = {one.data_type for one in graph.initializer if len(one.dims) > 1}
    wanted = onnx.TensorProto.INT8 if how.weights == "int8" else onnx.TensorProto.INT4
    assert wanted in kinds
    pairs = sum(node.op_type == "QuantizeLinear" for node in graph.node)
    assert pairs == (0 if how.activations == "float" else len(ranges_of(net)["ranges"]))


def test_other_formats_hold_the_float_weights(tmp_path: Path) -> None:
    net = learn(made(how=Quantise()))
    made_file = export_model(net, FACTS, tmp_path / "a.pt2", how="torch", calibration=X[:32], inputs=X)
    assert made_file.parity.difference < 1e-4
    told = open_artifact(tmp_path / "a.pt2", threads=1, trust=True)(X.numpy())
    np.testing.assert_allclose(told, unquantised(net)(X).detach().numpy(), atol=1e-4)
    assert np.abs(told - net(X).detach().numpy()).max() > 1e-3


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_what_cannot_be_is_refused_in_words() -> None:
    with pytest.raises(InputError, match="no such rounding"):
        Quantise("int3")
    with pytest.raises(InputError, match="before ranges stand still"):
        Quantise(after=0.9, still=0.1)
    with pytest.raises(ModelError, match="no layer of this model can be rounded"):
        quantise(nn.Sequential(nn.Flatten()), Quantise())
    with pytest.raises(InputError, match="quantised already"):
        quantise(made(how=Quantise()), Quantise())


@pytest.mark.parametrize(
    "told",
    [
        {"weights": "int8"},
        {"weights": "int9", "activations": "int8", "ranges": {}},
        {"weights": "int8", "activations": "int8", "ranges": {"net.head": [0, 1]}},
        {"weights": "int8", "activations": "int8", "ranges": "all"},
    ],
    ids=["missing", "bits", "layers", "kind"],
)
def test_damaged_ranges_are_refused(told: dict[str, Any]) -> None:
    with pytest.raises(DamagedError, match="ranges that this student learned"):
        requantised(made(), told)


def test_ranges_are_finite_and_hold_0() -> None:
    good = ranges_of(learn(made(how=Quantise())))
    for ends in ([1.0, 2.0], [0.0, float("nan")], [0.0, float("inf")], [0.0]):
        with pytest.raises(DamagedError):
            requantised(made(), {**good, "ranges": {**good["ranges"], "net.head": ends}})


# ---- in a run --------------------------------------------------------------------------------------------------------

SMALL: dict[str, Any] = {"model": "cnn", "args": {"width": 4, "depth": 2}}


def recipe(**changes: object) -> dict[str, Any]:
    return {
        "name": "rounding",
        "seeds": [0],
        "data": {"source": "digits", "limit": 300},
        "teacher": {"model": "mlp", "args": {"width": 16}, "train": {"epochs": 2, "lr": 0.01}},
        "students": {"float": SMALL, "eight": {**SMALL, "quantise": {"after": 0.4, "still": 0.8}}},
        "train": {"epochs": 3, "batch_size": 50, "lr": 0.01},
        "report": {"bootstrap": 200, "latency": False},
        **changes,
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tutelage.Run:
    return run_recipe(from_mapping(recipe()), tmp_path_factory.mktemp("rounding") / "run", quiet=True)


def sums(folder: Path, arms: str = "*") -> dict[str, str]:
    files = sorted(folder.glob(f"students/{arms}/*/student*"))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_student_ships_float_weights_beside_the_ranges_it_learned(finished: tutelage.Run, tmp_path: Path) -> None:
    folder = finished.folder / "students/eight.distilled/seed-0"
    facts = read_facts(folder / "student.safetensors")
    assert facts["quantised"]["weights"] == "int8"
    assert len(facts["quantised"]["ranges"]) == 5
    plain = load_student(folder)
    assert not is_quantised(plain)
    assert as_learned(plain, facts, "onnx") is plain
    rounded = as_learned(plain, facts, "onnx-int8")
    assert is_quantised(rounded)
    # What validation judged while it learned was the rounded student.
    from tutelage.data import as_model_input
    from tutelage.run.job import job_of_recipe

    val = job_of_recipe(from_mapping(recipe()), trust=False).splits.val
    with torch.no_grad():
        right = rounded(as_model_input(val.inputs)).argmax(-1) == val.targets
    assert float(right.double().mean()) == pytest.approx(facts["curve"][facts["kept_epoch"] - 1]["val_accuracy"])
    assert "quantised" not in read_facts(finished.folder / "students/float.distilled/seed-0/student.safetensors")


def test_a_rounded_student_changes_no_bit_of_the_others(finished: tutelage.Run, tmp_path: Path) -> None:
    alone = run_recipe(from_mapping(recipe(students={"float": SMALL})), tmp_path / "run", quiet=True)
    found = {Path(path).name: digest for path, digest in sums(alone.folder, "*distilled").items()}
    assert found == {Path(path).name: digest for path, digest in sums(finished.folder, "float.distilled").items()}


@pytest.mark.parametrize("at", [3, 11], ids=["watching", "rounding"])
def test_a_stop_in_the_middle_changes_no_bit(
    finished: tutelage.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    def stop(self: Checkpoints, cohort: Any, moment: Any) -> None:
        if cohort.name == "seed-0" and moment.step == at:
            self.save(cohort)
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "on_step", stop)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(from_mapping(recipe()), tmp_path / "run", quiet=True)
    run_recipe(from_mapping(recipe()), tmp_path / "run", quiet=True)
    assert f"continuing at step {at}" in (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")
    assert sums(tmp_path / "run") == sums(finished.folder)


def test_a_plain_file_begins_another_student(finished: tutelage.Run, tmp_path: Path) -> None:
    weights = finished.folder / "students/eight.distilled/seed-0/student.safetensors"
    student = {**SMALL, "weights": str(weights), "quantise": {"weights": "int4", "activations": "float"}}
    changed = recipe(students={"next": student}, train={"epochs": 1, "batch_size": 50, "lr": 1e-9})
    run = run_recipe(from_mapping(changed), tmp_path / "run", quiet=True)
    (folder,) = (run.folder / "students").glob("*distilled/seed-0")
    before, after = load_student(weights.parent), load_student(folder)
    torch.testing.assert_close(after.net.head.weight, before.net.head.weight)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("student", "words"),
    [
        ({**SMALL, "quantise": {"weights": "int2"}}, "int2"),
        ({**SMALL, "quantise": {"after": 0.9, "still": 0.5}}, "ranges stand still before rounding begins"),
        ({"model": "teacher", "quantise": {}}, "takes no model: teacher"),
    ],
    ids=["bits", "order", "teacher"],
)
def test_a_recipe_that_is_wrong_says_so(student: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        from_mapping(recipe(students=None, student=student))

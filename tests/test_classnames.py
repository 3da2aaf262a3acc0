"""A teacher whose classes stand in another order is met by name, or refused where its names cannot be true."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import tutelage
from tutelage.errors import InputError, ModelError
from tutelage.models import ModelSpec, build, fold_batchnorm
from tutelage.recipe import Recipe, from_mapping
from tutelage.run import run_recipe
from tutelage.run.classnames import contradiction, meet_by_name

MIXED = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
FIRST = {
    "name": "first",
    "seeds": [0],
    "data": {"source": "digits"},
    "teacher": {"model": "mlp", "args": {"width": 32}, "train": {"epochs": 6, "batch_size": 32, "lr": 0.01}},
    "student": {"model": "mlp", "args": {"width": 8}},
    "train": {"epochs": 1, "batch_size": 32, "lr": 0.01},
    "report": {"bootstrap": 100, "latency": False},
}


def second(weights: Path) -> Recipe:
    return from_mapping({**FIRST, "teacher": {"model": "mlp", "args": {"width": 32}, "weights": str(weights)}})


def teacher_accuracy(run: tutelage.Run) -> float:
    return float(run.report["models"][0]["metrics"]["accuracy"]["value"])


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tutelage.Run:
    return run_recipe(from_mapping(FIRST), tmp_path_factory.mktemp("names") / "first", quiet=True)


def mixed_up(first: tutelage.Run, place: Path, *, rows: bool, names: bool) -> Path:
    """The first run's teacher with the rows of its head, or the names beside it, in another order."""
    state = load_file(first.folder / "teacher" / "teacher.safetensors")
    if rows:
        state |= {f"net.head.{part}": state[f"net.head.{part}"][MIXED].contiguous() for part in ("weight", "bias")}
    save_file(state, place / "w.safetensors", metadata={"format": "pt"})
    classes = [str(number) for number in (MIXED if names else range(10))]
    (place / "w.json").write_text(json.dumps({"classes": classes}))
    return place / "w.safetensors"


def test_the_same_classes_in_another_order_are_met_by_name(first: tutelage.Run, tmp_path: Path) -> None:
    run = run_recipe(second(mixed_up(first, tmp_path, rows=True, names=True)), tmp_path / "run", quiet=True)
    assert teacher_accuracy(run) == teacher_accuracy(first) > 0.8
    log = (run.folder / "log.txt").read_text()
    assert "its classes stand in another order than the data's" in log
    # And once more from the file that this run kept, whose classes still stand in the teacher's own order.
    again = run_recipe(second(run.folder / "teacher" / "teacher.safetensors"), tmp_path / "again", quiet=True)
    assert teacher_accuracy(again) == teacher_accuracy(first)


def test_a_file_of_a_run_in_order_needs_no_notice(first: tutelage.Run, tmp_path: Path) -> None:
    run = run_recipe(second(first.folder / "teacher" / "teacher.safetensors"), tmp_path / "run", quiet=True)
    assert "another order" not in (run.folder / "log.txt").read_text()
    assert teacher_accuracy(run) == teacher_accuracy(first)


def test_names_that_contradict_the_answers_are_refused(first: tutelage.Run, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"class names contradict its answers: .* right by name, .* by position"):
        run_recipe(second(mixed_up(first, tmp_path, rows=False, names=True)), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "manifest.json").exists()


def test_reordered_logits_stay_reordered_where_norms_are_folded() -> None:
    model = build(ModelSpec("cnn", {"width": 4}), input_shape=(1, 8, 8), classes=3, mean=[0.5], std=[0.5]).eval()
    x = torch.rand(5, 1, 8, 8)
    plain = model(x)
    assert meet_by_name(model, ["c", "A ", "b"], ["a", "b", "c"]) is not None
    torch.testing.assert_close(model(x), plain[:, [1, 2, 0]], rtol=0, atol=0)
    torch.testing.assert_close(fold_batchnorm(model).eval()(x), model(x), rtol=1e-4, atol=1e-5)
    assert "order" not in model.state_dict()
    assert contradiction(model, model(x), plain.argmax(-1)) is not None
    assert contradiction(model, model(x), model(x).argmax(-1)) is None


@pytest.mark.parametrize(
    ("own", "data"),
    [(None, ["a", "b"]), (["a", "b"], ["a", "b"]), (["a", "c"], ["a", "b"]), (["A", "a"], ["a", "A"])],
)
def test_nothing_is_moved_that_names_do_not_settle(own: list[str] | None, data: list[str]) -> None:
    model = build(ModelSpec("mlp", {}), input_shape=(4,), classes=2, mean=[0.0], std=[1.0])
    assert meet_by_name(model, own, data) is None
    assert model.order is None


def test_an_order_holds_every_class_once() -> None:
    model = build(ModelSpec("mlp", {}), input_shape=(4,), classes=2, mean=[0.0], std=[1.0])
    with pytest.raises(InputError, match="every class once"):
        model.reorder([0, 0])
    assert meet_by_name(nn.Linear(4, 2), ["b", "a"], ["a", "b"]) is None

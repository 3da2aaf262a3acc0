"""`tutelage eval`: a student's file against other data, with classes met by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, f1_score
from torch import nn

import tutelage
from command_line import call
from test_bench import RECIPE
from tutelage.data import from_arrays, load
from tutelage.errors import DataError, InputError, ModelError
from tutelage.recipe import from_mapping
from tutelage.run import run_recipe
from tutelage.run.evaluate import evaluate_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = from_mapping(RECIPE, ["train.epochs=5", "data.limit=null"])
    return run_recipe(recipe, tmp_path_factory.mktemp("eval") / "run", quiet=True).folder


def test_on_its_own_test_part_it_says_what_the_report_says(finished: Path, tmp_path: Path) -> None:
    report = json.loads((finished / "report.json").read_text())
    for arm in ("scratch", "distilled"):
        [model] = [one for one in report["models"] if one["name"] == arm]
        found = evaluate_run(f"{finished}:{arm}", "digits", out=tmp_path)
        assert found.seeds == (1, 3)
        for key, estimate in found.metrics.items():
            assert estimate.value == pytest.approx(model["metrics"][key]["value"], rel=1e-6)
        for seed in found.seeds:
            with np.load(tmp_path / f"{arm}-seed-{seed}.npz") as saved:
                chosen = saved["logits"].argmax(-1)
                [run] = [one for one in model["runs"] if one["seed"] == seed]
                assert accuracy_score(saved["labels"], chosen) == pytest.approx(run["metrics"]["accuracy"])
                assert f1_score(saved["labels"], chosen, average="macro") == pytest.approx(run["metrics"]["macro_f1"])
    assert found.notices == ()
    assert "lowest recall" in found.summary()


def test_pictures_in_folders_are_brought_to_size(finished: Path, tmp_path: Path) -> None:
    test = load("digits").test
    own = evaluate_run(str(finished), "digits")
    for side in (8, 16):
        for row in range(len(test)):
            home = tmp_path / str(side) / test.classes[int(test.targets[row])]
            home.mkdir(parents=True, exist_ok=True)
            Image.fromarray(test.inputs[row, 0].numpy()).resize((side, side), Image.Resampling.NEAREST).save(
                home / f"{row}.png"
            )
        found = evaluate_run(str(finished), "folder", path=tmp_path / str(side), part="all")
        assert found.examples == len(test)
        if side == 8:  # the very same pictures
            assert found.recalls == pytest.approx(own.recalls)


def test_classes_are_met_by_name_and_not_by_number(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    names = ["pear", "apple", "fig"]  # an order of the maker's own
    labels = generator.integers(0, 3, size=300)
    inputs = (generator.normal(size=(300, 4)) * 0.1 + np.eye(4)[labels]).astype(np.float32)
    data = from_arrays(inputs, labels, classes=names, val=0.2, test=0.2, seed=0)
    teacher = nn.Linear(4, 3)
    run = tutelage.distill(teacher, "mlp", data, epochs=5, lr=0.01, out=tmp_path / "run", quiet=True)
    np.savez(tmp_path / "all.npz", x=inputs, y=np.array(names)[labels])
    found = evaluate_run(str(run.folder), "arrays", path=tmp_path / "all.npz", part="all")
    assert found.metrics["accuracy"].value > 0.95
    assert "met by name" in found.notices[0]
    assert set(found.recalls) == set(names)

    some = labels != 1
    np.savez(tmp_path / "some.npz", x=inputs[some], y=np.array(names)[labels[some]])
    fewer = evaluate_run(str(run.folder), "arrays", path=tmp_path / "some.npz", part="all")
    assert fewer.metrics["accuracy"].value > 0.95
    assert "no examples of apple" in fewer.notices[0]

    np.savez(tmp_path / "other.npz", x=inputs, y=np.array(["pear", "plum", "fig"])[labels])
    with pytest.raises(ModelError, match="plum"):
        evaluate_run(str(run.folder), "arrays", path=tmp_path / "other.npz", part="all")
    np.savez(tmp_path / "wide.npz", x=np.hstack([inputs, inputs]), y=np.array(names)[labels])
    with pytest.raises(ModelError, match="inputs"):
        evaluate_run(str(run.folder), "arrays", path=tmp_path / "wide.npz", part="all")


def test_what_cannot_be_evaluated_is_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such part"):
        evaluate_run(str(finished), "digits", part="tset")
    with pytest.raises(InputError, match="did you mean `scratch`"):
        evaluate_run(f"{finished}:scrach", "digits")
    with pytest.raises(DataError):
        evaluate_run(str(finished), "folder", path=tmp_path / "nowhere")
    own = tutelage.distill(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
        "digits", epochs=1, out=tmp_path / "own", quiet=True,
    )  # fmt: skip
    with pytest.raises(ModelError, match="code outside tutelage"):
        evaluate_run(str(own.folder), "digits")


def test_from_the_command_line(finished: Path) -> None:
    done = call("eval", f"{finished}:scratch", "digits", "--part", "val", "--json")
    assert done.code == 0
    found = json.loads(done.out)
    assert found["examples"] == len(load("digits").val)
    assert call("eval", str(finished), "digits").out.startswith(f"{finished}:distilled on 359 examples")
    wrong = call("eval", str(finished), "digit")
    assert wrong.code == 2
    assert "did you mean `digits`" in wrong.err
    assert torch.is_grad_enabled()

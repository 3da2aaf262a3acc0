"""Students of runs as files that run elsewhere: written, judged, resumed, timed, and asked without us."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import tutelage
from command_line import call
from tutelage.data import load
from tutelage.errors import DamagedError, GateError, InputError, ModelError
from tutelage.evaluation.rebuild import differences
from tutelage.export import FORMATS, export_model, open_artifact
from tutelage.recipe import Recipe, from_mapping
from tutelage.report import artifacts
from tutelage.report.card import card
from tutelage.run import exports, load_student, run_recipe
from tutelage.run.bench import bench_files, bench_run
from tutelage.run.evaluate import evaluate_run
from tutelage.run.exporting import How, export_run, export_weights
from tutelage.run.rescore import rescore

SHIP: dict[str, Any] = {
    "name": "ship",
    "seeds": [4],
    "data": {"source": "digits"},
    "teacher": {"model": "mlp", "args": {"width": 24}, "train": {"epochs": 2, "batch_size": 64, "lr": 0.01}},
    "student": {"model": "mlp", "args": {"width": 16, "depth": 1}},
    "train": {"epochs": 4, "batch_size": 32, "lr": 0.01},
    "export": ["onnx-int8", "torch"],
    "report": {"bootstrap": 200},
}
STUDENT = Path("students/distilled/seed-4")


def recipe(*changes: str, **keys: object) -> Recipe:
    return from_mapping({**SHIP, **keys}, changes)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tutelage.Run:
    return run_recipe(recipe(), tmp_path_factory.mktemp("export") / "run", quiet=True)


@pytest.fixture
def stopped(done: tutelage.Run, tmp_path: Path) -> Path:
    """The same run, as it stood before it was judged."""
    home = tmp_path / "stopped"
    shutil.copytree(done.folder, home)
    (home / "report.json").unlink()
    manifest = json.loads((home / "manifest.json").read_text())
    (home / "manifest.json").write_text(json.dumps(manifest | {"outcome": "running"}))
    return home


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which files the exporter is asked for from here on."""
    names: list[str] = []

    def noted(module: nn.Module, facts: Any, path: Path, **how: Any) -> Any:
        names.append("/".join(path.parts[-3:]))
        return export_model(module, facts, path, **how)

    monkeypatch.setattr(exports, "export_model", noted)
    monkeypatch.setattr(exports, "rehearse", lambda job, students: None)
    return names


# ---- judged as a model of its own ------------------------------------------------------------------------------------


def test_every_format_stands_in_the_report_beside_its_model(done: tutelage.Run) -> None:
    rows = {row["name"]: row for row in done.report["models"]}
    expected = [f"{arm}{how}" for arm in ("scratch", "distilled") for how in ("", ".onnx-int8", ".torch")]
    assert list(rows) == ["teacher", *expected]
    plain, small = rows["distilled"], rows["distilled.onnx-int8"]
    assert (small["of"], small["compression"], small["role"]) == ("distilled", "onnx-int8", "compressed")
    assert (small["parameters"], small["multiply_adds"]) == (plain["parameters"], plain["multiply_adds"])
    assert small["file_bytes"] == (done.folder / STUDENT / "student.int8.onnx").stat().st_size != plain["file_bytes"]
    assert [(one["batch"], one["threads"]) for one in small["latency"]] == [(1, 1), (64, 1)]
    assert all(one["p50_ms"] > 0 and one["peak_bytes"] is None for one in small["latency"])
    against = {item["name"]: item["against"] for item in done.report["compressions"]}
    assert against == {name: rows[name]["of"] for name in rows if rows[name]["of"]}
    assert {point["name"] for point in done.report["frontier"]["points"]} == set(rows)


@pytest.mark.parametrize("how", ["onnx-int8", "torch"])
def test_what_is_judged_is_what_the_file_answers_on_the_test_part(done: tutelage.Run, how: str) -> None:
    test = load("digits").test
    runner = open_artifact(done.folder / STUDENT / f"student{FORMATS[how].suffix}", trust=True)
    logits = runner((test.inputs.float() / 255 if test.inputs.dtype is torch.uint8 else test.inputs).numpy())
    kept = np.load(done.folder / "eval" / f"distilled.{how}-seed-4.npz")
    np.testing.assert_allclose(kept["logits"], logits, rtol=1e-4, atol=1e-4)
    accuracy = (logits.argmax(-1) == test.targets.numpy()).mean()
    row = next(row for row in done.report["models"] if row["name"] == f"distilled.{how}")
    assert row["metrics"]["accuracy"]["value"] == pytest.approx(accuracy)


def test_the_report_keeps_how_files_compare_and_is_made_again_with_them(done: tutelage.Run) -> None:
    rows = {row["name"]: row for row in done.report["exports"]}
    assert set(rows) == {"scratch.onnx-int8", "scratch.torch", "distilled.onnx-int8", "distilled.torch"}
    facts = json.loads((done.folder / STUDENT / "student.json").read_text())
    models = {row["name"]: row for row in done.report["models"]}
    for how in ("onnx-int8", "torch"):
        row = rows[f"distilled.{how}"]
        (run,) = row["runs"]
        assert (row["kept"], row["input_shape"], run["seed"]) == (True, [1, 8, 8], 4)
        assert run["sha256"] == facts[f"sha256.{how}"] == models[row["name"]]["runs"][0]["sha256"]
        assert run["parity"]["examples"] == 256
        assert run["parity"]["batches"] == [1, 7, 32]
    assert rows["distilled.torch"]["runs"][0]["parity"]["agreement"] == 1.0
    again = json.loads((done.folder / "report.json").read_text())
    assert differences(again, rescore(done.folder)) == []
    assert again["exports"] == json.loads(json.dumps(done.report["exports"]))
    page = (done.folder / "report.html").read_text()
    assert "Files that run elsewhere" in page
    assert "The validation part has only 179 examples; the others are of the training part." in page


def test_no_test_example_is_used_to_write_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = load("digits")
    found = exports.material(splits)
    seen = {row.numpy().tobytes() for part in (found.calibration, found.inputs) for row in part}
    test = exports.as_model_input(splits.test.inputs)
    own = {row.numpy().tobytes() for row in exports.as_model_input(splits.train.inputs)}
    own |= {row.numpy().tobytes() for row in exports.as_model_input(splits.val.inputs)}
    assert seen <= own
    assert not {row.numpy().tobytes() for row in test} & (seen - own)
    assert (len(found.calibration), len(found.inputs)) == (256, 256)
    # Nobody calibrates by what the file is compared with.
    assert not {row.numpy().tobytes() for row in found.calibration} & {row.numpy().tobytes() for row in found.inputs}
    assert "77 of the training part were added" in found.notices[0]
    with pytest.raises(InputError, match="nothing to take ranges from"):
        exports.material(splits, calibrate=0)


def test_an_exported_student_is_loaded_and_evaluated_by_its_format(done: tutelage.Run) -> None:
    module = load_student(done.folder / STUDENT, compression="torch", trust=True)
    plain = load_student(done.folder / STUDENT)
    x = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(module(x), plain(x), rtol=1e-4, atol=1e-4)
    found = evaluate_run(f"{done.folder}:distilled.onnx-int8", "digits")
    row = next(row for row in done.report["models"] if row["name"] == "distilled.onnx-int8")
    assert found.metrics["accuracy"].value == pytest.approx(row["metrics"]["accuracy"]["value"])


# ---- stopped and resumed ---------------------------------------------------------------------------------------------


def resume(home: Path) -> tutelage.Run:
    return run_recipe(recipe("report.latency=false"), home, quiet=True)


def test_files_that_are_there_are_not_written_twice(stopped: Path, written: list[str], done: tutelage.Run) -> None:
    gone = stopped / STUDENT / "student.pt2"
    gone.unlink()
    again = resume(stopped)
    assert written == ["distilled/seed-4/student.pt2"]
    assert gone.read_bytes() == (done.folder / STUDENT / "student.pt2").read_bytes()
    assert again.report["exports"] == done.report["exports"]


def test_a_file_that_was_altered_is_noticed(stopped: Path, written: list[str]) -> None:
    path = stopped / STUDENT / "student.int8.onnx"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(DamagedError, match=r"student\.int8\.onnx was altered since it was written") as error:
        resume(stopped)
    assert "the same command writes it again" in str(error.value.problem.fix)
    with pytest.raises(DamagedError, match="altered"):
        load_student(stopped / STUDENT, compression="onnx-int8")
    assert written == []


def test_what_the_gate_refuses_is_told_and_the_run_goes_on(
    stopped: Path, written: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for arm in ("scratch", "distilled"):
        home = stopped / "students" / arm / "seed-4"
        facts, records = (json.loads((home / name).read_text()) for name in ("student.json", "exports.json"))
        del facts["sha256.torch"], records["torch"]
        (home / "student.json").write_text(json.dumps(facts))
        (home / "exports.json").write_text(json.dumps(records))
        (home / "student.pt2").unlink()
    kept = exports.export_model

    def strict(module: nn.Module, facts: Any, path: Path, **how: Any) -> Any:
        if "distilled" in str(path):
            raise GateError("student.pt2 does not answer as its model does: nonsense")
        return kept(module, facts, path, **how)

    monkeypatch.setattr(exports, "export_model", strict)
    found = resume(stopped).report
    assert [row["name"] for row in found["models"]][1:] == [
        "scratch", "scratch.onnx-int8", "scratch.torch", "distilled", "distilled.onnx-int8",
    ]  # fmt: skip
    row = next(row for row in found["exports"] if row["name"] == "distilled.torch")
    assert not row["kept"]
    assert "nonsense" in row["runs"][0]["refused"]
    assert any("distilled, seed 4: the file in the format torch was not kept" in text for text in found["notices"])
    assert "0 of 1" in (stopped / "report.html").read_text()
    # It is not tried again, unless the student is another one.
    assert not exports._is_missing(stopped, "distilled", 4, "torch")


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("formats", "says"),
    [
        (["onxx"], "recipe.json:32)\nhint: did you mean `onnx`?"),
        (["safetensors"], "every student is written as safetensors anyway"),
        (["onnx", "onnx"], "onnx stands here twice"),
        ("onnx", "expected a list of formats such as [onnx, onnx-int8], got 'onnx'"),
    ],
)
def test_mistakes_in_a_recipe_are_said(tmp_path: Path, formats: object, says: str) -> None:
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps({**SHIP, "export": formats}, indent=1))
    found = call("run", str(file), "--out", str(tmp_path / "run"))
    assert found.code == 2
    assert says in found.err


class Branching(nn.Module):
    """Which no exporter can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found = self.layer(inputs.flatten(1))
        return found if float(found.sum()) > 0 else -found


def test_what_cannot_be_exported_is_told_before_anything_learns(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="torch cannot trace this model"):
        tutelage.distill("mlp", Branching(), "digits", out=tmp_path / "run", epochs=1, export=["torch"], quiet=True)
    assert not list(tmp_path.glob("run/teacher/*"))


def test_a_module_of_the_callers_own_is_exported_from_python(tmp_path: Path) -> None:
    own = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    run = tutelage.distill("mlp", own, "digits", out=tmp_path / "run", epochs=1, export=["torch"], quiet=True)
    assert [row["name"] for row in run.report["models"]][1:] == [
        "scratch", "scratch.torch", "distilled", "distilled.torch",
    ]  # fmt: skip
    home = run.student()
    facts = open_artifact(home / "student.pt2", trust=True).facts
    assert (facts.classes, facts.input_shape, facts.model) == (tuple("0123456789"), (1, 8, 8), None)
    assert "export: ['torch']" in (run.folder / "config.yaml").read_text()
    with pytest.raises(InputError, match="may run code"):
        load_student(home, compression="torch")
    with pytest.raises(ModelError, match="built by code outside tutelage"):
        export_run(run.folder)


# ---- the command line ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def copied(done: tutelage.Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(done.folder, tmp_path_factory.mktemp("copied") / "run"))


def test_the_command_writes_what_passes_and_ends_with_4_for_what_does_not(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = FORMATS["safetensors"]
    monkeypatch.setitem(  # type: ignore[misc]
        FORMATS, "onnx-int8", type(wrong)(wrong.line, ".int8.onnx", False, wrong.write, lambda path: _Silent())
    )
    found = call("export", str(copied), "--format", "onnx-int8,safetensors,torch")
    assert found.code == 4
    assert "student.int8.onnx does not answer as its model does" in found.err
    place = copied / "exports" / "distilled-seed-4"
    assert {path.name for path in place.iterdir()} == {"student.safetensors", "student.pt2"}
    lines = found.out.splitlines()
    assert re.split(r"\s{2,}", lines[1]) == [
        "format", "file", "size", "same class", "largest difference", "accuracy", "the model's",
    ]  # fmt: skip
    cells = re.split(r"\s{2,}", lines[2])
    assert cells[:2] == ["safetensors", "student.safetensors"]
    assert cells[3] == "100.00 %"
    assert cells[5] == cells[6]
    assert "256 examples in batches of 1, 7, 32" in found.out
    assert "notice: the validation part has 179 examples" in found.out
    x = load("digits").test.inputs[:5]
    x = x.float() / 255 if x.dtype is torch.uint8 else x
    said = open_artifact(place / "student.safetensors")(x.numpy())
    with torch.no_grad():
        np.testing.assert_allclose(said, load_student(copied / STUDENT)(x).numpy(), rtol=1e-4, atol=1e-4)


class _Silent:
    facts = None

    def __call__(self, inputs: Any) -> Any:
        return np.zeros((len(inputs), 10), dtype=np.float32)


def test_the_command_prints_json(copied: Path, tmp_path: Path) -> None:
    found = call(
        "export", f"{copied}:scratch", "--seed", "4", "--format", "torch", "--out", str(tmp_path / "out"), "--json"
    )
    assert found.code == 0, found.err
    told = json.loads(found.out)
    (one,) = told["artifacts"]
    assert Path(one["path"]) == tmp_path / "out" / "student.pt2"
    assert one["bytes"] == Path(one["path"]).stat().st_size
    assert one["parity"]["agreement"] == 1.0
    assert told["refused"] == {}


def test_weights_that_were_trained_elsewhere_are_exported_by_a_recipe(copied: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    shutil.copy(copied / STUDENT / "student.safetensors", file)
    found = export_weights(recipe(), file, How(["safetensors"]))
    (made,) = found.artifacts
    assert made.path == tmp_path / "exports" / "mine" / "student.safetensors"
    assert made.parity.difference < 1e-4
    several = recipe(student=None, students={"a": SHIP["student"], "b": {"model": "mlp", "args": {"width": 4}}})
    assert export_weights(several, file, How(["safetensors"]), student="a").artifacts
    with pytest.raises(InputError, match="the recipe has several students"):
        export_weights(several, file)
    with pytest.raises(ModelError):
        export_weights(several, file, student="b")
    shutil.copy(file, tmp_path / "student.safetensors")
    with pytest.raises(InputError, match="would be written over"):
        export_weights(recipe(), tmp_path / "student.safetensors", How(["safetensors"], out=tmp_path))


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["RUN:distiled"], 2, "did you mean `distilled`?"),
        (["RUN", "--seed", "5"], 2, "the run has no student of seed 5"),
        (["RUN", "--format", "onxx"], 2, "did you mean `onnx`?"),
        (["RUN", "--format", ","], 2, "no format is named"),
        (["RUN", "--max-drop", "5"], 2, "--max-drop is a share"),
        (["RUN", "--calibrate", "0"], 2, "nothing to take ranges from"),
        (["RUN:distilled.torch"], 2, "is a file that was exported already"),
        (["RUN/nothing"], 2, "no finished run in"),
        (["mine.yaml"], 2, "a recipe has no weights"),
        (["digits", "--weights", "none.safetensors"], 3, "none.safetensors"),
        (["digits", "--weights", "none.safetensors", "--seed", "1"], 2, "--seed is for runs"),
    ],
)
def test_mistakes_are_said(copied: Path, words: list[str], code: int, says: str) -> None:
    found = call("export", *(word.replace("RUN", str(copied)) for word in words))
    assert (found.code, says in found.err) == (code, True), found.err


# ---- timing ----------------------------------------------------------------------------------------------------------


def test_bench_times_the_files_of_a_run_beside_its_models(copied: Path) -> None:
    found = bench_run(copied, batch_sizes=(1, 2), seconds=0.05, trust=True)
    names = [model.name for model in found.models]
    assert names[0] == "teacher"
    assert set(names[1:]) == {f"{arm}{how}" for arm in ("distilled", "scratch") for how in ("", ".onnx-int8", ".torch")}
    models = {model.name: model for model in found.models}
    file, plain = models["distilled.onnx-int8"], models["distilled"]
    assert (file.parameters, file.multiply_adds) == (plain.parameters, plain.multiply_adds)
    assert file.file_bytes == (copied / STUDENT / "student.int8.onnx").stat().st_size
    assert all(row.speed_ratio is not None and row.peak_bytes is None for row in file.latency)
    wary = bench_run(copied, batch_sizes=(1,), seconds=0.05)
    assert "distilled.torch" not in {model.name for model in wary.models}
    assert any("distilled.torch was not timed" in text and "--trust" in text for text in wary.notices)
    (copied / STUDENT / "student.onnx").write_bytes(b"not of this run")
    assert bench_run(copied, batch_sizes=(1,), seconds=0.05).models


def test_bench_times_files_alone(copied: Path, tmp_path: Path) -> None:
    files = [str(copied / STUDENT / name) for name in ("student.int8.onnx", "student.pt2")]
    found = call("bench", *files, "--trust", "--batch", "1,3", "--seconds", "0.05", "--json")
    assert found.code == 0, found.err
    told = json.loads(found.out)
    assert [model["name"] for model in told["models"]] == files
    assert [row["batch"] for row in told["models"][1]["latency"]] == [1, 3]
    assert told["folder"] is None
    assert told["models"][0]["parameters"] is None
    assert files[0] in bench_files(files[:1], seconds=0.05).summary()
    assert "--cold is for runs" in call("bench", *files, "--cold").err
    odd = tmp_path / "odd.safetensors"
    odd.write_bytes(b"")
    assert call("bench", str(odd)).code == 5


# ---- asked without us ------------------------------------------------------------------------------------------------


def test_the_cards_lines_ask_every_file_without_the_library(
    done: tutelage.Run, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every block of Python under "Load the student" that does not import tutelage is run in the run's folder."""
    blocks = re.findall(r"```python\n(.*?)```", card(done.report).split("## Load the student")[1], re.DOTALL)
    blocks = [block for block in blocks if "import onnxruntime" in block or "torch.export" in block]
    assert len(blocks) == 2
    test = load("digits").test
    monkeypatch.chdir(copied)
    picture = test.inputs[0, 0] if test.inputs.dtype is torch.uint8 else (test.inputs[0, 0] * 255).round()
    Image.fromarray(picture.to(torch.uint8).numpy()).save("picture.png")
    with torch.no_grad():
        logits = load_student(copied / STUDENT)(picture.to(torch.uint8).float()[None, None] / 255)
    for block in blocks:
        assert "tutelage." not in block
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            names: dict[str, Any] = {}
            exec(block, names)  # noqa: S102  our own text
        assert printed.getvalue().strip() == str([str(int(logits.argmax()))])
        assert names["x"].shape == (1, 1, 8, 8)
        np.testing.assert_allclose(np.asarray(names["logits"]), logits.numpy(), atol=0.1 * float(logits.std()))


def test_colours_and_numbers_are_prepared_by_other_lines() -> None:
    row = {"format": "onnx", "file": 'a"b.onnx', "input_shape": [3, 4, 6], "line": "", "of": "x"}
    said = artifacts.snippet(row)
    assert 'InferenceSession("a\\"b.onnx")' in said
    names: dict[str, Any] = {"np": np, "Image": type("I", (), {"open": lambda name: Image.new("RGB", (9, 9), "red")})}
    exec("\n".join(line for line in said.splitlines() if line.startswith("x = ")), names)  # noqa: S102  our own text
    assert names["x"].shape == (1, 3, 4, 6)
    assert names["x"][:, 0].min() == 1.0
    assert names["x"][:, 1:].max() == 0.0
    assert "np.random.rand(1, 5)" in artifacts.snippet(row | {"input_shape": [5]})
    assert "open_artifact" in artifacts.snippet(row | {"format": "another"})

"""Several students in one run, by every method, and their files in several formats."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import tutelage
from command_line import call
from tutelage import losses
from tutelage.data import load
from tutelage.errors import DamagedError, InputError
from tutelage.models import ModelSpec, build, load_weights, save_weights
from tutelage.models.formats import pack, unpack
from tutelage.objective import Term
from tutelage.recipe import Recipe, from_mapping
from tutelage.run import load_student, run_recipe
from tutelage.run.classnames import names_of
from tutelage.run.evaluate import evaluate_run

BOTH = {
    "name": "both",
    "seeds": [0, 1],
    "data": {"source": "digits", "limit": 400, "views": {"shift": 1}},
    "teacher": {"model": "mlp", "args": {"width": 24}, "train": {"epochs": 3, "batch_size": 32, "lr": 0.01}},
    "students": {
        "small": {"model": "mlp", "args": {"width": 8, "depth": 1, "dropout": 0.1}},
        "tiny": {"model": "cnn", "args": {"width": 4, "depth": 2}},
    },
    "train": {"epochs": 2, "batch_size": 32, "lr": 0.01},
    "compress": ["fp16", "int8"],
    "report": {"bootstrap": 200, "latency": False},
}
ARMS = ["small.scratch", "small.distilled", "tiny.scratch", "tiny.distilled"]


def sums(folder: Path, pattern: str) -> dict[str, str]:
    return {path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob(pattern))}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tutelage.Run:
    return run_recipe(from_mapping(BOTH), tmp_path_factory.mktemp("runs") / "both", quiet=True)


def recipe(*changes: str, **keys: object) -> Recipe:
    return from_mapping({**BOTH, **keys}, changes)


# ---- several students ------------------------------------------------------------------------------------------------


def test_every_student_is_trained_by_every_method_and_judged_in_every_format(both: tutelage.Run) -> None:
    rows = {model["name"]: model for model in both.report["models"]}
    expected = [f"{arm}{how}" for arm in ARMS for how in ("", ".fp16", ".int8")]
    assert list(rows) == ["teacher", *expected]
    assert (
        rows["tiny.distilled.int8"] | {"student": "tiny", "method": "distilled", "of": "tiny.distilled"}
        == rows["tiny.distilled.int8"]
    )
    assert rows["small.scratch"]["parameters"] != rows["tiny.scratch"]["parameters"]
    against = {item["name"]: item["against"] for item in both.report["comparisons"]}
    assert against == {"small.distilled": "small.scratch", "tiny.distilled": "tiny.scratch"}


def test_a_student_learns_the_same_bits_alone_and_in_company(both: tutelage.Run, tmp_path: Path) -> None:
    alone = run_recipe(
        recipe(students={}, student=BOTH["students"]["tiny"], compress=[]),  # type: ignore[index]
        tmp_path / "alone", quiet=True,
    )  # fmt: skip
    for method in ("scratch", "distilled"):
        found = sums(alone.folder, f"students/{method}/*/student.safetensors")
        assert found == sums(both.folder, f"students/tiny.{method}/*/student.safetensors")
        assert len(found) == 2


def test_the_teacher_is_asked_once_for_all_students(both: tutelage.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from tutelage.teachers import ModuleTeacher

    asked, answer = [], ModuleTeacher.answer
    monkeypatch.setattr(ModuleTeacher, "answer", lambda self, batch: asked.append(len(batch)) or answer(self, batch))
    run_recipe(recipe("seeds=[0]", "compress=[]"), both.folder.parent / "counted", quiet=True)
    one = len(asked)
    asked.clear()
    run_recipe(
        recipe("seeds=[0]", students={}, student=BOTH["students"]["small"], compress=[]),  # type: ignore[index]
        both.folder.parent / "counted-one", quiet=True,
    )  # fmt: skip
    assert one == len(asked) > 0


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"student": {"model": "mlp"}}, "`students` is there as well"),
        ({"students": {}}, "expected a mapping with `model`, got nothing"),
        ({"students": {"Small": {"model": "mlp"}}}, "cannot be used"),
        ({"students": {"a": {"model": "mpl"}}}, "did you mean `mlp`"),
        ({"compress": ["int4"]}, "expected fp16 or int8, got 'int4'"),
        ({"compress": ["fp16", "fp16"]}, "fp16 stands here twice"),
    ],
)
def test_mistakes_are_said(tmp_path: Path, keys: dict[str, object], says: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps({**BOTH, **keys}))
    found = call("run", str(file), "--out", str(tmp_path / "run"))
    assert found.code == 2
    assert says in found.err


def test_a_recipe_with_several_students_is_written_out_and_read_again(both: tutelage.Run) -> None:
    again = call("run", str(both.folder / "config.yaml"), "--out", str(both.folder))
    assert again.code == 0
    assert "already complete" in again.err


def test_compare_and_check_know_several_students(both: tutelage.Run, tmp_path: Path) -> None:
    found = call("compare", f"{both.folder}:small.scratch", f"{both.folder}:tiny.distilled.int8")
    assert found.code == 0, found.err
    assert "tiny.distilled.int8 against" in found.out
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(BOTH))
    checked = call("check", str(file))
    assert checked.code == 0, checked.out + checked.err
    for said in ("student small", "student tiny", "arm small.distilled", "of 4 arms"):
        assert said in checked.out


def test_from_python_students_come_by_name(tmp_path: Path) -> None:
    run = tutelage.distill(
        "mlp", {"a": "mlp", "b": {"model": "mlp", "args": {"width": 8}}}, "digits", out=tmp_path / "run",
        epochs=1, quiet=True, compress=["int8"],
    )  # fmt: skip
    names = [model["name"] for model in run.report["models"]]
    assert names[1:] == [f"{s}.{m}{h}" for s in "ab" for m in ("scratch", "distilled") for h in ("", ".int8")]
    with pytest.raises(InputError, match="cannot name a student"):
        tutelage.distill("mlp", {"A b": "mlp"}, "digits", out=tmp_path / "no", epochs=1)


# ---- formats ---------------------------------------------------------------------------------------------------------


def test_the_compressed_file_is_what_was_judged(both: tutelage.Run) -> None:
    home = both.folder / "students" / "small.distilled" / "seed-1"
    test = load("digits").test
    for how in ("", "fp16", "int8"):
        student = load_student(home, compression=how)
        with torch.no_grad():
            logits = student(test.inputs.float() / (255 if test.inputs.dtype is torch.uint8 else 1))
        name = f"small.distilled.{how}-seed-1" if how else "small.distilled-seed-1"
        kept = np.load(both.folder / "eval" / f"{name}.npz")
        np.testing.assert_allclose(kept["logits"], logits.numpy(), rtol=1e-4, atol=1e-4)
    facts = json.loads((home / "student.json").read_text())
    file = home / "student.int8.safetensors"
    assert facts["sha256.int8"] == hashlib.sha256(file.read_bytes()).hexdigest()
    row = next(model for model in both.report["models"] if model["name"] == "small.distilled.int8")
    assert row["file_bytes"] == file.stat().st_size
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedError, match="altered"):
        load_student(home, compression="int8")


def test_formats_shrink_files_as_they_should(tmp_path: Path) -> None:
    module = build(ModelSpec("cnn", {"width": 64}), input_shape=(3, 32, 32), classes=10, mean=[0.5], std=[0.5])
    sizes = {}
    for how in (None, "fp16", "int8"):
        path = tmp_path / f"{how}.safetensors"
        save_weights(module, path, how=how)
        sizes[how] = path.stat().st_size
    assert 1.9 < sizes[None] / sizes["fp16"] < 2.01
    assert 3.6 < sizes[None] / sizes["int8"] < 4.01


def test_int8_is_as_near_as_eight_bits_allow(tmp_path: Path) -> None:
    module = build(ModelSpec("mlp", {"width": 32}), input_shape=(20,), classes=5, mean=[0.5], std=[0.5])
    before = {name: value.clone() for name, value in module.state_dict().items()}
    save_weights(module, tmp_path / "m.safetensors", how="int8")
    notices = load_weights(module, tmp_path / "m.safetensors")
    assert any("multiplied by their scales" in text for text in notices)
    for name, value in module.state_dict().items():
        if value.ndim < 2:
            torch.testing.assert_close(value, before[name], rtol=0, atol=0)
            continue
        step = before[name].flatten(1).abs().amax(1, keepdim=True) / 127
        assert bool(((value - before[name]).abs().flatten(1) <= step / 2 * 1.0001).all())


def test_plain_torch_reads_int8_in_three_lines(tmp_path: Path) -> None:
    module = build(ModelSpec("mlp", {"width": 8}), input_shape=(20,), classes=5, mean=[0.5], std=[0.5])
    save_weights(module, tmp_path / "m.safetensors", how="int8")
    tensors = load_file(tmp_path / "m.safetensors")
    scales = {name: tensors.pop(f"{name}.scale") for name, t in list(tensors.items()) if t.dtype is torch.int8}
    state = {
        n: t.float() * scales[n].reshape(-1, *[1] * (t.ndim - 1)) if n in scales else t for n, t in tensors.items()
    }
    unpacked, _ = unpack(load_file(tmp_path / "m.safetensors"))
    assert set(state) == set(unpacked) == set(module.state_dict())
    assert all(torch.equal(state[name], unpacked[name]) for name in state)


def test_weights_that_do_not_fit_are_refused_and_zeros_stay_zeros() -> None:
    with pytest.raises(InputError, match="do not fit into fp16"):
        pack({"w": torch.full((2, 2), 1e6)}, "fp16")
    with pytest.raises(InputError, match="no format `int4`"):
        pack({}, "int4")
    zeros = {"w": torch.zeros(3, 4)}
    restored, _ = unpack(pack(zeros, "int8"))
    assert torch.equal(restored["w"], zeros["w"])


def test_scales_that_do_not_belong_are_found() -> None:
    packed = pack({"w": torch.randn(3, 4)}, "int8")
    with pytest.raises(DamagedError, match="do not belong"):
        unpack(packed | {"w.scale": torch.ones(4)})


def test_a_format_that_was_not_asked_for_is_missing(both: tutelage.Run) -> None:
    with pytest.raises(DamagedError, match="missing"):
        load_student(both.folder / "students" / "small.scratch" / "seed-0", compression="fp8")


def test_a_compressed_arm_is_evaluated_from_its_own_file(both: tutelage.Run) -> None:
    rows = {model["name"]: model for model in both.report["models"]}
    for name in ("tiny.distilled", "tiny.distilled.int8"):
        found = evaluate_run(f"{both.folder}:{name}", "digits")
        assert found.metrics["nll"].value == pytest.approx(rows[name]["metrics"]["nll"]["value"], rel=1e-5)
    assert rows["tiny.distilled"]["metrics"]["nll"] != rows["tiny.distilled.int8"]["metrics"]["nll"]


@pytest.mark.parametrize("how", ["", ".fp16", ".int8"])
def test_a_students_file_as_teacher_brings_its_class_names(both: tutelage.Run, how: str) -> None:
    home = both.folder / "students" / "tiny.distilled" / "seed-0"
    facts = json.loads((home / "student.json").read_text())
    assert names_of(torch.nn.Identity(), home / f"student{how}.safetensors") == facts["classes"]


def test_python_goes_on_only_with_the_same_formats_and_places(tmp_path: Path) -> None:
    def learn(place: str, *formats: str) -> tutelage.Run:
        hint = Term(losses.hint, at=place)
        return tutelage.distill(
            {"model": "cnn", "args": {"width": 8, "depth": 2}}, {"model": "cnn", "args": {"width": 4, "depth": 2}},
            "digits", out=tmp_path / "run", objective=[losses.cross_entropy, hint], compress=formats, epochs=1,
            quiet=True,
        )  # fmt: skip

    learn("net.stages.1", "int8")
    with pytest.raises(InputError, match="another recipe") as places:
        learn("net.stages.0", "int8")
    assert "arms.distilled" in str(places.value.problem.given)
    with pytest.raises(InputError, match="another recipe") as formats:
        learn("net.stages.1")
    assert "compress" in str(formats.value.problem.given)


def test_a_report_from_before_several_students_still_makes_its_pages(both: tutelage.Run, tmp_path: Path) -> None:
    report = json.loads((both.folder / "report.json").read_text())
    report["models"] = [model for model in report["models"] if not model["of"]]
    for model in report["models"]:
        for key in ("student", "method", "of", "compression"):
            del model[key]
    (tmp_path / "report.json").write_text(json.dumps(report))
    done = call("report", str(tmp_path), "--pages")
    assert done.code == 0, done.err
    assert "tiny.distilled" in (tmp_path / "report.html").read_text()

"""Keras on torch: a teacher with features, a student like any other, and on other backends a function."""

from __future__ import annotations

import copy
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from foreign_models import batch, batch_of, close, digits, distilled, keras_model, same_live_and_stored, softmax
from tutelage.errors import DamagedError, InputError, ModelError
from tutelage.losses import cross_entropy, hint
from tutelage.models import ModelSpec, architecture_digest, build, load_weights, save_weights, state_digest
from tutelage.models.kerasnet import KerasNet, is_keras, keras_library
from tutelage.objective import Term
from tutelage.teachers import ModuleTeacher, as_teacher
from tutelage.teachers.foreign import Settings, open_foreign, wrap
from tutelage.teachers.foreign.need import quiet

keras = keras_library()
if keras.backend.backend() != "torch":
    pytest.skip("Keras computes with another backend in this process", allow_module_level=True)
NAMES = digits().train.classes


@pytest.fixture(scope="module")
def trained() -> Any:
    return keras_model()


def own_answer(model: Any, x: torch.Tensor) -> Any:
    """What Keras itself says, without dropout."""
    with torch.no_grad():
        return model(x.permute(0, 2, 3, 1), training=False).numpy()


def weights(model: Any) -> list[Any]:
    return [value.value.detach().tolist() for value in model.variables if value.dtype == "float32"]


def test_a_student_has_the_same_bits_live_and_stored(trained: Any, tmp_path: Path) -> None:
    run = same_live_and_stored(trained, tmp_path)
    told = {model["name"]: model for model in run.report["models"]}["teacher"]
    test = digits().test
    said = own_answer(trained, test.inputs.float() / 255).argmax(-1)
    assert told["metrics"]["accuracy"]["value"] == pytest.approx((said == test.targets.numpy()).mean())


def test_it_answers_with_the_logits_behind_its_softmax(trained: Any) -> None:
    asked = batch_of()
    teacher = as_teacher(trained, classes=NAMES)
    assert isinstance(teacher, ModuleTeacher)
    logits = teacher.answer(asked).logits
    close(softmax(logits), own_answer(trained, asked.inputs["x"]), 1e-6)
    last = trained.layers[-1]
    assert last.activation is keras.activations.softmax  # the model itself is as it was
    parts = torch.cat([teacher.answer(batch_of(n, first=f)).logits for f, n in ((0, 1), (1, 12), (13, 17))])
    assert torch.equal(parts, logits)


@pytest.mark.parametrize(("last", "separate"), [(None, False), (None, True), ("log_softmax", False)])
def test_other_ways_to_end(last: str | None, separate: bool) -> None:
    model = keras_model(last=last, separate=separate, epochs=0)
    asked = batch_of()
    found = softmax(as_teacher(model).answer(asked).logits)
    own = torch.tensor(own_answer(model, asked.inputs["x"])).double()
    close(found, (own if separate else own.softmax(-1)).numpy())
    close(own_answer(model, asked.inputs["x"]), own.numpy(), 0)


def ends(units: int, activation: Any) -> Any:
    layers = keras.layers
    return keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(units, activation=activation)])


def test_one_sigmoid_is_of_two_classes_and_several_are_refused() -> None:
    model, asked = ends(1, "sigmoid"), batch_of()
    found = softmax(as_teacher(model, classes=("a", "b")).answer(asked).logits)
    close(found[:, 1], own_answer(model, asked.inputs["x"])[:, 0], 1e-6)
    with pytest.raises(ModelError, match="every class by itself"):
        as_teacher(ends(10, "sigmoid"))
    with pytest.raises(ModelError, match="10 classes, the data has 2"):
        as_teacher(ends(10, None), classes=("a", "b"))


def test_probabilities_by_ones_own_word() -> None:
    model = ends(4, lambda x: keras.ops.softmax(x))
    asked = batch_of()
    teacher = wrap(model, settings=Settings(gives="probabilities"))
    close(softmax(teacher.answer(asked).logits), own_answer(model, asked.inputs["x"]), 1e-6)


def test_classes_by_name_and_inputs_that_are_scaled(trained: Any) -> None:
    asked = batch_of()
    other = (*NAMES[1:], NAMES[0])
    logits = wrap(trained, classes=NAMES).answer(asked).logits
    turned = wrap(trained, classes=NAMES, settings=Settings(classes=other)).answer(asked).logits
    assert torch.equal(turned, logits.roll(1, -1))
    scaled = wrap(trained, settings=Settings(scale=2.0)).answer(asked).logits
    twice = wrap(trained).answer(batch(asked.inputs["x"] * 2)).logits
    close(scaled, twice, 1e-6)


def test_features_are_answered_under_names_of_its_own(trained: Any, file: Path) -> None:
    asked = batch_of(5)
    teacher = as_teacher(trained, ["layers.activation", "layers.dense"], NAMES)
    features = teacher.answer(asked).features
    assert {name: tuple(one.shape) for name, one in features.items()} == {
        "layers.activation": (5, 4, 6, 6), "layers.dense": (5, 10),
    }  # fmt: skip
    opened = open_foreign(f"keras:{file}", {}, classes=NAMES, places=["layers.dense"]).answer(asked)
    assert torch.equal(opened.features["layers.dense"], features["layers.dense"])
    with pytest.raises(InputError, match="answers no features"):
        open_foreign("onnx:/m.onnx", {}, classes=NAMES, places=["layers.dense"])
    with pytest.raises(ModelError, match=r"layers\.conv2d"):
        as_teacher(trained, ["layers.conv3d"], NAMES)


def test_a_student_is_matched_with_its_features(trained: Any, tmp_path: Path) -> None:
    layers = torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 10)
    term = Term(hint, at=("1", "layers.activation"), connector="none")
    run = distilled(trained, tmp_path / "run", student=torch.nn.Sequential(*layers), objective=[term, cross_entropy])
    assert {model["name"] for model in run.report["models"]} >= {"teacher", "distilled"}


def test_a_keras_student_learns_natively(trained: Any, tmp_path: Path) -> None:
    student = keras_model(epochs=0)
    before = weights(student)
    run = distilled(trained, tmp_path / "run", student=student, epochs=6, lr=0.02)
    assert weights(student) == before  # those of the model that was handed over stay
    file = run.folder / "students/distilled/seed-0/student.safetensors"
    names = list(load_file(file))
    assert sorted(names) == [
        "v000_kernel", "v001_bias", "v002_gamma", "v003_beta", "v004_moving_mean", "v005_moving_variance",
        "v006_kernel", "v007_bias",
    ]  # fmt: skip
    net = KerasNet(keras_model(epochs=0))
    load_weights(net, file)
    test = digits().test
    said = own_answer(net.keras_model, test.inputs.float() / 255).argmax(-1)
    told = {model["name"]: model for model in run.report["models"]}["distilled"]
    accuracy = (said == test.targets.numpy()).mean()
    assert accuracy == pytest.approx(told["metrics"]["accuracy"]["value"])
    assert accuracy > 0.25  # by chance it were 0.1; its statistics move slowly
    distilled(trained, tmp_path / "again", student=keras_model(epochs=0), epochs=6, lr=0.02)
    assert (tmp_path / "again/students/distilled/seed-0/student.safetensors").read_bytes() == file.read_bytes()


def test_a_net_is_copied_moved_saved_and_recognised(tmp_path: Path) -> None:
    net = KerasNet(keras_model(epochs=0)).eval()
    other = KerasNet(keras_model(epochs=0)).eval()  # Keras calls its layers conv2d_7 and so on
    assert architecture_digest(net) == architecture_digest(other)
    assert state_digest(net) == state_digest(other)
    x = batch_of(9).inputs["x"]
    twin = copy.deepcopy(net)
    assert torch.equal(twin(x), net(x))
    with torch.no_grad():
        next(twin.parameters()).add_(1.0)
    assert not torch.equal(twin(x), net(x))
    save_weights(twin, tmp_path / "twin.safetensors")
    load_weights(other, tmp_path / "twin.safetensors")
    assert torch.equal(other(x), twin(x))
    assert torch.equal(other.to("cpu", torch.float32)(x), twin(x))
    assert is_keras(net.keras_model)
    assert not is_keras(net)


def test_dropout_follows_torchs_generator_and_statistics_move() -> None:
    net = KerasNet(keras_model(epochs=0)).train()
    x = batch_of(9).inputs["x"]
    moving = net.v004_moving_mean.clone()
    torch.manual_seed(3)
    one = net(x)
    torch.manual_seed(3)
    assert torch.equal(net(x), one)
    assert not torch.equal(net(x), one)
    assert not torch.equal(net.v004_moving_mean, moving)
    one.sum().backward()
    assert all(value.grad is not None for value in net.parameters())
    assert not net.v004_moving_mean.requires_grad


@pytest.fixture(scope="module")
def file(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keras") / "m.keras"
    with quiet():
        trained.save(path)
    return path


def test_a_file_as_teacher_and_as_student(file: Path, trained: Any) -> None:
    asked = batch_of()
    own = own_answer(trained, asked.inputs["x"])
    close(softmax(open_foreign(f"keras:{file}", {}, classes=NAMES).answer(asked).logits), own, 1e-6)
    shape: dict[str, Any] = {"input_shape": (1, 8, 8), "classes": 10, "mean": [0.3], "std": [0.4]}
    student = build(ModelSpec(f"keras:{file}"), **shape).eval()
    with torch.no_grad():
        close(softmax(student(asked.inputs["x"])), own, 1e-6)

    def fresh(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        answer: torch.Tensor = build(ModelSpec(f"keras:{file}", {"fresh": True}), **shape).eval()(asked.inputs["x"])
        return answer

    assert torch.equal(fresh(0), fresh(0))
    assert not torch.equal(fresh(0), fresh(1))
    for args, message in (
        ({"frsh": 1}, "did you mean `fresh`"),
        ({"scale": 0}, "out of range"),
        ({"gives": 1}, "else"),
    ):
        with pytest.raises(InputError, match=message):
            build(ModelSpec(f"keras:{file}", args), **shape)
    with pytest.raises(ModelError, match="cannot read the data"):
        build(ModelSpec(f"keras:{file}"), **{**shape, "input_shape": (1, 9, 9)})


def test_files_that_are_none(file: Path, tmp_path: Path) -> None:
    (tmp_path / "half.keras").write_bytes(file.read_bytes()[:2000])
    (tmp_path / "page.keras").write_text("<html>")
    for name in ("half", "page"):
        with pytest.raises(DamagedError, match="no Keras file"):
            open_foreign(f"keras:{tmp_path / name}.keras", {}, classes=NAMES)
    layers = keras.layers
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Lambda(lambda x: x), layers.Dense(10)])
    with quiet():
        model.save(tmp_path / "code.keras")
    with pytest.raises(ModelError, match="needs code that it cannot bring along safely"):
        open_foreign(f"keras:{tmp_path / 'code.keras'}", {}, classes=NAMES)


def test_models_that_cannot_be_used() -> None:
    layers = keras.layers
    with pytest.raises(ModelError, match="is not built"):
        as_teacher(keras.Sequential([layers.Flatten(), layers.Dense(10)]))
    given = keras.Input((4,))
    two = keras.Model(given, [layers.Dense(2)(given), layers.Dense(3)(given)])
    with pytest.raises(ModelError, match="2 outputs"):
        as_teacher(two)
    other = keras.Input((4,))
    with pytest.raises(ModelError, match="2 inputs"):
        as_teacher(keras.Model([given, other], layers.Dense(2)(given + other)))


SCRIPT = Path(__file__).with_name("foreign_backends.py")


@pytest.mark.parametrize("kind", ["keras-jax", "keras-tensorflow", "savedmodel", "jax"])
def test_other_backends_in_a_process_of_their_own(kind: str, tmp_path: Path) -> None:
    package = "jax" if "jax" in kind else "tensorflow"
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed; `make foreign` has it")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), kind, str(tmp_path)], capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parent), "CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "all as it should be"

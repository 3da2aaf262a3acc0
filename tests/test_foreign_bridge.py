"""What lies between arrays of other frameworks and logits: order, floor, shapes, and all that is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from foreign_models import batch, close, softmax
from tutelage.errors import InputError, ModelError
from tutelage.teachers import as_teacher
from tutelage.teachers.foreign import (
    FLOOR,
    FOREIGN,
    ForeignTeacher,
    Settings,
    is_foreign,
    open_foreign,
    wrap,
)
from tutelage.teachers.foreign.bridge import fitted_shape, looks_like
from tutelage.teachers.foreign.digest import object_digest
from tutelage.teachers.foreign.order import order_of
from tutelage.words import is_fitted

ROWS = torch.rand(7, 5)


def table(values: Any, **options: Any) -> ForeignTeacher:
    """A teacher that says rows of a table, found by the first number of each input."""
    values = np.asarray(values)

    def answer(inputs: Any) -> Any:
        return values[np.asarray(inputs)[:, 0].astype(np.int64) % len(values)]

    return ForeignTeacher(answer, digest="table", **options)


def numbered(count: int) -> torch.Tensor:
    return torch.arange(count, dtype=torch.float32).reshape(count, 1).expand(count, 2).clone()


def probabilities(rows: int = 9, classes: int = 4) -> Any:
    return np.random.default_rng(0).dirichlet(np.full(classes, 0.3), rows)


def test_probabilities_come_back_at_temperature_one() -> None:
    p = probabilities()
    p[0] = [1.0, 0.0, 0.0, 0.0]
    answer = table(p, gives="probabilities").answer(batch(numbered(9)))
    assert answer.logits.dtype == torch.float32
    close(softmax(answer.logits), p, 5e-7)
    assert float(answer.logits.min()) == pytest.approx(np.log(FLOOR), rel=1e-6)


def test_the_floor_can_be_moved() -> None:
    p = np.array([[1.0, 0.0], [0.5, 0.5]])
    answer = table(p, gives="probabilities", settings=Settings(floor=1e-3)).answer(batch(numbered(2)))
    close(softmax(answer.logits), [[1 / 1.001, 0.001 / 1.001], [0.5, 0.5]])


def test_one_number_is_that_of_the_second_class() -> None:
    p = np.array([0.1, 0.7, 1.0])
    close(softmax(table(p, gives="probabilities").answer(batch(numbered(3))).logits)[:, 1], p)
    z = np.array([[-1.5], [0.3]])
    answer = table(z, gives="logits").answer(batch(numbered(2))).logits
    close(softmax(answer)[:, 1], 1 / (1 + np.exp(-z[:, 0])))
    with pytest.raises(ModelError, match="may be a probability or a logit"):
        table(z).answer(batch(numbered(2)))


def test_classes_alone_become_sure_answers() -> None:
    answer = table([2, 0, 1], gives="classes", own=["a", "b", "c"], classes=["c", "b", "a"]).answer(batch(numbered(3)))
    close(softmax(answer.logits), np.eye(3)[[0, 2, 1]])
    with pytest.raises(ModelError, match="names a class that there is not"):
        table([7, 0, 1], gives="classes", own=[0, 1, 2]).answer(batch(numbered(3)))


def test_outputs_are_put_in_the_order_of_the_data_by_name() -> None:
    p = probabilities(classes=3)
    answer = table(p, gives="probabilities", own=["cat", "ant", "bee"], classes=["ant", "bee", "cat"])
    close(softmax(answer.answer(batch(numbered(9))).logits), p[:, [1, 2, 0]])


def test_classes_that_it_lacks_get_the_share_of_the_floor() -> None:
    p, z = probabilities(classes=2), np.random.default_rng(1).normal(size=(9, 2)) * 4
    for values, gives, sure in ((p, "probabilities", p), (z, "logits", torch.tensor(z).softmax(-1).numpy())):
        answer = table(values, gives=gives, own=[2, 0], classes=["a", "b", "c"]).answer(batch(numbered(9))).logits
        found = softmax(answer)
        close(found[:, [2, 0]], sure)
        close(np.log(found[:, 1]), np.full(9, np.log(FLOOR)), 1e-5)


@pytest.mark.parametrize(
    ("own", "classes", "expected"),
    [
        (None, ["a", "b"], (0, 1)),
        (["b", "a"], ["a", "b"], (1, 0)),
        ([0, 1, 2], ["x", "y", "z"], (0, 1, 2)),
        ([np.int64(2), np.float64(0)], ["x", "y", "z"], (2, 0)),
        (["3", "1"], ["1", "3"], (1, 0)),
        ([7, 9], ["7", "8", "9"], (0, 2)),
        ([1, 0], None, (1, 0)),
    ],
)
def test_orders(own: Any, classes: Any, expected: tuple[int, ...]) -> None:
    assert order_of(own, classes, 2, "teacher").places == expected


@pytest.mark.parametrize(
    ("own", "classes", "message"),
    [
        (None, ["a", "b", "c"], "answers with 2 classes, the data has 3"),
        (["a", "d"], ["a", "b"], "knows classes that the data does not have"),
        ([0, 1], ["1", "0"], "both names and numbers"),
        (["a", "a"], ["a", "b"], "one class twice"),
        (["a", "b"], None, "the data's are not known here"),
        ([0, 5], ["a", "b"], "knows classes that the data does not have"),
    ],
)
def test_orders_that_nobody_guesses(own: Any, classes: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        order_of(own, classes, 2, "teacher")


@pytest.mark.parametrize(
    ("values", "gives", "message"),
    [
        ([[0.5, 0.6], [0.5, 0.5]], "probabilities", "no probabilities for 1 of 2 examples"),
        ([[1.2, -0.2], [0.5, 0.5]], "probabilities", "from -0.2 to 1.2"),
        ([[np.nan, 1.0], [0.5, 0.5]], "probabilities", "NaN or infinity for 1 of 2"),
        ([[np.inf, 1.0], [0.5, 0.5]], "logits", "NaN or infinity for 1 of 2"),
        ([[[0.5, 0.5]], [[0.5, 0.5]]], "logits", "one row of numbers for each example"),
        ([["a", "b"], ["a", "b"]], "logits", "one row of numbers for each example"),
        ([[0.2, 0.3, 0.5]] * 2, "probabilities", "answers with 3 classes, the data has 2"),
    ],
)
def test_answers_that_are_none(values: Any, gives: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        table(values, gives=gives, classes=["a", "b"], block=None).answer(batch(numbered(2)))


def test_too_few_rows_and_a_function_that_fails() -> None:
    with pytest.raises(ModelError, match="one row of numbers"):
        ForeignTeacher(lambda x: np.zeros((1, 2)), digest="", block=None).answer(batch(ROWS))

    def fails(_: Any) -> Any:
        raise KeyError("no such column")

    with pytest.raises(ModelError, match=r"cannot answer: KeyError.*no such column") as caught:
        ForeignTeacher(fails, digest="", name="teacher one").answer(batch(ROWS))
    assert "float32 (64, 5)" in str(caught.value)


def test_whether_rows_are_probabilities_is_found_out() -> None:
    p = probabilities()
    assert looks_like(p) == looks_like(p.astype(np.float16)) == "probabilities"
    assert looks_like(np.log(p + 1e-9)) == looks_like(p * 2) == "logits"
    close(softmax(table(p).answer(batch(numbered(9))).logits), p)
    close(table(p * 2 - 1).answer(batch(numbered(9))).logits, p * 2 - 1)


def test_who_answers_by_the_batch_is_no_teacher() -> None:
    def centred(x: Any) -> Any:
        return x - x.mean(0)  # a batch norm in training mode

    with pytest.raises(ModelError, match="otherwise alone than in a batch"):
        ForeignTeacher(centred, digest="").answer(batch(ROWS))
    generator = np.random.default_rng(0)
    with pytest.raises(ModelError, match="otherwise every time"):
        ForeignTeacher(lambda x: x + generator.normal(size=x.shape), digest="").answer(batch(ROWS))


def test_blocks_are_always_full() -> None:
    sizes: list[int] = []

    def answer(x: Any) -> Any:
        sizes.append(len(x))
        return x

    teacher = ForeignTeacher(answer, digest="", block=4, fixed=True)
    assert torch.equal(teacher.answer(batch(ROWS)).logits, ROWS)
    assert set(sizes) == {4}


def test_inputs_arrive_as_other_frameworks_read_them() -> None:
    seen: list[Any] = []

    def answer(x: Any) -> Any:
        seen.append(x)
        return np.zeros((len(x), 2))

    def asked(view: torch.Tensor, **options: Any) -> Any:
        ForeignTeacher(answer, digest="", block=None, **options).answer(batch(view))
        return seen[-1]

    picture = torch.rand(3, 2, 4, 5)
    assert asked(picture).shape == (3, 2, 4, 5)
    turned = asked(picture, settings=Settings(layout="NHWC", scale=255.0))
    close(turned, picture.permute(0, 2, 3, 1).numpy() * 255)
    assert asked((picture * 255).byte()).max() <= 1.0
    tokens = asked(torch.tensor([[4, 2, 0]], dtype=torch.int32))
    assert tokens.dtype == np.int64
    text = torch.tensor([[*"grün".encode(), 0, 0]], dtype=torch.uint8)
    assert asked(text) == ["grün"]
    assert asked(picture, flat=True).shape == (3, 40)


def test_shapes_are_fitted_to_the_model() -> None:
    picture = np.zeros((2, 1, 8, 8), np.float32)
    assert fitted_shape(picture, (8, 8, 1), None, "t").shape == (2, 8, 8, 1)
    assert fitted_shape(picture, (None, None, 1), None, "t").shape == (2, 8, 8, 1)
    assert fitted_shape(picture, (64,), None, "t").shape == (2, 64)
    assert fitted_shape(picture, (8, 8), None, "t").shape == (2, 8, 8)
    assert fitted_shape(picture, None, None, "t") is picture
    with pytest.raises(ModelError, match=r"reads other inputs.*\n.*\(1, 8, 8\).*\n.*\(28, 28, any\)"):
        fitted_shape(picture, (28, 28, None), None, "t")


def test_a_fingerprint_is_of_the_model_and_of_how_it_is_read() -> None:
    def told(**options: Any) -> str:
        return table(probabilities(), **options).fingerprint()

    teacher = table(probabilities())
    before = teacher.fingerprint()
    teacher.answer(batch(numbered(3)))
    assert teacher.fingerprint() == before == told()
    others = [told(gives="logits"), told(settings=Settings(floor=1e-3)), told(settings=Settings(scale=2.0))]
    assert len({before, *others}) == 4


def test_a_digest_of_a_function_is_of_all_that_it_computes_with() -> None:
    def made(weights: Any, factor: float = 1.0) -> Any:
        return lambda x: x @ weights * factor

    eye = np.eye(3)
    assert object_digest(made(eye)) == object_digest(made(eye.copy()))
    assert len({object_digest(made(w, f)) for w, f in ((eye, 1.0), (2 * eye, 1.0), (eye, 2.0))}) == 3
    looped: list[Any] = [1]
    looped.append(looped)
    assert object_digest(looped) == object_digest(looped) != object_digest([1])
    with pytest.raises(ModelError, match="cannot be told from others"):
        object_digest(one for one in [1])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gives": "odds"}, "gives something else"), ({"floor": 0}, "`floor` of a teacher is out of range"),
        ({"floor": True}, "out of range"), ({"scale": -1}, "`scale`"), ({"layout": "HWC"}, "no such layout"),
        ({"classes": "abc"}, "list of names"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Settings(**given)


def test_names_of_foreign_teachers() -> None:
    assert all(is_foreign(f"{prefix}:something") for prefix in FOREIGN)
    assert not any(is_foreign(name) for name in ("cnn", "hf:bert", "package.module:function", "sklearn"))
    assert is_fitted("sklearn:SVC")
    assert not is_fitted("sklearn:/file.skops")
    assert not is_fitted("onnx:/file.onnx")


@pytest.mark.parametrize(
    ("model", "args", "message"),
    [
        ("sklern:SVC", {}, "did you mean `sklearn`"),
        ("onnx:", {}, "names no teacher"),
        ("onnx:/x.onnx", {"inputs": "a"}, "did you mean `input`"),
        ("onnx:/x.onnx", {"floor": 2}, "out of range"),
        ("onnx:/x.onnx", {}, "there is no file /x.onnx"),
        ("xgboost:/x.model", {}, "end in .json or .ubj"),
        ("lightgbm:/x.txt", {}, "there is no file"),
        ("keras:/x.h5", {}, "end in .keras"),
        ("savedmodel:/nowhere", {}, "no saved_model.pb"),
        ("jax:some.module:function", {}, "only when you say so"),
        ("sklearn:SVC", {}, "none was given"),
        ("sklearn:/x.skops", {"C": 1}, "takes no argument `C`"),
    ],
)
def test_names_and_arguments_that_are_wrong(model: str, args: dict[str, Any], message: str) -> None:
    with pytest.raises((InputError, ModelError), match=message):
        open_foreign(model, args, classes=["a", "b"])


def test_a_missing_framework_names_its_extra(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for module, name, extra in (("xgboost", "m.json", "xgboost"), ("lightgbm", "m.txt", "lightgbm")):
        (tmp_path / name).write_text("{}")
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(InputError, match=rf"tutelage\[{extra}\]"):
            open_foreign(f"{extra}:{tmp_path / name}", {}, classes=["a", "b"])


def test_what_is_no_model_is_no_teacher() -> None:
    with pytest.raises(InputError, match="cannot be a teacher"):
        as_teacher(object())
    with pytest.raises(InputError, match="no model of a framework"):
        wrap(object())

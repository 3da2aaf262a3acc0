"""The pre-flight: what is wrong is told before anything is trained, with its reason, and nothing is left behind."""

from __future__ import annotations

import collections
import contextlib
import io
import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import binomtest
from torch import Tensor, nn

from tutelage import cli
from tutelage.data import Splits, load, view_batch
from tutelage.losses import cross_entropy
from tutelage.models import save_weights
from tutelage.recipe import Recipe, dump, from_mapping
from tutelage.run import run_recipe
from tutelage.run.checks import Checked, Finding, check_recipe
from tutelage.run.checks.budget import affordable
from tutelage.run.checks.data import conflicting, data_findings
from tutelage.run.checks.explain import class_order
from tutelage.run.checks.teacher import asked_rows, bar_of
from tutelage.run.classnames import names_of
from tutelage.run.job import job_of_recipe

BASE: dict[str, Any] = {
    "name": "small",
    "seeds": [0, 1, 2],
    "data": {"source": "digits", "limit": 400},
    "teacher": {"model": "mlp", "args": {"width": 32}, "weights": "teacher.safetensors"},
    "student": {"model": "mlp", "args": {"width": 4, "depth": 1}},
    "train": {"epochs": 2, "batch_size": 32, "lr": 0.01},
}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUTELAGE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))  # one of its own: some look at what is in it
    monkeypatch.chdir(tmp_path)
    return tmp_path


def learned(recipe: Recipe, steps: int = 60) -> nn.Module:
    """A recipe's teacher after a few full-batch steps."""
    job = job_of_recipe(recipe, trust=True)
    assert job.teacher.build is not None
    torch.manual_seed(0)
    module = job.teacher.build()
    train = job.splits.train
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    inputs = train.inputs.float() / (255 if train.inputs.dtype == torch.uint8 else 1)
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(module(inputs), train.targets).backward()
        optimizer.step()
    return module.eval()


@pytest.fixture(scope="module")
def taught() -> nn.Module:
    return learned(from_mapping(BASE))


@pytest.fixture
def small(taught: nn.Module, place: Path) -> Callable[..., Recipe]:
    """The good recipe, with changes; its teacher's weights lie in the test's folder."""
    save_weights(taught, place / "teacher.safetensors")
    return lambda *changes: from_mapping(BASE, changes)


class Outcome(NamedTuple):
    code: object
    out: str
    err: str


def call(recipe: Recipe, *words: str) -> Outcome:
    Path("recipe.yaml").write_text(dump(recipe))
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["tutelage", "check", "recipe.yaml", *words])
        with pytest.raises(SystemExit) as caught:
            cli.main()
    Path("recipe.yaml").unlink()
    assert "Traceback" not in err.getvalue()
    return Outcome(caught.value.code, out.getvalue(), err.getvalue())


def only(found: Checked, title: str) -> Finding:
    [one] = [finding for finding in found.findings if finding.title == title]
    return one


def faults(found: Checked) -> str:
    return "\n".join(finding.line() for finding in found.of("fault"))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- a good recipe ---------------------------------------------------------------------------------------------------


def test_a_good_recipe_passes_and_leaves_nothing_behind(small: Callable[..., Recipe], place: Path) -> None:
    recipe = small("data.views={shift: 1}", "teacher.store={views: 2, codec: top-3}", "threads=1")
    cache = Path(os.environ["TUTELAGE_CACHE"])
    before, state, threads = (files(place), files(cache)), torch.get_rng_state(), torch.get_num_threads()
    outcome = call(recipe)
    assert (outcome.code, outcome.err) == (0, "")
    assert (files(place), files(cache)) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    lines = outcome.out.splitlines()
    # Its teacher had two epochs, and does no better than a linear model.
    assert {line.split()[0] for line in lines if "worth" not in line and "hint:" not in line} == {"ok"}
    assert "400 train, 179 val, 359 test; inputs 1×8×8 uint8, 10 classes" in lines[0]
    assert "about" in next(line for line in lines if " time: " in line)
    # 64·32 + 32, 32·32 + 32, 32·10 + 10 for the teacher; 64·4 + 4, 4·10 + 10 for the student
    assert any("310 parameters, 8.9 % of the teacher's 3,466; answers (8, 10)" in line for line in lines), lines
    # 3 logits and 3 indices, the tail, and 16 bytes of keys for 2 views of 400 examples
    assert any("800 rows in top-3, views 2: 27.3 KiB" in line for line in lines)


def test_the_teachers_accuracy_is_that_of_the_validation_part(small: Callable[..., Recipe], taught: nn.Module) -> None:
    val = load("digits").val
    with torch.no_grad():
        right = int((taught(val.inputs / 255).argmax(-1) == val.targets).sum())
    interval = binomtest(right, len(val)).proportion_ci(method="wilson")
    said = only(check_recipe(small()), "teacher's answers")
    assert said.level == "ok"
    low, high = 100 * interval.low, 100 * interval.high
    assert said.text.startswith(
        f"{100 * right / len(val):.1f} % of {len(val)} validation rows right ({low:.1f} … {high:.1f} at 95 %), "
        "chance is 10.0 %"
    )


def test_the_same_recipe_has_the_same_findings(small: Callable[..., Recipe]) -> None:
    def told() -> list[Any]:
        found = check_recipe(small("data.views={mixup: 0.4}", "student.args={width: 4, dropout: 0.5}"))
        return [f for f in found.to_json()["findings"] if "time" not in f["title"] and f["title"] != "disk"]

    first = told()
    torch.manual_seed(99)
    assert told() == first


def test_json_is_valid_with_and_without_faults(small: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    good = call(small("seeds=[0]", "train.deterministic=false"), "--json")
    told = json.loads(good.out)
    assert (good.code, told["recipe"], told["faults"]) == (0, "small", 0)
    assert {f["title"] for f in told["findings"] if f["level"] == "notice"} == {
        "seeds", "repeatable", "teacher's worth",
    }  # fmt: skip
    assert told["notices"] == 3
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 1000, 1000))
    bad = call(small(), "--json")
    assert bad.code == 3
    [fault] = [f for f in json.loads(bad.out)["findings"] if f["level"] == "fault"]
    assert fault["title"] == "disk"
    assert "1000 B free" in fault["text"]
    assert "1 fault found in small: disk" in bad.err


def test_a_teacher_that_has_yet_to_be_trained_is_no_fault(place: Path) -> None:
    teacher = {"model": "mlp", "args": {"width": 32}, "train": {"epochs": 1, "batch_size": 64, "lr": 0.01}, "seed": 41}
    recipe = from_mapping({**BASE, "teacher": teacher})
    outcome = call(recipe)
    assert outcome.code == 0
    assert "notice   teacher: it has yet to be trained, for 1 epoch;" in outcome.out
    assert "teacher's time: about" in outcome.out
    assert "teacher's answers" not in outcome.out
    assert not (Path(os.environ["TUTELAGE_CACHE"]) / "teachers").exists()
    run_recipe(from_mapping({**BASE, "teacher": teacher, "seeds": [0]}), place / "run", quiet=True)
    found = check_recipe(recipe)
    assert any("in the cache" in f.text for f in found.findings if f.title == "teacher")
    assert only(found, "teacher's answers").text
    [cached] = (Path(os.environ["TUTELAGE_CACHE"]) / "teachers").glob("*/teacher.safetensors")
    for damage in (lambda: cached.write_bytes(cached.read_bytes()[:-1]), cached.unlink):
        damage()
        again = check_recipe(recipe)
        assert any("will be trained again" in f.text for f in again.of("notice"))
        assert again.of("fault") == ()
    shutil.rmtree(cached.parent.parent)


# ---- teachers that do not know the data ------------------------------------------------------------------------------


def altered(taught: nn.Module, change: Callable[[dict[str, Tensor]], None]) -> None:
    recipe = from_mapping(BASE)
    build = job_of_recipe(recipe, trust=False).teacher.build
    assert build is not None
    module = build()
    state = {name: value.clone() for name, value in taught.state_dict().items()}
    change(state)
    module.load_state_dict(state)
    save_weights(module, Path("teacher.safetensors"))


def inverted(state: dict[str, Tensor]) -> None:
    # Of a net that was trained on 1 − x: ((1 − x) − m) / s for what is given as x.
    state["normalise.mean"] = 1 - state["normalise.mean"]
    state["normalise.std"] = -state["normalise.std"]


def bytes_expected(state: dict[str, Tensor]) -> None:
    state["normalise.mean"] *= 255
    state["normalise.std"] *= 255


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (inverted, "inverted (1 − x)"),
        (bytes_expected, "not divided by 255"),
    ],
)
def test_wrong_preprocessing_is_named(
    change: Callable[[dict[str, Tensor]], None], said: str, small: Callable[..., Recipe], taught: nn.Module
) -> None:
    altered(taught, change)
    outcome = call(small())
    assert outcome.code == 3
    line = next(line for line in outcome.out.splitlines() if line.startswith("fault"))
    assert "wrong preprocessing" in line
    assert said in line
    assert "chance is 10.0 %" in line
    good = check_recipe_of(taught).text.split(" %")[0]
    assert f"right for {good} %" in line  # as often as it is with its own preprocessing


def check_recipe_of(module: nn.Module) -> Finding:
    save_weights(module, Path("teacher.safetensors"))
    return only(check_recipe(from_mapping(BASE)), "teacher's answers")


def test_reversed_channels_are_named(place: Path) -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(600) % 3
    images = generator.integers(0, 120, (600, 3, 5, 5))
    images[np.arange(600), labels] += 80
    np.savez(place / "colours.npz", x=images.astype(np.uint8), y=labels)
    data = {"source": "arrays", "path": "colours.npz"}
    recipe = from_mapping({**BASE, "data": data})
    module = learned(recipe, steps=30)
    first = module.get_parameter("net.hidden.1.weight")
    first.data = first.detach().reshape(-1, 3, 25).flip(1).reshape(-1, 75)
    for name in ("mean", "std"):
        module.get_buffer(f"normalise.{name}").copy_(module.get_buffer(f"normalise.{name}").flip(0))
    save_weights(module, place / "teacher.safetensors")
    assert "channels reversed" in faults(check_recipe(recipe))


def test_another_order_of_classes_is_named(small: Callable[..., Recipe], taught: nn.Module) -> None:
    order = torch.tensor([1, 2, 0, 3, 4, 5, 6, 7, 9, 8])

    def permute(state: dict[str, Tensor]) -> None:
        state["net.head.weight"], state["net.head.bias"] = (
            state[f"net.head.{part}"][order] for part in ("weight", "bias")
        )

    altered(taught, permute)
    found = check_recipe(small())
    said = only(found, "teacher's answers")
    # 5 of 10 classes moved, so half of the answers are right as they are.
    assert said.level == "fault"
    assert "seem to stand in another order" in said.text
    assert said.text.endswith("its `0` is `1`, its `1` is `2`, its `2` is `0`, its `8` is `9`, its `9` is `8`")


def test_an_untrained_teacher_is_found_out(small: Callable[..., Recipe]) -> None:
    altered(learned(from_mapping(BASE), steps=0), lambda _: None)
    outcome = call(small())
    assert outcome.code == 3
    assert "wrong preprocessing or class order, or not trained?" in outcome.out


def test_a_teacher_near_a_guess_is_doubted(place: Path) -> None:
    # Of two classes a teacher that is right for 11 of 20 rows may know something or nothing.
    generator = np.random.default_rng(0)
    x = generator.normal(size=(200, 3)).astype(np.float32)
    x[:, 0] = np.where(np.arange(200) % 20 < 11, 1, -1) * (2 * (np.arange(200) % 2) - 1)
    np.savez(place / "coin.npz", x=x, y=np.arange(200) % 2)
    data = {"source": "arrays", "path": "coin.npz"}
    recipe = from_mapping({**BASE, "data": data, "teacher": {**BASE["teacher"], "args": {"width": 2, "depth": 1}}})
    module = learned(recipe, steps=0)
    with torch.no_grad():
        for name, value in (("net.hidden.1", torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]])),
                            ("net.head", torch.tensor([[-1.0, 1.0], [1.0, -1.0]]))):  # fmt: skip
            module.get_parameter(f"{name}.weight").copy_(value)
            module.get_parameter(f"{name}.bias").zero_()
    save_weights(module, place / "teacher.safetensors")
    said = only(check_recipe(recipe), "teacher's answers")
    assert said.level == "warning"
    assert "too close to a guess" in said.text


def test_damaged_or_foreign_weights_are_faults_beside_all_else(small: Callable[..., Recipe], place: Path) -> None:
    for content, said in ((b"<html>", "web page"), (None, "no file")):
        (place / "teacher.safetensors").unlink(missing_ok=True)
        if content:
            (place / "teacher.safetensors").write_bytes(content)
        found = check_recipe(small())
        assert [finding.title for finding in found.of("fault")] == ["teacher"]
        assert said in faults(found)
        assert only(found, "student").level == only(found, "time").level == "ok"


class Named(nn.Module):
    """A net whose config names its classes, as those of transformers do."""

    def __init__(self, net: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.net = net
        self.config = SimpleNamespace(id2label=dict(enumerate(names)))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits


_TAUGHT: dict[str, nn.Module] = {}


def named(input_shape: tuple[int, ...], classes: int, names: list[str], trained: bool = True) -> nn.Module:
    net = _TAUGHT["net"]
    return Named(net if trained else nn.Sequential(nn.Flatten(), nn.Linear(64, classes)), names)


def doubly_standardised(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return _TAUGHT["whole"]


def deaf(input_shape: tuple[int, ...], classes: int, scale: float = 1.0) -> nn.Module:
    class Deaf(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.flatten(1)).detach() if scale == 1.0 else super().forward(x.flatten(1)) * scale

    return Deaf(64, classes)


@pytest.fixture
def own_code(taught: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    module: Any = SimpleNamespace(named=named, doubly_standardised=doubly_standardised, deaf=deaf)
    monkeypatch.setitem(sys.modules, "models_of_the_test", module)
    _TAUGHT["net"] = taught.get_submodule("net")
    yield "models_of_the_test"
    _TAUGHT.clear()


def test_a_wrapper_that_standardises_again_is_found_out(own_code: str, place: Path) -> None:
    digits = load("digits").train
    # A table far from zero: near it a net of ReLUs hardly minds.
    np.savez(place / "far.npz", x=(digits.inputs.flatten(1) / 255 + 50).numpy(), y=digits.targets.numpy())
    data = {"source": "arrays", "path": "far.npz"}
    recipe = from_mapping({**BASE, "data": data, "teacher": {"model": f"{own_code}:doubly_standardised"}})
    _TAUGHT["whole"] = learned(from_mapping({**BASE, "data": data}))
    refused = call(recipe)
    assert refused.code == 2
    assert "--trust" in refused.err
    outcome = call(recipe, "--trust")
    assert outcome.code == 3
    assert "wrong preprocessing: with the inputs not standardised" in outcome.out


@pytest.mark.parametrize(
    ("names", "trained", "level", "said"),
    [
        (list("0123456789"), True, "ok", ["same order"]),
        (list("1023456789"), True, "fault", ["teacher 1, 0, 2", "data 0, 1, 2", "contradict its answers"]),
        (["zero", *"12345678", "nine"], True, "warning", ["only the teacher zero, nine", "only the data 0, 9"]),
        (["zero", *"12345678", "nine"], False, "fault", ["only the teacher zero, nine", "only the data 0, 9"]),
    ],
)
def test_class_names_are_compared(names: list[str], trained: bool, level: str, said: list[str], own_code: str) -> None:
    teacher = {"model": f"{own_code}:named", "args": {"names": names, "trained": trained}}
    found = only(check_recipe(from_mapping({**BASE, "teacher": teacher}), trust=True), "class names")
    assert found.level == level
    assert all(words in found.text for words in said)


def test_names_that_say_nothing_are_not_compared(place: Path) -> None:
    placeholders = Named(nn.Linear(1, 2), ["LABEL_0", "LABEL_1"])
    assert names_of(placeholders, None) is None
    (place / "student.json").write_text(json.dumps({"classes": ["b", "a"]}))
    assert names_of(nn.Linear(1, 2), place / "student.safetensors") == ["b", "a"]
    assert names_of(nn.Linear(1, 2), place / "other.safetensors") is None


def test_an_order_of_classes_is_the_best_one_and_not_an_accident() -> None:
    generator = np.random.default_rng(3)
    classes, rows = 4, 400
    labels = generator.integers(0, classes, rows)
    truth = np.array([2, 0, 3, 1])  # the class that each output stands for
    answers = np.argsort(truth)[labels]
    answers[:100] = generator.integers(0, classes, 100)
    best = max(itertools.permutations(range(classes)), key=lambda order: (np.array(order)[answers] == labels).sum())
    assert list(best) == truth.tolist()
    said = class_order(answers, labels, ["a", "b", "c", "d"], 0.5)
    assert said is not None
    assert said.endswith("its `a` is `c`, its `b` is `a`, its `c` is `d`, its `d` is `b`")
    # With as many classes as rows an order of classes fits anything; held-out rows tell.
    labels, answers = generator.permutation(500), generator.permutation(500)
    assert class_order(answers, labels, [str(n) for n in range(500)], bar_of(500)) is None


def test_the_bar_can_be_reached_with_any_number_of_classes() -> None:
    assert bar_of(10) == pytest.approx(0.3)
    assert bar_of(1000) == pytest.approx(0.003)
    assert all(1 / classes < bar_of(classes) < 0.63 for classes in range(2, 2000))


def test_rows_are_chosen_by_their_content() -> None:
    train = load("digits").train
    chosen = set(train.ids[asked_rows(train, 100)].tolist())
    shuffled = train.take(torch.randperm(len(train)))
    assert set(shuffled.ids[asked_rows(shuffled, 100)].tolist()) == chosen
    assert len(chosen) == 100
    assert len(asked_rows(train)) == 512


# ---- data ------------------------------------------------------------------------------------------------------------


def pictures(root: Path, parts: dict[str, list[int]]) -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (60, 8, 8)).astype(np.uint8)
    for part, rows in parts.items():
        for row in rows:
            folder = root / part / ("cat", "dog")[row % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[row]).save(folder / f"{row}.png")


def test_a_leaked_split_is_told_with_exit_code_3(place: Path) -> None:
    pictures(place / "pets", {"train": list(range(40)), "test": list(range(36, 56))})
    teacher = {"model": "mlp", "train": {"epochs": 1}}
    recipe = from_mapping({**BASE, "data": {"source": "folder", "path": "pets"}, "teacher": teacher})
    outcome = call(recipe)
    assert outcome.code == 3
    assert outcome.out.startswith("fault    data: the same examples stand in two parts")
    assert "4 of test in train" in outcome.out
    assert json.loads(call(recipe, "--json").out)["faults"] == 1


def test_overlaps_that_a_source_lets_through_are_counted() -> None:
    whole = load("digits")
    twisted = whole.train.take(torch.arange(30))
    wrong = type(twisted)(
        twisted.inputs, (twisted.targets + 1) % 10, twisted.ids, twisted.classes, twisted.name, twisted.origins
    )
    found = {f.title: f for f in data_findings(Splits(whole.train, wrong, whole.train.take(torch.arange(25, 35))))}
    assert found["overlaps of parts"].level == found["labels between parts"].level == "fault"
    assert "30 of val in train, 10 of test in train, 5 of test in val" in found["overlaps of parts"].text
    assert found["labels between parts"].text.startswith("30 contents have different labels")
    assert "10 examples can only show differences of 19.6 points" in found["test part"].text


@pytest.mark.parametrize(("twins", "level"), [(2, "fault"), (1, "warning")])
def test_copies_with_other_labels(twins: int, level: str, place: Path) -> None:
    generator = np.random.default_rng(0)
    rows = 60 if level == "fault" else 6000
    images, labels = generator.integers(0, 256, (rows, 1, 6, 6)).astype(np.uint8), np.arange(rows) % 3
    x = np.concatenate([images, images[:twins], images[10:13]])  # the last three are honest copies
    y = np.concatenate([labels, (labels[:twins] + 1) % 3, labels[10:13]])
    tested = generator.integers(0, 256, (30, 1, 6, 6)).astype(np.uint8), np.arange(30) % 3
    np.savez(place / "twins.npz", x_train=x, y_train=y, x_test=tested[0], y_test=tested[1], x_val=255 - tested[0],
             y_val=tested[1], classes=["a", "b", "c"])  # fmt: skip
    teacher = {"model": "mlp", "train": {"epochs": 1}}
    recipe = from_mapping({**BASE, "data": {"source": "arrays", "path": "twins.npz"}, "teacher": teacher})
    found = check_recipe(recipe)
    said = only(found, "labels of train")
    assert said.level == level
    assert said.text.startswith(f"{2 * twins} examples of {twins} content")
    assert "`a` and `b`" in said.text
    assert only(found, "copies in train").text.startswith(f"{twins + 3} examples")


def test_conflicting_is_what_a_dictionary_says() -> None:
    generator = np.random.default_rng(1)
    ids, targets = generator.integers(0, 300, 600), generator.integers(0, 3, 600)
    labels: dict[int, set[int]] = {}
    for content, label in zip(ids.tolist(), targets.tolist(), strict=True):
        labels.setdefault(content, set()).add(label)
    assert conflicting(ids, targets).tolist() == sorted(c for c, own in labels.items() if len(own) > 1)


def test_odd_inputs_are_told(place: Path) -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(120) % 2

    def told(x: np.ndarray) -> Finding:
        np.savez(place / "odd.npz", x=x, y=labels)
        splits = load("arrays", path=place / "odd.npz")
        return next(f for f in data_findings(splits) if f.title == "inputs")

    table = generator.normal(size=(120, 4)).astype(np.float32)
    assert told(table).level == "ok"
    assert told(table * [1, 1, 1, 1e4]).text.endswith("times as much as the one that varies least")
    assert "1 feature of 4 never vary" in told(table * [1, 1, 0, 1]).text
    images = generator.integers(0, 256, (120, 1, 5, 5)).astype(np.uint8)
    assert told(images).text == "values 0 … 255; every image shows something"
    flat = images.copy()
    flat[:60] = np.arange(60)[:, None, None, None] + 90
    said = told(flat)
    assert said.level == "warning"
    # Half of all examples are flat, most of them in the training part.
    assert 30 <= int(said.text.split("; ")[1].split()[0]) <= 60
    assert told(generator.normal(size=(120, 1, 5, 5)).astype(np.float32)).level == "notice"


# ---- students, views, the sheet --------------------------------------------------------------------------------------


def test_a_student_without_a_gradient_is_a_fault_for_every_term(small: Callable[..., Recipe], own_code: str) -> None:
    found = check_recipe(small(f"student={{model: '{own_code}:deaf'}}"), trust=True)
    told = [(f.title, f.text.split("`")[1]) for f in found.of("fault")]
    assert told == [
        ("arm scratch", "cross_entropy"),
        ("arm distilled", "soft_target"),
        ("arm distilled", "cross_entropy"),
    ]
    nan = check_recipe(small(f"student={{model: '{own_code}:deaf', args: {{scale: 1.0e+39}}}}"), trust=True)
    assert "arm distilled: the term `soft_target` is not finite" in faults(nan)


def test_a_gradient_that_is_zero_and_a_layer_that_is_not_there(small: Callable[..., Recipe], own_code: str) -> None:
    found = check_recipe(small(f"student={{model: '{own_code}:deaf', args: {{scale: 0.0}}}}"), trust=True)
    assert "arm distilled: the term `soft_target` gives the student no gradient at all" in faults(found)
    mistyped = check_recipe(small("teacher.store={features: [net.haed]}"))
    assert "did you mean `net.head`?" in only(mistyped, "teacher").line()


def test_terms_that_weigh_nothing_are_told(small: Callable[..., Recipe]) -> None:
    arms = "arms={distilled: [{loss: soft_target}, {loss: decoupled, weight: 0, name: idle}]}"
    said = [f for f in check_recipe(small(arms)).of("notice") if f.title == "arm distilled"]
    assert [f.text for f in said] == ["the term `idle` weighs 0 and does nothing"]


def rgb_views(place: Path) -> dict[str, Any]:
    images = np.random.default_rng(0).integers(0, 256, (90, 3, 20, 20)).astype(np.uint8)
    np.savez(place / "colours.npz", x=images, y=np.arange(90) % 3)
    return {"source": "arrays", "path": "colours.npz", "views": {"rotate": 20, "mixup": 0.5}}


@pytest.mark.parametrize("colour", [False, True])
def test_the_contact_sheet_shows_what_the_student_sees(colour: bool, place: Path) -> None:
    data = rgb_views(place) if colour else {"source": "digits", "limit": 100, "views": {"shift": 2, "erase": 0.5}}
    recipe = from_mapping({**BASE, "data": data, "teacher": {"model": "mlp", "train": {"epochs": 1}}})
    outcome = call(recipe, "--contact-sheet", "sheets/views.png")
    assert outcome.code == 0
    assert "8 examples in sheets/views.png" in outcome.out
    with Image.open(place / "sheets" / "views.png") as image:
        assert image.format == "PNG"
        assert image.mode == ("RGB" if colour else "L")
        pixels = np.asarray(image)
    side, times = (20, 4) if colour else (8, 8)
    cell = side * times + 2
    assert pixels.shape[:2] == (8 * cell - 2, 6 * cell - 2)

    def shown(row: int, column: int) -> np.ndarray:
        return pixels[row * cell : (row + 1) * cell - 2, column * cell : (column + 1) * cell - 2]

    job = job_of_recipe(recipe, trust=False)
    train = job.splits.train
    enlarge = np.ones((times, times, 1), dtype=np.uint8)
    for row in range(8):
        plain = np.kron(train.inputs[row].permute(1, 2, 0).numpy(), enlarge)
        assert np.array_equal(shown(row, 0), plain if colour else plain[..., 0])
    for epoch in range(5):
        seen = view_batch(train, torch.arange(8), job.views, seed=0, epoch=epoch).inputs["x"]
        assert not torch.equal(seen, train.inputs[:8] / 255)
        for row in range(8):
            expected = (seen[row] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
            middle = shown(row, epoch + 1)[times // 2 :: times, times // 2 :: times]
            assert np.array_equal(middle, expected if colour else expected[..., 0])


def test_recorded_views_are_the_ones_on_the_sheet(small: Callable[..., Recipe]) -> None:
    check_recipe(small("data.views={shift: 2}", "teacher.store={views: 2}"), contact_sheet=Path("sheet.png"))
    with Image.open("sheet.png") as image:
        pixels = np.asarray(image)
    columns = [pixels[:, 66 * n : 66 * n + 64] for n in range(6)]
    assert np.array_equal(columns[1], columns[3])
    assert np.array_equal(columns[2], columns[4])
    assert not np.array_equal(columns[1], columns[2])


def test_a_sheet_needs_a_name_and_images(small: Callable[..., Recipe], place: Path) -> None:
    refused = call(small(), "--contact-sheet", "sheet.jpg")
    assert refused.code == 2
    assert "PNG" in refused.err
    np.savez(place / "table.npz", x=np.random.default_rng(0).normal(size=(90, 5)), y=np.arange(90) % 3)
    data = {"source": "arrays", "path": "table.npz"}
    recipe = from_mapping({**BASE, "data": data, "teacher": {"model": "mlp", "train": {"epochs": 1}}})
    found = check_recipe(recipe, contact_sheet=place / "sheet.png")
    assert only(found, "contact sheet").level == "notice"
    assert not (place / "sheet.png").exists()


def test_rows_that_can_be_afforded() -> None:
    # 64 · 10 multiply-adds for one row, twice, and 64 · 5 once.
    models = [(nn.Linear(64, 10), 2), (nn.Linear(64, 5), 1)]
    assert affordable(models, torch.zeros(2, 64), budget=16_000.0) == 10


def test_features_are_looked_at_even_before_the_teacher_is_trained(place: Path) -> None:
    hint = {"loss": "hint", "at": "net.stages.1"}
    teacher = {"model": "cnn", "args": {"width": 8}, "train": {"epochs": 1, "lr": 0.011}}
    arms = {"hint": [hint, {"loss": "cross_entropy"}]}
    keys = {**BASE, "data": {"source": "digits"}, "teacher": teacher, "student": {"model": "cnn"}, "arms": arms}
    found = check_recipe(from_mapping(keys))
    assert not found.of("fault")
    assert "hint, cross_entropy" in only(found, "arm hint").text
    layers = only(found, "layers of arm hint").text
    assert "`hint` reads net.stages.1 (24, 4, 4) beside the teacher's net.stages.1 (12, 4, 4)" in layers
    assert f"{24 * 12 + 12} parameters of `hint` learn along" in only(found, "learning along with arm hint").text
    arms["hint"][0] = {"loss": "hint", "at": {"student": "net.stages.1", "teacher": "net.head"}}
    [wrong] = check_recipe(from_mapping(keys)).of("fault")
    assert "no connector leads from one shape to the other" in wrong.text

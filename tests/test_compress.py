"""Models made smaller: what is cut, what it is built again from, what stays zero, and students that begin so."""

from __future__ import annotations

import copy
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from torch import Tensor, nn

import tutelage
from tutelage.cli import cli
from tutelage.compress import Prune, Rank, Shrink, Thin, is_masked, plain, rebuilt, remasked, shrink, zeros_of
from tutelage.compress.masks import masks_for
from tutelage.data import load
from tutelage.errors import DamagedError, InputError, MissingExtraError, ModelError, RecipeError
from tutelage.evaluation.cost import multiply_adds, parameters
from tutelage.models import Classifier, ModelSpec, build, load_weights, save_weights, state_digest
from tutelage.recipe import from_mapping
from tutelage.run import load_student, run_recipe
from tutelage.run.job import job_of_recipe
from tutelage.training import make_optimizer

pruning = pytest.mark.skipif(find_spec("torch_pruning") is None, reason="the extra `compress` is not installed")
hf = pytest.mark.skipif(find_spec("transformers") is None, reason="the extra `hf` is not installed")

VIT = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "patch_size": 4,
}  # fmt: skip
NETS: dict[str, dict[str, Any]] = {
    "cnn": {"width": 8, "depth": 2},
    "dscnn": {"width": 8, "depth": 1},
    "transformer": {"width": 16, "depth": 1},
    "mlp": {"width": 16},
    "hf:vit": VIT,
}


def fresh(name: str, args: dict[str, Any], seed: int = 3) -> Classifier:
    torch.manual_seed(seed)
    return build(ModelSpec(name, args), input_shape=(1, 8, 8), classes=10, mean=[0.4], std=[0.3])


def made(name: str = "cnn", args: dict[str, Any] | None = None) -> Classifier:
    """A net whose batch norms have seen something."""
    net = fresh(name, {"width": 8, "depth": 2} if args is None else args)
    with torch.no_grad():
        for _ in range(3):
            net(torch.rand(16, 1, 8, 8))
    return net.eval()


def images(count: int = 64) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def labels(count: int = 64) -> Tensor:
    return torch.arange(count) % 10


def smaller(module: nn.Module, how: Shrink, count: int = 32) -> tuple[nn.Module, list[dict[str, Any]]]:
    """By 32 examples, which leave batch norms as they are; the steps as a file would hold them."""
    small = shrink(module, how, images(count), labels(count))
    return small.module.eval(), json.loads(json.dumps(small.steps))


def logits(module: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = module.eval()(images())
    return found


# ---- built again from facts ------------------------------------------------------------------------------------------


HOWS = {
    "channels": Shrink(prune=Prune(0.6)),
    "taylor": Shrink(prune=Prune(0.7, "parameters", "taylor")),
    "rank": Shrink(rank=Rank(0.8)),
    "zeros": Shrink(prune=Prune(0.3, kind="unstructured")),
}
# Cutting channels takes seconds where there are many layers, so not every net is cut by every measure.
CASES = [
    pytest.param(
        net, HOWS[how], id=f"{net}-{how}",
        marks=[*([hf] if net.startswith("hf:") else []), *([pruning] if how in ("channels", "taylor") else [])],
    )
    for net in NETS for how in HOWS
    if (net, how) not in {("hf:vit", "taylor"), ("hf:vit", "channels"), ("cnn", "taylor")}
]  # fmt: skip


@pytest.mark.parametrize(("name", "how"), CASES)
def test_the_steps_alone_build_a_net_that_the_weights_fill(name: str, how: Shrink) -> None:
    args = NETS[name]
    base = made(name, args)
    before, said = state_digest(base), logits(base)
    small, steps = smaller(base, how)
    assert state_digest(base) == before
    assert torch.equal(logits(base), said), "the model itself stays as it was"
    again = rebuilt(fresh(name, args, seed=8), steps)
    shipped = plain(small)
    assert {key: value.shape for key, value in again.state_dict().items()} == {
        key: value.shape for key, value in shipped.state_dict().items()
    }
    again.load_state_dict(shipped.state_dict())
    assert torch.equal(logits(again), logits(small))
    if how.prune is not None and how.prune.kind == "structured":
        cost = parameters if how.prune.of == "parameters" else lambda model: multiply_adds(model, images(1))
        share = cost(again.eval()) / cost(base)
        assert 0.75 * how.prune.to < share <= how.prune.to
    if how.rank is not None:
        assert 0.6 < parameters(again) / parameters(base) <= 0.8


@pruning
@pytest.mark.parametrize("by", ["magnitude", "taylor", "random"])
def test_the_same_channels_go_every_time(by: Any) -> None:
    one, two = (smaller(made(), Shrink(prune=Prune(0.5, by=by))) for _ in range(2))
    torch.rand(7)  # whatever the caller's generator does
    assert one[1] == two[1]
    assert state_digest(one[0]) == state_digest(two[0])


@pruning
def test_channels_that_do_nothing_go_first_and_nothing_changes() -> None:
    base = made()
    with torch.no_grad():
        for stage in base.get_submodule("net.stages").children():
            convolution, norm = stage[3], stage[4]  # type: ignore[index]
            convolution.weight[::2] = 0
            for tensor in (norm.weight, norm.bias):
                tensor[::2] = 0
    said = logits(base)
    small, _ = smaller(base, Shrink(prune=Prune(0.78)))
    widths = [small.state_dict()[f"net.stages.{stage}.3.weight"].shape[0] for stage in (0, 1)]
    assert widths[0] < 8
    assert widths[1] < 12
    torch.testing.assert_close(logits(small), said, rtol=1e-4, atol=1e-5)


@pruning
def test_every_layer_keeps_channels_and_the_last_one_its_classes() -> None:
    small, _ = smaller(made(args={"width": 16, "depth": 2}), Shrink(prune=Prune(0.2)))
    state = small.state_dict()
    assert state["net.head.weight"].shape[0] == 10
    # 0.8 · √0.2 of 16 and 24 channels, and no fewer.
    assert state["net.stages.0.0.weight"].shape[0] >= 6
    assert state["net.stages.1.0.weight"].shape[0] >= 9


@pruning
def test_what_cannot_be_cut_is_told() -> None:
    with pytest.raises(ModelError, match="no channel of this model can be cut"):
        smaller(made("gru", {"width": 8}), Shrink(prune=Prune(0.5)))
    with pytest.raises(ModelError, match="so small"):
        smaller(made("mlp", {"width": 8}), Shrink(prune=Prune(0.001)))


def test_without_the_package_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    monkeypatch.setitem(sys.modules, "torch_pruning.pruner", None)
    with pytest.raises(MissingExtraError, match=r"tutelage\[compress\]"):
        smaller(made(), Shrink(prune=Prune(0.5)))


def test_batch_norms_take_their_statistics_from_what_is_left() -> None:
    base = made()
    small = plain(shrink(base, Shrink(prune=Prune(0.3, kind="unstructured")), images(64), labels(64)).module).eval()
    with torch.no_grad():
        read = small.get_submodule("net.stages.0.0")(small.get_submodule("normalise")(images(64)))
    norm = small.get_submodule("net.stages.0.1")
    assert isinstance(norm, nn.BatchNorm2d)
    torch.testing.assert_close(norm.running_mean, read.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, read.var((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert norm.momentum == 0.1


@pytest.mark.parametrize(
    "step",
    [
        {"how": "something"},
        {"how": "sizes", "sizes": {}, "shapes": {"net.head.weight": [10, 10**9]}},
        {"how": "sizes", "sizes": {"net.head": {"in_features": 10**9}}, "shapes": {}},
        {"how": "sizes", "sizes": {"net.head": {"forward": 1}}, "shapes": {}},
        {"how": "rank", "ranks": {"net.head": 10**9}},
        {"how": "rank", "ranks": {"net.stages": 1}},
        {"how": "rank", "ranks": {"net.missing": 1}},
        {"how": "blocks", "at": "net.missing", "keep": [0]},
        {},
    ],
)
def test_steps_that_nobody_wrote_are_damage(step: dict[str, Any]) -> None:
    with pytest.raises(DamagedError, match="not what was written"):
        rebuilt(made(), [step])


# ---- single weights --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [("adamw", {"weight_decay": 0.1}), ("sgd", {"momentum": 0.9, "nesterov": True}), ("rmsprop", {"momentum": 0.9})],
)
def test_zeros_stay_zero_while_the_rest_learns(optimizer: str, options: dict[str, Any]) -> None:
    small, steps = smaller(made(), Shrink(prune=Prune(0.2, kind="unstructured")))
    assert is_masked(small)
    first = plain(small)
    weights = sum(layer.weight.numel() for layer in first.modules() if isinstance(layer, (nn.Conv2d, nn.Linear)))
    assert zeros_of(small) == weights - round(0.2 * weights)
    assert steps[0]["share"] == pytest.approx(0.8, abs=1e-3)
    learner = copy.deepcopy(small).train()
    taken = make_optimizer(optimizer, learner.parameters(), lr=0.05, **options)
    for _ in range(5):
        taken.zero_grad()
        nn.functional.cross_entropy(learner(images()), labels()).backward()
        taken.step()
    shipped = plain(learner)
    assert not is_masked(shipped)
    assert is_masked(learner), "the student itself goes on"
    assert list(shipped.state_dict()) == list(made().state_dict()), "no key tells of masks"
    assert str(shipped) == str(made())
    assert torch.equal(logits(shipped), logits(learner))
    moved = 0
    for name, value in first.state_dict().items():
        if name.endswith("weight") and value.ndim > 1:
            now = shipped.state_dict()[name]
            assert bool((now[value == 0] == 0).all())
            moved += int((now != value).sum())
    assert moved > 100


def test_masks_of_a_file_are_its_zeros() -> None:
    small, _ = smaller(made(), Shrink(prune=Prune(0.2, kind="unstructured")))
    again = remasked(plain(small)).state_dict()
    kept = {name: value for name, value in small.state_dict().items() if value.dtype is torch.bool}
    assert len(kept) == 5
    assert all(torch.equal(again[name], value) for name, value in kept.items())


def test_the_greatest_scores_of_all_layers_stay_and_ties_fall_in_order() -> None:
    found = masks_for({"a": torch.tensor([[3.0, 1.0]]), "b": torch.tensor([2.0, 1.0, 1.0])}, 3)
    assert found["a"].tolist() == [[True, True]]
    assert found["b"].tolist() == [True, False, False]


def test_a_masked_copy_may_begin_with_early_weights() -> None:
    late, early = made(), fresh("cnn", {"width": 8, "depth": 2}, seed=9)
    how = Shrink(prune=Prune(0.3, kind="unstructured"))
    ticket = plain(shrink(late, how, images(), labels(), early=early).module)
    masked = plain(shrink(late, how, images(), labels()).module)
    for name, value in ticket.state_dict().items():
        kept = masked.state_dict()[name] != 0 if value.ndim > 1 and name.endswith("weight") else torch.ones(())
        if "running" not in name and "tracked" not in name:
            assert torch.equal(value, early.state_dict()[name] * kept), name


# ---- lower ranks, fewer blocks ---------------------------------------------------------------------------------------


def test_the_factors_are_the_truncated_decomposition() -> None:
    base = made("mlp", {"width": 16})
    small, steps = smaller(base, Shrink(rank=Rank(0.6, "energy", ["net.hidden.1"])))
    rank = steps[0]["ranks"]["net.hidden.1"]
    weight = base.get_submodule("net.hidden.1").weight.detach().double()  # type: ignore[operator]
    values, vectors = torch.linalg.eigh(weight @ weight.T)  # the squares, by another way, the least first
    shares = values.flip(0) / values.sum()
    assert rank == int((shares.cumsum(0) < 0.6).sum()) + 1
    best = vectors[:, -rank:] @ vectors[:, -rank:].T @ weight  # the projection on the leading directions
    first, second = small.get_submodule("net.hidden.1").children()
    torch.testing.assert_close((second.weight @ first.weight).double(), best, rtol=1e-4, atol=1e-5)  # type: ignore[operator]


def test_a_convolution_of_full_rank_in_two_says_the_same() -> None:
    base = made()
    with torch.no_grad():
        layer = base.get_submodule("net.stages.1.3")
        left, right = torch.randn(12, 2), torch.randn(2, 12 * 9)
        layer.weight.copy_((left @ right).view_as(layer.weight) / 10)  # type: ignore[operator, union-attr]
    small, steps = smaller(base, Shrink(rank=Rank(0.999, "energy", ["net.stages.1.3"])))
    assert steps == [{"how": "rank", "ranks": {"net.stages.1.3": 2}}]
    torch.testing.assert_close(logits(small), logits(base), rtol=1e-3, atol=1e-4)


def test_a_rank_goes_down_only_where_that_saves() -> None:
    with pytest.raises(ModelError, match="no layer gets smaller"):
        smaller(made(), Shrink(rank=Rank(0.999, "energy", ["net.head"])))
    with pytest.raises(ModelError, match="cannot go down so far"):
        smaller(made(), Shrink(rank=Rank(0.2, layers=["net.head"])))
    with pytest.raises(ModelError, match=r"no layer `net\.haed`"):
        smaller(made(), Shrink(rank=Rank(0.5, layers=["net.haed"])))


def test_blocks_are_kept_or_averaged() -> None:
    base = made("transformer", {"width": 16, "depth": 4})
    old = base.state_dict()
    for how, expected in ((Thin(keep=[3, 1]), (1, 3)), (Thin(every=3), (0, 3)), (Thin(average=2), (0, 2))):
        small, steps = smaller(base, Shrink(layers=how))
        assert steps == [{"how": "blocks", "at": "net.blocks", "keep": list(expected)}]
        for now, was in enumerate(expected):
            value = old[f"net.blocks.{was}.mlp.0.weight"]
            if how.average:
                value = (value + old[f"net.blocks.{was + 1}.mlp.0.weight"]) / 2
            torch.testing.assert_close(small.state_dict()[f"net.blocks.{now}.mlp.0.weight"], value)
        assert len(small.get_submodule("net.blocks")) == 2  # type: ignore[arg-type]
        again = rebuilt(fresh("transformer", {"width": 16, "depth": 4}), steps)
        again.load_state_dict(small.state_dict())
    with pytest.raises(ModelError, match="no such blocks"):
        smaller(base, Shrink(layers=Thin(keep=[4])))
    with pytest.raises(ModelError, match="no chain of equal blocks"):
        smaller(made(), Shrink(layers=Thin(every=2)))


@pytest.mark.parametrize(
    "wrong",
    [lambda: Prune(1.0), lambda: Prune(0.5, by="luck"), lambda: Rank(0.0), lambda: Thin(), lambda: Thin(every=1)],  # type: ignore[arg-type]
)
def test_what_cannot_be_is_refused(wrong: Any) -> None:
    with pytest.raises(InputError):
        wrong()


# ---- in a run --------------------------------------------------------------------------------------------------------


def recipe(**changed: Any) -> dict[str, Any]:
    return {
        "name": "smaller", "seeds": [0], "data": {"source": "digits", "limit": 200}, "threads": 1,
        "teacher": {"model": "cnn", "args": {"width": 8, "depth": 2}, "train": {"epochs": 2, "lr": 0.01}},
        "student": {"model": "teacher", "prune": {"to": 0.5}}, "train": {"epochs": 1, "lr": 0.005},
        "report": {"latency": False, "bootstrap": 100}, **changed,
    }  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tutelage.run.Run:  # type: ignore[name-defined]
    students = {
        "pruned": {"model": "teacher", "prune": {"to": 0.5}},
        "low": {"model": "teacher", "rank": {"to": 0.6}, "frozen": ["net.stages.0.0"]},
        "ticket": {"model": "teacher", "prune": {"to": 0.2, "kind": "unstructured", "rewind": True}},
    }
    changed = recipe(students=students)
    del changed["student"]
    place = tmp_path_factory.mktemp("compress")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUTELAGE_CACHE", str(place / "cache"))
        return run_recipe(from_mapping(changed), place / "run", quiet=True)


@pruning
def test_students_begin_smaller_and_their_files_are_whole(run: Any) -> None:
    rows = {row["name"]: row for row in run.report["models"]}
    assert rows["pruned.scratch"]["multiply_adds"] <= 0.5 * rows["teacher"]["multiply_adds"]
    assert rows["low.distilled"]["parameters"] <= 0.6 * rows["teacher"]["parameters"]
    assert len(run.report["comparisons"]) == 3, "each is compared with itself without a teacher"
    for arm in ("pruned.distilled", "low.scratch", "ticket.distilled"):
        student = load_student(run.student(arm))
        facts = json.loads((run.student(arm) / "student.json").read_text())
        assert facts["model"] == "cnn"
        assert [step["how"] for step in facts["smaller"]] == [{"p": "sizes", "l": "rank", "t": "zeros"}[arm[0]]]
        assert sum(value.numel() for value in student.parameters()) == rows[arm]["parameters"]
    masked = load_student(run.student("ticket.distilled"))
    assert zeros_of(masked) >= 0.79 * sum(p.numel() for p in masked.parameters() if p.ndim > 1)
    begin = load_file(run.folder / "checkpoints" / "beginnings" / "low.safetensors")
    after = load_file(run.student("low.distilled") / "student.safetensors")
    frozen = [name for name in begin if name.startswith("net.stages.0.0")]
    assert frozen
    assert all(torch.equal(begin[name], after[name]) for name in frozen), "frozen layers do not learn"
    assert any(not torch.equal(begin[name], after[name]) for name in begin)


@pruning
def test_a_smaller_student_is_where_another_begins(run: Any, tmp_path: Path) -> None:
    file = run.student("pruned.distilled") / "student.safetensors"
    student = {
        "model": "cnn", "args": {"width": 8, "depth": 2}, "weights": str(file),
        "prune": {"to": 0.5, "kind": "unstructured"},
    }  # fmt: skip
    teacher = {
        "model": "cnn",
        "args": {"width": 8, "depth": 2},
        "weights": str(run.folder / "teacher" / "teacher.safetensors"),
    }
    again = run_recipe(from_mapping(recipe(student=student, teacher=teacher)), tmp_path / "again", quiet=True)
    facts = json.loads((again.student() / "student.json").read_text())
    assert [step["how"] for step in facts["smaller"]] == ["sizes", "zeros"]
    shape = load_file(file)["net.stages.0.0.weight"].shape
    assert load_student(again.student()).get_submodule("net.stages.0.0").weight.shape == shape


@pruning
def test_a_run_that_goes_on_begins_with_the_same(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_CACHE", str(run.folder.parent / "cache"))
    mapping = recipe(student={"model": "teacher", "prune": {"to": 0.3, "kind": "unstructured"}})
    straight = run_recipe(from_mapping(mapping), tmp_path / "a", quiet=True)
    execute = sys.modules["tutelage.run.execute"]  # the module, not the function of that name

    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(execute, "train_seed", stopped)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(from_mapping(mapping), tmp_path / "b", quiet=True)
    kept = tmp_path / "b" / "checkpoints" / "beginnings" / "student.safetensors"
    before = kept.stat().st_mtime_ns
    resumed = run_recipe(from_mapping(mapping), tmp_path / "b", quiet=True)
    assert kept.stat().st_mtime_ns == before
    for arm in ("scratch", "distilled"):
        one, two = (load_file(which.student(arm) / "student.safetensors") for which in (straight, resumed))
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_same_in_python(tmp_path: Path) -> None:
    data = images(200), labels(200)
    student = {"model": "teacher", "rank": {"to": 0.7}}
    done = tutelage.distill(made(), student, data, out=tmp_path / "run", epochs=1, quiet=True)
    rows = {row["name"]: row["parameters"] for row in done.report["models"]}
    assert rows["distilled"] <= 0.7 * rows["teacher"]


@pytest.mark.parametrize(
    ("student", "said"),
    [
        ({"model": "cnn", "prune": {"to": 0.5}}, "knows nothing yet"),
        ({"model": "teacher", "weights": "x.safetensors"}, "no weights or args of its own"),
        ({"model": "teacher", "prune": {"to": 1.5}}, "to"),
        ({"model": "teacher", "prune": {"to": 0.5, "rewind": True}}, "only single weights"),
        ({"model": "teacher", "layers": {"every": 2, "average": 2}}, "one way"),
        ({"model": "cnn", "weights": "x.safetensors", "prune": {"to": 0.5, "kind": "unstructured", "rewind": True}},
         "teacher's own"),
    ],
)  # fmt: skip
def test_recipes_that_cannot_be_are_refused(student: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        from_mapping(recipe(student=student))


def test_a_student_cannot_begin_as_several_teachers_or_be_rewound_to_an_unknown_beginning(tmp_path: Path) -> None:
    teacher = recipe()["teacher"]
    several = recipe(teachers={"a": teacher, "b": {**teacher, "seed": 1}})
    del several["teacher"]
    with pytest.raises(RecipeError, match="unknown model"):
        job_of_recipe(from_mapping(several), trust=False)
    save_weights(made(), tmp_path / "teacher.safetensors")
    given = {"model": "cnn", "args": {"width": 8, "depth": 2}, "weights": str(tmp_path / "teacher.safetensors")}
    student = {"model": "teacher", "prune": {"to": 0.5, "kind": "unstructured", "rewind": True}}
    with pytest.raises(InputError, match="rewound"):
        job_of_recipe(from_mapping(recipe(teacher=given, student=student)), trust=False)


# ---- the command -----------------------------------------------------------------------------------------------------


def test_a_model_of_somebody_elses_is_made_smaller(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        json.dumps(recipe(student={"model": "cnn", "args": {"width": 8, "depth": 2}})), encoding="utf-8"
    )
    save_weights(made(), tmp_path / "model.safetensors")
    words = ["compress", str(tmp_path / "recipe.yaml"), "--weights", str(tmp_path / "model.safetensors")]
    asked = [*words, "--rank", "0.6", "--finetune", "1", "--out", str(tmp_path / "out"), "--json", "-q"]
    told = CliRunner().invoke(cli, asked, catch_exceptions=False)
    assert told.exit_code == 0, told.output
    before, after, learned = json.loads(told.stdout)["states"]
    assert after["parameters"] <= 0.6 * before["parameters"]
    assert after["file_bytes"] < before["file_bytes"]
    assert learned["parameters"] == after["parameters"]
    student = load_student(tmp_path / "out")
    assert sum(value.numel() for value in student.parameters()) == after["parameters"]
    splits = load("digits")
    assert student(splits.val.inputs[:2].float() / 255).shape == (2, 10)
    again = CliRunner().invoke(cli, asked)
    assert isinstance(again.exception, InputError)
    assert "holds a student already" in str(again.exception)


@pruning
def test_a_student_of_a_run_is_made_smaller_again(run: Any, tmp_path: Path) -> None:
    asked = [
        "compress",
        f"{run.folder}:pruned.distilled",
        "--prune",
        "0.5",
        "--unstructured",
        "--out",
        str(tmp_path / "o"),
    ]
    told = CliRunner().invoke(cli, asked, catch_exceptions=False)
    assert "student.weights" in told.stdout
    facts = json.loads((tmp_path / "o" / "student.json").read_text())
    assert [step["how"] for step in facts["smaller"]] == ["sizes", "zeros"]
    assert zeros_of(load_student(tmp_path / "o")) > 0
    load_weights(load_student(run.student("pruned.distilled")), tmp_path / "o" / "student.safetensors")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing makes the model smaller"),
        (["--layers", "every"], "which blocks stay"),
        (["--by", "taylor"], "belong to --prune"),
        (["--energy"], "belongs to --rank"),
        (["--prune", "2"], "cannot be pruned like this"),
    ],
)
def test_commands_that_cannot_be_are_refused(words: list[str], said: str) -> None:
    told = CliRunner().invoke(cli, ["compress", "runs/none", *words])
    assert isinstance(told.exception, InputError)
    assert said in str(told.exception)

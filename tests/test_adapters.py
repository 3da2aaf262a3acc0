"""Students that learn in small parts: what is frozen stays, what ships is plain, and a stop changes nothing."""

from __future__ import annotations

import copy
import hashlib
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import tutelage
from tutelage.data import load
from tutelage.errors import InputError, MissingExtraError, ModelError, RecipeError
from tutelage.models import (
    Adapter,
    Classifier,
    ModelSpec,
    adapt,
    build,
    is_adapted,
    learning_count,
    load_weights,
    merge,
    parameter_count,
    save_weights,
    state_digest,
)
from tutelage.models.adapters import KINDS, takes_any_order
from tutelage.recipe import from_mapping
from tutelage.recipe.learners import AdapterSpec
from tutelage.run import load_student, run_recipe
from tutelage.run.job import job_of_recipe
from tutelage.taps import Taps
from tutelage.training import Checkpoints, make_optimizer

peft = pytest.mark.skipif(find_spec("peft") is None, reason="the extra `peft` is not installed")
hf = pytest.mark.skipif(find_spec("transformers") is None, reason="the extra `hf` is not installed")

VIT = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "patch_size": 4,
}  # fmt: skip
NETS = [
    ("cnn", {"width": 8, "depth": 2}),
    ("dscnn", {"width": 8, "depth": 1}),
    ("transformer", {"width": 16, "depth": 1}),
    ("mlp", {"width": 16}),
    pytest.param("hf:vit", VIT, marks=hf),
]


def made(name: str = "cnn", args: dict[str, Any] | None = None, seed: int = 3) -> Classifier:
    """A net whose batch norms have seen something, so that train mode and eval mode differ."""
    torch.manual_seed(seed)
    spec = ModelSpec(name, {"width": 8, "depth": 2} if args is None else args)
    net = build(spec, input_shape=(1, 8, 8), classes=10, mean=[0.4], std=[0.3])
    with torch.no_grad():
        for _ in range(3):
            net(torch.rand(16, 1, 8, 8))
    return net


def images() -> Tensor:
    return torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def learn(module: nn.Module, steps: int = 6) -> None:
    """A few large steps in train mode over what learns, as an arm's optimizer takes them."""
    optimizer = make_optimizer("adamw", module.parameters(), lr=0.02, weight_decay=0.1)
    module.train()
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(images()), torch.arange(16) % 10).backward()
        optimizer.step()


def logits(module: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = module.eval()(images())
    return found


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


# ---- a module --------------------------------------------------------------------------------------------------------


@peft
@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize(("name", "args"), NETS)
def test_only_adapters_learn_and_merging_gives_the_plain_architecture(
    name: str, args: dict[str, Any], kind: str
) -> None:
    base = made(name, args)
    before, plain_state = logits(base), state(base)
    student = adapt(copy.deepcopy(base), Adapter(kind, rank=2, alpha=4.0, dropout=0.1))
    assert torch.equal(logits(student), before), "at step 0 the adapters say nothing"
    learners = {path for path, parameter in student.named_parameters() if parameter.requires_grad}
    assert learners
    assert all("lora_" in path for path in learners)

    learn(student)
    after = state(student)
    for path, value in plain_state.items():
        layer, _, last = path.rpartition(".")
        inside = path if path in after else f"{layer}.base_layer.{last}"
        assert torch.equal(after[inside], value), f"{path} was frozen"
    said = logits(student)
    assert (said - before).abs().max() > 0.01, "the adapters learned"

    merged = merge(student)
    assert list(merged.state_dict()) == list(plain_state), "no key tells of adapters"
    assert not is_adapted(merged)
    assert is_adapted(student), "the student itself goes on"
    torch.testing.assert_close(logits(merged), said, rtol=1e-4, atol=1e-5)
    fresh = made(name, args, seed=8)
    fresh.load_state_dict(merged.state_dict())
    assert torch.equal(logits(fresh), logits(merged))
    assert str(fresh) == str(merged)


@peft
def test_merged_weights_are_those_of_the_papers() -> None:
    base = made("mlp", {"width": 16})
    for kind in KINDS:
        student = adapt(copy.deepcopy(base), Adapter(kind, rank=3, alpha=6.0, targets=["net.head"]))
        learn(student)
        parts = {path.removeprefix("net.head."): value.double() for path, value in student.state_dict().items()}
        product = parts["lora_B.default.weight"] @ parts["lora_A.default.weight"]
        expected = parts["base_layer.weight"] + 6.0 / 3 * product
        if kind == "dora":
            length = parts["lora_magnitude_vector.default.weight"]
            expected = length[:, None] * expected / torch.linalg.vector_norm(expected, dim=1, keepdim=True)
        found = merge(student).get_submodule("net.head")
        assert isinstance(found, nn.Linear)
        torch.testing.assert_close(found.weight.double(), expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.bias, parts["base_layer.bias"].float(), rtol=0, atol=0)


@peft
def test_layers_may_learn_fully_beside_adapters_and_frozen_wins() -> None:
    student = made()
    adapter = Adapter(rank=2, targets=["net.stages"], train=["net.head", "net.stages.1.*"])
    adapt(student, adapter, frozen=["net.stages.0.0", "net.stages.1.4"])
    learns = {path for path, parameter in student.named_parameters() if parameter.requires_grad}
    assert {path.split(".lora")[0] for path in learns if "lora" in path} == {"net.stages.0.3"}
    full = {path for path in learns if "lora" not in path}
    assert full == {"net.head.weight", "net.head.bias"} | {f"net.stages.1.{end}" for end in (
        "0.weight", "1.weight", "1.bias", "3.weight",
    )}  # fmt: skip
    before = state(student)
    learn(student)
    moved = {path for path, value in student.state_dict().items() if not torch.equal(value, before[path])}
    # A norm that learns keeps its statistics, one that does not keeps them as they were.
    assert "net.stages.1.1.running_mean" in moved
    assert not {path for path in moved if path.startswith(("net.stages.1.4", "net.stages.0.1", "net.stages.0.4"))}
    assert learning_count(student) == sum(before[path].numel() for path in learns)


def test_frozen_layers_stay_to_the_last_bit_without_adapters() -> None:
    student, before = made(), state(made())
    adapt(student, frozen=["net.stages.0"])
    for _ in range(2):  # the mode of the whole is set again by whoever asks for predictions
        student.train()
        learn(student)
    after = student.state_dict()
    same = {path for path in before if torch.equal(before[path], after[path])}
    assert {path for path in before if path.startswith(("net.stages.0", "normalise"))} == same
    copied = copy.deepcopy(student)
    learn(copied)
    assert torch.equal(copied.state_dict()["net.stages.0.1.running_var"], before["net.stages.0.1.running_var"])
    assert merge(student) is student
    assert learning_count(student) == parameter_count(student) - sum(
        p.numel() for p in student.get_submodule("net.stages.0").parameters()
    )


@peft
def test_a_merged_module_learns_like_any_other() -> None:
    merged = merge(adapt(made(), Adapter(rank=2))).requires_grad_(True)
    before = state(merged)
    learn(merged)
    after = merged.state_dict()
    assert not [path for path in before if torch.equal(before[path], after[path]) and "normalise" not in path]


@peft
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_another_order_of_memory_changes_nothing(kind: str) -> None:
    plain = adapt(made(), Adapter(kind, rank=2))
    learn(plain)
    turned = copy.deepcopy(plain)
    if takes_any_order(plain):
        turned.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    else:
        assert kind == "dora", "PEFT takes views of its matrices there"
    learn(turned, steps=1)
    learn(plain, steps=1)
    for other in (turned, merge(turned)):
        torch.testing.assert_close(logits(other), logits(plain), rtol=1e-3, atol=1e-4)


@peft
def test_dora_trains_where_channels_last_was_asked_for(weights: Path, tmp_path: Path) -> None:
    student = {**SMALL, "weights": str(weights), "adapter": {"kind": "dora", "rank": 1}}
    train = {"epochs": 1, "lr": 0.01, "channels_last": "on"}
    whole = recipe(weights, students={}, student=student, train=train, seeds=[0], arms={"scratch": CROSS_ENTROPY})
    run = run_recipe(from_mapping(whole), tmp_path / "run", quiet=True)
    assert load_file(run.student("scratch") / "student.safetensors").keys() == load_file(weights).keys()


@peft
def test_adapters_take_the_mode_of_what_they_adapt() -> None:
    student = adapt(made().eval(), Adapter(rank=2, dropout=0.5))
    assert not [path for path, layer in student.named_modules() if layer.training]
    assert [path for path, layer in student.train().named_modules() if layer.training and "lora_dropout" in path]


@peft
def test_taps_hear_the_adapted_layer_under_its_old_path() -> None:
    student = adapt(made(), Adapter(rank=2))
    learn(student)
    with Taps(student, ["net.head", "net.stages.0.3"]) as taps:
        said = logits(student)
        heard = taps.take()
    assert torch.equal(heard["net.head"], said)
    merged = merge(student)
    with Taps(merged, ["net.stages.0.3"]) as taps:
        logits(merged)
        torch.testing.assert_close(heard["net.stages.0.3"], taps.take()["net.stages.0.3"], rtol=1e-4, atol=1e-5)


class Odd(nn.Module):
    """Layers that share weights, or whose weights are read and not called, beside one that can be adapted."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = self.one.weight
        self.again = self.free = nn.Linear(4, 4)
        self.block = nn.TransformerEncoderLayer(4, 1, 4, batch_first=True)
        self.grouped = nn.Conv1d(4, 4, 1, groups=2)
        self.last = nn.Linear(4, 3)


@peft
def test_layers_where_an_adapter_would_go_unheard_are_passed_over() -> None:
    student = adapt(Odd(), Adapter(rank=1))
    assert {path.split(".lora")[0] for path, p in student.named_parameters() if p.requires_grad} == {"last"}
    for path in ("one", "free", "block.linear1", "grouped", "block"):
        with pytest.raises(ModelError, match=f"`{path}` leads to no layer that can take an adapter"):
            adapt(Odd(), Adapter(rank=1, targets=["last", path]))


@peft
@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda m: adapt(m, Adapter(targets=["net.hed"])), ModelError, r"no layer `net\.hed`(.|\n)*`net\.head`"),
        (lambda m: adapt(m, Adapter(train=["head"])), ModelError, r"no layer `head` \(adapter\.train\)"),
        (lambda m: adapt(m, frozen=["net.stagse.*"]), ModelError, r"no layer `net\.stagse\.\*` \(frozen\)"),
        (lambda m: adapt(m, frozen=["*"]), ModelError, "nothing of this model would learn"),
        (lambda m: adapt(m, Adapter(), frozen=["net"]), ModelError, "no layer is left to take an adapter"),
        (lambda m: adapt(m, Adapter(targets=["net.stages.0.1"])), ModelError, "BatchNorm2d"),
        (lambda m: adapt(adapt(m, Adapter()), Adapter()), InputError, "adapters already"),
        (lambda m: Adapter("ia3"), InputError, "no adapter `ia3`(.|\n)*lora, dora"),
        (lambda m: Adapter(rank=0), InputError, "rank ≥ 1"),
        (lambda m: Adapter(dropout=1.0), InputError, "dropout < 1"),
        (lambda m: Adapter(targets="net.head"), InputError, "lists of layers"),
    ],
    ids=["target", "train", "frozen", "all-frozen", "none-left", "norm", "twice", "kind", "rank", "dropout", "text"],
)
def test_what_cannot_be_is_refused_in_words(
    change: Callable[[nn.Module], object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        change(made())


def test_without_peft_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"tutelage\[peft\]"):
        adapt(made(), Adapter())


@peft
def test_what_peft_refuses_is_told_in_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ImportError("Found an incompatible version\nof another package")

    monkeypatch.setattr("peft.inject_adapter_in_model", refuse)
    with pytest.raises(
        ModelError, match="PEFT cannot adapt this model: Found an incompatible version of another package"
    ):
        adapt(made(), Adapter())


# ---- a recipe --------------------------------------------------------------------------------------------------------


SMALL: dict[str, Any] = {"model": "cnn", "args": {"width": 8, "depth": 2, "dropout": 0.1}}
CROSS_ENTROPY = [{"loss": "cross_entropy"}]


def recipe(weights: Path, **changes: object) -> dict[str, Any]:
    adapter = {"rank": 2, "targets": ["net.stages.1", "net.head"], "dropout": 0.1}
    return {
        "name": "parts",
        "seeds": [0, 1],
        "data": {"source": "digits", "limit": 160},
        "teacher": {"model": "mlp", "args": {"width": 16}, "train": {"epochs": 2, "lr": 0.01}},
        "students": {
            "full": {**SMALL, "weights": str(weights)},
            "parts": {**SMALL, "weights": str(weights), "adapter": adapter},
        },
        "arms": {
            # An adapted layer on the student's side, and a connector that learns along.
            "hint": [{"loss": "soft_target"}, {"loss": "hint", "at": "net.head", "connector": "linear"}],
        },
        "train": {"epochs": 2, "batch_size": 32, "lr": 0.01},
        "compress": ["int8"],
        "report": {"bootstrap": 200, "latency": False},
        **changes,
    }


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "base.safetensors"
    save_weights(made(args=SMALL["args"]), path)
    return path


@pytest.fixture(scope="module")
def finished(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> tutelage.Run:
    return run_recipe(from_mapping(recipe(weights)), tmp_path_factory.mktemp("runs") / "parts", quiet=True)


def sums(folder: Path) -> dict[str, str]:
    files = sorted(folder.glob("students/*/*/*.safetensors"))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@peft
def test_a_run_ships_plain_students_and_says_how_much_learned(finished: tutelage.Run, weights: Path) -> None:
    base = load_file(weights)
    plain = made(args=SMALL["args"])
    for arm in ("scratch", "hint"):
        for seed in (0, 1):
            folder = finished.student(f"parts.{arm}", seed)
            for file in ("student.safetensors", "last.safetensors"):
                tensors = load_file(folder / file)
                assert tensors.keys() == base.keys()
                still = {path for path in base if torch.equal(base[path], tensors[path])}
                moved = {"net.stages.1.0.weight", "net.stages.1.3.weight", "net.head.weight"}
                assert set(base) - still == moved
            load_weights(plain, folder / "student.safetensors")
            assert torch.equal(logits(load_student(folder)), logits(plain))
            load_student(folder, compression="int8")
    # By hand: rank × (inputs × kernel + outputs) for every adapted layer; widths 8 and 12.
    expected = 2 * (8 * 9 + 12) + 2 * (12 * 9 + 12) + 2 * (12 + 10)
    assert finished.report["learned"] == {f"parts.{arm}": expected for arm in ("scratch", "hint")}
    rows = {model["name"]: model for model in finished.report["models"]}
    assert rows["parts.hint"]["parameters"] == rows["full.hint"]["parameters"] == parameter_count(plain)
    assert f"{expected:,} parameters learned" in rows["parts.hint"]["describes"]
    assert "learned" not in rows["full.hint"]["describes"]
    assert f"student parts {parameter_count(plain):,} ({expected:,} learn)" in (finished.folder / "log.txt").read_text(
        encoding="utf-8"
    )


@peft
def test_checkpoints_hold_adapters_and_the_optimizer_only_what_learns(finished: tutelage.Run) -> None:
    last = max((finished.folder / "checkpoints" / "seed-0").glob("step-*"))
    tensors = load_file(last / "model.safetensors")
    mine = {name for name in tensors if name.startswith("parts.scratch/")}
    assert sum(".lora_A." in name for name in mine) == 3
    steps = {name for name in load_file(last / "optim.safetensors") if name.startswith("parts.scratch/")}
    assert len({name.split("/")[1].split(".")[0] for name in steps}) == 6, "A and B of three layers"


@peft
def test_a_stop_in_the_middle_changes_no_bit(
    finished: tutelage.Run, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: Checkpoints, cohort: Any, at: Any) -> None:
        if cohort.name == "seed-1" and at.step == 7:
            self.save(cohort)
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "on_step", stop)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(from_mapping(recipe(weights)), tmp_path / "run", quiet=True)
    assert sums(tmp_path / "run") != sums(finished.folder)
    run_recipe(from_mapping(recipe(weights)), tmp_path / "run", quiet=True)
    assert "continuing at step 7" in (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")
    assert sums(tmp_path / "run") == sums(finished.folder)


def test_a_run_goes_on_with_the_weights_it_began_with(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "base.safetensors"
    own.write_bytes(weights.read_bytes())
    student = {**SMALL, "weights": str(own), "frozen": ["net.stages.0"]}
    plan = from_mapping(recipe(own, students={}, student=student, seeds=[0], arms={"scratch": CROSS_ENTROPY}))

    def stop(self: Checkpoints, cohort: Any, at: Any) -> None:
        if cohort.name == "seed-0":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "on_step", stop)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(plan, tmp_path / "run", quiet=True)
    save_weights(made(args=SMALL["args"], seed=9), own)
    with pytest.raises(ModelError, match="not those that this run began with"):
        run_recipe(plan, tmp_path / "run", quiet=True)
    own.write_bytes(weights.read_bytes())
    run = run_recipe(plan, tmp_path / "run", quiet=True)
    shipped, base = load_file(run.student("scratch") / "student.safetensors"), load_file(weights)
    assert all(torch.equal(shipped[path], base[path]) for path in base if path.startswith("net.stages.0"))
    assert not torch.equal(shipped["net.stages.1.1.running_mean"], base["net.stages.1.1.running_mean"])
    assert run.report["learned"]["scratch"] < parameter_count(load_student(run.student("scratch")))


@peft
def test_every_seed_begins_with_the_same_weights_and_its_own_adapters(weights: Path) -> None:
    job = job_of_recipe(from_mapping(recipe(weights)), trust=False)
    begun = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        begun.append(job.students["parts"].build())
    assert torch.equal(logits(begun[0]), logits(begun[1]))
    base = made(args=SMALL["args"], seed=7)
    load_weights(base, weights)
    assert torch.equal(logits(begun[0]), logits(base))
    assert state_digest(begun[0]) != state_digest(begun[1]), "the first matrix is drawn"
    torch.manual_seed(0)
    assert state_digest(job.students["parts"].build()) == state_digest(begun[0])


def test_recipes_and_python_speak_of_the_same_adapter() -> None:
    ours = AdapterSpec().model_dump()
    assert {key: getattr(Adapter(), key) for key in ours} == ours
    kinds = AdapterSpec.model_json_schema()["properties"]["kind"]["enum"]
    assert sorted(kinds) == sorted(KINDS)


@pytest.mark.parametrize(
    ("student", "words"),
    [
        ({"adapter": {}}, "knows nothing yet that could be adapted"),
        ({"weights": "a", "adapter": {"r": 4}}, "unknown key `r`(.|\n)*did you mean `rank`"),
        ({"weights": "a", "adapter": {"target_modules": []}}, "did you mean `targets`"),
        ({"weights": "a", "adapter": {"kind": "ia3"}}, "expected lora or dora, got 'ia3'"),
        ({"weights": "a", "adapter": {"targets": []}}, "a list of layers such as"),
        ({"dropout": 0.1}, "write args: {dropout: …}"),
    ],
    ids=["nothing-to-adapt", "r", "target_modules", "kind", "no-targets", "dropout"],
)
def test_a_recipe_that_is_wrong_says_where(student: dict[str, Any], words: str, weights: Path) -> None:
    with pytest.raises(RecipeError, match=words):
        from_mapping(recipe(weights, students={}, student={"model": "mlp", **student}))


def test_regularisers_are_reached_from_a_recipe(weights: Path) -> None:
    whole = from_mapping(
        recipe(
            weights, students={}, student={"model": "mlp", "args": {"dropout": 0.3}},
            arms={"distilled": [{**CROSS_ENTROPY[0], "options": {"label_smoothing": 0.2}}, {"loss": "soft_target"}]},
            train={"epochs": 1, "optimizer_args": {"weight_decay": 0.25}},
        )
    )  # fmt: skip
    job = job_of_recipe(whole, trust=False)
    student = job.students[""].build()
    assert {layer.p for layer in student.modules() if isinstance(layer, nn.Dropout)} == {0.3}
    optimizer = make_optimizer("adamw", student.parameters(), lr=0.1, **job.train.optimizer_args)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.25}
    term = job.arms["distilled"].objective.terms[0]
    rows, truth = torch.randn(5, 10), torch.arange(5)
    expected = nn.functional.cross_entropy(rows, truth, label_smoothing=0.2)
    torch.testing.assert_close(term.loss(rows, truth, **term.options), expected)


# ---- from Python -----------------------------------------------------------------------------------------------------


@peft
def test_python_takes_a_description_or_an_adapted_module(weights: Path, tmp_path: Path) -> None:
    splits = load("digits", path=None, val=0.1, test=0.05, seed=0)
    splits = replace(splits, train=splits.train.take(torch.arange(200)))
    own = made(args=SMALL["args"])
    kept = logits(own)
    described = {**SMALL, "weights": weights, "adapter": {"rank": 1}}
    run = tutelage.distill(
        made("mlp", {"width": 8}), {"described": described, "module": adapt(own, Adapter(rank=1))}, splits,
        out=tmp_path / "run", epochs=1, lr=0.01, quiet=True,
    )  # fmt: skip
    assert set(run.report["learned"]) == {
        f"{name}.{arm}" for name in ("described", "module") for arm in ("scratch", "distilled")
    }
    base = load_file(weights)
    for name in ("described", "module"):
        tensors = load_file(run.student(f"{name}.distilled") / "student.safetensors")
        assert tensors.keys() == base.keys()
        assert not torch.equal(tensors["net.head.weight"], base["net.head.weight"])
        assert torch.equal(tensors["net.stages.0.1.running_mean"], base["net.stages.0.1.running_mean"])
    assert torch.equal(logits(own), kept), "the module that was given is only read"
    assert load_student(run.student("described.distilled"))(images()).shape == (16, 10)
    with pytest.raises(RecipeError, match=r"student\.adapter\.rank"):
        tutelage.distill(made(), {**described, "adapter": {"rank": 0}}, splits, out=tmp_path / "other")

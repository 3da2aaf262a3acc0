"""Taps: what named layers put out, by path or pattern; nothing old, nothing changed, and nothing left behind."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

from tutelage.errors import ModelError
from tutelage.taps import Taps
from tutelage.teachers import ModuleTeacher
from tutelage.types import Batch


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.act = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.act(self.linear(x))
        return out


class Net(nn.Module):
    """Blocks, a head, and two layers that say little: one that does not run, and one that puts out a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Block(4) for _ in range(12)])
        self.head = nn.Linear(4, 3)
        self.unused = nn.Linear(4, 4)
        self.recurrent = nn.GRU(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        self.recurrent(x.unsqueeze(1))
        out: Tensor = self.head(x)
        return out


def hooks(module: nn.Module) -> int:
    return sum(len(layer._forward_hooks) for layer in module.modules())


def x(rows: int = 5, *, seed: int = 1) -> Tensor:
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed))


# Places


@pytest.mark.parametrize(
    ("places", "found"),
    [
        (["head"], ["head"]),
        (["layers.2"], ["layers.2"]),
        (["layers.1.act"], ["layers.1.act"]),
        (["head", "layers.0", "head"], ["head", "layers.0"]),
        (["layers.?"], [f"layers.{n}" for n in range(10)]),
        (["layers.[02]"], ["layers.0", "layers.2"]),
        (["layers.1*.act"], ["layers.1.act", "layers.10.act", "layers.11.act"]),
        (["*.linear"], sorted(f"layers.{n}.linear" for n in range(12))),
        (["h*", "head"], ["head"]),
        (["layers"], ["layers"]),
    ],
)
def test_places_are_paths_or_patterns(places: list[str], found: list[str]) -> None:
    with Taps(Net(), places) as taps:
        assert list(taps.places) == found


def test_a_pattern_reaches_into_layers() -> None:
    with Taps(Net(), ["layers.1*"]) as taps:
        assert set(taps.places) == {f"layers.{n}{part}" for n in (1, 10, 11) for part in ("", ".linear", ".act")}


@pytest.mark.parametrize(
    ("place", "hint"),
    [
        ("haed", "did you mean `head`?"),
        ("Head", "did you mean `head`?"),
        ("layer.2", "did you mean `layers.2`?"),
        ("layers.2.linaer", "did you mean `layers.2.linear`?"),
        ("zzz", "known names: head, layers, layers.0, "),
        ("", "known names: "),
        ("zzz*", "known names: "),
    ],
)
def test_an_unknown_place_names_the_nearest(place: str, hint: str) -> None:
    module = Net()
    with pytest.raises(ModelError, match="the model has no layer") as caught:
        Taps(module, ["head", place])
    assert f"`{place}`" in str(caught.value)
    assert hint in str(caught.value.problem.fix)
    assert hooks(module) == 0


def test_the_model_itself_is_no_place() -> None:
    with Taps(Net(), ["*"]) as taps:
        assert "" not in taps.places


# What is heard


def test_every_place_gives_what_its_layer_put_out() -> None:
    module = Net()
    with Taps(module, ["layers.?", "head"]) as taps:
        answer = module(x())
        heard = taps.take()
    assert list(heard) == ["head", *[f"layers.{n}" for n in range(10)]]
    assert torch.equal(heard["head"], answer)
    expected = x()
    for n in range(10):
        expected = module.layers[n](expected)
        assert torch.equal(heard[f"layers.{n}"], expected)


def test_listening_changes_nothing() -> None:
    module = Net()
    before = module(x())
    with Taps(module, ["*.linear"]) as taps:
        assert torch.equal(module(x()), before)
        taps.take()


def test_gradients_flow_through_what_was_heard() -> None:
    module = Net()
    with Taps(module, ["layers.0"]) as taps:
        module(x())
        taps.take()["layers.0"].sum().backward()
    assert module.layers[0].linear.weight.grad is not None
    assert module.layers[1].linear.weight.grad is None


def test_of_a_layer_that_runs_twice_the_last_output_is_kept() -> None:
    shared = nn.Linear(4, 4)
    module = nn.Sequential(shared, nn.Tanh(), shared)
    with Taps(module, ["0"]) as taps:
        answer = module(x())
        assert torch.equal(taps.take()["0"], answer)


def test_each_pass_is_heard_for_itself() -> None:
    module = Net()
    with Taps(module, ["head"]) as taps:
        for seed in range(3):
            answer = module(x(seed=seed, rows=seed + 1))
            assert torch.equal(taps.take()["head"], answer)


def test_two_taps_do_not_disturb_each_other() -> None:
    module = Net()
    with Taps(module, ["head"]) as one, Taps(module, ["head", "layers.0"]) as other:
        module(x())
        assert torch.equal(one.take()["head"], other.take()["head"])
        one.close()
        module(x(seed=2))
        other.take()


@pytest.mark.parametrize("follower", [nn.ReLU(inplace=True), nn.Dropout(1.0, inplace=True)], ids=["relu", "dropout"])
def test_a_following_layer_that_works_in_place_does_not_change_what_was_heard(follower: nn.Module) -> None:
    # As in most residual nets: a convolution, and a ReLU that writes over its output.
    module = nn.Sequential(nn.Linear(4, 4), follower, nn.Linear(4, 3))
    with torch.no_grad(), Taps(module, ["0"]) as taps:
        module(x())
        heard = taps.take()["0"]
        expected = module[0](x())
    assert bool((expected < 0).any())
    assert torch.equal(heard, expected)


# Nothing old


def test_what_was_taken_is_gone() -> None:
    module = Net()
    with Taps(module, ["head"]) as taps:
        module(x())
        kept = weakref.ref(taps.take()["head"])
        gc.collect()
        assert kept() is None
        with pytest.raises(ModelError, match="the layer `head` put out no tensor"):
            taps.take()


def test_nothing_ran_yet() -> None:
    with Taps(Net(), ["head"]) as taps, pytest.raises(ModelError, match="the layer `head` put out no tensor"):
        taps.take()


@pytest.mark.parametrize("place", ["unused", "recurrent", "layers"])
def test_a_layer_without_a_tensor_is_an_error(place: str) -> None:
    # One does not run, one puts out a tuple, and a list of layers never runs itself.
    module = Net()
    with Taps(module, ["head", place]) as taps:
        module(x())
        with pytest.raises(ModelError, match=f"the layer `{place}` put out no tensor") as caught:
            taps.take()
    assert "it did not run, or its output is a structure" in str(caught.value)
    assert "tap a layer inside it" in str(caught.value)
    assert caught.value.exit_code == 3


class Fork(nn.Module):
    """One of two layers runs."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, which: str) -> Tensor:
        out: Tensor = self.get_submodule(which)(x)
        return out


def test_outputs_of_two_passes_are_never_taken_as_one() -> None:
    module = Fork()
    with Taps(module, ["one", "other"]) as taps:
        module(x(), "one")
        with pytest.raises(ModelError, match="`other`"):
            taps.take()
        module(x(seed=2), "other")
        with pytest.raises(ModelError, match="`one`"):
            taps.take()


class Moody(nn.Module):
    """Puts out a tensor, and then something else."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> object:
        self.calls += 1
        return x if self.calls == 1 else (x, x)


def test_a_layer_that_changes_its_mind_is_an_error() -> None:
    module = nn.ModuleDict({"moody": Moody()})
    with Taps(module, ["moody"]) as taps:
        module["moody"](x())
        module["moody"](x(seed=2))
        with pytest.raises(ModelError, match="`moody`"):
            taps.take()


# Nothing left behind


def test_closing_takes_the_hooks_away() -> None:
    module = Net()
    taps = Taps(module, ["layers.*", "head"])
    assert hooks(module) == len(taps.places) == 37
    taps.close()
    assert hooks(module) == 0
    module(x())
    with pytest.raises(ModelError, match="put out no tensor"):
        taps.take()
    taps.close()


def test_the_hooks_go_when_the_block_fails() -> None:
    module = Net()
    with pytest.raises(RuntimeError, match="on purpose"), Taps(module, ["head"]):
        raise RuntimeError("on purpose")
    assert hooks(module) == 0


def test_other_hooks_stay() -> None:
    module = Net()
    called = []
    module.head.register_forward_hook(lambda *_: called.append(1))
    with Taps(module, ["head"]):
        pass
    module(x())
    assert called == [1]


def test_taps_are_no_part_of_a_state_dict() -> None:
    module = Net()
    before = list(module.state_dict())
    with Taps(module, ["head"]):
        assert list(module.state_dict()) == before


# As a teacher listens


def batch(rows: int = 5, *, seed: int = 1) -> Batch:
    return Batch(torch.arange(rows), {"x": x(rows, seed=seed)}, torch.zeros(rows, dtype=torch.int64))


def test_a_teacher_answers_with_features() -> None:
    module = Net()
    teacher = ModuleTeacher(module, places=["layers.0", "head"])
    for rows in (2, 5):
        answer = teacher.answer(batch(rows, seed=rows))
        assert list(answer.features) == ["head", "layers.0"]
        assert torch.equal(answer.features["head"], answer.logits)
        assert torch.equal(answer.features["layers.0"], module.layers[0](x(rows, seed=rows)))
        assert not answer.features["layers.0"].requires_grad


def test_without_places_a_teacher_has_neither_features_nor_hooks() -> None:
    module = Net()
    teacher = ModuleTeacher(module)
    assert teacher.answer(batch()).features == {}
    assert hooks(module) == 0


def test_places_do_not_change_who_a_teacher_is() -> None:
    torch.manual_seed(0)
    plain = ModuleTeacher(Net()).fingerprint()
    torch.manual_seed(0)
    assert ModuleTeacher(Net(), places=["head"]).fingerprint() == plain


def test_a_folded_teacher_listens_to_the_copy_that_answers() -> None:
    module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 16, 2))
    images = torch.rand(8, 1, 6, 6)
    with torch.no_grad():
        module(images)
    asked = Batch(torch.arange(8), {"x": images}, torch.zeros(8, dtype=torch.int64))
    plain = ModuleTeacher(module, places=["2"]).answer(asked)
    folded = ModuleTeacher(module, fold=True, places=["2"]).answer(asked)
    assert torch.allclose(plain.features["2"], folded.features["2"], rtol=1e-4, atol=1e-5)


def test_a_teacher_without_such_a_place() -> None:
    with pytest.raises(ModelError, match=r"the model has no layer `layer\.0`") as caught:
        ModuleTeacher(Net(), places=["layer.0"])
    assert caught.value.problem.fix == "did you mean `layers.0`?"


def test_a_teacher_whose_place_puts_out_no_tensor() -> None:
    with pytest.raises(ModelError, match="the layer `unused` put out no tensor"):
        ModuleTeacher(Net(), places=["unused"]).answer(batch())

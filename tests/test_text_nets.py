"""Nets that read tokens: padding is left out everywhere, every weight learns, and what ships is what was trained."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.compress.steps import rebuilt
from tutelage.compress.thinning import Thin, thin
from tutelage.errors import InputError, ModelError
from tutelage.models import NETS, Classifier, ModelSpec, build, parameter_count
from tutelage.models.textnets import Embedding, Mean, attended, last_state
from tutelage.taps import Taps

WORDS, LENGTH = 50, 12
TEXT = [name for name, info in NETS.items() if info.tokens]
ARGS: dict[str, dict[str, Any]] = {"bag": {}, "gru": {}, "transformer": {"width": 16}}
POOLED = {"bag": "net.pool", "gru": "net.dropout", "transformer": "net.pool"}


def make(name: str, length: int = LENGTH, classes: int = 3, **args: Any) -> Classifier:
    torch.manual_seed(0)
    return build(
        ModelSpec(name, {**ARGS.get(name, {}), **args}), input_shape=(length,), classes=classes, mean=[0.0], std=[1.0],
        vocabulary=WORDS,
    )  # fmt: skip


def texts(rows: int = 6, length: int = LENGTH, seed: int = 0) -> Tensor:
    """Tokens of many lengths: the first row is full, the last one empty."""
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, WORDS, (rows, length), generator=draw)
    counts = torch.linspace(length, 0, rows).long()
    return tokens * (torch.arange(length) < counts.unsqueeze(1))


# ---- what they read --------------------------------------------------------------------------------------------------


def test_three_nets_read_tokens_and_are_told_how_many_there_are() -> None:
    assert TEXT == ["bag", "gru", "transformer"]
    assert not any("vocabulary" in info.args for info in NETS.values())
    assert all("rank" in NETS[name].args for name in TEXT)


@pytest.mark.parametrize("name", TEXT)
@pytest.mark.parametrize("args", [{}, {"rank": 4}, {"depth": 2, "dropout": 0.1}], ids=str)
def test_a_net_answers_and_every_weight_of_it_learns(name: str, args: dict[str, Any]) -> None:
    model = make(name, **args)
    answer = model(texts())
    assert answer.shape == (6, 3)
    assert bool(answer.isfinite().all())
    answer.square().sum().backward()
    still = [n for n, p in model.named_parameters() if p.grad is None or not bool(p.grad.isfinite().all())]
    assert still == []
    # Padding learns nothing, and stays zero.
    table = model.get_submodule("net.embed.table").get_parameter("weight")
    assert table.grad is not None
    assert float(table.grad[0].abs().sum()) == 0.0
    assert float(table[0].detach().abs().sum()) == 0.0
    assert float(table.grad.abs().sum()) > 0.0


@pytest.mark.parametrize("name", TEXT)
def test_more_padding_behind_never_changes_an_answer(name: str) -> None:
    model = make(name, length=40, depth=2).double().eval()
    x = texts()
    with torch.no_grad():
        told = model(x)
        for length in (13, 17, 40):
            torch.testing.assert_close(model(F.pad(x, (0, length - LENGTH))), told, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", TEXT)
def test_what_stands_where_padding_is_has_no_say(name: str) -> None:
    model = make(name, depth=2).double().eval()
    with torch.no_grad():
        told = model(texts())
        model.get_submodule("net.embed.table").get_parameter("weight")[0] = 1e3
        torch.testing.assert_close(model(texts())[:-1], told[:-1], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", TEXT)
def test_a_text_of_padding_alone_has_an_answer_and_a_gradient(name: str) -> None:
    model = make(name, depth=2)
    answer = model(torch.zeros(2, LENGTH, dtype=torch.int64))
    answer.square().sum().backward()
    assert bool(answer.isfinite().all())
    assert torch.equal(answer[0], answer[1])
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", TEXT)
def test_an_answer_does_not_depend_on_the_others_of_its_batch(name: str) -> None:
    model = make(name, dropout=0.5).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(texts())[2:4], model(texts()[2:4]), rtol=1e-5, atol=1e-6)


def test_a_bag_without_hidden_layers_is_linear_in_how_often_words_occur() -> None:
    model = make("bag", depth=0, width=8).double().eval()
    net = model.get_submodule("net")
    x = texts()[:-1]
    shares = torch.stack([torch.bincount(row[row != 0], minlength=WORDS) / int((row != 0).sum()) for row in x]).double()
    weight = net.get_parameter("embed.table.weight") @ net.get_parameter("head.weight").T
    torch.testing.assert_close(model(x), shares @ weight + net.get_parameter("head.bias"))


def test_an_mlp_without_hidden_layers_is_linear() -> None:
    model = build(ModelSpec("mlp", {"depth": 0}), input_shape=(5,), classes=3, mean=[0.0], std=[1.0])
    assert parameter_count(model) == 5 * 3 + 3
    x = torch.randn(4, 5)
    head = model.get_submodule("net.head")
    torch.testing.assert_close(model(x), head(x))
    with pytest.raises(InputError, match="from 0"):
        build(ModelSpec("mlp", {"depth": -1}), input_shape=(5,), classes=3, mean=[0.0], std=[1.0])


def test_a_gru_answers_with_its_state_at_the_last_word() -> None:
    model = make("gru").eval()
    x = texts()[2:3]
    count = int((x != 0).sum())
    states, _ = model.get_submodule("net.recurrent")(model.get_submodule("net.embed")(x[:, :count]))
    torch.testing.assert_close(model(x), model.get_submodule("net.head")(states[:, -1]))


def test_a_transformer_hears_only_what_is_said_and_where() -> None:
    model = make("transformer").eval()
    one, other = texts(), texts()
    other[0] = one[0].flip(0)
    with torch.no_grad():
        told, turned = model(one), model(other)
        assert float((told[0] - turned[0]).abs().max()) > 1e-4
        torch.testing.assert_close(told[1:], turned[1:])
        model.get_submodule("net").get_parameter("positions").zero_()
        torch.testing.assert_close(model(one)[0], model(other)[0])


def test_masks_and_means() -> None:
    x = torch.tensor([[3, 4, 0], [0, 0, 0], [5, 0, 0]])
    assert attended(x).tolist() == [[True, True, False], [True, False, False], [True, False, False]]
    states = torch.arange(9.0).reshape(3, 3, 1)
    assert last_state(states, x).flatten().tolist() == [1.0, 3.0, 6.0]
    assert Mean()(states, x != 0).flatten().tolist() == [0.5, 0.0, 6.0]
    assert torch.equal(Mean()(states), states.mean(1))


def test_a_factored_table_is_a_low_rank_one_of_far_fewer_numbers() -> None:
    torch.manual_seed(0)
    whole, factored = Embedding(1000, 64), Embedding(1000, 64, rank=8)
    assert parameter_count(whole) == 64_000
    assert parameter_count(factored) == 1000 * 8 + 8 * 64
    told = factored(torch.arange(1000)).detach()
    assert int(torch.linalg.matrix_rank(told)) == 8
    # Both begin alike.
    assert float(told.std()) == pytest.approx(float(whole.table.weight.detach().std()), rel=0.1)


# ---- what they refuse ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in NETS if name not in TEXT])
def test_a_net_of_numbers_names_those_that_read_tokens(name: str) -> None:
    with pytest.raises(ModelError, match=f"`{name}` reads no tokens") as caught:
        make(name)
    assert "bag, gru, transformer" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "shape", "vocabulary", "args", "words"),
    [
        ("bag", (1, 28, 28), 0, {}, "`bag` reads tokens"),
        ("bag", (12,), 50, {"depth": -1}, "from 0"),
        ("bag", (12,), 50, {"width": 0}, "from 1"),
        ("gru", (12, 5), 0, {"rank": 4}, "`rank` is of the table of tokens"),
        ("gru", (12, 5), 50, {}, "rows of tokens"),
        ("transformer", (12,), 1, {}, "two or more"),
        ("transformer", (12,), 50, {"rank": -1}, "from 0"),
        ("transformer", (12,), 0, {}, "reads sequences or images"),
    ],
)
def test_what_cannot_be_is_refused(
    name: str, shape: tuple[int, ...], vocabulary: int, args: dict[str, Any], words: str
) -> None:
    told = {"vocabulary": vocabulary} if vocabulary else {}
    with pytest.raises((InputError, ModelError)) as caught:
        NETS[name].make(shape, 3, **told, **args)
    assert words in str(caught.value)


def test_a_recipe_cannot_say_how_many_tokens_there_are() -> None:
    with pytest.raises(InputError, match="takes no argument `vocabulary`"):
        make("bag", vocabulary=9)


# ---- what becomes of them --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TEXT)
def test_the_embedding_of_a_text_can_be_listened_to(name: str) -> None:
    model = make(name).eval()
    with torch.no_grad(), Taps(model, [POOLED[name]]) as taps:
        logits = model(texts())
        feature = taps.take()[POOLED[name]]
    assert feature.ndim == 2
    last = nn.Sequential(model.get_submodule("net.hidden")) if name == "bag" else nn.Identity()
    torch.testing.assert_close(model.get_submodule("net.head")(last(feature)), logits)


def test_every_second_block_of_a_teacher_is_a_student() -> None:
    model = make("transformer", depth=4, rank=4).eval()
    kept = [model.get_submodule(f"net.blocks.{number}").state_dict() for number in (0, 2)]
    step = thin(model, Thin(every=2))
    assert step == {"how": "blocks", "at": "net.blocks", "keep": [0, 2]}
    for number, state in enumerate(kept):
        for key, value in model.get_submodule(f"net.blocks.{number}").state_dict().items():
            assert torch.equal(value, state[key])
    again = rebuilt(make("transformer", depth=4, rank=4).eval(), [step])
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(texts()), model(texts()))
    longer = F.pad(texts()[:, :8], (0, 4))
    torch.testing.assert_close(model(texts()[:, :8]), model(longer))


class Together(nn.Module):
    """All three as one, since an exporter takes seconds for anything."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList([make(name, length=4, depth=1, rank=4) for name in TEXT])

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([net(x) for net in self.nets], 1)


def test_nets_leave_torch_as_they_are(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, x = Together().eval(), texts(length=4)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        told = model(x)
        program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
        torch.onnx.export(
            program, (x,), str(tmp_path / "net.onnx"), dynamo=True, input_names=["x"], verbose=False, optimize=False
        )
    session = runtime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    for rows in (1, 6):
        torch.testing.assert_close(program.module()(x[:rows]), told[:rows], rtol=1e-5, atol=1e-6)
        (answer,) = session.run(None, {"x": x[:rows].numpy()})
        assert np.abs(answer - told[:rows].numpy()).max() < 1e-5


def test_words_in_any_place_are_learned_by_all_three() -> None:
    """Class 1 holds the word 7; a net of each kind finds it."""
    draw = torch.Generator().manual_seed(1)
    x = texts(400, seed=3)[:300]
    x = torch.where(x == 7, 8, x)
    y = torch.randint(0, 2, (300,), generator=draw)
    place = (torch.rand(300, generator=draw) * (x != 0).sum(1)).long()
    x[torch.arange(300), place] = torch.where(y == 1, 7, x[torch.arange(300), place])
    for name, lr in (("bag", 0.05), ("gru", 0.02), ("transformer", 0.01)):
        model = make(name, classes=2, width=16)
        optimizer = torch.optim.Adam(model.parameters(), lr)
        for _ in range(12):
            for rows in torch.arange(300).split(50):
                optimizer.zero_grad()
                F.cross_entropy(model(x[rows]), y[rows]).backward()
                optimizer.step()
        model.eval()
        assert float((model(x).argmax(1) == y).double().mean()) > 0.95, name

"""Nets that say where in a text an answer is: what cannot be one has no say, and what ships says the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage import losses
from tutelage.compress.steps import rebuilt
from tutelage.compress.thinning import Thin, thin
from tutelage.data.examples import separator_of
from tutelage.errors import DamagedError, InputError, ModelError
from tutelage.export import FORMATS, Facts, export_model, open_artifact
from tutelage.files import sha256, write_json
from tutelage.models import NETS, Classifier, ModelSpec, build, save_weights
from tutelage.models.textnets import Places, answerable, turned
from tutelage.run import load_student
from tutelage.tasks import IMPOSSIBLE

WORDS, LENGTH, END = 40, 12, 3
ABLE = [name for name, info in NETS.items() if info.places]
ARGS: dict[str, dict[str, Any]] = {"gru": {"width": 16}, "transformer": {"width": 16, "depth": 2}}


def make(name: str, length: int = LENGTH, *, trust: bool = False, separator: int = END, **args: Any) -> Classifier:
    torch.manual_seed(0)
    return build(
        ModelSpec(name, {**ARGS.get(name, {}), **args}), input_shape=(length,), classes=2 * length, mean=[0.0],
        std=[1.0], vocabulary=WORDS, separator=separator, trust=trust,
    )  # fmt: skip


def questions(rows: int = 40, length: int = LENGTH, seed: int = 0) -> Tensor:
    """`2 question 3 text 3` of many lengths; of the last three rows one has lost its text, one is cut, one is empty."""
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randint(4, WORDS, (rows, length), generator=draw)
    middle = torch.randint(2, 5, (rows, 1), generator=draw)
    last = torch.randint(6, length, (rows, 1), generator=draw)
    places = torch.arange(length)
    tokens = torch.where((places == middle) | (places == last), END, tokens)
    tokens[:, 0] = 2
    tokens *= places <= last
    tokens[-3, places > middle[-3]] = 0
    tokens[-2] = torch.where(tokens[-2] == END, 4, tokens[-2])
    tokens[-1] = 0
    return tokens


# ---- which places may answer -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([2, 5, 6, 3, 7, 8, 9, 3, 0, 0], [0, 4, 5, 6]),
        ([2, 5, 3, 3, 7, 8, 3, 0, 0, 0], [0, 4, 5]),  # two separators between the texts, as RoBERTa has them
        ([2, 3, 7, 0, 0, 0, 0, 0, 0, 0], [0, 2]),
        ([2, 5, 6, 7, 8, 9, 9, 9, 9, 9], [0]),  # a question that filled the row
        ([2, 5, 6, 3, 3, 0, 0, 0, 0, 0], [0]),
        ([2, 5, 3, 7, 8, 9, 9, 9, 9, 9], [0, 3, 4, 5, 6, 7, 8, 9]),  # a text that was cut
        ([0] * 10, [0]),
    ],
)
def test_an_answer_is_in_the_text_behind_the_question_or_nowhere(row: list[int], expected: list[int]) -> None:
    found = answerable(torch.tensor([row]), END)
    assert found.dtype == torch.bool
    assert found[0].nonzero().flatten().tolist() == expected


def test_starts_stand_before_ends() -> None:
    head, states, x = Places(5, END), torch.randn(40, LENGTH, 5), questions()
    told = head(states, x)
    for row, ok in enumerate(answerable(x, END).tolist()):
        for place in range(LENGTH):
            expected = head.ends(states[row, place]) if ok[place] else torch.full((2,), -100.0)
            torch.testing.assert_close(told[row, [place, LENGTH + place]], expected)


def test_models_and_judges_mean_the_same_by_impossible() -> None:
    assert float(torch.tensor(IMPOSSIBLE).half()) == IMPOSSIBLE


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_what_cannot_be_an_answer_has_no_part_in_the_loss(temperature: float) -> None:
    """Over all places it is the KL over those that may answer, computed here row by row."""
    x = questions()
    head, other, ok = Places(5, END).double(), Places(5, END).double(), answerable(x, END)
    states = torch.randn(40, LENGTH, 5, dtype=torch.float64, requires_grad=True)
    own, told = head(states, x).unflatten(1, (2, -1)), other(3 * torch.randn(40, LENGTH, 5).double(), x).detach()
    loss = losses.soft_target(own, told.unflatten(1, (2, -1)), temperature=temperature)
    expected = 0.0
    for row in range(40):
        for end in range(2):
            mine = own[row, end, ok[row]].detach().numpy() / temperature
            theirs = told.unflatten(1, (2, -1))[row, end, ok[row]].numpy() / temperature
            q, p = (np.exp(one - one.max()) / np.exp(one - one.max()).sum() for one in (mine, theirs))
            expected += temperature**2 * float((p * np.log(p / q)).sum()) / 80
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-6)
    loss.backward()
    assert states.grad is not None
    assert bool((states.grad[~ok] == 0).all())
    assert bool((states.grad[ok].abs().sum(1) > 0)[ok.sum(1)[ok.nonzero()[:, 0]] > 1].all())


@pytest.mark.parametrize("name", ["soft_target", "reverse_soft_target", "decoupled", "jensen_shannon", "skewed"])
def test_losses_on_probabilities_teach_as_if_other_places_were_not_there(name: str) -> None:
    ok = answerable(torch.tensor([[2, 5, 6, 3, 7, 8, 9, 3, 0, 0]]), END)[0]
    own, told = 3 * torch.randn(6, 10).double(), 3 * torch.randn(6, 10).double()
    target = torch.tensor([0, 1, 2, 3, 0, 1])
    loss: Any = getattr(losses, name)
    slopes = []
    for mine, theirs, label in (
        (own[:, ok], told[:, ok], target),
        (own.masked_fill(~ok, IMPOSSIBLE), told.masked_fill(~ok, IMPOSSIBLE), ok.nonzero().flatten()[target]),
    ):
        logits = mine.clone().requires_grad_()
        loss(logits, theirs, *([label] if name == "decoupled" else [])).backward()
        slopes.append(logits.grad)
    assert float(slopes[0].abs().max()) > 1e-3
    torch.testing.assert_close(slopes[1][:, ok], slopes[0], rtol=1e-6, atol=1e-8)
    assert float(slopes[1][:, ~ok].abs().max()) < 1e-8


# ---- the nets --------------------------------------------------------------------------------------------------------


def test_two_nets_answer_with_places() -> None:
    assert ABLE == ["gru", "transformer"]
    assert all("answers questions with places" in NETS[name].line for name in ABLE)
    assert not any("separator" in info.args for info in NETS.values())


@pytest.mark.parametrize("name", ABLE)
@pytest.mark.parametrize("args", [{}, {"rank": 4}, {"depth": 2, "dropout": 0.1}], ids=str)
def test_a_net_answers_only_where_an_answer_can_be_and_every_weight_learns(name: str, args: dict[str, Any]) -> None:
    model, x = make(name, **args).double(), questions()
    answer = model(x)
    assert answer.shape == (40, 2 * LENGTH)
    ok = answerable(x, END).repeat(1, 2)
    assert bool((answer[~ok] == IMPOSSIBLE).all())
    assert bool(answer.isfinite().all())
    assert float(answer[ok].abs().max().detach()) < 20
    answer[ok].square().sum().backward()
    bad = [n for n, p in model.named_parameters() if p.grad is None or not bool(p.grad.isfinite().all())]
    still = [n for n, p in model.named_parameters() if p.grad is not None and float(p.grad.abs().sum()) == 0.0]
    assert (bad, still) == ([], [])
    table = model.get_submodule("net.embed.table").get_parameter("weight")
    assert table.grad is not None
    assert float(table.grad[0].abs().sum()) == 0.0


@pytest.mark.parametrize("name", ABLE)
def test_more_padding_behind_never_changes_an_answer(name: str) -> None:
    model, x = make(name, length=40).double().eval(), questions()
    with torch.no_grad():
        told = model(x).unflatten(1, (2, -1))
        for length in (13, 17, 40):
            longer = model(F.pad(x, (0, length - LENGTH))).unflatten(1, (2, -1))
            torch.testing.assert_close(longer[..., :LENGTH], told, rtol=1e-12, atol=1e-13)
            assert bool((longer[..., LENGTH:] == IMPOSSIBLE).all())


@pytest.mark.parametrize("name", ABLE)
def test_answers_in_use_are_the_same_every_time_and_in_any_company(name: str) -> None:
    model, x = make(name, depth=2, dropout=0.5), questions()
    assert not torch.equal(model(x), model(x))
    model.eval()
    with torch.no_grad():
        told = model(x)
        assert torch.equal(model(x), told)
        torch.testing.assert_close(model(x[5:8]), told[5:8], rtol=1e-5, atol=1e-6)
        assert bool(model(torch.zeros(2, LENGTH, dtype=torch.int64)).isfinite().all())


def test_turning_is_of_texts_and_undoes_itself() -> None:
    x = torch.tensor([[5, 6, 7, 0], [5, 0, 0, 0], [0, 0, 0, 0], [5, 6, 7, 8]])
    states = torch.arange(16.0).reshape(4, 4, 1)
    assert turned(states, x).flatten().tolist() == [2, 1, 0, 3, 4, 5, 6, 7, 8, 9, 10, 11, 15, 14, 13, 12]
    assert torch.equal(turned(turned(states, x), x), states)


def test_a_gru_hears_a_text_from_both_ends_as_torch_does_it() -> None:
    model, x = make("gru").eval(), questions()[:-1]
    net: Any = model.net
    reference = nn.GRU(16, 16, batch_first=True, bidirectional=True)
    state = net.recurrent.state_dict()
    reference.load_state_dict({**state, **{f"{k}_reverse": v for k, v in net.returning.state_dict().items()}})
    packed = nn.utils.rnn.pack_padded_sequence(net.embed(x), (x != 0).sum(1), batch_first=True, enforce_sorted=False)
    with torch.no_grad():
        states, _ = nn.utils.rnn.pad_packed_sequence(reference(packed)[0], batch_first=True, total_length=LENGTH)
        torch.testing.assert_close(model(x), net.head(states, x))


def test_every_second_block_of_a_teacher_is_a_student() -> None:
    model, x = make("transformer", depth=4).eval(), questions()
    step = thin(model, Thin(every=2))
    again = rebuilt(make("transformer", depth=4).eval(), [step])
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(x), model(x))
    assert again(x).shape == (40, 2 * LENGTH)


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in NETS if name not in ABLE])
def test_a_net_of_classes_names_those_that_answer_with_places(name: str) -> None:
    with pytest.raises(ModelError, match=f"`{name}` does not say where in a text an answer is") as caught:
        make(name)
    assert "one of gru, transformer; hf:<type>" in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "classes", "vocabulary", "separator", "words"),
    [
        ((12,), 12, 40, 3, "12 classes, 12 places"),
        ((12,), 25, 40, 3, "expected  24 classes"),
        ((12,), 24, 0, 3, "0 tokens, separator 3"),
        ((12,), 24, 40, 40, "40 tokens, separator 40"),
        ((12,), 24, 40, -1, "separator -1"),
        ((3, 8, 8), 24, 40, 3, "places of tokens"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    shape: tuple[int, ...], classes: int, vocabulary: int, separator: int, words: str
) -> None:
    with pytest.raises(InputError) as caught:
        build(
            ModelSpec("transformer"), input_shape=shape, classes=classes, mean=[0.0], std=[1.0],
            vocabulary=vocabulary, separator=separator,
        )  # fmt: skip
    assert words in str(caught.value)


def test_a_recipe_cannot_say_what_ends_a_text() -> None:
    with pytest.raises(InputError, match="`gru` takes no argument `separator`"):
        build(
            ModelSpec("gru", {"separator": 3}), input_shape=(LENGTH,), classes=3, mean=[0.0], std=[1.0],
            vocabulary=WORDS,
        )  # fmt: skip


class Own(nn.Module):
    def __init__(self, vocabulary: int, separator: int, heard: int) -> None:
        super().__init__()
        self.table, self.head, self.heard = nn.Embedding(vocabulary, 4), Places(4, separator), heard

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.head(self.table(x), x)
        return answer if self.heard else answer.clamp(min=-99.0)


def own(input_shape: tuple[int, ...], classes: int, vocabulary: int, separator: int = 0, heard: int = 1) -> nn.Module:
    return Own(vocabulary, separator, heard) if separator else nn.Sequential(nn.Embedding(vocabulary, classes), _Mean())


class _Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def test_a_function_of_the_users_own_is_told_what_ends_a_text_and_held_to_it() -> None:
    name = f"{__name__}:own"
    assert isinstance(make(name, trust=True).net, Own)
    with pytest.raises(ModelError, match="answers with places that cannot be answers") as caught:
        make(name, trust=True, heard=0)
    assert "the logit -100" in str(caught.value)
    plain = build(
        ModelSpec(name), input_shape=(LENGTH,), classes=3, mean=[0.0], std=[1.0], vocabulary=WORDS, trust=True
    )
    assert isinstance(plain.net, nn.Sequential)


# ---- what becomes of them --------------------------------------------------------------------------------------------


def labelled(rows: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Every fourth text does not answer; of the others the answer is one word before the word 4 to one behind it."""
    draw = torch.Generator().manual_seed(seed)
    x = questions(rows + 3, seed=seed)[:rows]
    x = torch.where(x == 4, 5, x)
    # Room for three words in every text.
    ends = (x == END).int().argmax(1)
    x[:, 5:10] = torch.where((x[:, 5:10] == 0) | (x[:, 5:10] == END), 6, x[:, 5:10])
    x[:, 10:] = 0
    assert int(ends.max()) <= 4
    middle = torch.randint(6, 9, (rows,), generator=draw)
    none = torch.arange(rows) % 4 == 0
    x[torch.arange(rows), middle] = torch.where(none, x[torch.arange(rows), middle], 4)
    return x, torch.stack([torch.where(none, 0, middle - 1), torch.where(none, 0, middle + 1)], 1)


def learned(name: str) -> Classifier:
    model = make(name)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    x, y = labelled(400)
    for _ in range(12):
        for rows in torch.arange(400).split(50):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]).unflatten(1, (2, -1)).flatten(0, 1), y[rows].flatten()).backward()
            optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def nets() -> dict[str, Classifier]:
    return {name: learned(name) for name in ABLE}


@pytest.mark.parametrize("name", ABLE)
def test_a_net_learns_where_an_answer_begins_and_ends(name: str, nets: dict[str, Classifier]) -> None:
    """It begins before the word that tells: a net that has only heard what came before cannot know."""
    x, y = labelled(200, seed=2)
    with torch.no_grad():
        found = nets[name](x).unflatten(1, (2, -1)).argmax(2)
    assert float((found == y).double().mean()) > 0.95


def facts(name: str, **args: Any) -> Facts:
    return Facts(
        tuple(f"{task}: {place}" for task in ("start", "end") for place in range(LENGTH)), (LENGTH,), name, args,
        (0.0,), (1.0,), "where", encoding={"kind": "tokens", "vocabulary": WORDS, "separator": END},
        tasks={"start": LENGTH, "end": LENGTH},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("how", "name"), [("safetensors", "gru"), ("torch", "gru"), ("onnx", "transformer"), ("onnx-int8", "transformer")]
)
def test_a_file_says_what_its_model_says(how: str, name: str, nets: dict[str, Classifier], tmp_path: Path) -> None:
    if how.startswith("onnx"):
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    model, told, path = nets[name], facts(name, **ARGS[name]), tmp_path / f"a{FORMATS[how].suffix}"
    x = labelled(300, seed=3)[0]
    made = export_model(model, told, path, how=how, calibration=x[:64], inputs=x)
    rounds = how == "onnx-int8"
    assert made.parity.agreement >= (0.95 if rounds else 1.0)
    runner = open_artifact(path, threads=1, trust=True)
    assert runner.facts == told
    mixed = questions()  # of every kind of rows
    with torch.no_grad():
        expected = model(mixed).numpy()
    answer, impossible = runner(mixed.numpy()), ~answerable(mixed, END).repeat(1, 2).numpy()
    np.testing.assert_array_equal(answer[impossible], IMPOSSIBLE)
    error, spread = float(np.abs(answer - expected).max()), float(expected[~impossible].std())
    assert error < (0.2 if rounds else 1e-4) * spread
    assert (error > 0.0) or not rounds


def test_facts_tell_of_questions() -> None:
    told = facts("gru")
    assert (told.separator, replace(told, encoding=None).separator) == (END, 0)
    assert Facts.from_text(told.to_text(), "here") == told
    assert '"tasks"' not in replace(told, tasks=None).to_text()
    example = torch.from_numpy(told.example(5))
    assert bool((answerable(example, END).sum(1) > LENGTH // 2).all())
    with pytest.raises(DamagedError):
        Facts.from_text(told.to_text().replace(f'"separator": {END}', f'"separator": {WORDS + 1}'), "here")


def test_a_student_is_built_again_of_its_folder(nets: dict[str, Classifier], tmp_path: Path) -> None:
    told = json.loads(facts("gru", **ARGS["gru"]).to_text())
    file = tmp_path / "student.safetensors"
    save_weights(nets["gru"], file)
    write_json(tmp_path / "student.json", {**told, "sha256": sha256(file), "kept_epoch": 1, "curve": []})
    x, student = questions(), load_student(tmp_path)
    with torch.no_grad():
        assert torch.equal(student(x), nets["gru"](x))
    assert separator_of(told) == END

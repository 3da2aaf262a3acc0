"""Teachers answer, never learn, and can prove it; stored answers are met by id and never by position."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tutelage.errors import InputError, MismatchError, ModelError
from tutelage.models import ModelSpec, build
from tutelage.teachers import ModuleTeacher, TableTeacher, Teacher, as_teacher
from tutelage.types import Batch

CLASSES = 4


class Restless(nn.Module):
    """Dropout and batch norm: the two layers whose answers depend on the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6 * 36, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.drop(self.norm(self.convolution(x)).relu().flatten(1)))
        return logits


def restless() -> Restless:
    torch.manual_seed(0)
    module = Restless()
    # Statistics that a teacher would have, so that folding has something to fold.
    with torch.no_grad():
        for _ in range(3):
            module(torch.rand(16, 1, 8, 8))
    return module


def batch(count: int = 5, *, seed: int = 1, view: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 1, 8, 8, generator=generator)
    ids = torch.randint(-(2**62), 2**62, (count,), generator=generator)
    return Batch(ids, {"x": x}, torch.zeros(count, dtype=torch.int64), view)


def bits(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same_bits(module: nn.Module, before: dict[str, Tensor]) -> bool:
    now = module.state_dict()
    return now.keys() == before.keys() and all(torch.equal(now[name], value) for name, value in before.items())


# Modules


@pytest.mark.parametrize("fold", [False, True])
def test_it_answers_in_eval_mode_whatever_mode_somebody_sets(fold: bool) -> None:
    module = restless()
    before = bits(module)
    teacher = ModuleTeacher(module, fold=fold)
    first = teacher.answer(batch()).logits
    print_before = teacher.fingerprint()
    for _ in range(3):
        module.train()
        assert torch.equal(teacher.answer(batch()).logits, first)
    assert same_bits(module, before)
    assert module.norm.num_batches_tracked == 3
    assert teacher.fingerprint() == print_before


def test_the_same_module_in_train_mode_would_have_moved() -> None:
    # The guard of the test above: this module does change, and does answer differently, when nobody watches.
    module = restless()
    before = bits(module)
    x = batch().inputs["x"]
    assert not torch.equal(module(x), module(x))
    assert not same_bits(module, before)


def test_it_is_frozen_and_its_answers_have_no_graph() -> None:
    module = restless()
    x = batch().inputs["x"].requires_grad_()
    teacher = ModuleTeacher(module)
    assert not any(parameter.requires_grad for parameter in module.parameters())
    answer = teacher.answer(Batch(batch().ids, {"x": x}, batch().target))
    assert not answer.logits.requires_grad
    # And the caller's own switch stays as it was.
    assert torch.is_grad_enabled()


def test_answers_are_those_of_the_module_in_eval_mode() -> None:
    module = restless()
    answer = ModuleTeacher(module).answer(batch())
    with torch.no_grad():
        expected = module.eval()(batch().inputs["x"])
    assert torch.equal(answer.logits, expected)
    assert answer.logits.shape == (5, CLASSES)


@pytest.mark.parametrize("name", ["cnn", "dscnn"])
def test_a_folded_teacher_gives_the_same_answers_to_rounding(name: str) -> None:
    torch.manual_seed(0)
    module = build(ModelSpec(name), input_shape=(1, 8, 8), classes=CLASSES, mean=[0.5], std=[0.3])
    with torch.no_grad():
        for _ in range(3):
            module(torch.rand(16, 1, 8, 8))
    before = bits(module)
    plain, folded = ModuleTeacher(module), ModuleTeacher(module, fold=True)
    expected, found = plain.answer(batch()).logits, folded.answer(batch()).logits
    assert any(isinstance(part, nn.BatchNorm2d) for part in module.modules())
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded._answering.modules())
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert same_bits(module, before)


def test_channels_last_gives_the_same_answers_and_the_same_fingerprint() -> None:
    plain = ModuleTeacher(restless())
    turned = ModuleTeacher(restless(), channels_last=True)
    assert turned.module.convolution.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(turned.answer(batch()).logits, plain.answer(batch()).logits, rtol=1e-4, atol=1e-5)
    assert turned.fingerprint() == plain.fingerprint()


@pytest.mark.parametrize("fold", [False, True])
def test_a_fingerprint_sees_weights_and_buffers(fold: bool) -> None:
    teacher = ModuleTeacher(restless(), fold=fold)
    assert ModuleTeacher(restless(), fold=fold).fingerprint() == teacher.fingerprint()
    seen = {teacher.fingerprint()}
    with torch.no_grad():
        teacher.module.norm.running_mean[0] += 1e-6
        seen.add(teacher.fingerprint())
        teacher.module.head.weight[0, 0] += 1e-6
        seen.add(teacher.fingerprint())
        if fold:
            teacher._answering.head.bias[0] += 1e-6
            seen.add(teacher.fingerprint())
    assert len(seen) == 3 + fold


def test_it_reads_the_view_that_it_is_told() -> None:
    x = batch().inputs["x"]
    both = Batch(batch().ids, {"x": x, "dark": x * 0.1}, batch().target)
    plain, other = ModuleTeacher(restless()), ModuleTeacher(restless(), view="dark")
    only_dark = Batch(both.ids, {"x": both.inputs["dark"]}, both.target)
    assert torch.equal(other.answer(both).logits, plain.answer(only_dark).logits)
    assert not torch.equal(other.answer(both).logits, plain.answer(both).logits)


def test_low_precision_answers_come_as_float32() -> None:
    teacher = ModuleTeacher(nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES)).bfloat16())
    low = Batch(batch().ids, {"x": batch().inputs["x"].bfloat16()}, batch().target)
    assert teacher.answer(low).logits.dtype == torch.float32


class Answers(nn.Module):
    """A module that answers with whatever it was given."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self.given = answer

    def forward(self, x: Tensor) -> object:
        return self.given


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (torch.zeros(5), "(5,)"),
        (torch.zeros(5, CLASSES, 1), "(5, 4, 1)"),
        (torch.zeros(4, CLASSES), "(4, 4)"),
        ((torch.zeros(5, CLASSES),), "tuple"),
        ({"logits": torch.zeros(5, CLASSES)}, "dict"),
    ],
)
def test_a_module_that_gives_no_logits_is_refused(answer: object, shown: str) -> None:
    with pytest.raises(ModelError, match="teacher does not answer with logits") as caught:
        ModuleTeacher(Answers(answer)).answer(batch())
    assert caught.value.problem.given == shown
    assert "(5, C)" in str(caught.value)


def test_it_moves_with_its_folded_copy() -> None:
    teacher = ModuleTeacher(restless(), fold=True)
    teacher.to(torch.device("meta"))
    for module in (teacher.module, teacher._answering):
        assert {value.device.type for value in module.state_dict().values()} == {"meta"}


# Tables


def table(examples: Batch, *, seed: int = 2) -> tuple[TableTeacher, Tensor]:
    answers = torch.randn(len(examples), CLASSES, generator=torch.Generator().manual_seed(seed))
    return TableTeacher(examples.ids, answers), answers


def some(examples: Batch, index: Tensor, *, view: int = 0) -> Batch:
    inputs = {name: value[index] for name, value in examples.inputs.items()}
    return Batch(examples.ids[index], inputs, examples.target[index], view)


def test_answers_are_met_by_id_and_never_by_position() -> None:
    examples = batch(50)
    teacher, answers = table(examples)
    for seed in range(5):
        order = torch.randperm(50, generator=torch.Generator().manual_seed(seed))[: 7 + seed]
        assert torch.equal(teacher.answer(some(examples, order)).logits, answers[order])
    again = torch.tensor([3, 3, 0, 49, 3])
    assert torch.equal(teacher.answer(some(examples, again)).logits, answers[again])


def test_the_order_in_which_answers_were_stored_does_not_matter() -> None:
    examples = batch(50)
    teacher, answers = table(examples)
    order = torch.randperm(50)
    shuffled = TableTeacher(examples.ids[order], answers[order])
    assert torch.equal(shuffled.answer(examples).logits, teacher.answer(examples).logits)
    assert shuffled.fingerprint() == teacher.fingerprint()


def test_a_table_of_a_module_s_answers_answers_as_the_module() -> None:
    examples = batch(20)
    live = ModuleTeacher(restless())
    stored = TableTeacher(examples.ids, live.answer(examples).logits)
    index = torch.tensor([19, 4, 7])
    assert torch.equal(stored.answer(some(examples, index)).logits, live.answer(examples).logits[index])


def test_the_extremes_of_ids_are_found() -> None:
    ids = torch.tensor([2**63 - 1, 0, -(2**63)])
    teacher = TableTeacher(ids, torch.arange(6.0).view(3, 2))
    asked = Batch(ids.flip(0), {}, torch.zeros(3, dtype=torch.int64))
    assert teacher.answer(asked).logits.tolist() == [[4.0, 5.0], [2.0, 3.0], [0.0, 1.0]]


@pytest.mark.parametrize("strange", [-(2**63), 2**63 - 1, 12345])
def test_an_example_without_an_answer_is_an_error_and_not_a_neighbour(strange: int) -> None:
    examples = batch(10)
    teacher, _ = table(examples)
    ids = examples.ids.clone()
    ids[[2, 5]] = strange
    with pytest.raises(MismatchError, match="2 of 10 examples have no stored answer") as caught:
        teacher.answer(Batch(ids, examples.inputs, examples.target))
    assert "same data" in str(caught.value)
    assert caught.value.exit_code == 3


def test_random_views_are_refused() -> None:
    examples = batch(10)
    teacher, _ = table(examples)
    with pytest.raises(MismatchError, match="this batch has random views") as caught:
        teacher.answer(some(examples, torch.arange(10), view=1))
    assert "live teacher" in str(caught.value)


def test_an_id_that_comes_twice_must_mean_one_answer() -> None:
    ids = torch.tensor([7, 3, 7])
    twice = torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]])
    asked = Batch(torch.tensor([7, 3]), {}, torch.zeros(2, dtype=torch.int64))
    assert TableTeacher(ids, twice).answer(asked).logits.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    twice[2, 1] = 2.5
    with pytest.raises(InputError, match="two different answers") as caught:
        TableTeacher(ids, twice)
    assert caught.value.problem.given == "id 7"


@pytest.mark.parametrize(
    ("ids", "answers"),
    [((3,), (4, 2)), ((3, 1), (3, 2)), ((3,), (3,)), ((3,), (3, 2, 1))],
)
def test_ids_and_answers_that_do_not_belong_together(ids: tuple[int, ...], answers: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="do not belong together") as caught:
        TableTeacher(torch.zeros(ids, dtype=torch.int64), torch.zeros(answers))
    assert str(ids) in str(caught.value)
    assert str(answers) in str(caught.value)


def test_a_table_keeps_no_graph_and_no_hold_on_what_it_was_given() -> None:
    examples = batch(10)
    answers = torch.randn(10, CLASSES, requires_grad=True)
    teacher = TableTeacher(examples.ids, answers)
    before = teacher.fingerprint()
    expected = answers.detach().clone()
    with torch.no_grad():
        answers.zero_()
        examples.ids[0] += 1
    assert teacher.fingerprint() == before
    examples.ids[0] -= 1
    found = teacher.answer(examples).logits
    assert torch.equal(found, expected)
    assert not found.requires_grad


def test_a_fingerprint_of_a_table_sees_ids_and_answers() -> None:
    ids, answers = torch.tensor([1, 2, 3]), torch.arange(6.0).view(3, 2)
    prints = {
        TableTeacher(ids, answers).fingerprint(),
        TableTeacher(ids + 1, answers).fingerprint(),
        TableTeacher(ids, answers + 1).fingerprint(),
        TableTeacher(ids, answers.flip(0)).fingerprint(),
    }
    assert len(prints) == 4


# The protocol


def test_common_objects_become_teachers() -> None:
    module = restless()
    wrapped = as_teacher(module)
    assert isinstance(wrapped, ModuleTeacher)
    assert wrapped.module is module
    teacher, _ = table(batch())
    assert as_teacher(teacher) is teacher
    assert isinstance(teacher, Teacher)
    with pytest.raises(InputError, match="cannot be a teacher") as caught:
        as_teacher(len)  # type: ignore[arg-type]
    assert caught.value.problem.given == "builtin_function_or_method"


def test_a_part_that_is_set_to_train_does_not_move_the_statistics() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    teacher = ModuleTeacher(net)
    before = teacher.fingerprint()
    net[1].train()
    teacher.answer(Batch(torch.arange(8), {"x": torch.randn(8, 4)}, torch.zeros(8, dtype=torch.int64)))
    assert not net[1].training
    assert teacher.fingerprint() == before


def test_an_empty_table_is_refused() -> None:
    with pytest.raises(InputError, match="do not belong together"):
        TableTeacher(torch.empty(0, dtype=torch.int64), torch.empty(0, 3))

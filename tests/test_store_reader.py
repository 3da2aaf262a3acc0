"""A stored teacher answers what the live one would, to the bit, or says why it cannot; its key says whose answers."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.data import Batches, Examples, Views, plain_batches
from tutelage.distiller import Distiller
from tutelage.errors import InputError, MismatchError, ModelError
from tutelage.losses import cross_entropy, soft_target
from tutelage.models.huggingface import from_type, pretrained
from tutelage.objective import Term
from tutelage.store import Capture, Question, StoredTeacher, identity_of, key_of, store_root
from tutelage.teachers import ModuleTeacher, Teacher, as_teacher
from tutelage.types import Batch, Outputs, Sampled, TopK


def _loaded(path: Path) -> ModuleType:
    found = importlib.util.spec_from_file_location(path.stem, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[path.stem] = module  # where the source of its classes is looked up, a part of a teacher's fingerprint
    found.loader.exec_module(module)
    return module


parts = _loaded(Path(__file__).with_name("store_parts.py"))
SIDE: int = parts.SIDE

ALL_AT_ONCE = Views(flip=0.5, shift=2, rotate=20, crop=0.7, erase=0.5, mixup=0.7)
EACH_VIEW = {
    "flip": Views(flip=0.5),
    "shift": Views(shift=2),
    "rotate": Views(rotate=30),
    "crop": Views(crop=0.5),
    "erase": Views(erase=0.6),
    "mixup": Views(mixup=0.4),
    "cutmix": Views(cutmix=1.0),
    "all": ALL_AT_ONCE,
}
CODECS = ["fp32", "fp16", "bf16", "int8", "top-2", "sample-8"]
BOTH = pytest.mark.parametrize("resident", [True, False], ids=["resident", "mapped"])


def bits(value: Tensor) -> tuple[Any, ...]:
    return tuple(value.shape), value.dtype, value.contiguous().reshape(-1).view(torch.uint8).tolist()


def same(one: Outputs, other: Outputs) -> None:
    assert type(one.logits) is type(other.logits)
    if isinstance(one.logits, Tensor):
        assert bits(one.logits) == bits(other.logits)
    else:
        names = ("values", "indices", "tail") if isinstance(one.logits, TopK) else ("indices", "weights")
        assert all(bits(getattr(one.logits, name)) == bits(getattr(other.logits, name)) for name in names)
        assert one.logits.classes == other.logits.classes
        assert one.logits.temperature == other.logits.temperature
    assert list(one.features) == list(other.features)
    assert all(bits(one.features[place]) == bits(other.features[place]) for place in one.features)


def as_stored(how: Capture, live: Outputs, batch: Batch, classes: int) -> Outputs:
    """What a live answer becomes in this codec."""
    columns = how.codec.encode(live.logits, batch.ids, batch.view)
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}.get(how.codec.name, torch.float16)
    return Outputs(how.codec.decode(columns, classes), {p: f.to(kind) for p, f in live.features.items()})


def some(batch: Batch, index: Tensor) -> Batch:
    inputs = {name: value[index] for name, value in batch.inputs.items()}
    return Batch(batch.ids[index], inputs, batch.target[index], batch.view)


def opened(root: Path, asked: Question, how: Capture, *, resident: bool | None = None) -> StoredTeacher:
    return StoredTeacher(parts.stored(root, asked, how).place, resident=resident)


def whole(of: Examples) -> Batch:
    return next(plain_batches(of, len(of)))


# The live teacher's own answers


def test_the_teacher_of_these_tests_answers_to_a_row_alone_as_in_company() -> None:
    # What the bits below depend on.
    live, batch = ModuleTeacher(parts.net()), whole(parts.examples())
    answer = live.answer(batch).logits
    for index in (torch.tensor([3]), torch.tensor([39, 0, 0]), torch.arange(17)):
        assert torch.equal(live.answer(some(batch, index)).logits, answer[index])


@BOTH
@pytest.mark.parametrize("count", [2, 5, 40, 300])
def test_plain_examples(tmp_path: Path, count: int, resident: bool) -> None:
    of, live = parts.examples(count), ModuleTeacher(parts.net())
    teacher = opened(tmp_path, parts.question(of), parts.capture(live), resident=resident)
    assert teacher.resident == resident
    assert len(teacher) == count
    assert teacher.views == [0]
    assert torch.equal(teacher.ids(), of.ids)
    assert teacher.classes == of.classes
    for epoch in range(2):
        for batch in Batches(of, batch_size=7, views=Views(), seed=3).epoch(epoch):
            same(teacher.answer(batch), live.answer(batch))


@BOTH
@pytest.mark.parametrize("kind", EACH_VIEW)
def test_recorded_views_serve_every_seed_and_epoch(tmp_path: Path, kind: str, resident: bool) -> None:
    of, live, views = parts.examples(), ModuleTeacher(parts.net()), EACH_VIEW[kind]
    teacher = opened(tmp_path, parts.question(of, views, 3), parts.capture(live), resident=resident)
    assert len(teacher) == 3 * len(of)
    assert len(teacher.views) == 3
    assert 0 not in teacher.views
    seen = set()
    for seed, epoch in ((0, 0), (0, 1), (5, 3), (2, 7), (1, 3)):
        for batch in Batches(of, batch_size=9, views=views, seed=seed, recorded=3).epoch(epoch):
            same(teacher.answer(batch), live.answer(batch))
            seen.add(batch.view)
    assert seen == set(teacher.views)


@BOTH
@pytest.mark.parametrize("kind", EACH_VIEW)
def test_every_view_of_the_given_seeds_and_epochs_is_replayed(tmp_path: Path, kind: str, resident: bool) -> None:
    of, live, views = parts.examples(), ModuleTeacher(parts.net()), EACH_VIEW[kind]
    asked = parts.question(of, views, "replay", seeds=(0, 3), epochs=2)
    teacher = opened(tmp_path, asked, parts.capture(live), resident=resident)
    assert len(teacher) == 4 * len(of)
    differ = set()
    for seed in (3, 0):
        for epoch in (1, 0):
            for batch in Batches(of, batch_size=9, views=views, seed=seed).epoch(epoch):
                answer = teacher.answer(batch)
                same(answer, live.answer(batch))
                differ |= {(int(id_), tuple(row)) for id_, row in zip(batch.ids, answer.logits.tolist(), strict=True)}
    # The guard of the comparison: views do differ, and so do the answers to them.
    assert len(differ) > 1.5 * len(of)


@BOTH
@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("classes", [4, 300])
def test_every_codec(tmp_path: Path, classes: int, name: str, resident: bool) -> None:
    of = parts.examples(310, names=[f"class {n}" for n in range(classes)])
    live = ModuleTeacher(parts.net(classes=classes))
    how = parts.capture(live, name, temperature=2.0)
    views = Views(flip=0.5)
    teacher = opened(tmp_path, parts.question(of, views, 2), how, resident=resident)
    for batch in Batches(of, batch_size=64, views=views, seed=1, recorded=2).epoch(0):
        same(teacher.answer(batch), as_stored(how, live.answer(batch), batch, classes))


@BOTH
@pytest.mark.parametrize("name", ["top-1", "top-257", "sample-1", "sample-300"])
def test_wide_rows(tmp_path: Path, name: str, resident: bool) -> None:
    of = parts.examples(20, names=[f"class {n}" for n in range(257)])
    live = ModuleTeacher(parts.net(classes=257))
    how = parts.capture(live, name)
    batch = whole(of)
    same(
        opened(tmp_path, parts.question(of), how, resident=resident).answer(batch),
        as_stored(how, live.answer(batch), batch, 257),
    )


# However the rows are asked for


@BOTH
def test_examples_may_come_several_times_and_in_any_order(tmp_path: Path, resident: bool) -> None:
    of, live = parts.examples(), ModuleTeacher(parts.net())
    teacher = opened(tmp_path, parts.question(of), parts.capture(live), resident=resident)
    batch = whole(of)
    for index in (torch.tensor([3, 3, 0, 39, 3]), torch.tensor([7]), torch.arange(39, -1, -1), torch.zeros(100).long()):
        same(teacher.answer(some(batch, index)), live.answer(some(batch, index)))


@BOTH
def test_a_batch_of_none_has_no_answers(tmp_path: Path, resident: bool) -> None:
    of = parts.examples()
    teacher = opened(tmp_path, parts.question(of), parts.capture(parts.net()), resident=resident)
    answer = teacher.answer(some(whole(of), torch.empty(0, dtype=torch.int64)))
    assert isinstance(answer.logits, Tensor)
    assert answer.logits.shape == (0, 4)


def test_data_that_come_in_another_order_have_the_same_store(tmp_path: Path) -> None:
    of, live = parts.examples(), ModuleTeacher(parts.net())
    order = torch.randperm(40)
    again = Examples.make(of.inputs[order], of.targets[order], of.classes, "moved", origins=[f"{n}.png" for n in order])
    first = parts.stored(tmp_path, parts.question(of), parts.capture(live))
    second = parts.stored(tmp_path, parts.question(again), parts.capture(live))
    assert second.place == first.place
    assert second.asked == 0
    teacher = StoredTeacher(second.place)
    for batch in Batches(again, batch_size=8, views=Views(), seed=0).epoch(0):
        same(teacher.answer(batch), live.answer(batch))


@BOTH
def test_a_part_of_the_data_finds_its_rows(tmp_path: Path, resident: bool) -> None:
    of, live = parts.examples(60), ModuleTeacher(parts.net())
    teacher = opened(tmp_path, parts.question(of), parts.capture(live), resident=resident)
    for batch in Batches(of.take(torch.arange(0, 60, 3)), batch_size=4, views=Views(), seed=0).epoch(0):
        same(teacher.answer(batch), live.answer(batch))


@BOTH
def test_equal_inputs_share_an_answer(tmp_path: Path, resident: bool) -> None:
    plain, live = parts.examples(10), ModuleTeacher(parts.net())
    twins = Examples.make(
        plain.inputs.repeat(2, 1, 1, 1), torch.cat([plain.targets, (plain.targets + 1) % 4]), plain.classes, "twins"
    )
    teacher = opened(tmp_path, parts.question(twins), parts.capture(live), resident=resident)
    assert len(teacher) == 10
    for batch in Batches(twins, batch_size=6, views=Views(), seed=0).epoch(0):
        same(teacher.answer(batch), live.answer(batch))


@BOTH
def test_rows_in_several_shards(tmp_path: Path, resident: bool) -> None:
    # More than one shard has room for, and then some more data, whose rows lie between those that were there.
    everything, live = parts.examples(5200), ModuleTeacher(parts.net())
    parts.stored(tmp_path, parts.question(everything.take(torch.arange(0, 5200, 2))), parts.capture(live))
    parts.stored(tmp_path, parts.question(everything.take(torch.arange(0, 4700))), parts.capture(live))
    teacher = opened(tmp_path, parts.question(everything), parts.capture(live), resident=resident)
    assert len(teacher.manifest.shards) == 3
    assert len(teacher) == 5200
    assert teacher.bytes == sum(path.stat().st_size for path in Path(teacher.place).glob("shard-*"))
    for batch in Batches(everything, batch_size=1000, views=Views(), seed=0).epoch(0):
        same(teacher.answer(batch), live.answer(batch))


def test_rows_in_memory_outlive_the_files(tmp_path: Path) -> None:
    of, live = parts.examples(), ModuleTeacher(parts.net())
    teacher = opened(tmp_path, parts.question(of), parts.capture(live), resident=True)
    for path in Path(teacher.place).iterdir():
        path.unlink()
    same(teacher.answer(whole(of)), live.answer(whole(of)))


@BOTH
def test_answers_are_the_caller_s_own(tmp_path: Path, resident: bool) -> None:
    of = parts.examples()
    teacher = opened(tmp_path, parts.question(of), parts.capture(parts.net()), resident=resident)
    first = teacher.answer(whole(of)).logits
    assert isinstance(first, Tensor)
    kept = first.clone()
    assert not first.requires_grad
    first.zero_()
    assert torch.equal(teacher.answer(whole(of)).logits, kept)


# Features


@BOTH
@pytest.mark.parametrize("name", CODECS)
def test_features_are_answered_with_the_logits(tmp_path: Path, name: str, resident: bool) -> None:
    of, views = parts.examples(300), Views(shift=1)
    live = ModuleTeacher(parts.net(), places=("act", "h*"))
    how = parts.capture(live, name, places=("act", "h*"))
    teacher = opened(tmp_path, parts.question(of, views, 2), how, resident=resident)
    for batch in Batches(of, batch_size=50, views=views, seed=0, recorded=2).epoch(1):
        answer = live.answer(batch)
        assert list(answer.features) == ["act", "head", "hidden"]
        same(teacher.answer(batch), as_stored(how, answer, batch, 4))


class Maps(nn.Module):
    """A net with a layer that puts out images."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.MaxPool2d(2)
        self.head = nn.Sequential(nn.Flatten(), parts.Rows(9, 4))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.maps(x))
        return logits


@BOTH
def test_features_of_any_shape(tmp_path: Path, resident: bool) -> None:
    of, live = parts.examples(), ModuleTeacher(Maps(), places=("maps",))
    teacher = opened(tmp_path, parts.question(of), parts.capture(live, places=("maps",)), resident=resident)
    batch = some(whole(of), torch.tensor([5, 5, 0]))
    assert teacher.answer(batch).features["maps"].shape == (3, 1, 3, 3)
    same(teacher.answer(batch), live.answer(batch))


class Given:
    """A teacher whose answers are made by the test."""

    def __init__(self, logits: Callable[[int], Tensor], feature: Callable[[int], Tensor] | None = None) -> None:
        self.logits = logits
        self.feature = feature

    def answer(self, batch: Batch) -> Outputs:
        features = {} if self.feature is None else {"place": self.feature(len(batch))}
        return Outputs(self.logits(len(batch)), features)

    def fingerprint(self) -> str:
        return "given"

    def to(self, device: torch.device) -> None:
        pass


@pytest.mark.parametrize(
    ("codec", "feature"),
    [
        ("fp32", lambda rows: torch.full((rows, 3), torch.nan)),
        ("fp16", lambda rows: torch.full((rows, 3), -torch.inf)),
        ("fp16", lambda rows: torch.full((rows, 3), 70_000.0)),
        ("int8", lambda rows: torch.full((rows, 3), 70_000.0)),
        ("fp32", lambda rows: torch.zeros(2 * rows, 3)),
        ("fp32", lambda rows: torch.zeros(rows - 1, 3)),
        ("fp32", lambda rows: torch.zeros(7, rows, 3)),
    ],
    ids=["nan", "infinite", "beyond fp16", "beyond fp16 beside int8", "too many", "too few", "not by row"],
)
def test_features_that_cannot_be_stored_are_refused(
    tmp_path: Path, codec: str, feature: Callable[[int], Tensor]
) -> None:
    how = parts.capture(Given(lambda rows: torch.zeros(rows, 4), feature), codec, places=("place",))
    with pytest.raises(ModelError, match="`place`"):
        parts.stored(tmp_path, parts.question(parts.examples()), how)


@pytest.mark.parametrize(
    "logits",
    [
        lambda rows: torch.zeros(2 * rows, 4),
        lambda rows: torch.zeros(rows - 1, 4),
        lambda rows: torch.zeros(1, 4),
        lambda rows: torch.zeros(rows, 5),
        lambda rows: torch.zeros(4),
        lambda rows: [0.0] * rows,
        lambda rows: Sampled(torch.zeros(rows, 1).long(), torch.ones(rows, 1), 4),
    ],
    ids=["too many", "too few", "one for all", "of other classes", "one row", "no tensor", "drawn"],
)
def test_answers_that_cannot_be_stored_are_refused(tmp_path: Path, logits: Callable[[int], Tensor]) -> None:
    with pytest.raises(ModelError, match="answers cannot be stored"):
        parts.stored(tmp_path, parts.question(parts.examples()), parts.capture(Given(logits)))


# What is not there


@BOTH
def test_a_view_that_was_not_recorded_is_refused_with_two_ways_out(tmp_path: Path, resident: bool) -> None:
    of, views = parts.examples(), Views(flip=0.5)
    teacher = opened(tmp_path, parts.question(of, views, 3), parts.capture(parts.net()), resident=resident)
    strange = next(Batches(of, batch_size=8, views=views, seed=0).epoch(3))
    with pytest.raises(MismatchError, match="random views of which no answers were recorded") as caught:
        teacher.answer(strange)
    assert caught.value.exit_code == 3
    assert caught.value.problem.given == f"view {strange.view}"
    assert caught.value.problem.expected == "one of 3 recorded views"
    assert "views: 4" in str(caught.value)
    assert "views: replay" in str(caught.value)


def test_random_views_are_refused_where_plain_examples_are_stored(tmp_path: Path) -> None:
    of = parts.examples()
    teacher = opened(tmp_path, parts.question(of), parts.capture(parts.net()))
    with pytest.raises(MismatchError, match="no answers were recorded") as caught:
        teacher.answer(next(Batches(of, batch_size=8, views=Views(flip=0.5), seed=0).epoch(0)))
    assert caught.value.problem.expected == "plain examples"
    assert "views: 4" in str(caught.value)
    assert "views: replay" in str(caught.value)


def test_plain_examples_are_refused_where_views_are_stored(tmp_path: Path) -> None:
    of = parts.examples()
    teacher = opened(tmp_path, parts.question(of, Views(flip=0.5), 2), parts.capture(parts.net()))
    with pytest.raises(MismatchError, match="no answers were recorded") as caught:
        teacher.answer(whole(of))
    assert caught.value.problem.given == "view 0"
    assert "random views only" in str(caught.value)


def test_plain_answers_to_random_views_are_not_even_asked_for() -> None:
    with pytest.raises(InputError, match="matched with random views") as caught:
        parts.question(parts.examples(), Views(flip=0.5), "none")
    assert caught.value.problem.where == "teacher.store.views"
    assert "views: 4" in str(caught.value)
    assert "views: replay" in str(caught.value)


@BOTH
@pytest.mark.parametrize("count", [2, 3, 40])
@pytest.mark.parametrize("strange", [0, 12345, 2**63 - 1, -1, -(2**63)])
def test_an_unknown_example_is_refused_and_not_answered_by_a_neighbour(
    tmp_path: Path, strange: int, count: int, resident: bool
) -> None:
    of, views = parts.examples(count), Views(flip=0.5)
    teacher = opened(tmp_path, parts.question(of, views, 2), parts.capture(parts.net()), resident=resident)
    for view in teacher.views:
        for ids in (torch.cat([of.ids, torch.tensor([strange])]), torch.tensor([strange])):
            batch = Batch(ids, {}, torch.zeros(len(ids), dtype=torch.int64), view)
            with pytest.raises(MismatchError, match=f"1 of {len(ids)} examples have no stored answer") as caught:
                teacher.answer(batch)
            assert caught.value.problem.where == str(teacher.place)
            assert "tutelage cache build" in str(caught.value)


def test_a_folder_without_a_store(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no store at") as caught:
        StoredTeacher(tmp_path / "nothing")
    assert "tutelage cache ls" in str(caught.value)


# A teacher like any other


def test_it_is_a_teacher(tmp_path: Path) -> None:
    teacher = opened(tmp_path, parts.question(parts.examples()), parts.capture(parts.net()))
    assert isinstance(teacher, Teacher)
    assert as_teacher(teacher) is teacher


@BOTH
@pytest.mark.parametrize("name", CODECS)
def test_it_answers_on_the_device_that_it_is_told(tmp_path: Path, name: str, resident: bool) -> None:
    of = parts.examples()
    teacher = opened(tmp_path, parts.question(of), parts.capture(parts.net(), name), resident=resident)
    before = teacher.answer(whole(of))
    teacher.to(torch.device("cpu"))
    same(teacher.answer(whole(of)), before)
    # A device without memory, which every machine has.
    teacher.to(torch.device("meta"))
    logits = teacher.answer(whole(of)).logits
    found = [logits] if isinstance(logits, Tensor) else [logits.indices]
    found += [logits.weights] if isinstance(logits, Sampled) else []
    found += [logits.values, logits.tail] if isinstance(logits, TopK) else []
    assert {part.device.type for part in found} == {"meta"}


@BOTH
def test_a_student_learns_the_same_bits_from_it(tmp_path: Path, resident: bool) -> None:
    of, live, views = parts.examples(), ModuleTeacher(parts.net()), Views(flip=0.5, mixup=0.4)
    teacher = opened(tmp_path, parts.question(of, views, "replay", epochs=2), parts.capture(live), resident=resident)

    def learn(source: Teacher) -> tuple[list[float], dict[str, Tensor]]:
        torch.manual_seed(1)
        student = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
        distiller = Distiller(student, source, [cross_entropy, Term(soft_target, weight=0.5, temperature=2.0)])
        distiller.to(torch.device("cpu"))
        assert list(distiller.state_dict()) == ["student.1.weight", "student.1.bias"]
        optimizer = torch.optim.SGD(distiller.parameters(), lr=0.1)
        losses = []
        for epoch in range(2):
            for batch in Batches(of, batch_size=8, views=views, seed=0).epoch(epoch):
                step = distiller(batch)
                optimizer.zero_grad()
                step.loss.backward()
                optimizer.step()
                losses.append(step.loss.item())
        return losses, student.state_dict()

    one, other = learn(live), learn(teacher)
    assert one[0] == other[0]
    assert all(torch.equal(one[1][name], other[1][name]) for name in one[1])


@pytest.mark.parametrize("name", ["top-2", "sample-8"])
def test_a_student_learns_from_parts_of_the_answers(tmp_path: Path, name: str) -> None:
    of = parts.examples()
    teacher = opened(tmp_path, parts.question(of), parts.capture(parts.net(), name, temperature=2.0))
    distiller = Distiller(
        nn.Sequential(nn.Flatten(), nn.Linear(36, 4)), teacher, [Term(soft_target, temperature=2.0)]
    )  # fmt: skip
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.05)
    losses = []
    for epoch in range(20):
        for batch in Batches(of, batch_size=8, views=Views(), seed=0).epoch(epoch):
            step = distiller(batch)
            optimizer.zero_grad()
            step.loss.backward()
            optimizer.step()
            losses.append(step.loss.item())
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_a_fingerprint_stays_and_tells_stores_apart(tmp_path: Path) -> None:
    of = parts.examples()
    prints = {}
    for name, seed, codec, count in (
        ("base", 0, "fp32", 40), ("teacher", 1, "fp32", 40), ("codec", 0, "fp16", 40), ("less data", 0, "fp32", 39)
    ):  # fmt: skip
        asked, how = parts.question(of.take(torch.arange(count))), parts.capture(parts.net(seed), codec)
        teacher = opened(tmp_path / name, asked, how, resident=True)
        prints[name] = teacher.fingerprint()
        # It does not depend on where the store lies, how it is read, or what it was asked.
        other = opened(tmp_path / f"{name} again", asked, how, resident=False)
        teacher.answer(some(whole(of), torch.arange(5)))
        assert teacher.fingerprint() == other.fingerprint() == prints[name]
    assert len(set(prints.values())) == 4


# Behind an address


@pytest.fixture
def in_memory() -> Iterator[Callable[[Path], str]]:
    files = fsspec.filesystem("memory")

    def upload(place: Path) -> str:
        for path in place.iterdir():
            if path.is_file():
                files.pipe_file(f"/answers/{place.name}/{path.name}", path.read_bytes())
        return f"memory://answers/{place.name}"

    yield upload
    if files.exists("/answers"):
        files.rm("/answers", recursive=True)


@BOTH
@pytest.mark.parametrize("name", ["fp32", "top-2"])
def test_a_store_in_another_file_system(
    tmp_path: Path, in_memory: Callable[[Path], str], name: str, resident: bool
) -> None:
    of, views = parts.examples(300), Views(flip=0.5)
    how = parts.capture(parts.net(), name, places=("act",))
    local = opened(tmp_path, parts.question(of, views, 2), how, resident=resident)
    remote = StoredTeacher(in_memory(Path(local.place)), resident=resident)
    assert remote.fingerprint() == local.fingerprint()
    for batch in Batches(of, batch_size=64, views=views, seed=0, recorded=2).epoch(0):
        same(remote.answer(batch), local.answer(batch))


@BOTH
def test_an_address_of_a_local_file(tmp_path: Path, resident: bool) -> None:
    of = parts.examples()
    local = opened(tmp_path, parts.question(of), parts.capture(parts.net()))
    teacher = StoredTeacher(f"file://{local.place}", resident=resident)
    assert teacher.fingerprint() == local.fingerprint()
    same(teacher.answer(whole(of)), local.answer(whole(of)))


@pytest.mark.parametrize("address", ["memory://nowhere/abc", "file:///nowhere/abc"])
def test_there_is_nothing_at_an_address(address: str) -> None:
    with pytest.raises(InputError, match=r"there is no store at .*nowhere/abc"):
        StoredTeacher(address)


def test_an_unknown_protocol() -> None:
    with pytest.raises(InputError, match="nosuch://bucket/abc cannot be read") as caught:
        StoredTeacher("nosuch://bucket/abc")
    assert "install" in str(caught.value)


def test_where_stores_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUTELAGE_STORE", raising=False)
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    assert store_root() == tmp_path / "cache" / "store"
    monkeypatch.setenv("TUTELAGE_STORE", str(tmp_path / "other"))
    assert store_root() == tmp_path / "other"
    assert store_root(tmp_path / "mine") == tmp_path / "mine"
    assert store_root(f"file://{tmp_path}/mine") == tmp_path / "mine"
    assert store_root("memory://bucket/answers/") == "memory://bucket/answers"


# Whose answers: the key


def key(asked: Question | None = None, how: Capture | None = None) -> str:
    return key_of(identity_of(asked or parts.question(parts.examples()), how or parts.capture(parts.net())))


def changed_weight() -> nn.Module:
    module = parts.net()
    with torch.no_grad():
        module.head.weight[0, 0] = torch.nextafter(module.head.weight[0, 0], torch.tensor(9.0))
    return module


def with_names(*names: str) -> Question:
    return parts.question(parts.examples(names=names))


def with_views(**views: Any) -> Question:
    return parts.question(parts.examples(), Views(**views), 2)


OTHERS: dict[str, Callable[[], str]] = {
    "another teacher": lambda: key(how=parts.capture(parts.net(1))),
    "one bit of one weight": lambda: key(how=parts.capture(changed_weight())),
    "another activation with the same weights": lambda: key(how=parts.capture(parts.net(activation=nn.GELU))),
    "one more activation": lambda: key(how=parts.capture(parts.net(activation=nn.LeakyReLU))),
    "an attribute": lambda: key(how=parts.capture(parts.net(activation=lambda: nn.LeakyReLU(0.02)))),
    "normalisation": lambda: key(how=parts.capture(parts.net(mean=0.4))),
    "the order of classes": lambda: key(with_names("b", "a", "c", "d")),
    "a class's name": lambda: key(with_names("a", "b", "c", "e")),
    "fp16": lambda: key(how=parts.capture(parts.net(), "fp16")),
    "bf16": lambda: key(how=parts.capture(parts.net(), "bf16")),
    "int8": lambda: key(how=parts.capture(parts.net(), "int8")),
    "top-2": lambda: key(how=parts.capture(parts.net(), "top-2")),
    "top-3": lambda: key(how=parts.capture(parts.net(), "top-3")),
    "top-2 at 4": lambda: key(how=parts.capture(parts.net(), "top-2", temperature=4.0)),
    "sample-2": lambda: key(how=parts.capture(parts.net(), "sample-2")),
    "sample-2 at 4": lambda: key(how=parts.capture(parts.net(), "sample-2", temperature=4.0)),
    "precision": lambda: key(how=parts.capture(parts.net(), precision="bf16")),
    "places": lambda: key(how=parts.capture(parts.net(), places=("act",))),
    "other places": lambda: key(how=parts.capture(parts.net(), places=("hidden",))),
    "two places": lambda: key(how=parts.capture(parts.net(), places=("act", "hidden"))),
    "floats for bytes": lambda: key(parts.question(parts.examples(floats=True))),
    "another shape": lambda: key(parts.question(parts.examples(channels=3))),
    "flips": lambda: key(with_views(flip=0.5)),
    "more flips": lambda: key(with_views(flip=0.6)),
    "shifts": lambda: key(with_views(shift=1)),
    "flips and shifts": lambda: key(with_views(flip=0.5, shift=1)),
    "turns": lambda: key(with_views(rotate=10.0)),
    "crops": lambda: key(with_views(crop=0.8)),
    "erasing": lambda: key(with_views(erase=0.5)),
    "mixup": lambda: key(with_views(mixup=0.5)),
    "cutmix": lambda: key(with_views(cutmix=0.5)),
}


def test_whatever_decides_an_answer_changes_the_key() -> None:
    keys = {name: make() for name, make in OTHERS.items()}
    keys["base"] = key()
    names: dict[str, list[str]] = {}
    for name, found in keys.items():
        assert len(found) == 32
        names.setdefault(found, []).append(name)
    assert {tuple(group) for group in names.values() if len(group) > 1} == set()


def test_the_key_is_the_same_each_time() -> None:
    assert {name: make() for name, make in OTHERS.items()} == {name: make() for name, make in OTHERS.items()}


def moved(module: nn.Module, device: str) -> Teacher:
    teacher = ModuleTeacher(module)
    teacher.to(torch.device(device))
    return teacher


def used(module: nn.Module) -> Teacher:
    teacher = ModuleTeacher(module)
    module.train()
    teacher.answer(whole(parts.examples()))
    return teacher


def reordered(of: Examples) -> Examples:
    order = torch.randperm(len(of))
    return Examples.make(of.inputs[order], of.targets[order], of.classes, of.name)


def renamed(of: Examples) -> Examples:
    return Examples.make(of.inputs, of.targets, of.classes, "moved", origins=[f"there/{n}.png" for n in range(len(of))])


SAME: dict[str, Callable[[], str]] = {
    "moved to a device": lambda: key(how=parts.capture(moved(parts.net(), "cpu"))),
    "asked on a device": lambda: key(how=parts.capture(parts.net(), device="cuda")),
    "used": lambda: key(how=parts.capture(used(parts.net()))),
    "files moved": lambda: key(parts.question(renamed(parts.examples()))),
    "another order": lambda: key(parts.question(reordered(parts.examples()))),
    "more data": lambda: key(parts.question(parts.examples(60))),
    "other data": lambda: key(parts.question(parts.examples(seed=5))),
    "more epochs of no views": lambda: key(parts.question(parts.examples(), None, "replay", epochs=9)),
    # A codec that keeps all logits is the same at every temperature.
    "another temperature": lambda: key(how=parts.capture(parts.net(), temperature=4.0)),
}


@pytest.mark.parametrize("name", SAME)
def test_what_decides_no_answer_leaves_the_key(name: str) -> None:
    assert SAME[name]() == key()


def test_a_pretrained_teacher_whose_folder_moved_has_the_same_key(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    args = {"embedding_size": 4, "hidden_sizes": [4], "depths": [1], "layer_type": "basic"}
    net: Any = from_type("resnet", args, input_shape=(1, SIDE, SIDE), classes=4)
    net.model.save_pretrained(tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    nets = [
        pretrained(str(tmp_path / place), {}, input_shape=(1, SIDE, SIDE), classes=4).net for place in ("here", "there")
    ]
    assert len({key(how=parts.capture(net)) for net in nets}) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_teacher_on_a_gpu_has_the_same_key() -> None:
    assert key(how=parts.capture(moved(parts.net(), "cuda"))) == key()


@pytest.mark.parametrize("kind", ["flip", "mixup"])
def test_more_views_of_the_same_data_leave_the_key(kind: str) -> None:
    of, views = parts.examples(), EACH_VIEW[kind]
    choices = [
        parts.question(of, views, 2),
        parts.question(of, views, 7),
        parts.question(of, views, "replay", epochs=3),
        parts.question(of, views, "replay", seeds=(1, 2), epochs=30),
        parts.question(reordered(of), views, 2),
        parts.question(renamed(of), views, 2),
    ]
    assert len({key(asked) for asked in choices}) == 1


@pytest.mark.parametrize("kind", EACH_VIEW)
def test_partners_come_from_the_data_and_so_belong_to_the_key(kind: str) -> None:
    views = EACH_VIEW[kind]
    sets = [parts.examples(), parts.examples(41), parts.examples(seed=1)]
    keys = {key(parts.question(of, views, 2)) for of in sets}
    assert len(keys) == (3 if views.soft_targets else 1)


def test_equal_views_have_one_key() -> None:
    one, other = Views(flip=1, rotate=10, mixup=1), Views(flip=1.0, rotate=10.0, mixup=1.0)
    assert one == other
    assert key(parts.question(parts.examples(), one, 2)) == key(parts.question(parts.examples(), other, 2))


class Knob(nn.Module):
    """A layer with a setting that is no weight."""

    def __init__(self, value: object, name: str = "value") -> None:
        super().__init__()
        setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (True, False),
        (1, 2),
        (1.0, 1.0000001),
        ("max", "mean"),
        (None, 0),
        ((1, 2), (2, 1)),
        ([1, 2], [2, 1]),
        ({"scale": 1.0}, {"scale": 2.0}),
        ({1, 2}, {1, 3}),
        (F.relu, F.gelu),
        (torch.relu, torch.tanh),
        (lambda x: x, lambda x: 2 * x),
        (torch.float32, torch.float64),
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0])),
        (np.array([1.0, 2.0]), np.array([1.0, 3.0])),
        ([torch.tensor(1.0)], [torch.tensor(2.0)]),
        (slice(0, 2), slice(0, 3)),
    ],
    ids=[
        "truth", "integer", "number", "text", "none", "tuple", "list", "dictionary", "set", "function", "builtin",
        "lambda", "dtype", "tensor", "array", "list of tensors", "slice",
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["value", "_value"])
def test_a_setting_of_any_kind_belongs_to_the_key(name: str, one: object, other: object) -> None:
    # The same weights, and another answer: the one thing that a store must never mistake.
    first, again, second = (
        key(how=parts.capture(parts.net(activation=lambda value=value: Knob(value, name))))
        for value in (one, one, other)
    )
    assert first == again
    assert first != second


def keys_of(folder: Path, *sources: str) -> set[str]:
    """The keys of teachers whose classes are written in these files."""
    found = set()
    for number, source in enumerate(sources):
        path = folder / f"teacher_{number}.py"
        path.write_text(source, encoding="utf-8")
        module = _loaded(path)
        try:
            found.add(key(how=parts.capture(module.Net())))
        finally:
            del sys.modules[path.stem]
    return found


OWN = """
from torch import nn


class Net(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :4] * {factor}
"""

INHERITED = """
from torch import nn


class Base(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :4] * {factor}


class Net(Base):
    pass
"""


@pytest.mark.parametrize("source", [OWN, INHERITED], ids=["own", "inherited"])
def test_what_a_class_computes_belongs_to_the_key(tmp_path: Path, source: str) -> None:
    assert len(keys_of(tmp_path, source.format(factor=1), source.format(factor=1))) == 1
    assert len(keys_of(tmp_path, source.format(factor=1), source.format(factor=2))) == 2


def test_the_key_is_the_name_of_the_folder(tmp_path: Path) -> None:
    asked, how = parts.question(parts.examples()), parts.capture(parts.net())
    built = parts.stored(tmp_path, asked, how)
    assert built.place == tmp_path / key(asked, how)
    assert StoredTeacher(built.place).manifest.identity == identity_of(asked, how)


class Silent:
    """A teacher that has nothing to say about examples of odd id."""

    def answer(self, batch: Batch) -> Outputs:
        return Outputs(batch.inputs["x"].flatten(1)[:, :4].float(), counts=batch.ids % 2 == 0)

    def fingerprint(self) -> str:
        return "silent"

    def to(self, device: torch.device) -> None:
        pass


@pytest.mark.parametrize("codec", ["fp32", "top-2"])
@pytest.mark.parametrize("resident", [True, False])
def test_whom_a_teacher_has_a_say_about_is_stored_as_well(tmp_path: Path, codec: str, resident: bool) -> None:
    asked = parts.question(parts.examples())
    built = parts.stored(tmp_path, asked, parts.capture(Silent(), codec))
    stored = StoredTeacher(built.place, resident=resident)
    ids = asked.ids()
    batch = asked.batch(ids, asked.draws[0])
    counts = stored.answer(batch).counts
    assert counts is not None
    assert counts.dtype == torch.bool
    assert torch.equal(counts, batch.ids % 2 == 0)
    assert counts.any()
    assert not counts.all()

"""Building a store: every row is asked once, a second build asks nothing, and no trouble loses what was paid for."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import store_parts as parts
from tutelage.data import Batches, Examples, Views, from_arrays, plain_batches, view_batch
from tutelage.errors import ModelError, TutelageError
from tutelage.store import Built, Capture, Question, StoredTeacher, build, codec_of, draws_of, record, verify
from tutelage.types import Batch, Outputs

SIDE: int = parts.SIDE
# A new plan asks about so many examples first, to know whether the answers will fit on the disk.
PROBE = 8
FLIPS = Views(flip=0.5, shift=1)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tutelage.store.plan._LEAST_ROWS", 256)  # one block


class Teacher:
    """A capture that remembers about whom it was asked; answers may be spoilt on the way."""

    def __init__(self, of: Capture | None = None, *, spoil: Tensor | None = None) -> None:
        self.live = of or parts.capture(parts.net())
        self.capture = replace(self.live, ask=self._ask)
        self.asked: Counter[tuple[int, int]] = Counter()
        self.probes = 0
        self._spoil = torch.tensor([]) if spoil is None else spoil

    def _ask(self, batch: Batch) -> Outputs:
        ids = batch.ids.unique().tolist()
        if len(ids) == PROBE:
            self.probes += 1
        else:
            self.asked.update((id_, batch.view) for id_ in ids)
        answer = self.live.ask(batch)
        assert isinstance(answer.logits, Tensor)
        bad = torch.isin(batch.ids, self._spoil)[:, None]
        return replace(answer, logits=answer.logits.masked_fill(bad, float("nan")))


def arrays(inputs: Tensor, labels: Tensor | None = None) -> Examples:
    """As from arrays: an example is named by its row."""
    targets = torch.arange(len(inputs)) % len(parts.NAMES) if labels is None else labels
    return Examples.make(inputs, targets, parts.NAMES, "arrays")


def images(count: int, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, SIDE, SIDE), dtype=torch.uint8, generator=generator)


def files(place: Path) -> dict[str, bytes]:
    """What a store consists of: not the lock, and not the history, which has times in it."""
    return {path.name: path.read_bytes() for path in place.iterdir() if path.name not in (".lock", "history.jsonl")}


def answers_right(place: Path, asked: Question, live: Capture) -> None:
    """Every row of a question is what the teacher answers."""
    for resident in (True, False):
        stored = StoredTeacher(place, resident=resident)
        for draw in asked.draws:
            batch = asked.batch(asked.ids(), draw)
            found = stored.answer(batch).logits
            assert isinstance(found, Tensor)
            assert torch.equal(found, live.ask(batch).logits)


class Edited(NamedTuple):
    inputs: Tensor
    change: tuple[int, int, int]  # added, changed, removed
    asked: int


def _edits() -> dict[str, Edited]:
    base, fresh = images(600), images(40, seed=1)
    few = base.clone()
    few[[3, 100, 599]] = fresh[:3]
    last = base.clone()
    last[-1] = base[0]
    return {
        "nothing": Edited(base, (0, 0, 0), 0),
        "added": Edited(torch.cat([base, fresh[:12]]), (12, 0, 0), 12),
        "edited": Edited(few, (0, 3, 0), 3),
        "removed": Edited(base[:-5], (0, 0, 5), 0),
        "removed in the middle": Edited(torch.cat([base[:200], base[201:]]), (0, 0, 1), 0),
        "reordered": Edited(base[torch.randperm(600, generator=torch.Generator().manual_seed(2))], (0, 0, 0), 0),
        "added in front": Edited(torch.cat([fresh, base]), (40, 0, 0), 40),
        "edited and added": Edited(torch.cat([few, fresh[3:15]]), (12, 3, 0), 15),
        "duplicated": Edited(torch.cat([base, base[:50]]), (0, 0, 0), 0),
        "one made the copy of another": Edited(last, (0, 0, 1), 0),
        "all new": Edited(images(600, seed=7), (0, 600, 0), 600),
        "fewer and all new": Edited(images(500, seed=7), (0, 500, 100), 500),
    }


EDITS = _edits()


@pytest.mark.parametrize("name", EDITS)
def test_only_what_is_new_is_asked_and_what_changed_is_told(tmp_path: Path, name: str) -> None:
    edited = EDITS[name]
    teacher = Teacher()
    first = build(tmp_path, parts.question(arrays(images(600))), teacher.capture)
    assert (first.added, first.changed, first.removed, first.rows, first.asked) == (600, 0, 0, 600, 600)
    teacher.asked.clear()
    asked = parts.question(arrays(edited.inputs))
    second = build(tmp_path, asked, teacher.capture)
    assert (second.added, second.changed, second.removed) == edited.change
    assert second.asked == edited.asked == len(teacher.asked)
    assert second.rows == len(set(asked.examples.ids.tolist()))
    assert set(teacher.asked.values()) <= {1}
    assert second.place == first.place
    assert second.summary().startswith(f"+{second.added} / ~{second.changed} / −{second.removed} examples since the")
    answers_right(second.place, asked, teacher.live)
    assert list(verify(second.place)) == []


def test_removed_rows_stay_and_are_not_asked_when_they_come_back(tmp_path: Path) -> None:
    teacher, every = Teacher(), images(600)
    for kept in (every, every[:300], every):
        built = build(tmp_path, parts.question(arrays(kept)), teacher.capture)
    assert (built.added, built.changed, built.removed, built.asked) == (300, 0, 0, 0)
    assert set(teacher.asked.values()) == {1}
    assert len(teacher.asked) == 600


def test_changes_are_told_by_name_where_examples_have_one(tmp_path: Path) -> None:
    teacher, base, fresh = Teacher(), images(40), images(40, seed=1)

    def named(inputs: Tensor, names: Sequence[str]) -> Question:
        return parts.question(Examples.make(inputs, torch.arange(len(inputs)) % 4, parts.NAMES, "n", origins=names))

    names = [f"file-{number}.png" for number in range(40)]
    build(tmp_path, named(base, names), teacher.capture)
    # File 0 goes, so that every other one has another row; three are edited, one is renamed, and twelve are new.
    inputs = torch.cat([fresh[:3], base[4:], fresh[3:15]])
    new = [*names[1:4], "another name.png", *names[5:], *(f"new-{number}.png" for number in range(12))]
    built = build(tmp_path, named(inputs, new), teacher.capture)
    assert (built.added, built.changed, built.removed, built.asked) == (12, 3, 1, 15)
    assert built.summary().startswith("+12 / ~3 / −1 examples since the last build; 15 of 51 rows asked in ")


def test_a_second_build_asks_nothing_and_leaves_every_byte(tmp_path: Path) -> None:
    teacher, asked = Teacher(), parts.question(arrays(images(600)))
    first = build(tmp_path, asked, teacher.capture)
    before = files(first.place)
    stamps = {path.name: path.stat().st_mtime_ns for path in first.place.iterdir()}
    history = (first.place / "history.jsonl").read_text()
    again = Teacher()
    second = build(tmp_path, asked, again.capture)
    assert (second.added, second.changed, second.removed, second.asked) == (0, 0, 0, 0)
    assert (again.probes, len(again.asked)) == (0, 0)
    assert files(second.place) == before
    assert {path.name: path.stat().st_mtime_ns for path in second.place.iterdir()} == stamps
    assert (second.place / "history.jsonl").read_text() == history
    assert second.bytes == first.bytes == sum(len(d) for n, d in before.items() if n.startswith("shard"))
    assert "0 of 600 rows asked; " in second.summary()


def test_every_row_is_asked_once_in_blocks_of_one_size(tmp_path: Path) -> None:
    sizes: list[int] = []
    teacher = Teacher()
    inner = teacher.capture.ask
    capture = replace(teacher.capture, ask=lambda batch: (sizes.append(len(batch)), inner(batch))[1])
    built = build(tmp_path, parts.question(arrays(images(1000))), capture)
    assert teacher.probes == 1
    # The first is the probe, filled up to what kernels treat like a whole block.
    assert sizes == [32, 256, 256, 256, 232]
    assert set(teacher.asked.values()) == {1}
    assert sorted(path.name for path in built.place.glob("shard-*")) == [
        f"shard-{number:05d}.safetensors" for number in range(4)
    ]


def test_the_files_of_a_store(tmp_path: Path) -> None:
    built = build(tmp_path, parts.question(arrays(images(300))), Teacher().capture)
    assert sorted(path.name for path in built.place.iterdir()) == [
        ".lock", "history.jsonl", "listing.safetensors", "manifest.json",
        "shard-00000.safetensors", "shard-00001.safetensors",
    ]  # fmt: skip
    (line,) = (built.place / "history.jsonl").read_text().splitlines()
    told = json.loads(line)
    assert told["rows"] == 300
    assert told["device"] == "cpu"
    assert built.to_json()["place"] == str(built.place)


def test_equal_questions_give_equal_bytes_wherever_they_are_built(tmp_path: Path) -> None:
    order = torch.randperm(600, generator=torch.Generator().manual_seed(0))
    base = images(600)
    one = build(tmp_path / "a", parts.question(arrays(base)), Teacher().capture)
    other = build(tmp_path / "b", parts.question(arrays(base[order])), Teacher().capture)
    assert one.place.name == other.place.name
    mine, theirs = files(one.place), files(other.place)
    mine.pop("listing.safetensors"), theirs.pop("listing.safetensors")  # which says which row was which
    assert mine == theirs


@pytest.mark.parametrize("kind", ["flips", "mixup"])
def test_more_epochs_or_more_views_ask_only_what_is_new(tmp_path: Path, kind: str) -> None:
    views = FLIPS if kind == "flips" else Views(mixup=0.4)
    teacher, data = Teacher(), arrays(images(300))
    steps: list[tuple[str | int, tuple[int, ...], int, int]] = [
        ("replay", (0,), 1, 300),  # 1 view
        ("replay", (0,), 3, 600),  # two more epochs
        (3, (0,), 1, 0),  # the same three, by their number
        (4, (0,), 1, 300),
        ("replay", (0, 5), 3, 900),  # another seed
        (2, (0,), 1, 0),  # fewer
    ]
    for choice, seeds, epochs, new in steps:
        asked = parts.question(data, views, choice, seeds=seeds, epochs=epochs)
        built = build(tmp_path, asked, teacher.capture)
        assert built.asked == new
        assert built.rows == 300 * len(asked.draws)
        answers_right(built.place, asked, teacher.live)
    assert len(list(tmp_path.iterdir())) == 1
    assert set(teacher.asked.values()) == {1}
    assert len(teacher.asked) == 2100


def test_views_straight_and_step_by_step_answer_the_same(tmp_path: Path) -> None:
    data = arrays(images(300))
    straight = build(tmp_path / "a", parts.question(data, FLIPS, 4), Teacher().capture)
    for count in range(1, 5):
        stepwise = build(tmp_path / "b", parts.question(data, FLIPS, count), Teacher().capture)
    one, other = StoredTeacher(straight.place), StoredTeacher(stepwise.place)
    assert sorted(one.views) == sorted(other.views)
    assert len(one) == len(other) == 1200
    for epoch in range(4):
        for batch in Batches(data, batch_size=50, views=FLIPS, seed=3, recorded=4).epoch(epoch):
            assert torch.equal(one.answer(batch).logits, other.answer(batch).logits)


def test_data_straight_and_step_by_step_answer_the_same(tmp_path: Path) -> None:
    every = images(900)
    straight = build(tmp_path / "a", parts.question(arrays(every)), Teacher().capture)
    teacher = Teacher()
    for count in (10, 300, 301, 700, 900):
        stepwise = build(tmp_path / "b", parts.question(arrays(every[:count])), teacher.capture)
    assert set(teacher.asked.values()) == {1}
    one, other = StoredTeacher(straight.place), StoredTeacher(stepwise.place)
    assert torch.equal(one.ids(), other.ids())
    for batch in plain_batches(arrays(every), 64):
        assert torch.equal(one.answer(batch).logits, other.answer(batch).logits)


def test_two_sets_share_what_they_share(tmp_path: Path) -> None:
    every, teacher = images(900), Teacher()
    left, right = (parts.question(arrays(every[a:b])) for a, b in ((0, 600), (300, 900)))
    build(tmp_path, left, teacher.capture)
    built = build(tmp_path, right, teacher.capture)
    assert built.asked == 300
    answers_right(built.place, left, teacher.live)
    answers_right(built.place, right, teacher.live)


def test_the_training_part_of_arrays(tmp_path: Path) -> None:
    x, y = images(200).numpy(), [number % 4 for number in range(200)]
    data = from_arrays(x, y, val=0.2, test=0.2, seed=0).train
    module = parts.net()
    stored = record(module, data, root=tmp_path)
    assert torch.equal(stored.ids(), data.ids)
    again = record(module, from_arrays(x[::-1].copy(), y[::-1], val=0.2, test=0.2, seed=0).train, root=tmp_path)
    assert again.fingerprint() == stored.fingerprint()


def test_a_teacher_that_answers_with_nan_is_refused_by_name(tmp_path: Path) -> None:
    data = arrays(images(1000))
    bad = data.ids[600]
    teacher = Teacher(spoil=bad)
    with pytest.raises(ModelError, match=f"NaN or infinity for 1 of 256 examples\n  given     content id {bad} first"):
        build(tmp_path, parts.question(data), teacher.capture)
    # Without the example the store is built on from what was there, by the same teacher.
    calm = Teacher()
    asked = parts.question(data.take((data.ids != bad).nonzero().flatten()))
    built = build(tmp_path, asked, calm.capture)
    assert built.asked == 999 - 512
    assert not set(calm.asked) & {(int(id_), 0) for id_ in data.ids[:512]}
    answers_right(built.place, asked, calm.live)
    assert list(verify(built.place)) == []


def test_nan_in_added_rows_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    every = images(600)
    old, new = parts.question(arrays(every[:300])), parts.question(arrays(every))
    built = build(tmp_path, old, Teacher().capture)
    before = files(built.place)
    with pytest.raises(ModelError, match="NaN or infinity"):
        build(tmp_path, new, Teacher(spoil=arrays(every[599:]).ids).capture)
    answers_right(built.place, old, Teacher().live)
    after = files(built.place)
    assert {name: after[name] for name in before} == before
    again = build(tmp_path, old, Teacher().capture)
    assert (again.asked, again.added) == (0, 0)
    assert files(built.place) == before  # what the failed build left is gone


@pytest.mark.parametrize(
    ("codec", "value"), [("fp32", float("nan")), ("int8", float("inf")), ("fp16", 1e6), ("top-2", 1e6)]
)
def test_features_that_are_no_numbers_any_more_are_refused(tmp_path: Path, codec: str, value: float) -> None:
    """As logits are: 1e6 would become infinity in the half precision in which features are kept."""
    data = arrays(images(40))
    how: Capture = parts.capture(parts.net(), codec, places=("hidden",))

    def ask(batch: Batch) -> Outputs:
        answer = how.ask(batch)
        bad = (batch.ids == data.ids[20])[:, None]
        return Outputs(answer.logits, {"hidden": answer.features["hidden"].masked_fill(bad, value)})

    with pytest.raises(ModelError, match="hidden"):
        build(tmp_path, parts.question(data), replace(how, ask=ask))


class Short:
    """Answers with another number of classes, or with none of the right shape."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def ask(self, batch: Batch) -> Outputs:
        return Outputs(torch.zeros(len(batch), *self.shape))


@pytest.mark.parametrize("shape", [(3,), (5,), (), (4, 1)])
def test_answers_that_do_not_fit_the_classes_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    capture = Capture(Short(shape).ask, "short", codec_of("fp32"))
    with pytest.raises(ModelError, match=r"cannot be stored\n(.*\n)*  expected  all logits of 4 classes") as caught:
        build(tmp_path, parts.question(arrays(images(40))), capture)
    assert caught.value.exit_code == 3
    (place,) = tmp_path.iterdir()
    assert files(place) == {}


@pytest.mark.parametrize("rows", [0, 1, 16, 31, 33, 64])
def test_more_or_fewer_answers_than_examples_are_refused(tmp_path: Path, rows: int) -> None:
    def ask(batch: Batch) -> Outputs:
        return Outputs(torch.zeros(len(batch) * rows // 32, 4))

    with pytest.raises(ModelError):
        build(tmp_path, parts.question(arrays(images(300))), Capture(ask, "other", codec_of("fp32")))


def test_a_disk_that_will_be_full_is_refused_before_anything_is_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, asked = Teacher(), parts.question(arrays(images(10_000)))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1 << 30, 1 << 30, 100_000))
    message = r"not fit on the disk\n  given     97.7 KiB free at .*\n  expected  542.5 KiB for 10,000 rows of 32 bytes"
    with pytest.raises(TutelageError, match=message) as caught:
        build(tmp_path, asked, teacher.capture)
    assert caught.value.exit_code == 1
    assert (teacher.probes, len(teacher.asked)) == (1, 0)
    (place,) = tmp_path.iterdir()
    assert files(place) == {}
    monkeypatch.undo()
    assert build(tmp_path, asked, teacher.capture).asked == 10_000


def test_what_will_be_needed_is_what_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With features, whose size only the teacher knows, and one byte less than is needed."""
    teacher = Teacher(parts.capture(parts.net(), "fp16", places=("hidden",)))
    asked = parts.question(arrays(images(5000)))
    free = 5000 * (16 + 4 * 2 + 8 * 2)  # keys, logits, features
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1 << 30, 1 << 30, free))
    with pytest.raises(TutelageError, match="for 5,000 rows of 40 bytes"):
        build(tmp_path, asked, teacher.capture)
    monkeypatch.undo()
    built = build(tmp_path, asked, teacher.capture)
    assert free < built.bytes < free + 5000 + (1 << 16)


class Full:
    """A disk that is full from the n-th call of a function on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, after: int) -> None:
        self.calls = 0
        inner = getattr(owner, name)

        def limited(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls > after:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return inner(*args, **kwargs)

        monkeypatch.setattr(owner, name, limited)


# A plan and then every shard are written, synced, renamed, and their folder is synced.
WRITTEN = [("fsync", os, 2), ("replace", Path, 1)]


@pytest.mark.parametrize("shard", [0, 1, 3])
@pytest.mark.parametrize(("name", "owner", "each"), WRITTEN, ids=[name for name, *_ in WRITTEN])
def test_a_disk_that_gets_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, owner: Any, each: int, shard: int
) -> None:
    asked = parts.question(arrays(images(1000)))
    straight = files(build(tmp_path / "straight", asked, Teacher().capture).place)
    teacher = Teacher()
    with monkeypatch.context() as patch:
        Full(patch, owner, name, each * (1 + shard))
        with pytest.raises(TutelageError, match=r"cannot write .*shard-0000.*No space left") as caught:
            build(tmp_path / "full", asked, teacher.capture)
    assert caught.value.exit_code == 1
    assert "what was saved before is intact" in str(caught.value)
    (place,) = (tmp_path / "full").iterdir()
    assert sorted(files(place)) == ["plan.safetensors", *sorted(straight)[2 : 2 + shard]]
    written = len(teacher.asked) - 256 if shard < 3 else 768
    built = build(tmp_path / "full", asked, teacher.capture)
    assert built.asked == 1000 - written
    assert sum(teacher.asked.values()) - len(teacher.asked) == (256 if shard < 3 else 232)
    assert files(place) == straight


def test_a_disk_that_is_full_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The n-th file that is written does not fit: the message is ours, no torn file stays, and nothing is lost."""
    asked = parts.question(arrays(images(600)))
    straight = files(build(tmp_path / "straight", asked, Teacher().capture).place)
    opened = Path.open
    # A plan, three shards, a manifest and a listing.
    for limit in range(1, 7):
        teacher, root, count = Teacher(), tmp_path / str(limit), 0

        class Torn:
            """A file of which only the first half fits."""

            def __init__(self, path: Path) -> None:
                self.file = opened(path, "wb")

            def __enter__(self) -> Torn:
                return self

            def __exit__(self, *_: object) -> None:
                self.file.close()

            def write(self, data: bytes) -> int:
                self.file.write(data[: len(data) // 2])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def open_(path: Path, mode: str = "r", *args: Any, limit: int = limit, **kwargs: Any) -> Any:
            nonlocal count
            count += mode == "wb"
            return Torn(path) if mode == "wb" and count >= limit else opened(path, mode, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", open_)
            with pytest.raises(TutelageError, match="No space left") as caught:
                build(root, asked, teacher.capture)
        assert caught.value.exit_code == 1
        assert count == limit
        (place,) = root.iterdir()
        assert not list(place.glob(".*.tmp"))
        kept = {name: data for name, data in files(place).items() if name != "plan.safetensors"}
        assert kept == {name: straight[name] for name in kept}
        built = build(root, asked, teacher.capture)
        assert files(built.place) == straight
        assert sum(teacher.asked.values()) - len(teacher.asked) <= 256


@pytest.mark.parametrize("name", ["lock", "history"])
def test_a_disk_without_room_for_the_smallest_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Neither who builds nor how long it took is worth more than a message of ours; what was sealed is sealed."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    opened = Path.open

    def no_appending(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        return refuse() if mode == "a" else opened(path, mode, *args, **kwargs)

    teacher, asked = Teacher(), parts.question(arrays(images(600)))
    with monkeypatch.context() as patch, suppress(TutelageError):
        patch.setattr(os, "pwrite", refuse) if name == "lock" else patch.setattr(Path, "open", no_appending)
        build(tmp_path, asked, teacher.capture)
    built = build(tmp_path, asked, teacher.capture)
    assert set(teacher.asked.values()) == {1}
    assert list(verify(built.place)) == []


def test_a_place_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    teacher = Teacher()
    for root in (tmp_path / "file", tmp_path / "file" / "store"):
        with pytest.raises(TutelageError, match="file"):
            build(root, parts.question(arrays(images(40))), teacher.capture)
    assert teacher.asked == {}
    assert (tmp_path / "file").read_text() == "no folder"


@pytest.mark.parametrize("count", [1, 2, 7, 31, 32, 33, 255, 256, 257, 511, 512, 513])
def test_any_number_of_examples(tmp_path: Path, count: int) -> None:
    asked = parts.question(arrays(images(count)))
    built = build(tmp_path, asked, Teacher().capture)
    assert (built.rows, built.asked, built.added) == (count, count, count)
    answers_right(built.place, asked, Teacher().live)
    assert list(verify(built.place)) == []


def test_a_stop_between_two_blocks_loses_at_most_the_open_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tutelage.store.plan._LEAST_ROWS", 512)
    asked = parts.question(arrays(images(2000)))
    straight = files(build(tmp_path / "straight", asked, Teacher().capture).place)

    class Stop(Exception):  # noqa: N818  no error
        pass

    for moment in range(1, 9):
        teacher, calls = Teacher(), 0

        def check(moment: int = moment) -> None:
            nonlocal calls
            calls += 1
            if calls == moment:
                raise Stop

        with pytest.raises(Stop):
            build(tmp_path / str(moment), asked, teacher.capture, check=check)
        before = len(teacher.asked)
        built = build(tmp_path / str(moment), asked, teacher.capture)
        assert built.asked == 2000 - (moment - 1) // 2 * 512
        assert sum(teacher.asked.values()) == before + built.asked
        assert files(built.place) == straight


def test_more_rows_than_the_least_make_longer_shards(tmp_path: Path) -> None:
    asked = parts.question(arrays(images(300)), FLIPS, 60)  # 18,000 rows in at most 64 shards
    built: Built = build(tmp_path, asked, Teacher().capture)
    shards = StoredTeacher(built.place).manifest.shards
    assert [shard.rows for shard in shards] == [512] * 35 + [80]
    assert sum(shard.rows for shard in shards) == built.rows


def test_partners_come_from_the_whole_set(tmp_path: Path) -> None:
    """With mixup another set is another question, so an added example leaves no answer to a blend that is gone."""
    views, base = Views(mixup=0.4), images(60)
    small, large = arrays(base[:50]), arrays(base)
    teacher = Teacher()
    first = build(tmp_path, parts.question(small, views, 1), teacher.capture)
    second = build(tmp_path, parts.question(large, views, 1), teacher.capture)
    assert first.place != second.place
    assert second.asked == 60
    for data, place in ((small, first.place), (large, second.place)):
        batch = view_batch(data, torch.arange(len(data)), views, seed=0, epoch=0)
        assert torch.equal(StoredTeacher(place).answer(batch).logits, teacher.live.ask(batch).logits)


def test_examples_in_any_order_are_asked_about_themselves(tmp_path: Path) -> None:
    """`Examples.take` keeps the order that it is given, so ids need not be sorted."""
    data = arrays(images(300))
    swapped = torch.arange(300)
    swapped[[100, 101]] = swapped[[101, 100]]
    orders = {
        "swapped": swapped,
        "reversed": torch.arange(299, -1, -1),
        "shuffled": torch.randperm(300, generator=torch.Generator().manual_seed(1)),
    }
    for name, order in orders.items():
        for views, choice in ((Views(), "none"), (FLIPS, 2)):
            asked = Question(data.take(order), views, draws_of(choice, views))
            built = build(tmp_path / name, asked, Teacher().capture)
            answers_right(built.place, Question(data, views, asked.draws), Teacher().live)


def test_two_threads_share_a_build(tmp_path: Path) -> None:
    """Locks of the system belong to a process; between its threads one waits for the other."""
    teacher, asked = Teacher(), parts.question(arrays(images(1000)))
    straight = build(tmp_path / "straight", asked, Teacher().capture)
    with ThreadPoolExecutor(3) as pool:
        built = list(pool.map(lambda _: build(tmp_path / "shared", asked, teacher.capture), range(3)))
    assert sorted(one.asked for one in built) == [0, 0, 1000]
    assert set(teacher.asked.values()) == {1}
    assert files(built[0].place) == files(straight.place)

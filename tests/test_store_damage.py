"""Damage is found, named and mended; whatever happens to the files or to the data, no row is ever a wrong one."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import store_parts as parts
from tutelage.data import Examples, Views, view_batch
from tutelage.errors import DamagedError, InputError, MismatchError
from tutelage.store import Capture, Question, StoredTeacher, build, repair, stores_in, verify
from tutelage.store.layout import BLOCK, pack
from tutelage.types import Batch, Outputs, Sampled, TopK

SIDE: int = parts.SIDE
PROBE = 8  # a new plan asks about so many examples first, to know whether the answers will fit on the disk
SHARD = 512  # rows, two blocks
COUNT = 2 * SHARD + 200
LISTING, MANIFEST = "listing.safetensors", "manifest.json"
BOTH = pytest.mark.parametrize("resident", [True, False], ids=["resident", "mapped"])


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tutelage.store.plan._LEAST_ROWS", SHARD)


class Teacher:
    """A capture that remembers about whom it was asked."""

    def __init__(self, codec: str = "fp32", places: tuple[str, ...] = (), *, seed: int = 0) -> None:
        self.live: Capture = parts.capture(parts.net(seed), codec, temperature=2.0, places=places)
        self.capture = replace(self.live, ask=self._ask)
        self.asked: Counter[tuple[int, int]] = Counter()

    def _ask(self, batch: Batch) -> Outputs:
        ids = batch.ids.unique().tolist()
        if len(ids) != PROBE:
            self.asked.update((id_, batch.view) for id_ in ids)
        return self.live.ask(batch)


def images(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, SIDE, SIDE), dtype=torch.uint8, generator=generator)


def examples(inputs: Tensor, targets: Tensor | None = None) -> Examples:
    labels = torch.arange(len(inputs)) % len(parts.NAMES) if targets is None else targets
    return Examples.make(inputs, labels, parts.NAMES, "set")


ASKED: Question = parts.question(examples(images(COUNT)))


def tensors(answer: Outputs) -> list[Tensor]:
    """All numbers of an answer."""
    logits = answer.logits
    if isinstance(logits, TopK):
        own = [logits.values, logits.indices, logits.tail]
    elif isinstance(logits, Sampled):
        own = [logits.indices, logits.weights]
    else:
        own = [logits]
    return [*own, *answer.features.values()]


def same(one: Outputs, other: Outputs) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))


class Kept(NamedTuple):
    """A sealed store, what it consists of, and what it answers."""

    place: Path
    teacher: Teacher
    batch: Batch
    answers: Outputs
    files: dict[str, bytes]

    @contextmanager
    def with_(self, **changed: bytes | None) -> Iterator[None]:
        """The same with other files for a while; None stands for one that is missing."""
        self.write(changed)
        try:
            yield
        finally:
            self.write({name: self.files.get(name) for name in changed})

    def write(self, files: dict[str, bytes | None]) -> None:
        for name, data in files.items():
            path = self.place / name
            if data is None:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(data)


KINDS = {
    "fp32": Teacher("fp32"),
    "fp16 and features": Teacher("fp16", ("hidden", "head")),
    "bf16": Teacher("bf16"),
    "int8 and a feature": Teacher("int8", ("hidden",)),
    "top-2": Teacher("top-2"),
    "sample-9 and a feature": Teacher("sample-9", ("hidden",)),
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kept]:
    """One store of each kind; whoever changes one restores it."""
    root, made = tmp_path_factory.mktemp("stores"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tutelage.store.plan._LEAST_ROWS", SHARD)
        for name, teacher in KINDS.items():
            place = build(root, ASKED, teacher.capture).place
            made[name] = kept(place, teacher)
    return made


def kept(place: Path, teacher: Teacher, asked: Question = ASKED) -> Kept:
    batch = asked.batch(asked.ids(), None)
    files = {path.name: path.read_bytes() for path in place.iterdir() if path.name not in (".lock", "history.jsonl")}
    return Kept(place, teacher, batch, as_stored(teacher.live, batch), files)


def as_stored(how: Capture, batch: Batch) -> Outputs:
    """What the live answers become in this codec; computed without the store."""
    live = how.ask(batch)
    assert isinstance(live.logits, Tensor)
    columns = how.codec.encode(live.logits, batch.ids, batch.view)
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}.get(how.codec.name, torch.float16)
    features = {place: value.to(kind) for place, value in live.features.items()}
    return Outputs(how.codec.decode(columns, live.logits.shape[-1]), features)


@pytest.fixture
def own(stores: dict[str, Kept], tmp_path: Path) -> Kept:
    """A copy of a store that a test may ruin."""
    source = stores["int8 and a feature"]
    place = tmp_path / "store" / source.place.name
    shutil.copytree(source.place, place)
    return kept(place, Teacher("int8", ("hidden",)))


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def some(batch: Batch, index: Tensor) -> Batch:
    inputs = {name: value[index] for name, value in batch.inputs.items()}
    return Batch(batch.ids[index], inputs, batch.target[index], batch.view)


def never_wrong(store: Kept, resident: bool, chance: random.Random) -> int:
    """Ask about all rows, in batches of random ones: each batch is refused as damaged, or right. How many are."""
    try:
        teacher = StoredTeacher(store.place, resident=resident)
    except (DamagedError, InputError):
        return 0
    order = torch.tensor(chance.sample(range(len(store.batch)), len(store.batch)))
    right = 0
    # Long and short ones: some of a mapped file's blocks are met one by one.
    for index in torch.split(order, [COUNT - 240, *[40] * 6]):
        try:
            found = teacher.answer(some(store.batch, index))
        except DamagedError:
            continue
        wanted = [value[index] for value in tensors(store.answers)]
        assert all(torch.equal(a, b) for a, b in zip(tensors(found), wanted, strict=True)), "a wrong row"
        right += 1
    return right


# Where each of the thousand bits falls is drawn over all files of all stores, in proportion to their size; but headers
# and manifests, which are short, get as many again.


def draw_bits(stores: dict[str, Kept], count: int) -> Iterator[tuple[Kept, str, int]]:
    chance = random.Random(0)
    files = [(store, name) for store in stores.values() for name in sorted(store.files)]
    sizes = [len(store.files[name]) for store, name in files]
    for number in range(count):
        store, name = chance.choices(files, sizes if number % 2 else None)[0]
        data = store.files[name]
        length = 8 + int.from_bytes(data[:8], "little") if number % 2 == 0 and name != MANIFEST else len(data)
        yield store, name, chance.randrange(8 * length)


def test_a_store_that_is_whole_has_no_damage(stores: dict[str, Kept]) -> None:
    for store in stores.values():
        assert list(verify(store.place)) == []
        for resident in (True, False):
            assert same(StoredTeacher(store.place, resident=resident).answer(store.batch), store.answers)
    assert stores_in(next(iter(stores.values())).place.parent) == sorted(store.place for store in stores.values())


def test_every_flipped_bit_is_found(stores: dict[str, Kept]) -> None:
    missed, misnamed = [], []
    for store, name, bit in draw_bits(stores, 1000):
        with store.with_(**{name: flipped(store.files[name], bit)}):
            found = list(verify(store.place))
        where = f"{name} of {store.teacher.live.codec.name}, byte {bit // 8}, bit {bit % 8}"
        if not found:
            missed.append(where)
        elif [damage.file for damage in found] != [name]:
            misnamed.append(where)
    assert missed == []
    assert misnamed == []


def test_every_cut_is_found(stores: dict[str, Kept]) -> None:
    missed = []
    chance = random.Random(1)
    for _ in range(100):
        store = chance.choice(list(stores.values()))
        name = chance.choice(sorted(store.files))
        length = chance.choice([0, 1, 7, 8, 9, chance.randrange(len(store.files[name])), len(store.files[name]) - 1])
        with store.with_(**{name: store.files[name][:length]}):
            if [damage.file for damage in verify(store.place)] != [name]:
                missed.append((name, length))
            for resident in (True, False):
                right = never_wrong(store, resident, chance)
                assert (right == 7) == (name == LISTING)
    assert missed == []


def test_bytes_behind_the_end_are_found(stores: dict[str, Kept]) -> None:
    for store in stores.values():
        for name, data in store.files.items():
            for more in (b"\0", b" ", b"\n", data):
                with store.with_(**{name: data + more}):
                    assert [damage.file for damage in verify(store.place)] == [name]


def test_every_byte_of_a_manifest_counts(stores: dict[str, Kept]) -> None:
    """Each with another bit; readers refuse them all."""
    store = stores["top-2"]
    data = store.files[MANIFEST]
    for byte in range(len(data)):
        with store.with_(**{MANIFEST: flipped(data, 8 * byte + byte % 8)}):
            with pytest.raises(DamagedError):
                StoredTeacher(store.place)
            assert [damage.file for damage in verify(store.place)] == [MANIFEST]


def test_every_byte_of_headers_and_sums_counts(stores: dict[str, Kept]) -> None:
    """Of a shard and of the listing, each with another bit; readers refuse the shard."""
    store = stores["int8 and a feature"]
    missed = []
    for name in ("shard-00001.safetensors", LISTING):
        data = store.files[name]
        length = 8 + int.from_bytes(data[:8], "little")
        start, end = json.loads(data[8:length])["crc"]["data_offsets"]
        for byte in [*range(length), *range(length + start, length + end)]:
            bit = 8 * byte + byte % 8
            with store.with_(**{name: flipped(data, bit)}):
                if [damage.file for damage in verify(store.place)] != [name]:
                    missed.append((name, bit, flipped(data, bit)[max(0, byte - 4) : byte + 4]))
                if name != LISTING:
                    with pytest.raises(DamagedError):
                        StoredTeacher(store.place, resident=False)
    assert missed == []


@BOTH
def test_a_reader_never_answers_with_a_wrong_row(stores: dict[str, Kept], resident: bool) -> None:
    chance = random.Random(2)
    refused = 0
    flips = [found for found in draw_bits(stores, 1000) if found[1] != LISTING][:600]
    for store, name, bit in flips:
        with store.with_(**{name: flipped(store.files[name], bit)}):
            right = never_wrong(store, resident, chance)
        # What is in memory was checked as a whole; a mapped file is refused where the damage is.
        assert right == 0 or not resident
        refused += right < 7
    assert refused == len(flips)


@BOTH
def test_the_damaged_block_is_refused_and_named(own: Kept, resident: bool) -> None:
    name = "shard-00001.safetensors"
    own.write({name: flipped(own.files[name], 8 * (len(own.files[name]) - 20))})  # in the last column's last rows
    (damage,) = verify(own.place)
    assert (damage.file, damage.blocks) == (name, (1,))
    assert str(damage) == f"{own.place.name}/{name}: altered in rows 256–511 of 512"
    message = r"shard-00001.safetensors is damaged\n  given     rows 256–511 of 512\nhint: tutelage cache repair RECIPE"
    if resident:
        with pytest.raises(DamagedError, match=message) as caught:
            StoredTeacher(own.place, resident=True)
        assert caught.value.exit_code == 5
        return
    mapped = StoredTeacher(own.place, resident=False)
    bad = torch.arange(SHARD + BLOCK, 2 * SHARD)
    good = torch.tensor([row for row in range(COUNT) if row not in set(bad.tolist())])
    for _ in range(2):  # it is not forgotten
        for row in bad[::17].tolist():
            with pytest.raises(DamagedError, match=message):
                mapped.answer(some(own.batch, torch.tensor([0, row])))
        found = mapped.answer(some(own.batch, good))
        assert all(torch.equal(a, b[good]) for a, b in zip(tensors(found), tensors(own.answers), strict=True))


def mended(store: Kept, asked: Question = ASKED, *, codec: str = "int8") -> tuple[Counter[tuple[int, int]], int]:
    """Repair and build; which rows were asked by the repair, and how many by the build."""
    first, second = (Teacher(codec, store.teacher.live.places) for _ in range(2))
    repair(store.place.parent, asked, first.capture)
    built = build(store.place.parent, asked, second.capture)
    assert built.place == store.place
    assert list(verify(store.place)) == []
    for resident in (True, False):
        assert same(StoredTeacher(store.place, resident=resident).answer(store.batch), store.answers)
    assert not list(store.place.glob(".*.tmp"))
    assert repair(store.place.parent, asked, Teacher(codec, store.teacher.live.places).capture) == []
    assert len(second.asked) == built.asked
    return first.asked, built.asked


def files_now(store: Kept) -> dict[str, bytes]:
    return kept(store.place, store.teacher).files


@pytest.mark.parametrize("kind", KINDS)
def test_a_repair_asks_only_about_damaged_blocks_and_brings_back_the_bytes(
    stores: dict[str, Kept], tmp_path: Path, kind: str
) -> None:
    teacher = KINDS[kind]
    shutil.copytree(stores[kind].place, tmp_path / stores[kind].place.name)
    store = kept(tmp_path / stores[kind].place.name, teacher)
    ids = ASKED.ids().tolist()
    chance = random.Random(3)
    for name, blocks in {"shard-00000": [0, 1], "shard-00001": [1], "shard-00002": [0]}.items():
        data = store.files[f"{name}.safetensors"]
        start = 8 + int.from_bytes(data[:8], "little")
        for block in blocks:
            # In the last column, whose rows are the last of the file.
            rows = min(SHARD, COUNT - int(name[-1]) * SHARD)
            width = last_column(data) // rows
            byte = len(data) - (rows - block * BLOCK) * width + chance.randrange(width)
            assert byte > start
            data = flipped(data, 8 * byte)
        store.write({f"{name}.safetensors": data})
    found = list(verify(store.place))
    assert [damage.blocks for damage in found] == [(0, 1), (1,), (0,)]
    asked, lost = mended(store, codec=teacher.live.codec.name)
    # Everything but the first block of the second shard.
    assert asked == {(id_, 0): 1 for number, id_ in enumerate(ids) if not SHARD <= number < SHARD + BLOCK}
    assert lost == 0
    assert files_now(store) == store.files


def last_column(data: bytes) -> int:
    """Bytes of the column that stands last in a shard."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    start, end = max(column["data_offsets"] for name, column in header.items() if name != "__metadata__")
    return end - start


def test_any_flipped_bit_is_mended(own: Kept) -> None:
    """Wherever it falls: what can be told is asked by blocks, what cannot by whole shards; the bytes come back."""
    chance = random.Random(4)
    for number in range(60):
        name = chance.choice(sorted(own.files))
        data = own.files[name]
        length = 8 + int.from_bytes(data[:8], "little") if number % 3 == 0 and name != MANIFEST else len(data)
        own.write({name: flipped(data, chance.randrange(8 * length))})
        if not list(verify(own.place)):
            own.write(own.files)
            continue  # another test's matter
        asked, lost = mended(own)
        assert len(asked) in (0, BLOCK, 200)
        assert lost in (0, SHARD, 200)
        assert not (asked and lost)
        assert files_now(own) == own.files


def test_a_repair_of_views_brings_back_the_bytes(tmp_path: Path) -> None:
    """A block may stand where one view ends and the next begins; seeds may be named in another order by then."""
    views, data = Views(flip=0.5, shift=1), examples(images(300))
    asked = parts.question(data, views, "replay", seeds=(0, 1), epochs=2)
    place = build(tmp_path, asked, Teacher().capture).place
    names = sorted(path.name for path in place.glob("shard-*"))
    before = {name: (place / name).read_bytes() for name in names}
    for other in ((0, 1), (1, 0), (5, 1, 3, 0)):
        for name, whole in before.items():
            rows = len(whole) // (16 + 4 * 4)  # keys and logits
            first = whole
            for block in range(-(-min(rows, SHARD) // BLOCK)):
                first = flipped(first, 8 * (len(whole) - last_column(whole) + block * BLOCK * 8 + 3))
            (place / name).write_bytes(first)
        teacher = Teacher()
        again = parts.question(data, views, "replay", seeds=other, epochs=2)
        repair(tmp_path, again, teacher.capture)
        build(tmp_path, again, teacher.capture)
        stored = StoredTeacher(place)
        for seed, epoch in asked.draws:
            batch = view_batch(data, torch.arange(300), views, seed=seed, epoch=epoch)
            assert torch.equal(tensors(stored.answer(batch))[0], tensors(teacher.live.ask(batch))[0])
        assert {name: (place / name).read_bytes() for name in names} == before


@pytest.mark.parametrize("gone", [100, COUNT - 1])
def test_a_damaged_shard_with_rows_of_examples_that_are_gone(own: Kept, gone: int) -> None:
    """Nobody can be asked about those: the shard is dropped, and only what is still wanted is asked."""
    name = f"shard-{gone // SHARD:05d}.safetensors"
    row = gone % SHARD // BLOCK * BLOCK
    data = own.files[name]
    rows = min(SHARD, COUNT - gone // SHARD * SHARD)
    own.write({name: flipped(data, 8 * (len(data) - (rows - row) * (last_column(data) // rows)))})
    index = torch.tensor([number for number in range(COUNT) if number != gone])
    left = parts.question(ASKED.examples.take(index))
    first, second = Teacher("int8", ("hidden",)), Teacher("int8", ("hidden",))
    repair(own.place.parent, left, first.capture)
    built = build(own.place.parent, left, second.capture)
    assert first.asked == {}
    assert built.asked == rows - 1
    found = StoredTeacher(own.place).answer(some(own.batch, index))
    assert all(torch.equal(a, b[index]) for a, b in zip(tensors(found), tensors(own.answers), strict=True))
    assert list(verify(own.place)) == []


# What may happen to the files of a store, and what each costs: rows that a repair asks, rows that the build after it
# asks; and whether readers refuse it as it is (where they do not, they must be right).


def missing(name: str) -> Callable[[Kept, Kept, Kept], None]:
    return lambda store, other, more: (store.place / name).unlink()


def swapped(store: Kept, other: Kept, more: Kept) -> None:
    one, two = "shard-00000.safetensors", "shard-00001.safetensors"
    assert len(store.files[one]) == len(store.files[two])
    store.write({one: store.files[two], two: store.files[one]})


def of_another_teacher(store: Kept, other: Kept, more: Kept) -> None:
    name = "shard-00001.safetensors"
    assert len(store.files[name]) == len(other.files[name])
    assert store.files[name] != other.files[name]
    store.write({name: other.files[name]})


def all_of_another_teacher(store: Kept, other: Kept, more: Kept) -> None:
    store.write({name: data for name, data in other.files.items() if name.startswith("shard")})


def manifest_of_another(store: Kept, other: Kept, more: Kept) -> None:
    store.write({MANIFEST: other.files[MANIFEST]})


def everything_of_another(store: Kept, other: Kept, more: Kept) -> None:
    store.write(dict(other.files))


def foreign_shard(store: Kept, other: Kept, more: Kept) -> None:
    store.write({"shard-00003.safetensors": other.files["shard-00000.safetensors"]})


def twice_the_same_shard(store: Kept, other: Kept, more: Kept) -> None:
    store.write({"shard-00003.safetensors": store.files["shard-00000.safetensors"]})


def forged_shard(store: Kept, other: Kept, more: Kept) -> None:
    """Another teacher's answers under this store's key, with sums that fit; only the manifest tells."""
    from safetensors.torch import load

    name = "shard-00001.safetensors"
    columns = {column: values for column, values in load(other.files[name]).items() if column != "crc"}
    store.write({name: pack(columns, store.place.name)})


def manifest_of_less(store: Kept, other: Kept, more: Kept) -> None:
    """From when the store had fewer rows: the shards of later are not believed."""
    store.write({MANIFEST: more.files[MANIFEST]})


def rubbish(store: Kept, other: Kept, more: Kept) -> None:
    store.write({"notes.txt": b"hello", "shard-1.safetensors": b"hello", ".shard-00000.safetensors.1.tmp": b"hello"})


class Accident(NamedTuple):
    happens: Callable[[Kept, Kept, Kept], None]
    refused: bool
    found: bool
    repaired: int = 0
    built: int = 0


ACCIDENTS = {
    "a shard is missing": Accident(missing("shard-00001.safetensors"), True, True, 0, SHARD),
    "the last shard is missing": Accident(missing("shard-00002.safetensors"), True, True, 0, 200),
    "two shards changed places": Accident(swapped, True, True, 0, 2 * SHARD),
    "a shard of another teacher": Accident(of_another_teacher, True, True, 0, SHARD),
    "all shards of another teacher": Accident(all_of_another_teacher, True, True, 0, COUNT),
    "the manifest of another store": Accident(manifest_of_another, True, True),
    "all of another store": Accident(everything_of_another, True, True, 0, COUNT),
    "a foreign shard": Accident(foreign_shard, False, True),
    "a shard a second time": Accident(twice_the_same_shard, False, True),
    "a forged shard": Accident(forged_shard, True, True, 0, SHARD),
    "an older manifest": Accident(manifest_of_less, False, True, 0, COUNT - SHARD),
    "no manifest": Accident(missing(MANIFEST), True, False),
    "no listing": Accident(missing(LISTING), False, False),
    "no lock": Accident(missing(".lock"), False, False),
    "no history": Accident(missing("history.jsonl"), False, False),
    "rubbish": Accident(rubbish, False, True),
}


@pytest.mark.parametrize("name", ACCIDENTS)
def test_accidents(own: Kept, tmp_path: Path, name: str) -> None:
    accident = ACCIDENTS[name]
    stranger = Teacher("int8", ("hidden",), seed=1)
    other = kept(build(tmp_path / "other", ASKED, stranger.capture).place, stranger)
    less = Question(ASKED.examples.take(torch.arange(SHARD)), ASKED.views, ASKED.draws)
    more = kept(build(tmp_path / "less", less, Teacher("int8", ("hidden",)).capture).place, own.teacher, less)
    assert other.place.name != own.place.name == more.place.name
    accident.happens(own, other, more)
    for resident in (True, False):
        if accident.refused:
            with pytest.raises((DamagedError, InputError)):
                StoredTeacher(own.place, resident=resident).answer(own.batch)
        elif name == "an older manifest":
            assert never_wrong_but_missing(own, resident, SHARD)
        else:
            assert same(StoredTeacher(own.place, resident=resident).answer(own.batch), own.answers)
    if (own.place / MANIFEST).is_file():
        assert bool(list(verify(own.place))) == accident.found
    else:
        with pytest.raises(InputError, match="there is no store at"):
            list(verify(own.place))
    asked, lost = mended(own)
    assert (len(asked), lost) == (accident.repaired, accident.built)
    assert set(asked.values()) <= {1}
    expected = own.files
    left = {file: data for file, data in files_now(own).items() if file in expected or file.startswith("shard-")}
    if name == "two shards changed places":
        left.pop(MANIFEST), expected.pop(MANIFEST)
    assert left == expected


def never_wrong_but_missing(store: Kept, resident: bool, there: int) -> bool:
    teacher = StoredTeacher(store.place, resident=resident)
    with pytest.raises(MismatchError, match="have no stored answer"):
        teacher.answer(store.batch)
    index = torch.arange(there)
    found = teacher.answer(some(store.batch, index))
    return all(torch.equal(a, b[index]) for a, b in zip(tensors(found), tensors(store.answers), strict=True))


def test_a_folder_under_another_key(own: Kept) -> None:
    """Were it read under the name of another teacher, all its rows would be wrong."""
    stranger = Teacher("int8", ("hidden",), seed=1)
    place = build(own.place.parent.parent / "x", ASKED, stranger.capture).place
    wrong = own.place.with_name(place.name)
    own.place.rename(wrong)
    for resident in (True, False):
        with pytest.raises(DamagedError, match=r"is not the store that its manifest describes\n  given "):
            StoredTeacher(wrong, resident=resident)
    (damage,) = verify(wrong)
    assert damage.file == MANIFEST
    with pytest.raises(DamagedError):
        build(wrong.parent, ASKED, stranger.capture)
    repair(wrong.parent, ASKED, stranger.capture)
    built = build(wrong.parent, ASKED, stranger.capture)
    assert built.place == wrong
    assert built.asked == COUNT
    assert same(StoredTeacher(wrong).answer(own.batch), as_stored(stranger.live, own.batch))
    assert list(verify(wrong)) == []


def test_a_store_that_was_copied_or_moved_is_the_same(own: Kept, tmp_path: Path) -> None:
    shutil.move(own.place, tmp_path / "elsewhere" / own.place.name)
    moved = kept(tmp_path / "elsewhere" / own.place.name, own.teacher)
    assert moved.files == own.files
    assert same(StoredTeacher(moved.place).answer(own.batch), own.answers)
    assert build(moved.place.parent, ASKED, Teacher("int8", ("hidden",)).capture).asked == 0


def test_all_shards_at_once(own: Kept) -> None:
    """Nothing is left to tell the answers from: everything is asked again, and the bytes come back."""
    own.write({name: flipped(data, 8 * 40) for name, data in own.files.items()})
    with pytest.raises(DamagedError):
        StoredTeacher(own.place)
    assert mended(own) == (Counter(), COUNT)
    assert files_now(own) == own.files


def test_a_lost_manifest_costs_nothing_even_after_rows_were_added(own: Kept) -> None:
    """The shards say which rows they hold and what they were written for, so none of them is asked again."""
    more = parts.question(examples(torch.cat([images(COUNT), images(700, seed=1)])))
    build(own.place.parent, more, Teacher("int8", ("hidden",)).capture)
    for damage in (None, b"", b"{}", flipped((own.place / MANIFEST).read_bytes(), 99)):
        before = files_now(own)
        own.write({MANIFEST: damage})
        asked, lost = mended(own, more)
        assert (len(asked), lost) == (0, 0)
        assert files_now(own) == before


def test_a_listing_that_is_damaged_disturbs_no_build(own: Kept) -> None:
    data = own.files[LISTING]
    chance = random.Random(5)
    length = 8 * (8 + int.from_bytes(data[:8], "little"))
    for bit in [*(chance.randrange(length) for _ in range(100)), *(chance.randrange(8 * len(data)) for _ in range(50))]:
        own.write({LISTING: flipped(data, bit)})
        assert build(own.place.parent, ASKED, Teacher("int8", ("hidden",)).capture).asked == 0
        assert files_now(own) == own.files


def test_a_manifest_is_not_made_again_from_shards_that_are_not_whole(own: Kept) -> None:
    """Two faults at once: the manifest that would tell is damaged as well."""
    name = "shard-00001.safetensors"
    data = own.files[name]
    length = 8 + int.from_bytes(data[:8], "little")
    chance = random.Random(6)
    named = [
        data.index(column) for column in (b"feature/hidden", b"logits", b"middle", b"step", b"id", b"view", b"crc")
    ]
    bits = [8 * byte for byte in named] + [chance.randrange(8 * length) for _ in range(60)]
    wrong = []
    for bit in bits:
        own.write({**own.files, name: flipped(data, bit), MANIFEST: b"{}"})
        repair(own.place.parent, ASKED, Teacher("int8", ("hidden",)).capture)
        build(own.place.parent, ASKED, Teacher("int8", ("hidden",)).capture)
        if files_now(own) != own.files:
            wrong.append((bit, flipped(data, bit)[bit // 8 - 4 : bit // 8 + 8]))
            shutil.rmtree(own.place)
            own.place.mkdir()
    assert wrong == []


def test_a_build_over_damage_refuses_and_names_it(own: Kept) -> None:
    own.write({"shard-00001.safetensors": None})
    teacher = Teacher("int8", ("hidden",))
    more = parts.question(examples(images(COUNT + 5)))
    with pytest.raises(
        DamagedError, match=r"shard-00001.safetensors is missing\n.*512 rows\nhint: tutelage cache repair"
    ):
        build(own.place.parent, more, teacher.capture)
    assert teacher.asked == {}


def test_repair_of_nothing(tmp_path: Path) -> None:
    teacher = Teacher()
    assert repair(tmp_path, ASKED, teacher.capture) == []
    assert list(tmp_path.iterdir()) == []
    assert teacher.asked == {}


def test_repair_tells_what_it_finds(own: Kept) -> None:
    name = "shard-00002.safetensors"
    own.write({name: own.files[name][:-1], LISTING: b"x"})
    lines: list[str] = []
    found = repair(own.place.parent, ASKED, Teacher("int8", ("hidden",)).capture, tell=lines.append)
    assert [damage.file for damage in found] == [name, LISTING]
    assert lines == [str(damage) for damage in found]
    assert lines[0].endswith(f"bytes instead of {len(own.files[name]):,}, with 200 rows")


# Faults of the data: whatever becomes of it, a row is the answer to the very picture that is asked about.


def asks(teacher: StoredTeacher, of: Examples) -> tuple[list[bool], int]:
    """For each example whether the store has an answer; how many of these are not the live one's."""
    live = KINDS["fp32"].live
    known, wrong = [], 0
    for row in range(len(of)):
        example = of.take(torch.tensor([row]))
        batch = Batch(example.ids, {"x": example.inputs.float() / 255}, example.targets)
        try:
            found = teacher.answer(batch)
        except MismatchError:
            known.append(False)
        else:
            known.append(True)
            wrong += not torch.equal(tensors(found)[0], tensors(live.ask(batch))[0])
    return known, wrong


@BOTH
def test_data_faults_never_give_a_wrong_row(stores: dict[str, Kept], resident: bool) -> None:
    stored = StoredTeacher(stores["fp32"].place, resident=resident)
    base = images(COUNT)
    labels = torch.arange(COUNT) % 4
    swap = torch.arange(COUNT)
    swap[[3, 400]] = swap[[400, 3]]
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0))
    twins = torch.cat([base, base[:9]])
    touched = base.clone()
    touched[::2, 0, 0, 0] ^= 1
    mirrored = base.flip(-1)
    cases: dict[str, tuple[Tensor, Tensor, int]] = {
        "swapped files": (base[swap], labels, COUNT),
        "swapped labels": (base, labels[swap], COUNT),
        "shuffled": (base[order], labels[order], COUNT),
        "inputs without their labels shuffled": (base[order], labels, COUNT),
        "other labels": (base, (labels + 1) % 4, COUNT),
        "duplicates": (twins, torch.cat([labels, labels[:9]]), COUNT + 9),
        "duplicates with other labels": (twins, torch.cat([labels, (labels[:9] + 1) % 4]), COUNT + 9),
        "half of them touched by one bit": (touched, labels, COUNT // 2),
        "mirrored": (mirrored, labels, 0),
        "foreign": (images(COUNT, seed=9), labels, 0),
        "half of them": (base[:COUNT // 2], labels[:COUNT // 2], COUNT // 2),
        "halves of two pictures": (torch.cat([base[1:2, :, :3], base[:1, :, 3:]], dim=2), labels[:1], 0),
    }  # fmt: skip
    for name, (inputs, targets, there) in cases.items():
        known, wrong = asks(stored, examples(inputs, targets))
        assert (name, sum(known), wrong) == (name, there, 0)
        if there != len(inputs):  # in one batch with known ones, they are refused together
            whole = examples(inputs, targets)
            with pytest.raises(MismatchError, match=f"{len(inputs) - there} of {len(inputs)} examples have no stored"):
                stored.answer(Batch(whole.ids, {}, whole.targets))


def test_renamed_or_reordered_classes_are_another_store(stores: dict[str, Kept], tmp_path: Path) -> None:
    store = stores["fp32"]
    inputs, labels = images(COUNT), torch.arange(COUNT) % 4
    for names in (["a", "b", "c", "e"], ["b", "a", "c", "d"], ["A", "b", "c", "d"]):
        teacher = Teacher()
        renamed = parts.question(Examples.make(inputs, labels, names, "set"))
        built = build(tmp_path, renamed, teacher.capture)
        assert built.place.name != store.place.name
        assert built.asked == len(teacher.asked) == COUNT
        assert StoredTeacher(built.place).classes == tuple(names)


@BOTH
def test_data_faults_with_views(tmp_path: Path, resident: bool) -> None:
    """Views follow the content as well: shuffled, renamed and doubled data see the pictures that were recorded."""
    views, base = Views(flip=0.5, shift=1), images(60)
    labels = torch.arange(60) % 4
    place = build(tmp_path, parts.question(examples(base), views, 2), Teacher().capture).place
    stored, live = StoredTeacher(place, resident=resident), KINDS["fp32"].live
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    for of in (
        examples(base[order], labels[order]),
        examples(base[order], labels),
        examples(torch.cat([base, base[:7]])),
        examples(base[:5]),
        examples(base).take(order),
    ):
        for epoch in range(2):
            batch = view_batch(of, torch.arange(len(of)), views, seed=0, epoch=epoch)
            assert torch.equal(tensors(stored.answer(batch))[0], tensors(live.ask(batch))[0])
        for seed, epoch in ((0, 2), (1, 0)):
            with pytest.raises(MismatchError, match="random views of which no answers were recorded"):
                stored.answer(view_batch(of, torch.arange(len(of)), views, seed=seed, epoch=epoch))
    foreign = examples(torch.cat([base, images(1, seed=5)]))
    with pytest.raises(MismatchError, match="1 of 61 examples have no stored answer"):
        stored.answer(view_batch(foreign, torch.arange(61), views, seed=0, epoch=0))


def test_other_data_are_asked_only_about_what_is_foreign(tmp_path: Path) -> None:
    """Each fault again, as what the next build is given: the teacher is asked about new contents only."""
    teacher, base = Teacher(), images(300)
    build(tmp_path, parts.question(examples(base)), teacher.capture)
    swap = torch.arange(300)
    swap[[3, 200]] = swap[[200, 3]]
    labels = torch.arange(300) % 4
    for inputs, targets, new in (
        (base[swap], labels, 0),
        (base, (labels + 1) % 4, 0),
        (torch.cat([base, base]), torch.cat([labels, (labels + 1) % 4]), 0),
        (base.flip(-1), labels, 300),
        (torch.cat([base[:100], images(50, seed=3)]), labels[:150], 50),
    ):
        asked = parts.question(examples(inputs, targets))
        built = build(tmp_path, asked, teacher.capture)
        assert built.asked == new
        known, wrong = asks(StoredTeacher(built.place), asked.examples)
        assert all(known)
        assert wrong == 0
    assert set(teacher.asked.values()) == {1}

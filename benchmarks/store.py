"""The store of teacher answers: reading random rows, beside other ways to keep them; and what building it costs.

Reading. A batch of 256 random rows is read from memory that is hot (page cache and all), with one thread, by everybody
in turn: rounds in one process, in an order that changes, so that a drifting clock or a busy neighbour hits all. Every
contender first shows that its answers are bit for bit the right ones. Who reads "by id" is asked by content id, as a
shuffled training set asks; who reads "by row" is told the row number, and finding it is not counted.

Building. `tutelage.store.build` against the same teacher passes without it: the same batches, answers kept in a list.
And the store's own part alone, with a teacher that knows every answer by heart: a smaller number, and a steadier one.

    python benchmarks/store.py [--rows 60000] [--classes 1000] [--rounds 15] [--codec fp16] [--part read|build|both]

Peers are no dependencies of tutelage: `pip install lmdb datasets zarr pyarrow`; those that are missing are skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tutelage.data import Examples, Views
from tutelage.models import ModelSpec
from tutelage.models import build as build_model
from tutelage.store import Capture, Codec, Question, StoredTeacher, build, codec_of
from tutelage.store.layout import BLOCK, blocks_of
from tutelage.teachers import ModuleTeacher, TableTeacher
from tutelage.types import Batch, Logits, Outputs

TEMPERATURE, BATCH = 4.0, 256
PACKAGES = ("torch", "numpy", "lmdb", "datasets", "zarr", "pyarrow")
FILES = 4_096  # of one example each: more would only fill the disk with inodes

Rows = np.ndarray[Any, np.dtype[Any]]
Times = list[tuple[float, float]]  # CPU and wall seconds
Read = Callable[[Rows, Tensor], Logits]  # row numbers and content ids of a batch -> its answers


def noise(rows: int, classes: int, side: int) -> Examples:
    """Distinct pictures."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (rows, 1, side, side), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, classes, (rows,), generator=generator)
    return Examples.make(images, labels, [str(n) for n in range(classes)], "noise")


@dataclass
class Answers:
    """What everybody stores: the payload columns of the codec, and the same as one row of cells per example."""

    examples: Examples
    logits: Tensor  # (N, C) float32
    codec: Codec
    columns: dict[str, Tensor]
    cells: Rows  # (N, W) of the codec's own numbers where it has one column of them, else the row's bytes

    @staticmethod
    def make(rows: int, classes: int, codec: Codec) -> Answers:
        """Noise: what reading costs does not depend on what is read; only what compression saves does."""
        examples = noise(rows, classes, 3)
        logits = torch.randn(rows, classes, generator=torch.Generator().manual_seed(1)) * 3
        columns = codec.encode(logits, examples.ids, 0)
        if list(columns) == ["logits"] and columns["logits"].dtype != torch.bfloat16:
            cells = columns["logits"].numpy()
        else:
            raw = [column.reshape(rows, -1).contiguous().view(torch.uint8) for column in columns.values()]
            cells = torch.cat(raw, -1).numpy()
        return Answers(examples, logits, codec, columns, cells)

    @property
    def width(self) -> int:
        return int(self.cells.shape[1])

    @property
    def row_bytes(self) -> int:
        return self.width * self.cells.itemsize

    def decode(self, columns: dict[str, Tensor]) -> Logits:
        return self.codec.decode(columns, len(self.examples.classes))

    def answer(self, cells: Rows | Tensor) -> Logits:
        """Cells (B, W) as somebody read them -> the answers, as the codec gives them."""
        tensor = cells if isinstance(cells, Tensor) else torch.from_numpy(cells)
        if self.cells.dtype != np.uint8:
            return self.decode({"logits": tensor})
        columns, at = {}, 0
        for name, column in self.columns.items():
            size = column.element_size() * (column[0].numel())
            part = tensor[:, at : at + size].contiguous().view(column.dtype)
            columns[name] = part if column.ndim > 1 else part.reshape(-1)
            at += size
        return self.decode(columns)

    def ask(self, batch: Batch) -> Outputs:
        """A teacher that knows everything by heart."""
        return Outputs(self.logits.index_select(0, torch.searchsorted(self.examples.ids, batch.ids)))


@dataclass
class Contender:
    """One way to keep answers, ready to be read."""

    name: str
    by: str  # id or row
    read: Read
    path: Path | None = None  # what it wrote
    note: str = ""
    limit: int | None = None  # of rows, where it holds only the first ones

    def figures(self, taken: Times, base: Times, rows: int) -> dict[str, Any]:
        """What it took for a batch, and how much more that is than what the base took in the same round."""
        cpu = statistics.median(mine for mine, _ in taken)
        ratios = [mine / theirs for (mine, _), (theirs, _) in zip(taken, base, strict=True)]
        wall = statistics.median(mine / theirs for (_, mine), (_, theirs) in zip(taken, base, strict=True))
        low, _, high = statistics.quantiles(ratios, n=4)
        return {
            "by": self.by,
            "rows_per_second": round(BATCH / cpu),
            "cpu_ms": round(cpu * 1e3, 4),
            "ratio": round(statistics.median(ratios), 3),
            "quartiles": [round(low, 3), round(high, 3)],
            "wall_ratio": round(wall, 3),
            "bytes_per_row": self.path and round(on_disk(self.path) / (self.limit or rows), 1),
            "note": self.note,
        }


def on_disk(path: Path) -> int:
    """What the file system gives for a file or a folder."""
    files = [path] if path.is_file() else [found for found in path.rglob("*") if found.is_file()]
    return sum(file.stat().st_blocks * 512 for file in files)


def plain_memory(answers: Answers, folder: Path) -> Iterator[Contender]:
    def read(rows: Rows, ids: Tensor) -> Logits:
        index = torch.from_numpy(rows)
        return answers.decode({name: column.index_select(0, index) for name, column in answers.columns.items()})

    yield Contender("tensor in memory", "row", read)
    if list(answers.columns) == ["logits"]:
        table = TableTeacher(answers.examples.ids, answers.columns["logits"])
        yield Contender("TableTeacher", "id", lambda rows, ids: table.answer(Batch(ids, {}, ids)).logits)


def ours(answers: Answers, folder: Path) -> Iterator[Contender]:
    question = Question(answers.examples, Views(), [None])
    built = build(folder, question, Capture(answers.ask, "noise", answers.codec))
    yield from (_stored(answers, built.place, resident) for resident in (True, False))


def _stored(answers: Answers, place: Path, resident: bool) -> Contender:
    begin = time.process_time()
    teacher = StoredTeacher(place, resident=resident)
    opening = time.process_time() - begin
    note = f"opened in {opening * 1e3:.0f} ms CPU"
    if not resident:
        taken = []
        for _ in range(2):  # the first look at a block checks its sums
            begin = time.process_time()
            for part in torch.split(torch.randperm(len(answers.examples)), BATCH):
                ids = answers.examples.ids[part]
                teacher.answer(Batch(ids, {}, ids))
            taken.append(time.process_time() - begin)
        note += f"; sums, checked as blocks are first met, {(taken[0] - taken[1]) * 1e3:.0f} ms in all"
    name = f"StoredTeacher, {'resident' if resident else 'mapped'}"
    return Contender(name, "id", lambda rows, ids: teacher.answer(Batch(ids, {}, ids)).logits, place, note)


def memmap(answers: Answers, folder: Path) -> Iterator[Contender]:
    path = folder / "cells.npy"
    np.save(path, answers.cells)
    mapped = np.load(path, mmap_mode="r")
    yield Contender("np.memmap", "row", lambda rows, ids: answers.answer(mapped[rows]), path)


def lmdb(answers: Answers, folder: Path) -> Iterator[Contender]:
    import lmdb

    path = folder / "lmdb"
    room = 4 * (answers.row_bytes + 4_096) * len(answers.cells)
    with lmdb.open(str(path), map_size=room) as whole, whole.begin(write=True) as writing:
        for id_, row in zip(answers.examples.ids.tolist(), answers.cells, strict=True):
            writing.put(id_.to_bytes(8, "big"), row.tobytes(), append=True)  # in the order of keys: the densest
    opened = lmdb.open(str(path), readonly=True, lock=False, readahead=False)
    dtype, width = answers.cells.dtype, answers.width

    def read(rows: Rows, ids: Tensor) -> Logits:
        keys = ids.numpy().astype(">i8").tobytes()
        with opened.begin(buffers=True) as reading:
            # One join is twice as fast as 256 assignments to rows of an array.
            values = bytearray().join([reading.get(keys[at : at + 8]) for at in range(0, len(keys), 8)])
        return answers.answer(np.frombuffer(values, dtype=dtype).reshape(-1, width))

    yield Contender("LMDB", "id", read, path)


def datasets(answers: Answers, folder: Path) -> Iterator[Contender]:
    import datasets
    import pyarrow as arrow

    datasets.disable_progress_bars()
    path = folder / "datasets"
    kind, width = answers.cells.dtype, answers.width
    features = datasets.Features({"cells": datasets.List(datasets.Value(kind.name), length=width)})
    column = arrow.FixedSizeListArray.from_arrays(arrow.array(answers.cells.reshape(-1)), width)
    info = datasets.DatasetInfo(features=features)
    datasets.Dataset(arrow.table({"cells": column}), info=info).save_to_disk(path)
    loaded = datasets.load_from_disk(path)
    as_torch = loaded.with_format("torch", dtype=getattr(torch, kind.name))
    as_arrow = loaded.with_format("arrow")

    def by_arrow(rows: Rows, ids: Tensor) -> Logits:
        found = as_arrow[rows.tolist()]["cells"].combine_chunks()
        whole = found.chunk(0) if isinstance(found, arrow.ChunkedArray) else found
        return answers.answer(np.array(whole.flatten().to_numpy(zero_copy_only=False)).reshape(-1, width))

    yield Contender("datasets, torch", "row", lambda rows, ids: answers.answer(as_torch[rows.tolist()]["cells"]), path)
    yield Contender("datasets, arrow by hand", "row", by_arrow, path)


def zarr(answers: Answers, folder: Path) -> Iterator[Contender]:
    import zarr

    zarr.config.set({"threading.max_workers": 1})
    for name, compressors in (("zarr, zstd", "auto"), ("zarr, not compressed", None)):
        path = folder / name.replace(", ", "-").replace(" ", "-")
        zarr.create_array(str(path), data=answers.cells, chunks=(256, answers.width), compressors=compressors)
        opened = zarr.open_array(str(path), mode="r")

        def read(rows: Rows, ids: Tensor, opened: Any = opened) -> Logits:
            return answers.answer(np.asarray(opened.oindex[rows]))

        yield Contender(name, "row", read, path, "chunks of 256 rows")


def parquet(answers: Answers, folder: Path) -> Iterator[Contender]:
    import pyarrow as arrow
    import pyarrow.parquet as files

    arrow.set_cpu_count(1)
    path, each = folder / "cells.parquet", 256
    # One binary value for a row: reading it is several times faster than a list of numbers.
    kind, buffers = arrow.binary(answers.row_bytes), [None, arrow.py_buffer(answers.cells.tobytes())]
    table = arrow.table({"cells": arrow.FixedSizeBinaryArray.from_buffers(kind, len(answers.cells), buffers)})
    files.write_table(table, path, compression="zstd", row_group_size=each, use_dictionary=False)
    opened = files.ParquetFile(path, memory_map=True)

    def read(rows: Rows, ids: Tensor) -> Logits:
        groups, place = np.unique(rows // each, return_inverse=True)
        found = opened.read_row_groups(groups.tolist(), use_threads=False)["cells"].combine_chunks()
        whole = found.chunk(0) if isinstance(found, arrow.ChunkedArray) else found
        cells = np.frombuffer(whole.buffers()[1], dtype=answers.cells.dtype).reshape(-1, answers.width)
        return answers.answer(cells[place * each + rows % each])

    yield Contender("Parquet, zstd", "row", read, path, "only the row groups (of 256) that are met")


def one_file_each(answers: Answers, folder: Path) -> Iterator[Contender]:
    count = min(FILES, len(answers.cells))
    for kind in ("npy", "pt"):
        path = folder / kind
        path.mkdir()
        for id_, row in zip(answers.examples.ids[:count].tolist(), answers.cells, strict=False):
            name = path / f"{id_:016x}.{kind}"
            np.save(name, row) if kind == "npy" else torch.save(torch.from_numpy(row.copy()), name)

        def read(rows: Rows, ids: Tensor, base: str = str(path), kind: str = kind) -> Logits:
            names = [f"{base}/{id_:016x}.{kind}" for id_ in ids.tolist()]
            if kind == "npy":
                return answers.answer(np.stack([np.load(name) for name in names]))
            return answers.answer(torch.stack([torch.load(name, weights_only=True) for name in names]).numpy())

        yield Contender(f"one .{kind} file each", "id", read, path, f"{count:,} files only", count)


ALL = (plain_memory, ours, memmap, lmdb, datasets, zarr, parquet, one_file_each)


def same(left: Logits, right: Logits) -> bool:
    """Bit for bit."""
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    names = [name for name in type(left).__slots__ if isinstance(getattr(left, name), Tensor)]
    return type(left) is type(right) and all(torch.equal(getattr(left, n), getattr(right, n)) for n in names)


def a_batch(answers: Answers, contender: Contender, chance: np.random.Generator) -> tuple[Rows, Tensor]:
    rows = chance.choice(contender.limit or len(answers.cells), BATCH, replace=False)
    return rows, answers.examples.ids[torch.from_numpy(rows)]


def measure(contender: Contender, batches: Sequence[tuple[Rows, Tensor]]) -> tuple[float, float]:
    """CPU and wall seconds of a batch."""
    read = contender.read
    wall, cpu = time.perf_counter(), time.process_time()
    for rows, ids in batches:
        read(rows, ids)
    return (time.process_time() - cpu) / len(batches), (time.perf_counter() - wall) / len(batches)


def reading(answers: Answers, folder: Path, rounds: int, seconds: float) -> dict[str, Any]:
    """Everybody reads; a table on the way."""
    chance = np.random.default_rng(0)
    contenders: list[Contender] = []
    skipped: dict[str, str] = {}
    for make in ALL:
        try:
            contenders += list(make(answers, folder))
        except ModuleNotFoundError as error:
            skipped[make.__name__] = f"not installed: {error.name}"
    counts = {}
    for contender in contenders:
        batches = [a_batch(answers, contender, chance) for _ in range(4)]
        for rows, ids in batches:
            expected = {name: column[torch.from_numpy(rows)] for name, column in answers.columns.items()}
            if not same(contender.read(rows, ids), answers.decode(expected)):
                raise SystemExit(f"{contender.name} answers with other bits")
        counts[contender.name] = max(2, int(seconds / measure(contender, batches)[1]))
    os.sync()  # nothing is written while others read, and all sizes are final
    taken: dict[str, Times] = {contender.name: [] for contender in contenders}
    for _ in range(rounds):
        for contender in random.sample(contenders, len(contenders)):
            batches = [a_batch(answers, contender, chance) for _ in range(min(counts[contender.name], 500))]
            taken[contender.name].append(measure(contender, batches))
    base = taken[contenders[0].name]
    found = {one.name: one.figures(taken[one.name], base, len(answers.cells)) for one in contenders}
    print(f"\n{'':26}  asked by      rows/s   CPU ms   / tensor (quartiles)      wall   bytes/row")
    for name, one in found.items():
        size = f"{one['bytes_per_row']:>9,.0f}" if one["bytes_per_row"] else f"{'—':>9}"
        print(
            f"{name:<26}  {one['by']:<8} {one['rows_per_second']:>11,.0f} {one['cpu_ms']:>8.3f} {one['ratio']:>8.2f}× "
            f"({one['quartiles'][0]:.2f} … {one['quartiles'][1]:.2f}) {one['wall_ratio']:>8.2f}× {size}   {one['note']}"
        )
    for name, why in skipped.items():
        print(f"{name:<26}  skipped: {why}")
    return {"contenders": found, "skipped": skipped}


def building(classes: int, rows: int, rounds: int, codec: Codec, folder: Path) -> dict[str, Any]:
    """`build` against the teacher alone."""
    examples = noise(rows, classes, 28)
    torch.manual_seed(0)
    spec = ModelSpec("cnn", {"width": 64, "depth": 3}, None)
    model = build_model(spec, input_shape=(1, 28, 28), classes=classes, mean=[0.5], std=[0.3])
    teacher = ModuleTeacher(model)
    question = Question(examples, Views(), [None])
    ids = question.ids()
    known = torch.cat([teacher.answer(question.batch(ids[part], None)).logits for part in blocks_of(len(ids))])

    def bare() -> None:
        answers = [teacher.answer(question.batch(ids[part], None)) for part in blocks_of(len(ids))]
        assert sum(len(answer.logits) for answer in answers) == rows

    def by_heart(batch: Batch) -> Outputs:
        return Outputs(known.index_select(0, torch.searchsorted(examples.ids, batch.ids)))

    def stored(ask: Callable[[Batch], Outputs]) -> None:
        built = build(folder, question, Capture(ask, "noise", codec))
        assert built.asked == rows
        shutil.rmtree(built.place)

    runs = {"build": lambda: stored(teacher.answer), "bare": bare, "own": lambda: stored(by_heart)}
    taken: dict[str, Times] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name in list(runs)[:: 1 if number % 2 else -1]:
            wall, cpu = time.perf_counter(), time.process_time()
            runs[name]()
            if number:  # the first round pays for allocations
                taken[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    pairs = list(zip(taken["build"], taken["bare"], strict=True))
    found: dict[str, Any] = {"classes": classes, "rows": rows, "codec": codec.name, "rounds": rounds}
    for place, kind in enumerate(("cpu", "wall")):
        ratios = [mine[place] / theirs[place] for mine, theirs in pairs]
        found[f"{kind}_ratio"] = round(statistics.median(ratios), 4)
        found[f"{kind}_quartiles"] = [round(statistics.quantiles(ratios, n=4)[at], 4) for at in (0, 2)]
        middle = {name: statistics.median(one[place] for one in times) for name, times in taken.items()}
        found[f"{kind}_us_per_row"] = {name: round(seconds / rows * 1e6, 2) for name, seconds in middle.items()}
    own, (low, high) = found["cpu_us_per_row"], found["cpu_quartiles"]
    print(
        f"build, {classes:>5,} classes, {rows:,} rows, {codec.name}: / bare teacher pass CPU {found['cpu_ratio']:.3f} "
        f"({low:.3f} … {high:.3f}, {rounds} rounds), wall {found['wall_ratio']:.3f}; CPU µs a row: build "
        f"{own['build']:.1f}, bare {own['bare']:.1f}, the store's own part {own['own']:.1f} "
        f"({100 * own['own'] / own['bare']:.1f} %)",
        flush=True,
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--codec", default="fp16")
    parser.add_argument("--seconds", type=float, default=0.1, help="of each contender in each round, about")
    parser.add_argument("--part", choices=["read", "build", "both"], default="both")
    parser.add_argument("--build-rows", type=int, default=8_192)
    parser.add_argument("--build-rounds", type=int, default=9)
    parser.add_argument("--folder", type=Path, help="where files are written; a temporary folder if left out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    codec = codec_of(options.codec, TEMPERATURE)
    packages = {name: version(name) for name in PACKAGES if find_spec(name)}
    result: dict[str, Any] = {"codec": codec.name, "batch": BATCH, "block": BLOCK, "packages": packages}
    with tempfile.TemporaryDirectory(prefix="tutelage-store-", dir=options.folder) as name:
        folder = Path(name)
        if options.part != "build":
            answers = Answers.make(options.rows, options.classes, codec)
            print(
                f"{options.rows:,} rows of {options.classes:,} classes, {codec.name}, {answers.row_bytes:,} bytes; "
                f"batches of {BATCH} random rows, one thread, {options.rounds} rounds"
            )
            read = reading(answers, folder, options.rounds, options.seconds)
            result |= {"rows": options.rows, "classes": options.classes, "row_bytes": answers.row_bytes, "read": read}
        if options.part != "read":
            rounds = options.build_rounds
            result["build"] = [building(classes, options.build_rows, rounds, codec, folder) for classes in (10, 1_000)]
    print(json.dumps(result))


if __name__ == "__main__":
    main()

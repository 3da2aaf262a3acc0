"""A build may die at any moment: nothing that was written is asked again, and the end has the bytes of a straight one.

Every write, sync, rename and removal of a build is counted; then the build dies at each of them in turn, and the same
build goes on. Other processes share the work, wait for it, or are told who is at it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import pytest
import torch
from torch import Tensor

import store_parts as parts
from tutelage.data import Examples
from tutelage.errors import BusyError, DamagedError
from tutelage.store import Capture, Question, StoredTeacher, build, repair, verify
from tutelage.store import plan as store_plan
from tutelage.store.layout import bad_blocks, unpack
from tutelage.types import Batch, Outputs

SIDE: int = parts.SIDE
PROBE = 8  # a new plan asks about so many examples first, to know whether the answers will fit on the disk
SHARD = 512  # rows, two blocks
ROWS = 4 * SHARD - 24
Row = tuple[int, int]  # id, view


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_plan, "_LEAST_ROWS", SHARD)


class Teacher:
    """A capture that remembers about whom it was asked."""

    def __init__(self, codec: str = "fp32", *, before: Callable[[], None] = lambda: None) -> None:
        self.live: Capture = parts.capture(parts.net(), codec, places=("hidden",))
        self.capture = replace(self.live, ask=self._ask)
        self.asked: Counter[Row] = Counter()
        self._before = before

    def _ask(self, batch: Batch) -> Outputs:
        ids = batch.ids.unique().tolist()
        if len(ids) != PROBE:
            self._before()
            self.asked.update((id_, batch.view) for id_ in ids)
        return self.live.ask(batch)


def images(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, SIDE, SIDE), dtype=torch.uint8, generator=generator)


def asked_about(inputs: Tensor) -> Question:
    question: Question = parts.question(Examples.make(inputs, torch.arange(len(inputs)) % 4, parts.NAMES, "set"))
    return question


STRAIGHT = asked_about(images(ROWS))
MORE = asked_about(torch.cat([images(ROWS), images(1300, seed=1)]))
OTHER = asked_about(torch.cat([images(ROWS)[300:], images(700, seed=1)]))


def files(place: Path) -> dict[str, bytes]:
    """What a store consists of: not the lock, and not the history, which has times in it."""
    return {path.name: path.read_bytes() for path in place.iterdir() if path.name not in (".lock", "history.jsonl")}


def committed(root: Path) -> set[Row]:
    """The rows of all whole shards below a root, whether a manifest names them or not."""
    found: set[Row] = set()
    for path in root.glob("*/shard-*.safetensors"):
        try:
            columns = unpack(path.read_bytes(), str(path))
        except DamagedError:
            continue
        if not bad_blocks(columns):
            found |= set(zip(columns["id"].tolist(), columns["view"].tolist(), strict=True))
    return found


@lru_cache
def live_answers(asked: Question) -> Outputs:
    """To plain examples, in the order of their ids."""
    return Teacher().live.ask(asked.batch(asked.ids(), None))


def answers_right(place: Path, asked: Question) -> None:
    """Every row of a question is what the teacher answers, in memory and mapped."""
    expected, batch = live_answers(asked), asked.batch(asked.ids(), None)
    for resident in (True, False):
        found = StoredTeacher(place, resident=resident).answer(batch)
        assert isinstance(found.logits, Tensor)
        assert isinstance(expected.logits, Tensor)
        assert torch.equal(found.logits, expected.logits)
        assert torch.equal(found.features["hidden"], expected.features["hidden"])


class Killed(BaseException):
    """What no `except Exception` or `except OSError` mends."""


class Point(NamedTuple):
    kind: str
    name: str


class Disk:
    """Counts what is done to files, and dies at the n-th point: before it, after it, or, of a write, in its middle."""

    def __init__(self, die_at: int | None = None, *, after: bool = False) -> None:
        self.points: list[Point] = []
        self._die_at, self._after = die_at, after
        self._names: dict[int, str] = {}
        self.dead = False

    def at(self, kind: str, name: str, act: Callable[[], Any], half: Callable[[], Any] = lambda: None) -> Any:
        if self.dead:
            raise Killed  # the dead do not clean up
        self.points.append(Point(kind, name))
        self.dead = len(self.points) - 1 == self._die_at
        if self.dead and not self._after:
            half()
            raise Killed
        result = act()
        if self.dead:
            raise Killed
        return result

    @contextmanager
    def __call__(self, pid: int) -> Iterator[Self]:
        """Until the end of the block, everything in this process goes through here, under another process number."""
        real_open, real_sync = Path.open, os.fsync
        real_replace, real_unlink = Path.replace, Path.unlink

        def open_(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            file = real_open(path, mode, *args, **kwargs)
            return _File(self, path.name, file) if set(mode) & set("wa+") else file

        def sync(descriptor: int) -> None:
            # Nothing here survives by being synced: only that it is asked for, and when, matters.
            self.at("sync", os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")), lambda: None)

        def replace_(path: Path, target: Path) -> Any:
            return self.at("rename", target.name, lambda: real_replace(path, target))

        def unlink(path: Path, missing_ok: bool = False) -> None:
            self.at("remove", path.name, lambda: real_unlink(path, missing_ok=missing_ok))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "open", open_)
            patch.setattr(os, "fsync", sync)
            patch.setattr(Path, "replace", replace_)
            patch.setattr(Path, "rename", replace_)
            patch.setattr(Path, "unlink", unlink)
            patch.setattr(os, "getpid", lambda: pid)
            try:
                yield self
            except Killed:
                assert self.dead
        assert real_sync is os.fsync


class _File:
    """An open file whose writes are points."""

    def __init__(self, disk: Disk, name: str, file: Any) -> None:
        self._disk, self._name, self._file = disk, name, file

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, data: Any) -> Any:
        half = data[: len(data) // 2]
        return self._disk.at("write", self._name, lambda: self._write(data), lambda: self._write(half))

    def _write(self, data: Any) -> Any:
        written = self._file.write(data)
        self._file.flush()
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class Case(NamedTuple):
    """What is there before, and what dies."""

    before: Question | None
    asked: Question
    points: int


CASES = {
    "fresh": Case(None, STRAIGHT, 4 * (1 + 4 + 1 + 1) + 2 + 1),
    "added": Case(STRAIGHT, MORE, 4 * (1 + 3 + 1 + 1) + 2 + 1),
}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What undisturbed builds leave, and what repairs have to mend."""
    root = tmp_path_factory.mktemp("straight")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_plan, "_LEAST_ROWS", SHARD)
        build(root / "fresh", STRAIGHT, Teacher().capture)
        shutil.copytree(root / "fresh", root / "added")
        build(root / "added", MORE, Teacher().capture)
    for name in ("a block", "a block, a shard and the listing"):
        shutil.copytree(root / "fresh", root / name)
        (place,) = (root / name).iterdir()
        flip(place / "shard-00001.safetensors", -50)  # in its second block
    (place / "shard-00002.safetensors").unlink()
    flip(place / "listing.safetensors", -50)
    return {path.name: path for path in root.iterdir()}


def flip(path: Path, byte: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[byte] ^= 1 << bit
    path.write_bytes(data)


@pytest.mark.parametrize("name", CASES)
def test_what_a_build_does(tmp_path: Path, straight: dict[str, Path], name: str) -> None:
    """Files are synced before they get their name, folders afterwards; the manifest comes last, then the plan goes."""
    if CASES[name].before:
        shutil.copytree(straight["fresh"], tmp_path / "root")
    with Disk()(1) as disk:
        build(tmp_path / "root", CASES[name].asked, Teacher().capture)
    points = disk.points
    assert len(points) == CASES[name].points
    renamed = [number for number, point in enumerate(points) if point.kind == "rename"]
    for number in renamed:
        written, synced, _, folder = points[number - 2 : number + 2]
        assert (written.kind, synced.kind, folder.kind) == ("write", "sync", "sync")
        assert written.name == synced.name == f".{points[number].name}.1.tmp"
        assert "." not in folder.name
    names = [points[number].name for number in renamed]
    assert names[0] == "plan.safetensors"
    assert names[1:-2] == sorted(names[1:-2])
    assert names[-2:] == ["manifest.json", "listing.safetensors"]
    gone = points.index(Point("remove", "plan.safetensors"))
    assert renamed[-2] < gone < renamed[-1]
    assert points[gone + 1].kind == "sync"


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", CASES)
def test_a_build_may_die_at_any_point(tmp_path: Path, straight: dict[str, Path], name: str, after: bool) -> None:
    case = CASES[name]
    (place,) = straight[name].iterdir()
    expected = files(place)
    wrong: list[tuple[int, str]] = []
    for number in range(case.points):
        root, teacher, again = tmp_path / str(number), Teacher(), Teacher()
        if case.before:
            shutil.copytree(straight["fresh"], root)
        with Disk(number, after=after)(1) as disk:
            build(root, case.asked, teacher.capture)
        assert disk.dead
        kept = committed(root)
        with Disk()(2):
            built = build(root, case.asked, again.capture)
        redone = sum((teacher.asked & again.asked).values())
        found = {
            "a committed row was asked again": bool(kept & set(again.asked)),
            "a row was asked twice in one build": max([*teacher.asked.values(), *again.asked.values()]) > 1,
            f"{redone} rows were asked again": redone > SHARD,
            "other rows than the missing ones were asked": built.asked != len(again.asked),
            "other bytes": files(built.place) != expected,
            "something is left over": not {path.name for path in built.place.iterdir()}
            <= {*expected, ".lock", "history.jsonl"},
            "verify finds something": bool(list(verify(built.place))),
        }
        wrong += [(number, f"{disk.points[-1]}: {what}") for what, so in found.items() if so]
        answers_right(built.place, case.asked)
        shutil.rmtree(root)
    assert wrong == []


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", CASES)
def test_other_data_take_over_what_a_dead_build_left(
    tmp_path: Path, straight: dict[str, Path], name: str, after: bool
) -> None:
    case = CASES[name]
    wrong: list[tuple[int, str]] = []
    for number in range(case.points):
        root, teacher = tmp_path / str(number), Teacher()
        if case.before:
            shutil.copytree(straight["fresh"], root)
        with Disk(number, after=after)(1) as disk:
            build(root, case.asked, Teacher().capture)
        kept = committed(root)
        with Disk()(2):
            built = build(root, OTHER, teacher.capture)
        wanted = {(int(id_), 0) for id_ in OTHER.ids()}
        found = {
            "a committed row was asked again": bool(kept & set(teacher.asked)),
            "a row was asked twice": max([*teacher.asked.values(), 0]) > 1,
            "other rows than the missing ones were asked": set(teacher.asked) != wanted - kept,
            "a committed row is gone": not kept <= committed(root),
            "something is left over": bool(list(built.place.glob(".*.tmp")) + list(built.place.glob("plan*"))),
            "verify finds something": bool(list(verify(built.place))),
        }
        wrong += [(number, f"{disk.points[-1]}: {what}") for what, so in found.items() if so]
        answers_right(built.place, OTHER)
        shutil.rmtree(root)
    assert wrong == []


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("damage", "count", "lost"), [("a block", 8, 0), ("a block, a shard and the listing", 10, SHARD)]
)
def test_a_repair_may_die_at_any_point(
    tmp_path: Path, straight: dict[str, Path], damage: str, count: int, lost: int, after: bool
) -> None:
    (place,) = straight["fresh"].iterdir()
    expected = files(place)
    wrong: list[tuple[int, str]] = []
    for number in range(count + 1):
        root, first, second, last = tmp_path / str(number), Teacher(), Teacher(), Teacher()
        shutil.copytree(straight[damage], root)
        with Disk(number, after=after)(1) as disk:
            repair(root, STRAIGHT, first.capture)
        assert disk.dead == (number < count), disk.points
        with Disk()(2):
            repair(root, STRAIGHT, second.capture)
        with Disk()(3):
            built = build(root, STRAIGHT, last.capture)
        found = {
            "more than the damaged block was asked": max(len(first.asked), len(second.asked)) > 256,
            "more than the missing shard was asked": len(last.asked) != lost,
            "other bytes": files(built.place) != expected,
            "something is left over": not {path.name for path in built.place.iterdir()}
            <= {*expected, ".lock", "history.jsonl"},
            "verify finds something": bool(list(verify(built.place))),
        }
        wrong += [(number, f"{disk.points[-1]}: {what}") for what, so in found.items() if so]
        answers_right(built.place, STRAIGHT)
        shutil.rmtree(root)
    assert wrong == []


def test_what_a_dead_build_wrote_survives_the_loss_of_another_shard(tmp_path: Path, straight: dict[str, Path]) -> None:
    """Lost shards give their names away, so that the open ones stand where nobody expects them; their rows count."""
    shutil.copytree(straight["fresh"], tmp_path / "root")
    with Disk(4 + 8)(1):  # two more shards have their names
        build(tmp_path / "root", MORE, Teacher().capture)
    (place,) = (tmp_path / "root").iterdir()
    (place / "shard-00001.safetensors").unlink()
    kept, teacher = committed(tmp_path / "root"), Teacher()
    with pytest.raises(DamagedError, match=r"shard-00001.safetensors is missing"):
        build(tmp_path / "root", MORE, teacher.capture)
    repair(tmp_path / "root", MORE, teacher.capture)
    built = build(tmp_path / "root", MORE, teacher.capture)
    answers_right(built.place, MORE)
    assert list(verify(built.place)) == []
    assert not kept & set(teacher.asked)


def test_many_deaths_in_a_row(tmp_path: Path, straight: dict[str, Path]) -> None:
    """Each build dies a little further on, and each under a number of its own."""
    (place,) = straight["fresh"].iterdir()
    asked: Counter[Row] = Counter()
    deaths = 0
    for pid in range(1, 100):
        teacher = Teacher()
        with Disk(pid % 6, after=bool(pid % 2))(pid) as disk:
            built = build(tmp_path, STRAIGHT, teacher.capture)
        asked += teacher.asked
        if not disk.dead:
            break
        deaths += 1
    assert deaths > 4
    assert sum(asked.values()) - len(asked) <= deaths * SHARD
    assert files(built.place) == files(place)


@pytest.mark.parametrize("name", CASES)
def test_an_open_plan_that_is_damaged_is_drawn_up_anew(tmp_path: Path, straight: dict[str, Path], name: str) -> None:
    """It says which rows are to be asked and where they go: believed wrongly, it could even harm what is sealed."""
    case = CASES[name]
    (place,) = straight[name].iterdir()
    expected = files(place)
    if case.before:
        shutil.copytree(straight["fresh"], tmp_path / "open")
    with Disk(4 + 8)(1):  # two shards have their names
        build(tmp_path / "open", case.asked, Teacher().capture)
    (mine,) = (tmp_path / "open").iterdir()
    before = {path.name: path.read_bytes() for path in mine.iterdir()}
    plan = before["plan.safetensors"]
    length = 8 + int.from_bytes(plan[:8], "little")
    chance = random.Random(0)
    bits = [chance.randrange(8 * length) for _ in range(40)]
    # The last bits and the first of every number in what is short, and some of what is long.
    for column, facts in json.loads(plan[8:length]).items():
        if column != "__metadata__":
            start, end = (8 * (length + offset) for offset in facts["data_offsets"])
            short = [place + bit for place in range(start, end, 64) for bit in (*range(10), 63)]
            bits += short if end - start <= 8 * 64 else chance.sample(range(start, end), 10)
    broken = []
    for bit in bits:
        flip(mine / "plan.safetensors", bit // 8, bit % 8)
        try:
            with Disk()(2):
                build(tmp_path / "open", case.asked, Teacher().capture)
        except Exception as error:
            broken.append((bit, repr(error)))
        else:
            if files(mine) != expected:
                broken.append((bit, "other bytes"))
        for path in mine.iterdir():
            path.unlink()
        for file, data in before.items():
            (mine / file).write_bytes(data)
    assert broken == []


def test_an_open_shard_that_is_damaged_is_asked_again(tmp_path: Path, straight: dict[str, Path]) -> None:
    """Before a manifest names it, a shard is believed only if everything in it fits, its header as well."""
    (place,) = straight["fresh"].iterdir()
    expected = files(place)
    with Disk(4 + 4)(1):  # one shard has its name
        build(tmp_path / "open", STRAIGHT, Teacher().capture)
    (mine,) = (tmp_path / "open").iterdir()
    name = "shard-00000.safetensors"
    plan, whole = (mine / "plan.safetensors").read_bytes(), (mine / name).read_bytes()
    assert whole == expected[name]
    length = 8 + int.from_bytes(whole[:8], "little")
    start, end = json.loads(whole[8:length])["crc"]["data_offsets"]
    chance = random.Random(0)
    names = [whole.index(f'"{column}"'.encode()) + 1 for column in ("feature/hidden", "logits", "id", "view", "crc")]
    places = [*names, *range(length + start, length + end, 5)]
    places += [chance.randrange(length) for _ in range(60)] + [chance.randrange(len(whole)) for _ in range(20)]
    wrong = []
    for byte in places:
        flip(mine / name, byte, byte % 8)
        damaged = (mine / name).read_bytes()
        with Disk()(2):
            build(tmp_path / "open", STRAIGHT, Teacher().capture)
        if files(mine) != expected:
            wrong.append((byte, damaged[max(0, byte - 6) : byte + 6]))
        for path in mine.iterdir():
            path.unlink()
        (mine / "plan.safetensors").write_bytes(plan)
        (mine / name).write_bytes(whole)
    assert wrong == []


# Other processes. This file is also what they run: `python test_store_crash.py ROOT …`.


def child() -> None:
    """Build a store, in one process or several, and say what was asked; meet others where a test wants that."""
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("meet", type=Path, help="before the first answer, wait until so many files are in this folder")
    parser.add_argument("count", type=int)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    store_plan._LEAST_ROWS = SHARD
    # All libraries are there already when the process becomes several: starting takes longer than building.
    others = []
    for _ in range(options.processes - 1):
        number = os.fork()
        if not number:
            others = []
            break
        others.append(number)
    met = False

    def meet() -> None:
        nonlocal met
        if met:
            return
        met = True
        (options.meet / f"{os.getpid()} is here").touch()
        while len(list(options.meet.iterdir())) < options.count:
            time.sleep(0.01)

    teacher = Teacher(before=meet)
    built = build(options.root, STRAIGHT, teacher.capture)
    told = {"asked": [[*row, times] for row, times in teacher.asked.items()], "told": built.asked}
    (options.root.parent / f"told-{os.getpid()}.json").write_text(json.dumps(told))
    for number in others:
        assert os.waitpid(number, 0)[1] == 0


@contextmanager
def started(root: Path, meet: Path, count: int, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    meet.mkdir()
    command = [sys.executable, __file__, str(root), str(meet), str(count), *options]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with those that it became
        process.wait()


def what_was_asked(folder: Path) -> list[Counter[Row]]:
    """By each process; which says the same as its build."""
    told = [json.loads(path.read_text()) for path in sorted(folder.glob("told-*.json"))]
    assert all(one["told"] == len(one["asked"]) for one in told)
    return [Counter({(id_, view): times for id_, view, times in one["asked"]}) for one in told]


def until(happens: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait for something that a process will do, unless it ends."""
    while not happens():
        assert process.poll() is None, "ended too early"
        time.sleep(0.01)


def test_four_processes_share_a_build(tmp_path: Path, straight: dict[str, Path]) -> None:
    """Each of them answers at least once, since each waits in its first answer until all four are in theirs."""
    (place,) = straight["fresh"].iterdir()
    with started(tmp_path / "root", tmp_path / "meet", 4, "--processes", "4") as process:
        assert process.wait(timeout=100) == 0
    asked = what_was_asked(tmp_path)
    assert len(asked) == 4
    assert sum(asked, Counter()) == {(int(id_), 0): 1 for id_ in STRAIGHT.ids()}
    assert sorted(map(len, asked)) == [SHARD - 24, SHARD, SHARD, SHARD]
    (mine,) = (tmp_path / "root").iterdir()
    assert files(mine) == files(place)
    assert {path.name for path in mine.iterdir()} == {path.name for path in place.iterdir()}
    assert len((mine / "history.jsonl").read_text().splitlines()) == 4
    answers_right(mine, STRAIGHT)


def test_who_builds_other_data_waits_or_is_told_who_is_at_it(tmp_path: Path) -> None:
    meet, root = tmp_path / "meet", tmp_path / "root"
    teacher, lines = Teacher(), list[str]()

    def go_on(line: str) -> None:
        lines.append(line)
        (meet / "go on").touch()

    with started(root, meet, 2) as process:
        until(lambda: any(meet.iterdir()), process)  # it is in its first answer now, and stays there
        before = files(next(root.iterdir()))
        with pytest.raises(BusyError, match=f"is being built by process {process.pid} on ") as caught:
            build(root, OTHER, teacher.capture, wait=False)
        assert caught.value.exit_code == 6
        with pytest.raises(BusyError, match=f"process {process.pid} on "):
            repair(root, STRAIGHT, teacher.capture)
        assert teacher.asked == {}
        assert files(next(root.iterdir())) == before
        built = build(root, OTHER, teacher.capture, tell=go_on)
        assert process.wait(timeout=100) == 0
    assert lines[0].startswith(f"waiting for process {process.pid} on ")
    (first,) = what_was_asked(tmp_path)
    assert set(first) == {(int(id_), 0) for id_ in STRAIGHT.ids()}
    assert set(teacher.asked) == {(int(id_), 0) for id_ in OTHER.ids()} - set(first)
    assert built.asked == len(teacher.asked) == 700
    for asked in (STRAIGHT, OTHER):
        answers_right(built.place, asked)
    assert list(verify(built.place)) == []


class Stop(Exception):  # noqa: N818  no error
    """What a signal makes `check` raise."""


def test_waiting_can_be_stopped(tmp_path: Path) -> None:
    """A signal is only noted down when it comes, and `check` raises: as often while waiting as while asking."""
    meet, root, lines = tmp_path / "meet", tmp_path / "root", list[str]()

    def check() -> None:
        if lines:
            raise Stop

    with started(root, meet, 2) as process:
        until(lambda: any(meet.iterdir()), process)
        # Ends the other one after a while, so that who does not look at `check` fails instead of waiting for ever.
        timer = threading.Timer(20.0, (meet / "go on").touch)
        timer.start()
        with pytest.raises(Stop):
            build(root, OTHER, Teacher().capture, tell=lines.append, check=check)
        assert process.poll() is None
        assert not (meet / "go on").exists()
        timer.cancel()
        timer.join()


def test_the_shard_of_a_killed_process_goes_to_another(tmp_path: Path, straight: dict[str, Path]) -> None:
    (place,) = straight["fresh"].iterdir()
    meet, root, teacher = tmp_path / "meet", tmp_path / "root", Teacher()
    with started(root, meet, 2) as process:
        until(lambda: any(meet.iterdir()), process)

        def check() -> None:
            # Only the shard that the other one holds is left.
            if len(teacher.asked) == ROWS - SHARD and process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()

        built = build(root, STRAIGHT, teacher.capture, check=check)
    assert process.returncode == -signal.SIGKILL
    assert built.asked == ROWS
    assert set(teacher.asked.values()) == {1}
    assert files(built.place) == files(place)


def test_a_killed_process_leaves_no_lock(tmp_path: Path, straight: dict[str, Path]) -> None:
    (place,) = straight["fresh"].iterdir()
    meet, root = tmp_path / "meet", tmp_path / "root"
    with started(root, meet, 2) as process:
        until(lambda: any(meet.iterdir()), process)
        with pytest.raises(BusyError):
            build(root, OTHER, Teacher().capture, wait=False)
        process.send_signal(signal.SIGKILL)
        process.wait()
    (mine,) = root.iterdir()
    assert "plan.safetensors" in files(mine)
    built = build(root, STRAIGHT, Teacher().capture, wait=False)
    assert built.asked == ROWS
    assert files(mine) == files(place)


if __name__ == "__main__":
    child()

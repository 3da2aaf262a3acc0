"""Asking the teacher about every row once, so that no death loses what was paid for.

    plan        under the lock: which rows are missing; written down, so that others work on the same ones
    shards      each claimed, computed in blocks, written whole under its own name; in any order, by any process
    seal        under the lock: the shards enter the manifest, the plan goes

A build that was killed left whole shards and a plan: the same build goes on from them, and another one first takes
over what is finished. Everything but the history has the same bytes however often it was interrupted.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from tutelage.errors import BusyError, DamagedError, TutelageError
from tutelage.files import append_line, human_bytes, sweep, write_bytes
from tutelage.progress import Meter
from tutelage.store.asking import Capture, compute, identity_of
from tutelage.store.index import Index
from tutelage.store.layout import KEY_BYTES, LISTING, PLAN, Manifest, key_of, pack, whole_columns
from tutelage.store.locks import BuildLock
from tutelage.store.places import open_manifest, open_shard
from tutelage.store.plan import Question, Rows
from tutelage.store.sealing import OpenPlan, adopt, is_whole, read_manifest

__all__ = ["Built", "build"]

_PROBED = 8


@final
@dataclass(frozen=True, slots=True)
class Built:
    """What a build did."""

    place: Path
    added: int  # examples that are new since the last build
    changed: int  # examples whose content is new, under a name that was there
    removed: int  # examples that are gone; their rows stay until the store is pruned
    rows: int  # that are wanted
    asked: int  # of these, rows that this process asked the teacher about
    seconds: float
    bytes: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"place": str(self.place)}

    def summary(self) -> str:
        """One line for a person."""
        change = f"+{self.added:,} / ~{self.changed:,} / −{self.removed:,} examples since the last build"
        rate = f" in {self.seconds:.1f} s ({self.asked / self.seconds:,.0f} a second)" if self.asked else ""
        return f"{change}; {self.asked:,} of {self.rows:,} rows asked{rate}; {human_bytes(self.bytes)} in {self.place}"


def build(
    root: Path,
    question: Question,
    capture: Capture,
    *,
    tell: Callable[[str], None] = lambda line: None,
    quiet: bool = True,
    check: Callable[[], None] = lambda: None,
    wait: bool = True,
) -> Built:
    """Bring a store up to date: ask the teacher about every row that is not there.

    Args:
        root: where stores lie.
        question: the examples and their views.
        capture: how to ask.
        tell: takes a line for a person.
        quiet: show no progress.
        check: called between two blocks; may raise to stop, which loses at most the open shard.
        wait: for another build that is under way in this store, where it cannot be shared.

    Raises:
        TutelageError: the disk is full or will be, or cannot be written.
        BusyError: another build is under way, and `wait` is off.
        ModelError: the teacher's answers are not finite, or do not fit the codec.
        DamagedError: a sealed shard or the manifest is damaged.
    """
    folder = root / key_of(identity_of(question, capture))
    site = _Site(folder, question, capture, tell, quiet, check)
    begin = time.monotonic()
    asked = 0
    with BuildLock(folder) as lock:
        while True:
            with lock.planning():
                plan = site.plan(lock)
            if plan is None:
                break
            if isinstance(plan, str):
                site.wait(lock, patient=wait)
                continue
            try:
                asked += site.work(lock, *plan)
                with lock.planning():
                    site.seal(plan[0])
            finally:
                lock.leave()
        with lock.planning():
            difference = _listing(folder, question)
            manifest = open_manifest(folder)
            seconds = time.monotonic() - begin
            if asked:
                _remember(folder, asked, seconds, capture.device)
            if lock.alone():
                sweep(folder)
    return Built(
        folder, *difference, rows=len(question.ids()) * len(question.draws), asked=asked, seconds=seconds,
        bytes=sum(shard.bytes for shard in manifest.shards),
    )  # fmt: skip


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Site:
    """One build at work in the folder of a store."""

    folder: Path
    question: Question
    capture: Capture
    tell: Callable[[str], None]
    quiet: bool
    check: Callable[[], None]

    def plan(self, lock: BuildLock) -> tuple[OpenPlan, Rows] | str | None:
        """A plan to work on, drawn up or joined; None if nothing is missing; "busy" if another one has to end first."""
        folder = self.folder
        manifest = self._manifest()
        rows = self.question.rows(_index(folder, manifest))
        plan, alone = OpenPlan.read(folder), lock.alone()
        mine = plan is not None and plan.asks_for(rows)
        if alone and not mine and (folder / PLAN).is_file():
            # A build of other rows that was given up: what it finished counts, and may be missing no longer.
            adopt(folder, manifest)
            return "busy"
        if not len(rows):
            return None
        if not alone and not mine:
            return "busy"
        if alone:
            sweep(folder)
            lock.sign()
        if plan is None:
            self._refuse_full_disk(len(rows), self._row_bytes(), beside=KEY_BYTES)  # the plan lists the keys as well
            plan = OpenPlan.draw_up(rows, manifest)
            write_bytes(folder / PLAN, plan.to_bytes())
        elif alone:
            done = [part.stop - part.start for name, part in zip(plan.names, plan.parts(), strict=True)
                    if (folder / name).is_file()]  # fmt: skip
            if done:
                size = sum((folder / name).stat().st_size for name in plan.names if (folder / name).is_file())
                self._refuse_full_disk(len(rows) - sum(done), -(-size // sum(done)))
        lock.join()
        return plan, rows

    def wait(self, lock: BuildLock, *, patient: bool) -> None:
        """Until whoever builds something else here has ended."""
        if lock.alone():
            return
        if not patient:
            raise BusyError(f"{self.folder} is being built by {lock.holder()}", fix="wait for it to end")
        self.tell(f"waiting for {lock.holder()}, which builds this store for other data")
        while not lock.alone():
            self.check()
            time.sleep(0.2)

    def work(self, lock: BuildLock, plan: OpenPlan, rows: Rows) -> int:
        """Compute what nobody else computes, until all shards are there; how many rows that were."""
        todo = dict(enumerate(zip(plan.names, plan.parts(), strict=True)))
        title, asked = f"asking the teacher ({self.folder.name[:8]})", 0
        with Meter(title, len(rows), tell=self.tell, quiet=self.quiet, unit="rows") as meter:
            while todo:
                before = len(todo)
                for number, (name, part) in list(todo.items()):
                    if not lock.claim(number):
                        continue
                    try:
                        if is_whole(self.folder / name, plan, part):
                            meter.skip(part.stop - part.start)
                        else:
                            self._write(self.folder / name, rows, part, meter)
                            asked += part.stop - part.start
                    finally:
                        lock.release(number)
                    del todo[number]
                if len(todo) == before:
                    # The rest is in the hands of others, who may die: then it can be claimed.
                    self.check()
                    time.sleep(0.1)
        return asked

    def seal(self, plan: OpenPlan) -> None:
        """Take the shards into the manifest, unless another process has done so."""
        open_plan = OpenPlan.read(self.folder)
        if open_plan is not None and open_plan.to_bytes() == plan.to_bytes():
            adopt(self.folder, self._manifest())

    def _write(self, path: Path, rows: Rows, part: slice, meter: Meter) -> None:
        columns: dict[str, list[Tensor]] = {}
        for block in compute(self.question, rows, part, self.capture):
            self.check()
            for name, values in block.items():
                columns.setdefault(name, []).append(values)
            meter.advance(len(block["id"]))
        whole = {name: torch.cat(values) for name, values in columns.items()}
        write_bytes(path, pack(whole, self.folder.name, self.capture.device))

    def _row_bytes(self) -> int:
        """Of one row of a shard, from the answers to a few examples."""
        some = slice(0, min(len(self.question.ids()), _PROBED))
        probe = next(compute(self.question, self.question.rows(), some, self.capture))
        return sum(column.element_size() * column[0].numel() for column in probe.values())

    def _refuse_full_disk(self, rows: int, each: int, *, beside: int = 0) -> None:
        """Say that it will not fit before hours are spent; the volume asked is that of the store."""
        # One byte a row is more than its share of the sums.
        need, free = rows * (each + 1 + beside) + (1 << 16), shutil.disk_usage(self.folder).free
        if need > free:
            raise TutelageError(
                "the answers will not fit on the disk",
                given=f"{human_bytes(free)} free at {self.folder}",
                expected=f"{human_bytes(need)} for {rows:,} rows of {each} bytes",
                fix="choose another place with --store or TUTELAGE_STORE, or a smaller codec: see "
                "`tutelage cache estimate RECIPE`",
            )

    def _manifest(self) -> Manifest:
        return read_manifest(self.folder, identity_of(self.question, self.capture))


def _index(folder: Path, manifest: Manifest) -> Index:
    columns = [open_shard(folder, shard) for shard in manifest.shards]
    empty = [torch.empty(0, dtype=torch.int64)]
    ids, views = (torch.cat(empty + [part[name] for part in columns]).numpy() for name in ("id", "view"))
    return Index(ids, views)


def _listing(folder: Path, question: Question) -> tuple[int, int, int]:
    """What is new, changed and gone since the last build; and the new listing, written."""
    examples = question.examples
    now = {int(i): int(o) for i, o in zip(examples.ids.tolist(), examples.origins.tolist(), strict=True)}
    path = folder / LISTING
    before: dict[int, int] = {}
    if path.is_file():
        try:
            old = whole_columns(path.read_bytes(), str(path), folder.name)
            before = dict(zip(old["id"].tolist(), old["origin"].tolist(), strict=True))
        except DamagedError:
            before = {}  # it only serves this count
    new = [origin for id_, origin in now.items() if id_ not in before]
    gone = [origin for id_, origin in before.items() if id_ not in now]
    changed = len(set(new) & set(gone))
    data = pack({"id": torch.tensor(list(now)), "origin": torch.tensor(list(now.values()))}, folder.name)
    if not path.is_file() or path.read_bytes() != data:
        write_bytes(path, data)
    return len(new) - changed, changed, len(gone) - changed


def _remember(folder: Path, asked: int, seconds: float, device: str) -> None:
    line = {"rows": asked, "seconds": round(seconds, 3), "device": device, "at": round(time.time())}
    with contextlib.suppress(OSError):  # the store is complete without it
        append_line(folder / "history.jsonl", json.dumps(line))

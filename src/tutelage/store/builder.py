"""Asking the teacher about every row once, so that no death loses what was paid for.

    plan        under the lock: which rows are missing; written down, so that others work on the same ones
    shards      each claimed, computed in blocks, written whole under its own name; in any order, by any process
    seal        under the lock: the shards enter the manifest, the plan goes

A build that was killed left whole shards and a plan: the same build goes on from them, and another one first takes
over what is finished. Everything but the history has the same bytes however often it was interrupted.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import torch
from safetensors.torch import save
from torch import Tensor

from tutelage.errors import BusyError, DamagedError, TutelageError
from tutelage.files import append_line, human_bytes, sweep, write_bytes
from tutelage.progress import Meter
from tutelage.store.asking import Capture, compute, identity_of
from tutelage.store.index import Index
from tutelage.store.layout import LISTING, MANIFEST, PLAN, Manifest, key_of, pack, unpack
from tutelage.store.locks import BuildLock
from tutelage.store.places import open_manifest, open_shard
from tutelage.store.plan import Question, Rows
from tutelage.store.sealing import adopt, free_names, is_whole

__all__ = ["Built", "build"]


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
    identity = identity_of(question, capture)
    folder = root / key_of(identity)
    begin = time.monotonic()
    asked = 0
    with BuildLock(folder) as lock:
        while True:
            with lock.planning():
                manifest = _manifest(folder, identity)
                rows = question.rows(_index(folder, manifest))
                state = _open_plan(folder, lock, manifest, rows, question, capture)
            if state == "done":
                break
            if state == "busy":
                _wait(lock, folder, tell if wait else None)
                check()
                continue
            try:
                asked += _work(folder, lock, manifest, rows, question, capture, tell, quiet, check)
                with lock.planning():
                    if (folder / PLAN).is_file() and (folder / PLAN).read_bytes() == _plan_bytes(rows):
                        adopt(folder, _manifest(folder, identity), capture.device)
            finally:
                lock.leave()
        with lock.planning():
            difference = _listing(folder, question)
            manifest = open_manifest(folder)
            seconds = time.monotonic() - begin
            if asked:
                _remember(folder, asked, seconds, capture.device)
    return Built(
        folder, *difference, rows=len(question.ids()) * len(question.draws), asked=asked, seconds=seconds,
        bytes=sum(shard.bytes for shard in manifest.shards),
    )  # fmt: skip


def _open_plan(
    folder: Path, lock: BuildLock, manifest: Manifest, rows: Rows, question: Question, capture: Capture
) -> str:
    """Come to a plan with those who build here already: "work" on it, nothing to do: "done", theirs first: "busy"."""
    path, mine = folder / PLAN, _plan_bytes(rows)
    alone = lock.alone()
    if alone and path.is_file() and path.read_bytes() != mine:
        # A build of other rows that was given up: what it finished counts, and may be missing no longer.
        adopt(folder, manifest, capture.device)
        return "busy"
    if not len(rows):
        return "done"
    if not alone and (not path.is_file() or path.read_bytes() != mine):
        return "busy"
    if alone:
        sweep(folder)
        if not path.is_file():
            _refuse_full_disk(folder, len(rows), question, capture)
            write_bytes(path, mine)
        lock.sign()
    lock.join()
    return "work"


def _wait(lock: BuildLock, folder: Path, tell: Callable[[str], None] | None) -> None:
    if lock.alone():
        return
    if tell is None:
        raise BusyError(f"{folder} is being built by {lock.holder()}", fix="wait for it to end")
    tell(f"waiting for {lock.holder()}, which builds this store for other data")
    while not lock.alone():
        time.sleep(0.2)


def _work(
    folder: Path,
    lock: BuildLock,
    manifest: Manifest,
    rows: Rows,
    question: Question,
    capture: Capture,
    tell: Callable[[str], None],
    quiet: bool,
    check: Callable[[], None],
) -> int:
    """Compute what nobody else computes, until all shards of the plan are there; how many rows that were."""
    names = free_names(manifest, len(rows.shards()))
    wanted = rows.columns()
    todo = dict(enumerate(zip(names, rows.shards(), strict=True)))
    asked = 0
    with Meter(f"asking the teacher ({folder.name[:8]})", len(rows), tell=tell, quiet=quiet, unit="rows") as meter:
        while todo:
            waiting = True
            for number, (name, part) in list(todo.items()):
                if not lock.claim(number):
                    continue
                try:
                    path = folder / name
                    if not (path.is_file() and is_whole(path, wanted, part)):
                        columns: dict[str, list[Tensor]] = {}
                        for block in compute(question, rows, part, capture):
                            check()
                            for column, values in block.items():
                                columns.setdefault(column, []).append(values)
                            meter.advance(len(block["id"]))
                        write_bytes(
                            path, pack({column: torch.cat(values) for column, values in columns.items()}, folder.name)
                        )
                        asked += part.stop - part.start
                    else:
                        meter.skip(part.stop - part.start)
                finally:
                    lock.release(number)
                del todo[number]
                waiting = False
            if todo and waiting:
                check()
                time.sleep(0.1)
    return asked


def _manifest(folder: Path, identity: Mapping[str, Any]) -> Manifest:
    if (folder / MANIFEST).is_file():
        return open_manifest(folder)
    return Manifest(identity)


def _index(folder: Path, manifest: Manifest) -> Index:
    columns = [open_shard(folder, shard) for shard in manifest.shards]
    empty = [torch.empty(0, dtype=torch.int64)]
    ids, views = (torch.cat(empty + [part[name] for part in columns]).numpy() for name in ("id", "view"))
    return Index(ids, views)


def _plan_bytes(rows: Rows) -> bytes:
    return save(rows.columns())


def _refuse_full_disk(folder: Path, rows: int, question: Question, capture: Capture) -> None:
    """Say that it will not fit before hours are spent; the volume asked is that of the store."""
    probe = next(compute(question, question.rows(), slice(0, min(len(question.ids()), 8)), capture))
    each = sum(column.element_size() * column[0].numel() for column in probe.values())
    need = rows * (each + 1) + (1 << 16)
    free = shutil.disk_usage(folder).free
    if need > free:
        raise TutelageError(
            "the answers will not fit on the disk",
            given=f"{human_bytes(free)} free at {folder}",
            expected=f"{human_bytes(need)} for {rows:,} rows of {each} bytes",
            fix="choose another place with --store or TUTELAGE_STORE, or a smaller codec: see "
            "`tutelage cache estimate RECIPE`",
        )


def _listing(folder: Path, question: Question) -> tuple[int, int, int]:
    """What is new, changed and gone since the last build; and the new listing, written."""
    examples = question.examples
    now = {int(i): int(o) for i, o in zip(examples.ids.tolist(), examples.origins.tolist(), strict=True)}
    path = folder / LISTING
    before: dict[int, int] = {}
    if path.is_file():
        try:
            old = unpack(path.read_bytes(), str(path))
            before = dict(zip(old["id"].tolist(), old["origin"].tolist(), strict=True))
        except (DamagedError, KeyError, ValueError):
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
    append_line(folder / "history.jsonl", json.dumps(line))

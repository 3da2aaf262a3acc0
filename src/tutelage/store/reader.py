"""The store as a teacher: answers by content id and view, from memory or from mapped files.

A row is returned only after the sums of its block were checked, and those sums are tied to the manifest: what is
damaged, foreign or missing is reported, never answered.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, final

import numpy as np
import torch
from torch import Tensor

from tutelage.errors import DamagedError, MismatchError
from tutelage.store.codecs import codec_of
from tutelage.store.index import Index, Ints
from tutelage.store.layout import BLOCK, COUNTS, KEYS, SUMS, Manifest, Shard, bad_blocks, rows_in_words
from tutelage.store.places import is_remote, open_manifest, open_shard
from tutelage.types import Batch, Outputs

__all__ = ["StoredTeacher", "refuse_bad_blocks"]

_TWO_WAYS_OUT = (
    "record some views of each example, which then serve any number of epochs (`views: 4`), or record every view that "
    "the recipe's seeds and epochs will draw (`views: replay`)"
)


@final
class StoredTeacher:
    """Answers from a sealed store; a `Teacher` like any other.

    Args:
        place: the folder of one store, or its address for any file system that fsspec knows.
        resident: keep all rows in memory. By default that is done where they take less than a quarter of what is free;
            otherwise rows are read from mapped files.

    Raises:
        DamagedError: a file is not what was written, or not of this store.
        InputError: there is no store.
    """

    def __init__(self, place: Path | str, *, resident: bool | None = None) -> None:
        self.place = place = place if is_remote(place) else Path(str(place).removeprefix("file://"))
        self.manifest = open_manifest(place)
        identity = self.manifest.identity
        self.classes: tuple[str, ...] = tuple(identity["classes"])
        self._codec = codec_of(identity["codec"], identity.get("temperature", 1.0))
        self._shards = [_Mapped(place, self.manifest, number) for number in range(len(self.manifest.shards))]
        keys = {name: _together([shard.columns[name] for shard in self._shards]).numpy() for name in KEYS}
        columns = self._shards[0].columns if self._shards else {}
        self._places = [name.removeprefix("feature/") for name in columns if name.startswith("feature/")]
        self._index = Index(keys["id"], keys["view"])
        self._starts = np.cumsum([0, *(shard.rows for shard in self._shards)])
        self._device = torch.device("cpu")
        self._rows: dict[str, Tensor] | None = None
        if _fits_memory(self.bytes) if resident is None else resident:
            self._load()

    @property
    def bytes(self) -> int:
        """Of all shards on disk."""
        return sum(shard.bytes for shard in self.manifest.shards)

    @property
    def resident(self) -> bool:
        """Whether all rows are in memory."""
        return self._rows is not None

    def __len__(self) -> int:
        return int(self._starts[-1])

    def answer(self, batch: Batch) -> Outputs:
        """The stored rows of a batch.

        Raises:
            MismatchError: an example, or this view of it, has no stored answer.
            DamagedError: a row's block does not have the sum it was written with.
        """
        ids = batch.ids.numpy() if batch.ids.device.type == "cpu" else batch.ids.cpu().numpy()
        places = self._index.find(ids, batch.view)
        if places is None:
            self._refuse(ids, batch.view)
        if self._rows is not None:
            index = torch.from_numpy(places)
            if self._device.type != "cpu":
                index = index.to(self._device)
            rows = {name: _selected(column, index) for name, column in self._rows.items()}
        else:
            rows = {name: column.to(self._device) for name, column in self._gather(self._index.order[places]).items()}
        logits = self._codec.decode(rows, len(self.classes))
        counts = rows.get(COUNTS)
        features = {place: rows[f"feature/{place}"] for place in self._places}
        return Outputs(logits, features, counts=None if counts is None else counts.bool())

    def fingerprint(self) -> str:
        """The key, and the sums of everything the store holds."""
        return f"{self.manifest.key} {' '.join(shard.sha256 for shard in self.manifest.shards)}"

    def to(self, device: torch.device) -> None:
        """Answer on this device; rows in memory move there."""
        self._device = device
        if self._rows is not None:
            self._rows = {name: column.to(device) for name, column in self._rows.items()}

    def ids(self, view: int = 0) -> Tensor:
        """The content ids that have an answer for a view, (N,) int64, sorted."""
        return torch.from_numpy(self._index.ids_of(view).copy())

    @property
    def views(self) -> list[int]:
        """The view numbers that were recorded; 0 stands for plain examples."""
        return self._index.views

    def _load(self) -> None:
        """Everything into memory, checked, in the order of the index."""
        order = torch.from_numpy(self._index.order)
        for shard in self._shards:
            shard.check_all()
        names = [name for name in self._shards[0].columns if name not in KEYS] if self._shards else []
        loaded = {}
        for name in names:
            whole = _together([shard.columns[name] for shard in self._shards])
            # In the order of the index already, as most stores are, it is copied out of the mapped file only.
            loaded[name] = _selected(whole, order)
        self._rows = loaded
        for shard in self._shards:
            shard.columns = {}

    def _gather(self, rows: Ints) -> dict[str, Tensor]:
        """Rows by number from mapped shards, in the order asked for."""
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        bounds = np.searchsorted(ordered, self._starts)
        back = torch.from_numpy(np.argsort(order, kind="stable"))
        parts: list[dict[str, Tensor]] = []
        for number, shard in enumerate(self._shards):
            own = ordered[bounds[number] : bounds[number + 1]] - self._starts[number]
            if len(own) or not len(rows):  # a batch of none has columns, too
                parts.append(shard.take(own))
        return {name: _selected(_together([part[name] for part in parts]), back) for name in parts[0]}

    def _refuse(self, ids: Ints, view: int) -> NoReturn:
        if view not in self._index.views:
            recorded = [number for number in self._index.views if number]
            raise MismatchError(
                "this batch has random views of which no answers were recorded",
                given=f"view {view}",
                expected=f"one of {len(recorded)} recorded views" if recorded else "plain examples",
                fix=_TWO_WAYS_OUT if view else "the store has answers to random views only: ask for those",
            )
        missing = int((~np.isin(ids, self._index.ids_of(view))).sum())
        raise MismatchError(
            f"{missing} of {len(ids)} examples have no stored answer",
            where=str(self.place),
            fix="they are new, or were changed: `tutelage cache build RECIPE` asks the teacher about them",
        )


@final
class _Mapped:
    """One shard: its columns mapped, and which of its blocks were found whole."""

    def __init__(self, place: Path | str, manifest: Manifest, number: int) -> None:
        self._shard = manifest.shards[number]
        self.rows = self._shard.rows
        self.columns = open_shard(place, self._shard)
        self._checked = np.zeros(-(-self.rows // BLOCK), dtype=bool)
        self._all_checked = False

    def take(self, rows: Ints) -> dict[str, Tensor]:
        """Checked rows of all payload columns."""
        if not self._all_checked:
            blocks = np.unique(rows // BLOCK)
            fresh = blocks[~self._checked[blocks]]
            if len(fresh):
                refuse_bad_blocks(self._shard, bad_blocks(self.columns, fresh.tolist()))
                self._checked[fresh] = True
                self._all_checked = bool(self._checked.all())
        index = torch.from_numpy(rows)
        return {n: _selected(c, index) for n, c in self.columns.items() if n not in KEYS and n != SUMS}

    def check_all(self) -> None:
        refuse_bad_blocks(self._shard, bad_blocks(self.columns))
        del self.columns[SUMS]


def refuse_bad_blocks(shard: Shard, bad: Sequence[int]) -> None:
    """Name the rows of a shard that are damaged, if any are.

    Raises:
        DamagedError: some are.
    """
    if bad:
        raise DamagedError(
            f"{shard.name} is damaged",
            given=rows_in_words(bad, shard.rows),
            fix="tutelage cache repair RECIPE asks the teacher about these rows again",
        )


def _selected(column: Tensor, index: Tensor) -> Tensor:
    """Rows of a column. Not every device can select unsigned 16-bit numbers; their bits can be selected everywhere."""
    if column.dtype == torch.uint16:
        return column.view(torch.int16).index_select(0, index).view(torch.uint16)
    return column.index_select(0, index)


def _together(columns: Sequence[Tensor]) -> Tensor:
    if not columns:
        return torch.empty(0, dtype=torch.int64)
    if columns[0].dtype == torch.uint16:
        return torch.cat([column.view(torch.int16) for column in columns]).view(torch.uint16)
    return columns[0] if len(columns) == 1 else torch.cat(list(columns))


def _fits_memory(size: int) -> bool:
    """Whether so many bytes are less than this process's share of a quarter of the free memory."""
    return size < _available_memory() / 4 / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _available_memory() -> int:
    """Bytes that could be had, the file cache among them; 4 GiB where the system does not tell."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return int(found[1]) << 10 if found else 4 << 30

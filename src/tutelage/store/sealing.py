"""From whole shards to a manifest that names them: the only step after which a reader believes what was built."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from tutelage.errors import DamagedError
from tutelage.files import remove, sweep, write_bytes
from tutelage.store.layout import (
    MANIFEST,
    PLAN,
    SUMS,
    Manifest,
    Shard,
    bad_blocks,
    header_of,
    key_in,
    seal_of,
    sha256_of,
    shard_name,
    unpack,
)
from tutelage.store.plan import shards_of

__all__ = ["adopt", "describe", "free_names", "is_whole"]


def adopt(folder: Path, manifest: Manifest, device: str) -> None:
    """Take every whole shard of the open plan into the manifest, and end the plan."""
    plan = folder / PLAN
    sealed = {shard.name: shard for shard in manifest.shards}
    if plan.is_file():
        wanted, parts = _read_plan(plan)
        for name, part in zip(free_names(manifest, len(parts)), parts, strict=True):
            path = folder / name
            if path.is_file() and is_whole(path, wanted, part):
                sealed[name] = describe(path, part.stop - part.start, device)
    whole = Manifest(manifest.identity, tuple(sealed[name] for name in sorted(sealed)))
    if whole.shards and whole.shards != manifest.shards:
        write_bytes(folder / MANIFEST, whole.to_bytes())
    for path in sorted(folder.glob("shard-*.safetensors")):
        if path.name not in sealed:
            remove(path)  # the torn or unfinished end of a build that was given up
    remove(plan)
    sweep(folder)


def is_whole(path: Path, wanted: Mapping[str, Tensor], part: slice) -> bool:
    """Whether a shard of an open build holds these very rows, undamaged; if not, it is computed again."""
    try:
        data = path.read_bytes()
        columns = unpack(data, str(path))
        return (
            key_in(data) == path.parent.name
            and SUMS in columns
            and torch.equal(columns["id"], wanted["id"][part])
            and torch.equal(columns["view"], wanted["view"][part])
            and not bad_blocks(columns)
        )
    except (DamagedError, KeyError, IndexError, RuntimeError):
        return False


def _read_plan(path: Path) -> tuple[dict[str, Tensor], list[slice]]:
    """What an open build computes; nothing where its plan is damaged, so that it is computed anew."""
    try:
        wanted = unpack(path.read_bytes(), str(path))
        return wanted, shards_of(len(wanted["id"]), int(wanted["shard_rows"][0]))
    except (DamagedError, KeyError, IndexError):
        return {}, []


def describe(path: Path, rows: int, device: str) -> Shard:
    """A shard as a manifest holds it."""
    data = path.read_bytes()
    sums = unpack(data, str(path))[SUMS]
    return Shard(path.name, rows, len(data), sha256_of(data), seal_of(header_of(data), sums), device)


def free_names(manifest: Manifest, count: int) -> list[str]:
    """The first names that no sealed shard has: those of lost shards first."""
    taken = {shard.name for shard in manifest.shards}
    names = (shard_name(number) for number in range(len(taken) + count))
    return [name for name in names if name not in taken][:count]

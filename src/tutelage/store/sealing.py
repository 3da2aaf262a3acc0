"""From whole shards to a manifest that names them: the only step after which a reader believes what was built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from safetensors.torch import save
from torch import Tensor

from tutelage.errors import DamagedError
from tutelage.files import remove, sweep, write_bytes
from tutelage.store.layout import (
    MANIFEST,
    PLAN,
    SUMS,
    Manifest,
    Shard,
    header_of,
    metadata_of,
    seal_of,
    sha256_of,
    shard_name,
    unpack,
    whole_columns,
)
from tutelage.store.places import open_manifest
from tutelage.store.plan import Rows, shards_of

__all__ = ["OpenPlan", "adopt", "describe", "is_whole", "read_manifest", "recover"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class OpenPlan:
    """The rows of a build that is under way, and the names of its shards; all who build here work on the same."""

    ids: Tensor
    views: Tensor
    shard_rows: int
    names: tuple[str, ...]

    @staticmethod
    def draw_up(rows: Rows, manifest: Manifest) -> OpenPlan:
        """Names are the first that no sealed shard has: those of lost shards first."""
        columns = rows.columns()
        taken, count = {shard.name for shard in manifest.shards}, len(rows.shards())
        names = [name for name in map(shard_name, range(len(taken) + count)) if name not in taken][:count]
        return OpenPlan(columns["id"], columns["view"], rows.shard_rows, tuple(names))

    @staticmethod
    def read(folder: Path) -> OpenPlan | None:
        """The plan of a store's folder; None where there is none, or it is damaged, so that another is drawn up."""
        path = folder / PLAN
        if not path.is_file():
            return None
        try:
            data = path.read_bytes()
            columns = unpack(data, str(path))
            rows = int(columns["shard_rows"][0])
            names = tuple(map(shard_name, columns["numbers"].tolist()))
            plan = OpenPlan(columns["id"], columns["view"], rows, names)
            good = plan.to_bytes() == data and len(plan.parts()) == len(names)
        except (DamagedError, KeyError, IndexError, ValueError, TypeError):
            return None
        return plan if good else None

    def asks_for(self, rows: Rows) -> bool:
        """Whether these are its rows."""
        columns = rows.columns()
        same = torch.equal(self.ids, columns["id"]) and torch.equal(self.views, columns["view"])
        return same and self.shard_rows == rows.shard_rows

    def parts(self) -> list[slice]:
        return shards_of(len(self.ids), self.shard_rows)

    def to_bytes(self) -> bytes:
        numbers = [int(name.removeprefix("shard-").partition(".")[0]) for name in self.names]
        columns = {"id": self.ids, "view": self.views, "shard_rows": torch.tensor([self.shard_rows])}
        columns["numbers"] = torch.tensor(numbers)
        return save(columns, metadata={"sum": sha256_of(save(columns))})


def adopt(folder: Path, manifest: Manifest) -> None:
    """Take every whole shard of the open plan into the manifest, and end the plan."""
    plan = OpenPlan.read(folder)
    sealed = {shard.name: shard for shard in manifest.shards}
    if plan is not None:
        for name, part in zip(plan.names, plan.parts(), strict=True):
            if name not in sealed and is_whole(folder / name, plan, part):
                sealed[name] = describe(folder / name, part.stop - part.start)
    whole = Manifest(manifest.identity, tuple(sealed[name] for name in sorted(sealed)))
    if whole.shards and whole.shards != manifest.shards:
        write_bytes(folder / MANIFEST, whole.to_bytes())
    for path in sorted(folder.glob("shard-*.safetensors")):
        if path.name not in sealed:
            remove(path)  # the torn or unfinished end of a build that was given up
    remove(folder / PLAN)
    sweep(folder)


def is_whole(path: Path, plan: OpenPlan, part: slice) -> bool:
    """Whether a shard of an open build is there and holds these very rows, undamaged; if not, it is computed again."""
    if not path.is_file():
        return False
    try:
        columns = whole_columns(path.read_bytes(), str(path), path.parent.name)
    except DamagedError:
        return False
    return torch.equal(columns["id"], plan.ids[part]) and torch.equal(columns["view"], plan.views[part])


def describe(path: Path, rows: int) -> Shard:
    """A shard as a manifest holds it."""
    data = path.read_bytes()
    seal = seal_of(header_of(data), unpack(data, str(path))[SUMS])
    return Shard(path.name, rows, len(data), sha256_of(data), seal, metadata_of(data).get("device", ""))


def read_manifest(folder: Path, identity: Mapping[str, Any]) -> Manifest:
    """The manifest of a store, made again where it was lost; one without shards where nothing was built yet.

    Raises:
        DamagedError: it is damaged.
    """
    if (folder / MANIFEST).is_file():
        return open_manifest(folder)
    # Shards that no open plan names were sealed once.
    plan = OpenPlan.read(folder)
    open_names = set() if plan is None else set(plan.names)
    if any(path.name not in open_names for path in folder.glob("shard-*.safetensors")):
        return recover(folder, identity)
    return Manifest(identity)


def recover(folder: Path, identity: Mapping[str, Any]) -> Manifest:
    """Write a manifest from the shards that are whole and say that they were written for this store."""
    found: list[Shard] = []
    seen: set[tuple[int, int]] = set()
    for path in sorted(folder.glob("shard-*.safetensors")):
        try:
            columns = whole_columns(path.read_bytes(), str(path), folder.name)
        except DamagedError:
            continue
        keys = set(zip(columns["id"].tolist(), columns["view"].tolist(), strict=True))
        if not keys & seen:
            seen |= keys
            found.append(describe(path, len(columns["id"])))
    manifest = Manifest(identity, tuple(found))
    if found:
        write_bytes(folder / MANIFEST, manifest.to_bytes())
    else:
        remove(folder / MANIFEST)
    return manifest

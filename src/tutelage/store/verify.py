"""Finding damage, and asking the teacher again about just the rows that have it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import numpy as np

from tutelage.errors import BusyError, DamagedError
from tutelage.files import remove, sweep, write_bytes
from tutelage.store.asking import Capture, compute, identity_of
from tutelage.store.layout import (
    LISTING,
    MANIFEST,
    SUMS,
    Shard,
    bad_blocks,
    blocks_of,
    key_of,
    pack,
    rows_in_words,
    sha256_of,
    whole_columns,
)
from tutelage.store.locks import BuildLock
from tutelage.store.places import open_manifest, open_shard
from tutelage.store.plan import Question, Rows, number_of
from tutelage.store.sealing import describe, read_manifest, recover

__all__ = ["Damage", "repair", "stores_in", "verify"]


@final
@dataclass(frozen=True, slots=True)
class Damage:
    """One thing that is not as it was written."""

    store: Path
    file: str
    what: str
    blocks: tuple[int, ...] | None = None  # of a shard, where the rest of it can be trusted

    def __str__(self) -> str:
        return f"{self.store.name}/{self.file}: {self.what}"


def stores_in(root: Path) -> list[Path]:
    """The folders of sealed stores below a root."""
    return sorted(path.parent for path in root.glob(f"*/{MANIFEST}"))


def verify(folder: Path) -> Iterator[Damage]:
    """Read every byte of a store, and say what is not as written: missing, cut, altered, foreign or left over."""
    try:
        manifest = open_manifest(folder)
    except DamagedError as error:
        yield Damage(folder, MANIFEST, error.problem.what)
        return
    for shard in manifest.shards:
        damage = _damage_of(folder, shard)
        if damage is not None:
            yield damage
    known = {shard.name for shard in manifest.shards}
    for path in sorted(folder.glob("shard-*.safetensors")):
        if path.name not in known and not (folder / "plan.safetensors").is_file():
            yield Damage(folder, path.name, "belongs to no build, and is not used")
    listing = folder / LISTING
    if listing.is_file():
        try:
            whole_columns(listing.read_bytes(), str(listing), folder.name)
        except DamagedError:
            yield Damage(folder, LISTING, "altered; only the count of what changed depends on it")


def _damage_of(folder: Path, shard: Shard) -> Damage | None:
    path = folder / shard.name
    if not path.is_file():
        return Damage(folder, shard.name, f"missing, with {shard.rows:,} rows")
    size = path.stat().st_size
    if size != shard.bytes:
        return Damage(folder, shard.name, f"{size:,} bytes instead of {shard.bytes:,}, with {shard.rows:,} rows")
    data = path.read_bytes()
    if sha256_of(data) == shard.sha256:
        return None
    try:
        columns = open_shard(folder, shard)
        bad = bad_blocks(columns)
    except DamagedError:
        return Damage(folder, shard.name, f"header, keys or sums altered, with {shard.rows:,} rows")
    return Damage(folder, shard.name, f"altered in {rows_in_words(bad, shard.rows)}", tuple(bad))


def repair(
    root: Path, question: Question, capture: Capture, *, tell: Callable[[str], None] = lambda line: None
) -> list[Damage]:
    """Mend a store in place: damaged blocks are asked anew; what cannot be told apart any more is dropped.

    Dropped rows are missing afterwards, and the next build asks about them: call `build` after this.

    Returns:
        What was found.

    Raises:
        BusyError: somebody is building this store.
    """
    identity = identity_of(question, capture)
    folder = root / key_of(identity)
    if not folder.is_dir():
        return []
    with BuildLock(folder) as lock, lock.planning():
        if not lock.alone():
            raise BusyError(f"{folder} is being built by {lock.holder()}", fix="wait for it to end")
        sweep(folder)
        found: list[Damage] = []
        try:
            manifest = read_manifest(folder, identity)
        except DamagedError as error:
            found.append(Damage(folder, MANIFEST, error.problem.what))
            manifest = recover(folder, identity)
        found += verify(folder) if manifest.shards else []
        if not found:
            return []
        shards = {shard.name: shard for shard in manifest.shards}
        for damage in found:
            tell(str(damage))
            if damage.file in shards:
                mended = _mended(folder, shards[damage.file], damage, question, capture)
                if mended is None:
                    del shards[damage.file]
                else:
                    shards[damage.file] = mended
            elif damage.file != MANIFEST:
                remove(folder / damage.file)
        kept = replace(manifest, shards=tuple(shards[name] for name in sorted(shards)))
        # First what is believed, then what it no longer names.
        if kept.shards:
            write_bytes(folder / MANIFEST, kept.to_bytes())
        else:
            remove(folder / MANIFEST)
        for damage in found:
            if damage.file not in shards and damage.file != MANIFEST:
                remove(folder / damage.file)
    return found


def _mended(folder: Path, shard: Shard, damage: Damage, question: Question, capture: Capture) -> Shard | None:
    """The shard with its damaged blocks asked anew; None where it is not known any more what they held."""
    if not damage.blocks:
        return None
    columns = open_shard(folder, shard)
    whole = {name: column.clone() for name, column in columns.items() if name != SUMS}
    draws = {number_of(draw): number for number, draw in enumerate(question.draws)}
    known = question.ids()
    for block in damage.blocks:
        part = blocks_of(shard.rows)[block]
        ids, views = whole["id"][part].numpy().copy(), whole["view"][part].numpy()
        if not np.isin(ids, known).all() or not set(views.tolist()) <= set(draws):
            return None  # these examples are gone, or these views are no longer asked for
        places = np.array([draws[view] for view in views.tolist()])
        rows = Rows(ids, places, [number_of(draw) for draw in question.draws], shard.rows)
        for answer in compute(question, rows, slice(0, len(ids)), capture):
            for name, values in answer.items():
                whole[name][part] = values
    write_bytes(folder / shard.name, pack(whole, folder.name, capture.device))
    return describe(folder / shard.name, shard.rows)

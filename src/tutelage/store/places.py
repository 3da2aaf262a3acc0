"""Opening a store where it lies: in a local folder, mapped; or behind an address, read into memory.

Nothing is believed because of its name: the manifest must have the bytes that its own sum says and lie under its key,
and a shard must have the size, the header and the block sums that the manifest says.
"""

from __future__ import annotations

import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from tutelage.errors import DamagedError, InputError
from tutelage.files import cache_folder
from tutelage.store.layout import (
    KEYS,
    MANIFEST,
    SUMS,
    Manifest,
    Shard,
    bad_blocks,
    header_of,
    rows_in_words,
    seal_of,
    unpack,
)

__all__ = ["is_remote", "open_manifest", "open_shard", "store_root"]

_REPAIR = "tutelage cache repair RECIPE asks the teacher about its rows again"


def store_root(chosen: Path | str | None = None) -> Path | str:
    """Where stores lie: as chosen, else `$TUTELAGE_STORE`, else in the user's cache folder."""
    text = str(chosen or os.environ.get("TUTELAGE_STORE") or cache_folder() / "store")
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    return text.rstrip("/") if is_remote(text) else Path(text).expanduser()


def is_remote(place: Path | str) -> bool:
    """Whether this is an address, such as s3://bucket/store, rather than a folder."""
    return "://" in str(place) and not str(place).startswith("file://")


def open_manifest(place: Path | str) -> Manifest:
    """The manifest of one store.

    Raises:
        InputError: there is none.
        DamagedError: it is damaged, or lies in a folder of another name.
    """
    where = f"{place}/{MANIFEST}"
    manifest = Manifest.from_bytes(_read(place, MANIFEST), where)
    name = str(place).rstrip("/").rpartition("/")[2]
    if name != manifest.key:
        raise DamagedError(
            f"{place} is not the store that its manifest describes",
            given=name,
            expected=manifest.key,
            fix="a store is named by what its answers are to: give the folder its name back",
        )
    return manifest


def open_shard(place: Path | str, shard: Shard) -> dict[str, Tensor]:
    """The columns of a shard, the sums among them; the keys are checked already, answers are not.

    Raises:
        DamagedError: it is missing, of another size, or has another header or other sums than the manifest says.
    """
    where = f"{place}/{shard.name}"
    if is_remote(place):
        data = _read(place, shard.name)
        size, header = len(data), header_of(data)
        columns = unpack(data, where) if size == shard.bytes else {}
    else:
        path = Path(place) / shard.name
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                head = file.read(8)
                length = int.from_bytes(head, "little")
                header = head + file.read(min(length, size))
            columns = _mapped(path) if size == shard.bytes else {}
        except FileNotFoundError as error:
            raise DamagedError(f"{where} is missing", given=f"{shard.rows:,} rows", fix=_REPAIR) from error
        except SafetensorError as error:
            raise DamagedError(f"{where} is damaged: its header cannot be read", fix=_REPAIR) from error
    if size != shard.bytes:
        raise DamagedError(
            f"{where} is damaged", given=f"{size:,} bytes", expected=f"{shard.bytes:,} bytes", fix=_REPAIR
        )
    if SUMS not in columns or seal_of(header, columns[SUMS]) != shard.seal:
        raise DamagedError(
            f"{where} is not the shard that this store wrote",
            given="another header, or other sums of its blocks",
            fix=_REPAIR,
        )
    names = sorted(set(columns) - {SUMS})
    sums = columns[SUMS][[names.index(key) for key in KEYS]]
    bad = bad_blocks({**{key: columns[key] for key in KEYS}, SUMS: sums})
    if bad:
        raise DamagedError(f"{where} is damaged", given=f"the keys of {rows_in_words(bad, shard.rows)}", fix=_REPAIR)
    return columns


def _mapped(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping


def _read(place: Path | str, name: str) -> bytes:
    where = f"{place}/{name}"
    try:
        if not is_remote(place):
            return (Path(place) / name).read_bytes()
        import fsspec

        with fsspec.open(where, "rb") as file:
            data: bytes = file.read()
        return data
    except (FileNotFoundError, NotADirectoryError) as error:
        if name != MANIFEST:
            raise DamagedError(f"{where} is missing", fix=_REPAIR) from error
        raise InputError(
            f"there is no store at {place}",
            fix="`tutelage cache ls` lists those there are; `tutelage cache build RECIPE` makes one",
        ) from error
    except (ImportError, ValueError) as error:
        raise InputError(
            f"{place} cannot be read: {error}", fix="install the package that its protocol needs"
        ) from error
    except OSError as error:
        raise DamagedError(f"cannot read {where}: {error.strerror or error}") from error

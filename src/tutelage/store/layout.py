"""Where answers lie, and how a file shows that it is whole.

    <store>/<key>/manifest.json              what the answers are to, and the shards; written last, in canonical bytes
    <store>/<key>/shard-00000.safetensors    id, view, payload columns; and the CRC-32 of every block of every column
    <store>/<key>/listing.safetensors        which examples the last build was asked about, to tell what changed
    <store>/<key>/plan.safetensors           only while a build is open: the rows that it is computing
    <store>/<key>/history.jsonl              one line per build, with its time; not part of the store's identity

The key is a digest of everything that decides an answer but the example. A block is what the teacher was asked at once,
so a damaged one can be asked again and gives the same bits.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from tutelage.errors import DamagedError

__all__ = [
    "BLOCK",
    "COUNTS",
    "FORMAT",
    "KEYS",
    "KEY_BYTES",
    "LISTING",
    "MANIFEST",
    "PLAN",
    "SUMS",
    "Manifest",
    "Shard",
    "bad_blocks",
    "blocks_of",
    "header_of",
    "key_of",
    "metadata_of",
    "pack",
    "rows_in_words",
    "seal_of",
    "sha256_of",
    "shard_name",
    "sums_of",
    "unpack",
    "whole_columns",
]

FORMAT = 1
BLOCK = 256  # rows
MANIFEST, LISTING, PLAN = "manifest.json", "listing.safetensors", "plan.safetensors"
KEYS = ("id", "view")
KEY_BYTES = 16  # of both, in a row
SUMS = "crc"
COUNTS = "heard"  # column of teachers that do not have a say about every example


@dataclass(frozen=True, slots=True)
class Shard:
    """One sealed file of rows."""

    name: str
    rows: int
    bytes: int
    sha256: str
    seal: str  # over header and block sums: ties the sums inside the file to this manifest
    device: str  # where the teacher answered


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a store holds."""

    identity: Mapping[str, Any]  # everything that decides an answer but the example; its digest is the key
    shards: Sequence[Shard] = field(default_factory=tuple)

    @property
    def key(self) -> str:
        return key_of(self.identity)

    def to_bytes(self) -> bytes:
        body = {
            "format": FORMAT,
            "key": self.key,
            "identity": dict(self.identity),
            "shards": [asdict(shard) for shard in self.shards],
        }
        return _canonical(body | {"sum": hashlib.sha256(_canonical(body)).hexdigest()})

    @staticmethod
    def from_bytes(data: bytes, where: str) -> Manifest:
        """Read a manifest, believing it only if every byte of it is as written.

        Raises:
            DamagedError: it is not.
        """
        fix = "tutelage cache repair RECIPE makes it again, from the shards and the teacher"
        try:
            body = json.loads(data)
            if body["format"] != FORMAT:
                raise DamagedError(
                    f"{where} is of a format that this version does not read",
                    given=f"format {body['format']}",
                    expected=f"format {FORMAT}",
                    fix="build the store again with this version",
                )
            manifest = Manifest(body["identity"], tuple(Shard(**shard) for shard in body["shards"]))
            whole = manifest.to_bytes() == data
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DamagedError(f"{where} is damaged: it is no manifest of a store", fix=fix) from error
        if not whole:
            raise DamagedError(f"{where} is damaged: its sum does not fit its content", fix=fix)
        return manifest


def key_of(identity: Mapping[str, Any]) -> str:
    """The name of a store: 128 bits over its identity."""
    return hashlib.sha256(_canonical(identity)).hexdigest()[:32]


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.safetensors"


def pack(columns: Mapping[str, Tensor], key: str, device: str = "cpu") -> bytes:
    """Columns of equal length -> the bytes of a shard of a store; the same columns give the same bytes.

    Args:
        columns: by name.
        key: of the store that it is written for.
        device: on which the teacher answered.
    """
    whole = {name: column.contiguous() for name, column in columns.items()}
    sums = sums_of(whole)
    # One more row for the header, whose bytes are known when all the rest is written.
    sums = torch.cat([sums, torch.zeros_like(sums[:1])])
    # In one entry: the writer puts several in an order of its own, another one each time.
    about = {"about": json.dumps({"device": device, "key": key})}
    data = bytearray(save({**whole, SUMS: sums}, metadata=about))
    header = header_of(data)
    start = len(header) + json.loads(header[8:])[SUMS]["data_offsets"][0] + sums[:-1].numel() * 8
    data[start : start + 8] = zlib.crc32(header).to_bytes(8, "little")
    return bytes(data)


def whole_columns(data: bytes, where: str, key: str) -> dict[str, Tensor]:
    """The columns of a shard that was written for a store, if nothing of it is damaged; needs no manifest.

    Raises:
        DamagedError: it is damaged, or was written for another store.
    """
    columns = unpack(data, where)
    try:
        of_header = columns[SUMS][-1].tolist()
        good = of_header[0] == zlib.crc32(header_of(data)) and not any(of_header[1:]) and not bad_blocks(columns)
    except (KeyError, IndexError, RuntimeError, TypeError) as error:
        raise DamagedError(f"{where} is damaged: it has no sums") from error
    if not good:
        raise DamagedError(f"{where} is damaged: its sums do not fit its content")
    if metadata_of(data).get("key") != key:
        raise DamagedError(f"{where} was written for another store")
    return columns


def unpack(data: bytes, where: str) -> dict[str, Tensor]:
    """The columns of a shard, the sums among them.

    Raises:
        DamagedError: it is no safetensors file.
    """
    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{where} is damaged: it is no safetensors file ({error})") from error


def sums_of(columns: Mapping[str, Tensor]) -> Tensor:
    """CRC-32 of every block of every column, (columns in alphabetical order, blocks) int64."""
    names = sorted(columns)
    rows = len(columns[names[0]])
    found = [[_crc(columns[name][part]) for part in blocks_of(rows)] for name in names]
    return torch.tensor(found, dtype=torch.int64).reshape(len(names), -1)


def bad_blocks(columns: Mapping[str, Tensor], blocks: Sequence[int] | None = None) -> list[int]:
    """Which of the blocks of a shard (all, if none are named) do not have the sums that stand beside them."""
    sums = columns[SUMS]
    names = sorted(set(columns) - {SUMS})
    parts = blocks_of(len(columns[names[0]]))
    wanted = range(len(parts)) if blocks is None else blocks
    return [
        block for block in wanted
        if any(_crc(columns[name][parts[block]]) != int(sums[n, block]) for n, name in enumerate(names))
    ]  # fmt: skip


def blocks_of(rows: int) -> list[slice]:
    return [slice(start, min(start + BLOCK, rows)) for start in range(0, rows, BLOCK)]


def rows_in_words(blocks: Sequence[int], rows: int) -> str:
    """`rows 512–767 of 4,096`."""
    spans: list[list[int]] = []
    for block in sorted(blocks):
        start, end = block * BLOCK, min((block + 1) * BLOCK, rows) - 1
        if spans and spans[-1][1] == start - 1:
            spans[-1][1] = end
        else:
            spans.append([start, end])
    shown = ", ".join(f"{a:,}–{b:,}" for a, b in spans[:6]) + (", …" if len(spans) > 6 else "")
    return f"rows {shown} of {rows:,}"


def seal_of(header: bytes, sums: Tensor) -> str:
    return hashlib.sha256(header + sums.contiguous().numpy().tobytes()).hexdigest()[:32]


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def metadata_of(data: bytes) -> dict[str, str]:
    """What a shard says of itself: the key of its store, and the device on which the teacher answered."""
    try:
        found = json.loads(json.loads(header_of(data)[8:])["__metadata__"]["about"])
    except (ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def header_of(data: bytes | bytearray) -> bytes:
    """The length and the header of a safetensors file's bytes."""
    return bytes(data[: 8 + int.from_bytes(data[:8], "little")])


def _crc(column: Tensor) -> int:
    if not column.numel():
        return 0
    return zlib.crc32(column.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _canonical(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()

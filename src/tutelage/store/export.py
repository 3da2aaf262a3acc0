"""The answers as a Parquet file, which anybody can read without tutelage."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tutelage.errors import InputError, MissingExtraError, TutelageError
from tutelage.files import sync_folder
from tutelage.store.codecs import codec_of
from tutelage.store.layout import COUNTS, SUMS, bad_blocks
from tutelage.store.places import open_manifest, open_shard
from tutelage.store.reader import refuse_bad_blocks
from tutelage.types import Sampled, TopK

__all__ = ["export"]


def export(
    place: Path | str, out: Path, *, overwrite: bool = False, advance: Callable[[int], None] = lambda rows: None
) -> int:
    """Write every row of a store: `id` and `view`, then `logits` in float32; or, of a top-k, `values`, `indices` and
    `tail`; or, of drawn classes, `indices` and `weights`; then features, flattened. Returns the number of rows.

    The schema's metadata hold the class names, the codec and its temperature.

    Raises:
        MissingExtraError: pyarrow is not installed.
        InputError: the file exists.
        DamagedError: a row is damaged; nothing is left at `out` then.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet", purpose="the export to Parquet") from error
    if out.exists() and not overwrite:
        raise InputError(f"{out} exists", fix="choose another name, or add --overwrite")
    manifest = open_manifest(place)
    identity = manifest.identity
    codec = codec_of(identity["codec"], identity.get("temperature", 1.0))
    facts = {
        "tutelage.key": manifest.key,
        "tutelage.codec": str(identity["codec"]),
        "tutelage.temperature": str(identity.get("temperature", "")),
        "tutelage.classes": "\n".join(identity["classes"]),
    }
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    writer: Any = None
    rows = 0
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for shard in manifest.shards:
            columns = open_shard(place, shard)
            refuse_bad_blocks(shard, bad_blocks(columns))
            answers = codec.decode({n: c for n, c in columns.items() if n != SUMS}, len(identity["classes"]))
            table = {"id": columns["id"], "view": columns["view"]} | _plain(answers)
            table |= {name: value for name, value in columns.items() if name.startswith("feature/")}
            table |= {COUNTS: columns[COUNTS].bool()} if COUNTS in columns else {}
            arrow = pa.table({name: _arrow(pa, column) for name, column in table.items()})
            arrow = arrow.replace_schema_metadata(facts)
            writer = writer or pq.ParquetWriter(temporary, arrow.schema)
            writer.write_table(arrow)
            rows += shard.rows
            advance(shard.rows)
        if writer is None:
            raise InputError(f"the store {place} has no rows")
        writer.close()
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(out)
        sync_folder(out.parent)
    except OSError as error:
        raise TutelageError(f"cannot write {out}: {error.strerror or error}", fix="free some space") from error
    finally:
        temporary.unlink(missing_ok=True)
    return rows


def _plain(answers: Tensor | TopK | Sampled) -> dict[str, Tensor]:
    if isinstance(answers, TopK):
        return {"values": answers.values, "indices": answers.indices, "tail": answers.tail}
    if isinstance(answers, Sampled):
        return {"indices": answers.indices, "weights": answers.weights}
    return {"logits": answers.float()}


def _arrow(pa: Any, column: Tensor) -> Any:
    flat = column.reshape(len(column), -1)
    flat = flat.float() if flat.dtype in (torch.bfloat16, torch.float16) else flat
    values = pa.array(flat.reshape(-1).numpy())
    return values if column.ndim == 1 else pa.FixedSizeListArray.from_arrays(values, flat.shape[1])

"""IDX files, the format of MNIST and its kin: a header of big-endian sizes, then bytes; gzipped or plain."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from tutelage.errors import DamagedError, DataError
from tutelage.files import human_bytes

__all__ = ["read_idx"]

_GZIP = b"\x1f\x8b"
_UNSIGNED_BYTES = 0x08
# More than any set of this kind holds; a header that promises more is damaged, or meant to fill the memory.
_MOST_BYTES = 2**30


def read_idx(path: Path, dimensions: int) -> Tensor:
    """Read unsigned bytes with a given number of dimensions; by its first bytes, not its name, a file is gzipped.

    Raises:
        DataError: the file cannot be opened.
        DamagedError: it is truncated, altered, or of another kind.
    """
    try:
        with path.open("rb") as plain:
            zipped = plain.read(2) == _GZIP
            plain.seek(0)
            if not zipped:
                return _read(plain, dimensions, path)
            with gzip.open(plain) as unzipped:
                return _read(unzipped, dimensions, path)
    # gzip says what is wrong by an OSError too, so it comes before the errors of the file system.
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DamagedError(f"{path} is damaged: {error}", fix="get the file again") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}", where="data.path") from error


def _read(file: BinaryIO | gzip.GzipFile, dimensions: int, path: Path) -> Tensor:
    head = file.read(4 + 4 * dimensions)
    if head[:4] != bytes([0, 0, _UNSIGNED_BYTES, dimensions]):
        raise DamagedError(
            f"{path} is not an IDX file of bytes in {dimensions} dimension{'s' * (dimensions > 1)}",
            given=f"it begins with {head[:4].hex(' ') or 'nothing'}",
            expected=f"00 00 08 {dimensions:02x}",
            fix="check that images and labels are not swapped, or get the file again",
        )
    if len(head) < 4 + 4 * dimensions:
        raise DamagedError(f"{path} ends within its header", fix="get the file again")
    sizes = struct.unpack(f">{dimensions}I", head[4:])
    promised = math.prod(sizes)
    if promised > _MOST_BYTES:
        raise DamagedError(
            f"the header of {path} promises {human_bytes(promised)}",
            given=" × ".join(f"{size:,}" for size in sizes),
            expected=f"at most {human_bytes(_MOST_BYTES)}",
            fix="get the file again",
        )
    data = bytearray(file.read(promised))
    if len(data) < promised:
        raise DamagedError(
            f"{path} is truncated", given=f"{len(data):,} bytes of data", expected=f"{promised:,}", fix="get it again"
        )
    if file.read(1):
        raise DamagedError(f"{path} goes on after its data", expected=f"{promised:,} bytes", fix="get the file again")
    # An empty buffer has no address that torch would take.
    return torch.frombuffer(data, dtype=torch.uint8).reshape(sizes) if data else torch.empty(sizes, dtype=torch.uint8)

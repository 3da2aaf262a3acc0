"""IDX files, the format of MNIST and its kin: a header of big-endian sizes, then bytes; gzipped or plain."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tutelage.errors import DamagedError

__all__ = ["read_idx"]

# More than any set of this kind holds; a header that promises more is damaged or hostile.
_MOST_BYTES = 2 * 2**30


def read_idx(path: Path, dimensions: int) -> Tensor:
    """Read unsigned bytes with a given number of dimensions.

    Raises:
        DamagedError: the file is truncated, altered, or of another kind.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            raw = file.read(_MOST_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise DamagedError(f"cannot read {path}: {error}", fix="fetch the file again") from error
    head = 4 + 4 * dimensions
    if len(raw) < head or raw[:2] != b"\0\0" or raw[2] != 8 or raw[3] != dimensions:
        raise DamagedError(
            f"{path} is no IDX file of bytes",
            given=f"begins with {raw[:4].hex(' ')}",
            expected=f"00 00 08 {dimensions:02x}",
        )
    sizes = struct.unpack(f">{dimensions}I", raw[4:head])
    if len(raw) - head != math.prod(sizes):
        raise DamagedError(
            f"{path} is not complete",
            given=f"{len(raw) - head:,} bytes of data",
            expected=f"{math.prod(sizes):,} for {' × '.join(map(str, sizes))}",
            fix="fetch the file again",
        )
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=head).reshape(sizes).copy())

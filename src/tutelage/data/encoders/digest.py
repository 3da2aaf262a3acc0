"""Whether two encoders make the same inputs of a text, told without sending the encoders around."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["digest_of_reading"]

# Of tokens: what a tokenizer does stands in itself, and what is switched is for learning only.
_BESIDE: Final = frozenset({"columns", "lower", "switched"})


def digest_of_reading(encoding: Mapping[str, Any]) -> str:
    """SHA-256 over what decides which inputs an encoder makes.

    Of tokens the number of columns counts, their names do not: a text may be called title or headline.

    Args:
        encoding: an encoder's facts, as `Examples.encodings` and exported files have them.
    """
    told = dict(encoding)
    if told.get("kind") == "tokens":
        told = {key: value for key, value in told.items() if key not in _BESIDE}
        told["sides"] = len(encoding.get("columns", ()))
    text = json.dumps(told, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"reads 1 {text}".encode()).hexdigest()

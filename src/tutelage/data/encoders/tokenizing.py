"""Tokenizers of the package `tokenizers`: learned from text so that the same text gives the same one, or read."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, Final

from tutelage.errors import DamagedError, DataError, InputError, MissingExtraError, ModelError

__all__ = ["MOST_TOKENS", "SEPARATOR", "learned", "opened", "padding_of", "padding_told", "read_tokenizer"]

MOST_TOKENS: Final = 1 << 22
SEPARATOR: Final = 3  # the id of [SEP] in every vocabulary that is learned here
_SPECIAL: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")  # 0, 1, 2, 3
_MOST_GROWTH: Final = 256
_MOST_BYTES: Final = 64 << 20  # of a tokenizer.json; the largest vocabularies in use take half of it


def learned(texts: list[str], vocabulary: int, lower: bool, where: str) -> str:
    """The JSON of a tokenizer whose merges of pairs are learned from texts.

    Everything it holds follows from counts, and ties from the signs themselves: the order of texts, threads and the
    machine have no say.

    Raises:
        DataError: there is no text.
        MissingExtraError: the package is not installed.
    """
    package = _package()
    if not any(text.strip() for text in texts):
        raise DataError("there is no text to learn a vocabulary from", where=where)
    tokenizer = package.Tokenizer(package.models.BPE(unk_token=_SPECIAL[1], fuse_unk=True))
    steps = [package.normalizers.NFKC(), *([package.normalizers.Lowercase()] if lower else [])]
    tokenizer.normalizer = package.normalizers.Sequence(steps)
    cuts = package.pre_tokenizers
    tokenizer.pre_tokenizer = cuts.Sequence(
        [cuts.WhitespaceSplit(), cuts.Punctuation(), cuts.Metaspace(prepend_scheme="always")]
    )
    # Which characters are known is chosen here: the library would break ties by the order of a hash table.
    counts = Counter("▁▁")
    for text in texts:
        counts.update(tokenizer.normalizer.normalize_str(text))
    seen = (one for one, count in counts.items() if count > 1 and not one.isspace())
    signs = sorted(seen, key=lambda one: (one != "▁", -counts[one], one))[: vocabulary // 2]
    trainer = package.trainers.BpeTrainer(
        vocab_size=vocabulary, min_frequency=2, special_tokens=list(_SPECIAL), show_progress=False,
        initial_alphabet=signs, limit_alphabet=len(signs), max_token_length=32,
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = package.processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", SEPARATOR)],
    )
    made: str = tokenizer.to_str()
    return made


def opened(text: str, sides: int, length: int) -> tuple[Any, dict[str, int], int | None]:
    """A tokenizer of its JSON, set up to cut to `length` and not to pad; its tokens; the id that it says it pads with.

    Raises:
        DamagedError: that is no tokenizer.
        ModelError: it has more tokens than any in use, or nearly none.
        MissingExtraError: the package is not installed.
    """
    package = _package()
    if len(text) > _MOST_BYTES:
        raise _too_large("tokenizer")
    if _growth(text) > _MOST_GROWTH:
        raise ModelError(
            "this tokenizer makes texts many times as long before it reads them",
            expected=f"{_MOST_GROWTH} times at most", fix="use the tokenizer of a model that you trust",
        )  # fmt: skip
    try:
        tokenizer = package.Tokenizer.from_str(text)
        told = tokenizer.padding
        tokenizer.no_padding()
        tokenizer.enable_truncation(length, strategy="longest_first")
        tokenizer.encode_special_tokens = True  # a text that says "[PAD]" means these five signs
        tokenizer.encode(*["a b"] * sides)
        ids: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    except BaseException as error:  # a panic of the library is no Exception
        if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError)):
            raise
        raise DamagedError(
            "this is no tokenizer that can be used", given=" ".join(str(error).split())[:240],
            fix="write it again with save_pretrained, or copy it again",
        ) from error  # fmt: skip
    most = max(ids.values(), default=0)
    if not 2 <= most < MOST_TOKENS:
        raise ModelError(
            "a tokenizer with such ids cannot be used", given=f"ids up to {most}", expected=f"2 … {MOST_TOKENS - 1}"
        )
    return tokenizer, ids, None if told is None else int(told["pad_id"])


def _growth(text: str) -> int:
    """By how much the replacements of a tokenizer may lengthen a text; a few, one after the other, fill any memory."""
    if '"Replace"' not in text:
        return 1
    try:
        steps, growth = [json.loads(text).get("normalizer")], 1
    except (ValueError, AttributeError, RecursionError):
        return 1  # no tokenizer, as whoever reads it next will say
    while steps:
        step = steps.pop()
        if isinstance(step, list):
            steps += step
        elif isinstance(step, dict):
            steps += [one for one in step.values() if isinstance(one, (dict, list))]
            growth *= max(len(str(step.get("content", ""))), 1) if step.get("type") == "Replace" else 1
    return growth


def padding_of(ids: dict[str, int], token: str | None, told: int | None) -> int:
    """The id that a tokenizer pads with: of the token that its folder names, what it says itself, or of a usual name.

    Raises:
        ModelError: there is none.
    """
    usual = [ids[name] for name in (token, "[PAD]", "<pad>") if name is not None and name in ids]
    found = ids[token] if token in ids else told if told is not None else usual[0] if usual else -1
    if not 0 <= found <= max(ids.values()):
        raise ModelError(
            "this tokenizer has no token to pad with", given=token, expected="one that pads short texts",
            fix='name one of its tokens in tokenizer_config.json: {"pad_token": "<|endoftext|>"}',
        )  # fmt: skip
    return found


def padding_told(path: Path, name: str = "pad_token") -> str | None:
    """A special token that the settings beside a tokenizer name; None where there are no settings or no such token.

    Args:
        path: a tokenizer.json or its folder.
        name: of the setting.

    Raises:
        DamagedError: the settings are no JSON object.
    """
    settings = (path if path.is_dir() else path.parent) / "tokenizer_config.json"
    if not settings.is_file():
        return None
    try:
        token = json.loads(_text(settings)).get(name)
    except (ValueError, AttributeError, RecursionError) as error:
        raise DamagedError("tokenizer_config.json is no JSON object", where=str(settings)) from error
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None


def read_tokenizer(path: Path) -> str:
    """The text of a tokenizer.json, or of the one in a folder.

    Raises:
        InputError: there is none.
        ModelError: it is larger than any in use.
        DamagedError: it is no text.
    """
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise InputError(
            f"there is no {file.name} in {file.parent}", where="source",
            expected="a folder with tokenizer.json, as save_pretrained writes it",
        )  # fmt: skip
    return _text(file)


def _text(file: Path) -> str:
    if file.stat().st_size > _MOST_BYTES:
        raise _too_large(str(file))
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DamagedError(f"{file.name} is not UTF-8", where=str(file)) from error


def _too_large(where: str) -> ModelError:
    most = f"{_MOST_BYTES >> 20} MiB at most"
    return ModelError("this tokenizer is larger than any in use", where=where, expected=most)


def _package() -> Any:
    try:
        import tokenizers
        from tokenizers import models, normalizers, pre_tokenizers, processors, trainers  # noqa: F401  as attributes
    except ImportError as error:
        raise MissingExtraError("tokenizers", "text", purpose="text as tokens") from error
    return tokenizers

"""Text as tokens, as bytes and as ids: learned from the training part alone, the same everywhere, and made again from
what was written down."""

from __future__ import annotations

import itertools
import json
import random
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tutelage.data.encoders import encoder_of, fit
from tutelage.data.encoders.ids import fit_ids, ids_of
from tutelage.data.encoders.text import fit_plain, fit_tokens, plain_of, texts_of, tokens_of
from tutelage.data.rows import Rows
from tutelage.errors import DamagedError, DataError, InputError, MissingExtraError, ModelError, TutelageError

SYLLABLES = ["ka", "to", "ri", "mün", "x", "la", "der", "ing", "日", "本", "é"]


def column(*texts: str) -> Any:
    made = np.empty(len(texts), dtype=object)
    made[:] = texts
    return made


def rows(*texts: str, **more: Any) -> Rows:
    return Rows("texts", {"a": column(*texts), **more})


def sentences(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    words = ["".join(draw.choices(SYLLABLES, k=draw.randint(1, 4))) for _ in range(120)]
    return [
        " ".join(draw.choices(words, k=draw.randint(1, 12))).capitalize() + draw.choice(".!?") for _ in range(count)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer that pads with 1, as RoBERTa's does, and ends every text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["<s>", "<pad>", "</s>", "<unk>", "red", "green", "blue", "a", "b"]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    place = tmp_path_factory.mktemp("model")
    (place / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    (place / "tokenizer_config.json").write_text('{"pad_token": {"content": "<pad>"}}', encoding="utf-8")
    return place


# ---- tokens that are learned -----------------------------------------------------------------------------------------


def reference(texts: list[str], size: int) -> dict[str, int]:
    """Byte pairs, counted anew after every merge."""
    words: Counter[str] = Counter()
    for text in texts:
        for part in unicodedata.normalize("NFKC", text).lower().split():
            words.update("▁" + piece for piece in re.findall(r"[.!?]|[^.!?]+", part))
    counts = Counter(sign for text in texts for sign in text.lower())
    alphabet = sorted({"▁"} | {sign for sign in counts if counts[sign] > 1 and not sign.isspace()})
    vocabulary = {token: number for number, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *alphabet])}
    split = {word: [sign for sign in word if sign in vocabulary] for word in words}
    while len(vocabulary) < size:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in split.items():
            for pair in itertools.pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], vocabulary[pair[0]], vocabulary[pair[1]]))
        if pairs[best] < 2:
            break
        vocabulary.setdefault("".join(best), len(vocabulary))
        for parts in split.values():
            place = 0
            while place < len(parts) - 1:
                if (parts[place], parts[place + 1]) == best:
                    parts[place : place + 2] = ["".join(best)]
                place += 1
    return vocabulary


def test_a_vocabulary_is_that_of_byte_pairs_counted_by_hand() -> None:
    texts = sentences(80)
    found = fit_tokens(rows(*texts), ["a"], vocabulary=150, length=16)
    assert found.tokenizer.get_vocab() == reference(sorted(set(texts)), 150)
    assert found.vocabulary == 150


def test_the_same_texts_in_any_order_give_the_same_vocabulary() -> None:
    texts = sentences(300)
    first = fit_tokens(rows(*texts), ["a"], vocabulary=300).facts()
    for seed in range(3):
        shuffled = texts * 2
        random.Random(seed).shuffle(shuffled)
        assert fit_tokens(rows(*shuffled), ["a"], vocabulary=300).facts() == first


def test_tokens_stand_in_front_and_padding_behind() -> None:
    found = fit_tokens(rows(*sentences(50)), ["a"], vocabulary=100, length=12)
    told = found.encode(rows("Kato, rila!", "", "x " * 50))
    assert told.dtype == torch.int32
    assert told.shape == (3, 12)
    assert told[1].tolist() == [2, 3] + [0] * 10
    for row in told:
        count = int((row != 0).sum())
        assert bool((row[:count] > 0).all())
        assert row[0] == 2
        assert row[count - 1] == 3
    assert int((told[2] != 0).sum()) == 12
    assert int(told.max()) < found.vocabulary


def test_upper_case_counts_where_it_is_said() -> None:
    texts = rows("Rot rot ROT rOt", "rot Rot")
    both = rows("rot", "ROT")
    one = fit_tokens(texts, ["a"], vocabulary=64).encode(both)
    assert torch.equal(one[0], one[1])
    two = fit_tokens(texts, ["a"], vocabulary=64, lower=False).encode(both)
    assert not torch.equal(two[0], two[1])


def test_a_pair_is_cut_fairly_and_has_an_end_after_each() -> None:
    data = rows("a b " * 9, "a", b=column("a", "b a " * 9), c=column("b", ""))
    found = fit_tokens(data, ["a", "b", "c"], vocabulary=64, length=10)
    first, second = ((row == 3).nonzero().flatten().tolist() for row in found.encode(data))
    assert first == [6, 9]  # [CLS] and five of 18, as the other side needs but two
    assert second == [2, 9]


def test_a_text_cannot_say_what_only_the_tokenizer_says() -> None:
    data = rows("[PAD] [SEP] [CLS] [UNK]", "[pad] [sep] [cls] [unk]")
    told = fit_tokens(data, ["a"], vocabulary=64, length=64).encode(data)
    assert torch.equal(told[0], told[1])
    assert int((told[0] == 3).sum()) == 1
    assert not bool((told[0][: int((told[0] != 0).sum())] == 0).any())


def test_halves_of_characters_and_signs_never_seen_are_read_as_well() -> None:
    found = fit_tokens(rows(*sentences(50)), ["a"], vocabulary=100, length=8)
    told = found.encode(rows("\ud800 kato", "☃☃☃", "\0\0"))
    assert int((told == 1).sum()) >= 2
    assert bool((told[:, 0] == 2).all())


def test_facts_make_the_same_tokens_again() -> None:
    data = rows(*sentences(60))
    found = fit_tokens(data, ["a"], vocabulary=120, length=9)
    for again in (tokens_of(json.loads(json.dumps(found.facts()))), encoder_of(found.facts())):
        assert torch.equal(again.encode(data), found.encode(data))
        assert again.vocabulary == found.vocabulary
        assert again.facts() == found.facts()


# ---- tokens that a model brings --------------------------------------------------------------------------------------


def test_a_tokenizer_that_pads_with_another_id_changes_places_with_0(folder: Path) -> None:
    found = fit_tokens(rows("red"), ["a"], source=str(folder), length=6)
    assert (found.swap, found.vocabulary) == (1, 9)
    assert found.encode(rows("red blue", "nothing", "")).tolist() == [
        [1, 4, 6, 2, 0, 0], [1, 3, 2, 0, 0, 0], [1, 2, 0, 0, 0, 0],
    ]  # fmt: skip
    assert torch.equal(tokens_of(found.facts()).encode(rows("a b")), found.encode(rows("a b")))
    pair = fit_tokens(rows("red", b=column("a")), ["a", "b"], source=folder, length=8)
    assert pair.encode(rows("red", b=column("a b"))).tolist() == [[1, 4, 2, 2, 7, 8, 2, 0]]


def test_settings_of_the_folder_say_what_it_pads_with(folder: Path, tmp_path: Path) -> None:
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    (tmp_path / "tokenizer.json").write_text(text.replace("<pad>", "<end>"), encoding="utf-8")
    with pytest.raises(ModelError, match="no token to pad with"):
        fit_tokens(rows("red"), ["a"], source=tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"pad_token": "<end>"}', encoding="utf-8")
    assert fit_tokens(rows("red"), ["a"], source=tmp_path / "tokenizer.json").swap == 1


def spoil(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "tokenizer.json").write_text(text, encoding="utf-8") and None


def swell(folder: Path) -> None:
    with (folder / "tokenizer.json").open("wb") as file:
        file.truncate((64 << 20) + 1)


def far_ids(folder: Path) -> None:
    facts = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    facts["model"]["vocab"]["far"] = 4_000_000_000
    (folder / "tokenizer.json").write_text(json.dumps(facts), encoding="utf-8")


def grow(folder: Path) -> None:
    facts = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    step = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 99}
    facts["normalizer"] = {"type": "Sequence", "normalizers": [step] * 9}
    (folder / "tokenizer.json").write_text(json.dumps(facts), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (spoil("{"), DamagedError, "no tokenizer that can be used"),
        (spoil("[" * 100_000), DamagedError, "no tokenizer that can be used"),
        (
            spoil('{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": [["a", "b"]]}}'),
            DamagedError,
            "used",
        ),
        (swell, ModelError, "larger than any in use"),
        (far_ids, ModelError, "such ids"),
        (grow, ModelError, "many times as long"),
        (lambda folder: (folder / "tokenizer.json").write_bytes(b"\xff\xfe{}"), DamagedError, "not UTF-8"),
        (lambda folder: (folder / "tokenizer.json").unlink(), InputError, "there is no tokenizer.json"),
        (lambda folder: (folder / "tokenizer_config.json").write_text("[1]"), DamagedError, "no JSON object"),
    ],
    ids=["cut", "deep", "merges", "huge", "ids", "growth", "bytes", "none", "settings"],
)
def test_a_bad_tokenizer_is_refused(
    folder: Path, tmp_path: Path, damage: Callable[[Path], object], error: type[TutelageError], words: str
) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    damage(tmp_path)
    with pytest.raises(error) as caught:
        fit_tokens(rows("red"), ["a"], source=tmp_path)
    assert words in str(caught.value)


def test_a_tokenizer_that_meets_a_word_it_has_no_token_for_says_so(folder: Path, tmp_path: Path) -> None:
    facts = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    facts["model"] |= {"unk_token": "<none>"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(facts), encoding="utf-8")
    found = fit_tokens(rows("red"), ["a"], source=tmp_path)
    with pytest.raises(ModelError, match="cannot read these texts"):
        found.encode(rows("red", "never seen"))


@pytest.mark.parametrize(
    "change",
    [
        {"tokenizer": "{"}, {"tokenizer": 3}, {"swap": 99}, {"swap": "0"}, {"length": -1}, {"length": "9"},
        {"columns": []}, {"columns": "a"}, {"lower": None}, {"kind": "ids"},
    ],
    ids=str,
)  # fmt: skip
def test_altered_facts_of_tokens_are_told(change: dict[str, Any]) -> None:
    facts = fit_tokens(rows(*sentences(20)), ["a"], vocabulary=64).facts()
    with pytest.raises(DamagedError):
        tokens_of({**facts, **change})


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"length": 3}, InputError, "4 …"),
        ({"length": "64"}, InputError, "`length`"),
        ({"vocabulary": 8}, InputError, "32 …"),
        ({"source": "/no/such/folder"}, InputError, "there is no"),
        ({"code_switch": {"words": {}, "shares": 1}}, InputError, "did you mean `share`?"),
        ({"code_switch": {}}, InputError, "needs `words`"),
        ({"code_switch": {"words": {}, "share": 2}}, InputError, "0 … 1"),
        ({"code_switch": {"words": "/no/such.tsv"}}, InputError, "there is no file"),
    ],
    ids=lambda one: str(one) if isinstance(one, dict) else "",
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        fit_tokens(rows("red"), ["a"], **settings)
    assert words in str(caught.value)


def test_no_text_is_no_vocabulary() -> None:
    with pytest.raises(DataError, match="no text to learn"):
        fit_tokens(rows("", "  "), ["a"])
    with pytest.raises(InputError, match="there is no column `b`"):
        fit_tokens(rows("red"), ["b"])


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingExtraError, match=r"tutelage\[text\]"):
        fit_tokens(rows("red"), ["a"])


# ---- plain text ------------------------------------------------------------------------------------------------------


def test_plain_text_comes_back_as_it_was() -> None:
    texts = ["Straße, 日本語", "", "tab\tand\nline", "emoji 👩‍🚀"]
    found = fit_plain(rows(*texts), ["a"])
    told = found.encode(rows(*texts))
    assert told.dtype == torch.uint8
    assert told.shape == (4, max(len(text.encode()) for text in texts))
    assert texts_of(told) == texts
    assert found.vocabulary == 0
    assert torch.equal(plain_of(json.loads(json.dumps(found.facts()))).encode(rows(*texts)), told)


def test_plain_text_is_cut_between_characters() -> None:
    found = fit_plain(rows("é" * 50), ["a"], limit=11)
    assert texts_of(found.encode(rows("é" * 50, "aé" * 9))) == ["é" * 5, "aéaéaéa"]


def test_of_two_columns_the_longer_is_cut_first_and_a_space_joins_them() -> None:
    data = rows("abcdefghij", "abc", "", b=column("xy", "0123456789", "\x1f\0z"))
    found = fit_plain(data, ["a", "b"], limit=10)
    assert texts_of(found.encode(data)) == ["abcdefg xy", "abc 012345", "z"]


def test_what_is_learned_of_plain_text_is_its_length_in_the_training_part() -> None:
    assert fit_plain(rows("0123456789"), ["a"]).encode(rows("0" * 99)).shape == (1, 10)
    with pytest.raises(InputError, match="`limit`"):
        fit_plain(rows("a"), ["a"], limit=4)
    with pytest.raises(DamagedError):
        plain_of({"kind": "plain", "columns": ["a"], "length": 2.0})


# ---- ids -------------------------------------------------------------------------------------------------------------


def test_ids_are_numbered_from_the_most_frequent_and_the_latest_stay() -> None:
    found = fit_ids(rows("7 8 7", "9 7 8", "x"), "a", length=3)
    assert found.known == ("7", "8", "9", "x")
    told = found.encode(rows("7", "", "8 9 7 4", "4 x"))
    assert told.dtype == torch.int32
    assert told.tolist() == [[2, 0, 0], [0, 0, 0], [4, 2, 1], [1, 5, 0]]
    assert found.vocabulary == 6
    assert ids_of(json.loads(json.dumps(found.facts()))) == found
    rare = fit_ids(rows("7 8 7", "9 7 8", "x"), "a", length=3, rare=2)
    assert rare.encode(rows("9 8 7")).tolist() == [[1, 3, 2]]
    with pytest.raises(DataError, match="holds no ids"):
        fit_ids(rows("", ""), "a")
    for known in ([], ["a", "a"], [1], None):
        with pytest.raises(DamagedError):
            ids_of({**found.facts(), "known": known})


def test_numbers_of_a_column_are_ids_as_they_are_written() -> None:
    found = fit_ids(Rows("n", {"item": np.array([3.0, 3.0, 4.5, np.nan])}), "item", length=2)
    assert found.known == ("3", "4.5")


# ---- by recipe -------------------------------------------------------------------------------------------------------


def test_a_recipe_chooses_between_them() -> None:
    data = rows(*sentences(30), b=column(*["1 2"] * 30))
    kinds = [
        ({"text": ("a",), "tokens": {"vocabulary": 64, "length": 8}}, "tokens"),
        ({"text": ("a", "b"), "tokens": {}}, "tokens"),
        ({"text": ("a",)}, "plain"),
        ({"ids": "b", "length": 4}, "ids"),
    ]
    for spec, kind in kinds:
        encoder = fit(spec, data, "data.inputs.x")
        assert encoder.facts()["kind"] == kind
        assert torch.equal(encoder_of(encoder.facts()).encode(data), encoder.encode(data))

"""Sentences with some words said in another language: a function of the text and the seed, for learning only."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from tutelage.data.encoders.switching import Switch
from tutelage.data.encoders.text import fit_tokens, tokens_of
from tutelage.data.rows import Rows
from tutelage.errors import DamagedError

GERMAN = {"red": "rot", "green": ["grün"], "house": ["Haus", "Heim"]}


def test_nothing_is_switched_at_a_share_of_0_and_all_that_is_known_at_1() -> None:
    text = "The RED house, a redder green house"
    assert Switch.of_recipe({"words": GERMAN, "share": 0}).of(text) == text
    said = Switch.of_recipe({"words": GERMAN, "share": 1.0}).of(text)
    assert re.fullmatch("The rot (Haus|Heim), a redder grün (Haus|Heim)", said)


def test_half_of_the_words_are_switched_as_the_seed_says() -> None:
    texts = [f"{number} " + "red " * 20 for number in range(200)]
    one, other = (Switch.of_recipe({"words": GERMAN, "share": 0.5, "seed": seed}) for seed in (0, 1))
    counts = [one.of(text).count("rot") for text in texts]
    assert 0.47 < sum(counts) / 4000 < 0.53  # ± 3.8 standard deviations
    assert [one.of(text) for text in texts] == [one.of(text) for text in texts]
    assert [one.of(text) for text in texts] != [other.of(text) for text in texts]
    assert one.digest != other.digest


def test_a_switched_view_is_for_learning_only(tmp_path: Path) -> None:
    (tmp_path / "words.tsv").write_text("red\trot\nhouse\tHaus\n\nhouse\tHeim\n", encoding="utf-8")
    texts = [f"{word} house green" for word in ("red", "a red", "the red", "one red", "two red")]
    data = Rows("texts", {"a": np.array(texts, dtype=object)})
    found = fit_tokens(data, ["a"], vocabulary=64, code_switch={"words": str(tmp_path / "words.tsv"), "share": 1.0})
    plain = tokens_of(found.facts())
    assert found.tokenizer.decode(found.encode(data)[0].tolist()).replace(" ", "").startswith("▁rot▁h")
    assert plain.tokenizer.decode(plain.encode(data)[0].tolist()).replace(" ", "").startswith("▁red▁house")
    assert torch.equal(found.unswitched().encode(data), plain.encode(data))
    assert found.facts() != found.unswitched().facts()
    (tmp_path / "words.tsv").write_text("red rot\n", encoding="utf-8")
    with pytest.raises(DamagedError, match="line 1"):
        Switch.of_recipe({"words": str(tmp_path / "words.tsv")})

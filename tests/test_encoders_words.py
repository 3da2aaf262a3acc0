"""Words as weights: against scikit-learn, from the training part alone, and the same bits whoever else is there."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from tutelage.data.encoders.words import Words, fit_words, words_of
from tutelage.data.rows import Rows
from tutelage.errors import DamagedError, DataError, InputError

NOUNS = ["Haus", "cat", "dog", "library", "für", "manual", "tool_kit", "été", "編集", "x11", "kernel", "data"]


def documents(count: int = 120, seed: int = 0) -> Rows:
    draw = np.random.default_rng(seed)
    share = 1.0 / np.arange(1, len(NOUNS) + 1)
    chosen = [draw.choice(NOUNS, size=draw.integers(1, 12), p=share / share.sum()) for _ in range(count)]
    columns = {"title": np.empty(count, dtype=object), "body": np.empty(count, dtype=object)}
    for row, words in enumerate(chosen):
        columns["title"][row], columns["body"][row] = f"a {words[0]}", ", ".join(words) + "!"
    return Rows("texts", columns)


def again(words: Words) -> Words:
    return words_of(json.loads(json.dumps(words.facts())))


def joined(rows: Rows) -> list[str]:
    return [f"{title} {body}" for title, body in zip(rows.columns["title"], rows.columns["body"], strict=True)]


def test_weights_are_what_scikit_learn_makes_of_them() -> None:
    train, later = documents(), documents(40, seed=1)
    words = fit_words(train, ["title", "body"], features=8)
    reference = TfidfVectorizer(vocabulary=list(words.words), sublinear_tf=True, smooth_idf=True, norm="l2")
    reference.fit(joined(train))
    for rows in (train, later):
        expected = np.sqrt(8) * reference.transform(joined(rows)).toarray()
        assert np.allclose(words.encode(rows).numpy(), expected, atol=1e-6)
    usual = TfidfVectorizer(max_features=8).fit(joined(train))
    assert set(words.words) == set(usual.get_feature_names_out())
    assert words.names == words.words
    assert words.vocabulary == 0


def test_a_text_has_the_same_bits_alone_in_company_and_after_json() -> None:
    rows = documents()
    words = fit_words(rows, ["body"], features=9)
    view = words.encode(rows)
    assert view.dtype == torch.float32
    assert torch.equal(torch.cat([again(words).encode(rows.take([row])) for row in range(len(rows))]), view)
    assert again(words) == words
    turned = rows.take(np.arange(len(rows))[::-1].copy())
    assert fit_words(turned, ["body"], features=9) == words


def test_texts_without_known_words_are_zeros() -> None:
    words = fit_words(documents(), ["body"])
    strange = np.array(["", "??? a b", "unseen"], dtype=object)
    assert not words.encode(Rows("t", {"body": strange})).any()


def test_what_holds_no_words_is_said() -> None:
    rows = documents()
    for columns, features, kind in (([], 5, InputError), (["body"], 0, InputError), (["bodies"], 5, InputError)):
        with pytest.raises(kind):
            fit_words(rows, columns, features=features)
    with pytest.raises(DataError, match="no words to learn from"):
        fit_words(Rows("t", {"body": np.array(["", "a"], dtype=object)}), ["body"])


@pytest.mark.parametrize(
    "harm",
    [
        {"rarity": [1.0]},
        {"words": ["a", "a"], "rarity": [1, 1]},
        {"rarity": None},
        {"words": ["a"], "rarity": [-1]},
        {"length": 0.0},
    ],
    ids=["length", "twice", "none", "negative", "size"],
)
def test_damaged_facts_are_refused(harm: dict[str, Any]) -> None:
    facts = fit_words(documents(), ["body"], features=4).facts()
    with pytest.raises(DamagedError):
        words_of({**facts, **harm})

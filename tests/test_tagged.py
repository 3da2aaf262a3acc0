"""Words with tags, as rows for a classifier of words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tutelage import distill
from tutelage.data import from_rows
from tutelage.data.tabular import read_rows
from tutelage.errors import DataError


def test_every_word_comes_with_its_window(tmp_path: Path) -> None:
    (tmp_path / "few.conll").write_text(
        "-DOCSTART- -X- O\n\nThe DT B\ncat NN O\n\na b c d e f\n\n\nOnly\tX\n", encoding="utf-8"
    )
    rows = read_rows(tmp_path / "few.conll")
    assert rows.texts("word") == ["The", "cat", "a", "Only"]
    assert rows.texts("tag") == ["B", "O", "f", "X"]
    assert rows.texts("context") == ["_ cat", "The _", "_", "_"]
    assert rows.texts("sentence") == ["0", "0", "1", "2"]


def test_a_window_reaches_five_words_to_either_side(tmp_path: Path) -> None:
    (tmp_path / "long.conll").write_text("\n".join(f"w{place} T" for place in range(12)), encoding="utf-8")
    rows = read_rows(tmp_path / "long.conll")
    assert rows.texts("context")[6] == "w1 w2 w3 w4 w5 _ w7 w8 w9 w10 w11"


def test_a_word_without_a_tag_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "bad.conll").write_text("The DT\ncat\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 2: 'cat'"):
        read_rows(tmp_path / "bad.conll")
    (tmp_path / "none.conll").write_text("\n\n", encoding="utf-8")
    with pytest.raises(DataError, match="has no rows"):
        read_rows(tmp_path / "none.conll")


def test_a_tagger_learns_what_only_the_window_tells(tmp_path: Path) -> None:
    # "can" is a verb behind "I" and a noun behind "the": the word alone leaves it open.
    random = np.random.default_rng(0)
    lines: list[str] = []
    for _ in range(400):
        verb = random.random() < 0.5
        words = [("I", "P"), ("can", "V")] if verb else [("the", "D"), ("can", "N")]
        fillers = [f"{place}{random.integers(90)} A" for place in ("at", "on", "by")]
        lines += [f"{word} {tag}" for word, tag in words] + [*fillers, ""]
    (tmp_path / "can.conll").write_text("\n".join(lines), encoding="utf-8")
    rows = read_rows(tmp_path / "can.conll")
    data = from_rows(
        rows, label="tag", group="sentence",
        inputs={"x": {"text": ["word", "context"], "tokens": {"vocabulary": 400, "length": 16}}},
    )  # fmt: skip
    run = distill(
        {"model": "transformer", "args": {"width": 16, "depth": 1}},
        {"model": "transformer", "args": {"width": 8, "depth": 1}}, data,
        out=tmp_path / "run", epochs=6, lr=0.01, batch_size=32, quiet=True,
    )  # fmt: skip
    student = next(model for model in run.report["models"] if model["name"] == "distilled")
    assert student["metrics"]["accuracy"]["value"] > 0.95

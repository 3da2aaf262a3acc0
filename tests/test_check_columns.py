"""What `check` says of rows: whether views belong together, and whether a teacher deserves the name."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tutelage.data import from_arrays
from tutelage.recipe import from_mapping
from tutelage.run.checks import check_recipe
from tutelage.run.checks.worth import linear_share, worth_finding

_WORDS = {"billing": ["invoice", "price", "refund", "card"], "network": ["cable", "router", "signal", "slow"]}


def _table(path: Path, *, shuffled: bool) -> Path:
    random = np.random.default_rng(0)
    teams = random.choice(list(_WORDS), size=900)
    short = [" ".join(random.choice(_WORDS[team], size=3)) for team in teams]
    whole = [" ".join(random.choice([*_WORDS[team], "please", "help"], size=9)) for team in teams]
    if shuffled:
        whole = [whole[row] for row in random.permutation(len(whole))]
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["team", "short", "whole"])
        rows.writerows(zip(teams, short, whole, strict=True))
    return path


def _recipe(path: Path) -> dict[str, Any]:
    return {
        "name": "tickets", "seeds": [0], "train": {"epochs": 1},
        "data": {
            "source": "rows", "path": str(path), "label": "team",
            "inputs": {"a": {"text": "short", "tokens": {"vocabulary": 200, "length": 4}}, "b": {"text": "whole"}},
        },
        "teacher": {"model": "sklearn:tfidf", "reads": "b"}, "student": {"model": "bag", "args": {"width": 4}},
    }  # fmt: skip


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_view_that_was_joined_to_the_wrong_rows_is_noticed(tmp_path: Path, shuffled: bool) -> None:
    found = check_recipe(from_mapping(_recipe(_table(tmp_path / "t.csv", shuffled=shuffled)))).findings
    said = {finding.title: finding for finding in found}
    assert said["view a"].level == "ok"
    assert said["view b"].level == ("warning" if shuffled else "ok")
    assert ("right ones?" in (said["view b"].fix or "")) is shuffled
    assert "tokens of" in said["inputs"].text


def test_a_linear_model_is_the_least_that_a_teacher_must_reach() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(1200, 6)).astype(np.float32)
    said = x[:, 0] + 0.1 * random.normal(size=1200)
    splits = from_arrays(x, (said > 0).astype(np.int64), val=0.2, test=0.2)
    share = linear_share(splits.train, splits.val)
    assert share is not None
    assert 0.9 < share < 1.0
    found = [worth_finding("teacher", splits.train, splits.val, one) for one in (0.8, share, 1.0)]
    assert [one.level for one in found if one is not None] == ["warning", "notice", "ok"]
    # Where the sign of a product decides, no line does better than chance.
    y = torch.from_numpy((x[:, 0] * x[:, 1] > 0).astype(np.int64))
    bent = from_arrays(x, y, val=0.2, test=0.2)
    poor = linear_share(bent.train, bent.val)
    assert poor is not None
    assert poor < 0.65

"""The comparison with other frameworks: that it asks those that are there, and can tell a difference from rounding."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tutelage import losses

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def script() -> Iterator[dict[str, object]]:
    names = ("agreement_pairs", "agreement_frameworks", "agreement")
    sys.path.insert(0, str(FOLDER))
    yield {name: importlib.import_module(name) for name in names}
    sys.path.remove(str(FOLDER))
    for name in names:
        del sys.modules[name]


def test_torch_has_the_same_or_what_the_reason_says(script, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "agreement.md"
    found = script["agreement"].main(["--draws", "3", "--only", "torch", "--out", str(page)])
    (torch_,) = found
    assert torch_.version == torch.__version__
    assert len(torch_.rows) >= 8
    for row in torch_.rows:
        assert max(row.value, row.gradient) < 1e-12, row.pair.name
        assert (row.plain > 0.01) is bool(row.pair.reason), row.pair.name
    text = page.read_text(encoding="utf-8")
    assert f"Of {len(torch_.rows)} pairs" in text
    assert "| torch " in text
    assert "and 0 agree no further" in " ".join(text.split())
    assert "largest deviation that no reason covers" in capsys.readouterr().out


def test_what_is_not_installed_is_left_out_by_name(script, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = script["agreement"].ask("no-such-framework", list, 1, None)
    assert (compared.rows, compared.absent) == ((), "not installed")


def test_what_cannot_be_read_says_why(script) -> None:
    def broken() -> Iterator[None]:
        raise ImportError("no AdamW\nmore")
        yield

    compared = script["agreement"].ask("torch", broken, 1, None)
    assert compared.absent == "cannot be read here: no AdamW"


def test_a_wrong_reason_shows(script) -> None:
    pairs = script["agreement_pairs"]
    their = lambda x: 2 * losses.logit_mse(x.student, x.teacher)  # noqa: E731
    wrong = pairs.Pair("theirs", "logit_mse", their, "three times ours", lambda v, x: 3 * v)
    right = pairs.Pair("theirs", "logit_mse", their, "twice ours", lambda v, x: 2 * v)
    row = script["agreement"].compared(wrong, 3, pairs.draw)
    assert row.plain == pytest.approx(1 / 2)
    assert row.value == pytest.approx(1 / 3)
    assert row.gradient == pytest.approx(1 / 3)
    row = script["agreement"].compared(right, 3, pairs.draw)
    assert max(row.value, row.gradient) < 1e-15


def test_a_gradient_alone_shows_as_well(script) -> None:
    pairs = script["agreement_pairs"]
    held = pairs.Pair("theirs", "hint", lambda x: losses.hint(x.s_maps[1].detach(), x.t_maps[1]) + 0 * x.student.sum())
    row = script["agreement"].compared(held, 2, pairs.draw)
    assert row.value == 0.0
    assert row.gradient == 1.0


def test_every_loss_that_is_called_is_ours(script) -> None:
    pairs = script["agreement_pairs"]
    x = pairs.draw(0)
    for name, call in pairs.OURS.items():
        assert name in losses.__all__
        value = call(x)
        assert value.shape == ()
        assert torch.isfinite(value)

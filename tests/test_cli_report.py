"""`tutelage report`: pages made again from report.json, and every number in it held against the saved answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from command_line import call
from scored_runs import make_run
from test_bench import RECIPE
from tutelage.recipe import from_mapping
from tutelage.run import run_recipe

PAGES = ("report.html", "README.md", "report.json")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("report") / "run", (0, 1), compress=("int8",))


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def alter(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    report = json.loads((folder / "report.json").read_text())
    change(report)
    (folder / "report.json").write_text(json.dumps(report))


def test_a_run_that_was_trained_gets_the_same_three_files_again(tmp_path: Path) -> None:
    folder = run_recipe(from_mapping(RECIPE), tmp_path / "run", quiet=True).folder
    before = contents(folder)
    for page in ("report.html", "README.md"):
        (folder / page).unlink()
    for _ in range(2):
        done = call("report", str(folder))
        assert (done.code, done.err) == (0, "")
        assert done.out.splitlines() == [
            "every number that answers tell follows from the saved ones",
            f"report: {folder / 'report.html'}",
        ]
        assert contents(folder) == before


def test_numbers_that_agree_leave_the_report_as_it_is(copy: Path, finished: Path) -> None:
    for _ in range(2):
        assert call("report", str(copy)).code == 0
        assert contents(copy) == contents(finished)


def test_a_number_altered_by_hand_is_found_and_nothing_is_written(copy: Path, finished: Path) -> None:
    alter(copy, lambda report: report["models"][2]["metrics"]["accuracy"].update(value=0.999))
    before = contents(copy)
    refused = call("report", str(copy))
    assert refused.code == 5
    assert "models.distilled.metrics.accuracy.value: 0.999, by the answers 0." in refused.err
    assert "--accept" in refused.err
    assert contents(copy) == before
    done = call("report", str(copy), "--accept")
    assert done.code == 0
    assert "models.distilled.metrics.accuracy.value: 0.999" in done.out
    assert contents(copy) == contents(finished)
    again = call("report", str(copy), "--accept")
    assert again.out.splitlines()[0] == "every number that answers tell follows from the saved ones"
    assert contents(copy) == contents(finished)


def test_another_machines_last_digit_is_no_difference_and_stays(copy: Path) -> None:
    found: dict[str, float] = {}

    def change(report: dict[str, Any]) -> None:
        nll = report["models"][2]["metrics"]["nll"]
        found["nll"] = nll["value"] = float(np.nextafter(nll["value"], 9))

    alter(copy, change)
    assert call("report", str(copy)).out.startswith("every number that")
    assert json.loads((copy / "report.json").read_text())["models"][2]["metrics"]["nll"]["value"] == found["nll"]


def test_a_report_of_another_version_is_not_called_altered(copy: Path) -> None:
    def change(report: dict[str, Any]) -> None:
        report["versions"]["tutelage"] = "0.0.7"
        report["methods"]["ece"] = "as it was then"

    alter(copy, change)
    refused = call("report", str(copy))
    assert refused.code == 5
    assert "methods.ece: as it was then, by the answers" in refused.err
    assert "tutelage 0.0.7 wrote it" in refused.err
    assert call("report", str(copy), "--accept").code == 0
    assert json.loads((copy / "report.json").read_text())["versions"]["tutelage"] == "0.0.7"


def test_many_differences_are_cut_after_the_first_twelve(copy: Path) -> None:
    def change(report: dict[str, Any]) -> None:
        for row in report["per_class"]:
            row["recall"] = dict.fromkeys(row["recall"], 0.123)

    alter(copy, change)
    refused = call("report", str(copy))
    assert refused.code == 5
    assert refused.err.count("0.123") == 12
    assert "and 8 more" in refused.err  # four classes, five models


def test_answers_that_are_missing_or_altered_are_named(copy: Path) -> None:
    path = copy / "eval" / "scratch-seed-1.npz"
    with np.load(path) as saved:
        arrays = dict(saved)
    np.savez(path, **arrays | {"logits": arrays["logits"] + 1})
    altered = call("report", str(copy), "--accept")
    assert altered.code == 5
    assert "scratch-seed-1.npz holds other answers" in altered.err
    path.unlink()
    missing = call("report", str(copy))
    assert missing.code == 5
    assert "scratch-seed-1.npz" in missing.err
    shutil.rmtree(copy / "eval")
    gone = call("report", str(copy))
    assert gone.code == 5
    assert "--pages" in gone.err


def test_pages_come_from_the_report_alone(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    shutil.copy(finished / "report.json", tmp_path / "copy")
    done = call("report", str(tmp_path / "copy"), "--pages")
    assert done.code == 0
    assert "report.html" in done.out
    assert contents(tmp_path / "copy") == {name: (finished / name).read_bytes() for name in sorted(PAGES)}
    both = call("report", str(tmp_path / "copy"), "--pages", "--accept")
    assert both.code == 2
    assert "Traceback" not in both.err


def test_a_report_of_an_earlier_version_gets_its_pages(copy: Path) -> None:
    alter(copy, lambda report: report.pop("baseline_method"))
    (copy / "report.html").unlink()
    done = call("report", str(copy))
    assert done.code == 0
    assert "only the pages" in done.out
    assert (copy / "report.html").is_file()


def test_what_is_no_report_is_refused(finished: Path, tmp_path: Path) -> None:
    missing = call("report", str(tmp_path))
    assert missing.code == 2
    assert "no finished run" in missing.err
    old = json.loads((finished / "report.json").read_text()) | {"format": "tutelage-report-0"}
    for text in (json.dumps(old), "{", "[]"):
        (tmp_path / "report.json").write_text(text)
        refused = call("report", str(tmp_path))
        assert refused.code == 5
        assert "Traceback" not in refused.err
        assert not (tmp_path / "report.html").exists()

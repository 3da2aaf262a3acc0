"""`tutelage report`: the pages of a run are views of its report.json, and can be made again from it alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from command_line import call
from test_bench import RECIPE
from tutelage.recipe import from_mapping
from tutelage.run import run_recipe


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_recipe(from_mapping(RECIPE), tmp_path_factory.mktemp("report") / "run", quiet=True).folder


def test_the_same_pages_come_from_the_report_alone(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    shutil.copy(finished / "report.json", tmp_path / "copy")
    done = call("report", str(tmp_path / "copy"))
    assert done.code == 0
    assert "report.html" in done.out
    for name in ("report.html", "README.md", "report.json"):
        assert (tmp_path / "copy" / name).read_bytes() == (finished / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == ["README.md", "report.html", "report.json"]


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

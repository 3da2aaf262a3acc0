"""docs/extending.md, done as it is written: its files written, its changes made to a copy, its commands typed."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import tutelage
from foreign_parts import install

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "extending.md"
SOURCE = Path(tutelage.__file__).parents[1]
COPIED = ["tests/test_losses_contract.py", "tests/reference_losses.py", "benchmarks/methods.py", "pyproject.toml"]


class Block(NamedTuple):
    """A fenced block of the page: its language, what its text is to a file, and the file."""

    language: str
    does: str
    file: str
    text: str


def blocks() -> Iterator[Block]:
    pattern = r"^```(\w+)(?: (file|append)=(\S+))?\n(.*?)^```$"
    for language, does, file, text in re.findall(pattern, PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        yield Block(language, does, file, text)


def changed(text: str, change: str) -> str:
    """A text after a change of which context and removals must be there exactly once."""
    before = "".join(line[1:] for line in change.splitlines(keepends=True) if line[0] in " -")
    after = "".join(line[1:] for line in change.splitlines(keepends=True) if line[0] in " +")
    assert text.count(before) == 1, f"the page changes what is not there:\n{before}"
    return text.replace(before, after)


def environment(*folders: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders)), "COLUMNS": "200", "TUTELAGE_LANG": "en"}


# ---- in the catalogue ------------------------------------------------------------------------------------------------


def test_a_loss_enters_the_catalogue_by_the_changes_that_are_shown(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(SOURCE / "tutelage", copy / "src" / "tutelage")
    for name in COPIED:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy / name)
    touched = set()
    for block in blocks():
        if block.does == "append" or block.language == "diff":
            path = copy / block.file
            text = path.read_text(encoding="utf-8")
            text = changed(text, block.text) if block.language == "diff" else f"{text}\n\n{block.text}"
            path.write_text(text, encoding="utf-8")
            touched.add(block.file)
    assert len(touched) == 5
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_losses_contract.py", "-k", "total_variation"]
    done = subprocess.run(
        [sys.executable, *words], cwd=copy, env=environment(copy / "src"), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout[-3000:]
    (passed,) = re.findall(r"^(\d+) passed, \d+ deselected", done.stdout, re.MULTILINE)
    assert int(passed) > 40  # the whole contract, and the equation once more
    rows = (copy / "benchmarks" / "methods.py").read_text(encoding="utf-8")
    compile(rows, "methods.py", "exec")
    assert '_soft("total_variation")' in rows


@pytest.mark.parametrize("gone", ["tests/test_losses_contract.py", "tests/reference_losses.py"])
def test_a_change_that_does_not_fit_is_noticed(gone: str) -> None:
    # What the test above rests on: a page that speaks of lines that are not there cannot pass.
    made = [block for block in blocks() if block.file == gone and block.language == "diff"]
    for block in made:
        with pytest.raises(AssertionError, match="what is not there"):
            changed("", block.text)
    with pytest.raises(AssertionError, match="what is not there"):
        changed("a\na\n", "-a\n+b\n")
    assert changed("a\nb\nc\n", " a\n+x\n b\n") == "a\nx\nb\nc\n"


# ---- in a recipe and in a package ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of the page, and the package of the page as an installer would leave it."""
    folder = tmp_path_factory.mktemp("desk")
    for block in blocks():
        if block.does == "file" and block.language != "diff":
            path = folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
    project = folder / "log-cosh"
    about = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    (module,) = about["tool"]["setuptools"]["py-modules"]
    source = (project / f"{module}.py").read_text(encoding="utf-8")
    offers = about["project"]["entry-points"]["tutelage.losses"]
    install(folder / "site", about["project"]["name"], about["project"]["version"], module, source, offers)
    return folder


def commands() -> list[tuple[str, str]]:
    found = []
    for block in blocks():
        if block.language == "sh":
            for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
                command, _, shown = part.partition("\n")
                found.append((command, shown))
    return found


@pytest.mark.parametrize(("command", "shown"), commands(), ids=[command for command, _ in commands()])
def test_a_command_prints_what_the_page_shows(desk: Path, command: str, shown: str) -> None:
    words = shlex.split(command)
    folders = [desk / "site", SOURCE]
    if words[0] == "PYTHONPATH=.":
        words, folders = words[1:], [desk, *folders]
    assert words[0] == "tutelage"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", *words], cwd=desk, env=environment(*folders), capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == (2 if shown.startswith("error: ") else 0), done.stderr[-3000:]
    printed = (done.stdout + done.stderr).splitlines()
    place = 0
    for line in filter(None, (one.strip() for one in shown.splitlines())):
        # "…" stands for anything, a line of it for any lines; lines come in the order in which they are shown.
        pattern = re.compile(".*".join(re.escape(piece) for piece in line.split("…")))
        place = next((n for n in range(place, len(printed)) if pattern.search(printed[n])), len(printed))
        assert place < len(printed), f"{command} does not print: {line}\n{done.stdout}"
    if words[1] == "run" and done.returncode == 0:
        report = json.loads((desk / words[words.index("--out") + 1] / "report.json").read_text(encoding="utf-8"))
        assert {"log-cosh", "my_losses:squared_probabilities"} & set(report["versions"])

"""Documentation that cannot rot: blocks of code are run, made pages are made again, and links lead somewhere."""

from __future__ import annotations

import doctest
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tutelage import losses
from tutelage.losses import chunking

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/recipes/*.md")]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def ids(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=ids)
def test_python_blocks_run(page: Path, tmp_path: Path) -> None:
    # One namespace for a page, as a reader would type it; in a process of its own, as a reader would start it.
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks(page, "python")), encoding="utf-8")
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "console")], ids=ids)
def test_console_blocks_do_what_they_show(page: Path, tmp_path: Path) -> None:
    for block in blocks(page, "yaml"):
        # A recipe whose first line is its name is there when commands are typed.
        if name := re.match(r"# (\w+\.yaml)\n", block):
            (tmp_path / name[1]).write_text(block, encoding="utf-8")
    typed = 0
    for block in blocks(page, "console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            words = shlex.split(command, comments=True)
            assert words[0] == "tutelage", f"only tutelage is typed in console blocks: {command}"
            done = subprocess.run(
                [sys.executable, "-m", *words], cwd=tmp_path, capture_output=True, text=True, timeout=300,
                env=os.environ | {"COLUMNS": "200"},
            )  # fmt: skip
            assert done.returncode == 0, done.stderr[-3000:]
            for line in filter(None, (one.strip() for one in shown.splitlines())):
                # "…" stands for anything.
                pattern = ".*".join(re.escape(piece) for piece in line.split("…"))
                assert re.search(pattern, done.stdout + done.stderr), f"{command} does not print: {line}"
            typed += 1
    assert typed


def _generator():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["methods.md", "commands.md", "recipes.md"])
def test_made_pages_are_up_to_date(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    made = _generator().PAGES[name]()
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == made, "run: python docs/generate.py"


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_loss_and_every_command_is_documented() -> None:
    methods = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    for name in losses.__all__:
        assert f"## {name}\n" in methods


@pytest.mark.parametrize("name", losses.__all__)
def test_examples_of_losses_print_what_they_show(name: str) -> None:
    loss = getattr(losses, name)
    finder = doctest.DocTestFinder(recurse=False)
    cases = finder.find(loss, name, globs=dict(vars(losses)))
    assert sum(len(case.examples) for case in cases) >= 2
    runner = doctest.DocTestRunner(verbose=False)
    for case in cases:
        assert runner.run(case).failed == 0


def test_example_of_chunking() -> None:
    assert doctest.testmod(chunking).failed == 0

"""What there is to choose from, as the command line lists it, and that asking costs nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

import tutelage
from tutelage import cli, losses
from tutelage.combinations import FAMILIES
from tutelage.models import NETS
from tutelage.recipe import builtin_recipes, from_text

OTHER_WAYS = {"hf:TYPE", "hf:/FOLDER", "package.module:function"}
COMBINATIONS = {name for family in FAMILIES.values() for name in family}
LISTS = {
    "methods": set(losses.__all__) | COMBINATIONS,
    "models": set(NETS) | OTHER_WAYS,
    "recipes": set(builtin_recipes()),
}


def call(*words: str) -> object:
    """The command line in this process; the exit code."""
    with patch.object(sys, "argv", ["tutelage", *words]), pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code


def shown(out: str) -> dict[str, str]:
    """Names with their lines; between them stand headings, alone on a line."""
    return dict(line.split("  ", 1) for line in out.splitlines() if "  " in line)


def test_losses_stand_under_what_they_work_on(capsys: pytest.CaptureFixture[str]) -> None:
    call("methods")
    headings = [line for line in capsys.readouterr().out.splitlines() if line.endswith(":") and "  " not in line]
    assert headings[:2] == ["labels and logits:", "several labels at once, and numbers:"]
    assert "relations between examples:" in headings
    assert headings[-len(FAMILIES) :] == [f"{family}:" for family in FAMILIES]
    assert "others:" not in headings  # every file of losses has a family


@pytest.mark.parametrize("kind", LISTS)
def test_a_listing_has_one_line_for_each(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(kind) == 0
    out, err = capsys.readouterr()
    lines = shown(out)
    assert set(lines) == LISTS[kind]
    assert all(line.strip() for line in lines.values())
    assert err == ""


@pytest.mark.parametrize("kind", LISTS)
def test_a_listing_for_programs_says_the_same(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    call(kind)
    lines = shown(capsys.readouterr().out)
    assert call(kind, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {name: line.strip() for name, line in lines.items()}


@pytest.mark.parametrize("kind", LISTS)
def test_each_entry_is_shown_by_its_name(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name in LISTS[kind]:
        assert call(kind, name) == 0
        text = capsys.readouterr().out
        assert call(kind, name, "--json") == 0
        entry = json.loads(capsys.readouterr().out)
        assert set(entry) == {"name", "line", "text", "family"}
        assert entry["name"] == name
        assert entry["line"].strip()
        assert text == entry["text"] + "\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["methods", "soft_targt"], ["no method `soft_targt`", "did you mean `soft_target`?"]),
        (["methods", "zzz"], ["no method `zzz`", "known names: activation_boundary, "]),
        (["models", "transfomer"], ["no model `transfomer`", "did you mean `transformer`?"]),
        (["recipes", "digit"], ["no recipe `digit`", "did you mean `digits`?"]),
        (["methods", "--jsn"], ["No such option '--jsn'", "hint: see `tutelage methods --help`"]),
        (["schema", "digits"], ["unexpected extra argument (digits)", "hint: see `tutelage schema --help`"]),
    ],
)
def test_what_is_not_there(words: list[str], says: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert len(err.splitlines()) <= 3
    for said in says:
        assert said in err


def test_a_method_is_shown_with_all_that_a_choice_needs(capsys: pytest.CaptureFixture[str]) -> None:
    for name in losses.__all__:
        call("methods", name)
        text = capsys.readouterr().out
        for part in ("Equation:", "Reads: ", "Defaults: ", "Cost: ", f"- loss: {name}"):
            assert part in text, name
    for name in COMBINATIONS:
        call("methods", name)
        text = capsys.readouterr().out
        for part in ("Equation:\n", "Use:\n", "Defaults: ", "Cost: ", "Reference:\n"):
            assert part in text, name
        assert "In a recipe:\n" in text or "On the command line:\n" in text


@pytest.mark.parametrize(
    ("said", "name"),
    [("DKD", "decoupled"), ("dml", "deep_mutual"), ("TinyBERT", "tiny_bert"), ("Tf-KD_self", "teacher_free_self")],
)
def test_a_method_is_found_by_the_name_that_papers_use(
    said: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("methods", said) == 0
    shown_so = capsys.readouterr().out
    assert call("methods", name) == 0
    assert capsys.readouterr().out == shown_so


def test_a_name_that_several_methods_have_in_papers_says_which(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("methods", "MobileBERT") == 2
    assert "papers call these so: attention_kl, hidden_mse" in capsys.readouterr().err
    assert call("recipes", "DKD") == 2
    assert call("methods", "C") == 2  # what stands in brackets behind shapes is no name


def test_a_recipe_that_is_printed_can_be_run(capsys: pytest.CaptureFixture[str]) -> None:
    for name in builtin_recipes():
        call("recipes", name)
        assert from_text(capsys.readouterr().out).name == name


def test_the_schema_is_one_that_editors_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("schema") == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert set(schema["required"]) == {"name", "data", "train"}  # and one or several teachers, and students
    assert schema["additionalProperties"] is False


def test_the_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--version") == 0
    assert capsys.readouterr().out == f"tutelage, version {tutelage.__version__}\n"


def in_a_process(*words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(tutelage.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-W", "error", *words]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)


WATCHED = """
import atexit, sys
heavy = ("torch", "numpy", "pydantic", "sklearn", "scipy", "rich", "transformers")
atexit.register(lambda: print("loaded:", *(name for name in heavy if name in sys.modules)))
from tutelage.cli import main
main()
"""


@pytest.mark.parametrize(
    ("words", "code", "loaded"),
    [
        (["--help"], 0, ""),
        ([], 0, ""),
        (["--version"], 0, ""),
        (["run", "--help"], 0, ""),
        (["data", "--help"], 0, ""),
        (["rnu"], 2, ""),
        (["schema"], 0, " pydantic"),
        (["recipes"], 0, " pydantic"),
        (["run", "digist"], 2, " pydantic"),
        (["run", "digits", "--set", "train.lr=fast"], 2, " pydantic"),
    ],
)
def test_nothing_heavy_is_loaded_before_it_is_needed(words: list[str], code: int, loaded: str) -> None:
    done = in_a_process("-c", WATCHED, *words)
    assert done.returncode == code
    assert done.stdout.splitlines()[-1].strip() == f"loaded:{loaded}"


def test_a_reader_that_goes_away_is_nobody_s_fault() -> None:
    script = f"{sys.executable} -m tutelage methods | head -c 5; echo; echo ${{PIPESTATUS[0]}}"
    path = str(Path(tutelage.__file__).parents[1])
    done = subprocess.run(
        ["bash", "-c", script], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.stdout == "label\n0\n"
    assert done.stderr == ""

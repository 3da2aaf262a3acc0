"""The public surface: what is exported is what is promised, and importing is cheap and quiet."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import tutelage

ROOMS = [
    "data", "evaluation", "export", "losses", "models", "recipe", "report", "run", "serve", "store", "teachers",
    "training",
]  # fmt: skip


def test_the_top_level_names() -> None:
    assert sorted(tutelage.__all__) == tutelage.__all__ == [
        "Batch", "Distiller", "Objective", "Outputs", "Run", "Sampled", "Step", "Term", "TopK", "distill", "iterate",
        "personalise", "run_recipe",
    ]  # fmt: skip
    for name in tutelage.__all__:
        assert getattr(tutelage, name).__name__ == name
    assert set(tutelage.__all__) <= set(dir(tutelage))
    with pytest.raises(AttributeError, match="no attribute 'distil'"):
        tutelage.distil  # noqa: B018


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_export_what_they_list(room: str) -> None:
    module = importlib.import_module(f"tutelage.{room}")
    assert len(set(module.__all__)) == len(module.__all__) > 0
    for name in module.__all__:
        assert hasattr(module, name)


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import tutelage", {"torch", "numpy", "pydantic", "yaml", "sklearn", "scipy", "rich"}),
        ("import tutelage.cli", {"torch", "numpy", "pydantic", "yaml", "sklearn", "scipy", "rich"}),
        ("import tutelage.recipe; tutelage.recipe.load('digits')", {"torch", "sklearn", "scipy"}),
        ("import tutelage.run", {"sklearn", "transformers", "lightning_fabric", "rich", "PIL", "matplotlib", "pandas"}),
    ],
)
def test_imports_stay_light(statement: str, absent: set[str]) -> None:
    code = f"{statement}\nimport sys\nprint(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert not absent & set(done.stdout.split())


def test_version_is_the_installed_one() -> None:
    from importlib import metadata

    assert metadata.version("tutelage") == tutelage.__version__

"""The built-in recipes on words, tables and sounds: each run, small, on made-up data in the form of the real ones."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np

from tutelage.data.sets import packed
from tutelage.recipe import load
from tutelage.run import run_recipe

SMALL = ["seeds=[0]", "train.epochs=1", "train.batch_size=16", "report.latency=false", "report.bootstrap=100"]


def ran(name: str, path: Path, *changes: str) -> dict[str, dict[str, object]]:
    """The models of a recipe's report by name, where its data lie at this path."""
    recipe = load(name, [f"data.path={path}", *SMALL, *changes])
    run_recipe(recipe, path.parent / "run", store=path.parent / "store", quiet=True)
    report = json.loads((path.parent / "run" / "report.json").read_text(encoding="utf-8"))
    assert {model["name"] for model in report["models"]} == {"teacher"} | {
        f"{student}.{arm}" for student in recipe.students for arm in recipe.arms
    }
    return {model["name"]: model for model in report["models"]}


def test_deep_to_shallow_reads_words(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    topics = {
        "games": ["play", "level", "score"],
        "net": ["socket", "packet", "host"],
        "doc": ["manual", "page", "read"],
    }
    path = tmp_path / "texts.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "area", "source"])
        for number in range(150):
            area = list(topics)[number % 3]
            rows.writerow(
                [" ".join(draw.choice([*topics[area], "the", "a", "tool"], 8)) + f" n{number}", area, f"s{number // 2}"]
            )
    models = ran("deep-to-shallow", path, "data.source=rows", "teacher.train.epochs=2", "teacher.args.width=16")
    words = models["linear.scratch"]["parameters"]
    assert isinstance(words, int)
    assert words % 3 == 0  # a weight for each word and class, and a bias
    assert words > 3 * 20


def test_flights_are_told_by_trees(tmp_path: Path) -> None:
    draw, count = np.random.default_rng(0), 400
    recipe = load("flights")
    numbers, categories = recipe.data.inputs["columns"].numbers, recipe.data.inputs["columns"].categories
    columns = {name: draw.normal(size=count) for name in numbers}
    columns["wind_gust"][::3] = np.nan
    for name in (*categories, "date", "arrival"):
        columns[name] = np.empty(count, dtype=object)
    for name in categories:
        columns[name][:] = draw.choice(["A", "B", "C"], count).tolist()
    columns["date"][:] = [f"2013-01-{1 + row % 28:02d}" for row in range(count)]
    columns["arrival"][:] = np.where(columns["temp"] + (columns["carrier"] == "A") > 0.5, "late", "on time").tolist()
    folder = tmp_path / "set"
    folder.mkdir()
    packed.save(folder / "flights.npz", columns)
    models = ran("flights", folder, "teacher.args.max_iter=5")
    assert models["linear.distilled"]["parameters"] == 2 * (len(numbers) + 1 + 3 * len(categories) + 1)
    accuracy = models["teacher"]["metrics"]["accuracy"]["value"]
    assert accuracy > 0.8  # the trees saw the column that decides


def test_spoken_digits_are_heard_moment_by_moment(tmp_path: Path) -> None:
    draw, times = np.random.default_rng(0), np.arange(2000) / 8000
    sounds, digits, voices = [], [], []
    for voice in range(12):
        for digit in range(3):
            tone = np.sin(2 * np.pi * (300 + 700 * digit + 10 * voice) * times) + draw.normal(0, 0.1, 2000)
            sounds.append((8000 * tone).astype(np.int16))
            digits.append(str(digit))
            voices.append(f"v{voice}")
    folder = tmp_path / "set"
    folder.mkdir()
    packed.save(folder / "digits.npz", {
        "sound": np.stack(sounds), "digit": np.array(digits, dtype=object), "voice": np.array(voices, dtype=object),
    })  # fmt: skip
    models = ran(
        "spoken-digits", folder, "teacher.train.epochs=10", "teacher.train.batch_size=8", "teacher.args.width=8"
    )
    accuracy = models["teacher"]["metrics"]["accuracy"]["value"]
    assert accuracy > 0.5  # of voices that it has never heard; chance is a third

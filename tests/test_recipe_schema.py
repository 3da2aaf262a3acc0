"""What a recipe may say, and what is said about one that is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.errors import InputError, RecipeError
from tutelage.recipe import (
    RESUMABLE,
    Recipe,
    ScheduleSpec,
    Train,
    builtin_recipes,
    check_names,
    diff,
    dump,
    from_mapping,
    from_text,
    json_schema,
    load,
    train_settings,
)
from tutelage.words import answers_elsewhere

GOOD = """\
name: first
seeds: [0]
data:
  source: digits
  views: {flip: 0.5}
teacher:
  model: cnn
  train:
    epochs: 2
student:
  model: mlp
arms:
  distilled:
    - loss: soft_target
      weight: 0.9
      temperature: 4
train:
  epochs: 3
  lr: 0.01
"""


def smallest() -> dict[str, Any]:
    return {
        "name": "first",
        "data": {"source": "digits"},
        "teacher": {"model": "cnn", "weights": "teacher.safetensors"},
        "student": {"model": "mlp"},
        "train": {"epochs": 1},
    }


def message(text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_text(text, *overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


def load_text(text: str, *overrides: str) -> Recipe:
    Path("recipe.yaml").write_text(text, encoding="utf-8")
    return load("recipe.yaml", overrides)


@pytest.fixture(autouse=True)
def _in_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# Each row is the good recipe with one text replaced by another, and the whole message.
WRONG = {
    "unknown key": (
        "temperature: 4",
        "temprature: 4",
        "unknown key `temprature` (recipe.yaml:16)\nhint: did you mean `temperature`?",
    ),
    "unknown key, nothing near": (
        "seeds: [0]",
        "qqq: 1",
        "unknown key `qqq` (recipe.yaml:2)\n"
        "hint: known names: arms, combine, compress, data, device, export, name, report, seeds, student, students, "
        "teacher, …",
    ),
    "right key, wrong level": (
        "name: first\n",
        "name: first\nepochs: 4\n",
        "`epochs` belongs under `train:` or `teacher.train:` (recipe.yaml:2)",
    ),
    "a term's key among training": (
        "  lr: 0.01",
        "  temperature: 4",
        "`temperature` belongs under `teacher.store:` or `arms.<arm>:` (recipe.yaml:19)",
    ),
    "a name of other tools": (
        "  lr: 0.01",
        "  learning_rate: 1",
        "unknown key `learning_rate` (recipe.yaml:19)\nhint: did you mean `lr`?",
    ),
    "alpha": (
        "lr: 0.01",
        "alpha: 1.5",
        "unknown key `alpha` (recipe.yaml:19)\nhint: did you mean `weight`, under `arms.<arm>:`?",
    ),
    "an optimizer's argument": (
        "  lr: 0.01",
        "  weight_decay: 0.1",
        "unknown key `weight_decay` (recipe.yaml:19)\nhint: write optimizer_args: {weight_decay: …}",
    ),
    "text for a number": ("lr: 0.01", "lr: fast", "`train.lr`: expected a number > 0, got 'fast' (recipe.yaml:19)"),
    "quoted number": ("lr: 0.01", "lr: '0.01'", "`train.lr`: expected a number > 0, got '0.01' (recipe.yaml:19)"),
    "boolean for a number": ("lr: 0.01", "lr: true", "`train.lr`: expected a number > 0, got true (recipe.yaml:19)"),
    "code": (
        "lr: 0.01",
        "lr: __import__('os').system('x')",
        "`train.lr`: expected a number > 0, got \"__import__('os').system('x')\" (recipe.yaml:19)",
    ),
    "negative": ("lr: 0.01", "lr: -0.1", "`train.lr`: expected a number > 0, got -0.1 (recipe.yaml:19)"),
    "zero": ("lr: 0.01", "lr: 0", "`train.lr`: expected a number > 0, got 0 (recipe.yaml:19)"),
    "nan": ("lr: 0.01", "lr: .nan", "`train.lr`: expected a number > 0, got .nan (recipe.yaml:19)"),
    "nan as a word": ("lr: 0.01", "lr: nan", "`train.lr`: expected a number > 0, got 'nan' (recipe.yaml:19)"),
    "infinite": ("lr: 0.01", "lr: .inf", "`train.lr`: expected a number > 0, got .inf (recipe.yaml:19)"),
    "no epochs": ("epochs: 3", "epochs: 0", "`train.epochs`: expected a whole number ≥ 1, got 0 (recipe.yaml:18)"),
    "half epochs": (
        "epochs: 3",
        "epochs: 2.5",
        "`train.epochs`: expected a whole number ≥ 1, got 2.5 (recipe.yaml:18)",
    ),
    "fewer epochs": ("epochs: 3", "epochs: -1", "`train.epochs`: expected a whole number ≥ 1, got -1 (recipe.yaml:18)"),
    "probability": (
        "flip: 0.5",
        "flip: 1.5",
        "`data.views.flip`: expected a number from 0 to 1, got 1.5 (recipe.yaml:5)",
    ),
    "open interval": (
        "  source: digits",
        "  source: digits\n  val: 1",
        "`data.val`: expected a number > 0 and < 1, got 1 (recipe.yaml:5)",
    ),
    "nothing to train on": (
        "  source: digits",
        "  source: digits\n  val: 0.6\n  test: 0.4",
        "`data.test`: val and test together leave nothing to train on: 0.6 + 0.4 ≥ 1 (recipe.yaml:6)",
    ),
    "cold": (
        "temperature: 4",
        "temperature: 0",
        "`arms.distilled.0.temperature`: expected a number > 0 or a schedule such as "
        "{schedule: linear, start: 8, end: 2}, got 0 (recipe.yaml:16)",
    ),
    "a schedule to zero": (
        "temperature: 4",
        "temperature: {schedule: linear, start: 4, end: 0}",
        "`arms.distilled.0.temperature`: a temperature must stay above 0; this schedule reaches 0 (recipe.yaml:16)",
    ),
    "a schedule below zero": (
        "weight: 0.9",
        "weight: {schedule: cosine, start: 1, end: -1}",
        "`arms.distilled.0.weight`: a weight must stay at 0 or above; this schedule reaches -1 (recipe.yaml:15)",
    ),
    "unknown schedule": (
        "weight: 0.9",
        "weight: {schedule: linar, start: 4}",
        "`arms.distilled.0.weight`: unknown schedule 'linar' (recipe.yaml:15)\nhint: did you mean `linear`?",
    ),
    "unnamed schedule": (
        "weight: 0.9",
        "weight: {start: 4}",
        "`arms.distilled.0.weight`: this schedule does not say which it is (recipe.yaml:15)\n"
        "  expected  `schedule:` with one of constant, cosine, follow, linear, piecewise, plateau, switch, warm_up",
    ),
    "a schedule's argument": (
        "weight: 0.9",
        "weight:\n        schedule: linear\n        start: 1\n        end: 0\n        stop: 0",
        "unknown key `stop` (recipe.yaml:19)\nhint: known names: end, schedule, start",
    ),
    "a point": (
        "weight: 0.9",
        "weight: {schedule: piecewise, points: [[0, 1], [0.5, x]]}",
        "`arms.distilled.0.weight.points.1.1`: expected a number, got 'x' (recipe.yaml:15)",
    ),
    "a point that is none": (
        "weight: 0.9",
        "weight: {schedule: piecewise, points: [3]}",
        "`arms.distilled.0.weight.points.0`: expected a pair [progress, value], got 3 (recipe.yaml:15)",
    ),
    "one seed": (
        "seeds: [0]",
        "seeds: 3",
        "`seeds`: expected a list of whole numbers such as [0, 1, 2], got 3 (recipe.yaml:2)\nhint: write [3]",
    ),
    "no seeds": (
        "seeds: [0]",
        "seeds: []",
        "`seeds`: expected a list of whole numbers such as [0, 1, 2], got an empty list (recipe.yaml:2)",
    ),
    "a seed twice": (
        "seeds: [0]",
        "seeds: [1, 2, 1]",
        "`seeds`: the seed 1 stands here twice, and would only repeat its numbers (recipe.yaml:2)",
    ),
    "seed": ("seeds: [0]", "seed: 3", "unknown key `seed` (recipe.yaml:2)\nhint: did you mean `seeds`?"),
    "a choice": (
        "  lr: 0.01",
        "  engine: fabrik",
        "`train.engine`: expected plain or fabric, got 'fabrik' (recipe.yaml:19)\nhint: did you mean `fabric`?",
    ),
    "yes": (
        "  lr: 0.01",
        "  deterministic: yes",
        "`train.deterministic`: expected true or false, got 'yes' (recipe.yaml:19)",
    ),
    "precision": (
        "  lr: 0.01",
        "  precision: 16",
        "`train.precision`: expected 32, bf16, fp16 or auto, got 16 (recipe.yaml:19)",
    ),
    "warm-up without a place": (
        "  lr: 0.01",
        "  scheduler: StepLR\n  warm_up: 0.1",
        "`train.warm_up`: the scheduler StepLR has no warm-up (recipe.yaml:20)\n"
        "hint: leave `warm_up` out, or use cosine, linear or constant",
    ),
    "an argument that is none": (
        "  lr: 0.01",
        "  optimizer_args: {a-b: 1}",
        "`train.optimizer_args`: 'a-b' cannot be the name of an argument (recipe.yaml:19)\n"
        "  expected  letters, digits and _",
    ),
    "an argument that is not finite": (
        "  lr: 0.01",
        "  optimizer_args: {betas: [0.9, .inf]}",
        "`train.optimizer_args`: expected finite numbers, got .inf (recipe.yaml:19)",
    ),
    "two origins": (
        "  model: cnn\n",
        "  model: cnn\n  weights: t.safetensors\n",
        "`teacher.train`: a teacher is loaded or trained, not both (recipe.yaml:9)\n"
        "hint: keep one of `weights:` and `train:`",
    ),
    "no origin": (
        "  train:\n    epochs: 2\n",
        "",
        "`teacher.train`: the teacher `cnn` knows nothing yet (recipe.yaml:6)\n"
        "hint: give `weights:` with its file, or `train:` to train it first",
    ),
    "an empty section": (
        "student:\n  model: mlp",
        "student:",
        "`student`: expected a mapping with `model`, got nothing (recipe.yaml:10)\n"
        "hint: fill it in, or name several under `students:`; `tutelage models` lists what there is",
    ),
    "a name for a section": (
        "student:\n  model: mlp",
        "student: mlp",
        "`student`: expected a mapping with `model`, got 'mlp' (recipe.yaml:10)\nhint: write {model: mlp}",
    ),
    "a name for a term": (
        "    - loss: soft_target\n",
        "    - cross_entropy\n    - loss: soft_target\n",
        "`arms.distilled.0`: expected a mapping with `loss`, got 'cross_entropy' (recipe.yaml:14)\n"
        "hint: write {loss: cross_entropy}",
    ),
    "an empty arm": (
        "arms:\n",
        "arms:\n  other: []\n",
        "`arms.other`: expected a list of at least one term such as - {loss: cross_entropy}, "
        "got an empty list (recipe.yaml:13)",
    ),
    "an arm's name": (
        "distilled:",
        "../x:",
        "the name '../x' in `arms` cannot be used (recipe.yaml:13)\n"
        "  expected  at most 40 of a-z, 0-9, `_` and `-`, the first not `-`",
    ),
    "an arm's name on other systems": (
        "distilled:",
        "con:",
        "`arms.con`: 'con' cannot be the name of a file everywhere (recipe.yaml:13)\nhint: choose another name",
    ),
    "a run's name": (
        "name: first",
        "name: ../first",
        "`name`: expected a name of at most 64 letters, digits, `.`, `_` or `-`, the first a letter or digit, "
        "got '../first' (recipe.yaml:1)",
    ),
    "an empty path": (
        "  source: digits",
        "  source: digits\n  path: ''",
        "`data.path`: expected text, got '' (recipe.yaml:5)",
    ),
    "missing": (
        "student:\n  model: mlp\n",
        "",
        "`student`: expected a mapping with `model`, got nothing (recipe.yaml)\n"
        "hint: fill it in, or name several under `students:`; `tutelage models` lists what there is",
    ),
    "missing within": (
        "  epochs: 3\n",
        "",
        "`train.epochs` is missing (recipe.yaml:17)\n  expected  a whole number ≥ 1",
    ),
    "duplicate": (
        "  lr: 0.01",
        "  lr: 0.01\n  lr: 3",
        "`train.lr` is defined twice: lines 19 and 20 (recipe.yaml:20)\nhint: keep one of them",
    ),
    "a tag, and nothing that follows from it": (
        "name: first",
        "name: !!python/object/apply:os.system [x]",
        "the tag '!!python/object/apply:os.system' is refused: a recipe holds values, and nothing in it is run "
        "(recipe.yaml:1)\nhint: leave the tag out",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_with_its_line(case: str) -> None:
    old, new, said = WRONG[case]
    assert GOOD.count(old) == 1
    found = message(GOOD.replace(old, new))
    assert found == said
    assert len(found.splitlines()) <= 6


def test_the_good_recipe_is_good() -> None:
    recipe = load_text(GOOD)
    assert recipe.train.lr == 0.01
    assert recipe.data.views.flip == 0.5
    assert list(recipe.arms) == ["scratch", "distilled"]
    assert recipe.arms["scratch"][0].loss == "cross_entropy"


def test_all_problems_come_at_once_in_the_order_of_lines() -> None:
    text = GOOD.replace("lr: 0.01", "lr: fast\n  lr: 1").replace("temperature: 4", "temprature: 4")
    text = text.replace("source: digits", "sorce: digits").replace("epochs: 3", "epochs: 0")
    with pytest.raises(RecipeError) as caught:
        load_text(text)
    assert str(caught.value).startswith("6 problems\n")
    places = [problem.where for problem in caught.value.problems]
    assert places == [f"recipe.yaml:{line}" for line in (3, 4, 16, 18, 19, 20)]


def test_many_problems_are_cut_short() -> None:
    text = GOOD + "".join(f"qqq{n}: 1\n" for n in range(30))
    assert message(text).endswith("\n… and 10 more")


def test_an_override_is_named_as_the_place() -> None:
    assert (
        message(GOOD, "train.epochs=x") == "`train.epochs`: expected a whole number ≥ 1, got 'x' (--set train.epochs=x)"
    )
    assert message(GOOD, "train.epoch=3") == "unknown key `epoch` (--set train.epoch=3)\nhint: did you mean `epochs`?"
    assert load_text(GOOD.replace("lr: 0.01", "lr: fast"), "train.lr=1e-3").train.lr == 0.001
    assert load_text(GOOD, "arms.distilled.0.weight=0.5").arms["distilled"][0].weight == 0.5


def test_a_number_may_be_written_with_an_exponent() -> None:
    assert load_text(GOOD.replace("lr: 0.01", "lr: 1e-4")).train.lr == 0.0001


def test_thirty_two_needs_no_quotes_and_on_is_a_word() -> None:
    train = load_text(GOOD.replace("  lr: 0.01", "  precision: 32\n  channels_last: on")).train
    assert train.precision == "32"
    assert train.channels_last == "on"


def test_null_draws_a_seed_that_is_written_out() -> None:
    first, second = (load_text(GOOD, "seeds=null") for _ in range(2))
    assert len(first.seeds) == 1
    assert first.seeds != second.seeds
    assert from_text(dump(first)).seeds == first.seeds
    # A run that goes on keeps what was drawn; seeds that were written stay as written.
    assert second.continuing(first).seeds == first.seeds
    assert load_text(GOOD).continuing(first).seeds == (0,)


@pytest.mark.parametrize("model", ["hf:owner/name", "hf:/folder", "hf:./folder", "mine:teacher"])
def test_a_teacher_that_may_bring_weights_needs_neither(model: str) -> None:
    assert from_mapping(smallest() | {"teacher": {"model": model}}).teacher.train is None


@pytest.mark.parametrize("model", ["cnn", "hf:resnet", "some/folder"])
def test_a_teacher_that_is_a_mere_type_needs_one(model: str) -> None:
    with pytest.raises(RecipeError, match="knows nothing yet"):
        from_mapping(smallest() | {"teacher": {"model": model}})


@pytest.mark.parametrize(
    ("written", "at_half", "least"),
    [
        ({"schedule": "constant", "value": 3}, 3.0, 3.0),
        ({"schedule": "linear", "start": 1, "end": 0.5}, 0.75, 0.5),
        ({"schedule": "cosine", "start": 4, "end": 2}, 3.0, 2.0),
        ({"schedule": "warm_up", "value": 2, "until": 0.25}, 2.0, 0.0),
        ({"schedule": "piecewise", "points": [[0, 1], [1, 3]]}, 2.0, 1.0),
    ],
)
def test_a_schedule_builds_what_it_says(written: dict[str, object], at_half: float, least: float) -> None:
    recipe = from_mapping(smallest() | {"arms": {"a": [{"loss": "x", "weight": written}]}})
    weight = recipe.arms["a"][0].weight
    assert isinstance(weight, ScheduleSpec)
    schedule = weight.build()
    assert schedule(0.5) == pytest.approx(at_half)
    assert schedule.least == least
    assert from_text(dump(recipe)) == recipe


# ---- from Python -----------------------------------------------------------------------------------------------------


def test_a_mapping_is_a_recipe_with_every_default() -> None:
    recipe = from_mapping(smallest())
    assert recipe.seeds == (0, 1, 2)
    assert (recipe.train.batch_size, recipe.train.optimizer, recipe.train.lr) == (64, "adamw", 0.001)
    distilled = recipe.arms["distilled"]
    assert [(term.loss, term.weight, term.temperature) for term in distilled] == [
        ("soft_target", 0.9, 4.0),
        ("cross_entropy", 0.1, None),
    ]
    assert not recipe.data.views.model_dump().keys() - {"flip", "shift", "rotate", "crop", "erase", "mixup", "cutmix"}


def test_a_mapping_may_hold_paths_and_tuples() -> None:
    data = {"source": "folder", "path": Path("pictures")}
    recipe = from_mapping(smallest() | {"data": data, "seeds": (1, 2)}, ["train.epochs=7"])
    assert (recipe.data.path, recipe.seeds, recipe.train.epochs) == ("pictures", (1, 2), 7)


def test_what_is_wrong_in_a_mapping_is_told_by_key() -> None:
    with pytest.raises(RecipeError) as caught:
        from_mapping(smallest() | {"train": {"epochs": "3", "lrr": 1, 5: 6}, "device": object()})
    assert str(caught.value).splitlines() == [
        "4 problems",
        "a key must be text in `train`: 5",
        "`train.epochs`: expected a whole number ≥ 1, got '3'",
        "unknown key `lrr` (in `train`)",
        "hint: did you mean `lr`?",
        "`device`: expected auto, cpu, cuda, cuda:1, mps or the like, got a Python object",
    ]


def test_a_mapping_is_required_and_may_not_contain_itself() -> None:
    with pytest.raises(InputError, match="a recipe is a mapping"):
        from_mapping([1])  # type: ignore[arg-type]
    endless: dict[str, Any] = {}
    endless["a"] = endless
    with pytest.raises(InputError, match="nested deeper than 40 levels"):
        from_mapping(endless)


def test_training_settings_alone() -> None:
    assert train_settings({"epochs": 2, "precision": 32}) == Train(epochs=2)
    with pytest.raises(RecipeError) as caught:
        train_settings({"epochs": 0, "lrr": 1})
    assert str(caught.value).splitlines() == [
        "2 problems",
        "`train.epochs`: expected a whole number ≥ 1, got 0",
        "unknown key `lrr` (in `train`)",
        "hint: did you mean `lr`?",
    ]


def test_a_recipe_does_not_change() -> None:
    recipe = from_mapping(smallest())
    with pytest.raises(pydantic.ValidationError):
        recipe.train.epochs = 3


# ---- names of other rooms --------------------------------------------------------------------------------------------


def test_names_are_checked_against_the_catalogues() -> None:
    recipe = load_text(GOOD.replace("soft_target", "soft_targt").replace("model: cnn", "model: cmn"))
    known: dict[str, list[str]] = {
        "losses": ["cross_entropy", "soft_target"],
        "models": ["cnn", "mlp"],
        "sources": ["digits"],
    }
    found = check_names(recipe, **known)
    assert [problem.text() for problem in found] == [
        "unknown model 'cmn' (recipe.yaml:7)\nhint: did you mean `cnn`?",
        "unknown loss 'soft_targt' (recipe.yaml:14)\nhint: did you mean `soft_target`?",
    ]
    assert check_names(load_text(GOOD), **known) == []


def test_names_without_lines_are_placed_by_key() -> None:
    recipe = from_mapping(smallest() | {"data": {"source": "digit"}, "teacher": {"model": "hf:a/b"}})
    found = check_names(recipe, losses=["cross_entropy", "soft_target"], models=["mlp"], sources=["digits"])
    assert [p.text() for p in found] == ["unknown data source 'digit' (`data.source`)\nhint: did you mean `digits`?"]


# ---- writing, comparing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["digits", "ensemble-digits", "fashion-frontier", "fashion-mnist"])
def test_a_built_in_recipe_is_itself_again_after_writing(name: str) -> None:
    recipe = load(name)
    assert recipe.name == name
    text = dump(recipe)
    assert text.startswith("# ")
    assert from_text(text) == recipe
    assert dump(from_text(text)) == text
    assert diff(recipe, from_text(text)) == []


def test_built_in_recipes_are_listed_with_a_line() -> None:
    listed = builtin_recipes()
    assert list(listed) == [
        "cross-lingual", "cross-modal", "deep-to-shallow", "descriptions", "digits", "ensemble-digits",
        "ensemble-to-one", "fashion-frontier", "fashion-mnist", "flights", "mobilenet", "questions", "several-tasks",
        "shrink-cnn", "spoken-digits", "three-transfers",
    ]  # fmt: skip
    assert all(20 < len(line) < 120 and not line.startswith("#") for line in listed.values())


@pytest.mark.parametrize("name", sorted(builtin_recipes()))
def test_built_in_recipes_compare_honestly(name: str) -> None:
    recipe = load(name)
    assert len(recipe.seeds) >= 3
    assert len(recipe.arms) >= 2
    assert [term.loss for term in recipe.arms["scratch"]] == ["cross_entropy"]
    # A teacher that is no torch module is fitted when the run begins.
    assert all(one.train is not None or answers_elsewhere(one.model) for one in recipe.trusted.values())
    assert recipe.train.deterministic


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
tricky = st.sampled_from(
    ["1e-4", "on", "~", "", "0o7", ".inf", "<<", "=", "null", "- a", "#", "a: b", "\n", " ", "\x85x"]
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.from_regex(r"[A-Za-z_]{1,6}", fullmatch=True), values | tricky, max_size=4))
def test_any_options_survive_writing(options: dict[str, object]) -> None:
    recipe = from_mapping(smallest() | {"arms": {"a": [{"loss": "x", "options": options}]}})
    again = from_text(dump(recipe))
    assert again == recipe
    assert repr(again.arms["a"][0].options) == repr(recipe.arms["a"][0].options)


def test_a_difference_is_named_by_key() -> None:
    recipe = load_text(GOOD)
    other = load_text(
        GOOD,
        "train.lr=0.1",
        "seeds=[0, 1]",
        "arms.distilled.0.weight={schedule: linear, start: 1, end: 0}",
        "arms.extra=[{loss: x}]",
        "train.clip=1",
        "train.optimizer_args.weight_decay=0.1",
        "device=cpu",
    )
    assert diff(recipe, other) == [
        "seeds: [0] → [0, 1]",
        "arms.distilled.0.weight: 0.9 → {schedule: linear, start: 1.0, end: 0.0}",
        "arms.extra: (absent) → [{loss: x, weight: 1.0, temperature: null, name: null, options: {}, at: [], "
        "connector: auto, gradient: label, attack: null, source: null, companion: {}, task: null}]",
        "train.lr: 0.01 → 0.1",
        "train.optimizer_args: {} → {weight_decay: 0.1}",
        "train.clip: null → 1.0",
        "device: auto → cpu",
    ]


def test_what_may_change_on_resume_exists() -> None:
    def keys(value: object, path: str = "") -> Iterator[str]:
        if isinstance(value, dict):
            for key, child in value.items():
                yield from keys(child, f"{path}.{key}" if path else key)
        yield path

    known = set(keys(load("digits").model_dump()))
    # Arguments of a teacher are its own: those of addresses are no keys of the schema.
    assert known >= {key for key in RESUMABLE if not key.startswith("teacher.args.")}


# ---- JSON Schema -----------------------------------------------------------------------------------------------------


def nodes(node: object) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        yield from nodes(child)


def test_the_json_schema_is_whole() -> None:
    schema = json_schema()
    assert json.loads(json.dumps(schema, allow_nan=False)) == schema
    assert set(schema["properties"]) == set(Recipe.model_fields)
    for node in nodes(schema):
        if isinstance(node.get("$ref"), str):
            assert node["$ref"].rpartition("/")[2] in schema["$defs"]
        if node.get("type") == "object" and "properties" in node:
            assert node["additionalProperties"] is False


def test_the_json_schema_explains_training() -> None:
    train = json_schema()["$defs"]["Train"]["properties"]
    assert all(field.get("description") for field in train.values())
    assert 32 in train["precision"]["enum"]

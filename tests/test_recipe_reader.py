"""What is read from a file: values by YAML 1.2, the line of each, and nothing that a file could make happen."""

from __future__ import annotations

import doctest
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.errors import InputError, RecipeError
from tutelage.recipe import apply_overrides, builtin_recipes, load, scalars
from tutelage.recipe.places import dotted
from tutelage.recipe.reader import Tree, read_file, read_text


@pytest.fixture(autouse=True)
def _in_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def values(text: str) -> dict[str, object]:
    tree = read_text(text, "recipe.yaml")
    assert tree.problems == []
    return tree.values


def refusal(text: str) -> str:
    """Everything that reading says against a text, whether it stops there or goes on to the schema."""
    try:
        tree = read_text(text, "recipe.yaml")
    except RecipeError as error:
        return str(error)
    return "\n".join(one.problem.text() for one in tree.problems)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-4", 0.0001),
        ("1E3", 1000.0),
        ("-.5", -0.5),
        ("3.", 3.0),
        ("+7", 7),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("~", None),
        ("null", None),
        ("", None),
        ("true", True),
        ("False", False),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("OFF", "OFF"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2024-01-02", "2024-01-02"),
        ("nan", "nan"),
        ("inf", "inf"),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("'1'", "1"),
        ('"null"', "null"),
        ("!!str 12", "12"),
        ("!!float 1", 1.0),
        ("9" * 5000, "9" * 5000),
        ("[1, [a, b], {c: 2}]", [1, ["a", "b"], {"c": 2}]),
    ],
)
def test_a_scalar_means_what_yaml_1_2_says(written: str, value: object) -> None:
    read = values(f"a: {written}\n")["a"]
    assert read == value
    assert type(read) is type(value)


def test_nan_is_read_as_a_number() -> None:
    read = values("a: .nan")["a"]
    assert isinstance(read, float)
    assert math.isnan(read)


def test_examples_in_docstrings_hold() -> None:
    result = doctest.testmod(scalars)
    assert result.attempted >= 2
    assert result.failed == 0


def test_every_value_remembers_its_line() -> None:
    text = "# one\nname: x\ntrain:\n  lr: 1\n\narms:\n  b:\n    - loss: c\n      weight: {start: 1,\n        end: 2}\n"
    tree = read_text(text, "recipe.yaml")
    lines = {dotted(keys): place.order for keys, place in tree.places.at.items()}
    assert lines == {
        "name": 2,
        "train": 3,
        "train.lr": 4,
        "arms": 6,
        "arms.b": 7,
        "arms.b.0": 8,
        "arms.b.0.loss": 8,
        "arms.b.0.weight": 9,
        "arms.b.0.weight.start": 9,
        "arms.b.0.weight.end": 10,
    }
    assert tree.places.label(("train", "missing")) == "recipe.yaml:3"
    assert tree.places.label(("missing",)) == "recipe.yaml"


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        pytest.param(
            "a: 1\nlr: 1\nb: 2\nlr: 3\n", "`lr` is defined twice: lines 2 and 4 (recipe.yaml:4)", id="duplicate"
        ),
        pytest.param("t: {a: 1, a: 2}", "`t.a` is defined twice: twice in line 1", id="duplicate in one line"),
        pytest.param("a:\n\tb: 1\n", "a tab cannot indent or separate in YAML (recipe.yaml:2, column 1)", id="tab"),
        pytest.param("a:\n  b: 1\n c: 2\n", "recipe.yaml:3, column 2", id="indentation"),
        pytest.param("a: [1, 2\nb: 3\n", "not valid YAML: expected ',' or ']'", id="open bracket"),
        pytest.param("a: 'x\n", "not valid YAML: found unexpected end of stream", id="open quote"),
        pytest.param("a: *b\n", "not valid YAML: found undefined alias 'b' (recipe.yaml:1, column 4)", id="no anchor"),
        pytest.param("a: 1\nb: \x07\n", "YAML does not allow the character '\\x07' (recipe.yaml:2)", id="control"),
        pytest.param(
            "a: 1\n---\nb: 2\n", "a recipe is one document; a second one starts here (recipe.yaml:2", id="two"
        ),
        pytest.param("", "the recipe is empty (recipe.yaml)", id="empty"),
        pytest.param("# nothing\n\n", "the recipe is empty (recipe.yaml)", id="only comments"),
        pytest.param("~\n", "the recipe is empty (recipe.yaml)", id="null"),
        pytest.param("- a\n- b\n", "given     a list", id="list"),
        pytest.param("just words\n", "given     text: 'just words'", id="text"),
        pytest.param("[train]\nepochs = 3\n", "this file looks like TOML; a recipe is YAML (recipe.yaml)", id="toml"),
        pytest.param("# x\nlr = 1e-3\nn = 2\n", "this file looks like TOML", id="toml without a section"),
        pytest.param("a: 1\n<<: {b: 2}\n", "merge keys (`<<`) are not part of YAML 1.2 (recipe.yaml:2)", id="merge"),
        pytest.param("a: {1: x}\n", "a key must be text in `a`: `1` is a number (recipe.yaml:1)", id="number as key"),
        pytest.param("true: x\n", "a key must be text: `true` is true or false", id="boolean as key"),
        pytest.param("? [a]\n: 1\n", "a key must be text: a list", id="list as key"),
        pytest.param("a: !!int x\n", "'x' is not of the type that its tag `!!int` says", id="false tag"),
        pytest.param("a: !!bool 1\n", "1' is not of the type that its tag `!!bool` says", id="false boolean"),
        pytest.param("a: !!binary aGk=\n", "the tag '!!binary' is refused", id="binary"),
        pytest.param("a: !!set {x}\n", "the tag '!!set' is refused", id="set"),
        pytest.param("a: !mine [1]\n", "the tag '!mine' is refused", id="local tag"),
        pytest.param("a: &x [1, *x]\n", "an alias contains itself (recipe.yaml:1)", id="alias in itself"),
        pytest.param("[" * 50_000, "nested deeper than 40 levels", id="many brackets"),
        pytest.param("a: " + "{b: " * 60, "nested deeper than 40 levels", id="deep mapping"),
    ],
)
def test_what_is_no_recipe_is_refused_with_its_place(text: str, fragment: str) -> None:
    message = refusal(text)
    assert fragment in message
    assert "Traceback" not in message


def test_what_cannot_be_read_exits_with_2() -> None:
    with pytest.raises(RecipeError) as caught:
        read_text("a: [", "recipe.yaml")
    assert caught.value.exit_code == 2


def test_all_problems_of_reading_come_together() -> None:
    message = refusal("a: 1\na: 2\nb: !x 3\nc: 4\nc: 5\n")
    assert [f"recipe.yaml:{line}" in message for line in (2, 3, 5)] == [True, True, True]


def laughs(levels: int, width: int) -> str:
    lines = ["a0: &a0 [x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize("text", [laughs(9, 9), laughs(200, 1)], ids=["wide", "deep"])
def test_aliases_cannot_grow_without_bound(text: str) -> None:
    message = refusal(text)
    assert "aliases make this recipe too large (recipe.yaml:" in message
    assert "at most 10,000 values" in message


def test_an_alias_is_a_copy() -> None:
    tree = read_text("a: &x {n: [1]}\nb: *x\n", "r")
    assert tree.values == {"a": {"n": [1]}, "b": {"n": [1]}}
    tree.values["a"]["n"].append(2)
    assert tree.values["b"] == {"n": [1]}


def test_no_tag_runs_anything(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    for tag in (
        f"!!python/object/apply:os.system ['touch {canary}']",
        f"!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{canary}']]",
        f"!!python/object/new:os.system ['touch {canary}']",
        "!!python/name:os.system",
        "!!python/module:os",
    ):
        message = refusal(f"a: {tag}\n")
        assert "is refused: a recipe holds values, and nothing in it is run (recipe.yaml:1)" in message
    assert not canary.exists()


# ---- bytes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_understood(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes("name: größer\n".encode(encoding))
    assert read_file(path).values == {"name": "größer"}


@pytest.mark.parametrize(
    ("raw", "fragment"),
    [
        ("name: x\n".encode("utf-16-le"), "it holds NUL bytes, as UTF-16 without a mark"),
        (b"a: 1\nname: gr\xf6sser\n", "this file is not UTF-8 text (r.yaml:2)"),
        (b"\xff\xfea", "this file is not UTF-16 text (r.yaml)"),
        (b"#" * 100_001, "this file is too large to be a recipe (r.yaml)"),
    ],
)
def test_bytes_that_are_no_text(raw: bytes, fragment: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(raw)
    with pytest.raises(InputError) as caught:
        read_file(Path("r.yaml"))
    assert fragment in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("indent", [None, 2, "\t"])
def test_json_is_read_as_json_reads_it(indent: int | str | None) -> None:
    content = {"name": "a\tb \U0001f600 é", "n": [1, 2.5, -1e-7, True, None, {"x": "on"}], "url": "a/b"}
    text = json.dumps(content, indent=indent)
    assert values(text) == content


# ---- paths -----------------------------------------------------------------------------------------------------------


def test_a_missing_recipe_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "cifar.yaml").write_text("name: x\n")
    cases = {
        "configs/cifr.yaml": "did you mean configs/cifar.yaml?",
        "confgs/cifar.yaml": "did you mean configs/cifar.yaml?",
        "digit": "did you mean `digits`?",
        "elsewhere/zzz.yaml": f"built-in recipes: {', '.join(builtin_recipes())}",
    }
    for given_path, fix in cases.items():
        with pytest.raises(InputError) as caught:
            load(given_path)
        assert str(caught.value) == f"no such recipe: {given_path}\nhint: {fix}"
        assert caught.value.exit_code == 2


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    with pytest.raises(InputError, match="configs is a folder, not a recipe\nhint: name a file in it"):
        load("configs")
    (tmp_path / "configs" / "one.yaml").write_text("name: x\n")
    with pytest.raises(InputError, match=r"is a folder, not a recipe\nhint: did you mean configs/one.yaml\?"):
        load(Path("configs"))


def test_no_name_at_all() -> None:
    with pytest.raises(InputError, match="no recipe was named\nhint: built-in recipes: cross-lingual, "):
        load("")


def test_a_path_that_cannot_be_opened_is_told() -> None:
    with pytest.raises(InputError):
        load("a\0b")
    with pytest.raises(InputError):
        load("x" * 5000)


def test_a_folder_does_not_hide_a_built_in_recipe(tmp_path: Path) -> None:
    (tmp_path / "digits").mkdir()
    assert load("digits").name == "digits"
    with pytest.raises(InputError, match="is a folder"):
        load("./digits")


# ---- overrides -------------------------------------------------------------------------------------------------------


def changed(*overrides: str) -> dict[str, object]:
    return apply_overrides(read_text("name: a\ntrain: {lr: 1}\nseeds: [5, 6]\nempty:\n", "r"), overrides).values


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("train.lr=1e-4", ("train", "lr"), 0.0001),
        ("train.lr = 2", ("train", "lr"), 2),
        ("train.new.deep=off", ("train", "new", "deep"), "off"),
        ("empty.x=1", ("empty", "x"), 1),
        ("seeds.1=9", ("seeds", 1), 9),
        ("seeds=[1, 2]", ("seeds",), [1, 2]),
        ("train={epochs: 3}", ("train",), {"epochs": 3}),
        ("name='12'", ("name",), "12"),
        ("name=", ("name",), None),
        ("name=a: b # c", ("name",), "a: b # c"),
        ("name=x=y", ("name",), "x=y"),
        ("name=__import__('os').system('x')", ("name",), "__import__('os').system('x')"),
        ("name=!!python/object/apply:os.system [x]", ("name",), "!!python/object/apply:os.system [x]"),
        ("name=*a", ("name",), "*a"),
    ],
)
def test_an_override_replaces_one_value(override: str, path: tuple[str | int, ...], value: object) -> None:
    found: object = changed(override)
    for key in path:
        found = found[key]  # type: ignore[index]
    assert found == value


def test_the_later_override_wins() -> None:
    assert changed("train.lr=2", "train.lr=3")["train"] == {"lr": 3}
    assert changed("train.lr=2", "train={}")["train"] == {}


def test_overrides_leave_the_tree_they_were_given() -> None:
    tree = read_text("train: {lr: 1}\n", "r")
    new = apply_overrides(tree, ["train.lr=2"])
    assert tree.values == {"train": {"lr": 1}}
    assert tree.places.label(("train", "lr")) == "r:1"
    assert new.places.label(("train", "lr")) == "--set train.lr=2"
    assert new.places.label(("train",)) == "r:1"


@pytest.mark.parametrize(
    ("override", "fragment"),
    [
        ("train.lr", "an override is `key=value`"),
        ("=3", "an override is `key=value`"),
        ("train..lr=3", "an override is `key=value`"),
        ("a b=3", "an override is `key=value`"),
        ("seeds.7=1", "`seeds` has no item `7` (--set seeds.7=1)"),
        ("seeds.x=1", "`seeds` has no item `x`"),
        ("name.x=1", "`name` is 'a': nothing lies below it (--set name.x=1)"),
        ("seeds=[1,2", "not valid YAML"),
        ("seeds=[1]\nname: x", "not valid YAML (--set seeds=[1] name: x)"),
        ("seeds=[!!python/name:os.system x]", "is refused"),
        ("train={a: 1, a: 2}", "defined twice"),
    ],
)
def test_a_wrong_override_is_an_input_error(override: str, fragment: str) -> None:
    with pytest.raises(InputError) as caught:
        changed(override)
    assert fragment in str(caught.value)
    assert caught.value.exit_code == 2


def test_overrides_are_a_list() -> None:
    with pytest.raises(InputError, match="overrides are a list of texts"):
        apply_overrides(Tree(), "train.lr=1")


# ---- properties ------------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
def test_no_text_makes_reading_fail_in_another_way(text: str) -> None:
    try:
        read = read_text(text, "r").values
    except RecipeError as error:
        read = {"problem": str(error)}
    assert isinstance(read, dict)


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.text("abc:#'\"-[]{}!&*\n 01e.", max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text("abc", min_size=1, max_size=4), plain, min_size=1, max_size=3))
def test_quoted_yaml_of_others_is_read_as_they_meant_it(content: dict[str, object]) -> None:
    assert values(json.dumps(content)) == content
    assert values(yaml.safe_dump(content, default_style='"', default_flow_style=False)) == content


def test_importing_the_room_imports_no_torch() -> None:
    code = "import sys, tutelage.recipe as r; r.load('digits'); print('torch' in sys.modules, 'numpy' in sys.modules)"
    root = Path(__file__).parents[1]  # where a relative PYTHONPATH leads to the package
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.split() == ["False", "False"]

"""Personal students: whose every example is, what users' students learn from, and figures anybody can count again."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import stats

import tutelage
from command_line import call
from tutelage import losses
from tutelage.data import Examples, Splits, load
from tutelage.data.examples import Task
from tutelage.data.users import Users, artificial_users, given_users, mixtures, read_users
from tutelage.errors import DamagedError, DataError, InputError, TutelageError
from tutelage.models import ModelSpec, build, load_weights, save_weights
from tutelage.objective import Term
from tutelage.recipe import from_mapping
from tutelage.run import Personal, load_student, personalise, run_recipe
from tutelage.run.examples import statistics

TINY = {
    "name": "tiny",
    "seeds": [0, 1],
    "data": {"source": "digits"},
    "teacher": {"model": "mlp", "args": {"width": 32}, "train": {"epochs": 3, "batch_size": 64, "lr": 0.01}},
    "student": {"model": "mlp", "args": {"width": 12, "depth": 1}},
    "train": {"epochs": 3, "batch_size": 32, "lr": 0.01},
    "report": {"bootstrap": 400, "latency": False},
}
PARTS = ("train", "val", "test")
FOUR: dict[str, Any] = {"users": 4, "changes": ["train.epochs=2"], "scratch": True, "quiet": True}
ONE: dict[str, Any] = {"users": 3, "changes": ["train.epochs=1", "seeds=[1]"], "quiet": True}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_recipe(from_mapping(TINY), tmp_path_factory.mktemp("run") / "tiny", quiet=True).folder


@pytest.fixture(scope="module")
def four(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Personal:
    return personalise(run, tmp_path_factory.mktemp("users") / "four", **FOUR)


@pytest.fixture(scope="module")
def digits() -> Splits:
    return load("digits")


def many(classes: int = 5, each: int = 4000) -> Splits:
    """A set large enough to see shares in, half of it for testing; inputs are numbers that differ."""
    targets = torch.arange(classes).repeat(each)
    inputs = torch.arange(len(targets), dtype=torch.float32)[:, None] / len(targets)
    whole = Examples.make(inputs, targets, [f"c{i}" for i in range(classes)], "many")
    rows = torch.arange(len(whole))
    return Splits(whole.take(rows[::2]), whole.take(rows[1::4]), whole.take(rows[3::4]))


def trained(home: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in home.rglob("student.safetensors")}


# ---- whose every example is ------------------------------------------------------------------------------------------


def test_mixtures_follow_the_dirichlet_distribution() -> None:
    for skew, classes in ((0.3, 6), (5.0, 3)):
        drawn = mixtures(4000, classes, skew=skew, seed=3)
        np.testing.assert_allclose(drawn.sum(axis=1), 1.0, atol=1e-12)
        for column in (0, classes - 1):
            # One share of a symmetric Dirichlet draw has a beta distribution.
            assert stats.kstest(drawn[:, column], stats.beta(skew, skew * (classes - 1)).cdf).pvalue > 0.01
        expected = -1 / (classes - 1)
        assert np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1] == pytest.approx(expected, abs=0.05)


def test_more_users_are_more_rows_of_the_mixtures() -> None:
    np.testing.assert_array_equal(mixtures(9, 4, skew=0.3)[:5], mixtures(5, 4, skew=0.3))
    assert not np.allclose(mixtures(5, 4, skew=0.3, seed=1), mixtures(5, 4, skew=0.3))
    assert mixtures(50, 10, skew=0.02).max(axis=1).mean() > 0.8
    assert mixtures(50, 10, skew=1000.0).max(axis=1).mean() < 0.12


def test_users_get_the_shares_of_every_class_that_their_mixtures_ask_for() -> None:
    splits = many()
    users = artificial_users(splits, 4, skew=0.5, seed=1)
    wanted = mixtures(4, 5, skew=0.5, seed=1)
    for part in PARTS:
        labels = getattr(splits, part).targets.numpy()
        for label in range(5):
            counts = np.bincount(users.owners[part][labels == label], minlength=4)
            expected = wanted[:, label] / wanted[:, label].sum() * counts.sum()
            held = expected > 5
            both = [np.append(side[held], side[~held].sum() + 1e-9) for side in (counts, expected)]
            assert stats.chisquare(*both).pvalue > 0.001, (part, label)


def test_every_example_is_one_users_and_the_parts_of_a_user_share_none(digits: Splits) -> None:
    users = artificial_users(digits, 5)
    assert users.names == ("1", "2", "3", "4", "5")
    seen = [int(one) for i in range(5) for part in PARTS for one in getattr(users.of(i), part).ids]
    everything = [int(one) for part in PARTS for one in getattr(digits, part).ids]
    assert len(set(seen)) == len(seen)
    assert sorted(seen) == sorted(everything)
    assert users.unowned == 0
    assert users.counts(2) == {part: len(getattr(users.of(2), part)) for part in PARTS}


def test_whose_an_example_is_does_not_depend_on_the_others(digits: Splits) -> None:
    users = artificial_users(digits, 5, seed=7)
    fewer = Splits(digits.train.take(torch.arange(0, 900, 3)), digits.test, digits.val)
    again = artificial_users(fewer, 5, seed=7)
    np.testing.assert_array_equal(again.owners["train"], users.owners["train"][:900:3])
    np.testing.assert_array_equal(again.owners["val"], users.owners["test"])
    assert again.fingerprint != users.fingerprint
    assert artificial_users(digits, 5, seed=7).fingerprint == users.fingerprint
    assert artificial_users(digits, 5, seed=8).fingerprint != users.fingerprint


def test_copies_go_together_even_where_their_labels_differ() -> None:
    inputs = torch.arange(200, dtype=torch.float32).repeat(2)[:, None] / 200
    targets = torch.cat([torch.zeros(200), torch.ones(200)]).long()
    whole = Examples.make(inputs, targets, ["a", "b"], "twins")
    users = artificial_users(Splits(whole, whole.take(torch.tensor([0])), whole.take(torch.tensor([2]))), 4)
    owners = users.owners["train"]
    np.testing.assert_array_equal(owners[::2], owners[1::2])
    assert len(set(owners.tolist())) > 1


def test_users_of_a_file_by_id_and_by_row(digits: Splits, tmp_path: Path) -> None:
    parts = [getattr(digits, part) for part in PARTS]
    ids = [int(one) for part in parts for one in part.ids]
    rows = [int(one) for part in parts for one in part.origins]
    assert sorted(rows) == list(range(len(rows)))  # the digits as scikit-learn has them
    named = {one: ["ann", "bob", "carl"][row % 3] for one, row in zip(ids, rows, strict=True) if row % 4}
    path = tmp_path / "users.json"
    path.write_text(json.dumps({"ids": named}))
    by_id = given_users(digits, read_users(path))
    assert by_id.names == ("ann", "bob", "carl")
    for part, examples in zip(PARTS, parts, strict=True):
        expected = [row % 3 if row % 4 else -1 for row in examples.origins.tolist()]
        assert by_id.owners[part].tolist() == expected
    assert by_id.unowned == sum(row % 4 == 0 for row in rows)
    by_row = given_users(digits, {"rows": {str(row): "abc"[row % 3] for row in rows if row % 4}})
    assert all((by_row.owners[part] == by_id.owners[part]).all() for part in PARTS)
    listed = given_users(digits, {"rows": [row % 3 for row in range(len(rows))]})
    assert listed.names == ("0", "1", "2")
    assert listed.unowned == 0


def test_users_with_too_little_are_left_out() -> None:
    splits = many(each=100)
    owners = {part: np.arange(len(getattr(splits, part))) % 2 for part in PARTS}
    owners["train"][:7] = 2
    owners["val"][:1] = owners["test"][:1] = 2
    users = Users(splits, ("x", "y", "few", "none"), owners)
    kept, left = users.with_enough(8)
    assert (kept.names, left) == (("x", "y"), ("few", "none"))
    assert kept.unowned == 9
    np.testing.assert_array_equal(kept.of(1).train.ids, users.of(1).train.ids)
    same, left = users.with_enough(7)
    assert (same.names, left) == (("x", "y", "few"), ("none",))
    np.testing.assert_array_equal(same.of(2).train.ids, splits.train.ids[:7])
    owners["val"][:1] = 0
    assert Users(splits, ("x", "y", "few"), owners).with_enough(2)[1] == ("few",)
    with pytest.raises(DataError, match="0 of 4 users have enough"):
        users.with_enough(1000)


ID = 4611686018427387904


@pytest.mark.parametrize(
    ("whose", "message"),
    [
        ({}, "does not say whose"),
        ({"ids": {}}, "does not say whose"),
        ({"1": "ann"}, "does not say whose"),
        ({"ids": {"1": "ann"}, "rows": {"1": "ann"}}, "does not say whose"),
        ({"rows": "ann"}, "does not say whose"),
        ({"ids": {"one": "ann"}}, "a key is no number"),
        ({"ids": {str(2**70): "ann"}}, "a key is no number"),
        ({"ids": {"1": True}}, "called by a text"),
        ({"ids": {"1": ["ann"]}}, "called by a text"),
        ({"ids": {"1": " "}}, "called by a text"),
        ({"ids": {"1": "ann\nbob"}}, "called by a text"),
        ({"ids": {"1": "ann", "01": "bob"}}, "named twice"),
        ({"ids": {"1": "ann"}}, "none of the users has an example"),
    ],
)
def test_what_names_no_users(whose: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        given_users(many(each=8), whose)


def test_copies_of_one_example_belong_to_one_user() -> None:
    inputs = torch.tensor([0.0, 0.1, 0.1, 0.2, 0.3, 0.4])[:, None]
    whole = Examples.make(inputs, torch.tensor([0, 1, 1, 0, 1, 0]), ["a", "b"], "twins")
    splits = Splits(
        whole, whole.take(torch.tensor([], dtype=torch.long)), whole.take(torch.tensor([], dtype=torch.long))
    )
    with pytest.raises(DataError, match="copies of the same example"):
        given_users(splits, {"rows": [0, 1, 0, 1, 0, 1]})
    assert given_users(splits, {"rows": {0: 0, 1: 1, 3: 1}}).unowned == 3


def test_rows_that_every_part_counts_anew_name_nothing() -> None:
    one = Examples.make(torch.rand(6, 2), torch.tensor([0, 1] * 3), ["a", "b"], "parts")
    other = Examples.make(torch.rand(6, 2), torch.tensor([0, 1] * 3), ["a", "b"], "parts")
    with pytest.raises(DataError, match="counted anew in every part"):
        given_users(Splits(one, other, other), {"rows": [0] * 6})


@pytest.mark.parametrize(("count", "skew"), [(1, 0.3), (0, 0.3), (10**6, 0.3), (3, 0.0), (3, -1.0), (3, float("nan"))])
def test_users_that_cannot_be_made(count: int, skew: float) -> None:
    with pytest.raises(InputError, match=r"so many users|the skew"):
        artificial_users(many(each=8), count, skew=skew)


def test_files_that_name_no_users(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "broken.json").write_text('{"ids": ')
    for name, message in (("none.json", "No such file"), ("list.json", "does not say"), ("broken.json", "cannot read")):
        with pytest.raises(InputError, match=message):
            read_users(tmp_path / name)


# ---- what is trained -------------------------------------------------------------------------------------------------


def test_a_users_students_are_ordinary_students_of_that_users_data(
    run: Path, four: Personal, digits: Splits, tmp_path: Path
) -> None:
    own = artificial_users(digits, 4).of(2)
    mean, std = statistics(digits.train)
    facts = {"input_shape": (1, 8, 8), "classes": 10, "mean": mean, "std": std}
    teacher = build(ModelSpec("mlp", {"width": 32}, None), **facts)
    load_weights(teacher, run / "teacher" / "teacher.safetensors")
    begun = load_student(run / "students" / "distilled" / "seed-1")
    terms = [Term(losses.soft_target, weight=0.5, temperature=4.0), Term(losses.cross_entropy, weight=0.5)]
    done = tutelage.distill(
        teacher, begun, own, out=tmp_path / "same", objective=terms, seeds=[1], quiet=True, epochs=2, batch_size=32,
        lr=0.01,
    )  # fmt: skip
    for arm, theirs in (("local", "scratch"), ("anchored", "distilled")):
        found = load_file(four.student("3", arm, 1) / "student.safetensors")
        expected = load_file(done.student(theirs, 1) / "student.safetensors")
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)
    local, anchored = (load_file(four.student("3", arm, 1) / "student.safetensors") for arm in ("local", "anchored"))
    assert any(not torch.allclose(local[name], anchored[name], atol=1e-3) for name in local)


def test_scratch_does_not_begin_with_the_shared_weights(run: Path, tmp_path: Path) -> None:
    found = personalise(run, tmp_path / "still", **ONE | {"changes": ["train.epochs=1", "train.lr=1e-12", "seeds=[1]"]},
                        scratch=True)  # fmt: skip
    shared = load_file(run / "students" / "distilled" / "seed-1" / "student.safetensors")
    for arm, same in (("local", True), ("anchored", True), ("scratch", False)):
        own = load_file(found.student("1", arm) / "student.safetensors")
        assert torch.allclose(own["net.head.weight"], shared["net.head.weight"], atol=1e-6) is same
    for one in found.result["users"]:
        # Who moved nowhere knows what the shared student knows.
        assert one["accuracy"]["local"] == one["accuracy"]["shared"]
    assert found.result["comparisons"][0]["same"] == 3
    assert found.result["comparisons"][0]["p_sign"] == 1.0


def test_only_the_named_layers_learn(run: Path, tmp_path: Path) -> None:
    found = personalise(f"{run}:scratch", tmp_path / "head", **ONE, train=["net.head"])
    shared = load_file(run / "students" / "scratch" / "seed-1" / "student.safetensors")
    for arm in ("local", "anchored"):
        place = found.student("2", arm)
        own = load_file(place / "student.safetensors")
        assert {name for name in own if not torch.equal(own[name], shared[name])} == {
            "net.head.weight", "net.head.bias",
        }  # fmt: skip
        learned = json.loads((place / "student.json").read_text())["learned"]
        assert learned == sum(value.numel() for name, value in own.items() if name.startswith("net.head."))
    assert "`net.head`" in (found.folder / "README.md").read_text()


def test_a_compressed_student_that_began_with_weights_is_shared_as_its_file_is(
    tmp_path: Path, digits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    mean, std = statistics(digits.train)
    sizes = {"width": 16, "depth": 1, "heads": 2, "patch": 4}
    known = build(ModelSpec("transformer", sizes, None), input_shape=(1, 8, 8), classes=10, mean=mean, std=std)
    with torch.no_grad():
        known.get_parameter("net.positions").fill_(3.0)  # far from what chance draws
    save_weights(known, tmp_path / "known.safetensors")
    student = {"model": "transformer", "args": sizes, "weights": str(tmp_path / "known.safetensors")}
    recipe = from_mapping(TINY | {"student": student, "compress": ["int8"], "seeds": [1]}, ["train.epochs=1"])
    run = run_recipe(recipe, tmp_path / "run", quiet=True)
    asked: set[tuple[str, str]] = set()

    def loading(folder: Path, *, compression: str = "", trust: bool = False) -> Any:
        asked.add((folder.relative_to(tmp_path).parts[0], compression))
        return load_student(folder, compression=compression, trust=trust)

    for name in ("origin", "personal"):
        monkeypatch.setattr(sys.modules[f"tutelage.run.{name}"], "load_student", loading)
    found = personalise(f"{run.folder}:distilled.int8", tmp_path / "out", **ONE, train=["net.head"], scratch=True)
    shared = load_student(run.student("distilled", 1), compression="int8").state_dict()
    own = load_file(found.student("1", "local") / "student.safetensors")
    # The positions are a parameter of the net itself, which holds the head as well.
    assert {name for name in own if not torch.equal(own[name], shared[name])} == {"net.head.weight", "net.head.bias"}
    scratch = load_file(found.student("1", "scratch") / "student.safetensors")
    assert float(scratch["net.positions"].abs().max()) < 1 < 2 < float(own["net.positions"].min())
    kept = np.load(run.folder / "eval" / "distilled.int8-seed-1.npz")
    right = kept["logits"].argmax(1) == kept["labels"]
    assert found.result["means"]["shared"]["all"]["value"] == pytest.approx(right.mean(), abs=1e-12)
    assert asked == {("run", "int8"), ("out", "")}


def test_the_shared_student_can_be_the_anchor_and_then_no_teacher_is_needed(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    shutil.rmtree(copy / "teacher")
    with pytest.raises(DamagedError, match=r"teacher.safetensors is missing"):
        personalise(copy, tmp_path / "out", **ONE)
    # Plain steps: an optimizer that divides by the size of gradients makes long ones of rounding.
    plain = ONE | {"changes": [*ONE["changes"], "train.optimizer=sgd"]}
    found = personalise(copy, tmp_path / "out", **plain, anchor="student", weight=1.0)
    still = personalise(run, tmp_path / "other", **plain)
    shared = load_file(run / "students" / "distilled" / "seed-1" / "student.safetensors")

    def moved(personal: Personal, arm: str) -> float:
        own = load_file(personal.student("1", arm) / "student.safetensors")
        return sum(float((own[name] - shared[name]).square().sum()) for name in own)

    # It is told nothing but what it says itself, so nothing pulls it away; its own labels do.
    assert moved(found, "anchored") < 1e-6 < moved(found, "local")
    assert moved(found, "local") == pytest.approx(moved(still, "local"), rel=1e-4)


# ---- figures ---------------------------------------------------------------------------------------------------------


def test_every_figure_can_be_counted_again_from_the_files(run: Path, four: Personal, digits: Splits) -> None:
    assert json.loads((four.folder / "users.json").read_text()) == four.result
    assert four.result["arms"] == ["shared", "local", "anchored", "scratch"]
    users = artificial_users(digits, 4)
    inputs = digits.test.inputs.float() / 255
    for number, one in enumerate(four.result["users"]):
        own = torch.from_numpy(users.rows("test", number))
        assert one["examples"] == users.counts(number)
        labels = users.of(number).train.targets.tolist()
        assert one["classes"] == {str(c): labels.count(c) for c in range(10) if c in labels}
        for arm in four.result["arms"]:
            hits = []
            for seed in (0, 1):
                if arm == "shared":
                    kept = np.load(run / "eval" / f"distilled-seed-{seed}.npz")
                    said = torch.from_numpy(kept["logits"].argmax(1))
                else:
                    said = load_student(four.student(one["name"], arm, seed))(inputs).argmax(1)
                hits.append((said == digits.test.targets).double())
            assert one["accuracy"][arm]["own"] == pytest.approx(float(torch.stack(hits)[:, own].mean()), abs=1e-12)
            assert one["accuracy"][arm]["all"] == pytest.approx(float(torch.stack(hits).mean()), abs=1e-12)


def test_means_and_intervals_are_over_users(four: Personal) -> None:
    rows = [one["accuracy"] for one in four.result["users"]]
    for item in four.result["comparisons"]:
        for place in ("own", "all"):
            apart = np.array([row[item["name"]][place] - row[item["against"]][place] for row in rows])
            assert item[place]["value"] == pytest.approx(apart.mean(), abs=1e-12)
            assert (item[place]["n"], item[place]["seeds"]) == (4, 2)
            assert item[place]["method"] == "paired bootstrap over users, 400 resamples"
            drawn = stats.bootstrap((apart,), np.mean, method="percentile", n_resamples=20_000, rng=1)
            # 400 resamples of four users: the ends are some quantiles of a few dozen values.
            room = 0.35 * apart.std() + 1e-9
            assert item[place]["ci_low"] == pytest.approx(drawn.confidence_interval.low, abs=room)
            assert item[place]["ci_high"] == pytest.approx(drawn.confidence_interval.high, abs=room)
        own = np.array([row[item["name"]]["own"] - row[item["against"]]["own"] for row in rows]).round(10)
        gain, lose = int((own > 0).sum()), int((own < 0).sum())
        assert (item["gain"], item["lose"], item["same"]) == (gain, lose, 4 - gain - lose)
        expected = stats.binomtest(gain, gain + lose).pvalue if gain + lose else 1.0
        assert item["p_sign"] == pytest.approx(expected, abs=1e-12)
    pairs = [(item["name"], item["against"]) for item in four.result["comparisons"]]
    assert pairs == [("local", "shared"), ("anchored", "shared"), ("scratch", "shared"), ("anchored", "local")]
    shared = four.result["means"]["shared"]["all"]
    assert (shared["ci_low"], shared["method"]) == (None, "the same for all users")
    for arm, places in four.result["means"].items():
        assert places["own"]["value"] == pytest.approx(np.mean([row[arm]["own"] for row in rows]), abs=1e-12)


def test_the_tables_say_what_the_figures_say(four: Personal) -> None:
    page = (four.folder / "README.md").read_text()
    said = four.summary()
    for text in (page, said):
        assert "of 4 users" in text
        for one in four.result["users"]:
            [row] = [line for line in text.splitlines() if line.startswith(f"| {one['name']} ")]
            shown = [cell.strip() for cell in row.split("|")[5:-1]]
            assert shown == [f"{one['accuracy'][arm]['own'] * 100:.1f} %" for arm in four.result["arms"]]
    [warning] = four.result["warnings"]
    assert warning.startswith("There are 4 users: an interval that resamples so few")
    assert said.endswith(f"users: {four.folder / 'users.json'}")


# ---- stopping and going on -------------------------------------------------------------------------------------------


def test_the_same_call_again_does_nothing(run: Path, four: Personal) -> None:
    before, said = trained(four.folder), (four.folder / "users.json").read_bytes()
    assert len(before) == 4 * 3 * 2
    assert personalise(run, four.folder, **FOUR).result == four.result
    assert trained(four.folder) == before
    assert (four.folder / "users.json").read_bytes() == said
    assert not any((four.folder / "checkpoints").iterdir())


def test_stopped_among_users_it_goes_on_to_the_same_end(
    run: Path, four: Personal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["tutelage.run.personal"]
    save, written = module.save_student, []

    def stopped(path: Path, *more: Any) -> None:
        if len(written) == 7:  # of the third user of the first seed, one arm is written
            raise KeyboardInterrupt
        written.append(path)
        save(path, *more)

    with monkeypatch.context() as patch:
        patch.setattr(module, "save_student", stopped)
        with pytest.raises(KeyboardInterrupt):
            personalise(run, tmp_path / "stopped", **FOUR)
    assert not (tmp_path / "stopped" / "users.json").exists()
    before = trained(tmp_path / "stopped")
    found = personalise(run, tmp_path / "stopped", **FOUR)
    whole = {path: when for path, when in before.items() if "user-3" not in str(path)}
    assert len(whole) == 6
    assert {path: trained(tmp_path / "stopped")[path] for path in whole} == whole

    def timeless(result: Any) -> Any:
        return {key: value for key, value in result.items() if key not in ("wall_seconds", "command")}

    assert timeless(found.result) == timeless(four.result)
    for path in sorted(four.folder.rglob("student.safetensors")):
        other = tmp_path / "stopped" / path.relative_to(four.folder)
        assert path.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"users": 5}, "another kind\n.*division, users"),
        ({"skew": 0.5}, "another kind\n.*other division$"),
        ({"seed": 1}, "another kind\n.*division"),
        ({"weight": 0.9}, "another kind\n.*settings"),
        ({"train": ["net.head"]}, "another kind\n.*settings"),
        ({"changes": ["train.epochs=3"]}, "another recipe"),
    ],
)
def test_other_users_or_settings_need_another_folder(
    run: Path, four: Personal, changes: dict[str, Any], message: str
) -> None:
    before = trained(four.folder)
    with pytest.raises(InputError, match=f"(?m){message}"):
        personalise(run, four.folder, **FOUR | changes)
    with pytest.raises(InputError, match="another kind"):
        personalise(f"{run}:scratch", four.folder, **FOUR)
    assert trained(four.folder) == before


def test_folders_of_other_runs_are_left_alone(run: Path, tmp_path: Path) -> None:
    for out in (run, run / "users", run.parent):
        with pytest.raises(InputError, match=r"folder of their own|holds no run"):
            personalise(run, out, **ONE, overwrite=True)
    other = Path(shutil.copytree(run, tmp_path / "other"))
    with pytest.raises(InputError, match="holds no personal students"):
        personalise(run, other, **ONE)
    assert (other / "report.json").is_file()


def test_overwriting_begins_anew(run: Path, four: Personal, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(four.folder, tmp_path / "copy"))
    found = personalise(run, copy, **ONE, overwrite=True)
    assert len(found.result["users"]) == 3
    assert len(trained(copy)) == 3 * 2
    assert json.loads((copy / "users.json").read_text()) == found.result


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"anchor": "teachr"}, "did you mean `teacher`"),
        ({"weight": 0.0}, "weight of soft targets"),
        ({"weight": 1.5}, "weight of soft targets"),
        ({"temperature": 0.0}, "the temperature"),
        ({"train": "net.head"}, "a list of layers"),
        ({"train": ["net.haed"]}, "did you mean `net.head`"),
        ({"train": ["normalise"]}, "no layer|nothing of this"),
        ({"least": 1}, "so few examples"),
        ({"least": 5000}, "users have enough"),
        ({"users": 1}, "so many users"),
        ({"users": {"ids": {"1": "ann"}}}, "none of the users"),
        ({"skew": 0.0}, "the skew"),
        ({"changes": ["data.val=0.2"]}, "`data.val` is the run's"),
        ({"changes": ["student.args.width=8"]}, "`student.args.width` is the run's"),
        ({"changes": ["seeds=[7]"]}, "no student of seed 7"),
        ({"changes": ["train.epoch=1"]}, "did you mean `epochs`"),
    ],
)
def test_a_mistake_leaves_no_folder(run: Path, tmp_path: Path, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(TutelageError, match=message) as caught:
        personalise(run, tmp_path / "out", **ONE | asked)
    assert caught.value.exit_code in (2, 3)
    assert not (tmp_path / "out").exists() or os.listdir(tmp_path / "out") == [".lock"]


def test_runs_that_cannot_be_taken_up(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no finished run"):
        personalise(tmp_path / "none", tmp_path / "out", **ONE)
    with pytest.raises(InputError, match="no arm `distiled`"):
        personalise(f"{run}:distiled", tmp_path / "out", **ONE)
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["data"]["fingerprint"] = "0" * 64
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="the data has changed since the run"):
        personalise(copy, tmp_path / "out", **ONE)
    (copy / "config.yaml").write_text("# student: mlp\n# teacher: a module\n")
    with pytest.raises(InputError, match="was made in Python"):
        personalise(copy, tmp_path / "out", **ONE)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="one process"):
        personalise(run, tmp_path / "out", **ONE)
    assert not (tmp_path / "out").exists()


def test_several_tasks_are_refused(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["tutelage.run.origin"]
    begin = module.job_of_recipe

    def two(*asked: Any, **how: Any) -> Any:
        job = begin(*asked, **how)
        further = {"parity": Task(job.splits.train.targets % 2, ("even", "odd"))}
        return replace(job, splits=replace(job.splits, train=replace(job.splits.train, tasks=further)))

    monkeypatch.setattr(module, "job_of_recipe", two)
    with pytest.raises(InputError, match=r"one task, but the run's data has several\n.*label, parity"):
        personalise(run, tmp_path / "out", **ONE)


def test_an_altered_student_or_teacher_is_not_taken_up(run: Path, tmp_path: Path) -> None:
    for name in ("teacher/teacher.safetensors", "students/distilled/seed-1/student.safetensors"):
        copy = Path(shutil.copytree(run, tmp_path / name.split("/")[0]))
        raw = bytearray((copy / name).read_bytes())
        raw[-1] ^= 1
        (copy / name).write_bytes(raw)
        with pytest.raises(DamagedError, match="altered"):
            personalise(copy, tmp_path / "out", **ONE)
    assert not (tmp_path / "out").exists()


def test_names_of_students_that_are_not_there(four: Personal) -> None:
    for wrong in (("5", "local", 0), ("1", "shared", 0), ("1", "local", 9)):
        with pytest.raises(InputError, match=r"no user|has no student"):
            four.student(*wrong)


# ---- on the command line ---------------------------------------------------------------------------------------------


def test_on_the_command_line(run: Path, digits: Splits, tmp_path: Path) -> None:
    path = tmp_path / "users.json"
    path.write_text(json.dumps({"rows": [f"user {row % 3}" for row in range(1500)]}))
    words = ["personalise", f"{run}:distilled", "--users", str(path), "--out", str(tmp_path / "out"), "--quiet"]
    words += ["--set", "train.epochs=1", "--set", "seeds=[0]", "--train", "net.head", "--weight", "0.7"]
    found = call(*words)
    assert found.code == 0, found.err
    assert "‘anchored’ − ‘shared’" in found.out
    assert "| user 2 " in found.out
    said = json.loads(call(*words, "--json").out)
    assert said["folder"] == str((tmp_path / "out").absolute())
    assert [one["name"] for one in said["users"]] == ["user 0", "user 1", "user 2"]
    assert said["division"]["by"] == "file"
    unowned = sum(int((getattr(digits, part).origins >= 1500).sum()) for part in PARTS)
    assert said["division"]["unowned"] == unowned > 0
    assert any("belonged to none" in text for text in said["warnings"])
    assert said["settings"]["weight"] == 0.7
    assert said["command"] == json.loads((tmp_path / "out" / "users.json").read_text())["command"]
    assert call("personalise", str(run), "--out", str(tmp_path / "x")).code == 2
    wrong = call("personalise", str(run), "--users", "none.json", "--out", str(tmp_path / "x"))
    assert wrong.code == 2
    assert "cannot read the users in none.json" in wrong.err


def test_it_is_a_name_of_the_package() -> None:
    assert tutelage.personalise is personalise

"""Several teachers in a recipe: what is mistyped or cannot work is told early, and with whose fault it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ensemble_runs import BASE, HARD, MEMBERS, SOFT, at, empty, lines, run, save_wide, several, taught
from tutelage.errors import InputError, ModelError, RecipeError
from tutelage.recipe import Recipe, from_mapping
from tutelage.run.checks import check_recipe
from tutelage.run.job import job_of_recipe


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUTELAGE_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    save_wide(taught())
    return tmp_path


def refused(*changes: str, **keys: Any) -> str:
    with pytest.raises(InputError) as caught:
        job_of_recipe(several(*changes, **keys), trust=False)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["combine.weights={bgi: 1, wide: 2}"],
         "no teacher is called `bgi`, which has a weight\nhint: did you mean `big`?"),
        (["combine.weights={big: 1}"], "the weights name no `wide`\n  expected  one for each of wide, big"),
        (["combine.weights={big: 0, wide: 0}"], "the weights do not fit the teachers (combine)"),
        (["combine.how=mean_probability"], "hint: did you mean `mean_probabilities`?"),
        (["combine.how=mean_logits", "combine.temperature=2"], "`mean_logits` has no temperature (combine)"),
        (["combine.weight={big: 1}"], "unknown key `weight` (--set combine.weight={big: 1})\nhint: did you mean"),
        (["teacher.model=mlp", "teacher.weights=x"], "`teacher`: `teachers` is there as well"),
        (["teachers=null"], "`teachers`: expected a mapping, got nothing"),
        (["teachers={}"], "`teacher`: expected a mapping with `model`, got nothing"),
        (["teachers.Big.model=mlp"], "the name 'Big' in `teachers` cannot be used"),
        (["teachers.big.mdel=mlp"], "unknown key `mdel`"),
        (["teachers.big.model=cmn"], "unknown model 'cmn' (--set teachers.big.model=cmn)\nhint: did you mean `cnn`?"),
        (["teachers.tall={model: mlp}"], "`teachers.tall.train`: the teacher `mlp` knows nothing yet"),
        (["data.views.shift=1", "teachers.big.store={views: 2}", "teachers.wide.store={views: 3}"],
         "the stores of the teachers hold other views (teachers.wide.store.views)\n  given     big 2, wide 3"),
        (["teachers.big.store={codec: top-3}"], "`top-3` keeps a part of the classes"),
        (["combine.how=confidence", "data.views.mixup=0.2"], "weights by confidence need one label per example"),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_what_was_meant(changes: list[str], said: str) -> None:
    assert said in refused(*changes)


@pytest.mark.parametrize(
    ("term", "how", "said"),
    [
        (at("bgi.net.stages.1"), "entropy",
         "the place `bgi.net.stages.1` does not say of which teacher (arms.distilled)\n"
         "  expected  <name>.<layer> with one of big, wide, or *.<layer> for all\n"
         "hint: did you mean `big.net.stages.1`?"),
        (at("net.stages.1"), "entropy",
         "hint: for instance `big.net.stages.1`"),
        (at("big.net.stages.1"), "random_step", "one teacher speaks at a time, but it reads `big.net.stages.1`"),
        (MEMBERS, "random_example", "one teacher speaks at a time, but `adaptive_ensemble` reads every teacher"),
        ({"loss": "jacobian_matching"}, "entropy", "several teachers have no gradient at the input as one"),
    ],
)  # fmt: skip
def test_what_a_form_does_not_answer_is_refused_early(term: dict[str, Any], how: str, said: str) -> None:
    assert said in refused(f"combine.how={how}", arms={"distilled": [term, HARD]})


def test_arms_at_several_temperatures_need_a_word(place: Path) -> None:
    arms = {"warm": [SOFT], "cold": [SOFT | {"temperature": 2}]}
    said = refused(arms=arms)
    assert "at one temperature, but the arms read at several (combine.temperature)\n  given     2, 4" in said
    for change in ("combine.temperature=3", "combine.how=mean_logits"):
        job = job_of_recipe(several(change, arms=arms), trust=False)
        assert job.teacher.combine["temperature"] == (3 if "=3" in change else None)
    # What reads the members for itself does not read the mean.
    job = job_of_recipe(several(arms={"a": [SOFT, MEMBERS | {"temperature": 9}]}), trust=False)
    assert job.teacher.combine["temperature"] == 4


def test_one_teacher_has_nothing_to_combine_and_no_members() -> None:
    single = {key: value for key, value in BASE.items() if key != "teachers"} | {"teacher": BASE["teachers"]["wide"]}
    with pytest.raises(RecipeError, match="there is one teacher, and nothing to combine"):
        from_mapping(single | {"combine": {"how": "entropy"}})
    with pytest.raises(InputError, match="reads every member of an ensemble, but there is one teacher"):
        job_of_recipe(from_mapping(single | {"arms": {"a": [MEMBERS]}}), trust=False)


def test_the_same_teacher_twice_is_refused() -> None:
    big = BASE["teachers"]["big"]
    with pytest.raises(RecipeError, match="`a` and `b` are the same teacher twice\nhint: give each a `seed`"):
        several(teachers={"a": big, "b": big | {"store": "auto"}})
    assert list(several(teachers={"b": big, "a": big | {"seed": 1}}).trusted) == ["a", "b"]
    wide = BASE["teachers"]["wide"]
    with pytest.raises(RecipeError, match=r"hint: keep one of them, and say by `combine\.weights`"):
        several(teachers={"a": wide, "b": wide})


def test_a_wrong_layer_or_optimizer_of_one_is_told_before_any_is_trained(place: Path) -> None:
    tall = BASE["teachers"] | {"tall": {**BASE["teachers"]["big"], "seed": 1}}
    wrong: list[tuple[Callable[[], Recipe], str]] = [
        (lambda: several(teachers=tall, arms={"a": [at("tall.net.stage.1")]}),
         "the model has no layer `net.stage.1` (teacher tall)\nhint: did you mean `net.stages"),
        (lambda: several("teachers.tall.train.optimizer=sdg", teachers=tall), "(teacher tall"),
        (lambda: several("teachers.tall.args={witdh: 3}", teachers=tall), "witdh"),
        (lambda: several("teachers.wide.args.width=16", teachers=tall), "(teacher wide"),
    ]  # fmt: skip
    for number, (recipe, said) in enumerate(wrong):
        with pytest.raises((InputError, ModelError)) as caught:
            run(recipe(), f"out{number}")
        assert said in str(caught.value)
        assert not Path(f"out{number}/metrics.jsonl").exists()


def test_a_check_tells_of_each_teacher_what_is_wrong(place: Path) -> None:
    save_wide(empty("wide"))  # it has learned nothing
    arms = {"a": [at("big.net.stage.1")]}
    found = lines(check_recipe(several(arms=arms)), "fault")
    assert "teacher big: the model has no layer `net.stage.1`" in found
    found = lines(check_recipe(several()), "fault")
    assert "teacher wide's answers:" in found
    assert "teacher big" not in found
    (place / "wide.safetensors").unlink()
    found = lines(check_recipe(several()), "fault")
    assert "teacher wide: " in found

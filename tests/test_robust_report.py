"""Accuracy under attack in a report: measured as said, of whom it can be, once, and kept when a report is made anew."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, t
from torch import Tensor, nn

from scored_runs import CLASSES, IDS, LABELS, ROWS, make_report, make_run
from tutelage.attacks import Robustness, pgd, robust_accuracy
from tutelage.data import load, plain_batches
from tutelage.errors import InputError, RecipeError
from tutelage.evaluation import Arm, DataFacts, RunFacts
from tutelage.evaluation.rebuild import differences
from tutelage.evaluation.robust import attacked_examples, check_attackable, robust_row
from tutelage.evaluation.scorecard import scorecard
from tutelage.losses import cross_entropy
from tutelage.models import ModelSpec, build
from tutelage.recipe import Recipe, from_mapping, resumable
from tutelage.recipe.attacks import AttackSpec, RobustnessSpec
from tutelage.report import card, html
from tutelage.run import Run, load_student, run_recipe
from tutelage.run import robust as measuring
from tutelage.run.cohorts import Workshop
from tutelage.run.job import Job, job_of_recipe
from tutelage.run.rescore import rescore
from tutelage.types import Batch

TINY: dict[str, Any] = {
    "name": "tiny",
    "seeds": [0, 1],
    "data": {"source": "digits", "limit": 400},
    "teacher": {"model": "mlp", "args": {"width": 24}, "train": {"epochs": 3, "batch_size": 32, "lr": 0.01}},
    "student": {"model": "mlp", "args": {"width": 8, "depth": 1, "dropout": 0.2}},
    "train": {"epochs": 3, "batch_size": 32, "lr": 0.01},
    "compress": ["int8"],
    "report": {
        "bootstrap": 100, "latency": False, "attack": {"eps": 0.06, "steps": 5, "restarts": 2, "examples": 70},
    },
}  # fmt: skip
SETTINGS = {"eps": 0.06, "steps": 5, "step": 2.5 * 0.06 / 5, "restarts": 2, "examples": 70}


def tiny(*changes: str) -> Recipe:
    return from_mapping(TINY, changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUTELAGE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield run_recipe(tiny(), tmp_path_factory.mktemp("runs") / "tiny", quiet=True)


def rows(run: Run) -> dict[str, Any]:
    return {model["name"]: model for model in run.report["models"]}


def record(accuracy: float, **more: float) -> dict[str, Any]:
    return {"accuracy": accuracy, "fgsm": accuracy + 0.1, "clean": 0.9, **SETTINGS, **more}


# ---- what is measured ------------------------------------------------------------------------------------------------


def test_an_example_must_withstand_every_start() -> None:
    torch.manual_seed(0)
    model = build(ModelSpec("mlp", {"width": 16}), input_shape=(1, 8, 8), classes=10, mean=[0.3], std=[0.38]).eval()
    x = torch.rand(60, 1, 8, 8)
    with torch.no_grad():
        labels = model(x).argmax(1)
    batches = [Batch(labels[part], {"x": x[part]}, labels[part]) for part in (slice(0, 25), slice(25, 60))]
    found = robust_accuracy(model, batches, 0.02, 1, restarts=3, seed=4)
    generator, right = torch.Generator().manual_seed(4), 0
    for batch in batches:
        stands = torch.ones(len(batch), dtype=torch.bool)
        for _ in range(3):
            moved = pgd(
                lambda z, y=batch.target: cross_entropy(model(z), y), batch.inputs["x"], eps=0.02, steps=1,
                generator=generator,
            )  # fmt: skip
            stands &= model(moved).argmax(1) == batch.target
        right += int(stands.sum())
    assert found.pgd.value == right / 60
    assert found.restarts == 3
    once = robust_accuracy(model, batches[:1], 0.02, 1, seed=4).pgd.value
    assert robust_accuracy(model, batches[:1], 0.02, 1, restarts=20, seed=4).pgd.value < once < 1.0
    with pytest.raises(InputError, match="from 1"):
        robust_accuracy(model, batches, 0.02, restarts=0)


def test_a_run_attacks_every_file(finished: Run) -> None:
    found = rows(finished)
    assert list(found) == ["teacher", "scratch", "scratch.int8", "distilled", "distilled.int8"]
    test = load("digits").test
    order = np.argsort(test.ids.numpy())[:70]
    sample = [Batch(test.ids[order], {"x": test.inputs[order] / 255.0}, test.targets[order])]
    for name in ("scratch", "distilled", "distilled.int8"):
        arm, _, how = name.partition(".")
        for seed, run in enumerate(found[name]["runs"]):
            assert {key: run["robust"][key] for key in SETTINGS} == pytest.approx(SETTINGS)
            student = load_student(finished.student(arm, seed), compression=how)
            clean = float((student(sample[0].inputs["x"]).argmax(1) == sample[0].target).double().mean())
            assert run["robust"]["clean"] == pytest.approx(clean)
            again = robust_accuracy(student, plain_batches(attacked_examples(test, 70), 32), 0.06, 5, restarts=2)
            assert run["robust"]["accuracy"] == again.pgd.value
            assert run["robust"]["accuracy"] < run["robust"]["clean"]
    assert found["teacher"]["runs"][0]["robust"]["clean"] > found["scratch"]["robust"]["clean"]["value"]


def test_means_have_the_intervals_of_other_accuracies(finished: Run) -> None:
    row = rows(finished)["distilled"]
    values = [run["robust"]["accuracy"] for run in row["runs"]]
    own = row["robust"]
    assert {key: own[key] for key in SETTINGS} == pytest.approx(SETTINGS)
    low, high = t.interval(0.95, 1, np.mean(values), np.std(values, ddof=1) / np.sqrt(2))
    assert own["accuracy"]["value"] == pytest.approx(np.mean(values))
    assert own["accuracy"]["ci_low"] == pytest.approx(max(0.0, low))
    assert own["accuracy"]["ci_high"] == pytest.approx(min(1.0, high))
    assert own["accuracy"]["n"] == own["accuracy_items"]["n"] == 70
    single = rows(finished)["teacher"]["robust"]["accuracy_items"]
    wilson = binomtest(round(single["value"] * 70), 70).proportion_ci(method="wilson")
    assert (single["ci_low"], single["ci_high"]) == pytest.approx((wilson.low, wilson.high))


def test_a_mean_is_over_equal_attacks_only() -> None:
    assert robust_row([record(0.4), None]) is None
    assert robust_row([record(0.4), record(0.5, eps=0.1)]) is None
    assert robust_row([]) is None
    found = robust_row([record(0.4), record(0.6)])
    assert found is not None
    assert found["accuracy"]["value"] == pytest.approx(0.5)


def test_who_is_attacked_does_not_depend_on_the_order_of_rows() -> None:
    test = load("digits").test
    shuffled = test.take(torch.randperm(len(test), generator=torch.Generator().manual_seed(0)))
    assert attacked_examples(shuffled, 50).ids.tolist() == attacked_examples(test, 50).ids.tolist()
    assert len(attacked_examples(test, 10**6)) == len(test)


# ---- measured once ---------------------------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was measured, one entry for each model; the second one is interrupted the first time."""
    calls: list[str] = []

    def count(model: nn.Module, *given: Any, **more: Any) -> Robustness:
        calls.append(type(model).__name__)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return robust_accuracy(model, *given, **more)

    monkeypatch.setattr(measuring, "robust_accuracy", count)
    return calls


def test_a_run_that_goes_on_measures_nothing_twice(counted: list[str], tmp_path: Path, finished: Run) -> None:
    recipe = tiny("seeds=[0]", "compress=[]", "report.attack.steps=2")
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, tmp_path / "run", quiet=True)
    assert len(counted) == 2
    run = run_recipe(recipe, tmp_path / "run", quiet=True)
    assert len(counted) == 2 + 2  # the teacher is known, scratch and distilled are not
    assert [model["robust"]["steps"] for model in run.report["models"]] == [2, 2, 2]


def test_an_attack_may_change_while_a_run_is_under_way(counted: list[str], tmp_path: Path, finished: Run) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_recipe(tiny("seeds=[0]", "compress=[]"), tmp_path / "run", quiet=True)
    run = run_recipe(tiny("seeds=[0]", "compress=[]", "report.attack.eps=0.01"), tmp_path / "run", quiet=True)
    assert len(counted) == 2 + 3  # another attack: the teacher as well
    assert {model["robust"]["eps"] for model in run.report["models"]} == {0.01}


def test_all_keys_of_the_attack_may_change() -> None:
    assert all(resumable(f"report.attack.{key}") for key in RobustnessSpec.model_fields)
    assert resumable("report.attack")
    assert not resumable("arms.distilled.0.attack.eps")


# ---- kept ------------------------------------------------------------------------------------------------------------


def test_a_report_made_again_keeps_what_was_measured(finished: Run) -> None:
    stored = json.loads((finished.folder / "report.json").read_text())
    again = rescore(finished.folder)
    assert differences(stored, again) == []
    assert json.dumps(again) == json.dumps(stored)
    assert "robust_accuracy" in again["methods"]


def test_a_mean_that_somebody_altered_comes_out(finished: Run, tmp_path: Path) -> None:
    (tmp_path / "eval").mkdir()
    for file in (finished.folder / "eval").iterdir():
        (tmp_path / "eval" / file.name).write_bytes(file.read_bytes())
    stored = json.loads((finished.folder / "report.json").read_text())
    stored["models"][1]["robust"]["accuracy"]["value"] = 0.99
    (tmp_path / "report.json").write_text(json.dumps(stored))
    found = differences(stored, rescore(tmp_path))
    assert [line.split(":")[0] for line in found] == ["models.scratch.robust.accuracy.value"]


def test_a_run_without_an_attack_says_nothing_of_it(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    told = (
        (folder / "report.json").read_text() + (folder / "report.html").read_text() + (folder / "README.md").read_text()
    )
    assert "robust" not in told
    assert "Under attack" not in told


# ---- on whom it can be -----------------------------------------------------------------------------------------------


class Rounds(nn.Module):
    """Answers that have no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :10].detach().round()


class Unsteady(nn.Module):
    """What torch says where it cannot take a gradient twice in the same way."""

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("some_backward_cuda does not have a deterministic implementation, but you set …")


@pytest.fixture
def shop() -> Workshop:
    told: list[str] = []
    folder = SimpleNamespace(manifest={}, tell=told.append, save=lambda: None)
    made = SimpleNamespace(
        folder=folder, quiet=True, signals=SimpleNamespace(check=lambda: None),
        device=SimpleNamespace(device=torch.device("cpu")),
    )  # fmt: skip
    return cast(Workshop, made)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (Rounds, "do not depend on its inputs"),
        (lambda: None, "no module"),
        (Unsteady, "train.deterministic is on"),
    ],
)
def test_what_has_no_gradient_is_left_out_and_named(
    model: Callable[[], nn.Module | None], why: str, shop: Workshop
) -> None:
    attacks = measuring.Attacks(job(), shop)
    assert attacks("odd", model()) is None
    assert len(attacks.notices) == 1
    assert re.search(f"‘odd’ was not attacked.*{why}", attacks.notices[0])
    assert shop.folder.manifest.get("robust", {}) == {}


def test_without_an_attack_nobody_is_asked(shop: Workshop) -> None:
    attacks = measuring.Attacks(job("report.attack=null"), shop)
    assert attacks("odd", Rounds()) is None
    assert attacks.notices == []


def job(*changes: str) -> Job:
    return job_of_recipe(tiny(*changes), trust=False)


def test_inputs_without_known_ends_are_refused_before_training(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    np.savez(tmp_path / "set.npz", x=generator.normal(size=(90, 5)).astype(np.float32), y=np.arange(90) % 3)
    recipe = tiny("data.limit=null", "data.source=arrays", f"data.path={tmp_path / 'set.npz'}")
    with pytest.raises(InputError, match="where inputs end") as caught:
        job_of_recipe(recipe, trust=False)
    assert caught.value.problem.where == "report.attack"
    check_attackable(load("digits").test)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("report.attack={}", "`report.attack.eps` is missing"),
        ("report.attack={eps: 8}", "from 0 to 1"),
        ("report.attack={eps: 0.03, step: 0}", "> 0"),
        ("report.attack={eps: 0.03, restarts: 0}", "from 1 to 100"),
        ("report.attack={eps: 0.03, restart: 2}", "did you mean `restarts`"),
        ("report.attack={eps: 0.03, raises: teacher}", "raises"),
        ("report.attack=0.03", "expected a mapping with `eps`"),
    ],
)
def test_mistakes_in_the_recipe_are_told(change: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        tiny(change)


def test_the_attack_of_judging_is_stronger_than_that_of_training_by_default() -> None:
    judging, training = RobustnessSpec(eps=0.03), AttackSpec(eps=0.03)
    assert judging.steps > training.steps
    assert tiny("report.attack=null").report.attack is None


# ---- what is shown ---------------------------------------------------------------------------------------------------


def test_the_page_and_the_card_state_the_attack(finished: Run) -> None:
    page, words = html.page(finished.report), card.card(finished.report)
    section = page[page.index("<h2>Under attack") :]
    section = section[: section.index("</section>")].replace("\u00a0", " ")
    for piece in ("eps 0.06", "5 steps of 0.03", "2 random starts", "n = 70", "2 seeds", "by its own gradients"):
        assert piece in section
    for name, row in rows(finished).items():
        shown = re.search(rf">{re.escape(name)}</span></th>(.*?)</tr>", section)
        assert shown is not None
        for key in ("clean", "fgsm", "accuracy"):
            assert f"<td>{row['robust'][key]['value'] * 100:.1f} %" in shown[1]
    head, _, *lines = [line for line in words.splitlines() if line.startswith("|")]
    place = head.split(" | ").index("robust, %")
    assert place == 2
    for line, row in zip(lines, rows(finished).values(), strict=True):
        assert line.split(" | ")[place].startswith(f"{row['robust']['accuracy']['value'] * 100:.1f}")
    assert "PGD with eps 0.06, 5 steps of 0.03, from 2 random starts, on 70 test examples" in words
    assert "disturbed otherwise than by the attack" in words


def attacked(fgsm: float) -> dict[str, Any]:
    """A report whose teacher nobody could attack."""
    before, teacher, arms = make_report()
    found = [
        Arm(arm.name, [replace(one, robust=record(0.4, fgsm=fgsm)) for one in arm.students], arm.distilled)
        for arm in arms
    ]  # fmt: skip
    return scorecard(
        labels=LABELS["test"], ids=IDS["test"], classes=CLASSES, teacher=teacher, arms=found, resamples=100,
        data=DataFacts("pets", {part: [count // 4] * 4 for part, count in ROWS.items()}, "f" * 64, "e" * 64),
        run=RunFacts("small", "name: small", "tutelage run small", "import torch", before["versions"], 1.5, True),
        val_labels=LABELS["val"],
    )  # fmt: skip


def test_one_step_that_does_more_than_many_is_told() -> None:
    honest, masked = html.page(attacked(0.45)), html.page(attacked(0.2))
    assert "hides its gradients" not in honest
    assert "‘scratch’, ‘distilled’, ‘warm’ one step does more than many" in masked


def test_models_that_were_not_attacked_have_a_dash() -> None:
    report = attacked(0.45)
    assert "robust" not in report["models"][0]
    lines = [line for line in card.card(report).splitlines() if line.startswith("|")]
    assert lines[2].split(" | ")[2] == "–"
    assert lines[3].split(" | ")[2].startswith("40.0")
    section = html.page(report).partition("<h2>Under attack")[2].partition("</section>")[0]
    assert "teacher" not in section
    assert "scratch" in section

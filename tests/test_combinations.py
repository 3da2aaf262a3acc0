"""Methods that are combinations: every entry is whole, its recipe runs, and its arms listen to whom it says."""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import yaml

from command_line import call
from companion_parts import recipe, teacher_file, train
from tutelage import catalogue, costs, losses
from tutelage.combinations import FAMILIES, HEADINGS, Combination, combinations, parsed
from tutelage.companions import Listening
from tutelage.data import Batches, Splits, Views, load
from tutelage.distiller import Distiller
from tutelage.models import ModelSpec, build, save_weights
from tutelage.objective import Term
from tutelage.recipe import from_mapping
from tutelage.run import run_recipe
from tutelage.run.job import Job, job_of_recipe
from tutelage.schedules import Schedule
from tutelage.sources import Ema, FromArm, Peers, Pseudo, Route, Source

ENTRIES = {entry.name: entry for entry in combinations()}
RUNNING = [name for name, entry in ENTRIES.items() if entry.recipe]


@pytest.fixture(scope="module")
def digits() -> Splits:
    return load("digits", path=None, val=0.1, test=0.2, seed=0)


@pytest.fixture
def place(digits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that entries name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUTELAGE_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(os, "fsync", lambda _: None)  # nobody pulls the plug here, and it takes longer than the rest
    few = digits.train.take(torch.arange(97))
    np.savez("made.npz", x=few.inputs.numpy(), y=few.targets.numpy())
    np.savez("pool.npz", x=digits.train.take(torch.arange(97, 130)).inputs.numpy())
    torch.manual_seed(0)
    student = build(ModelSpec("cnn", {"width": 8}), input_shape=(1, 8, 8), classes=10, mean=[0.3], std=[0.4])
    save_weights(student, Path("student.safetensors"))
    Path("made.teacher.safetensors").write_bytes(teacher_file().read_bytes())
    return tmp_path


def merged(entry: Combination) -> dict[str, Any]:
    """A recipe on a few digits with what the entry puts into it; one epoch, whatever it asks for."""
    told: dict[str, Any] = yaml.safe_load(entry.recipe)
    assert set(told) <= {"data", "teacher", "teachers", "combine", "student", "students", "arms", "train", "report"}
    whole = recipe({})
    del whole["arms"]
    for several, one in (("teachers", "teacher"), ("students", "student")):
        if several in told:
            del whole[one]
    for key, value in told.items():
        adds = key in ("data", "train", "report") or (key == "teacher" and "model" not in value)
        whole[key] = {**whole[key], **value} if adds else value
    # A route has no more anchors than the teacher has epochs.
    learned = {"epochs": 4 if "route:" in entry.recipe else 1, "batch_size": 32, "lr": 0.003}
    for teacher in [whole["teacher"]] if "teacher" in whole else whole["teachers"].values():
        if not teacher.get("weights"):
            teacher["train"] = learned
    whole["train"] = {**whole["train"], "epochs": 1}
    if "attack" in whole["report"]:
        whole["report"]["attack"] = {**whole["report"]["attack"], "examples": 20}
    return whole


def terms_of(job: Job, arm: str) -> list[Any]:
    return list(job.arms[arm].objective.terms)


def sources_of(job: Job, arm: str) -> tuple[Source, ...]:
    return job.arms[arm].objective.sources


def weights_at(job: Job, arm: str, progress: float) -> list[float]:
    return [t.weight(progress) if isinstance(t.weight, Schedule) else t.weight for t in terms_of(job, arm)]


# ---- what is written -------------------------------------------------------------------------------------------------


def test_every_file_is_in_one_family_and_no_name_is_a_loss() -> None:
    names = [name for family in FAMILIES.values() for name in family]
    folder = Path(combinations.__code__.co_filename).parent
    assert sorted(names) == sorted(path.stem for path in folder.glob("*.md"))
    assert len(names) == len(set(names))
    assert set(names).isdisjoint(losses.__all__)
    assert [entry.name for entry in combinations()] == names


@pytest.mark.parametrize("name", ENTRIES)
def test_every_heading_says_something(name: str) -> None:
    entry = ENTRIES[name]
    assert 20 < len(entry.line) < 120
    assert entry.line.endswith(".")
    for heading in HEADINGS:
        if heading != "Recipe":
            assert len(getattr(entry, heading.lower())) > 6, heading
    assert len(entry.use.split()) > 15
    # Somebody can look it up: a number of arXiv, or where it was published.
    assert any(word in entry.reference for word in ("arXiv ", "CVPR", "NeurIPS", "ICASSP", "ICML", "KDD", "TKDE"))
    assert max(map(len, entry.recipe.splitlines()), default=0) <= 120


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# A line.\n",
        "# A line.\n\n" + "".join(f"## {heading}\n\nx\n\n" for heading in HEADINGS),  # no block
        "# A line.\n\n" + "".join(f"## {heading}\n\n```yaml\na: 1\n```\n\n" for heading in HEADINGS[:-1]),
        "# A line.\n\n" + "".join(f"## {heading}\n\n```yaml\na: 1\n```\n\n" for heading in reversed(HEADINGS)),
        "\n" + "".join(f"## {heading}\n\n```yaml\na: 1\n```\n\n" for heading in HEADINGS),
    ],
)
def test_a_file_that_is_not_whole_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"x\.md: expected"):
        parsed("x", "family", text)


def test_a_file_is_taken_apart() -> None:
    blocks = "```sh\ntutelage run\n```\n\n```yaml\na:\n  b: 1\n```\n\n"
    parts = [f"## {heading}\n\n" + (blocks if heading == "Recipe" else "x\ny\n\n") for heading in HEADINGS]
    text = "# A line.\n\n" + "".join(parts)
    found = parsed("x", "family", text)
    assert (found.line, found.equation, found.reference) == ("A line.", "x\ny", "x\ny")
    assert (found.recipe, found.commands) == ("a:\n  b: 1", "tutelage run")


# ---- what it does ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RUNNING)
def test_its_arms_learn_what_scratch_does_not(name: str, place: Path) -> None:
    if name == "low_rank_adapters":
        pytest.importorskip("peft", reason="adapters come from PEFT")
    # A student of four steps is never sure: whatever it says counts as a pseudo-label here.
    entry = replace(ENTRIES[name], recipe=ENTRIES[name].recipe.replace("pseudo: 0.3", "pseudo: 0.0"))
    found = train(merged(entry), place / "out")
    told = yaml.safe_load(ENTRIES[name].recipe)
    for student in told.get("students", {"": ()}):
        whole = f"{student}." if student else ""
        assert {f"{whole}{arm}" for arm in ("scratch", *told["arms"])} <= set(found.files)
        for arm in told["arms"]:
            assert found.files[whole + arm] != found.files[f"{whole}scratch"]
    tensors = [value for student in found.students.values() for value in student.values()]
    assert all(bool(value.isfinite().all()) for value in tensors)


@pytest.mark.parametrize("name", ["mean_of_teachers", "teacher_assistant", "noisy_student", "robust", "data_free"])
def test_its_recipe_runs_to_a_report(name: str, place: Path) -> None:
    # Those that change more than what is learned: who teaches, what is judged, of which data.
    run = run_recipe(from_mapping(merged(ENTRIES[name])), place / "out", quiet=True)
    rows = {model["method"]: model for model in run.report["models"] if model["role"] != "teacher"}
    assert set(rows) == {"scratch", *yaml.safe_load(ENTRIES[name].recipe)["arms"]}
    assert all(np.isfinite(row["metrics"]["nll"]["value"]) for row in rows.values())
    assert all(("robust" in row) is (name == "robust") for row in rows.values())


@pytest.mark.parametrize("name", [name for name, entry in ENTRIES.items() if entry.commands])
def test_its_command_does_something(name: str, place: Path) -> None:
    small = ["seeds=[0]", "data.limit=120", "teacher.train.epochs=1", "teacher.args.width=8", "train.epochs=1"]
    small += ["report.latency=false", "report.bootstrap=100"]
    for line in ENTRIES[name].commands.splitlines():
        words = shlex.split(line)
        assert words[0] == "tutelage"
        less = {"--count": "20", "--steps": "2", "--target": "0.0001", "--users": "2"}
        less |= {"--out": "other.npz"} if words[1] == "synthesize" else {}
        for option in less.keys() & set(words):
            words[words.index(option) + 1] = less[option]
        changes = ["train.epochs=1"] if words[1] == "personalise" else small
        done = call(*words[1:], *(word for one in changes for word in ("--set", one)), "--quiet")
        assert done.code == 0, done.err


def _peers(job: Job) -> bool:
    both = ["first.mutual", "second.mutual"]
    return all(sources_of(job, arm) == (Peers(),) and job.students[arm.split(".")[0]] for arm in both) and (
        {plan.start for plan in job.students.values()} == {0, 1}
    )


def _soft(job: Job, arm: str) -> list[float]:
    return [term.temperature.least for term in terms_of(job, arm) if term.temperature is not None]


SAID: Mapping[str, Callable[[Job], bool]] = {
    "deep_mutual": _peers,
    "collaborative": lambda job: [sources_of(job, f"first.{arm}") for arm in ("naive", "min-logit", "mean")]
    == [(Peers("best"),), (Peers("least_logits"),), (Peers("mean_logits"),)],
    "codistillation": lambda job: sources_of(job, "second.codistilled") == (Peers("each", 50),)
    and weights_at(job, "second.codistilled", 0.05) == [1, 0]
    and weights_at(job, "second.codistilled", 0.5) == [1, 1],
    "mean_teacher": lambda job: sources_of(job, "averaged") == (Ema(0.999),)
    and job.labelled is not None
    and 0 < len(job.labelled) < len(job.splits.train) / 4,
    "teacher_free_self": lambda job: sources_of(job, "self-taught") == (FromArm("scratch"),)
    and not job.arms["self-taught"].objective.needs_teacher,
    "born_again": lambda job: [sources_of(job, f"generation-{n}") for n in (1, 2)]
    == [(FromArm("scratch"),), (FromArm("generation-1"),)],
    "teacher_assistant": lambda job: sources_of(job, "small.assisted") == (FromArm("assistant.distilled"),)
    and job.arms["assistant.distilled"].objective.needs_teacher
    and not job.arms["small.assisted"].objective.needs_teacher,
    "densely_guided": lambda job: sources_of(job, "small.densely-guided")
    == (FromArm("large.distilled"), FromArm("middle.guided"))
    and sources_of(job, "middle.guided") == (FromArm("large.distilled"),)
    and job.arms["small.densely-guided"].objective.needs_teacher
    and sum(weights_at(job, "small.densely-guided", 0.5)) == pytest.approx(1.0),
    "mean_of_teachers": lambda job: job.teacher.combine["how"] == "mean_probabilities",
    "weighted_teachers": lambda job: job.teacher.combine["weights"] == [3, 1],
    "random_teacher": lambda job: job.teacher.combine["how"] == "random_step",
    "entropy_weighted": lambda job: job.teacher.combine["how"] == "entropy",
    "confidence_weighted": lambda job: job.teacher.combine["how"] == "confidence",
    "gradient_weighted": lambda job: "teacher_members" in job.arms["agreed"].objective.needs,
    "distribution_of_teachers": lambda job: "teacher_members" in job.arms["distribution"].objective.needs
    and [terms_of(job, "distribution")[0].temperature(p) for p in (0.0, 0.5, 1.0)] == [10, 1, 1],
    "early_stopped": lambda job: weights_at(job, "early-stopped", 0.69) == [0.9, 0.1]
    and weights_at(job, "early-stopped", 0.71) == [0, 1],
    "annealing": lambda job: weights_at(job, "annealing", 0.59) == [1, 0]
    and weights_at(job, "annealing", 0.6) == [1, 1]
    and terms_of(job, "annealing")[0].options["until"] == 0.6,
    "warmed_up": lambda job: [weights_at(job, "decoupled", p) for p in (0.0, 0.1)] == [[1, 0], [1, 1]],
    "curriculum": lambda job: terms_of(job, "plateau")[0].temperature.watches == "accuracy"
    and [t.weight(0.5, [{"val_agreement": 0.95}]) for t in terms_of(job, "follow")] == pytest.approx([0.1, 0.9])
    and [t.weight(0.5, [{"val_agreement": 0.2}]) for t in terms_of(job, "follow")] == pytest.approx([0.9, 0.1]),
    "function_matching": lambda job: job.views.mixup == 1.0
    and "target" not in job.arms["matching"].objective.needs
    and _soft(job, "matching") == [1.0],
    "model_compression": lambda job: job.labelled is not None
    and len(job.splits.train) == len(job.labelled) + 33
    and job.arms["compressed"].objective.needs == {"student_logits", "teacher_logits"},
    "noisy_student": lambda job: sources_of(job, "noisy") == (Pseudo(0.3, 130),)
    and sources_of(job, "noisy-again") == (Pseudo(0.3, None, "noisy"),),
    "stored_views": lambda job: job.recorded == 4,
    "sampled_answers": lambda job: job.store is not None and job.store.codec.name == "sample-64",
    "label_smoothing": lambda job: terms_of(job, "smoothed")[0].options == {"label_smoothing": 0.1},
    "class_weighted": lambda job: len(terms_of(job, "weighted")[1].options["class_weights"]) == 10,
    "class_balanced": lambda job: job.balance == "over",
    "data_free": lambda job: len(job.splits.train) == 97,
    "layer_by_layer": lambda job: weights_at(job, "hints", 0.2)[:2] == [1, 1]
    and weights_at(job, "hints", 0.4)[:2] == [0, 0]
    and job.teacher_places == ("net.stages.0", "net.stages.2"),
    "relational": lambda job: weights_at(job, "relational", 0.5) == [1, 25, 50],
    "tiny_bert": lambda job: set(job.teacher_places) == {"net.embed", "net.blocks.1", "net.blocks.3"}
    and weights_at(job, "tiny", 0.5) == [1, 1, 0]
    and weights_at(job, "tiny", 0.7) == [0, 0, 1],
    "distil_bert": lambda job: weights_at(job, "distil", 0.5) == [5, 2, 1] and _soft(job, "distil") == [2.0],
    "mini_lm": lambda job: job.teacher_places == ("net.blocks.3.query_key_value",),
    "gradient_matching": lambda job: "student_input_gradient" in job.arms["sobolev"].objective.needs,
    "robust": lambda job: [terms_of(job, arm)[0].attack.raises for arm in ("ard", "rslad")] == ["target", "teacher"]
    and job.attack is not None
    and job.attack.eps == 0.031,
    "route_of_checkpoints": lambda job: sources_of(job, "route") == (Route(4),)
    and not job.arms["route"].objective.needs_teacher,
    "reused_head": lambda job: job.students[""].reuse is not None
    and job.arms["reused"].objective.needs == {"matched_feature", "teacher_feature"},
    "own_average_sharpened": lambda job: sources_of(job, "sharpened") == (Ema(0.996),) and job.labelled is not None,
    "low_rank_adapters": lambda job: job.students[""].weights is not None and job.students[""].plain is not None,
}  # fmt: skip


@pytest.mark.parametrize("name", RUNNING)
def test_its_arms_are_what_it_says(name: str, place: Path) -> None:
    if name == "low_rank_adapters":
        pytest.importorskip("peft", reason="adapters come from PEFT")
    job = job_of_recipe(from_mapping(merged(ENTRIES[name])), trust=False)
    assert SAID[name](job)


def test_heads_of_relations_cut_queries_keys_and_values_apart() -> None:
    # What `mini_lm` says of 3 A heads, by hand: the mean over Q, K, V of A heads each.
    told = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 5, 3 * width, generator=told) for width in (8, 16))
    apart = [losses.relation_kl(s, t, heads=4) for s, t in zip(student.chunk(3, -1), teacher.chunk(3, -1), strict=True)]
    torch.testing.assert_close(losses.relation_kl(student, teacher, heads=12), torch.stack(apart).mean())


def test_entries_stand_in_the_list_and_are_shown_by_name() -> None:
    listed = {entry.name: entry for entry in catalogue.methods()}
    assert set(listed) == set(losses.__all__) | set(ENTRIES)
    for name, entry in ENTRIES.items():
        assert listed[name].line == entry.line
        text = call("methods", name).out
        for part in (entry.equation, entry.use, entry.defaults, entry.cost, entry.recipe, entry.reference):
            for line in part.splitlines():
                assert line.strip() in text


# ---- what it costs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("cross_entropy", "no teacher"),
        ("soft_target", "a pass of the teacher, or a row of its store; measured"),
        ("hint", "a pass of the teacher, whose layer is kept; parameters of a linear connector"),
        ("flow", "a pass of the teacher, whose layers are kept; parameters of a linear"),
        ("variational", "a pass of the teacher, whose layer is kept; parameters of a linear connector"),
        ("jacobian_matching", "a pass of the teacher and one back to the input, live; a pass through the student's"),
        ("grad_cam", "a pass of the teacher and one back to its layer, live"),
        ("introspective", "two passes of the teacher, one of them on attacked inputs, live; for each step"),
        ("adaptive_ensemble", "a pass of every teacher"),
        ("class_consistency", "no teacher; a forward pass of the student on as many other examples"),
        ("adversarial_feature", "a pass of the teacher, whose layer is kept; parameters of a judge, w = 64"),
        ("semantic_calibration", "a pass of the teacher, whose layers are kept"),
        ("progressive", "no teacher; numbers in memory: N · C; C: classes; N: training examples"),
    ],
)
def test_what_a_loss_costs_follows_from_what_it_reads(name: str, says: str) -> None:
    [line] = [line for line in call("methods", name).out.splitlines() if line.startswith("Cost: ")]
    assert line.removeprefix("Cost: ").startswith(says)


def test_measured_costs_are_those_of_losses_and_stand_in_their_cards() -> None:
    assert set(costs._measured()["extra_ms"]) <= set(losses.__all__)
    facts: dict[str, Any] = {"step_ms": 8.17, "noise_ms": 0.3, "noise_mib": 0.5}
    facts |= {"extra_ms": {"slow": 3.16, "quick": -0.1}, "extra_mib": {"slow": 19.9, "quick": 0.4}}
    beyond = "more than the 8.2 ms of a step on labels alone (cnn of width 8, batches of 128 pictures, one CPU thread)"
    with mock.patch.object(costs, "_measured", return_value=facts):
        assert costs.measured("slow") == f"measured 3.2 ms and 19.9 MiB at its peak {beyond}"
        assert costs.measured("quick") == f"measured less than 0.3 ms {beyond}"
        assert costs.measured("unknown") == ""
        assert costs.cost("quick", ["student_logits"]).startswith("no teacher; measured less")


def test_what_the_benchmark_measured_is_what_cards_read() -> None:
    file = Path(__file__).resolve().parents[1] / "benchmarks" / "methods.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_costs", file)
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    with mock.patch.dict(sys.modules, {spec.name: benchmark}):  # dataclasses look their module up
        spec.loader.exec_module(benchmark)
        results = benchmark.Results(1, 0.9, facts={"step_seconds": {"scratch": 0.008167}})
        results.seconds |= {"scratch": 0.0, "hint": 0.00392, "soft_target_t1": 0.1, "attention_transfer": 0.1}
        results.bytes |= {"scratch": 0, "hint": 22 * 2**20, "attention_transfer": None}
        found = benchmark.costs(results)
    # One loss at one temperature: what stands for several terms is no figure for a loss.
    assert (found["extra_ms"], found["extra_mib"], found["step_ms"]) == ({"hint": 3.92}, {"hint": 22.0}, 8.17)
    assert set(found) == set(costs._measured())


WIDE, NARROW, CLASSES, ROWS = 12, 8, 10, 64
ALONG = {
    # loss -> where, what its formula counts, and the letters' values
    "variational": ("net.stages.0", "log_variance", {}),
    "curriculum_temperature": ((), "temperature_parameter", {}),
    "representation_regression": ("net.stages.2", "regressed", {"c_s": 2 * NARROW, "c_t": 2 * WIDE}),
    "adversarial": ((), "judged", {"w": 64}),
    "adversarial_feature": ("net.stages.0", "judged_feature", {"w": 64}),
    "own_exits": (["net.stages.0", "net.stages.2"], "exits", {"d": 2 * NARROW, "n": NARROW}),
    "review": (["net.stages.2"], "reviewed_features", {"c_s": 2 * NARROW, "c_t": 2 * WIDE, "m": 2 * NARROW}),
}


@pytest.mark.parametrize("name", ALONG)
def test_formulas_count_what_learns_along(name: str, digits: Splits) -> None:
    at, word, letters = ALONG[name]
    few = digits.train.take(torch.arange(ROWS))
    batch = next(Batches(few, batch_size=ROWS, views=Views(), seed=0).epoch(0))
    teacher, student = (
        build(ModelSpec("cnn", {"width": width}), input_shape=(1, 8, 8), classes=10, mean=[0.3], std=[0.4])
        for width in (WIDE, NARROW)
    )
    term = Term(getattr(losses, name), at=at)
    known = (few.ids, few.targets)
    made = Distiller(student, teacher, [term], example=batch, known=known).student
    assert isinstance(made, Listening)
    found = sum(one.numel() for one in made.extras.parameters())
    values = {"c_s": NARROW, "c_t": WIDE, "C": CLASSES, "N": ROWS} | letters
    expected = eval(costs.FORMULAS[word][0].replace("·", "*").replace("²", "**2"), {}, values)  # noqa: S307
    if word == "log_variance":
        expected += NARROW * WIDE + WIDE  # its connector
    elif word == "judged_feature":
        expected += NARROW * WIDE + WIDE
    elif word == "reviewed_features":
        expected -= 4 * letters["m"] + 2  # the earliest is the only one
    assert found == expected

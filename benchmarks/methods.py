"""Every classification method on one pair of nets: what it gains, and what a step of it costs in time and memory.

A method is a table row of terms, as in a recipe. All methods of a seed are arms of one cohort: the same first weights,
batches, views and one teacher pass. The teacher learns from the whole training part (or comes from the cache of an
earlier run with the same recipe); the students learn from its first `--limit` examples.

Nobody's weight is taken on trust: `--tune` trains each method with three factors before its teaching term, on a seed
that is not among those judged, and keeps the factor that the validation part likes best. The test part is looked at
once for each method and seed, at the end.

Time is CPU time of one step (forward, loss, backward, clipping, optimizer) without the teacher's pass, in rounds in
which all methods take turns in a new order; extra is the median over rounds of the difference from `scratch` in the
same round. Memory is the high-water mark of the process during one step less what was resident before it, read as
`tutelage.evaluation.memory` does, less the same for `scratch`, and with the teacher's layers that the method reads.

    python benchmarks/methods.py --tune [--limit 12000] [--epochs 4] [--tune-epochs 2] [--seeds 3] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.data import plain_batches
from tutelage.evaluation.memory import peak_bytes
from tutelage.evaluation.predict import predict
from tutelage.evaluation.significance import Estimate, holm, over_seeds, paired_by_seed, paired_p
from tutelage.files import write_json
from tutelage.models import load_weights, parameter_count
from tutelage.recipe import from_mapping
from tutelage.run.arms import Company, batches_of, make_arm, surroundings
from tutelage.run.cohorts import Workshop, torch_settings, train_cohort
from tutelage.run.execute import facts_of
from tutelage.run.folder import RunFolder
from tutelage.run.job import Job, job_of_recipe
from tutelage.run.teacher import obtain_teacher
from tutelage.teachers import ModuleTeacher, Teacher
from tutelage.training import Arm, PlainDevice, StopSignals, make_device, suits_channels_last
from tutelage.types import Batch, Outputs

TUNING_SEED = 1_000  # far from the seeds that are judged
# Layers of the built-in `cnn`, the same paths in teacher and student.
LAST, BEFORE, MIDDLE, POOLED = "net.stages.2", "net.stages.2.4", "net.stages.1", "net.dropout"
LOGITS, FEATURES = (0.3, 1.0, 3.0), (0.1, 1.0, 10.0)  # factors that are tried

# Losses that read no teacher; the last one reads the student's own average.
_ALONE = (
    "cross_entropy", "teacher_free", "progressive", "class_consistency", "own_exits", "native_ensemble",
    "self_consistent",
)  # fmt: skip


@dataclass(frozen=True)
class Method:
    """One row: what is taught, beside how much of the labels."""

    name: str
    terms: Sequence[Mapping[str, Any]]  # as in a recipe; all are multiplied by the factor that is chosen
    labels: float = 1.0  # the weight of `cross_entropy`
    grid: Sequence[float] = LOGITS

    def arm(self, factor: float) -> list[dict[str, Any]]:
        """The terms of an arm."""
        taught = [{**term, "weight": term.get("weight", 1.0) * factor} for term in self.terms]
        return taught + ([{"loss": "cross_entropy", "weight": self.labels}] if self.labels else [])

    @property
    def asks(self) -> str:
        """What must answer: nobody, stored logits, a teacher whose layers can be listened to, or one with a graph."""
        if self.name in ("jacobian_matching", "grad_cam"):
            return "gradients"
        if all(term["loss"] in _ALONE for term in self.terms):
            return "nothing"
        return "layers" if any("at" in term for term in self.terms) else "logits"


def _soft(loss: str, temperature: float | None = None, **options: Any) -> Method:
    """A divergence in the place of soft targets: 0.9 of it, 0.1 of the labels."""
    term: dict[str, Any] = {"loss": loss, "weight": 0.9, "options": options}
    return Method(loss, [term if temperature is None else {**term, "temperature": temperature}], 0.1)


def _beside(loss: str, weight: float, **term: Any) -> Method:
    """A term beside the labels at full weight."""
    return Method(loss, [{"loss": loss, "weight": weight, **term}])


def _layer(loss: str, weight: float, *at: str, **term: Any) -> Method:
    """A term on a layer, or one term on several."""
    places = at[0] if len(at) == 1 else list(at)
    return Method(loss, [{"loss": loss, "weight": weight, "at": places, **term}], 1.0, FEATURES)


METHODS = (
    Method("scratch", [], 1.0, (1.0,)),
    Method("label_smoothing", [{"loss": "cross_entropy", "options": {"label_smoothing": 0.1}}], 0.0, (1.0,)),
    Method("teacher_free", [{"loss": "teacher_free", "weight": 0.1}], 0.9),
    # A student that teaches itself; where labels are part of the loss, nothing stands beside it.
    Method("progressive", [{"loss": "progressive"}], 0.0, (1.0,)),
    _beside("class_consistency", 1.0),
    _layer("own_exits", 1.0, "net.stages.0", MIDDLE, LAST),
    Method("native_ensemble", [{"loss": "native_ensemble", "at": "net.stages.0"}], 0.0, (1.0,)),
    _beside("self_consistent", 0.1, source="ema"),
    Method("mean_teacher", [{"loss": "soft_target", "weight": 0.5, "temperature": 2.0, "source": {"ema": 0.99}}], 0.5),
    # On logits. Plain soft targets as the CRD code base and the library itself have them.
    _soft("soft_target", 4.0),
    *(replace(_soft("soft_target", t), name=f"soft_target_t{t:g}", grid=(1.0,)) for t in (1.0, 2.0)),
    Method("hard_label", [{"loss": "hard_label", "weight": 0.5}], 0.5),
    _soft("logit_mse"),
    _soft("margin_mse"),
    _soft("reverse_soft_target", 1.0),
    _soft("jensen_shannon", 1.0),
    _soft("skewed", 1.0),
    _soft("skewed_reverse", 1.0),
    _soft("adaptive_kl", 1.0),
    _soft("multi_level"),
    _soft("curriculum_temperature"),
    _beside("adversarial", 0.1),
    _soft("binary_soft_target", 1.0),
    Method("standardized", [{"loss": "standardized", "weight": 9.0, "temperature": 2.0}], 0.1),
    _beside("decoupled", 1.0, temperature=4.0, options={"alpha": 1.0, "beta": 2.0}),
    _beside("dist", 2.0, temperature=1.0),
    _beside("normalized", 1.0),
    _beside("one_for_all", 1.0),
    _beside("weighted_soft_target", 2.5),
    _beside("transformed_teacher", 4.0, temperature=5.0),
    _beside("weighted_transformed_teacher", 4.0, temperature=5.0),
    _beside("relaxed_ranking", 0.3),
    _beside("position_weighted_ranking", 1.0),
    _beside("collaborative_ranking", 1.0),
    _layer("hint", 1.0, LAST),
    _layer("variational", 1.0, LAST),
    _layer("factor_transfer", 200.0, LAST),
    _layer("activation_boundary", 1e-3, BEFORE),
    _layer("overhaul", 1e-3, BEFORE),
    _layer("neuron_selectivity", 50.0, LAST),
    _layer("flow", 50.0, MIDDLE, LAST),
    Method("attention_transfer", [{"loss": "attention_transfer", "weight": 1e3, "at": at} for at in (MIDDLE, LAST)],
           1.0, FEATURES),
    _layer("review", 1.0, MIDDLE, LAST),
    _layer("semantic_calibration", 50.0, MIDDLE, LAST),
    _layer("representation_regression", 1.0, LAST),
    _layer("distillation_experts", 0.01, POOLED),
    _layer("hidden_mse", 1.0, POOLED),
    _layer("cosine_hidden", 1.0, POOLED),
    _layer("patient", 10.0, POOLED),
    _layer("similarity_preserving", 3000.0, LAST),
    _layer("correlation_congruence", 100.0, POOLED),
    _layer("probabilistic_transfer", 250.0, POOLED),
    _layer("relational_distance", 25.0, POOLED),
    Method("relational_angle", [{"loss": "relational_angle", "weight": 50.0, "at": POOLED},
                                {"loss": "relational_distance", "weight": 25.0, "at": POOLED}], 1.0, FEATURES),
    _layer("contrastive", 0.8, POOLED),
    _layer("contrastive_memory", 0.8, POOLED),
    _layer("info_nce", 0.8, POOLED),
    _layer("seed_similarity", 1.0, POOLED),
    _layer("compress_one_queue", 1.0, POOLED),
    _layer("compress_two_queues", 1.0, POOLED),
    _beside("jacobian_matching", 1.0),
    _layer("grad_cam", 1.0, LAST),
    _layer("adversarial_feature", 0.1, LAST),
)  # fmt: skip

_REASONS = {
    "reads tokens or their attention; the pair is convolutional": "attention_kl attention_mse relation_kl vit_mimic "
    "masked_generation",
    "reads several labels for each example; here there is one": "binary_cross_entropy",
    "reads numbers, not labels": "bounded_regression regression_mse",
    "reads every member of an ensemble; here the teacher is one net": "adaptive_ensemble ensemble_distribution",
    "compares gradients channel by channel; the widths of the pair differ": "feature_gradient_matching",
    "has two phases, which no one factor makes comparable": "annealed",
    "is for robustness to attacks, not for accuracy": "adversarially_robust robust_soft_label introspective",
}
LEFT_OUT = {name: reason for reason, names in _REASONS.items() for name in names.split()}

Arms = dict[str, list[dict[str, Any]]]


@dataclass
class Results:
    """What was found, ready for tables."""

    test: int  # examples
    teacher: float
    accuracy: dict[str, list[float]] = field(default_factory=dict)  # method -> one for each seed
    factors: dict[str, float] = field(default_factory=dict)
    tried: dict[str, dict[float, float]] = field(default_factory=dict)  # method -> factor -> validation accuracy
    seconds: dict[str, float] = field(default_factory=dict)  # method -> extra CPU seconds a step
    bytes: dict[str, int | None] = field(default_factory=dict)  # method -> extra bytes at the peak of a step
    held: dict[str, int] = field(default_factory=dict)  # method -> those of them that are the teacher's layers
    facts: dict[str, Any] = field(default_factory=dict)


def recipe(options: argparse.Namespace, arms: Arms, seeds: Sequence[int], weights: Path | None) -> dict[str, Any]:
    """The recipe of a cohort: a teacher to be trained on everything, or students of one that is there."""
    views = {"flip": 0.5, "shift": 2} if options.views == "shift" else {}
    teach = {"epochs": options.teacher_epochs, "batch_size": 128, "lr": 0.002, "warm_up": 0.05}
    origin = {"weights": str(weights)} if weights else {"train": {**teach, "optimizer_args": {"weight_decay": 0.05}}}
    limit = {"limit": options.limit} if weights else {}
    return {
        "name": "methods",
        "seeds": list(seeds),
        "data": {"source": options.source, "val": 0.1, "views": views, **limit},
        "teacher": {"model": "cnn", "args": {"width": options.teacher_width, "depth": 3}, **origin},
        "student": {"model": "cnn", "args": {"width": 8}},
        "arms": arms or {"scratch": METHODS[0].arm(1.0)},
        "train": {"epochs": options.epochs, "batch_size": 128, "lr": 0.004, "warm_up": 0.05, "checkpoint_seconds": 120},
        "threads": 1,
        "device": "cpu",
    }


def train(options: argparse.Namespace, arms: Arms, seeds: Sequence[int], home: Path) -> tuple[Job, dict[int, Any]]:
    """Train one cohort for each seed; nothing is judged on the test part."""
    job = job_of_recipe(from_mapping(recipe(options, arms, seeds, options.weights)), trust=False)
    found: dict[int, dict[str, Arm]] = {}
    with (
        RunFolder.open(home, overwrite=False, quiet=options.quiet) as folder,
        StopSignals(fix="the same command with the same --out continues") as signals,
        torch_settings(job),
    ):
        folder.begin(job.config, lambda earlier: [], facts_of(job))
        shop = Workshop(folder, make_device("cpu", precision="32"), signals, options.quiet)
        teacher = obtain_teacher(job, shop)
        options.weights = teacher.file
        for seed in seeds if arms else ():
            found[seed] = train_cohort(
                job, shop, name=f"seed-{seed}", seed=seed, train=job.train, teacher=teacher.teacher, arms=job.arms,
                builds={name: plan.build for name, plan in job.students.items()},
                company=Company(module=teacher.module),
            )  # fmt: skip
    return job, found


def tune(options: argparse.Namespace, home: Path, results: Results) -> None:
    """Choose every method's factor on the validation part."""
    arms = {f"{m.name}-{n}": m.arm(factor) for m in METHODS for n, factor in enumerate(m.grid) if len(m.grid) > 1}
    shorter = argparse.Namespace(**vars(options) | {"epochs": options.tune_epochs})
    _, found = train(shorter, arms, [TUNING_SEED], home)
    scores = {name: max(row["val_accuracy"] for row in arm.curve) for name, arm in found[TUNING_SEED].items()}
    for method in METHODS:
        if len(method.grid) > 1:
            tried = {factor: scores[f"{method.name}-{n}"] for n, factor in enumerate(method.grid)}
            results.tried[method.name] = tried
            results.factors[method.name] = chosen(tried)


def chosen(tried: Mapping[float, float]) -> float:
    """The factor of the best validation accuracy; of equals the one nearest to 1, by ratio."""
    return max(tried, key=lambda factor: (tried[factor], -abs(math.log(factor)), factor))


def judged(job: Job, module: nn.Module) -> float:
    """Accuracy on the test part."""
    logits = predict(module, plain_batches(job.splits.test, 512), torch.device("cpu"))
    return float((logits.argmax(-1) == job.splits.test.targets).double().mean())


class Step(nn.Module):
    """One step of an arm as a module, whose peak `memory.peak_bytes` can measure: it has no weights of its own."""

    def __init__(self, arm: Arm, batch: Batch, answer: Outputs) -> None:
        super().__init__()
        self.take = lambda: arm.learn(
            arm.ask(batch, answer, PlainDevice(), progress=0.5), PlainDevice(), progress=0.5, step=0
        )

    def forward(self, _: Tensor) -> None:
        self.take()


def steps_of(job: Job, teacher: Teacher) -> tuple[dict[str, Step], Batch, Outputs]:
    """A step of every method on the first batch, the teacher's answer given."""
    batches = batches_of(job, job.arms, size=job.train.batch_size, seed=0)
    batch = next(batches.epoch(0))
    answer, steps = teacher.answer(batch), {}
    company = Company(module=getattr(teacher, "module", None))
    for name, plan in job.arms.items():
        torch.manual_seed(0)
        student = job.students[plan.student].build()
        last = suits_channels_last(student, batch.inputs["x"])
        around = surroundings(job, job.arms, batch, teacher, company, size=len(batch), seed=0)
        arm = make_arm(name, plan, student, teacher, job.train, PlainDevice(), last, around=around, arms=job.arms)
        steps[name] = Step(arm, batch, answer)
    return steps, batch, answer


def measure(options: argparse.Namespace, job: Job, module: nn.Module, results: Results) -> None:
    """What a step of every method costs beyond one of `scratch`, all taking turns."""
    teacher = ModuleTeacher(module, places=job.teacher_places)
    steps, batch, answer = steps_of(job, teacher)
    inputs, names = batch.inputs["x"], list(steps)
    askers = {"teacher, listened to": teacher, "teacher, folded": ModuleTeacher(module, fold=True)}
    turns = {name: step.take for name, step in steps.items()}
    turns |= {name: lambda one=one: one.answer(batch) for name, one in askers.items()}
    taken: dict[str, list[float]] = {name: [] for name in turns}
    peaks: dict[str, list[int]] = {name: [] for name in names}
    order = random.Random(0)
    for number in range(options.rounds + 2):
        for name in order.sample(list(turns), len(turns)):
            start = time.process_time()
            for _ in range(options.steps):
                turns[name]()
            if number >= 2:  # two rounds pay for what happens only once
                taken[name].append((time.process_time() - start) / options.steps)
    for _ in range(options.memory_rounds):
        for name in order.sample(names, len(names)):
            found = peak_bytes(steps[name], inputs)
            if found is not None:
                peaks[name].append(found)
    for name in names:
        extra = [mine - own for mine, own in zip(taken[name], taken["scratch"], strict=True)]
        results.seconds[name] = statistics.median(extra)
        results.held[name] = sum(answer.features[p].nbytes for p in job.arms[name].objective.teacher_places)
        both = statistics.median(peaks[name]) - statistics.median(peaks["scratch"]) if peaks[name] else None
        results.bytes[name] = None if both is None else round(both) + results.held[name]
    results.facts["step_seconds"] = {n: statistics.median(taken[n]) for n in ("scratch", *askers)}
    results.facts["scratch_bytes"] = statistics.median(peaks["scratch"]) if peaks["scratch"] else None


def run(options: argparse.Namespace) -> Results:
    """Teacher, factors, students, their judgement, and the cost of a step."""
    root, begin = Path(options.out or tempfile.mkdtemp(prefix="tutelage-methods-")), time.monotonic()
    options.weights = None
    job, _ = train(options, {}, [0], root / "teacher")
    module = job.teacher.build() if job.teacher.build else None
    assert module is not None
    results = Results(len(job.splits.test), 0.0)
    if options.tune:
        tune(options, root / "tuning", results)
        for name, tried in results.tried.items():
            scores = ", ".join(f"×{factor:g} {100 * score:.2f} %" for factor, score in tried.items())
            print(f"tuned on validation, seed {TUNING_SEED}: {name} {scores}", flush=True)
    arms = {m.name: m.arm(results.factors.get(m.name, 1.0)) for m in METHODS}
    job, found = train(options, arms, range(options.seeds), root / "seeds")
    load_weights(module, options.weights)
    results.teacher = judged(job, module)
    for learned in found.values():
        for name, arm in learned.items():
            arm.student.load_state_dict(arm.best)
            results.accuracy.setdefault(name, []).append(judged(job, arm.student))
            results.facts.setdefault("parameters", parameter_count(arm.student))
    with torch_settings(job):
        measure(options, job, module, results)
    results.facts |= {"teacher_parameters": parameter_count(module), "seconds": time.monotonic() - begin}
    results.facts["train"], results.facts["steps"] = len(job.splits.train), options.epochs
    write_json(root / "methods.json", vars(results))
    if options.costs:
        write_json(Path(options.costs), costs(results))
    return results


def costs(results: Results) -> dict[str, Any]:
    """What a step of each method that is one loss costs beyond one of `scratch`, as `tutelage methods` reads it."""
    single = [method.name for method in METHODS if [term["loss"] for term in method.terms] == [method.name]]
    alone = sorted(set(single) & set(results.seconds))
    memory = {name: size for name in alone if (size := results.bytes.get(name)) is not None}
    return {
        "step_ms": round(1e3 * results.facts["step_seconds"]["scratch"], 2),
        "noise_ms": 0.3,
        "noise_mib": 0.5,
        "extra_ms": {name: round(1e3 * results.seconds[name], 2) for name in alone},
        "extra_mib": {name: round(size / 2**20, 1) for name, size in memory.items()},
    }


def gains(results: Results, against: str) -> dict[str, tuple[Estimate, float | None]]:
    """Method -> paired gain over another one with its interval, and p by Holm over all methods."""
    others = [name for name in results.accuracy if name != against]
    base, n = results.accuracy[against], results.test
    found = [paired_p(results.accuracy[name], base, n) for name in others]
    adjusted = holm([p for p in found if p is not None]) if None not in found else [None] * len(others)
    return {
        name: (paired_by_seed(results.accuracy[name], base, n), p) for name, p in zip(others, adjusted, strict=True)
    }


def shown(gain: tuple[Estimate, float | None] | None) -> str:
    """In points of accuracy."""
    if gain is None:
        return "–"
    estimate, p = gain[0].scaled(100), gain[1]
    if estimate.ci_low is None or estimate.ci_high is None or p is None:
        return f"{estimate.value:+.2f}"
    return f"{estimate.value:+.2f} ({estimate.ci_low:+.2f} … {estimate.ci_high:+.2f}; {p:.2f})"


def table(results: Results) -> str:
    """Markdown, the greatest gain first."""
    scratch, soft = gains(results, "scratch"), gains(results, "soft_target")
    asks = {method.name: method.asks for method in METHODS}
    lines = [
        "| method | factor | accuracy, % | gain over scratch, points (95 %; p by Holm) "
        "| over soft targets | extra ms | extra MiB | asks for |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for name in sorted(results.accuracy, key=lambda n: -statistics.mean(results.accuracy[n])):
        own = over_seeds(results.accuracy[name], results.test).scaled(100)
        spread = "" if own.ci_high is None else f" ± {own.ci_high - own.value:.2f}"
        extra = results.bytes[name]
        memory = "–" if extra is None else f"{extra / 2**20:.1f}"
        factor = f"{results.factors[name]:g}" if name in results.factors else "–"
        lines.append(
            f"| `{name}` | {factor} | {own.value:.2f}{spread} | {shown(scratch.get(name))} | {shown(soft.get(name))} "
            f"| {1e3 * results.seconds[name]:.2f} | {memory} | {asks[name]} |".replace("-", "−")
        )
    return "\n".join(lines)


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", default="fashion-mnist")
    parser.add_argument("--views", choices=["none", "shift"], default="shift")
    parser.add_argument("--tune", action="store_true", help="choose factors on the validation part first")
    sizes = {
        "limit": 12_000, "epochs": 4, "seeds": 3, "teacher-width": 64, "teacher-epochs": 12, "tune-epochs": 2,
        "rounds": 15, "steps": 5, "memory-rounds": 7,
    }  # fmt: skip
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--out", help="a folder in which a killed run continues")
    parser.add_argument("--costs", metavar="FILE", help="also write what steps cost: src/tutelage/measured.json")
    parser.add_argument("--quiet", action="store_true")
    return parser.parse_args(arguments)


def main() -> None:
    options = parsed()
    torch.set_num_threads(1)
    results = run(options)
    print(f"{table(results)}\n\nteacher {100 * results.teacher:.2f} % of {results.test:,} test images")
    print(json.dumps(results.facts))


if __name__ == "__main__":
    main()

"""How fast the models of a run are, side by side: from their files, in turns, on one machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import nn

from tutelage.errors import InputError, ModelError
from tutelage.evaluation.cost import Latency, multiply_adds, parameters, speed_ratio, summary, timings
from tutelage.files import human_bytes, read_json, read_text
from tutelage.models import ModelSpec, build, load_weights
from tutelage.recipe import from_text
from tutelage.run.students import load_student

__all__ = ["Bench", "Timed", "bench_run"]

_EXAMPLES = 64


@final
@dataclass(frozen=True, slots=True)
class Timed:
    """One model: what it costs to keep and to ask."""

    name: str
    parameters: int
    multiply_adds: int  # for one example
    file_bytes: int
    latency: tuple[Latency, ...]
    faster: tuple[tuple[float, float, float] | None, ...]  # than the teacher, with its 95 % interval; by batch size


@final
@dataclass(frozen=True, slots=True)
class Bench:
    """The models of one run, the teacher first where it could be built."""

    folder: Path
    threads: int
    models: tuple[Timed, ...]
    notices: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        models = [asdict(model) for model in self.models]
        return {"folder": str(self.folder), "threads": self.threads, "models": models, "notices": list(self.notices)}

    def summary(self) -> str:
        """A table for a person."""
        head = f"{'model':<14} {'parameters':>11} {'mult.-adds':>12} {'file':>10}"
        lines = [f"{head}   p50, p90 in ms, and how many times faster"]
        for model in self.models:
            start = f"{model.name:<14} {model.parameters:>11,} {model.multiply_adds:>12,}"
            start += f" {human_bytes(model.file_bytes):>10}"
            for one, ratio in zip(model.latency, model.faster, strict=True):
                than = "" if ratio is None else f"   {ratio[0]:.2f}× ({ratio[1]:.2f} … {ratio[2]:.2f})"
                lines.append(f"{start}   batch {one.batch:<4} {one.p50_ms:8.3f} {one.p90_ms:8.3f}{than}")
                start = " " * len(start)
        first = self.models[0].latency[0]
        lines.append(
            f"\non this machine's CPU, {self.threads} thread{'s' * (self.threads > 1)}, in turns, "
            f"{first.n:,} calls each at batch {first.batch}; intervals are 95 %"
        )
        return "\n".join([*lines, *(f"notice: {text}" for text in self.notices)])


def bench_run(
    folder: Path | str,
    *,
    batch_sizes: Sequence[int] = (1, 64),
    threads: int = 1,
    seconds: float = 10.0,
    trust: bool = False,
) -> Bench:
    """Time the teacher and one student of every arm of a finished run, from their files, in turns.

    Args:
        folder: of the run.
        batch_sizes: examples per call.
        threads: of torch, the same for all.
        seconds: in all.
        trust: whether code that the run's recipe named may run to build its models.

    Raises:
        InputError: the folder holds no finished run, or an option is out of range.
        ModelError: no model of it can be built again.
        DamagedError: a file is not what it was.
    """
    home = Path(folder).expanduser()
    if not (home / "report.json").is_file():
        raise InputError(f"no finished run in {folder}", expected="a run's folder, with its report.json")
    if not batch_sizes or min(batch_sizes) < 1 or threads < 1 or not seconds > 0:
        raise InputError(
            "these timings cannot be made",
            given=f"batch sizes {tuple(batch_sizes)}, {threads} threads, {seconds} seconds",
            expected="batch sizes and threads ≥ 1, seconds > 0",
        )
    files, models, notices = _models(home, trust)
    if not models:
        raise ModelError(f"no model of {folder} can be built again", given="\n            ".join(notices))
    shape = _input_shape(home)
    inputs = torch.rand(max(_EXAMPLES, *batch_sizes), *shape, generator=torch.Generator().manual_seed(0))
    times = timings(models, inputs, batch_sizes, threads=threads, seconds=seconds)
    found = []
    for name, model in models.items():
        faster = [
            None if name == "teacher" or "teacher" not in own else speed_ratio(own["teacher"], own[name])
            for own in times.values()
        ]
        spread = tuple(summary(own[name], batch, threads) for batch, own in times.items())
        counted = multiply_adds(model, inputs[:1])
        size = files[name].stat().st_size
        found.append(Timed(name, parameters(model), counted, size, spread, tuple(faster)))
    return Bench(home, threads, tuple(found), tuple(notices))


def _models(home: Path, trust: bool) -> tuple[dict[str, Path], dict[str, nn.Module], list[str]]:
    """Files and models by name, and why some are missing."""
    files: dict[str, Path] = {}
    models: dict[str, nn.Module] = {}
    notices: list[str] = []
    facts = _first_facts(home)
    weights = home / "teacher" / "teacher.safetensors"
    if weights.is_file() and facts is not None and facts.get("model") is not None:
        recipe = from_text(read_text(home / "config.yaml"), str(home / "config.yaml"))
        teacher = build(
            ModelSpec(recipe.teacher.model, recipe.teacher.args, None), input_shape=tuple(facts["input_shape"]),
            classes=len(facts["classes"]), mean=facts["mean"], std=facts["std"], trust=trust, role="teacher",
        )  # fmt: skip
        load_weights(teacher, weights)
        files["teacher"], models["teacher"] = weights, teacher.eval()
    else:
        notices.append("the teacher came from Python, so it cannot be built from the run's folder")
    for arm in sorted((home / "students").glob("*")):
        seed = min(arm.glob("seed-*"), key=lambda path: int(path.name.removeprefix("seed-")), default=None)
        if seed is None:
            continue
        try:
            models[arm.name] = load_student(seed, trust=trust)
            files[arm.name] = seed / "student.safetensors"
        except ModelError as error:
            notices.append(error.problem.what)
    return files, models, notices


def _first_facts(home: Path) -> dict[str, Any] | None:
    path = next(iter(sorted(home.glob("students/*/seed-*/student.json"))), None)
    return None if path is None else read_json(path)


def _input_shape(home: Path) -> tuple[int, ...]:
    facts = _first_facts(home)
    assert facts is not None
    return tuple(facts["input_shape"])

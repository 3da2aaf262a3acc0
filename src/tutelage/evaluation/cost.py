"""What a model costs to keep and to ask: parameters, bytes on disk, and time, memory and energy of a call.

Times of two models mean something only side by side: one thread for all, warmed up, in turns of random order, so that a
clock that drifts or a neighbour that wakes up hits every model alike.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tutelage.errors import InputError
from tutelage.evaluation.energy import Energy, Meter, meter
from tutelage.evaluation.memory import peak_bytes

WARM_UP = 10  # calls of every model, and more while WARM_SECONDS last
WARM_SECONDS = 1.0
LEAST_ROUNDS = 5
MOST_ROUNDS = 1000
LEAST_FOR_P99 = 370  # calls: with fewer, the 95 % interval of a 99th percentile has no upper end (0.99^n > 2.5 %)
_RESAMPLES = 1000
_ENERGY_SHARE = 0.2  # of the time for measuring


@dataclass(frozen=True, slots=True)
class Latency:
    """One model at one batch size: milliseconds per call, and what else a call takes.

    The first interval is that of the median. The ratio says how many times faster than the reference model it is that
    was timed in the same rounds; None for the reference itself, and where there is none.
    """

    batch: int
    p50_ms: float
    ci_low_ms: float
    ci_high_ms: float
    p90_ms: float
    n: int  # timed calls
    threads: int
    p95_ms: float | None = None
    p99_ms: float | None = None  # None below `LEAST_FOR_P99` calls
    speed_ratio: float | None = None
    speed_low: float | None = None
    speed_high: float | None = None
    peak_bytes: int | None = None  # of weights and one pass; None where nobody tells
    energy: Energy | None = None  # for 1,000 examples

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def every_core() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parameters(model: nn.Module) -> int:
    """How many numbers the model learned; a shared tensor counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_adds(model: nn.Module, example: Tensor) -> int:
    """Multiply-adds of the matrix products and convolutions of one forward pass for one example.

    Args:
        model: to be counted, in evaluation mode; its mode is restored.
        example: (1, …), on the model's device.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with _quiet([model], torch.get_num_threads()), FlopCounterMode(display=False) as counter:
        model(example)
    return int(counter.get_total_flops()) // 2


def speed_ratio(slow: Sequence[float], fast: Sequence[float], *, seed: int = 0) -> tuple[float, float, float]:
    """How many times faster one of two models is that were timed in turns: ratio of medians, with its 95 % interval.

    Args:
        slow: (n,) times of the one, round by round.
        fast: (n,) times of the other in the same rounds.
        seed: of the bootstrap.

    The bootstrap draws rounds, so that a moment that was slow for both is drawn for both.
    """
    pairs = np.stack([np.asarray(slow), np.asarray(fast)])
    draws = np.random.default_rng(seed).integers(0, pairs.shape[1], size=(_RESAMPLES, pairs.shape[1]))
    medians = np.median(pairs[:, draws], axis=2)
    low, high = np.percentile(medians[0] / medians[1], [2.5, 97.5])
    middle = np.median(pairs, axis=1)
    return float(middle[0] / middle[1]), float(low), float(high)


def file_bytes(path: Path) -> int:
    """Bytes of the file that ships."""
    return path.stat().st_size


def latency(
    models: Mapping[str, nn.Module],
    example_batch: Tensor,
    *,
    batch_sizes: Sequence[int] = (1, 64),
    threads: int = 1,
    seconds: float = 3.0,
    reference: str | None = None,
    seed: int = 0,
) -> dict[str, list[Latency]]:
    """Time every model on the same inputs, in turns: a list by batch size for every name.

    Args:
        models: name -> model; all are timed in evaluation mode, and their mode is restored.
        example_batch: (N, …) inputs on the models' device; repeated or cut to each batch size.
        batch_sizes: examples per call.
        threads: intra-op threads while timing; restored afterwards.
        seconds: aim for the total, of which a fifth measures energy. It is exceeded only by models so slow that a few
            rounds take longer.
        reference: which model the others are held against; nobody is where it is not among them.
        seed: for the order of turns and the bootstrap.

    Raises:
        InputError: no models, no examples, or a batch size below 1.
    """
    if not models or example_batch.shape[0] == 0 or min(batch_sizes, default=0) < 1:
        raise InputError(
            "nothing to time",
            given=f"{len(models)} models, {example_batch.shape[0]} examples, batch sizes {tuple(batch_sizes)}",
            expected="at least one model, one example, and batch sizes of 1 or more",
        )
    found: dict[str, list[Latency]] = {name: [] for name in models}
    gauge, budget = _gauge(example_batch.device), seconds / len(batch_sizes)
    gauge.rest(min(1.0, seconds / 10))
    with _quiet(models.values(), threads):
        for batch in batch_sizes:
            inputs = example_batch[torch.arange(batch, device=example_batch.device) % example_batch.shape[0]]
            shuffler = random.Random(seed)  # noqa: S311  an order of turns is no secret
            times = _in_turns(models, inputs, budget * (1 - _ENERGY_SHARE), shuffler)
            base = None if reference is None else times.get(reference)
            share = budget * _ENERGY_SHARE / len(models)
            # After the stopwatch, and memory last: each disturbs what comes before.
            energies = {name: _energy(model, inputs, gauge, share) for name, model in models.items()}
            for name, model in models.items():
                one = summary(times[name], batch, threads, seed)
                if base is not None and name != reference:
                    ratio, low, high = speed_ratio(base, times[name], seed=seed)
                    one = replace(one, speed_ratio=ratio, speed_low=low, speed_high=high)
                found[name].append(replace(one, peak_bytes=peak_bytes(model, inputs), energy=energies[name]))
    return found


def _in_turns(
    models: Mapping[str, nn.Module], inputs: Tensor, budget: float, shuffler: random.Random
) -> dict[str, list[float]]:
    """Seconds per call for every model; a round calls each once, in a fresh order."""
    start = time.perf_counter()
    end = start + budget
    warm = start + min(WARM_SECONDS, budget / 3)
    done = 0
    while done < WARM_UP or time.perf_counter() < warm:
        if done >= 2 and time.perf_counter() > end:  # a giant on one thread: better a short warm-up than minutes
            break
        for model in models.values():
            _timed(model, inputs)
        done += 1
    names, times = list(models), {name: list[float]() for name in models}
    for done in range(MOST_ROUNDS):
        if done >= LEAST_ROUNDS and time.perf_counter() > end:
            break
        shuffler.shuffle(names)
        for name in names:
            times[name].append(_timed(models[name], inputs))
    return times


def _timed(model: nn.Module, inputs: Tensor) -> float:
    start = time.perf_counter()
    model(inputs)
    if inputs.device.type == "cuda":
        torch.cuda.synchronize(inputs.device)
    return time.perf_counter() - start


def _gauge(device: torch.device) -> Meter:
    if device.type != "cuda":
        return meter()
    return meter(gpu=f"GPU-{torch.cuda.get_device_properties(device).uuid}")


def _energy(model: nn.Module, inputs: Tensor, gauge: Meter, budget: float) -> Energy:
    """Energy for 1,000 examples, over one stretch of calls, since a counter cannot follow single ones."""
    calls, end = 0, time.perf_counter() + budget
    with gauge:
        while calls == 0 or time.perf_counter() < end:
            _timed(model, inputs)
            calls += 1
    return gauge.energy.scaled(1000 / (calls * inputs.shape[0]))


def summary(seconds: Sequence[float], batch: int, threads: int, seed: int = 0) -> Latency:
    """Percentiles of times per call, and the interval of their median."""
    milliseconds = np.asarray(seconds) * 1e3
    p50, p90, p95, p99 = (float(value) for value in np.percentile(milliseconds, [50, 90, 95, 99]))
    draws = np.random.default_rng(seed).choice(milliseconds, size=(_RESAMPLES, milliseconds.size))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    n = int(milliseconds.size)
    tail = p99 if n >= LEAST_FOR_P99 else None
    return Latency(batch, p50, float(low), float(high), p90, n, threads, p95_ms=p95, p99_ms=tail)


@contextlib.contextmanager
def _quiet(models: Iterable[nn.Module], threads: int) -> Iterator[None]:
    """Evaluation mode, pinned threads, no gradient and no garbage collection, all restored at the end."""
    held = list(models)
    modes = [(module, module.training) for model in held for module in model.modules()]
    before, collecting = torch.get_num_threads(), gc.isenabled()
    try:
        torch.set_num_threads(threads)
        gc.disable()
        for model in held:
            model.eval()
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(before)
        if collecting:
            gc.enable()
        for module, mode in modes:
            module.training = mode

"""One step of tutelage against the same step written by hand: the whole loop, with everything that listens to it.

Both sides train the same student on the same batches with the same fused optimizer, learning-rate schedule and loss;
the hand-written loop does what a careful person would write, and no more: no checks, no progress, no checkpoints.
Blocks of steps alternate in one process, in an order that changes, so that a drifting clock or a busy neighbour hits
both; what is compared is CPU time, block by block.

    python benchmarks/step.py [--rounds 15] [--steps 200] [--threads 1]
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.data import Batches, Examples, Views
from tutelage.distiller import Distiller
from tutelage.losses import cross_entropy, soft_target
from tutelage.models import ModelSpec, build, parameter_count
from tutelage.objective import Objective, Term
from tutelage.teachers import ModuleTeacher, TableTeacher, Teacher
from tutelage.training import (
    Arm,
    Checkpoints,
    Cohort,
    MetricsFile,
    PlainDevice,
    Progress,
    StopSignals,
    fit,
    learning_rate,
    make_optimizer,
)

EXAMPLES, CLASSES, LR, TEMPERATURE = 6_400, 10, 1e-3, 4.0


def examples() -> Examples:
    """Noise with the shape of Fashion-MNIST: what a step costs does not depend on what is in the pictures."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (EXAMPLES, 1, 28, 28), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, CLASSES, (EXAMPLES,), generator=generator)
    return Examples.make(images, labels, [str(n) for n in range(CLASSES)], "noise")


def model(name: str, **args: object) -> nn.Module:
    """A built-in net for these pictures."""
    torch.manual_seed(0)
    return build(ModelSpec(name, args), input_shape=(1, 28, 28), classes=CLASSES, mean=[0.5], std=[0.3])


def ours(data: Examples, student: nn.Module, teacher: Teacher, batch: int) -> Callable[[int], None]:
    """Blocks of steps by `fit`, with all that a run listens with."""
    objective = Objective([Term(soft_target, 0.9, TEMPERATURE), Term(cross_entropy, 0.1)])
    optimizer = make_optimizer("adamw", student.parameters(), lr=LR)
    arm = Arm("distilled", Distiller(student, teacher, objective), optimizer, learning_rate("cosine", optimizer, lr=LR))
    cohort = Cohort("benchmark", 0, [arm], teacher)
    folder = Path(tempfile.mkdtemp())
    signals = StopSignals("again")
    listeners = [
        signals,
        Checkpoints(folder / "checkpoints", seconds=1e9),
        MetricsFile(folder / "metrics.jsonl"),
        Progress(lambda _: None),
    ]

    class Block:
        """`steps` steps of an endless training, as one epoch."""

        def __init__(self, steps: int) -> None:
            self.batches = Batches(data, batch_size=batch, views=Views(), seed=0)
            self.steps_per_epoch = steps

        def epoch(self, epoch: int, *, start: int = 0) -> Iterator[object]:
            done = 0
            while done < self.steps_per_epoch:
                for found in self.batches.epoch(epoch + done):
                    if done == self.steps_per_epoch:
                        return
                    done += 1
                    yield found

    def run(steps: int) -> None:
        cohort.at.epoch, cohort.at.within, cohort.at.step = 0, 0, 0
        # Neither the checkpoint at the end nor the validation is part of a step.
        heard = [listener for listener in listeners if not isinstance(listener, Checkpoints)]
        fit(cohort, Block(steps), lambda _: {"accuracy": 0.0, "nll": 0.0}, PlainDevice(), epochs=1, listeners=heard)

    return run


def by_hand(
    data: Examples, student: nn.Module, answer: Callable[[Tensor, Tensor], Tensor], batch: int
) -> Callable[[int], None]:
    """The same steps, written out."""
    inputs, labels = data.inputs.float().div_(255.0), data.targets
    optimizer = torch.optim.AdamW(student.parameters(), lr=LR, fused=True)
    generator = torch.Generator().manual_seed(0)

    def run(steps: int) -> None:
        student.train()
        done, running = 0, 0.0
        while done < steps:
            order = torch.randperm(len(inputs), generator=generator)
            for start in range(0, len(inputs), batch):
                if done == steps:
                    break
                rows = order[start : start + batch]
                x, y = inputs[rows], labels[rows]
                with torch.no_grad():
                    taught = answer(rows, x)
                logits = student(x)
                soft = F.kl_div(
                    F.log_softmax(logits / TEMPERATURE, -1),
                    F.log_softmax(taught / TEMPERATURE, -1),
                    reduction="batchmean",
                    log_target=True,
                )
                loss = 0.9 * TEMPERATURE**2 * soft + 0.1 * F.cross_entropy(logits, y)
                optimizer.zero_grad()
                loss.backward()
                for group in optimizer.param_groups:
                    group["lr"] = LR * 0.5 * (1 + math.cos(math.pi * done / steps))
                optimizer.step()
                running += loss.item()
                done += 1

    return run


def compare(name: str, left: Callable[[int], None], right: Callable[[int], None], rounds: int, steps: int) -> None:
    """Print the ratio of CPU times, block by block."""
    ratios, seconds = [], {"ours": [], "by hand": []}
    for _ in range(3):
        left(steps // 4)
        right(steps // 4)
    for _ in range(rounds):
        taken = {}
        for which, run in random.sample([("ours", left), ("by hand", right)], 2):
            start = time.process_time()
            run(steps)
            taken[which] = (time.process_time() - start) / steps * 1e3
        ratios.append(taken["ours"] / taken["by hand"])
        for which, value in taken.items():
            seconds[which].append(value)
    low, high = statistics.quantiles(ratios, n=4)[0], statistics.quantiles(ratios, n=4)[2]
    print(
        f"{name:<34} ours {statistics.median(seconds['ours']):7.3f} ms   by hand "
        f"{statistics.median(seconds['by hand']):7.3f} ms   ratio {statistics.median(ratios):.3f} "
        f"(quartiles {low:.3f} … {high:.3f}, {rounds} rounds)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    random.seed(0)
    data = examples()
    small: dict[str, object] = {"width": 12, "depth": 2}
    size = parameter_count(model("cnn", **small))
    print(f"student {size:,} parameters, batch {options.batch}, {options.threads} thread(s)")
    stored = torch.randn(len(data), CLASSES)
    compare(
        "cached logits",
        ours(data, model("cnn", **small), TableTeacher(data.ids, stored), options.batch),
        by_hand(data, model("cnn", **small), lambda rows, _: stored[rows], options.batch),
        options.rounds,
        options.steps,
    )
    teacher = model("cnn", width=32, depth=3).eval()
    compare(
        f"live teacher ({parameter_count(teacher):,} parameters)",
        ours(data, model("cnn", **small), ModuleTeacher(teacher), options.batch),
        by_hand(data, model("cnn", **small), lambda _, x: teacher(x), options.batch),
        options.rounds,
        options.steps,
    )


if __name__ == "__main__":
    main()

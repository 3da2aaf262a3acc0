"""Two arms in one cohort with a live teacher, against the same two arms trained one after the other.

In a cohort the teacher is asked once for both arms, and batches and views are made once. Both sides alternate in one
process; CPU time is compared round by round.

    python benchmarks/cohort.py [--rounds 7] [--steps 60] [--threads 1]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence

import torch

import step as by_step
from tutelage.data import Batches, Examples, Views
from tutelage.distiller import Distiller
from tutelage.losses import cross_entropy, decoupled, soft_target
from tutelage.objective import Objective, Term
from tutelage.teachers import ModuleTeacher, Teacher
from tutelage.training import Arm, Cohort, PlainDevice, fit, learning_rate, make_optimizer

OBJECTIVES = {
    "soft_target": Objective([Term(soft_target, 0.9, 4.0), Term(cross_entropy, 0.1)]),
    "decoupled": Objective([Term(decoupled, 1.0), Term(cross_entropy, 1.0)]),
}


def train(data: Examples, teacher: Teacher, names: Sequence[str], batch: int) -> float:
    """CPU seconds of one epoch with these arms."""
    arms = []
    for name in names:
        student = by_step.model("cnn")
        optimizer = make_optimizer("adamw", student.parameters(), lr=1e-3)
        rate = learning_rate("cosine", optimizer, lr=1e-3)
        arms.append(Arm(name, Distiller(student, teacher, OBJECTIVES[name]), optimizer, rate))
    batches = Batches(data, batch_size=batch, views=Views(flip=0.5, shift=2), seed=0)
    start = time.process_time()
    fit(Cohort("c", 0, arms, teacher), batches, lambda _: {"accuracy": 0.0, "nll": 0.0}, PlainDevice(), epochs=1)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    whole = by_step.examples()
    data = whole.take(torch.arange(options.steps * options.batch))
    both = list(OBJECTIVES)
    for width in (32, 64):
        teacher = ModuleTeacher(by_step.model("cnn", width=width), fold=True)
        ratios = []
        for _ in range(options.rounds + 1):
            together = train(data, teacher, both, options.batch)
            apart = sum(train(data, teacher, [name], options.batch) for name in both)
            ratios.append(together / apart)
        ratios = ratios[1:]  # the first round pays for allocations
        print(
            f"teacher width {width}: one cohort / two runs, CPU time: median {statistics.median(ratios):.3f} "
            f"({min(ratios):.3f} … {max(ratios):.3f}, {options.rounds} rounds)"
        )


if __name__ == "__main__":
    main()

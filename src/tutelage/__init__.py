"""tutelage: turn a large model you trust into a small one you can ship, and say honestly what it cost.

    import tutelage
    run = tutelage.distill(teacher, student, data, epochs=10, out="runs/first")
    print(run.verdict)

Names are loaded when they are first used, so that the command line answers `--help` without importing torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tutelage.distiller import Distiller
    from tutelage.objective import Objective, Term
    from tutelage.run import Run, distill, run_recipe
    from tutelage.run.iterate import iterate
    from tutelage.run.personal import personalise
    from tutelage.types import Batch, Outputs, Sampled, Step, TopK

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "Distiller",
    "Objective",
    "Outputs",
    "Run",
    "Sampled",
    "Step",
    "Term",
    "TopK",
    "distill",
    "iterate",
    "personalise",
    "run_recipe",
]

_HOMES = {
    "Batch": "types",
    "Distiller": "distiller",
    "Objective": "objective",
    "Outputs": "types",
    "Run": "run",
    "Sampled": "types",
    "Step": "types",
    "Term": "objective",
    "TopK": "types",
    "distill": "run",
    "iterate": "run",
    "personalise": "run",
    "run_recipe": "run",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"tutelage.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'tutelage' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])

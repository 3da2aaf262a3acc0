"""Attacking what a run judges: every model by its own gradients, on the first test examples, once for each file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any, final

from torch import nn

from tutelage.attacks import robust_accuracy
from tutelage.data import plain_batches
from tutelage.errors import ModelError
from tutelage.evaluation.robust import Record, attacked_examples
from tutelage.models import state_digest
from tutelage.progress import Meter
from tutelage.run.cohorts import Workshop
from tutelage.run.job import Job
from tutelage.types import Batch

__all__ = ["Attacks"]


@final
class Attacks:
    """Attacks the models of a run, one after the other, as the job asks.

    What was measured is kept in the manifest, so that a run which goes on measures nothing twice.

    Args:
        job: whose `attack` says how; None attacks nobody.
        shop: where the run works.
    """

    def __init__(self, job: Job, shop: Workshop) -> None:
        self.notices: list[str] = []  # what readers of the report must know
        self._plan, self._shop = job.attack, shop
        self._batch_size = job.train.batch_size  # this many fit with gradients, for training has shown it
        self._test = job.splits.test if job.attack is None else attacked_examples(job.splits.test, job.attack.examples)

    def __call__(self, name: str, model: nn.Module | None) -> Record | None:
        """Attack one model.

        Args:
            name: what it is called, with its seed.
            model: on the run's device; None where there is only something that answers.

        Returns:
            The record of `evaluation.robust`; None where nobody is to be attacked, or this one cannot be.
        """
        if self._plan is None:
            return None
        try:
            return self._known(name, self._differentiable(model))
        except ModelError as error:
            why = error.problem.what
        except RuntimeError as error:
            # A teacher that was never trained here may hold an operation that training would have refused.
            if "deterministic" not in str(error):
                raise
            why = "it has an operation whose gradient is not deterministic, and train.deterministic is on"
        self.notices.append(f"‘{name}’ was not attacked, so its robust accuracy is unknown: {why}.")
        return None

    @staticmethod
    def _differentiable(model: nn.Module | None) -> nn.Module:
        if model is None:
            raise ModelError("it is no module that gradients could be taken of")
        return model

    def _known(self, name: str, model: nn.Module) -> Record:
        """What was measured of these very weights in this very way, or what is measured now."""
        assert self._plan is not None
        folder, plan = self._shop.folder, self._plan.model_dump(mode="json")
        asked = {"weights": state_digest(model), "examples": self._test.fingerprint, "attack": plan}
        key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]
        kept: dict[str, Any] = folder.manifest.setdefault("robust", {})
        if kept.get(name, {}).get("key") != key:
            kept[name] = {"key": key, "record": self._measured(name, model)}
            folder.save()
        record: Record = kept[name]["record"]
        folder.tell(
            f"{name}: {record['accuracy']:.2%} right under attack (eps {record['eps']:g}, {record['steps']} steps), "
            f"{record['clean']:.2%} of these {record['examples']:,} examples as they are"
        )
        return record

    def _measured(self, name: str, model: nn.Module) -> dict[str, Any]:
        assert self._plan is not None
        plan, total = self._plan, len(self._test)
        with Meter(
            f"attacking {name}", total, unit="examples", tell=self._shop.folder.tell, quiet=self._shop.quiet
        ) as m:
            found = robust_accuracy(
                model, self._batches(m), plan.eps, plan.steps, step=plan.step, restarts=plan.restarts,
                device=self._shop.device.device,
            )  # fmt: skip
        return {
            "accuracy": found.pgd.value, "fgsm": found.fgsm.value, "clean": found.clean.value, "eps": found.eps,
            "steps": found.steps, "step": found.step, "restarts": found.restarts, "examples": total,
        }  # fmt: skip

    def _batches(self, meter: Meter) -> Iterator[Batch]:
        for batch in plain_batches(self._test, self._batch_size):
            self._shop.signals.check()
            yield batch
            meter.advance(len(batch))

"""What a run's training took in energy, epoch by epoch, kept in the manifest so that a run that goes on adds to it."""

from __future__ import annotations

from typing import final

import torch

from tutelage.evaluation.energy import Meter, meter
from tutelage.run.folder import RunFolder
from tutelage.training import Cohort, Listener, Moment

__all__ = ["EnergyRecord"]


@final
class EnergyRecord(Listener):
    """Adds every epoch's joules to the manifest; what a killed run spent on an unfinished epoch is not counted.

    Read once an epoch, since the counters of a processor wrap around.
    """

    def __init__(self, folder: RunFolder, device: torch.device) -> None:
        self._folder = folder
        gpu = str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else None
        self._meter: Meter = meter(gpu=gpu)

    def on_start(self, cohort: Cohort, at: Moment) -> None:
        self._meter.__enter__()

    def on_epoch_end(self, cohort: Cohort, at: Moment) -> None:
        self._meter.__exit__()
        spent, before = self._meter.energy, self._folder.manifest.get("energy", {"joules": 0.0})
        self._folder.manifest["energy"] = spent.to_json() | {"joules": round(before["joules"] + spent.joules, 3)}
        self._folder.save()
        self._meter.__enter__()

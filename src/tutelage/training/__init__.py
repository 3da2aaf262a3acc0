"""Training: the cohort of arms, the one loop, what listens to it, and the device it runs on."""

from tutelage.training.arm import Arm, Stop
from tutelage.training.checkpoint import Checkpoints
from tutelage.training.device import Device, PlainDevice
from tutelage.training.engines import make_device
from tutelage.training.loop import Cohort, Listener, Moment, fit
from tutelage.training.optim import learning_rate, make_optimizer
from tutelage.training.probe import pays_channels_last, suits_channels_last
from tutelage.training.progress import MetricsFile, Progress
from tutelage.training.signals import StopSignals
from tutelage.training.trackers import Trackers, check_trackers, open_trackers

__all__ = [
    "Arm",
    "Checkpoints",
    "Cohort",
    "Device",
    "Listener",
    "MetricsFile",
    "Moment",
    "PlainDevice",
    "Progress",
    "Stop",
    "StopSignals",
    "Trackers",
    "check_trackers",
    "fit",
    "learning_rate",
    "make_device",
    "make_optimizer",
    "open_trackers",
    "pays_channels_last",
    "suits_channels_last",
]

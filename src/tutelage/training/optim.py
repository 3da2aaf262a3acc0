"""Optimizers and learning-rate schedules by the names torch gives them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, cast, final

import torch
from torch import nn

from tutelage.errors import InputError, nearest
from tutelage.schedules import Schedule, cosine, linear

__all__ = ["LearningRate", "learning_rate", "make_optimizer", "optimizer_names", "scheduler_names"]


def optimizer_names() -> dict[str, type[torch.optim.Optimizer]]:
    """Lower-case name -> class, for all optimizers of torch that need no closure."""
    found = {
        name.lower(): cls
        for name, cls in vars(torch.optim).items()
        if inspect.isclass(cls) and issubclass(cls, torch.optim.Optimizer) and cls is not torch.optim.Optimizer
    }
    found.pop("lbfgs", None)  # calls the model several times a step, which a shared teacher pass cannot serve
    return found


def scheduler_names() -> dict[str, type[torch.optim.lr_scheduler.LRScheduler]]:
    """Lower-case name -> class, for all schedulers of torch whose arguments can stand in a file."""
    wrappers = {"lrscheduler", "lambdalr", "multiplicativelr", "sequentiallr", "chainedscheduler"}
    return {
        name.lower(): cls
        for name, cls in vars(torch.optim.lr_scheduler).items()
        if inspect.isclass(cls)
        and issubclass(cls, torch.optim.lr_scheduler.LRScheduler)
        and name.lower() not in wrappers
        and not name.startswith("_")
    }


def make_optimizer(
    name: str, parameters: Iterable[nn.Parameter], *, lr: float, **options: Any
) -> torch.optim.Optimizer:
    """Any optimizer of torch by name, in its fused form where it has one.

    Raises:
        InputError: no such optimizer, or it does not take an option.
    """
    known = optimizer_names()
    if name.lower() not in known:
        raise InputError(f"no optimizer `{name}`", where="train.optimizer", fix=nearest(name, known))
    cls = known[name.lower()]
    trainable = [p for p in parameters if p.requires_grad]
    takes = set(inspect.signature(cls).parameters) - {"params", "lr"}
    for unknown in sorted(set(options) - takes):
        raise InputError(
            f"{cls.__name__} has no option `{unknown}`", where="train.optimizer_args", fix=nearest(unknown, takes)
        )
    # Fused kernels halve the optimizer's share of a small step; `foreach` and `fused` exclude each other.
    if "fused" in takes and "fused" not in options and not options.get("foreach"):
        options["fused"] = True
    try:
        made: torch.optim.Optimizer = cast(Any, cls)(trainable, lr=lr, **options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{cls.__name__} refuses its options: {error}", where="train.optimizer_args") from error
    return made


class LearningRate(Protocol):
    """Sets the learning rate of an optimizer as training goes on."""

    def before_step(self, optimizer: torch.optim.Optimizer, progress: float) -> None: ...

    def after_step(self) -> None: ...

    def after_epoch(self, scores: Mapping[str, float]) -> None: ...

    def state(self) -> dict[str, Any]: ...

    def load_state(self, state: Mapping[str, Any]) -> None: ...


def learning_rate(
    name: str | None,
    optimizer: torch.optim.Optimizer,
    *,
    lr: float,
    warm_up: float = 0.0,
    interval: str = "epoch",
    **options: Any,
) -> LearningRate:
    """A schedule of the learning rate: "constant", "cosine", "linear", or any scheduler of torch by name.

    Args:
        name: None means constant.
        optimizer: whose rate is set.
        lr: the peak.
        warm_up: share of training, 0 … 1, over which the rate rises from 0; only for our own three.
        interval: for torch's schedulers, whether they count steps or epochs.
        options: arguments of torch's scheduler.

    Raises:
        InputError: no such schedule, or it refuses its options.
    """
    own = {"constant": linear(1.0, 1.0), "cosine": cosine(1.0, 0.0), "linear": linear(1.0, 0.0)}
    key = (name or "constant").lower()
    if key in own:
        if options:
            raise InputError(f"`{key}` takes no options", where="train.scheduler_args", given=", ".join(options))
        return _ByProgress(own[key], lr, warm_up)
    known = scheduler_names()
    if key not in known:
        raise InputError(f"no scheduler `{name}`", where="train.scheduler", fix=nearest(key, {**own, **known}))
    if warm_up:
        raise InputError(
            f"train.warm_up does not go with torch's {known[key].__name__}", fix="use cosine, linear or constant"
        )
    return _ByTorch(known[key], optimizer, interval, options)


@final
class _ByProgress:
    """A pure function of progress: nothing to save."""

    def __init__(self, shape: Schedule, lr: float, warm_up: float) -> None:
        self._shape, self._lr, self._warm_up = shape, lr, warm_up

    def before_step(self, optimizer: torch.optim.Optimizer, progress: float) -> None:
        warm = self._warm_up
        if progress < warm:
            rate = self._lr * progress / warm
        else:
            rate = self._lr * self._shape((progress - warm) / (1.0 - warm) if warm < 1.0 else 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate

    def after_step(self) -> None: ...

    def after_epoch(self, scores: Mapping[str, float]) -> None: ...

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None: ...


@final
class _ByTorch:
    """A scheduler of torch, whose own counters are saved."""

    def __init__(
        self,
        cls: type[torch.optim.lr_scheduler.LRScheduler],
        optimizer: torch.optim.Optimizer,
        interval: str,
        options: Mapping[str, Any],
    ) -> None:
        try:
            self._scheduler = cls(optimizer, **options)
            json.dumps(self.state())
        except (TypeError, ValueError) as error:
            raise InputError(f"{cls.__name__} refuses its options: {error}", where="train.scheduler_args") from error
        self._every_step = interval == "step"

    def before_step(self, optimizer: torch.optim.Optimizer, progress: float) -> None: ...

    def after_step(self) -> None:
        if self._every_step:
            self._scheduler.step()

    def after_epoch(self, scores: Mapping[str, float]) -> None:
        if self._every_step:
            return
        if isinstance(self._scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self._scheduler.step(scores["nll"])
        else:
            self._scheduler.step()

    def state(self) -> dict[str, Any]:
        return {k: v for k, v in self._scheduler.state_dict().items() if not callable(v)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._scheduler.load_state_dict(dict(state))

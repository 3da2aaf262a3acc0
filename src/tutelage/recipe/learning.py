"""What a recipe says of training: how long, by which optimizer, and when to stop."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from tutelage.errors import InputError
from tutelage.recipe.kinds import Arguments, Count, Identifier, NotNegative, Positive, Precision, Probability, Section

__all__ = ["Stop", "Train"]


class Stop(Section):
    """When to stop before the last epoch; judged on the validation part."""

    patience: Count | None = None
    """Stop after this many epochs without improvement."""
    target: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    """Stop once this validation accuracy is reached."""
    metric: Literal["accuracy", "nll"] = "accuracy"
    """What improvement means, and by what the best epoch is chosen."""


class Train(Section):
    """How a model is trained."""

    epochs: Count
    """Passes over the training examples."""
    batch_size: Annotated[int, Field(ge=2)] = 64
    """Examples per step."""
    optimizer: Identifier = "adamw"
    """The optimizer by name."""
    lr: Positive = 0.001
    """The greatest learning rate."""
    optimizer_args: Arguments = Field(default_factory=dict)
    """Further arguments of the optimizer, such as weight_decay or momentum."""
    scheduler: Identifier | None = "cosine"
    """cosine, linear, constant, or a class of torch.optim.lr_scheduler."""
    scheduler_args: Arguments = Field(default_factory=dict)
    """Arguments of that class."""
    scheduler_interval: Literal["step", "epoch"] = "epoch"
    """Whether a class of torch counts steps or epochs; the three others move every step."""
    warm_up: Probability = 0.0
    """The share of training during which the learning rate rises; for cosine, linear and constant."""
    clip: Positive | None = None
    """The greatest gradient norm."""
    precision: Precision = "32"
    """The number format of the forward pass."""
    stop: Stop = Stop()
    """When to stop before the last epoch."""
    channels_last: Literal["auto", "on", "off"] = "auto"
    """The memory layout of images."""
    deterministic: bool = True
    """Whether the same seed must give the same numbers, at some cost in speed."""
    checkpoint_seconds: NotNegative = 30.0
    """At most this much work is lost when a run is killed."""
    engine: Literal["plain", "fabric"] = "plain"
    """Plain torch, or Lightning Fabric for many devices; a run has one, that of the students' training."""

    @field_validator("warm_up")
    @classmethod
    def _warm_up_fits(cls, warm_up: float, info: ValidationInfo) -> float:
        scheduler = info.data.get("scheduler")
        if warm_up > 0 and scheduler is not None and scheduler.lower() not in ("cosine", "linear", "constant"):
            raise InputError(
                f"the scheduler {scheduler} has no warm-up",
                fix="leave `warm_up` out, or use cosine, linear or constant",
            )
        return warm_up

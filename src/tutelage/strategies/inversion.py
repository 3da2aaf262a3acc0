"""Examples made from nothing but a teacher: inputs that are changed until it sees in them what was asked for.

Nobody's data is needed, which is the point, and none comes back: what is made are pictures that the teacher takes for
its classes and whose statistics inside it are those that it remembers. What a student learns from them must be judged
on real examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor, nn

from tutelage.attacks import answering
from tutelage.data import Examples, as_model_input
from tutelage.data.draws import mix
from tutelage.errors import InputError, ModelError, TrainingError
from tutelage.losses import cross_entropy
from tutelage.models import Classifier, state_digest
from tutelage.progress import Meter
from tutelage.strategies.synthesis_losses import (
    LayerInputs,
    batch_statistics,
    contrast,
    disagreement,
    length,
    variation,
)
from tutelage.training.device import resolve_device

__all__ = ["Inversion", "Priors", "agreement", "class_names", "differentiable", "invert"]

Ask = Callable[[Tensor], Tensor]
_TOLD = 512
_REMEMBERED = 4096


@final
@dataclass(frozen=True, slots=True)
class Priors:
    """What made-up inputs should be, besides being what was asked for: weights, 0 for those that do not count.

    Args:
        statistics: agreement with the teacher's batch norms, `batch_statistics`.
        variation: smoothness of pictures, `variation`.
        length: smallness, `length`.
        competition: disagreement with a student, `disagreement` of kind "js"; counts only where there is one.
        contrast: difference from all that was made so far, `contrast` of the teacher's last feature behind a small head
            that learns along; 0.8 in contrastive model inversion. Costs as much again, and needs `shift` or `flip`.

    Raises:
        InputError: one is negative or no number.
    """

    statistics: float = 1.0
    variation: float = 0.0
    length: float = 0.0
    competition: float = 1.0
    contrast: float = 0.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if not 0.0 <= value < math.inf:
                raise InputError(f"the weight `{name}` is out of range", given=value, expected="a number ≥ 0")


@final
@dataclass(frozen=True, slots=True)
class Inversion:
    """How inputs are made.

    Args:
        steps: of Adam for every batch, ≥ 1; each costs the teacher a forward and a backward pass.
        lr: its learning rate at the start, > 0; it falls to 0 along half a cosine.
        batch_size: how many are made together, ≥ 2. Statistics are those of a batch, so it should hold every class
            several times.
        shift: by how many pixels at most a batch is moved at every step, ≥ 0, so that nothing hangs on one place.
        flip: whether it is mirrored at every second step by chance; not for digits or letters.
        bounds: between which numbers inputs lie; None leaves them free, for features that are no pictures.
        priors: what else they should be.

    Raises:
        InputError: an option out of range.
    """

    steps: int = 200
    lr: float = 0.1
    batch_size: int = 200
    shift: int = 2
    flip: bool = False
    bounds: tuple[float, float] | None = (0.0, 1.0)
    priors: Priors = field(default_factory=Priors)

    def __post_init__(self) -> None:
        at_least = (("steps", self.steps, 1), ("batch_size", self.batch_size, 2), ("shift", self.shift, 0))
        for name, value, least in at_least:
            if value < least or value % 1:
                raise InputError(f"{name} is out of range", given=value, expected=f"a whole number ≥ {least}")
        if not 0.0 < self.lr < math.inf:
            raise InputError("the learning rate is out of range", given=f"lr={self.lr}", expected="lr > 0")
        if self.bounds is not None and not -math.inf < self.bounds[0] < self.bounds[1] < math.inf:
            raise InputError("bounds are two numbers that rise", given=self.bounds, expected="for instance (0, 1)")


def invert(
    teacher: nn.Module,
    count: int,
    shape: Sequence[int],
    classes: int | Sequence[str],
    *,
    settings: Inversion | None = None,
    student: nn.Module | None = None,
    seed: int = 0,
    device: str = "auto",
    as_bytes: bool | None = None,
    tell: Callable[[str], None] = lambda _: None,
    quiet: bool = True,
) -> Examples:
    """Make examples that a teacher takes for its classes, every class alike (DeepInversion).

    Args:
        teacher: maps (B, *shape) to logits (B, C); asked in eval mode, and unchanged afterwards.
        count: how many, ≥ 2.
        shape: of one input: (channels, height, width), or any other for features.
        classes: their names in the order of the logits, or how many there are.
        settings: how.
        student: where given, inputs are sought on which it disagrees with the teacher (adaptive DeepInversion); asked
            in eval mode and unchanged as well.
        seed: of all that is random; the same seed gives the same examples on the same machine.
        device: auto, cpu, cuda, cuda:N or mps.
        as_bytes: round to uint8 images, as pictures usually are; by default where shape and bounds allow it.
        tell: takes one line for the log.
        quiet: show no progress.

    Returns:
        The examples; a target is the class that was asked for. How often the teacher agrees is told, and
        `agreement(teacher, examples)` computes it: what it does not agree with, it could not be brought to see.

    Raises:
        InputError: a count, shape or option out of range.
        ModelError: the teacher cannot be differentiated, answers with another number of classes, or was changed.
        TrainingError: a loss that is no finite number.

    References:
        Yin and others 2020, arXiv 1912.08795; for `contrast` Fang and others 2021, arXiv 2105.08584, whose inputs come
        from a generator that starts anew for every batch, while these are changed themselves.
    """
    chosen, names, shape = settings or Inversion(), class_names(classes), tuple(shape)
    if count < 2 or not shape or min(shape) < 1:
        raise InputError("there is nothing to make", given=f"{count} examples of shape {shape}", expected="two or more")
    whole = len(shape) == 3 and chosen.bounds == (0.0, 1.0) if as_bytes is None else as_bytes
    if whole and (len(shape) != 3 or chosen.bounds != (0.0, 1.0)):
        raise InputError(
            "only pictures between 0 and 1 can be rounded to bytes", given=f"shape {shape}, bounds {chosen.bounds}",
            fix="pass as_bytes=False",
        )  # fmt: skip
    place = resolve_device(device)
    before = state_digest(differentiable(teacher, "teacher").to(place))
    labels = torch.arange(count) % len(names)
    batches = labels.tensor_split(math.ceil(count / chosen.batch_size))
    made: list[Tensor] = []
    meter = Meter("inversion", len(batches) * chosen.steps, unit="step", tell=tell, quiet=quiet)
    with answering(teacher) as ask, LayerInputs(teacher) as inputs, meter:
        _probe(ask, shape, len(names), place)
        if chosen.priors.statistics and not inputs.has_norms:
            tell("the teacher has no batch norms that remember its data, so inputs are held to its answers alone")
        memory = _Memory(ask, inputs, shape, place, seed) if chosen.priors.contrast else None
        for number, wanted in enumerate(batches):
            maker = _Maker(chosen, teacher, ask, inputs, student, memory)
            generator = torch.Generator().manual_seed(int(mix(seed, number)) >> 1)
            x = maker.make(wanted.to(place), shape, generator, meter.advance)
            if memory is not None:
                memory.keep(x)
            made.append((x * 255.0).round().to(torch.uint8).cpu() if whole else x.cpu())
    if state_digest(teacher) != before:
        raise ModelError("the teacher changed while inputs were made", fix="look for a forward pass that updates it")
    examples = Examples.make(torch.cat(made), labels, names, "made by inversion")
    tell(f"{count:,} examples made; the teacher takes {agreement(teacher, examples):.1%} of them for what was asked")
    return examples


def agreement(teacher: nn.Module, examples: Examples) -> float:
    """The share of examples, as they are stored, whose label is the teacher's first choice."""
    place, right = _place(teacher), 0
    with answering(teacher) as ask, torch.no_grad():
        for start in range(0, len(examples), _TOLD):
            part = slice(start, start + _TOLD)
            answers = ask(as_model_input(examples.inputs[part].clone()).to(place)).argmax(-1).cpu()
            right += int((answers == examples.targets[part]).sum())
    return right / len(examples)


def class_names(classes: int | Sequence[str]) -> list[str]:
    """Names of classes, or their numbers where only how many is known.

    Raises:
        InputError: there are fewer than two.
    """
    names = [str(number) for number in range(classes)] if isinstance(classes, int) else list(classes)
    if len(names) < 2:
        raise InputError("there is nothing to tell apart", given=f"{len(names)} classes", expected="two or more")
    return names


def differentiable(model: nn.Module, role: str) -> nn.Module:
    """The model itself, where gradients can pass through it.

    Raises:
        ModelError: it is no torch module, such as answers that were stored.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"the {role} cannot be differentiated", given=type(model).__name__,
            expected="a torch module, whose gradients tell how an input has to change", fix="pass the module itself",
        )  # fmt: skip
    return model


@dataclass(frozen=True, slots=True, eq=False)
class _Maker:
    """One batch of inputs."""

    settings: Inversion
    teacher: nn.Module
    ask: Ask
    inputs: LayerInputs
    student: nn.Module | None
    memory: _Memory | None

    def make(
        self, wanted: Tensor, shape: tuple[int, ...], generator: torch.Generator, done: Callable[[], None]
    ) -> Tensor:
        """Inputs (B, *shape) for labels (B,)."""
        settings = self.settings
        x = self._start((len(wanted), *shape), generator).to(wanted.device).requires_grad_()
        optimizer = torch.optim.Adam([x], lr=settings.lr, betas=(0.5, 0.9))
        for step in range(settings.steps):
            loss = self._loss(x, wanted, generator)
            # With respect to the inputs alone: nothing else is given a gradient, whatever it requires.
            head = [] if self.memory is None else list(self.memory.head.parameters())
            x.grad, *rest = torch.autograd.grad(loss, [x, *head])
            if self.memory is not None:
                self.memory.learn(rest)
            if not math.isfinite(float(loss.detach())):
                raise TrainingError("inputs ran away from the teacher", where=f"step {step}", fix="lower lr")
            optimizer.param_groups[0]["lr"] = settings.lr * 0.5 * (1.0 + math.cos(math.pi * step / settings.steps))
            optimizer.step()
            if settings.bounds is not None:
                with torch.no_grad():
                    x.clamp_(*settings.bounds)
            done()
        return x.detach()

    def _loss(self, x: Tensor, wanted: Tensor, generator: torch.Generator) -> Tensor:
        priors = self.settings.priors
        seen = self._moved(x, generator)
        self.inputs.forget()
        logits = self.ask(seen)
        loss = cross_entropy(logits, wanted)
        if priors.statistics and self.inputs.has_norms:
            loss = loss + priors.statistics * batch_statistics(self.inputs.norms())
        if priors.variation and x.ndim == 4 and min(x.shape[2:]) > 1:
            loss = loss + priors.variation * variation(x)
        if priors.length:
            loss = loss + priors.length * length(x)
        if self.memory is not None:
            first = self.inputs.feature()
            loss = loss + priors.contrast * self.memory.contrast(first, self._moved(x, generator))
        if self.student is not None and priors.competition:
            with answering(self.student) as ask_student:
                loss = loss + priors.competition * disagreement(ask_student(seen), logits, "js")
        return loss

    def _start(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Noise as spread as the data that the teacher was trained on, where it says how spread that was."""
        noise = torch.randn(shape, generator=generator)
        if isinstance(self.teacher, Classifier):
            mean, std = (part.cpu() for part in (self.teacher.normalise.mean, self.teacher.normalise.std))
            noise = mean + std * noise
        elif self.settings.bounds is not None:
            low, high = self.settings.bounds
            noise = low + (high - low) * (0.5 + 0.25 * noise)
        return noise if self.settings.bounds is None else noise.clamp(*self.settings.bounds)

    def _moved(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """The whole batch a little elsewhere, and perhaps mirrored; pictures only."""
        if x.ndim != 4:
            return x
        reach = self.settings.shift
        if reach:
            down, right = torch.randint(-reach, reach + 1, (2,), generator=generator).tolist()
            x = x.roll((down, right), (2, 3))
        if self.settings.flip and bool(torch.randint(2, (), generator=generator)):
            x = x.flip(3)
        return x


class _Memory:
    """The features of all that was made so far, and the head that learns to tell one input from another."""

    def __init__(self, ask: Ask, inputs: LayerInputs, shape: tuple[int, ...], place: torch.device, seed: int) -> None:
        self._ask, self._inputs = ask, inputs
        self.bank = self._feature(torch.zeros(1, *shape, device=place)).detach()[:0]
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.head = nn.Sequential(nn.Linear(self.bank.shape[1], 64), nn.ReLU(), nn.Linear(64, 64)).to(place)
        self._optimizer = torch.optim.Adam(self.head.parameters(), lr=0.001)

    def contrast(self, first: Tensor, other: Tensor) -> Tensor:
        """Of the features (B, D) of one view, and the inputs of another."""
        return contrast(self.head(first), self.head(self._feature(other)), self.head(self.bank))

    def learn(self, gradients: Sequence[Tensor]) -> None:
        """One step of the head."""
        for parameter, gradient in zip(self.head.parameters(), gradients, strict=True):
            parameter.grad = gradient
        self._optimizer.step()

    def keep(self, x: Tensor) -> None:
        """Remember what was made."""
        with torch.no_grad():
            self.bank = torch.cat([self.bank, self._feature(x)])[-_REMEMBERED:]

    def _feature(self, x: Tensor) -> Tensor:
        self._inputs.forget()
        self._ask(x)
        return self._inputs.feature().flatten(1)


def _probe(ask: Ask, shape: tuple[int, ...], classes: int, place: torch.device) -> None:
    """Before anything is made: the teacher has these classes, and its answers lead back to its inputs."""
    x = torch.full((2, *shape), 0.5, device=place).requires_grad_()
    logits = ask(x)
    if logits.shape[1] != classes:
        raise ModelError(
            "the teacher has another number of classes than was asked for", given=f"{logits.shape[1]} logits",
            expected=f"{classes}",
        )  # fmt: skip
    found = torch.autograd.grad(logits.sum(), [x], allow_unused=True) if logits.requires_grad else [None]
    if found[0] is None:
        raise ModelError(
            "the teacher's answers do not depend on its inputs through anything that has a gradient",
            expected="a model whose operations can all be differentiated, and that was not rounded to int8",
        )


def _place(model: nn.Module) -> torch.device:
    return next((part.device for part in model.parameters()), torch.device("cpu"))

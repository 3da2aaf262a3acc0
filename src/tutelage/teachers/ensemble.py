"""Many teachers are one teacher: members are asked, and their answers become one, as `COMBINATIONS` says.

A student that learns from the mean of probabilities has the gradient of one that learns from each member and averages
the losses; the values differ by how far the members are apart.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from tutelage.data.draws import Stream, mix, uniform
from tutelage.errors import InputError, ModelError, nearest
from tutelage.losses.targets import as_float, dense
from tutelage.teachers.combining import (
    BY_TASK,
    TAKES,
    by_confidence,
    by_entropy,
    check_options,
    mean_logits,
    mean_probabilities,
    shares_of,
)
from tutelage.teachers.protocol import Teacher, as_teacher
from tutelage.types import Batch, Outputs, Sampled

__all__ = ["EnsembleTeacher", "Panel", "places_of_each"]


@final
class EnsembleTeacher:
    """Several teachers of the same classes as one.

    Members' features are answered as "<name>.<place>", where a member without a name has its number, from 0; the random
    forms answer none, since another member speaks each time. Members may be anything that answers with all logits:
    modules, tables, stores, ensembles.

    Args:
        teachers: the members, at least one.
        how: a key of `COMBINATIONS`; or "tasks", where each member answers a task of its own, in their order.
        weights: one number ≥ 0 for each member, made to add up to 1; equal where left out. For means, how much a member
            counts; for the random forms, how often it is drawn. `entropy` and `confidence` find their own.
        temperature: at which a loss will read the answer, 1 where left out; for all that take a mean of probabilities.
            The answer at this T is exactly the mean of the members' softmax(z / T). At another one it is that mean
            raised to a power: a softened mean, not the mean of softened answers. Weights by entropy and confidence are
            of temperature 1.
        seed: of the random forms, 0 where left out. Who is drawn for an example depends on (seed, view, id), for a
            batch on (seed, view, its ids): the same in every arm, run and process. Where views are not random, an
            example keeps its member in all epochs.
        places: layers of members that are torch modules, as "<name>.<path or pattern>", or "*.<pattern>" of all.
        names: what places and messages call the members, one each, without a point; their numbers where left out.

    Raises:
        InputError: no members, an unknown form, an option that is out of range or means nothing for this form, or not
            one name for each.
        ModelError: a place that no layer has.
    """

    def __init__(
        self,
        teachers: Sequence[Teacher | nn.Module],
        *,
        how: str = "mean_probabilities",
        weights: Sequence[float] | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        places: Sequence[str] = (),
        names: Sequence[str] | None = None,
    ) -> None:
        if not isinstance(teachers, Sequence) or not teachers:
            raise InputError(
                "an ensemble needs at least one teacher",
                given=len(teachers) if isinstance(teachers, Sequence) else type(teachers).__name__,
                expected="a list of teachers",
            )
        check_options(how, {"weights": weights, "temperature": temperature, "seed": seed})
        self.names = _names(names, len(teachers))
        own = places_of_each(places, self.names)
        self.how = how
        self.temperature = 1.0 if temperature is None else float(temperature)
        self.seed = 0 if seed is None else int(seed)
        self.weights = shares_of(weights, len(teachers))
        self.members = tuple(as_teacher(one, own[name]) for name, one in zip(self.names, teachers, strict=True))
        self._classes: tuple[int, int] | None = None  # of the first member that answered: its number, its classes

    @property
    def reads_labels(self) -> bool:
        """Whether its answers know the label: no measure of what it knows, and only for examples that are learned."""
        return self.how == "confidence"

    @property
    def by_example(self) -> bool:
        """Whether an example's answer is the same in whatever batch it comes, so that it can be stored."""
        return self.how != "random_step" and all(getattr(member, "by_example", True) for member in self.members)

    def judged(self) -> EnsembleTeacher:
        """The same members as they are scored: the mean of all at temperature 1, without labels and without chance."""
        how = self.how if self.how in ("mean_logits", "entropy", BY_TASK) else "mean_probabilities"
        members = [one.judged() if isinstance(one, EnsembleTeacher) else one for one in self.members]
        return EnsembleTeacher(members, how=how, weights=self.weights if "weights" in TAKES[how] else None)

    def panel(self) -> Panel | None:
        """The members' modules as one module that answers as `judged`; None where a member is no module."""
        modules: list[nn.Module] = []
        for member in self.members:
            one = member.panel() if isinstance(member, EnsembleTeacher) else getattr(member, "module", None)
            if not isinstance(one, nn.Module):
                return None
            modules.append(one)
        return Panel(modules, self.judged())

    def answer(self, batch: Batch) -> Outputs:
        """The combined logits (B, C), the members' logits (M, B, C), and their features.

        Raises:
            ModelError: members answer with other numbers of classes, or not with all logits.
            InputError: weights by confidence need labels, and the batch has mixed ones.
        """
        with torch.no_grad():
            if self.how == "random_example":
                return Outputs(self._by_drawn(batch))
            if self.how == "random_step":
                number = int(self.drawn(batch)[0])
                answer = self.members[number].answer(batch)
                return Outputs(self._logits(number, answer, len(batch)), counts=answer.counts)
            answers = [member.answer(batch) for member in self.members]
            heard = [one.counts for one in answers if one.counts is not None]
            # Where one of them has no say, nothing can be combined: neither has the ensemble.
            counts = torch.stack(heard).all(0) if heard else None
            logits = [self._logits(number, answer, len(batch)) for number, answer in enumerate(answers)]
            kind = _common_type(logits)
            said = zip(self.names, answers, strict=True)
            features = {f"{name}.{place}": value for name, one in said for place, value in one.features.items()}
            if self.how == BY_TASK:
                return Outputs(torch.cat([one.to(kind) for one in logits], dim=-1), features, counts=counts)
            stack = torch.stack([one.to(kind) for one in logits])
            return Outputs(self.combined(stack, batch.target), features, members=stack, counts=counts)

    def combined(self, stack: Tensor, target: Tensor | None = None) -> Tensor:
        """The members' logits as one, (M, B, C) → (B, C); not for the random forms, which ask only some of them.

        Args:
            stack: (M, B, C).
            target: (B,) labels, where the weights go by confidence.

        Raises:
            InputError: weights by confidence need labels, and there are none.
        """
        if self.how == "entropy":
            return mean_probabilities(stack, by_entropy(stack), self.temperature)
        if self.how == "confidence":
            return mean_probabilities(stack, by_confidence(stack, _labels(target)), self.temperature)
        # A member of weight 0 has no say, not even with a NaN.
        asked = [number for number, weight in enumerate(self.weights) if weight > 0]
        if len(asked) == 1:
            return stack[asked[0]]
        weights = torch.tensor([self.weights[number] for number in asked], dtype=stack.dtype, device=stack.device)
        spoken = stack if len(asked) == len(stack) else stack[asked]
        if self.how == "mean_logits":
            return mean_logits(spoken, weights)
        return mean_probabilities(spoken, weights, self.temperature)

    def drawn(self, batch: Batch) -> Tensor:
        """Who speaks for every example of a batch in the random forms, (B,) int64 numbers of members on the CPU."""
        ids = batch.ids.cpu().numpy()
        if self.how == "random_step":
            # One word for the batch, whatever the order of its rows: their words added up, which wraps around.
            word = int(mix(self.seed, batch.view, Stream.MEMBER, ids).sum()) >> 1
            numbers = uniform(self.seed, batch.view, np.full(len(ids), word, dtype=np.int64), Stream.MEMBER)
        else:
            numbers = uniform(self.seed, batch.view, ids, Stream.MEMBER)
        weights = np.array(self.weights)
        asked = weights.nonzero()[0]
        bounds = weights[asked].cumsum()
        # The weights add up to 1 but for rounding, so that a number close to 1 may lie above all of them.
        found = np.searchsorted(bounds, numbers, side="right").clip(max=len(asked) - 1)
        return torch.from_numpy(asked[found])

    def fingerprint(self) -> str:
        """SHA-256 over the members' fingerprints, in their order, and all settings."""
        facts = [self.how, self.weights, self.temperature, self.seed, [member.fingerprint() for member in self.members]]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def to(self, device: torch.device) -> None:
        """Move every member."""
        for member in self.members:
            member.to(device)

    def _by_drawn(self, batch: Batch) -> Tensor:
        """Each example's answer from its own member, who is asked about no other: no dearer than one teacher."""
        numbers = self.drawn(batch)
        parts: list[Tensor] = []
        rows: list[Tensor] = []
        for number in sorted(set(numbers.tolist())):
            index = (numbers == number).nonzero().flatten()
            own = _some_of(batch, index.to(batch.ids.device))
            answer = self.members[number].answer(own)
            if answer.counts is not None:
                raise InputError(
                    "one example each is asked of a member, and this one has no say about some of them",
                    given=self.names[number], fix="combine by `random_step` or `mean_probabilities`",
                )  # fmt: skip
            parts.append(self._logits(number, answer, len(own)))
            rows.append(index)
        kind = _common_type(parts)
        together = torch.cat([part.to(kind) for part in parts])
        return together.index_select(0, torch.cat(rows).argsort().to(together.device))

    def _logits(self, number: int, answer: Outputs, rows: int) -> Tensor:
        """All logits of a member, (B, C), of as many classes as the others have."""
        logits = answer.logits
        if not isinstance(logits, Tensor):
            kept = logits.indices.shape[-1]
            if isinstance(logits, Sampled) or kept != logits.classes:
                raise ModelError(
                    f"member {self.names[number]} of the ensemble answers with a part of its classes",
                    given=f"{kept} of {logits.classes}",
                    expected="all logits",
                    fix="store its answers with a codec that keeps all: fp32, fp16, bf16 or int8",
                )
        whole = as_float(dense(logits, "an ensemble"))
        if whole.ndim != 2 or len(whole) != rows:
            raise ModelError(
                f"member {self.names[number]} of the ensemble does not answer with logits",
                given=tuple(whole.shape),
                expected=f"a tensor of shape ({rows}, C)",
            )
        first, classes = self._classes = self._classes or (number, whole.shape[-1])
        if whole.shape[-1] != classes and self.how != BY_TASK:
            raise ModelError(
                "the members of an ensemble do not know the same classes",
                given=f"member {self.names[first]} answers with {classes} classes, "
                f"member {self.names[number]} with {whole.shape[-1]}",
                expected="one number of classes",
                fix="use teachers that were trained on the same classes",
            )
        return whole


@final
class Panel(nn.Module):
    """Modules that answer together, for what asks for a module: counting, timing, predicting.

    Args:
        members: each maps (B, …) to logits (B, C).
        judge: an ensemble of as many members that reads no labels and leaves nothing to chance.
    """

    def __init__(self, members: Sequence[nn.Module], judge: EnsembleTeacher) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self._judge = judge
        self.eval()  # or whoever restores the mode it found would set the members to train

    def forward(self, x: Tensor) -> Tensor:
        """(B, …) → logits (B, C), with their graph."""
        logits = [as_float(member(x)) for member in self.members]
        return torch.cat(logits, dim=-1) if self._judge.how == BY_TASK else self._judge.combined(torch.stack(logits))


def places_of_each(places: Sequence[str], names: Sequence[str]) -> dict[str, list[str]]:
    """Places of an ensemble -> those of each member, by its name.

    Raises:
        InputError: a place that names no member, or nothing of it.
    """
    own: dict[str, list[str]] = {name: [] for name in names}
    for place in places:
        name, _, path = place.partition(".")
        if not (name == "*" or name in own) or not path:
            raise _nobody(place, names)
        for member in names if name == "*" else [name]:
            own[member].append(path)
    return own


def _nobody(place: str, names: Sequence[str]) -> InputError:
    """What is wrong with a place that names no member."""
    name, _, path = place.partition(".")
    numbered = list(names) == [str(number) for number in range(len(names))]
    known = f"a number from 0 to {len(names) - 1}" if numbered else f"one of {', '.join(names)}"
    close = nearest(name, names)
    if not numbered and close.startswith("did you mean"):
        fix = f"{close.removesuffix('`?')}.{path or 'net.1'}`?"
    else:
        fix = f"for instance `{names[0]}.{place if not name.isdecimal() else 'net.1'}`"
    return InputError(
        f"the place `{place}` does not say of which teacher",
        expected=f"<{'number' if numbered else 'name'}>.<layer> with {known}, or *.<layer> for all",
        fix=fix,
    )


def _names(names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    """One name for each member."""
    given = tuple(str(number) for number in range(count)) if names is None else tuple(names)
    if len(given) != count or len(set(given)) < count or not all(name and "." not in name for name in given):
        raise InputError(
            "the names do not fit the teachers",
            given=", ".join(given),
            expected=f"{count} different ones, without a point",
        )
    return given


def _labels(target: Tensor | None) -> Tensor:
    if target is None or target.ndim > 1:
        raise InputError(
            "weights by confidence need one label per example, but mixed examples have none",
            given="no targets" if target is None else f"targets of shape {tuple(target.shape)}",
            fix="turn mixup and cutmix off, or combine the teachers by `entropy`, which reads no labels",
        )
    return target


def _some_of(batch: Batch, index: Tensor) -> Batch:
    inputs = {name: view.index_select(0, index) for name, view in batch.inputs.items()}
    return Batch(batch.ids.index_select(0, index), inputs, batch.target.index_select(0, index), batch.view)


def _common_type(tensors: Sequence[Tensor]) -> torch.dtype:
    kind = tensors[0].dtype
    for tensor in tensors[1:]:
        kind = torch.promote_types(kind, tensor.dtype)
    return kind

"""Whom a term listens to: the teacher, a moving average of the student itself, its peers, or another arm's student.

So a student that teaches itself, students that teach each other, assistants and generations are terms like any other:
they differ in who answers, and the losses are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from tutelage.errors import InputError
from tutelage.words import COMBINED

__all__ = ["Ema", "FromArm", "Peers", "Pseudo", "Route", "Source", "as_source"]


@final
@dataclass(frozen=True, slots=True)
class Ema:
    """The student's own moving average: weights ← decay · weights + (1 - decay) · the student's, after every step.

    Args:
        decay: in [0, 1). In the first steps min(decay, (1 + step) / (10 + step)), so that the random start is
            forgotten soon. 0 answers with the weights before this step.

    Reference: Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017, arXiv 1703.01780.
    """

    decay: float = 0.999

    def __post_init__(self) -> None:
        if not 0.0 <= self.decay < 1.0:
            raise InputError(
                "the decay of a moving average is out of range", given=self.decay, expected="a number in [0, 1)"
            )

    def __str__(self) -> str:
        return f"ema {self.decay:g}"


@final
@dataclass(frozen=True, slots=True)
class Peers:
    """The same arm's other students, who learn at the same time; what they say is a constant.

    Args:
        how: a key of `words.COMBINED`. "each" is deep mutual learning; the others are its collaborative forms.
        every: 1 hears what they say at this very step; n > 1 asks copies of them that are renewed every n steps.

    References: Zhang et al., "Deep mutual learning", CVPR 2018, arXiv 1706.00384. Guo et al., "Online knowledge
    distillation via collaborative learning", CVPR 2020. Anil et al., "Large scale distributed neural network training
    through online distillation", ICLR 2018, arXiv 1804.03235 (stale copies).
    """

    how: str = "each"
    every: int = 1

    def __post_init__(self) -> None:
        if self.how not in COMBINED:
            raise InputError(f"no way `{self.how}` to combine peers", expected="one of " + ", ".join(COMBINED))
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise InputError("copies of peers are renewed every so many steps", given=self.every, expected="1 or more")

    def __str__(self) -> str:
        return f"peers {self.how}" + (f" every {self.every}" if self.every > 1 else "")


@final
@dataclass(frozen=True, slots=True)
class FromArm:
    """The finished student of another arm, as it is shipped: an assistant, or the generation before.

    Args:
        arm: its name; where there are several students, `<student>.<arm>`, or `<arm>` of the same student.

    References: Mirzadeh et al., "Improved knowledge distillation via teacher assistant", AAAI 2020, arXiv 1902.03393.
    Furlanello et al., "Born-again neural networks", ICML 2018, arXiv 1805.04770.
    """

    arm: str

    def __str__(self) -> str:
        return self.arm


@final
@dataclass(frozen=True, slots=True)
class Pseudo:
    """Pseudo-labels: what the teacher, or another arm's finished student, says of the plain examples, asked once.

    The student learns from them in whatever views it gets: the answers are free of noise, its inputs are not.

    Args:
        confidence: in [0, 1]; answers whose largest probability is below it do not count.
        per_class: no more than so many examples for every answered class, the surest.
        arm: whose finished student is asked; None asks the teacher.

    Reference: Xie et al., "Self-training with noisy student improves ImageNet classification", CVPR 2020,
    arXiv 1911.04252.
    """

    confidence: float = 0.3
    per_class: int | None = None
    arm: str | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.confidence <= 1.0:
            raise InputError("a confidence is a probability", given=self.confidence, expected="a number in [0, 1]")
        if self.per_class is not None and (isinstance(self.per_class, bool) or self.per_class < 1):
            raise InputError("pseudo-labels of a class are counted", given=self.per_class, expected="1 or more")

    def __str__(self) -> str:
        most = f", at most {self.per_class} a class" if self.per_class is not None else ""
        return f"pseudo-labels of {self.arm or 'the teacher'}, {self.confidence:g} sure{most}"


@final
@dataclass(frozen=True, slots=True)
class Route:
    """The teacher as it was on its way: states of its own training, one after the other, the last one finished.

    Args:
        anchors: how many, evenly spaced over its epochs; each teaches for an equal share of the student's training.

    Reference: Jin et al., "Knowledge distillation via route constrained optimization", ICCV 2019, arXiv 1904.09149.
    """

    anchors: int = 4

    def __post_init__(self) -> None:
        if isinstance(self.anchors, bool) or self.anchors < 1:
            raise InputError("the anchors of a route are counted", given=self.anchors, expected="1 or more")

    def __str__(self) -> str:
        return f"the teacher's route, {self.anchors} anchors"


Source = Ema | Peers | FromArm | Pseudo | Route


def as_source(said: str | Source) -> Source | None:
    """A word for a source, or a source; None is the teacher."""
    if not isinstance(said, str):
        return said
    words: dict[str, Source | None] = {"teacher": None, "ema": Ema(), "peers": Peers()}
    words |= {"pseudo": Pseudo(), "route": Route()}
    return words[said] if said in words else FromArm(said)

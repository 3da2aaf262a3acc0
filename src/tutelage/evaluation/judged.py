"""What a scorecard is made from: models as they answered, and the facts of the data and of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, final

from numpy.typing import ArrayLike

Metrics = Mapping[str, float]  # name -> value, of one model and seed


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """One model as it was judged: what the file on disk answered on the test part, and what that file is.

    A teacher that is no file of ours has 0 parameters, 0 bytes, 0 multiply-adds and no sum: they are unknown, and so
    are their ratios.
    """

    logits: ArrayLike  # (N, C), rows in the order of the labels
    parameters: int
    file_bytes: int
    sha256: str
    seed: int | None = None  # None for a teacher that was given
    curve: Sequence[Mapping[str, float | None]] = ()  # one record per epoch: {"epoch": 1, "loss": …, "val_accuracy": …}
    kept_epoch: int | None = None  # which epoch's weights these are; None for the last
    val_logits: ArrayLike | None = None  # (V, C), what it answered on the validation part, to fit a temperature
    multiply_adds: int = 0  # of one forward pass for one example
    train_logits: ArrayLike | None = None  # (T, C), what it answered on a fixed sample of the training part
    robust: Mapping[str, Any] | None = None  # how it did under attack, a record of `evaluation.robust`
    tasks: Mapping[str, ArrayLike] = field(default_factory=dict)  # further task -> its logits (N, C) on the test part


@dataclass(frozen=True, slots=True, eq=False)
class Arm:
    """The students of one arm, one for each seed. A compressed arm is made from the files of another one."""

    name: str
    students: Sequence[Judged]
    distilled: bool  # whether its objective listens to the teacher
    describes: str = ""  # the objective in words
    student: str = ""  # name of the student, where a run has several
    method: str = ""  # name of the objective; "" where it is the arm's own name, or that of the arm it was made from
    of: str = ""  # of a compressed arm: the arm whose files were compressed
    compression: str = ""  # of a compressed arm: what was done to the weights, such as int8


@dataclass(frozen=True, slots=True)
class DataFacts:
    """Where the examples came from, and what may be wrong with them."""

    name: str
    counts: Mapping[str, Sequence[int]]  # split -> examples of every class
    fingerprint: str
    test_sha256: str
    test_looks: int = 1  # how often this run's folder asked for test answers of its models
    shared_examples: int = 0  # examples of validation or test whose content also stands in another split
    task: str = "image-classification"
    unlabelled: int = 0  # examples that were learned from without labels, beside those that are counted


@dataclass(frozen=True, slots=True)
class RunFacts:
    """How the numbers came about, and how to get them again."""

    recipe_name: str
    recipe_text: str
    command: str
    load_snippet: str  # Python that loads the student, from the folder of the run
    versions: Mapping[str, str]
    wall_seconds: float
    deterministic: bool
    answers: Mapping[str, Any] | None = None  # of the store that students read, or None where the teacher was live


@dataclass(frozen=True, slots=True)
class ModelScore:
    """One model of one seed: what it scored, and the file it is."""

    name: str
    seed: int | None
    metrics: Metrics
    parameters: int
    file_bytes: int
    sha256: str
    kept_epoch: int | None = None
    multiply_adds: int = 0
    answers: Mapping[str, str] = field(default_factory=dict)  # test, val, train -> sum of the answers to it


class Timed(Protocol):
    """Times of one model for one batch size, as `cost.latency` gives them."""

    @property
    def batch(self) -> int: ...

    @property
    def threads(self) -> int: ...

    @property
    def p50_ms(self) -> float: ...

    def to_json(self) -> Mapping[str, Any]: ...


@final
@dataclass(frozen=True, slots=True)
class Times:
    """Times of one model for one batch size, as a report keeps them."""

    row: Mapping[str, Any]

    @property
    def batch(self) -> int:
        return int(self.row["batch"])

    @property
    def threads(self) -> int:
        return int(self.row["threads"])

    @property
    def p50_ms(self) -> float:
        return float(self.row["p50_ms"])

    def to_json(self) -> Mapping[str, Any]:
        return self.row

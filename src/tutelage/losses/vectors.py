"""What losses on features share: two tensors that belong together, masks, lengths and directions that survive zeros.

Nothing here reads a value: masked rows become zeros of weight zero instead of being cut out, so that a graphics card
never waits, and shapes decide everything. Products are computed in the precision of their inputs even under autocast,
whose half precision would take the digits that differences of similarities live on.

Shapes:  B batch · T tokens · D features · C channels · H, W height and width · L places (T, or H · W).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tutelage.errors import InputError
from tutelage.losses.targets import as_float, average

__all__ = [
    "apart", "blanked", "channels_and_places", "check_choice", "check_rows", "layers", "length", "lone", "matched",
    "per_row", "product", "related", "shape_error", "sized", "unit",
]  # fmt: skip

# Below this a length is nothing: the direction of such a vector is rounding, and dividing by it would leave float32.
_NOTHING = 1e-12
_KINDS = {2: "(B, D)", 3: "(B, T, D)", 4: "(B, C, H, W)"}


def lone(feature: object, name: str, dimensions: Sequence[int] = (2, 3, 4)) -> Tensor:
    """One feature in single precision or better.

    Raises:
        InputError: it is no tensor of real numbers, is empty, or has not one of these numbers of dimensions.
    """
    if (
        not isinstance(feature, Tensor)
        or not feature.is_floating_point()
        or feature.ndim not in dimensions
        or not feature.numel()
    ):
        shown = f"shape {tuple(feature.shape)}, {feature.dtype}" if isinstance(feature, Tensor) else type(feature)
        raise InputError(
            f"{name} cannot be read by this loss",
            given=str(shown),
            expected="floating-point numbers of shape " + " or ".join(_KINDS[n] for n in dimensions) + ", none empty",
        )
    return as_float(feature)


def matched(
    student: Tensor, teacher: Tensor, mask: Tensor | None, dimensions: Sequence[int] = (2, 3, 4)
) -> tuple[Tensor, Tensor]:
    """Two features of one shape, the teacher's without a graph, both zero where the mask is False.

    Raises:
        InputError: their shapes differ, or one of them is no feature.
    """
    ours, theirs = lone(student, "the student's feature", dimensions), lone(teacher, "teacher_feature", dimensions)
    if ours.shape != theirs.shape:
        raise shape_error(student, teacher, "equal shapes")
    theirs = theirs.detach().to(ours.dtype)
    return (ours, theirs) if mask is None else (blanked(ours, mask), blanked(theirs, mask))


def shape_error(student: Tensor, teacher: Tensor, expected: str) -> InputError:
    """Two features that a connector would bring together."""
    return InputError(
        "the student's feature does not have the shape that the teacher's asks for",
        given=f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}",
        expected=expected,
        fix="put a connector behind the student's layer, for instance `connector: linear`",
    )


def layers(student: object, teacher: object, *, least: int = 1) -> list[tuple[Tensor, Tensor]]:
    """Pairs of features, one for each place in order.

    Raises:
        InputError: they are no lists, of different lengths, or too short.
    """
    if not all(isinstance(side, Sequence) for side in (student, teacher)):
        raise InputError(
            "this loss reads features of several layers",
            given=f"student {type(student).__name__}, teacher {type(teacher).__name__}",
            expected="a list of tensors on each side; for one layer a list of one",
        )
    assert isinstance(student, Sequence)
    assert isinstance(teacher, Sequence)
    if len(student) != len(teacher) or len(student) < least:
        raise InputError(
            "student and teacher are compared layer by layer",
            given=f"{len(student)} of the student's layers, {len(teacher)} of the teacher's",
            expected=f"as many of one as of the other, at least {least}",
        )
    return list(zip(student, teacher, strict=True))


def related(student: Tensor, teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Two features of the same examples as rows, (B, D_s) and (B, D_t); the teacher's without a graph.

    Raises:
        InputError: they are of different batches, or one of them is no feature.
    """
    ours, theirs = lone(student, "the student's feature"), lone(teacher, "teacher_feature")
    if len(ours) != len(theirs):
        raise InputError(
            "student and teacher were not asked about the same examples",
            given=f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}",
            expected="as many rows of one as of the other",
        )
    # Flat first: here an example counts or not, and its tokens do not stand alone.
    ours, theirs = ours.flatten(1), theirs.detach().to(ours.dtype).flatten(1)
    return (ours, theirs) if mask is None else (blanked(ours, mask), blanked(theirs, mask))


def channels_and_places(student: Tensor, teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Two features as (B, C, L), C their own and L the same: maps are averaged to the smaller height and width.

    The graph of the second one is kept: it may be another layer of the same model.

    Raises:
        InputError: vectors, different kinds of features, other examples, or other numbers of tokens.
    """
    ours, theirs = lone(student, "the first feature", (3, 4)), lone(teacher, "the second feature", (3, 4))
    tokens = ours.ndim == 3
    if ours.ndim != theirs.ndim or len(ours) != len(theirs) or (tokens and ours.shape[1] != theirs.shape[1]):
        raise InputError(
            "two features have no places in common",
            given=f"{tuple(student.shape)} and {tuple(teacher.shape)}",
            expected="both (B, T, D) with the same T, or both (B, C, H, W), with the same B",
        )
    theirs = theirs.to(ours.dtype)
    if mask is not None:
        check_rows(mask, ours.shape[:1])
        ours, theirs = blanked(ours, mask), blanked(theirs, mask)
    if tokens:
        return ours.mT, theirs.mT
    size = [min(one, other) for one, other in zip(ours.shape[2:], theirs.shape[2:], strict=True)]
    return pooled(ours, size).flatten(2), pooled(theirs, size).flatten(2)


def pooled(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Averages over windows that cover the map, as adaptive pooling cuts them.

    Written as two products, because the backward pass of torch's own adaptive pooling adds up in any order on CUDA and
    is refused there by deterministic mode.
    """
    for dimension, wanted in zip((-2, -1), size, strict=True):
        given = maps.shape[dimension]
        if given != wanted:
            step, place = (
                torch.arange(wanted, device=maps.device).unsqueeze(-1),
                torch.arange(given, device=maps.device),
            )
            window = ((place >= step * given // wanted) & (place < -(-(step + 1) * given // wanted))).to(maps.dtype)
            window = window / window.sum(-1, keepdim=True)
            maps = product(window, maps) if dimension == -2 else product(maps, window.mT)
    return maps


def check_rows(mask: Tensor, rows: torch.Size) -> None:
    """Require a truth value for each row.

    Raises:
        InputError: another shape or another type.
    """
    if mask.dtype != torch.bool or mask.shape != rows:
        raise InputError(
            "the mask does not fit the features",
            given=f"{tuple(mask.shape)} {mask.dtype}",
            expected=f"{tuple(rows)} torch.bool, True where a row counts",
        )


def blanked(feature: Tensor, mask: Tensor) -> Tensor:
    """Zeros in place of what does not count, before anything is computed: a NaN times 0 would still be a NaN.

    Args:
        feature: (B, …).
        mask: (B,), or (B, T) beside (B, T, D).

    Raises:
        InputError: it is neither.
    """
    check_rows(mask, feature.shape[: 2 if mask.ndim == 2 and feature.ndim == 3 else 1])
    return torch.where(mask.reshape(mask.shape + (1,) * (feature.ndim - mask.ndim)), feature, 0.0)


def per_row(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over all elements of what counts."""
    return values.mean() if mask is None else average(values.flatten(mask.ndim).mean(-1), mask)


def length(vectors: Tensor) -> Tensor:
    """Euclidean length along the last dimension; 0 for a vector of zeros, with the gradient 0 instead of 0 / 0."""
    square = vectors.square().sum(-1)
    none = square <= _NOTHING**2
    return torch.where(none, 0.0, torch.where(none, 1.0, square).sqrt())


def unit(vectors: Tensor) -> Tensor:
    """Vectors of length 1 along the last dimension; a vector of zeros has no direction and stays as it is.

    The gradient of such a vector is that of the undivided one, finite and leading out.
    """
    scaled, none = sized(vectors)
    square = scaled.square().sum(-1, keepdim=True)
    return scaled / torch.where(none, 1.0, square).sqrt()


def sized(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors whose largest number is 1, for what does not see their size; and which (…, 1) are nothing and stay so.

    The divisor counts as a constant: what does not see the size has the same gradient, and powers do not overflow.
    """
    largest = vectors.detach().abs().amax(-1, keepdim=True)
    none = largest <= _NOTHING
    return vectors / torch.where(none, 1.0, largest), none


def apart(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of two directions along the last dimension: 2 − 2 cos, without its cancellation near 0."""
    return (unit(student) - unit(teacher)).square().sum(-1)


def product(left: Tensor, right: Tensor) -> Tensor:
    """Matrix product in the precision of its factors, also under autocast."""
    kind = left.device.type
    if not torch.amp.is_autocast_available(kind):
        return left @ right
    with torch.autocast(kind, enabled=False):
        return left @ right


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Require one of a few words.

    Raises:
        InputError: it is another.
    """
    if value not in choices:
        raise InputError(f"no such {name}", given=f"{name}={value!r}", expected=" or ".join(choices))

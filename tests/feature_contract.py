"""What every loss on features keeps, one case for each; the test files say which cases there are.

1 a default call works · 2 equals an independent float64 reference · 3 0 at a match where promised, never negative ·
4 gradient matches finite differences, none reaches the teacher · 5 order of examples · 6 finite at extremes, computed
in single precision · 7 masked rows do not matter · 8 errors · 9 the docstring.
"""

from __future__ import annotations

import doctest
import functools
import inspect
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import feature_references as reference
from tutelage.errors import InputError
from tutelage.objective import NEEDS, Term

HEADINGS = ["Equation", "Use", "Args", "Returns", "Raises", "Example", "Reference"]
EXAMPLES = 5
KEPT = torch.tensor([True, False, True, True, False])

# A shape leaves the batch out; a list of shapes stands for several layers.
Shape = tuple[int, ...] | list[tuple[int, ...]]
Feature = Tensor | list[Tensor]


@dataclass(frozen=True)
class Case:
    """What one loss promises."""

    loss: Callable[..., Tensor]
    shapes: tuple[tuple[Shape, Shape], ...]  # of student and teacher
    options: tuple[dict[str, Any], ...] = ()  # besides the defaults
    refused: tuple[dict[str, Any], ...] = ()  # options out of range
    zero: bool = True  # 0 at a match, and never negative
    needs: dict[str, Any] | None = None  # options without which a gradient has no finite difference
    maps: bool = False  # reads attention: numbers above 0 that add up to 1
    tokens: str = ""  # what its mask over tokens leaves out: "rows", or "both" rows and columns

    @property
    def name(self) -> str:
        return self.loss.__name__

    @property
    def reads(self) -> list[str]:
        parameters = inspect.signature(self.loss).parameters.values()
        return [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]

    def settings(self) -> tuple[dict[str, Any], ...]:
        return ({}, *self.options)


def _numbers(case: Case, shape: Shape, examples: int, generator: torch.Generator, scale: float) -> Feature:
    if isinstance(shape, list):
        return [_numbers(case, one, examples, generator, scale) for one in shape]  # type: ignore[misc]
    drawn = torch.randn(examples, *shape, generator=generator, dtype=torch.float64) * scale
    return drawn.softmax(-1) if case.maps else drawn


def draw(case: Case, kind: int = 0, *, seed: int = 0, examples: int = EXAMPLES, scale: float = 1.5) -> list[Feature]:
    """Student and teacher in float64, the student's with a gradient."""
    generator = torch.Generator().manual_seed(seed)
    return learnable([_numbers(case, shape, examples, generator, scale) for shape in case.shapes[kind]])


def each(change: Callable[[Tensor], Tensor], inputs: list[Feature]) -> list[Feature]:
    """The same inputs, changed, the student's as leaves."""
    changed = [[change(f.detach()) for f in one] if isinstance(one, list) else change(one.detach()) for one in inputs]
    return learnable(changed)


def learnable(inputs: list[Feature]) -> list[Feature]:
    for one in tensors(inputs[0]):
        one.requires_grad_()
    return inputs


def tensors(feature: Feature) -> list[Tensor]:
    return feature if isinstance(feature, list) else [feature]


def like(feature: Feature, parts: list[Tensor]) -> Feature:
    return list(parts) if isinstance(feature, list) else parts[0]


def number(value: Tensor) -> float:
    return float(value.detach())


def gradients(value: Tensor, student: Feature) -> list[Tensor]:
    # No step on the way back may make a NaN either, even one that a later step would drop.
    with torch.autograd.set_detect_anomaly(value.device.type != "meta"):
        return list(torch.autograd.grad(value, tensors(student)))


def told(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value.numpy() if isinstance(value, Tensor) else value for key, value in options.items()}


def some_of(options: dict[str, Any], index: Tensor) -> dict[str, Any]:
    """Options, those that have a row for each example cut down with it."""
    return {k: v[index] if isinstance(v, Tensor) and v.ndim == 3 else v for k, v in options.items()}


def refuse(call: Callable[..., Tensor], *inputs: Any, says: str, **options: Any) -> None:
    """It raises, in the template: what is wrong, what was given, what was expected."""
    with pytest.raises(InputError) as caught:
        call(*inputs, **options)
    assert says in str(caught.value)
    assert caught.value.problem.given
    assert caught.value.problem.expected


class Contract:
    """Tests of a case; a subclass is parametrised with cases."""

    def test_a_default_call_gives_a_number_with_a_gradient(self, case: Case) -> None:
        for kind in range(len(case.shapes)):
            inputs = each(Tensor.float, draw(case, kind))
            value = case.loss(*inputs)
            assert value.shape == ()
            assert value.dtype == torch.float32
            assert torch.isfinite(value)
            assert all(slope.abs().sum() > 0 for slope in gradients(value, inputs[0]))

    def test_its_parameters_are_words_that_an_objective_knows(self, case: Case) -> None:
        assert set(case.reads) <= set(NEEDS)
        assert case.reads[0].startswith(("student_", "matched_"))
        assert case.reads[1].startswith("teacher_")
        keywords = [p for p in inspect.signature(case.loss).parameters.values() if p.name not in case.reads]
        assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in keywords)
        assert keywords[-1].name == "mask"
        several = ["a", "b"] if case.reads[0].endswith("features") else "a"
        assert Term(case.loss, at=several).needs == tuple(case.reads)

    def test_it_equals_the_reference(self, case: Case) -> None:
        for kind, options, seed in self._all(case, 3, everywhere=True):
            examples = EXAMPLES if "negatives" in options else 3 + seed
            inputs = draw(case, kind, seed=seed, scale=0.3 + seed / 2, examples=examples)
            plain = [like(one, [part.detach().numpy() for part in tensors(one)]) for one in inputs]  # type: ignore[misc]
            expected = getattr(reference, case.name)(*plain, **told(options))
            found = case.loss(*inputs, **options)
            assert found.dtype == torch.float64
            assert number(found) == pytest.approx(expected, rel=1e-7, abs=1e-10), options

    def test_a_match_is_zero_and_nothing_is_below(self, case: Case) -> None:
        for kind, options, seed in self._all(case, 3):
            inputs = draw(case, kind, seed=seed)
            if not case.zero:
                continue
            assert number(case.loss(*inputs, **options)) > 0
            same = each(Tensor.clone, [inputs[1], inputs[1]])
            if {"whiten"} & set(options):
                continue
            value = case.loss(*same, **options)
            assert number(value) == pytest.approx(0.0, abs=1e-12)
            near = each(lambda one: one + 1e-9 * torch.randn_like(one), same)
            assert number(case.loss(near[0], same[1], **options)) >= -1e-15

    def test_its_gradient_matches_finite_differences(self, case: Case) -> None:
        for kind, options, _ in self._all(case):
            inputs = draw(case, kind, seed=3, examples=5)
            for also in ({}, {"mask": KEPT} if case.tokens != "both" else {"mask": _tokens_kept(inputs)}):
                function = functools.partial(case.loss, **(case.needs or {}) | options | also)
                assert torch.autograd.gradcheck(
                    lambda *parts, f=function, i=inputs: f(like(i[0], list(parts)), i[1]),
                    tuple(tensors(inputs[0])),
                    fast_mode=True,
                )

    def test_no_gradient_reaches_the_teacher(self, case: Case) -> None:
        for kind in range(len(case.shapes)):
            student, teacher = draw(case, kind)
            for one in tensors(teacher):
                one.requires_grad_()
            case.loss(student, teacher).backward()
            assert all(one.grad is None for one in tensors(teacher))
            assert any(one.grad is not None for one in tensors(student))

    def test_the_order_of_examples_changes_nothing(self, case: Case) -> None:
        order = torch.tensor([3, 1, 0, 2, 4])
        for kind, options, _ in self._all(case):
            inputs = draw(case, kind)
            moved = each(lambda one: one[order], inputs)
            found = case.loss(*moved, **some_of(options, order))
            assert number(found) == pytest.approx(number(case.loss(*inputs, **options)), rel=1e-10)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
    def test_value_and_gradient_are_finite_at_extremes(self, case: Case, dtype: torch.dtype) -> None:
        for kind, options, _ in self._all(case):
            inputs = draw(case, kind)
            for student, teacher in _extremes(inputs):
                for index in (torch.arange(EXAMPLES), torch.tensor([0]), torch.full((EXAMPLES,), 1)):
                    some = each(lambda one, i=index: one[i].to(dtype), [student, teacher])
                    value = case.loss(*some, **some_of(options, index))
                    assert torch.isfinite(value)
                    assert all(torch.isfinite(slope).all() for slope in gradients(value, some[0]))

    def test_half_precision_and_autocast_are_computed_in_single(self, case: Case) -> None:
        for kind, options, _ in self._all(case):
            halves = each(lambda one: one.to(torch.bfloat16), draw(case, kind))
            singles = each(Tensor.float, halves)
            value, expected = case.loss(*halves, **options), case.loss(*singles, **options)
            assert value.dtype == torch.float32
            assert number(value) == number(expected)
            assert all(slope.dtype == torch.bfloat16 for slope in gradients(value, halves[0]))
            with torch.autocast("cpu", torch.bfloat16):
                assert number(case.loss(*singles, **options)) == pytest.approx(number(expected), rel=1e-5)

    def test_no_value_of_a_tensor_is_read(self, case: Case) -> None:
        # Tensors on "meta" have none to read. On a graphics card each reading would hold up the queue.
        for kind, options, _ in self._all(case):
            inputs = each(lambda one: one.to("meta"), draw(case, kind))
            moved = {k: v.to("meta") if isinstance(v, Tensor) else v for k, v in options.items()}
            mask = KEPT if case.tokens != "both" else _tokens_kept(inputs)
            for also in ({}, {"mask": mask.to("meta")}):
                value = case.loss(*inputs, **moved, **also)
                assert all(slope.device.type == "meta" for slope in gradients(value, inputs[0]))

    @pytest.mark.parametrize("garbage", [math.nan, math.inf, 1e300])
    def test_masked_rows_do_not_matter(self, case: Case, garbage: float) -> None:
        for kind, options, _ in self._all(case):
            inputs = draw(case, kind)
            mask = KEPT if case.tokens != "both" else KEPT.unsqueeze(-1) & torch.ones_like(_tokens_kept(inputs))
            left = each(lambda one: one[KEPT], inputs)
            expected = case.loss(*left, **some_of(options, KEPT))
            spoiled = each(lambda one: torch.where(_wide(KEPT, one), one, garbage), inputs)
            found = case.loss(*spoiled, mask=mask, **options)
            assert number(found) == pytest.approx(number(expected), rel=1e-10, abs=1e-15)
            for slope, right in zip(gradients(found, spoiled[0]), gradients(expected, left[0]), strict=True):
                assert torch.allclose(slope[KEPT], right, rtol=1e-9, atol=1e-13)
                assert torch.equal(slope[~KEPT], torch.zeros_like(slope[~KEPT]))
            whole = case.loss(*inputs, mask=torch.ones_like(mask), **options)
            assert number(whole) == pytest.approx(number(case.loss(*inputs, **options)), rel=1e-10)
            ruined = each(lambda one: torch.full_like(one, garbage), inputs)
            nothing = case.loss(*ruined, mask=torch.zeros_like(mask), **options)
            assert number(nothing) == 0.0
            assert all(not slope.any() for slope in gradients(nothing, ruined[0]))

    def test_masked_tokens_do_not_matter(self, case: Case) -> None:
        if not case.tokens:
            return
        for kind, options, _ in self._all(case):
            inputs = draw(case, kind)
            if case.tokens == "rows" and tensors(inputs[0])[0].ndim != 3:
                continue
            # The last of the tokens are padding: as if they were not there.
            square = case.tokens == "both" and case.name != "relation_kl"
            length = tensors(inputs[0])[0].shape[-1 if square else 1]
            mask = (torch.arange(length) < length - 1).expand(EXAMPLES, length)
            left = each(lambda one, s=square: one[..., :-1, :-1] if s else one[:, :-1], inputs)
            if case.maps and options.get("given") != "scores":
                left = each(lambda one: one / one.sum(-1, keepdim=True), left)
            spoiled = each(lambda one, s=square: _padded(one, s), inputs)
            found, expected = case.loss(*spoiled, mask=mask, **options), case.loss(*left, **options)
            assert number(found) == pytest.approx(number(expected), rel=1e-10)
            slopes = gradients(found, spoiled[0])
            assert all(torch.isfinite(slope).all() for slope in slopes)
            gone = [slope[..., -1, :] if square else slope[:, -1] for slope in slopes]
            assert all(not one.any() for one in gone)
            # And ragged ones: garbage does not matter there either.
            ragged = torch.arange(length) < torch.tensor([length, 1, 2, 0, length]).unsqueeze(-1)
            values = []
            for garbage in (0.25, math.nan):
                filled = each(lambda one, g=garbage, r=ragged, s=square: _filled(one, r, g, s), inputs)
                values.append(number(case.loss(*filled, mask=ragged, **options)))
            assert values[0] == pytest.approx(values[1], rel=1e-12)

    def test_wrong_shapes_and_types_are_refused(self, case: Case) -> None:
        for kind in range(len(case.shapes)):
            student, teacher = draw(case, kind)
            first = tensors(student)[0]
            several = isinstance(student, list)
            refuse(case.loss, *_long(student, teacher), says="torch.int64")
            shorter = each(lambda one: one[:2], [student, teacher])[0]
            refuse(case.loss, shorter, teacher, says="(2, ")
            nobody = each(lambda one: one[:0], [student, teacher])
            refuse(case.loss, *nobody, says="(0, ")
            scalar = torch.zeros(())
            refuse(case.loss, *([[scalar] * len(student)] * 2 if several else [scalar, scalar]), says="()")
            for mask, says in (
                (torch.ones(EXAMPLES), "torch.float32"),
                (torch.ones(4, dtype=torch.bool), "(4,)"),
                (torch.ones(EXAMPLES, first.shape[1] + 1, dtype=torch.bool), f"({EXAMPLES}, {first.shape[1] + 1})"),
            ):
                refuse(case.loss, student, teacher, says=says, mask=mask)
            if several:
                refuse(case.loss, student[:-1], teacher, says=f"{len(teacher)} of the teacher's")
                refuse(case.loss, first, teacher, says="Tensor")
                refuse(case.loss, [], [], says="0 of the student's")
            if case.reads[0].startswith("matched_"):
                self._refuses_other_widths(case, student, teacher)
        for options in case.refused:
            (option,) = options
            refuse(case.loss, *draw(case), says=option, **options)

    def test_its_docstring_says_everything_in_order(self, case: Case) -> None:
        text = inspect.getdoc(case.loss)
        assert text is not None
        first, blank, *_ = text.splitlines()
        assert blank == ""
        assert re.search(r"\(.*\) → \(\)\.$", first), "the first line ends with the shapes"
        assert re.findall(r"^(\w+):$", text, re.MULTILINE) == HEADINGS
        parts = dict(zip(HEADINGS, re.split(r"^\w+:$", text, flags=re.MULTILINE)[1:], strict=True))
        arguments = re.findall(r"^    (\w+): ", parts["Args"], re.MULTILINE)
        assert arguments == list(inspect.signature(case.loss).parameters)
        assert re.search(r"\bNot\b", parts["Use"]), "it says when not to use it"
        assert parts["Returns"].strip().startswith("() ")
        assert "InputError" in parts["Raises"]
        assert re.search(r"\d{4}.*(arXiv\s+\d{4}\.\d{4,5}|CVPR)", parts["Reference"], re.DOTALL)
        (example,) = doctest.DocTestFinder(recurse=False).find(
            case.loss, case.name, globs={"torch": torch, case.name: case.loss}
        )
        assert any(re.search(r"tensor\(\d+\.\d{4}\)", step.want) for step in example.examples)
        assert doctest.DocTestRunner(verbose=False).run(example).failed == 0

    @staticmethod
    def _all(case: Case, seeds: int = 1, everywhere: bool = False) -> list[tuple[int, dict[str, Any], int]]:
        """Every kind of feature, every setting with the first kind or everywhere, and some seeds."""
        chosen = [(kind, options, seed) for kind in range(len(case.shapes)) for options in case.settings()
                  for seed in range(seeds) if everywhere or kind == 0 or not options]  # fmt: skip
        # Negatives have the width of the first kind.
        return [one for one in chosen if one[0] == 0 or "negatives" not in one[1]]

    @staticmethod
    def _refuses_other_widths(case: Case, student: Feature, teacher: Feature) -> None:
        channel = 1 if tensors(student)[0].ndim == 4 else -1
        wide = each(lambda one: torch.cat([one, one], channel), [student, teacher])[0]
        shape = str(tuple(tensors(wide)[0].shape))
        refuse(case.loss, wide, teacher, says="connector")
        refuse(case.loss, wide, teacher, says=f"student {shape}, teacher {tuple(tensors(teacher)[0].shape)}")
        # A size of 1 must not be stretched to fit in silence.
        thin = each(lambda one: one.narrow(channel, 0, 1), [student, teacher])[0]
        refuse(case.loss, thin, teacher, says="connector")


def _wide(mask: Tensor, like: Tensor) -> Tensor:
    return mask.reshape(mask.shape + (1,) * (like.ndim - mask.ndim))


def _long(student: Feature, teacher: Feature) -> list[Feature]:
    return [like(one, [part.detach().long() for part in tensors(one)]) for one in (student, teacher)]


def _tokens_kept(inputs: list[Feature]) -> Tensor:
    """A mask over tokens for what reads pairs of them."""
    first = tensors(inputs[0])[0]
    length = first.shape[1] if first.ndim == 3 else first.shape[-1]
    return torch.arange(length) < torch.tensor([length, 2, 1, length, 0]).unsqueeze(-1)


def _padded(one: Tensor, square: bool) -> Tensor:
    """The last token replaced by garbage."""
    spoiled = one.clone()
    if square:
        spoiled[..., -1, :], spoiled[..., :, -1] = math.nan, math.nan
    else:
        spoiled[:, -1] = math.nan
    return spoiled


def _filled(one: Tensor, counted: Tensor, garbage: float, square: bool) -> Tensor:
    if square:
        return torch.where(counted[:, None, :, None] & counted[:, None, None, :], one, garbage)
    return torch.where(counted.unsqueeze(-1), one, garbage)


def _extremes(inputs: list[Feature]) -> list[list[Feature]]:
    """Large and small numbers, zeros, and a student that is where the teacher is not and the other way round."""
    one, other = inputs
    changes: list[tuple[float, float]] = [(1e4, 1e4), (1e4, 1.0), (1.0, 1e4), (1e-4, 1e-4), (1e-20, 1.0), (0.0, 1.0)]
    changes += [(1.0, 0.0), (0.0, 0.0)]
    found = []
    for first, second in changes:
        pair = []
        for feature, factor in ((one, first), (other, second)):
            pair.append(like(feature, [part.detach() * factor for part in tensors(feature)]))
        found.append(pair)
    same = [like(one, [torch.ones_like(part) * 7.0 for part in tensors(one)]), other]
    dead = [like(one, [part.detach().clamp(min=0.0) for part in tensors(one)]), other]
    return [*found, same, dead]

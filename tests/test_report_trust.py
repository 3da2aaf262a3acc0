"""The sections about trust: whole markup, the numbers of the report, pictures inside their frames, words that fit."""

from __future__ import annotations

import copy
import re
from functools import cache
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from tutelage.evaluation.calibration import fit_temperature
from tutelage.evaluation.drawn import drawn
from tutelage.evaluation.fidelity import fidelity
from tutelage.evaluation.metrics import measure
from tutelage.evaluation.significance import over_seeds
from tutelage.report import trust
from tutelage.report.markup import Safe
from tutelage.report.trustcharts import _sure

EVIL = "<script>alert('x')</script>"


@cache
def made(seeds: int = 3, like: float = 0.6, names: tuple[str, ...] = ("taught",), n: int = 300) -> dict[str, Any]:
    """What the two sections read of a report: a teacher, `scratch`, and students that saw the teacher's mistakes."""
    generator = np.random.default_rng(2)
    labels = np.arange(n) % 10
    base = 4 * generator.random((n, 1)) * np.eye(10)[labels] + generator.normal(size=(n, 10))
    own = generator.normal(size=(n, 10))

    def several(share: float) -> list[np.ndarray]:
        return [base + share * own + 0.5 * generator.normal(size=base.shape) for _ in range(seeds)]

    logits = {"teacher": [1.5 * (base + own)], "scratch": several(0.0), **{name: several(like) for name in names}}
    roles = {"teacher": "teacher", "scratch": "baseline"}
    rows = []
    for name, answers in logits.items():
        found = [measure(one, labels, logits["teacher"][0]) for one in answers]
        for one, run in zip(answers, found, strict=True):
            fitted = fit_temperature(one, labels)
            assert fitted is not None
            scaled = measure(one / fitted.value, labels, one)
            run |= {"temperature": fitted.value, "nll_scaled": scaled["nll"], "ece_scaled": scaled["ece"]}
        metrics = {key: over_seeds([run[key] for run in found], n).to_json() for key in found[0]}
        rows.append({"name": name, "role": roles.get(name, "distilled"), "student": "", "metrics": metrics})
    against = dict.fromkeys(names, "scratch")
    return {
        "headline": names[0],
        "seeds": list(range(seeds)),
        "data": {"totals": {"test": n}},
        "models": rows,
        "drawn": drawn({name: logits[name] for name in ("teacher", "scratch", names[0])}, labels),
        "fidelity": fidelity(logits, labels, against=against, train=(logits, labels), resamples=200),
    }


def make(**more: Any) -> dict[str, Any]:
    """A report of one's own."""
    return copy.deepcopy(made(**more))


REPORT = make()
SECTIONS = (trust.calibration, trust.fidelity)


class Reader(HTMLParser):
    """Checks that tags nest, and keeps the words."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(name)
        self.open.append(name)

    def handle_startendtag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, text: str) -> None:
        self.words.append(text)

    @property
    def text(self) -> str:
        return " ".join(self.words).replace("\u00a0", " ").replace("\u2060", "")


def shown(section: Safe | None) -> str:
    assert section is not None
    return Reader(section).text


VARIANTS: dict[str, dict[str, Any]] = {
    "three seeds": {},
    "single run": {"seeds": 1},
    "hostile name": {"names": (EVIL,)},
    "several arms": {"names": ("a", "b", "a-name-much-too-long-for-any-chart-to-hold")},
    "few examples": {"n": 30, "seeds": 2},
}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_sections_nest_escape_and_hold_only_numbers_that_are_numbers(variant: dict[str, Any]) -> None:
    report = make(**variant)
    for section in SECTIONS:
        text = section(report)
        assert text is not None
        reader = Reader(text)
        assert "script" not in reader.tags
        assert not {"nan", "None", "inf"} & set(re.findall(r"\w+", reader.text))
        assert re.search(r'="[^"]*(nan|None|inf)\b[^"]*"', re.sub(r"<title>.*?</title>", "", text)) is None
        assert text == section(copy.deepcopy(report))


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_every_point_lies_inside_its_picture(variant: dict[str, Any]) -> None:
    report = make(**variant)
    pictures = [svg for section in SECTIONS for svg in re.findall(r"<svg.*?</svg>", section(report) or "", re.S)]
    assert len(pictures) == 4
    for svg in pictures:
        box = re.search(r'viewBox="0 0 (\d+) (\d+)"', svg)
        assert box is not None
        for key, size in (("x", float(box[1])), ("y", float(box[2]))):
            ends = [float(v) for v in re.findall(rf' (?:c{key}|{key}[12]?)="([^"]+)"', svg)]
            assert ends
            assert all(0 <= value <= size for value in ends)
        for points in re.findall(r' points="([^"]+)"', svg):
            pairs = [tuple(map(float, point.split(","))) for point in points.split()]
            assert all(0 <= x <= float(box[1]) and 0 <= y <= float(box[2]) for x, y in pairs)
        assert 'role="img"' in svg
        assert "<title>" in svg


def test_calibration_shows_the_points_and_the_temperatures_of_the_report() -> None:
    text = shown(trust.calibration(REPORT))
    assert text.count("The numbers") == 3
    assert "n = 300, 3 seeds" in text
    for model in REPORT["models"]:
        found = model["metrics"]
        for key in ("nll", "nll_scaled"):
            assert f"{found[key]['value']:.3f}" in text
        assert f"{found['ece_scaled']['value'] * 100:.1f} %" in text
    for item in REPORT["drawn"]["models"]["taught"]["reliability"]:
        assert f"{item['accuracy']['value'] * 100:.2f} %" in text


def test_fidelity_shows_lifts_and_copied_errors_with_their_intervals() -> None:
    text, test = shown(trust.fidelity(REPORT)), REPORT["fidelity"]["arms"][0]["test"]
    assert "Stanton et al., 2021" in text
    assert f"{test['agreement']['arm']['value'] * 100:.1f} %" in text
    for key in ("agreement", "copied_errors"):
        difference = test[key]["difference"]
        assert f"+{difference['value'] * 100:.1f} pp" in text
        assert f"+{difference['ci_low'] * 100:.1f}…+{difference['ci_high'] * 100:.1f}" in text
    assert f"{test['divergence']['arm']['value']:.3f}" in text
    assert f"Of the teacher's {test['teacher_errors']} wrong answers" in text
    assert "it copied errors of its teacher" in text
    assert "test part" in text
    assert "training part" in text


def test_no_more_is_claimed_than_the_interval_says() -> None:
    text = shown(trust.fidelity(make(like=0.0)))
    assert "copied errors of" not in text
    assert text.count("no measurable difference") >= 1
    report = copy.deepcopy(REPORT)
    report["fidelity"]["arms"][0]["test"]["copied_errors"] = None
    assert "no mistake that could have been copied" in shown(trust.fidelity(report))


def test_a_single_run_is_called_one() -> None:
    text = shown(trust.fidelity(make(seeds=1)))
    assert "single run: intervals are a paired bootstrap" in text
    assert "paired t by seed" not in text


def test_without_their_keys_the_sections_are_left_out() -> None:
    for key, section in (("drawn", trust.calibration), ("fidelity", trust.fidelity)):
        assert section({name: value for name, value in REPORT.items() if name != key}) is None
    assert trust.fidelity(REPORT | {"fidelity": {"arms": [], "methods": {}}}) is None


def test_what_was_not_measured_is_not_spoken_of() -> None:
    report = copy.deepcopy(REPORT)
    for model in report["models"]:
        for key in ("temperature", "nll_scaled", "ece_scaled"):
            del model["metrics"][key]
    for model in report["drawn"]["models"].values():
        model["roc"] = None
    report["fidelity"]["arms"][0]["train"] = None
    text = shown(trust.calibration(report))
    assert "Before and after" not in text
    assert "ROC" not in text
    assert "training part" not in shown(trust.fidelity(report))


def test_students_have_charts_of_their_own_with_the_teacher_in_each() -> None:
    report = make(names=("taught", "b"))
    report["drawn"]["models"]["b"] = report["drawn"]["models"]["taught"]
    report["models"][3]["student"] = "tiny"
    text = trust.calibration(report)
    assert text is not None
    assert text.count("<svg") == 6
    legends = re.findall(r'<p class="legend">(.*?)</p>', text)
    assert [re.findall(r">([^<]+)</span>", legend) for legend in legends] == (
        [["teacher", "scratch", "taught"]] * 3 + [["teacher", "b"]] * 3
    )


@pytest.mark.parametrize(
    ("confidence", "text"), [(0.634, "63"), (0.996, "99.6"), (0.9996, "99.96"), (0.99999, ">99.99"), (1.0, "100")]
)
def test_a_confidence_is_written_so_that_it_is_not_taken_for_certainty(confidence: float, text: str) -> None:
    assert _sure(confidence) == text

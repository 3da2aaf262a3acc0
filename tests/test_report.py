"""The page and the card: whole, inert, self-contained and the same every time."""

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tutelage.errors import TutelageError
from tutelage.evaluation import Arm, DataFacts, Judged, RunFacts, scorecard
from tutelage.evaluation.cost import Latency
from tutelage.report import write_report
from tutelage.report.card import card
from tutelage.report.html import POLICY, page
from tutelage.report.markup import Safe, join, tag

EVIL = "<script>alert('x')</script>"
CLASSES = ("cat & dog", EVIL, 'a "quoted" | `name`', "horse")


def make(
    seeds: int = 3,
    arms: tuple[str, ...] = ("scratch", "taught"),
    classes: Any = CLASSES,
    teacher: Any = None,
    **more: Any,
) -> Any:
    """A small but complete report, with names that want to be markup."""
    count, each = len(classes), max(8, 240 // len(classes))
    labels = np.arange(count * each) % count
    hard = np.random.default_rng(0).normal(size=(labels.size, count))

    def logits(strength: float, seed: int) -> np.ndarray:
        noise = np.random.default_rng(seed).normal(size=hard.shape)
        return strength * np.eye(count)[labels] + hard + 0.5 * noise

    def curve(seed: int) -> list[dict[str, float | None]]:
        rise = [0.9 - 0.5 * math.exp(-epoch / 3) + 0.01 * seed for epoch in range(1, 9)]
        return [
            {"epoch": epoch, "loss": 1 - value, "val_accuracy": value, "val_nll": 2 - value}
            for epoch, value in enumerate(rise, start=1)
        ]

    def students(strength: float) -> list[Judged]:
        return [
            validated(Judged(logits(strength, 10 + seed), 100, 1000, f"{seed:064x}", seed, curve(seed)))
            for seed in range(seeds)
        ]

    val_labels = np.arange(10 * count) % count

    def validated(model: Judged) -> Judged:
        noise = np.random.default_rng(model.seed or 0).normal(size=(val_labels.size, count))
        return replace(model, val_logits=2.0 * np.eye(count)[val_labels] + 1.5 * noise)

    times = [Latency(1, 2.0, 1.9, 2.1, 3.0, 50, 1)]
    built = [Arm(name, students(2.2 + 0.6 * i), name != "scratch", f"loss {EVIL}") for i, name in enumerate(arms)]
    facts = DataFacts(f"pets {EVIL}", {part: [each] * count for part in ("train", "test")}, "f" * 64, "e" * 64)
    run = RunFacts(
        f"recipe {EVIL}", f"text: |\n  ```\n  {EVIL}", f"run {EVIL}", f"# {EVIL}", {"tutelage": "0"}, 9.0, True
    )
    return scorecard(
        labels=labels,
        ids=np.arange(labels.size),
        classes=classes,
        teacher=validated(
            Judged(logits(4.0, 1), **(teacher or {"parameters": 1000, "file_bytes": 9000, "sha256": "a" * 64}))
        ),
        arms=built,
        **{
            "data": facts,
            "run": run,
            "latency": {"teacher": times, **dict.fromkeys(arms, times)},
            "warnings": [f"a warning {EVIL}"],
            "teacher_val_accuracy": 0.91,
            "val_labels": val_labels,
            "resamples": 200,
            **more,
        },
    )


class Reader(HTMLParser):
    """Checks that tags nest, and collects what a browser would fetch, run or show."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(name)
        self.open.append(name)
        for key, value in attributes:
            if key in ("src", "href", "data", "action", "xlink:href", "srcset"):
                self.links.append(value or "")
            if key.startswith("on"):
                self.handlers.append(key)
            if key == "id":
                self.ids.append(value or "")

    def handle_startendtag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(name, attributes)
        self.open.pop()

    def handle_endtag(self, name: str) -> None:
        assert self.open, f"</{name}> closes nothing"
        assert self.open.pop() == name

    def handle_data(self, text: str) -> None:
        self.words.append(text)

    @property
    def text(self) -> str:
        return " ".join(self.words)


VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "single run": {"seeds": 1},
    "no baseline": {"arms": ("taught",)},
    "only scratch": {"arms": ("scratch",)},
    "five arms": {"arms": ("scratch", "taught", "b", "c", "a-name-much-too-long-for-any-chart-to-hold")},
    "many classes": {"classes": tuple(f"c{i}" for i in range(60))},
    "a teacher that is no file": {"teacher": {"parameters": 0, "file_bytes": 0, "sha256": ""}},
    "no times, no warnings": {"latency": None, "warnings": (), "teacher_val_accuracy": None},
}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_the_page_nests_fetches_nothing_and_runs_nothing(variant: dict[str, Any]) -> None:
    text = page(make(**variant))
    reader = Reader(text)
    assert reader.open == []
    assert "script" not in reader.tags
    assert "iframe" not in reader.tags
    assert reader.links == ["data:,"]
    assert reader.handlers == []
    assert len(reader.ids) == len(set(reader.ids))
    assert re.search(r"https?://|//[a-z]|@import|url\((?!#)", text) is None
    assert f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"/>' in text
    assert len(text.encode()) < 400_000
    assert "None" not in reader.text
    assert "nan" not in reader.text.lower().split()


@pytest.mark.parametrize("render", [page, card])
def test_names_are_shown_and_never_obeyed(render: Any) -> None:
    text = render(make())
    prose = re.sub(r"(?ms)^(`{3,})\w*\n.*?^\1$", "", text)  # a code block shows everything as it is
    prose = prose.split("\n---\n", 1)[-1]  # so does the YAML head
    assert "<script" not in prose
    assert "&lt;script" in prose


def test_the_page_holds_what_a_reader_needs() -> None:
    report = make()
    shown = Reader(page(report)).text.replace("\u00a0", " ").replace("\u2060", "")
    for wanted in (
        "Is the gain real?",
        "n = 240, 3 seeds",
        "loss " + EVIL,
        "of the teacher's accuracy",
        "9.0× smaller",
        "speed, batch 1",
        "Least detectable",
        report["data"]["test_sha256"],
        report["models"][1]["runs"][0]["sha256"],
        "run " + EVIL,
        "a warning " + EVIL,
        "plug-in estimate, 15 equal-mass bins",
    ):
        assert wanted in shown
    assert shown.count("The numbers") == 10
    gain = report["comparisons"][0]["difference"]["value"]
    assert f"{gain * 100:+.2f} pp" in shown


def cells(text: str) -> dict[str, list[str]]:
    """Name of a table's row -> its cells as text, of all tables of a page."""
    found: dict[str, list[str]] = {}
    for row in re.findall(r'<tr[^>]*><th scope="row">(.*?)</tr>', text):
        name, *rest = re.split(r"<td[^>]*>", row)
        name = Reader(re.sub(r"<small.*?</small>", "", name).removesuffix("</th>")).text
        found.setdefault(name, [Reader(cell.split("</td>")[0]).text for cell in rest])
    return found


def test_more_measures_stand_folded_with_the_numbers_of_the_report() -> None:
    report = make(classes=tuple(f"class {i}" for i in range(12)))
    text = page(report)
    folded = text.split("<summary>More measures</summary>")[1].split("</details>")[0]
    assert "fitted on the validation part" in folded
    rows, ours = cells(folded), report["models"][2]["metrics"]
    for label, key, scale, digits in (
        ("Macro precision", "macro_precision", 100, 1),
        ("Macro AUC", "macro_auc", 1, 3),
        ("AURC", "aurc", 100, 1),
        ("Brier score", "brier", 1, 3),
        ("Fitted temperature", "temperature", 1, 3),
        ("Calibration error, debiased", "calibration_l2", 100, 1),
    ):
        assert len(rows[label]) == 3
        assert rows[label][2].startswith(f"{ours[key]['value'] * scale:.{digits}f}"), label
    assert folded.count("at that temperature") == 2
    for key, shown in (("nll_scaled", "{:.3f}"), ("ece_scaled", "{:.1%}")):
        assert shown.format(ours[key]["value"]).rstrip("%") in Reader(folded).text
    assert cells(text)["Top-5 accuracy"][2].startswith(f"{ours['top5_accuracy']['value'] * 100:.1f}")
    assert "Top-5 accuracy" not in page(make())  # of four classes


def test_every_class_shows_precision_recall_f1_and_auc_folded() -> None:
    report = make()
    folded = page(report).split("<summary>Precision, recall, F1 and AUC</summary>")[1].split("</details>")[0]
    row, *_ = (row for row in report["per_class"] if row["class"] == "horse")
    shares = [row[mark][name] for mark in ("precision", "recall", "f1") for name in ("teacher", "scratch", "taught")]
    areas = [f"{row['auc'][name]:.3f}" for name in ("teacher", "scratch", "taught")]
    shown = [cell.replace("\u00a0", " ") for cell in cells(folded)["horse"]]
    assert shown == [f"{share * 100:.1f} %" for share in shares] + areas


def test_without_a_temperature_nothing_is_said_of_one() -> None:
    report = make()
    for model in report["models"]:
        for key in ("temperature", "nll_scaled", "ece_scaled"):
            del model["metrics"][key]
    text = page(report)
    assert "More measures" in text
    assert "at that temperature" not in text
    assert "fitted on the validation part" not in text


def test_a_report_of_an_earlier_version_is_still_shown() -> None:
    report = make()
    first = ("accuracy", "macro_recall", "macro_f1", "nll", "ece", "agreement", "divergence", "copied_errors")
    for model in report["models"]:
        model["metrics"] = {key: value for key, value in model["metrics"].items() if key in first}
        for run in model["runs"]:
            run["metrics"] = {key: value for key, value in run["metrics"].items() if key in first}
    for row in report["per_class"]:
        for mark in ("precision", "f1", "auc"):
            del row[mark]
    text = page(report)
    assert Reader(text).open == []
    assert "More measures" not in text
    assert "Precision, recall" not in text
    assert card(report)


def test_a_single_run_is_called_one() -> None:
    shown = Reader(page(make(seeds=1))).text
    assert "In this single run, " in shown
    assert "paired t by seed" not in shown


def test_an_unknown_size_is_not_compared() -> None:
    report = make(teacher={"parameters": 0, "file_bytes": 0, "sha256": ""})
    assert report["summary"]["size_ratio"] is None
    for text in (page(report), card(report)):
        assert re.search(r"× (smaller|larger|fewer)|(smaller|larger) file", text.split("</style>")[-1]) is None


def test_many_classes_show_those_that_moved_most() -> None:
    report = make(classes=tuple(f"c{i}" for i in range(60)))
    text = page(report)
    assert "The 20 classes that lost most and the 20 that gained most, of 60." in text
    assert 'class="heat"' not in text
    order = sorted(report["per_class"], key=lambda row: row["change"])
    assert f'<th scope="row">{order[0]["class"]}</th>' in text


def test_writing_is_whole_complete_and_the_same_every_time(tmp_path: Path) -> None:
    report = make()
    write_report(tmp_path, report)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "report.html", "report.json"]
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    read = json.loads(first["report.json"])
    write_report(tmp_path, read)  # from disk instead of from memory
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first
    assert read["verdict"]["sentences"][0].startswith("Student ")
    assert {key: read[key] for key in report} == report


def test_a_folder_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TutelageError, match="cannot write"):
        write_report(tmp_path / "file", make())


def head_of(text: str) -> dict[str, Any]:
    assert text.startswith("---\n")
    found = yaml.safe_load(text.split("---\n")[1])
    assert isinstance(found, dict)
    return found


def test_the_card_has_a_head_that_the_hub_reads() -> None:
    report = make()
    head = head_of(card(report))
    assert (head["license"], head["library_name"]) == ("unknown", "pytorch")
    (result,) = head["model-index"][0]["results"]
    accuracy = next(item for item in result["metrics"] if item["type"] == "accuracy")
    assert accuracy["value"] == pytest.approx(report["models"][2]["metrics"]["accuracy"]["value"], abs=1e-6)
    assert result["dataset"]["name"] == f"pets {EVIL}"


def test_the_hubs_own_reader_accepts_the_card() -> None:
    hub = pytest.importorskip("huggingface_hub")
    found = hub.ModelCard(card(make()), ignore_metadata_errors=False).data
    assert [result.metric_type for result in found.eval_results] == ["accuracy", "recall", "f1"]


def test_the_card_keeps_code_in_its_fences_and_cells_in_their_columns() -> None:
    text = card(make())
    assert "````yaml\ntext: |\n  ```\n" in text  # a fence longer than the one inside
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 5
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {9}
    assert "Weakest classes" in text


def test_markup_escapes_whatever_is_not_markup() -> None:
    assert tag("p", "<b>", None, [1, Safe("<i>x</i>")], title='"', hidden=None) == (
        '<p title="&quot;">&lt;b&gt;1<i>x</i></p>'
    )
    assert join("a & b", ("c", tag("br"))) == "a &amp; bc<br/>"
    assert tag("text", text_anchor="end", class_="x") == '<text text-anchor="end" class="x"></text>'


def test_large_differences_fit_their_cells() -> None:
    from tutelage.report import classwise

    confusion = {"models": ["teacher", "scratch", "distilled"], "difference": [[-0.597, 0.0996], [0.0994, -0.0004]]}
    shown = re.findall(
        r"<td[^>]*>([^<]*)</td>", classwise.heat_difference({"confusion": confusion, "classes": ["a", "b"]})
    )
    assert shown == ["−60", "+10", "+9.9", ""]

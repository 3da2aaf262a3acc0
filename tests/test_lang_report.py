"""The page, the card and the verdict in Chinese: nothing English is left but names, code and what stands in files."""

from __future__ import annotations

import json
import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from test_report import make
from tutelage import lang
from tutelage.lang.markdown import say_markdown
from tutelage.lang.names import names_in
from tutelage.report import verdict, write_report
from tutelage.report.card import card
from tutelage.report.html import page
from tutelage.report.markup import tag

# Two English words side by side, the second in small letters; `{name}: {value}` and files are none.
ENGLISH = re.compile(r"(?<![\w`./-])[A-Za-z]{3,}[,.;:]? [a-z]{3,}(?![\w=./-])")
SILENT = ("style", "pre", "code", "script")
CLASSES = ("apple", "bear", "file", "same")
VARIANTS: dict[str, dict[str, Any]] = {
    "three seeds": {},
    "one run": {"seeds": 1},
    "two seeds": {"seeds": 2},
    "two students": {"arms": ("scratch", "taught", "other")},
    "no baseline": {"arms": ("taught",)},
    "no teaching": {"arms": ("scratch",)},
}


class Nodes(HTMLParser):
    """The texts of a page, without code and style; attributes that people read as well."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts, self._silent = list[str](), list[str]()
        self.feed(text)

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        if name in SILENT or "code" in (dict(attributes).get("class") or "").split():
            self._silent.append(name)
        self.texts += [value for key, value in attributes if key in ("title", "alt", "aria-label") and value]

    def handle_endtag(self, name: str) -> None:
        if self._silent and self._silent[-1] == name:
            self._silent.pop()

    def handle_data(self, text: str) -> None:
        if not self._silent and text.strip():
            self.texts.append(text.replace("\u00a0", " ").replace("\u2060", ""))


@cache
def _made(name: str) -> str:
    # What make() calls things to break markup would hide what is English here.
    return json.dumps(make(classes=CLASSES, **VARIANTS[name])).replace("<script>alert('x')</script>", "x")


def report_of(name: str = "three seeds") -> dict[str, Any]:
    return dict(json.loads(_made(name)))


def english(texts: list[str], report: dict[str, Any]) -> list[str]:
    names = names_in(report)
    return [text for text in texts if text.strip() not in names and ENGLISH.search(text)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_english_sentence_is_left_on_the_page(variant: str) -> None:
    report = report_of(variant)
    assert len(english(Nodes(page(report)).texts, report)) > 50  # the net has meshes fine enough
    with lang.speaking("zh", names_in(report)):
        shown = Nodes(page(report)).texts
    assert english(shown, report) == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_english_sentence_is_left_on_the_card(variant: str) -> None:
    report = report_of(variant)
    with lang.speaking("zh", names_in(report)):
        said = say_markdown(card(report))
    body = re.sub(r"^(`{3,})\w*\n.*?^\1$", "", said.split("\n---\n", 1)[1], flags=re.DOTALL | re.MULTILINE)
    assert english([line.removeprefix("- ") for line in body.split("\n")], report) == []
    head, ours = said.split("\n---\n", 1)[0], card(report).split("\n---\n", 1)[0]
    assert head == ours


def test_every_number_of_the_page_is_in_both_languages() -> None:
    report = report_of()
    digits = re.compile(r"\d+(?:\.\d+)?")

    def numbers(text: str) -> list[str]:
        return sorted(digits.findall(" ".join(Nodes(text).texts).replace(",", "")))

    with lang.speaking("zh", names_in(report)):
        chinese = page(report)
    assert numbers(chinese) == numbers(page(report))


def test_a_class_that_is_called_like_a_word_of_the_page_keeps_its_name() -> None:
    report = report_of()
    with lang.speaking("zh", names_in(report)):
        shown = Nodes(page(report)).texts
    assert shown.count("file") >= 3
    assert shown.count("same") >= 3
    assert "文件" in shown


def test_the_verdict_reads_as_one_text() -> None:
    report = report_of()
    with lang.speaking("zh", names_in(report)):
        said = lang.say(verdict(report).text)
    assert said.startswith("学生模型保留教师模型准确率的 ")
    assert "蒸馏本身带来 +" in said
    assert re.search(r"校准：ECE [\d.]+ → [\d.]+ %（无教师 → 有教师）。", said)


def test_the_file_for_programs_stays_english(tmp_path: Path) -> None:
    report = report_of()
    for tongue in ("en", "zh"):
        (tmp_path / tongue).mkdir()
    write_report(tmp_path / "en", report)
    with lang.speaking("zh", names_in(report)):
        write_report(tmp_path / "zh", report)
    names = ("report.json", "report.html")
    pairs = {name: [(tmp_path / tongue / name).read_bytes() for tongue in ("en", "zh")] for name in names}
    assert pairs["report.json"][0] == pairs["report.json"][1]
    assert pairs["report.html"][0] != pairs["report.html"][1]


def test_code_attributes_and_marked_text_are_never_translated() -> None:
    with lang.speaking("zh"):
        shown = tag(
            "p", "none", tag("code", "none"), tag("td", "none", class_="text code"), class_="none", title="none"
        )
    expected = '<p class="none" title="无">无<code>none</code><td class="text code">none</td></p>'
    assert shown == expected


def test_the_page_says_which_language_it_is_in() -> None:
    report = report_of()
    assert '<html lang="zh-CN">' in page(report, "zh")
    assert '<html lang="en">' in page(report)
    assert page(report) == page(report, "en")


def test_the_card_is_written_in_the_language_asked_for(tmp_path: Path) -> None:
    write_report(tmp_path, report_of(), "zh")
    assert "## 加载学生模型" in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "蒸馏报告" in (tmp_path / "report.html").read_text(encoding="utf-8")

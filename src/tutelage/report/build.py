"""Writes what a run found out: `report.json`, the truth, and two views of it, `report.html` and `README.md`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tutelage import lang
from tutelage.files import write_json, write_text
from tutelage.lang.markdown import say_markdown
from tutelage.lang.names import names_in
from tutelage.report.card import card
from tutelage.report.html import page
from tutelage.report.verdict import verdict


def write_report(folder: Path, report: Mapping[str, Any], language: str | None = None) -> None:
    """Write all three files, each whole or not at all. The same report always gives the same bytes.

    Args:
        folder: the run folder.
        report: what `tutelage.evaluation.scorecard` returned, or what `report.json` holds.
        language: of page and card, one of `tutelage.lang.LANGUAGES`; None: the one spoken. report.json stays English.
    """
    with lang.speaking(language, names_in(report)):
        pages = {"report.html": page(report), "README.md": say_markdown(card(report))}
    write_json(folder / "report.json", {**report, "verdict": verdict(report).to_json()})
    for name, content in pages.items():
        write_text(folder / name, content)

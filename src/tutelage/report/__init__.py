"""Views of `report.json`: a page, a card and a few plain words. Nothing is computed here."""

from tutelage.report.build import write_report
from tutelage.report.verdict import Verdict, verdict

__all__ = ["Verdict", "verdict", "write_report"]

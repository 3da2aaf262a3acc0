"""What the numbers belong to: data, versions, files and their sums."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tutelage.files import human_bytes
from tutelage.report import numbers
from tutelage.report.markup import Safe, tag
from tutelage.report.tables import table

Report = Mapping[str, Any]


def rows(report: Report) -> list[tuple[str, str]]:
    """Name and value of every fact, in the order of reading."""
    data = report["data"]
    seeds = ", ".join(str(seed) for seed in report["seeds"])
    shared = data["shared_examples"]
    found = [
        ("Data", data["name"]),
        ("Examples", ", ".join(f"{split} {total:,}" for split, total in data["totals"].items())),
        *([("Learned from without labels", f"{data['unlabelled']:,}")] if data.get("unlabelled") else []),
        ("Content shared between splits", "none" if not shared else f"{shared:,} examples"),
        ("Looks at the test part", f"{data['test_looks']}"),
        ("Seeds", seeds),
        ("Deterministic mode", "on" if report["deterministic"] else "off"),
        ("Teacher's answers", _answers(report.get("answers"))),
        ("Wall time", numbers.duration(report["wall_seconds"])),
        ("Versions", ", ".join(f"{name} {version}" for name, version in report["versions"].items())),
        ("Fingerprint of the data", data["fingerprint"]),
        ("SHA-256 of the test part", data["test_sha256"]),
    ]
    if report["teacher_val_accuracy"] is not None:
        found.insert(4, ("Teacher on the validation part", numbers.percent(report["teacher_val_accuracy"])))
    for one in reversed(report.get("teachers", ())):
        size = f"{one['parameters']:,} parameters, {human_bytes(one['file_bytes'])}"
        said = f"{numbers.percent(one['val_accuracy'])} of the validation part; {size}"
        found.insert(5, (f"Teacher {one['name']} by itself", said))
    return found


def _answers(store: Mapping[str, Any] | None) -> str:
    """Where the students' soft targets came from, and what they cost."""
    if store is None:
        return "asked live, at every step"
    took = f"{store['asked']:,} of them asked by this run in {numbers.duration(store['seconds'])}"
    views = {"none": "plain examples", "replay": "every view of the run"}.get(store["views"])
    views = views or f"{store['views']} recorded views of each example"
    rows = f"{store['rows']:,} stored rows ({views}, {store['codec']}, {human_bytes(store['bytes'])})"
    return f"{rows}, {took}; key {store['key']}"


def facts(report: Report) -> Safe:
    """The facts as a table."""
    sums = {"Fingerprint of the data", "SHA-256 of the test part"}
    cells = [(name, tag("td", value, class_="text code" if name in sums else "text")) for name, value in rows(report)]
    return tag("table", tag("tbody", [tag("tr", tag("th", name, scope="row"), cell) for name, cell in cells]))


def counts(report: Report) -> Safe:
    """Examples of every class in every split."""
    splits = list(report["data"]["totals"])
    body = [[row["class"], *(numbers.count(row[split]) for split in splits)] for row in report["data"]["counts"]]
    return table(["Class", *splits], body)


def files(report: Report) -> Safe:
    """Every file that was judged, by its sum."""
    body = [
        [
            model["name"] if run["seed"] is None else f"{model['name']}, seed {run['seed']}",
            numbers.count(run["file_bytes"] or None),
            tag("td", run["sha256"] or numbers.MISSING, class_="text code"),
        ]
        for model in report["models"]
        for run in model["runs"]
    ]
    return table(["File of", "Bytes", tag("th", "SHA-256", class_="text", scope="col")], body)

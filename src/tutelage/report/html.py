"""One page that explains itself: the verdict first, then the evidence, then how to use the student and how to doubt it.

The page is a view of the report object. It computes no statistic, asks the network for nothing and runs no script.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from tutelage import lang
from tutelage.lang.names import names_in
from tutelage.report import artifacts, classwise, cost, facts, figures, numbers, parts, robust, tables, tasks, trust
from tutelage.report.markup import Safe, join, tag
from tutelage.report.measure import judged_by, of_questions, taught, untaught
from tutelage.report.roster import roster
from tutelage.report.verdict import Verdict, verdict

Report = Mapping[str, Any]
_MOST_ACROSS = 5
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def page(report: Report, language: str | None = None) -> str:
    """The whole report as one self-contained HTML document, in a language of `tutelage.lang`; None: the one spoken."""
    with lang.speaking(language, names_in(report)):
        return _page(report)


def _page(report: Report) -> str:
    said = verdict(report)
    title = f"{report['recipe']['name']} – distillation report"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        Safe(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"/>'),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name_="color-scheme", content="light dark"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", Safe(resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8"))),
    )
    sections = [
        _models,
        _evidence,
        tasks.tasks,
        _folds,
        cost.cost,
        artifacts.artifacts,
        trust.fidelity,
        trust.calibration,
        robust.robust,
        _training,
        _classes,
        _confusions,
        _integrity,
        _use,
        _doubt,
    ]
    body = tag(
        "body",
        tag("header", _header(report)),
        tag("main", _verdict(report, said), *(section(report) for section in sections)),
        tag(
            "footer", f"Written by tutelage {report['versions'].get('tutelage', '')} from report.json beside this page."
        ),
    )
    return f'<!doctype html>\n<html lang="{lang.html_language()}">{head}{body}</html>\n'


def _header(report: Report) -> Safe:
    data = report["data"]
    line = f"{data['name']} · {data['totals']['test']:,} test examples · {numbers.plural(len(report['seeds']), 'seed')}"
    return join(
        tag("p", "tutelage · distillation report", class_="over"),
        tag("h1", report["recipe"]["name"]),
        tag("p", line, class_="lead"),
    )


def _verdict(report: Report, said: Verdict) -> Safe:
    """What a reader who stops after ten seconds takes along."""
    several = " several" if len(said.claims) > 1 else ""
    box = tag(
        "section",
        tag("p", tables.text(said.cost), class_="say"),
        [tag("p", tables.text(claim), class_="say claim" + several) for claim in said.claims],
        tag("p", tables.text(" ".join(said.rest))),
        class_=f"card verdict tone-{said.tone}",
    )
    warnings = None
    if said.warnings:
        heading = tag("h2", "Before you believe the numbers")
        items = [tag("li", tables.text(warning)) for warning in said.warnings]
        warnings = tag("section", heading, tag("ul", items), class_="card warnings")
    return join(box, _tiles(report, said.tone), warnings)


def _tiles(report: Report, tone: str) -> Safe:
    summary = report["summary"]
    gain = next((item for item in taught(report) if item["name"] == report["headline"]), None)
    tiles = []
    if summary["retained"] is not None:
        kept = summary["retained"]
        of = "of the teacher's exact match" if of_questions(report) else "of the teacher's accuracy"
        tiles.append((of, numbers.percent(kept["value"]), _within(numbers.interval(kept), "%")))
    if gain is not None:
        value = numbers.points(gain["difference"]["value"], numbers.decimals(gain["difference"]))
        tiles.append(("from distillation itself", value, _within(numbers.points_interval(gain["difference"]), "pp")))
    models = {model["name"]: model for model in report["models"]}
    if summary["size_ratio"] is not None:
        size = [numbers.size(models[name]["file_bytes"]) for name in ("teacher", report["headline"])]
        ratio, word = _ratio(summary["size_ratio"], "smaller file", "larger file", "file size")
        tiles.append((word, ratio, " → ".join(size)))
    if summary["speed_ratio"] is not None:
        pair = [numbers.milliseconds(models[name]["latency"][0]["p50_ms"]) for name in ("teacher", report["headline"])]
        ratio, word = _ratio(summary["speed_ratio"], "faster", "slower", "speed")
        batch = models[report["headline"]]["latency"][0]["batch"]
        tiles.append((f"{word}, batch {batch}", ratio, " → ".join(pair)))
    return tag(
        "dl",
        [
            tag(
                "div",
                tag("dt", label),
                tag("dd", tables.text(value)),
                tag("dd", tables.text(small), class_="small"),
                class_=f"card tone-{tone} claim" if "itself" in label else "card",
            )
            for label, value, small in tiles
        ],
        class_="tiles",
    )


def _ratio(ratio: float, more: str, less: str, noun: str) -> tuple[str, str]:
    """The number and the word of a tile: `9.1×` and `smaller file`."""
    if 0.95 < ratio < 1.05:
        return "same", noun
    return (numbers.times(ratio), more) if ratio > 1 else (numbers.times(1 / ratio), less)


def _within(interval: str, unit: str) -> str:
    return "single run, no interval" if interval == numbers.MISSING else f"95 % CI {interval} {unit}"


def _models(report: Report) -> Safe:
    several = (
        "Numbers are means over seeds, and under them stands the 95 % t interval over seeds; accuracy has the interval "
        "over test examples as well."
    )
    words = several if len(report["seeds"]) > 1 else "This is a single run, so only accuracy has an interval."
    many = len(report["models"]) > _MOST_ACROSS
    return parts.section(
        "The models side by side",
        f"Every model answered the same test part, from its file on disk. {words}",
        tag("div", roster(report) if many else tables.main(report), class_="card wide", style="max-height:none"),
        parts.more("All of it", tag("div", tables.main(report), class_="card wide")) if many else None,
        _measures(report),
    )


def _measures(report: Report) -> Safe | None:
    table = tables.more(report)
    if table is None:
        return None
    fitted = any("temperature" in model["metrics"] for model in report["models"])
    note = (
        "The temperature was fitted on the validation part. What it alone mends in NLL and ECE is nothing that "
        "distillation should be credited with."
    )
    whole = tag("div", table, class_="card wide", style="max-height:none")
    return parts.more("More measures", join(tag("p", note, class_="note") if fitted else None, whole))


def _evidence(report: Report) -> Safe | None:
    """Whether the gain is real, seed by seed and example by example."""
    arms = [model["name"] for model in report["models"] if model["role"] not in ("teacher", "compressed")]
    runs = parts.figure(
        "Every single run",
        figures.legend(report, ["teacher", *arms]) + figures.strip(report),
        f"{judged_by(report)}, n = {report['data']['totals']['test']:,}, "
        f"{numbers.plural(len(report['seeds']), 'seed')}. One dot is one run, the bar its mean, the dotted line the "
        "teacher. A line joins the runs of one seed, which saw the same batches.",
        tables.runs(report),
    )
    if not report["comparisons"]:
        return parts.section("How much the runs differ", "Nothing was compared, so these are the runs alone.", runs)
    alone = [item["name"] for item in untaught(report)]
    what = "exact match" if of_questions(report) else "test accuracy"
    gain = parts.figure(
        "What each arm added" if alone else "What distillation added",
        figures.forest(report),
        f"Difference in {what}, 95 % intervals, n = {report['data']['totals']['test']:,}, "
        f"{numbers.plural(len(report['seeds']), 'seed')}; {_how_sure(report)}",
        tables.comparisons(report),
    )
    lead = (
        "The same student was trained with and without the teacher, on the same batches and views, so the two are "
        "compared in pairs."
    )
    if alone:
        lead += f" No teacher, but another way than the baseline's: {', '.join(f'‘{name}’' for name in alone)}."
    return parts.section("Is the gain real?", lead, tag("div", gain, runs, class_="pair-of"))


def _how_sure(report: Report) -> str:
    """What the lines and marks of the comparisons are."""
    basis = report["comparisons"][0]["basis"]
    if basis == "examples":
        return (
            "single run: the interval is a paired bootstrap over test examples, by class; it says nothing of other "
            "seeds."
        )
    helped = "Right of 0 is better than the baseline." if untaught(report) else (
        "Right of 0 means that distillation helped."
    )  # fmt: skip
    if basis == "folds":
        return (
            f"thick and diamond: the interval over folds, which decides; thin: paired bootstrap over test examples. "
            f"{helped}"
        )
    return (
        "thick and diamond: paired t by seed, which decides; thin: paired bootstrap over test examples; rings: single "
        f"seeds. {helped}"
    )


def _folds(report: Report) -> Safe | None:
    """Of a cross-validation: the difference in every fold."""
    folds = report.get("folds")
    if not folds or not folds["comparisons"]:
        return None
    tested = report["data"]["totals"]["test"]
    return parts.section(
        f"Fold by fold, {folds['count']} of them",
        f"Every one of the {tested:,} examples was in the test part of one fold, answered by models that never saw it. "
        "The interval over folds is wider than a plain one, since folds share most of what they learn from.",
        tag("div", tables.folds(report), class_="card wide"),
    )


def _training(report: Report) -> Safe | None:
    shown = [
        (metric, title, share)
        for metric, title, share in (
            ("val_accuracy", "Validation accuracy", True),
            ("val_nll", "Validation NLL", False),
            ("loss", "Training loss", False),
        )
        if any(len(series) > 1 for series in report["curves"].get(metric, {}).values())
    ][:2]
    if not shown:
        return None
    cards, seeds = [], numbers.plural(len(report["seeds"]), "seed")
    for metric, title, share in shown:
        arms = list(report["curves"][metric])
        teacher = ["teacher"] if metric == "val_accuracy" and report["teacher_val_accuracy"] is not None else []
        cards.append(
            parts.figure(
                title,
                figures.legend(report, [*teacher, *arms]) + figures.curves(report, metric, share=share),
                f"{'Percent' if share else 'Nats per example'}, mean over {seeds}; "
                "the band spans the least and the greatest seed. Steep first epochs may lie below the picture.",
                tables.curve(report, metric, share=share),
            )
        )
    return parts.section(
        "How the students learned",
        "Measured on the validation part after every epoch, never on the test part.",
        tag("div", cards, class_="pair-of"),
    )


def _classes(report: Report) -> Safe | None:
    if of_questions(report):  # hundreds of places are no classes
        return None
    against = report["baseline"] if report["baseline"] != report["headline"] else None
    extra = f" The bars show ‘{report['headline']}’ minus ‘{against}’." if against else ""
    marks = classwise.marks(report)
    forgotten, newly = report["summary"]["forgotten"]["count"], report["summary"]["newly_right"]["count"]
    return parts.section(
        "Class by class",
        f"Recall on the test part, mean over {numbers.plural(len(report['seeds']), 'seed')}.{extra} A star marks a "
        "change that survives a false-discovery rate of 5 % over all classes. "
        f"{numbers.plural(forgotten, 'test example')} that the teacher gets right went wrong in every run of "
        f"‘{report['headline']}’, and {newly:,} the other way round.",
        tag("div", classwise.classes(report), class_="card wide"),
        None if marks is None else parts.more("Precision, recall, F1 and AUC", tag("div", marks, class_="card wide")),
        _forgotten(report, forgotten),
    )


def _forgotten(report: Report, count: int) -> Safe | None:
    """Pictures or texts of what the teacher knows and no run of the student does."""
    pictures = report.get("pictures")
    if not pictures:
        return None
    if "text" in pictures[0]:
        # As code, which is never translated: what data say is not ours to put into other words.
        body = [[tag("code", one["text"]), one["true"], one["said"]] for one in pictures]
        shown: object = tables.table(["Text", "True", "Said"], body)
        return parts.more(_forgotten_title(report, count), tag("div", shown, class_="card wide"))
    shown = [
        tag(
            "figure",
            tag("img", src=f"data:image/png;base64,{one['png']}", alt=f"{one['true']}, taken for {one['said']}"),
            tag("figcaption", tag("b", one["true"]), tag("br"), f"said: {one['said']}"),
        )
        for one in pictures
    ]
    return parts.more(_forgotten_title(report, count), tag("div", shown, class_="card pictures"))


def _forgotten_title(report: Report, count: int) -> str:
    shown = len(report["pictures"])
    if count > shown:
        return f"What ‘{report['headline']}’ forgot: {shown} of {count:,}"
    return f"What ‘{report['headline']}’ forgot"


def _confusions(report: Report) -> Safe | None:
    if of_questions(report):
        return None
    confusion = report["confusion"]
    pairs = tag("div", classwise.pairs(report), class_="card wide")
    if confusion["rates"] is None:
        return parts.section(
            "What is mistaken for what",
            f"With {len(report['classes']):,} classes only the pairs that ‘{report['headline']}’ mixes up most.",
            pairs,
        )
    cards = [classwise.heat(report, name) for name in confusion["models"]]
    if confusion["difference"] is not None:
        cards.append(classwise.heat_difference(report))
    return parts.section(
        "What is mistaken for what",
        "Each row is a true class and adds up to 100 %; columns are what the model said. Mean over seeds, "
        f"n = {report['data']['totals']['test']:,}. In the last picture, a difference, teal is better: more right "
        "answers or fewer mistakes.",
        tag("div", [tag("div", card, class_="card") for card in cards], class_="pair-of"),
        parts.more("The most common mistakes as a table", pairs),
    )


def _integrity(report: Report) -> Safe:
    counts = None if of_questions(report) else facts.counts(report)
    return parts.section(
        "Data and integrity",
        "What was trained on, what was judged on, and the files that these numbers belong to.",
        tag("div", facts.facts(report), class_="card wide"),
        None if counts is None else parts.more("Examples of every class", tag("div", counts, class_="wide")),
        parts.more("Files and their sums", tag("div", facts.files(report), class_="wide"), printed=True),
    )


def _use(report: Report) -> Safe:
    return parts.section(
        "Use the student",
        "The student is an ordinary PyTorch file. This loads it:",
        tag("pre", tag("code", report["load_snippet"])),
    )


def _doubt(report: Report) -> Safe:
    """Everything needed to get the same numbers again, or to disagree with how they were made."""
    methods: Sequence[Safe] = [
        tag("tr", tag("th", tables.LABELS.get(name, name)), tag("td", text, class_="text"))
        for name, text in report["methods"].items()
    ]
    return parts.section(
        "Get the same numbers",
        "The recipe below and the versions above are all that this run depended on.",
        tag("pre", tag("code", report["command"])),
        parts.more("The recipe", tag("pre", tag("code", report["recipe"]["text"])), printed=True),
        parts.more("How each number was computed", tag("table", tag("tbody", methods)), printed=True),
    )

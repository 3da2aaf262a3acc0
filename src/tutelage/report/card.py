"""The card that travels with the student: Hugging Face reads its head, people read its body.

Everything in it comes from the report object. What is not known, such as a licence, is said not to be stated.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from tutelage.report import artifacts, facts, numbers, robust, tasks
from tutelage.report.markup import TURNS
from tutelage.report.measure import of_questions
from tutelage.report.plain import snippet
from tutelage.report.verdict import verdict

Report = Mapping[str, Any]
_HUB_METRICS = {"accuracy": "accuracy", "macro_recall": "recall", "macro_f1": "f1"}
_HUB_OF_QUESTIONS = {"accuracy": "exact_match", "f1": "f1"}
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_INPUTS = (
    "Inputs are numbers in [0, 1] of the shape it was trained on, the normalisation is inside; it does not notice "
    "inputs that are scaled otherwise."
)
_COLUMNS = (
    "It reads what its own encoder makes of columns such as those it was trained on; it does not notice other "
    "languages, units or ways of writing."
)
# Marks that turn the direction of the text after them; a name with one would rearrange the sentence around it.
_WEAK = 3


def card(report: Report) -> str:
    """README.md of the run folder, as Markdown with a YAML head."""
    said = verdict(report)
    parts = [
        f"---\n{_head(report)}---\n",
        f"# {_plain(report['recipe']['name'])}\n",
        _plain(said.text) + "\n",
        "## Results\n",
        _table(report),
        f"n = {report['data']['totals']['test']:,} test examples of {_plain(report['data']['name'])}, "
        f"{numbers.plural(len(report['seeds']), 'seed')}. ± is half of the 95 % interval over seeds. "
        "All numbers are in `report.json`, with intervals over test examples too; `report.html` shows them.\n",
        *robust.ahead(report),
        *tasks.ahead(report),
        "## Intended use\n",
        _listed(_use(report)),
        "## Limits\n",
        _listed(_limits(report, said.warnings)),
        "## Licences\n",
        _listed(_licences(report)),
        *_loading(report),
        "## Cite\n",
        *_citation(report),
        "## Get the same numbers\n",
        _fenced(report["command"], "console"),
        f"<details><summary>The recipe</summary>\n\n{_fenced(report['recipe']['text'], 'yaml')}\n</details>\n",
        _listed([f"{name}: {value}" for name, value in facts.rows(report)]),
    ]
    return "\n".join(parts)


# ---- what the report knows -------------------------------------------------------------------------------------------


def _headline(report: Report) -> Report:
    return next(model for model in report["models"] if model["name"] == report["headline"])


def _recipe(report: Report) -> Mapping[str, Any]:
    """The recipe as it was run; nothing where the run was started from Python, whose record is no recipe."""
    try:
        found = yaml.safe_load(report["recipe"]["text"])
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


def _section(owner: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = owner.get(key)
    return found if isinstance(found, dict) else {}


def _student(report: Report) -> Mapping[str, Any]:
    """The part of the recipe that describes the headline's student."""
    recipe = _recipe(report)
    several = _section(recipe, "students")
    name = _headline(report).get("student") or next(iter(several), "")
    return _section(several, name) if several else _section(recipe, "student")


def _hub_name(model: object) -> str | None:
    """`owner/name` of a model that came from the hub."""
    kind, _, name = str(model).partition(":")
    return name if kind == "hf" and _HUB_NAME.fullmatch(name) else None


def _file(report: Report) -> str:
    """Where the headline's first student lies, from the folder of the run."""
    return f"students/{report['headline']}/seed-{_headline(report)['runs'][0]['seed']}/student.safetensors"


# ---- the head --------------------------------------------------------------------------------------------------------


def _head(report: Report) -> str:
    """Metadata that the Hugging Face hub accepts. YAML quotes whatever is not plain text."""
    data, task = report["data"], report["data"]["task"]
    model, recipe = _headline(report), _recipe(report)
    measures = _HUB_OF_QUESTIONS if of_questions(report) else _HUB_METRICS
    metrics = [
        {
            "type": hub,
            "value": round(model["metrics"][ours]["value"], 6),
            "name": hub.replace("_", " ") if of_questions(report) else ours.replace("_", " "),
            **({"args": {"average": "macro"}} if ours.startswith("macro") else {}),
        }
        for ours, hub in measures.items()
    ]
    dataset = {"name": data["name"], "type": data["name"], "split": "test"}
    result = {"task": {"type": task, "name": task.replace("-", " ")}, "dataset": dataset, "metrics": metrics}
    head: dict[str, Any] = {"license": "unknown"}
    if bases := _bases(report):
        head["base_model"] = bases[0] if len(bases) == 1 else bases
        head["base_model_relation"] = "finetune"  # of several the hub would think that they were merged
    if recipe and _section(recipe, "data").get("path") is None:
        head["datasets"] = [data["name"]]  # a public set; what lies at a path has no public name
    head |= {
        "library_name": "pytorch",
        "pipeline_tag": task,
        "tags": ["knowledge-distillation", "model-compression", "tutelage", task],
        "metrics": list(measures.values()),
        "model-index": [{"name": report["recipe"]["name"], "results": [result]}],
    }
    # Line breaks of other scripts and marks that turn text survive only as escapes, which YAML otherwise leaves out.
    readable = f"{report['recipe']['name']}{data['name']}".isprintable()
    return str(yaml.safe_dump(head, sort_keys=False, allow_unicode=readable, width=float("inf")))


def _bases(report: Report) -> list[str]:
    """Models of the hub that this one comes from: where the student started, and who taught it."""
    found = [_student(report).get("model"), *_teachers(report)]
    return list(dict.fromkeys(name for name in map(_hub_name, found) if name is not None))


def _teachers(report: Report) -> list[object]:
    """The models that taught, as the recipe names them."""
    recipe = _recipe(report)
    several = _section(recipe, "teachers")
    sections = [_section(several, name) for name in several] or [_section(recipe, "teacher")]
    return [one["model"] for one in sections if one.get("model")]


# ---- the body --------------------------------------------------------------------------------------------------------


def _table(report: Report) -> str:
    """The main table in short."""
    times = any(model["latency"] for model in report["models"])
    attacked, questions = robust.known(report) is not None, of_questions(report)
    shares = ("accuracy", "f1") if questions else ("accuracy", "macro_recall")
    head = ["model", "accuracy, %", "macro recall, %", "NLL", "ECE, %", "parameters", "file"]
    head[1:5] = ["exact match, %", "F1, %"] if questions else head[1:5]
    head[2:2] = ["robust, %"] if attacked else []
    rows = []
    for model in report["models"]:
        found = model["metrics"]
        row = [_cell(model["name"]), *(numbers.spread(found[key]) for key in shares)]
        if attacked:
            row.insert(2, numbers.spread(model["robust"]["accuracy"]) if "robust" in model else numbers.MISSING)
        if not questions:
            row += [f"{found['nll']['value']:.3f}", f"{found['ece']['value'] * 100:.1f}"]
        row += [numbers.count(model["parameters"] or None), numbers.size(model["file_bytes"] or None)]
        if times:
            row.append(numbers.milliseconds(model["latency"][0]["p50_ms"] if model["latency"] else None))
        rows.append(row)
    if times:
        item = next(model["latency"][0] for model in report["models"] if model["latency"])
        head.append(f"p50, batch {item['batch']}, {numbers.plural(item['threads'], 'thread')}")
    lines = [_row(head), _row(["---"] + ["---:"] * (len(head) - 1)), *(_row(row) for row in rows)]
    return "\n".join(lines) + "\n"


def _use(report: Report) -> list[str]:
    """What the numbers speak for."""
    data, task = report["data"], report["data"]["task"].replace("-", " ")
    wrong = 1 - _headline(report)["metrics"]["accuracy"]["value"]
    said = (
        f"{task[0].upper()}{task[1:]}: examples like those of {data['name']}, each of exactly one of "
        f"{numbers.plural(len(report['classes']), 'class')}."
    )
    if of_questions(report):
        said = (
            f"Question answering: questions like those of {data['name']}, read together with their text up to "
            f"{len(report['classes']):,} tokens."
        )
    return [
        said,
        f"It was wrong on {numbers.percent(wrong)} of the test examples; whoever acts on its answers should be able to "
        "bear that.",
        "Nothing was measured on data from another source, on disturbed inputs or on groups of people."
        if robust.known(report) is None
        else "Nothing was measured on data from another source, on groups of people, or on inputs that are disturbed "
        "otherwise than by the attack above.",
    ]


def _limits(report: Report, warnings: Sequence[str]) -> list[str]:
    """What a user of the student must not assume."""
    recall = {row["class"]: row["recall"][report["headline"]] for row in report["per_class"] if row["n"]}
    weak = sorted(recall, key=lambda name: float(recall[name]))[:_WEAK]
    names = ", ".join(f"‘{name}’ {numbers.percent(recall[name])}" for name in weak)
    unseen = [row["class"] for row in report["per_class"] if not row["n"]]
    few = ", ".join(f"‘{name}’" for name in unseen[:_WEAK]) + (", …" if len(unseen) > _WEAK else "")
    taught = "It was taught by a model: errors and unfairness of the teacher may have been passed on."
    if of_questions(report):
        nothing = "It answers with a stretch of the text that it is given, or with nothing; it says nothing of its own."
        return [_COLUMNS if _reads_columns(report) else _INPUTS, nothing, taught, *warnings]
    return [
        _COLUMNS if _reads_columns(report) else _INPUTS,
        f"It knows {numbers.plural(len(report['classes']), 'class')} and names one of them for any input, "
        "also for inputs unlike those it was trained on.",
        f"Weakest classes by recall on the test part: {names}.",
        *([f"Without any test example, so nothing is known of them: {few}."] if unseen else []),
        taught,
        *warnings,
    ]


def _licences(report: Report) -> list[str]:
    """Whose terms apply. The report knows none of them."""
    teachers = _teachers(report)
    hub = any(map(_hub_name, teachers))
    named = f" {', '.join(map(str, teachers))}" if teachers else ""
    return [
        "This student: not stated.",
        f"The teacher{named}: not stated" + (", see its page on the hub." if hub else "."),
        f"The data, {report['data']['name']}: not stated.",
        "The terms of the teacher and of the data may bind the student; look them up before you pass it on.",
    ]


def _loading(report: Report) -> list[str]:
    """The files with and without the library, and what its answers mean."""
    load, student = report["load_snippet"], _student(report)
    parts = ["## Load the student\n", _fenced(load, "python")]
    if "tutelage" in load and not _reads_columns(report):  # else the lines above need nothing but torch already
        model = student.get("model")
        plain = snippet(_file(report), model if isinstance(model, str) else None, _section(student, "args"))
        parts += ["Without tutelage, with torch and safetensors alone:\n", _fenced(plain, "python")]
    for title, code in artifacts.loading(report):
        parts += [_plain(title) + "\n", _fenced(code, "python")]
    if of_questions(report):
        return parts
    names = json.dumps(tasks.outputs(report), ensure_ascii=False).translate(TURNS)
    shown = (
        f"<details><summary>The classes, in the order of the logits</summary>\n\n{_fenced(names, 'json')}\n</details>\n"
    )
    return [*parts, shown]


def _reads_columns(report: Report) -> bool:
    """Whether an encoder makes the student's inputs, as the lines that load it then say."""
    return "encoder_of" in report["load_snippet"]


def _citation(report: Report) -> list[str]:
    """What names this very student; authors and years are not in the report."""
    name, version = report["recipe"]["name"], report["versions"].get("tutelage", "")
    run = _headline(report)["runs"][0]
    what = f"Student {report['headline']} of the run {name}, seed {run['seed']}"
    how = f"Distilled with tutelage {version}; SHA-256 of the file: {run['sha256'] or 'not stated'}"
    key = re.sub(r"[^A-Za-z0-9]+", "-", f"{name}-{report['headline']}").strip("-")
    entry = f"@misc{{{key},\n  title = {{{_latex(what)}}},\n  note = {{{_latex(how)}}},\n}}"
    return [
        _fenced(entry, "bibtex"),
        "Add who made it and when, and cite the teacher and the data as their authors ask.\n",
    ]


# ---- text that nothing acts on ---------------------------------------------------------------------------------------


def _listed(lines: Sequence[str]) -> str:
    return "\n".join(f"- {_plain(line)}" for line in lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")


def _plain(text: str) -> str:
    """Text in which Markdown and HTML find nothing to act on; one line stays one line."""
    flat = " ".join(text.split()).translate(TURNS)
    quiet = re.sub(r"([\\`*_\[\]<>#&~$]|:(?=//)|(?<=www)\.)", r"\\\1", flat)
    return quiet.replace("\\<", "&lt;").replace("\\>", "&gt;")


def _latex(text: str) -> str:
    """Text that BibTeX takes as it stands: braces would end the field, and the rest has a meaning in TeX."""
    flat = " ".join(text.split()).translate(TURNS)
    return re.sub(r"[{}\\]", "", flat).translate({ord(mark): f"\\{mark}" for mark in "%&#_$"})


def _fenced(text: str, language: str) -> str:
    """A code block whose fence is longer than any run of backticks inside it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}\n"

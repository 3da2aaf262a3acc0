"""Files that run elsewhere: how they compare with their models, and a few lines for each that ask it without us.

The lines are text, since writing a report needs no torch and no runtime; the tests run them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from tutelage.report import numbers, parts
from tutelage.report.markup import Safe, tag
from tutelage.report.tables import table

Report = Mapping[str, Any]

_ONNX = """\
import {before}json{after}

import numpy as np
import onnxruntime
{imports}
session = onnxruntime.InferenceSession({file})
facts = json.loads(session.get_modelmeta().custom_metadata_map["tutelage"])
{inputs}
logits = session.run(None, {{"input": x}})[0]  # (B, classes), for any B
{said}
"""
_PROGRAM = """\
import {before}json{after}

import numpy as np
import torch
{imports}
extra = {{"tutelage": ""}}
student = torch.export.load({file}, extra_files=extra).module()  # only a file that you trust
facts = json.loads(extra["tutelage"])
{inputs}
with torch.no_grad():
    logits = student(torch.from_numpy(x))  # (B, classes), for any B
{said}
"""
_OTHER = """\
import numpy as np
from tutelage.export import open_artifact
{imports}
student = open_artifact({file})
{inputs}
logits = student(x)  # (B, classes), for any B
{said}
"""
_SAID = "print([{classes}[best] for best in logits.argmax(-1)])"
_TASKS = """\
first = 0
for task, size in {tasks}.items():  # the logits of one task stand beside those of the next
    best = logits[:, first : first + size].argmax(-1)
    print(task, [{classes}[first + one].removeprefix(task + ": ") for one in best])
    first += size"""
# The pair of places as `evaluation.spans.best_spans` finds it.
_PLACES = """\
places = encoding["length"]  # logits of where an answer starts, then of where it ends; place 0 is no answer
pairs = [(a, b) for a in range(1, places) for b in range(a, min(a + {longest}, places))]
for (question, text), start, end in zip(texts, logits[:, :places].tolist(), logits[:, places:].tolist()):
    a, b = max(pairs, key=lambda pair: start[pair[0]] + end[pair[1]])
    found = tokenizer.encode(question, text).offsets if start[0] + end[0] < start[a] + end[b] else None
    print([text[found[a][0] : found[b][1]] if found else "no answer"])"""
_PLACES_BY_US = """\
places = best_spans(*np.split(logits, 2, axis=1))  # where an answer starts, and where it ends
spans = encoder_of({encoding}).characters(rows, places)
print([text[a:b] or "no answer" for text, (a, b) in zip(rows.column({column}), spans)])"""
_LONGEST = 30  # tokens of an answer
_PICTURE = """\
x = np.asarray(Image.open("picture.png").convert("{mode}").resize(({width}, {height})), dtype="float32"){order}
x = np.ascontiguousarray(x) / 255  # in [0, 1]; mean and deviation are inside the file"""
_NUMBERS = 'x = np.random.rand(1, {sizes}).astype("float32")  # scaled as the training data was'
_TOKENS = """\
encoding = facts["encoding"]
packed = base64.b64decode(encoding["tokenizer"]["zlib"])
tokenizer = Tokenizer.from_str(zlib.decompress(packed).decode())
tokenizer.encode_special_tokens = True
tokenizer.no_padding()
tokenizer.enable_truncation(encoding["length"], strategy="longest_first")
texts = [{text}]  # {columns}
x = np.zeros((len(texts), encoding["length"]), dtype="int64")  # 0 behind short texts
for row, one in enumerate(tokenizer.encode_batch(texts)):
    x[row, : len(one.ids)] = one.ids"""
# Where the tokenizer itself pads with another id, the two have changed places.
_SWAPPED = """\
    ids, swap = np.array(one.ids), encoding["swap"]
    x[row, : len(ids)] = np.where(ids == 0, swap, np.where(ids == swap, 0, ids))"""
_IDS = """\
encoding = facts["encoding"]
numbers = {{name: number for number, name in enumerate(encoding["known"], start=2)}}  # 1 is never seen, 0 padding
texts = [{text}]  # {columns}
x = np.zeros((len(texts), encoding["length"]), dtype="int64")
for row, one in enumerate(texts):
    last = [numbers.get(name, 1) for name in one.split()[-encoding["length"] :]]
    x[row, : len(last)] = last"""
_ROWS = """\
rows = Rows("mine", {{
{columns}
}}{rates})
x = as_model_input(encoder_of({encoding}).encode(rows)){numpy}"""
_STUDENT = """\
import json
from pathlib import Path

import numpy as np
from tutelage.data import Rows, as_model_input
from tutelage.data.encoders import encoder_of
from tutelage.run import load_student

home = Path({folder})
student = load_student(home)
encoding = json.loads((home / "student.json").read_text(encoding="utf-8"))["encoding"]
{rows}
logits = student(x)"""
# By channels: Pillow's name of it, and what brings pixels into the order of an input.
_MODES = {1: ("L", ".reshape(1, 1, {height}, {width})"), 3: ("RGB", ".transpose(2, 0, 1)[None]")}
SNIPPETS = {"onnx": _ONNX, "onnx-int8": _ONNX, "torch": _PROGRAM}


def artifacts(report: Report) -> Safe | None:
    """The section "Files that run elsewhere"; None where nothing was exported."""
    rows = report.get("exports")
    if not rows:
        return None
    kept = [row for row in rows if any("parity" in run for run in row["runs"])]
    few = report["data"]["totals"].get("val", 0)
    examples = max((run["parity"]["examples"] for row in kept for run in row["runs"] if "parity" in run), default=0)
    filled = (
        f" The validation part has only {numbers.plural(few, 'example')}; the others are of the training part."
        if few < examples
        else ""
    )
    lead = (
        "Every file was loaded again and compared with its model before it was kept, in batches of several sizes; the "
        f"worst seed and size are shown, of accuracies their mean.{filled} What the files answer on the test part "
        "stands above, as models of their own."
    )
    head = ["File", "Kept", "Same class", "Same at any size", "Largest difference", "Accuracy", "The model's"]
    body = [[row["name"], *_cells(row)] for row in rows]
    return parts.section("Files that run elsewhere", lead, tag("div", table(head, body), class_="card wide"))


def _cells(row: Report) -> list[str]:
    """How the files of one arm and format compare, over seeds."""
    found = [run["parity"] for run in row["runs"] if "parity" in run]
    kept = f"{len(found)} of {len(row['runs'])}"
    if not found:
        return [kept, *[numbers.MISSING] * 5]
    worst = max(found, key=lambda one: one["difference"])
    accuracy, known = (
        None if any(one[key] is None for one in found) else sum(one[key] for one in found) / len(found)
        for key in ("accuracy", "model_accuracy")
    )
    return [
        kept,
        numbers.percent(min(one["agreement"] for one in found), 2),
        numbers.percent(min(one["alike"] for one in found), 2),
        f"{worst['difference']:.2g} of {worst['spread']:.2g}",
        numbers.percent(accuracy, 2),
        numbers.percent(known, 2),
    ]


def loading(report: Report) -> Sequence[tuple[str, str]]:
    """What the headline's files are, and Python that asks each of them, from the folder of the run."""
    rows = [row for row in report.get("exports", ()) if row["of"] == report["headline"] and row["kept"]]
    told = report.get("tasks") or {"each": ()}
    tasks = {task["name"]: len(task["classes"]) for task in told["each"]}
    questions = bool(told.get("questions"))
    return [
        (f"As {row['format']} ({row['line']}), {_needs(row)}:", snippet(row, tasks, questions=questions))
        for row in rows
    ]


def _needs(row: Report) -> str:
    package = {"onnx": "onnxruntime", "onnx-int8": "onnxruntime", "torch": "torch"}.get(row["format"])
    kind = row.get("encoding", {}).get("kind")
    if package is None or _reads_by_us(row):
        return "with tutelage"
    return f"with {package} and tokenizers alone" if kind == "tokens" else f"with {package} alone"


def snippet(row: Report, tasks: Mapping[str, int] = MappingProxyType({}), *, questions: bool = False) -> str:
    """Python that asks one file about a picture, texts, a row of columns, or numbers.

    Args:
        row: of the report's `exports`.
        tasks: task -> how many classes it has, the main one first; nothing where there is one task.
        questions: whether the tasks are where an answer starts in a text, and where it ends.
    """
    quoted = _quoted(row["file"])
    imports, inputs = _inputs(row, questions=questions)
    said = _said(row, tasks, questions=questions)
    imports += "from tutelage.evaluation.spans import best_spans\n" if "best_spans" in said else ""
    packed = "base64" in inputs
    found = SNIPPETS.get(row["format"], _OTHER)
    before, after = ("base64\nimport ", "\nimport zlib") if packed else ("", "")
    return found.format(file=quoted, imports=imports, inputs=inputs, said=said, before=before, after=after)


def _said(row: Report, tasks: Mapping[str, int], *, questions: bool) -> str:
    """Lines that print what logits mean."""
    facts = 'facts["{}"]' if row["format"] in SNIPPETS else "student.facts.{}"
    if questions and _reads_by_us(row):
        column = _quoted(row["encoding"]["columns"][1])
        return _PLACES_BY_US.format(encoding=facts.format("encoding"), column=column)
    if questions:
        return _PLACES.format(longest=_LONGEST)
    return (_TASKS if tasks else _SAID).format(classes=facts.format("classes"), tasks=json.dumps(dict(tasks)))


def _reads_by_us(row: Report) -> bool:
    """Whether only an encoder of tutelage makes what the file reads."""
    kind = row.get("encoding", {}).get("kind")
    by_hand = row["format"] in SNIPPETS and kind in ("tokens", "ids")
    return kind not in (None, "picture") and not by_hand


def _inputs(row: Report, *, questions: bool) -> tuple[str, str]:
    """Lines that import what inputs of a file need, and lines that make some."""
    shape, made = row["input_shape"], row.get("encoding", {})
    if _reads_by_us(row):
        encoding = 'facts["encoding"]' if row["format"] in SNIPPETS else "student.facts.encoding"
        lines = _rows(made, encoding, ".numpy()")
        ours = "from tutelage.data import Rows, as_model_input\nfrom tutelage.data.encoders import encoder_of\n"
        return ours, lines
    if made.get("kind") in ("tokens", "ids"):
        return _text(made, questions=questions)
    if len(shape) != 3 or shape[0] not in _MODES:
        return "", _NUMBERS.format(sizes=", ".join(map(str, shape)))
    mode, order = _MODES[shape[0]]
    sizes = {"height": shape[1], "width": shape[2]}
    return "from PIL import Image\n", _PICTURE.format(mode=mode, order=order.format(**sizes), **sizes)


def student_of_columns(folder: str, made: Report) -> str:
    """Python that loads a student of columns with tutelage, and asks it about a row.

    Args:
        folder: of its weights, from the folder of the run.
        made: what of its encoding the report knows, as in `exports`.
    """
    return _STUDENT.format(folder=_quoted(folder), rows=_rows(made, "encoding", ""))


def _rows(made: Report, encoding: str, numpy: str) -> str:
    rates = f", {{{_quoted(made['column'])}: {made['rate']}}}" if "rate" in made else ""
    return _ROWS.format(columns="\n".join(_columns(made)), rates=rates, encoding=encoding, numpy=numpy)


def _text(made: Report, *, questions: bool) -> tuple[str, str]:
    """The same for tokens, without us."""
    names = [" ".join(str(name).split()) for name in made["columns"]]
    if made["kind"] == "ids":
        return "", _IDS.format(text='"7 12 7", "3"', columns=names[0])
    one, other = '"a first text", "another one"', '("a first text", "what goes with it")'
    told = names[0] if len(names) == 1 else f"{names[0]}, and {', '.join(names[1:])} joined by spaces"
    if questions:
        other, told = (
            '("Which programming language is it written in?", "A small tool written in Perl.")',
            ", ".join(names),
        )
    lines = _TOKENS.format(text=one if len(names) == 1 else other, columns=told)
    if made.get("swap"):
        lines = lines[: lines.rindex("\n") + 1] + _SWAPPED
    return "from tokenizers import Tokenizer\n", lines


def _columns(made: Report) -> list[str]:
    """A row of columns as Python writes it, one line for each."""
    if "samples" in made:
        return [f'    {_quoted(made["column"])}: np.zeros((1, {made["samples"]}), dtype="float32"),  # -1 ... 1']
    numbers_, names = made.get("numbers", []), made.get("categories", made.get("columns", []))
    cells = [f"    {_quoted(name)}: np.array([0.0])," for name in numbers_]
    return cells + [f'    {_quoted(name)}: np.array(["some words"], dtype=object),' for name in names]


def _quoted(text: str) -> str:
    """As Python writes a text."""
    return json.dumps(text, ensure_ascii=False)

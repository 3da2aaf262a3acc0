"""Files that run elsewhere: how they compare with their models, and a few lines for each that ask it without us.

The lines are text, since writing a report needs no torch and no runtime; the tests run them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tutelage.report import numbers, parts
from tutelage.report.markup import Safe, tag
from tutelage.report.tables import table

Report = Mapping[str, Any]

_ONNX = """\
import json

import numpy as np
import onnxruntime
{imports}
session = onnxruntime.InferenceSession({file})
facts = json.loads(session.get_modelmeta().custom_metadata_map["tutelage"])
{inputs}
logits = session.run(None, {{"input": x}})[0]  # (B, classes), for any B
print([facts["classes"][best] for best in logits.argmax(-1)])
"""
_PROGRAM = """\
import json

import numpy as np
import torch
{imports}
extra = {{"tutelage": ""}}
student = torch.export.load({file}, extra_files=extra).module()  # only a file that you trust
facts = json.loads(extra["tutelage"])
{inputs}
with torch.no_grad():
    logits = student(torch.from_numpy(x))  # (B, classes), for any B
print([facts["classes"][best] for best in logits.argmax(-1)])
"""
_OTHER = """\
import numpy as np
from tutelage.export import open_artifact
{imports}
student = open_artifact({file})
{inputs}
logits = student(x)  # (B, classes), for any B
print([student.facts.classes[best] for best in logits.argmax(-1)])
"""
_PICTURE = """\
x = np.asarray(Image.open("picture.png").convert("{mode}").resize(({width}, {height})), dtype="float32"){order}
x = np.ascontiguousarray(x) / 255  # in [0, 1]; mean and deviation are inside the file"""
_NUMBERS = 'x = np.random.rand(1, {sizes}).astype("float32")  # scaled as the training data was'
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
    return [(f"As {row['format']} ({row['line']}), {_needs(row)}:", snippet(row)) for row in rows]


def _needs(row: Report) -> str:
    package = {"onnx": "onnxruntime", "onnx-int8": "onnxruntime", "torch": "torch"}.get(row["format"])
    return "with tutelage" if package is None else f"with {package} alone"


def snippet(row: Report) -> str:
    """Python that asks one file about a picture, or about numbers.

    Args:
        row: of the report's `exports`.
    """
    quoted = '"' + row["file"].replace("\\", "\\\\").replace('"', '\\"') + '"'
    imports, inputs = _inputs(row["input_shape"])
    return SNIPPETS.get(row["format"], _OTHER).format(file=quoted, imports=imports, inputs=inputs)


def _inputs(shape: Sequence[int]) -> tuple[str, str]:
    """Lines that import what is needed for inputs of this shape, and lines that make one."""
    if len(shape) != 3 or shape[0] not in _MODES:
        return "", _NUMBERS.format(sizes=", ".join(map(str, shape)))
    mode, order = _MODES[shape[0]]
    sizes = {"height": shape[1], "width": shape[2]}
    return "from PIL import Image\n", _PICTURE.format(mode=mode, order=order.format(**sizes), **sizes)

"""The page and every file that it loads, made once before anything is served."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any, final

from tutelage import __version__, lang
from tutelage.demo.exhibit import Exhibit
from tutelage.demo.picture import MOST_BYTES
from tutelage.report import numbers
from tutelage.report.markup import Safe, join, tag

__all__ = ["Shown", "shown"]

_FORMATS = {"onnx": "float32", "onnx-int8": "int8"}
_SCRIPT = "text/javascript"
# Path -> file of `vendor/`, its type, and whether it is kept compressed.
_VENDOR = {
    "/vendor/ort.wasm.min.mjs": ("ort.wasm.min.mjs", _SCRIPT, False),
    "/vendor/ort-wasm-simd-threaded.mjs": ("ort-wasm-simd-threaded.mjs", _SCRIPT, False),
    "/vendor/ort-wasm-simd-threaded.wasm": ("ort-wasm-simd-threaded.wasm.gz", "application/wasm", True),
}


@final
@dataclass(frozen=True, slots=True)
class Shown:
    """One file as the server sends it."""

    data: bytes
    kind: str
    packed: bool = False  # by gzip


def shown(exhibit: Exhibit) -> dict[str, Shown]:
    """Path → file, in the language now spoken."""
    own = resources.files(__package__)
    style = resources.files("tutelage.report").joinpath("page.css").read_bytes()
    with lang.speaking(names=exhibit.names):
        page = _page(exhibit).encode()
    found = {
        "/": Shown(page, "text/html"),
        "/page.css": Shown(style + b"\n" + own.joinpath("page.css").read_bytes(), "text/css"),
        "/icon.svg": Shown(own.joinpath("icon.svg").read_bytes(), "image/svg+xml"),
        "/page.mjs": Shown(own.joinpath("page.mjs").read_bytes(), _SCRIPT),
        "/canvas.mjs": Shown(own.joinpath("canvas.mjs").read_bytes(), _SCRIPT),
        "/facts.json": Shown(json.dumps(_facts(exhibit), ensure_ascii=False).encode(), "application/json"),
        "/tests": Shown(exhibit.images.astype("<f4").tobytes(), "application/octet-stream"),
    }
    for key, data in exhibit.files.items():
        found[f"/student/{key}"] = Shown(data, "application/octet-stream")
    for path, (name, kind, packed) in _VENDOR.items():
        found[path] = Shown(own.joinpath("vendor", name).read_bytes(), kind, packed)
    return found


def _facts(exhibit: Exhibit) -> dict[str, Any]:
    """What the script needs to know."""
    return {
        "shape": list(exhibit.shape),
        "classes": list(exhibit.classes),
        "picked": [asdict(one) for one in exhibit.picked],
        "light_ground": exhibit.light_ground,
        "most_bytes": MOST_BYTES,
    }


def _page(exhibit: Exhibit) -> str:
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name_="color-scheme", content="light dark"),
        tag("link", rel="icon", href="/icon.svg"),
        tag("link", rel="stylesheet", href="/page.css"),
        tag("title", f"{exhibit.run} – try it"),
        tag("script", src="/page.mjs", type="module"),
    )
    body = tag(
        "body",
        tag("header", _header(exhibit)),
        tag("main", _trouble(exhibit), _tests(exhibit), tag("div", _input(exhibit), _answers(exhibit), class_="desk")),
        tag("footer", _footer()),
        _words(),
    )
    return f'<!doctype html>\n<html lang="{lang.html_language()}">{head}{body}</html>\n'


def _header(exhibit: Exhibit) -> Safe:
    return join(
        tag("p", "tutelage · try it", class_="over"),
        tag("h1", exhibit.run),
        tag(
            "p",
            "Draw, upload or pick an image. The student runs here, in this browser; the teacher answers from the "
            "program that serves this page. Nothing leaves this machine.",
            class_="lead",
        ),
    )


def _trouble(exhibit: Exhibit) -> Safe:
    """Where errors are told, and what was known before."""
    notices = [tag("li", text) for text in exhibit.notices]
    return join(
        tag("noscript", tag("p", "This page needs JavaScript and WebAssembly.", class_="card warnings")),
        tag("ul", notices, class_="card warnings notices") if notices else None,
        tag("p", role="alert", id="trouble", class_="card warnings", hidden="hidden"),
    )


def _input(exhibit: Exhibit) -> Safe:
    channels, height, width = exhibit.shape
    colour = "RGB" if channels == 3 else "grey"
    pen = tag("input", id="pen", type="range", min="1", max="1", value="1")
    paint = None
    if channels == 3:
        paint = tag("label", tag("span", "Colour"), tag("input", id="paint", type="color", value="#000000"))
    upload = tag(
        "label",
        tag("input", id="upload", type="file", accept="image/*", class_="apart"),
        tag("span", "Upload", class_="button"),
    )
    return tag(
        "section",
        tag("h2", "Your image"),
        tag(
            "div",
            tag(
                "canvas", id="paper", tabindex="0", role="application", aria_label="Drawing area",
                aria_describedby="how",
            ),
            tag("div", id="cross", hidden="hidden"),
            class_="paper",
        ),
        tag(
            "p", "By mouse, finger or keys: arrows move the pen, Space sets it down or lifts it.", id="how",
            class_="note",
        ),
        tag(
            "div",
            tag("label", tag("span", "Pen"), pen),
            paint,
            tag("label", tag("input", id="rubber", type="checkbox"), tag("span", "Erase"), class_="check"),
            class_="row",
        ),
        tag(
            "div",
            tag("button", "Clear", id="clear", type="button"),
            tag("button", "Invert", id="invert", type="button"),
            upload,
            class_="row",
        ),
        tag("p", id="hint", class_="note hint", role="status", hidden="hidden"),
        tag(
            "figure",
            tag("canvas", id="seen", role="img", aria_label="What the models see"),
            tag(
                "figcaption",
                tag("b", "What the models see"), tag("br"), f"{width}×{height} pixels, {colour}", tag("br"),
                tag("span", id="truth"),
            ),
            class_="seen",
        ),
        class_="card",
    )  # fmt: skip


def _answers(exhibit: Exhibit) -> Safe:
    first = next(iter(exhibit.files))
    choices = [
        tag(
            "label",
            tag("input", type="radio", name_="format", value=key, checked="checked" if key == first else None),
            tag("span", f"{_FORMATS[key]} · {numbers.size(len(data))}"),
            class_="check",
        )
        for key, data in exhibit.files.items()
    ]
    student = tag(
        "section",
        tag("h2", "Student", class_="key m-0"),
        tag("p", f"{exhibit.arm} · seed {exhibit.seed} · ONNX in WebAssembly", class_="note"),
        tag("fieldset", tag("legend", "Numbers in", class_="apart"), choices, class_="row"),
        _answer("student"),
        class_="card m-0", id="student",
    )  # fmt: skip
    teacher = tag(
        "section",
        tag("h2", "Teacher", class_="key m-teacher"),
        tag("p", f"PyTorch on this machine · {numbers.plural(exhibit.threads, 'thread')}", class_="note"),
        _answer("teacher"),
        class_="card m-teacher", id="teacher",
    )  # fmt: skip
    return tag(
        "div",
        tag(
            "p", tag("span", "Starting …", id="said"), tag("span", id="also", class_="note"), id="verdict",
            class_="card verdict tone-none", role="status",
        ),
        tag("div", student, teacher, class_="two"),
        class_="answers",
    )  # fmt: skip


def _answer(whose: str) -> Safe:
    """An empty answer: three classes with bars, and a time."""
    line = tag("li", tag("span", class_="name"), tag("span", class_="share"), tag("span", tag("i"), class_="bar"))
    return join(
        tag("ol", [line] * 3, class_="top", id=f"{whose}-top"),
        tag("p", tag("b", "–", id=f"{whose}-time"), tag("span", id=f"{whose}-how", class_="note"), class_="time"),
    )


def _tests(exhibit: Exhibit) -> Safe:
    differ = sum(one.teacher != one.student for one in exhibit.picked)
    groups = [
        ("Teacher and student differ", 0, differ),
        ("Teacher and student agree", differ, len(exhibit.picked)),
    ]
    return tag(
        "section",
        tag("h2", "Test images"),
        tag(
            "div",
            [
                tag("div", tag("h3", title), tag("ul", class_="strip", data_from=start, data_to=end))
                for title, start, end in groups if end > start
            ],
            class_="groups",
        ),
        tag("p", "Neither model learned from these. Each stands over its true class.", class_="note"),
        class_="card tests",
    )  # fmt: skip


def _footer() -> Safe:
    return tag(
        "p",
        "Times are medians of calls with one image. A browser and PyTorch are two programs, so the report’s times, "
        "which were taken side by side, compare better. "
        f"tutelage {__version__}; onnxruntime-web by Microsoft, MIT licence.",
    )


def _words() -> Safe:
    """What the script says, for it to fill in."""
    said: Mapping[str, Safe] = {
        "same": tag("span", "Both say {0}."),
        "differ": tag("span", "They differ: the student says {0}, the teacher {1}."),
        "alone": tag("span", "The student says {0}."),
        "truth": tag("span", "True class: {0}."),
        "calls": tag("span", "median of {0} calls in this browser, one thread"),
        "served": tag("span", "median of {0} calls in the program that serves this page"),
        "empty": tag("span", "Draw something, or choose an image."),
        "light": tag("span", "The training images have a light ground and this one a dark one: Invert may help."),
        "dark": tag("span", "The training images have a dark ground and this one a light one: Invert may help."),
        "unstarted": tag("span", "The student could not be started in this browser: {0}"),
        "unreached": tag("span", "The program that serves this page does not answer. Is it still running?"),
        "large": tag("span", "This file is larger than {0} MiB."),
        "thumb": tag("span", "{0}; the teacher says {1}, the student {2}"),
    }
    return tag("template", [tag("span", text, data_word=key) for key, text in said.items()], id="words")

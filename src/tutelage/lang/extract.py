"""Which texts this program can show, read off its own source: the keys that a catalogue of translations must have.

A text with gaps, an f-string, becomes a template: `{0}`, `{1}` … are the gaps in their order. What the program only
compares, writes into files for programs, or hands to a browser as style is no text; `_IGNORED` says how that is told.

`python -m tutelage.lang.extract zh` lists what the catalogue lacks, by file and line.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Found", "templates"]

_GAP = re.compile(r"\{\d+\}")
_SENTENCE = re.compile(
    r"[A-Za-z]{2}[^ ]* +\(?[a-zA-Z‘'`{]|[a-z}] [A-Za-z]{3}|^[A-Z][a-z]{2,}(-\d)?[.,:]?$|^[a-z]{3,}: $"
)
# Rooms whose strings are not read by people: this one, the version of the package, data classes.
_ROOMS_APART = ("lang/", "data/sets/debian_words.py")
# Calls whose strings are for a machine.
_IGNORED_CALLS = frozenset({
    "compile", "get", "getattr", "setattr", "hasattr", "split", "replace", "startswith", "endswith", "strip", "lstrip",
    "rstrip", "removeprefix", "removesuffix", "encode", "decode", "open", "glob", "fullmatch", "match", "sub", "search",
    "strftime", "Literal", "import_module", "version", "einsum", "TypeVar", "joinpath", "execute", "executemany",
})  # fmt: skip
# Arguments by name that hold style, geometry or names.
_IGNORED_KEYWORDS = frozenset({
    "class_", "classes", "style", "id", "name_", "rel", "href", "content", "viewBox", "clip_path", "points", "d",
    "role", "src", "transform", "prefix", "suffix", "metavar", "encoding", "errors", "mode", "dtype",
    "policy", "pattern",
})  # fmt: skip
# Calls that show what they are given, down to single words, and arguments that do so anywhere.
_SHOWING = frozenset({
    "tag", "table", "_stacked", "_figure", "_section", "_more", "notice", "ok", "warning", "fault",
})  # fmt: skip
_READ = frozenset({"title", "alt", "aria_label"})
_SHOWN_KEYWORDS = _READ | {"help", "what", "given", "expected", "fix"}
# Names whose value is for a machine.
_IGNORED_NAMES = frozenset({"__all__", "POLICY"})


@dataclass(frozen=True, slots=True)
class Found:
    """One template and where it stands."""

    template: str
    file: str
    line: int


def templates(root: Path) -> list[Found]:
    """Every template under the folder of a package, each once, in the order of files and lines."""
    found: dict[str, Found] = {}
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if name.startswith(_ROOMS_APART):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for text, line in _help_pages(tree):
            found.setdefault(text, Found(text, name, line))
        for node, shown in _texts(tree):
            template = (_template(node) or "").strip()
            if _is_text(template, shown):
                found.setdefault(template, Found(template, name, node.lineno))
    return list(found.values())


def _help_pages(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """The paragraphs of the docstrings of commands, each on one line; click shows them with --help."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef) or not any(map(_makes_command, node.decorator_list)):
            continue
        for part in (ast.get_docstring(node) or "").split("\n\n"):
            lines = [line for line in part.split("\n")[1:] if not line.startswith("  ")]
            # After \b every line stands for itself, and deeper ones are commands to be typed.
            texts = lines if part.startswith("\b") else [" ".join(part.split())]
            yield from ((text, node.lineno) for text in texts if text)


def _makes_command(node: ast.expr) -> bool:
    called = node.func if isinstance(node, ast.Call) else node
    return isinstance(called, ast.Attribute) and called.attr in ("command", "group")


def _is_text(text: str, shown: bool) -> bool:
    bare = _GAP.sub("", text)
    if not re.search(r"[A-Za-z]{2}", bare) or "\x00" in text:
        return False
    if shown:
        return bool(re.search(r"[A-Za-z]{3}", bare)) and not re.fullmatch(
            r"[a-z]+([_.][a-z0-9]+)+|[A-Z0-9_]+|\S*[/\\]\S*", text
        )
    return _SENTENCE.search(_GAP.sub("{x", text)) is not None


def _texts(tree: ast.Module) -> Iterator[tuple[ast.expr, bool]]:
    """The outermost expressions that make a text, and whether their place says that a person sees them."""
    stack: list[tuple[ast.AST, bool]] = [(tree, False)]
    while stack:
        node, shown = stack.pop()
        if isinstance(node, (ast.Constant, ast.JoinedStr, ast.BinOp)) and _template(node) is not None:
            yield node, shown
            stack += [(part, shown) for part in _gaps(node)]
        else:
            stack += list(_below(node, shown))


def _below(node: ast.AST, shown: bool) -> Iterator[tuple[ast.AST, bool]]:
    match node:
        case ast.Expr(value=ast.Constant()):  # a docstring
            return
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)) if (
            name in _IGNORED_NAMES
        ):
            return
        case ast.Compare() | ast.Assert():
            return
        case ast.Subscript():
            yield node.value, shown
        case ast.Dict():
            yield from ((value, shown) for value in node.values)
            yield from ((key, False) for key in node.keys if isinstance(key, ast.Constant) and _is_sentence(key.value))
        case ast.Call():
            yield from _of_call(node, shown)
        case ast.AnnAssign():
            if node.value is not None:
                yield node.value, False
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            yield from ((child, False) for child in node.body)
            yield from ((child, False) for child in node.decorator_list)
        case ast.List() | ast.Tuple() | ast.IfExp() | ast.Starred() | ast.BoolOp():
            yield from ((child, shown) for child in ast.iter_child_nodes(node))
        case _:
            yield from ((child, False) for child in ast.iter_child_nodes(node))


def _of_call(node: ast.Call, shown: bool) -> Iterator[tuple[ast.AST, bool]]:
    """The arguments of a call that may be text; the name of a tag, its style and its place are none."""
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    yield node.func, shown and called not in _IGNORED_CALLS
    if called in _IGNORED_CALLS:
        return
    children = node.args[1:] if called == "tag" else node.args
    yield from ((child, called in _SHOWING or (shown and called == "text")) for child in children)
    for keyword in node.keywords:
        if keyword.arg not in _IGNORED_KEYWORDS and (called != "tag" or keyword.arg in _READ):
            yield keyword.value, keyword.arg in _SHOWN_KEYWORDS


def _is_sentence(value: object) -> bool:
    return isinstance(value, str) and value.endswith(".") and " " in value


def _is_sum(node: ast.AST) -> bool:
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add)


def _gaps(node: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node, ast.JoinedStr):
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                yield part.value
    elif isinstance(node, ast.BinOp):
        for side in (node.left, node.right):
            if isinstance(side, (ast.Constant, ast.JoinedStr)) or _is_sum(side):
                yield from _gaps(side)
            else:
                yield side


def _template(node: ast.expr) -> str | None:
    """The text of an expression with numbered gaps; None where it is no text."""
    parts = list(_parts(node))
    if not any(isinstance(part, str) for part in parts):
        return None
    count, said = 0, ""
    for part in parts:
        if isinstance(part, str):
            said += part
        elif said.endswith("}") and _GAP.search(said[-4:]):
            continue  # two gaps side by side are one
        else:
            said += f"{{{count}}}"
            count += 1
    return said


def _parts(node: ast.AST) -> Iterator[str | None]:
    match node:
        case ast.Constant(value=str(value)):
            yield value
        case ast.JoinedStr():
            for part in node.values:
                if isinstance(part, ast.FormattedValue):
                    yield None
                else:
                    yield from _parts(part)
        case ast.BinOp(op=ast.Add()):
            yield from _parts(node.left)
            yield from _parts(node.right)
        case _:
            yield None


if __name__ == "__main__":
    from tutelage.lang import missing

    for one in missing(templates(Path(__file__).parents[1]), sys.argv[1] if sys.argv[1:] else "zh"):
        print(f"{one.file}:{one.line}: {one.template}")

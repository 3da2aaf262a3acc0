"""A recipe file becomes plain values, each of which remembers its line, and nothing in the file can do anything else.

Only the syntax is left to PyYAML: values are made here, from its nodes, so that there is no constructor a file could
call, no key that silently loses to a later one, and a bound on what aliases can grow into.

    bytes ──decode──► text ──compose──► nodes ──build──► Tree(values, places, problems)
"""

from __future__ import annotations

import codecs
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from yaml.composer import Composer, ComposerError
from yaml.error import MarkedYAMLError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from tutelage.errors import InputError, Problem, RecipeError
from tutelage.recipe.places import Keys, Located, Place, Places, dotted
from tutelage.recipe.scalars import resolve, show

MAX_BYTES = 100_000  # a recipe has a few dozen lines; PyYAML needs seconds for more than this
MAX_NODES = 10_000
MAX_DEPTH = 40

_CORE = "tag:yaml.org,2002:"
_PLAIN = "plain"  # no tag of YAML looks like this: the mark of an unquoted, untagged scalar
_UNICODE_MARKS = (
    # UTF-32 first: its little-endian mark begins with that of UTF-16.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
_TOML = re.compile(r"^\s*(\[\[?[\w.\-]+\]?\]\s*(#.*)?$|[\w.\-]+\s*=\s*\S)")


@final
@dataclass(frozen=True, slots=True)
class Tree:
    """A recipe as plain values, before anybody has asked whether they make sense."""

    values: dict[str, Any] = field(default_factory=dict)
    places: Places = field(default_factory=Places)
    problems: list[Located] = field(default_factory=list)


def read_file(path: Path, *, name: str | None = None) -> Tree:
    """Read a recipe file; `name` is what messages call it.

    Raises:
        InputError: the file cannot be read, or is not text.
        RecipeError: it is not YAML, or not a mapping.
    """
    name = name or str(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot read the recipe {name}: {reason}") from error
    if len(raw) > MAX_BYTES:
        raise InputError(
            "this file is too large to be a recipe", where=name, expected=f"at most {MAX_BYTES:,} bytes of YAML"
        )
    return read_text(_decode(raw, name), name)


def read_text(text: str, name: str) -> Tree:
    """Read a recipe from text.

    Raises:
        RecipeError: it is not YAML, or not a mapping. Duplicate keys and the like are gathered in the tree instead, to
            be told together with what the values get wrong.
    """
    source = _json_without_tabs(text)
    try:
        node = _Loader(source).get_single_node()
    except (MarkedYAMLError, ReaderError) as error:
        raise RecipeError([_toml(text, name) or _syntax(error, source, name)]) from error
    if node is None or (isinstance(node, ScalarNode) and node.tag == _PLAIN and resolve(node.value) is None):
        raise RecipeError([Problem("the recipe is empty", name, fix="start from a built-in one: `tutelage recipes`")])
    if not isinstance(node, MappingNode):
        given = "a list" if isinstance(node, SequenceNode) else f"text: {show(node.value)}"
        wrong = Problem("a recipe is a mapping of keys to values", name, given, "lines such as `name: first`")
        raise RecipeError([_toml(text, name) or wrong])
    builder = _Builder(name)
    values = builder.build(node, ())
    assert isinstance(values, dict)
    return Tree(values, builder.places, builder.problems)


def _decode(raw: bytes, name: str) -> str:
    """Bytes to text; a byte order mark says which encoding, and without one it is UTF-8."""
    encoding = next((encoding for mark, encoding in _UNICODE_MARKS if raw.startswith(mark)), "utf-8")
    try:
        if encoding == "utf-8" and b"\0" in raw:
            raise InputError(
                "this file is not UTF-8 text: it holds NUL bytes, as UTF-16 without a mark or binary files do",
                where=name,
                fix="save it as UTF-8",
            )
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        where = f"{name}:{line}" if encoding == "utf-8" else name
        raise InputError(
            "this file is not " + encoding.removesuffix("-sig").upper() + " text",
            where=where,
            given=f"byte 0x{raw[error.start]:02x} at position {error.start}",
            fix="save it as UTF-8",
        ) from error


def _json_without_tabs(text: str) -> str:
    """JSON may be indented by tabs, YAML may not; within JSON a raw tab is never part of a value."""
    if "\t" not in text or not text.lstrip().startswith("{"):
        return text
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text.replace("\t", " ")


def _toml(text: str, name: str) -> Problem | None:
    """The problem to report when the text that failed as YAML reads like TOML."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines or not _TOML.match(lines[0]):
        return None
    expected = "`epochs: 3`, not `epochs = 3`"
    return Problem("this file looks like TOML; a recipe is YAML", name, lines[0].strip()[:60], expected)


def _syntax(error: MarkedYAMLError | ReaderError, text: str, name: str) -> Problem:
    """One line for what PyYAML says in five."""
    if isinstance(error, ReaderError):
        number = text.count("\n", 0, error.position) + 1
        return Problem(f"YAML does not allow the character {show(text[error.position])}", f"{name}:{number}")
    mark = error.problem_mark or error.context_mark
    what = str(error.problem or error.context)
    if mark is None:
        return Problem(f"not valid YAML: {what}", name)
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    where = f"{name}:{mark.line + 1}, column {mark.column + 1}"
    if line[mark.column : mark.column + 1] == "\t" or "\t" in line[: len(line) - len(line.lstrip())]:
        return Problem("a tab cannot indent or separate in YAML", where, fix="use spaces")
    if "another document" in what:
        fix = "remove everything from `---` on"
        return Problem("a recipe is one document; a second one starts here", where, fix=fix)
    return Problem(f"not valid YAML: {what}", where, given=line.strip()[:80] or None)


class _Loader(Reader, Scanner, Parser, Composer, BaseResolver):
    """PyYAML up to nodes and no further: scalars keep their text and say whether they were quoted."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)
        self._levels = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        # The composer recurses; without a bound, a file of brackets would exhaust Python's stack.
        self._levels += 1
        if self._levels > MAX_DEPTH:
            raise ComposerError(None, None, f"nested deeper than {MAX_DEPTH} levels", self.get_mark())
        try:
            return super().compose_node(parent, index)
        finally:
            self._levels -= 1

    def resolve(self, kind: type[Node], value: Any, implicit: Any) -> str:
        if kind is ScalarNode:
            return _PLAIN if implicit[0] else _CORE + "str"
        return _CORE + ("seq" if kind is SequenceNode else "map")


@final
class _Builder:
    """Nodes to values; counts them, since ten aliases of ten aliases of … are a few lines and a full memory."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.places = Places(name)
        self.problems: list[Located] = []
        self._count = 0
        self._open: set[int] = set()

    def build(self, node: Node, keys: Keys) -> Any:
        self._count += 1
        if isinstance(node, ScalarNode):
            return self._scalar(node, keys)
        where = f"{self.name}:{node.start_mark.line + 1}"
        if id(node) in self._open:
            raise RecipeError([Problem("an alias contains itself", where)])
        if self._count > MAX_NODES or len(keys) > MAX_DEPTH:
            limit = f"at most {MAX_NODES:,} values and {MAX_DEPTH} levels once every alias is written out"
            raise RecipeError([Problem("aliases make this recipe too large", where, expected=limit)])
        self._open.add(id(node))
        if isinstance(node, MappingNode):
            made: Any = self._mapping(node, keys)
        else:
            assert isinstance(node, SequenceNode)
            made = self._sequence(node, keys)
        self._open.discard(id(node))
        return made

    def _mapping(self, node: MappingNode, keys: Keys) -> dict[str, Any]:
        self._refuse_tag(node, "map", keys)
        made: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = self._key(key_node, keys)
            if key is None:
                continue
            if key in made:
                here = f"lines {first[key]} and {line}" if first[key] != line else f"twice in line {line}"
                self._complain(line, f"`{dotted((*keys, key))}` is defined twice: {here}", "keep one of them")
                continue
            first[key] = line
            # The place is kept before the value is made: what is wrong inside a value is found from its key.
            self.places.at[*keys, key] = Place(line, f"{self.name}:{line}")
            made[key] = self.build(value_node, (*keys, key))
        return made

    def _sequence(self, node: SequenceNode, keys: Keys) -> list[Any]:
        self._refuse_tag(node, "seq", keys)
        made = []
        for index, item in enumerate(node.value):
            line = item.start_mark.line + 1
            self.places.at[*keys, index] = Place(line, f"{self.name}:{line}")
            made.append(self.build(item, (*keys, index)))
        return made

    def _key(self, node: Node, keys: Keys) -> str | None:
        line = node.start_mark.line + 1
        within = f" in `{dotted(keys)}`" if keys else ""
        if isinstance(node, ScalarNode):
            if node.value == "<<" and node.tag == _PLAIN:
                self._complain(line, "merge keys (`<<`) are not part of YAML 1.2", "write the keys out")
                return None
            key = self._scalar(node, keys)
            if isinstance(key, str):
                return key
            given = f"`{node.value}` is " + {bool: "true or false", type(None): "nothing"}.get(type(key), "a number")
        else:
            given = "a list" if isinstance(node, SequenceNode) else "a mapping"
        self._complain(line, f"a key must be text{within}: {given}", "write it in quotes")
        return None

    def _scalar(self, node: ScalarNode, keys: Keys) -> Any:
        if node.tag == _PLAIN:
            return resolve(node.value)
        kind = node.tag.removeprefix(_CORE)
        if kind == "str":
            # JSON writes what lies outside the basic plane as two escapes, which belong together.
            return node.value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        value = resolve(node.value)
        if kind == "float" and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if {"int": int, "float": float, "bool": bool, "null": type(None)}.get(kind) is type(value):
            return value
        if kind in {"int", "float", "bool", "null"}:
            what = f"{show(node.value)} is not of the type that its tag `!!{kind}` says"
            self._complain(node.start_mark.line + 1, what, "leave the tag out", keys)
            return node.value
        self._refuse_tag(node, "str", keys)
        return node.value

    def _refuse_tag(self, node: Node, core: str, keys: Keys) -> None:
        if node.tag != _CORE + core:
            tag = f"!!{node.tag.removeprefix(_CORE)}" if node.tag.startswith(_CORE) else node.tag
            what = f"the tag {show(tag)} is refused: a recipe holds values, and nothing in it is run"
            self._complain(node.start_mark.line + 1, what, "leave the tag out", keys)

    def _complain(self, line: int, what: str, fix: str, unread: Keys | None = None) -> None:
        problem = Problem(what, f"{self.name}:{line}", fix=fix)
        self.problems.append(Located(line, problem, unread or (), unread=unread is not None))

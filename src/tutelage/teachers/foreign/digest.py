"""What a foreign model is, as a digest: of a file's bytes, or of all that an object in memory holds.

Nothing is pickled: an object is taken apart as pickling would, but only looked at. Numbers, texts, arrays, containers
and the state of objects count, and of functions their code with what it closes over; where something lies in memory
does not.
"""

from __future__ import annotations

import hashlib
import inspect
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from tutelage.errors import DamagedError, InputError, ModelError
from tutelage.files import sha256

__all__ = ["file_digest", "found_file", "object_digest"]

_PLAIN: tuple[Any, Any] = (object.__reduce_ex__, object.__reduce__)  # of what is no more than its dictionary
_DEEPEST = 60
_MOST = 2_000_000  # parts; a forest of a thousand trees has some ten thousand


def found_file(model: str, *, suffixes: tuple[str, ...], whose: str) -> Path:
    """The file behind `prefix:/path`.

    Raises:
        InputError: the name has another ending.
        ModelError: there is no such file.
    """
    path = Path(model).expanduser()
    if path.suffix not in suffixes:
        raise InputError(f"{whose} reads files that end in {' or '.join(suffixes)}", given=model)
    if not path.is_file():
        raise ModelError(
            f"there is no file {path}", given=model, fix="look at the path; a relative one begins where tutelage runs"
        )
    if not path.stat().st_size:
        raise DamagedError(f"{path} is empty", fix="copy it again")
    return path


def file_digest(path: Path) -> str:
    """SHA-256 of a file, or of a folder's files with their names."""
    if path.is_file():
        return sha256(path)
    digest = hashlib.sha256()
    for file in sorted(one for one in path.rglob("*") if one.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{sha256(file)}\n".encode())
    return digest.hexdigest()


def object_digest(value: object) -> str:
    """SHA-256 over all that an object holds, the same in every process.

    Raises:
        ModelError: it holds something that cannot be looked into.
    """
    walk = _Walk()
    try:
        walk.told(value, 0)
    except (TypeError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"a {type(value).__name__} cannot be told from others of its kind", given=str(error)[:200],
            fix="wrap it: tutelage.teachers.foreign.ForeignTeacher(function, digest='a name for this very model')",
        ) from error  # fmt: skip
    return walk.digest.hexdigest()


def _is_array_elsewhere(value: Any) -> bool:
    return type(value).__module__.startswith(("jax", "tensorflow")) and hasattr(value, "__array__")


@final
class _Walk:
    """One way through an object; what is held twice is told twice, so that copies and shared parts are the same."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self._above: dict[int, int] = {}  # what the present part is part of, and how deep that lies
        self._parts = 0

    def told(self, value: Any, depth: int) -> None:
        if isinstance(value, np.generic) and value.dtype.kind != "V":
            value = value.item()  # numpy's numbers say the same as Python's
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
            self._say(type(value).__name__, repr(value))
            return
        if id(value) in self._above:
            self._say("above", self._above[id(value)])
            return
        self._parts += 1
        if depth > _DEEPEST or self._parts > _MOST:
            raise TypeError("it is too deep or too large")
        self._above[id(value)] = depth
        if not self._plain(value, depth + 1):
            self._object(value, depth + 1)
        del self._above[id(value)]

    def _plain(self, value: Any, depth: int) -> bool:
        """Arrays, containers, functions and modules."""
        if isinstance(value, np.generic):
            self._array(np.asarray(value), depth)
        elif isinstance(value, (np.ndarray, torch.Tensor)) or _is_array_elsewhere(value):
            self._array(value, depth)
        elif isinstance(value, np.dtype):
            self._say("dtype", value.descr if value.names else value.str)
        elif isinstance(value, Mapping):
            self._say("mapping", len(value))
            for key, one in sorted(value.items(), key=lambda item: (type(item[0]).__name__, str(item[0]))):
                self.told(key, depth)
                self.told(one, depth)
        elif isinstance(value, (list, tuple)):
            self._say(type(value).__name__, len(value))
            for one in value:
                self.told(one, depth)
        elif isinstance(value, (set, frozenset)):
            self._say("set", sorted(map(repr, value)))
        elif isinstance(value, (types.ModuleType, type)):
            self._say(getattr(value, "__module__", ""), value.__name__)
        elif isinstance(getattr(value, "__code__", None), types.CodeType):
            self._function(value, depth)
        elif callable(getattr(value, "__wrapped__", None)):  # such as what jax.jit made
            self.told(value.__wrapped__, depth)
        elif isinstance(value, (types.BuiltinFunctionType, np.ufunc)):
            self._say("own", value.__name__)
        else:
            return False
        return True

    def _array(self, value: Any, depth: int) -> None:
        array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        self._say("array", array.dtype.descr if array.dtype.names else array.dtype.str, array.shape)
        if array.dtype.names:  # field by field: what lies between fields is left over from somewhere else
            for name in array.dtype.names:
                self._array(array[name], depth)
        elif array.dtype.kind == "O":
            for one in array.ravel():
                self.told(one, depth)
        else:
            self.digest.update(np.ascontiguousarray(array).tobytes())

    def _function(self, value: Any, depth: int) -> None:
        """Code and what it works with: its defaults, what it closes over, and the data that it finds by name."""
        function = inspect.unwrap(value)
        if inspect.ismethod(function):
            self.told(function.__self__, depth)
            function = function.__func__
        code = function.__code__
        self._say("function", function.__qualname__)
        self.told([function.__defaults__, function.__kwdefaults__], depth)
        self._code(code, depth)
        for cell in function.__closure__ or ():
            self.told(cell.cell_contents, depth)
        # Of names, those of the user's own: what an installed package holds is part of its version.
        for name in sorted(set(code.co_names)):
            one = function.__globals__.get(name)
            library = type(one) in (type, types.ModuleType, types.BuiltinFunctionType)
            if one is not None and not library and getattr(one, "__module__", None) in (None, function.__module__):
                self._say(name)
                self.told(one, depth)

    def _code(self, code: types.CodeType, depth: int) -> None:
        self.told([code.co_code, code.co_names], depth)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._code(constant, depth)
            else:
                self.told(constant, depth)

    def _object(self, value: Any, depth: int) -> None:
        """Anything else, as pickling would take it apart."""
        self._say(type(value).__module__, type(value).__qualname__)
        kind: Any = type(value)
        if hasattr(value, "__dict__") and kind.__reduce_ex__ is _PLAIN[0] and kind.__reduce__ is _PLAIN[1]:
            self.told(vars(value), depth)
            return
        parts = value.__reduce_ex__(4)
        if isinstance(parts, str):
            self._say(parts)
            return
        for number, part in enumerate(parts):
            if number in (3, 4) and part is not None:
                part = list(part)
            self.told(part, depth)

    def _say(self, *parts: object) -> None:
        self.digest.update(("\0".join(map(str, parts)) + "\n").encode())

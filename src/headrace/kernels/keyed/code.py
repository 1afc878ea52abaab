"""A process's code as one short text: equal code has equal text, on every start and with every version of Python.

What is covered: the source of the process's class, of the author's classes that it inherits from, and of what these name in
their modules: functions and classes of the author's, plain constants, functions put on the object or caught from an
enclosing function, and so on from there. Of an author's module that is named whole, all of its source. Comments and blank lines count for
nothing. What is not covered: packages that are installed, data that the code reads, and code that has no source.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import io
import sys
import sysconfig
import textwrap
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

__all__ = ["code_digest"]

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_DIGITS = 16


def code_digest(process: object) -> str | None:
    """Return a digest of a process's code, None if its class has no source."""
    parts: dict[str, str] = {}
    if not _add_source(type(process), parts):
        return None
    for value in vars(process).values() if hasattr(process, "__dict__") else ():
        _add(value, "", parts)
    text = "\x00".join(f"{name}\x00{part}" for name, part in sorted(parts.items()))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]


def _add(value: object, name: str, parts: dict[str, str]) -> None:
    """Add what a name stands for, as far as it is the author's own."""
    if isinstance(value, type | FunctionType):
        if _is_own(sys.modules.get(value.__module__)):
            _add_source(value, parts)
    elif isinstance(value, ModuleType):
        if _is_own(value):
            try:
                parts.setdefault(f"module {value.__name__}", _without_comments(inspect.getsource(value)))
            except (OSError, TypeError, SyntaxError, tokenize.TokenError):
                return
    elif name and (shown := _shown(value)) is not None:
        parts.setdefault(f"constant {name}", shown)


def _add_source(made: type | FunctionType, parts: dict[str, str]) -> bool:
    """Add the source of a class or function, and of what it names; return whether there is one."""
    key = f"{made.__module__.removeprefix('pipelines of ')}.{made.__qualname__}"
    if key in parts:
        return True
    try:
        source = textwrap.dedent(inspect.getsource(made))
        parts[key] = _without_comments(source)
        tree = ast.parse(source)
    except (OSError, TypeError, SyntaxError, tokenize.TokenError):
        return False
    scope = vars(sys.modules[made.__module__]) if made.__module__ in sys.modules else {}
    named = sorted({node.id for node in ast.walk(tree) if isinstance(node, ast.Name)})
    for name in named:
        if name in scope:
            _add(scope[name], f"{made.__module__.removeprefix('pipelines of ')}.{name}", parts)
    for name, value in _caught(made):
        _add(value, f"{key} {name}", parts)
    for base in made.__bases__ if isinstance(made, type) else ():
        _add(base, "", parts)
    return True


def _caught(made: type | FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield what functions have caught of the functions around them."""
    functions = [one for one in vars(made).values() if isinstance(one, FunctionType)] if isinstance(made, type) else [made]
    for function in functions:
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                yield name, cell.cell_contents
            except ValueError:  # not filled yet
                continue


def _is_own(module: ModuleType | None) -> bool:
    """Whether a module is the author's, and neither Python's, nor installed, nor headrace's."""
    file = getattr(module, "__file__", None)
    if module is None or not file or module.__name__.split(".")[0] == "headrace":
        return False
    path = Path(file).absolute()
    installed = [Path(folder) for folder in {*sysconfig.get_paths().values()}]
    return "site-packages" not in path.parts and not any(path.is_relative_to(folder) for folder in installed)


def _shown(value: object) -> str | None:
    """Return a constant as a text that is the same on every start; None if it is none."""
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, list | tuple):
        return _joined("[", list(map(_shown, value)))
    if isinstance(value, set | frozenset):
        return _joined("{", sorted(map(_shown, value), key=str))
    if isinstance(value, Mapping):
        return _joined("(", [part for pair in value.items() for part in map(_shown, pair)])
    return None


def _joined(mark: str, parts: list[str | None]) -> str | None:
    return None if None in parts else f"{mark}{', '.join(filter(None, parts))}"


def _without_comments(source: str) -> str:
    """Return source without comments, blank lines and spaces at the ends of lines."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            line, column = token.start
            lines[line - 1] = lines[line - 1][:column]
    return "\n".join(stripped for line in lines if (stripped := line.rstrip()))

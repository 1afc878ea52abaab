"""Bound expressions kept between runs: a pipeline whose SQL texts were bound before starts without the SQL parser.

The parser takes a tenth of a second to import. The cache is one file that holds data only, no code. A file that another user
owns, that is damaged, or that another version wrote is no cache; and where it cannot be read or written, texts are parsed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from headrace.plan.expression import Call, Cast, Column, Expression, FieldOf, Literal, Struct
from headrace.plan.schema import Schema, Type

__all__ = ["cached", "caching_in"]

_MOST = 1000  # entries of a file; beyond, it begins anew
_DIGEST = 16
_NODES = {one.__name__: one for one in (Call, Cast, Column, FieldOf, Literal, Struct, Type)}
_SETTINGS = {bool, int, float, str, type(None), list, tuple}  # their representation tells all that an expression can hold of them

_current: ContextVar[_Cache | None] = ContextVar("cache", default=None)


@contextmanager
def caching_in(path: Path) -> Iterator[None]:
    """Within a `with` block, take expressions from the file at `path` if they are there, and add the others at its end.

    Without its folder nothing is kept.
    """
    cache = _Cache(path)
    token = _current.set(cache)
    try:
        yield
        cache.save()
    finally:
        _current.reset(token)


def cached(bind: Callable[[], Expression], text: str, schema: Schema, settings: Mapping[str, Any], *, aggregates: bool) -> Expression:
    """Return what `bind` returns for these, which it depends on alone; from the cache if it is there."""
    cache = _current.get()
    if cache is None or not all(type(value) in _SETTINGS for value in settings.values()):
        return bind()
    key = blake2b(repr((text, schema, sorted(settings.items()), aggregates)).encode(errors="surrogatepass"), digest_size=_DIGEST).hexdigest()
    if (found := cache.get(key)) is None:
        found = bind()
        cache.put(key, found)
    return found


class _Cache:
    """The expressions of a file, by their keys: a digest of the code that binds them and of all that follows, then JSON."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: dict[str, Any] = {}
        self._changed = False
        self._code = b""
        with suppress(Exception):  # whatever is wrong with it, it is only a cache
            self._code = _code_digest()
            self._entries = self._read()

    def _read(self) -> dict[str, Any]:
        with self._path.open("rb") as file:
            data = file.read()
            mine = not hasattr(os, "geteuid") or os.fstat(file.fileno()).st_uid == os.geteuid()
        digest, body = data[:_DIGEST], data[_DIGEST:]
        return msgspec.json.decode(body, type=dict[str, Any]) if mine and digest == self._digest(body) else {}

    def _digest(self, body: bytes) -> bytes:
        return blake2b(self._code + body, digest_size=_DIGEST).digest()

    def get(self, key: str) -> Expression | None:
        with suppress(KeyError, RecursionError):
            return _decoded(self._entries[key])  # type: ignore[no-any-return]
        return None

    def put(self, key: str, expression: Expression) -> None:
        with suppress(RecursionError):
            self._entries[key] = _encoded(expression)
            self._changed = True

    def save(self) -> None:
        """Put the file in place whole, if there is anything new; of two writers the last one wins, and the other's texts are parsed again."""
        if not self._changed or not self._code or not self._path.parent.is_dir():
            return
        aside = self._path.with_name(f".{self._path.name}.{os.getpid()}.new")
        with suppress(Exception):
            body = msgspec.json.encode(dict(list(self._entries.items())[-_MOST:]))
            with suppress(FileNotFoundError):
                aside.unlink()
            try:
                with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    file.write(self._digest(body) + body)
                aside.replace(self._path)
            finally:
                aside.unlink(missing_ok=True)


def _code_digest() -> bytes:
    """Return a digest of what decides what a text means: this package's source, and the parser's version."""
    parser = find_spec("sqlglot")
    assert parser is not None
    assert parser.origin is not None
    files = [*sorted(Path(__file__).parent.rglob("*.py")), Path(parser.origin).with_name("_version.py")]
    digest = blake2b(digest_size=_DIGEST)
    for file in files:
        digest.update(file.read_bytes())
    return digest.digest()


def _encoded(value: object) -> object:
    """Return a node as a list of its name and parts, a tuple as one without a name, a constant as it is."""
    if isinstance(value, tuple):
        return ["", *map(_encoded, value)]
    if (name := type(value).__name__) in _NODES:
        return [name, *(_encoded(getattr(value, part)) for part in type(value).__match_args__)]  # type: ignore[attr-defined]
    return value


def _decoded(found: Any) -> Any:  # noqa: ANN401
    if not isinstance(found, list):
        return found
    name, *parts = found
    return _NODES[name](*map(_decoded, parts)) if name else tuple(map(_decoded, parts))

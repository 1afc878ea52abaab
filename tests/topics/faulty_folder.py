"""Files in memory for what is written with `headrace._durable`, whose calls fail as a seeded schedule says.

A file's content is durable once the file was synced, its name and its folder's once their folder was. At a power cut, each
change of a name since then is kept or lost, and content that was not synced is kept, lost or torn between sectors.
The faults are those of `faulty_disk`. There is one process at a time, which syncs a folder after it has renamed in it.
"""
# ruff: noqa: ARG002  (the arguments are those of what is replaced)

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest

from headrace import _durable
from topics.faulty_disk import Fault, Faulty, flipped, sectors

__all__ = ["ROOT", "Folder"]

ROOT = Path("/in-memory")


@dataclass(eq=False, slots=True)
class _File:
    seen: bytes = b""
    durable: bytes = b""
    doomed: bool = False  # by a sync that failed: only what is written anew can become durable

    def after_cut(self, chance: random.Random) -> _File:
        kept = chance.choice([0.0, 0.5, 1.0])
        found = bytearray(self.durable)
        if self.seen != self.durable:
            for start, piece in sectors(0, self.seen):
                if chance.random() < kept:
                    found[start : start + len(piece)] = piece
        return _File(bytes(found), bytes(found))


@dataclass(eq=False, slots=True)
class _Names:
    """A folder: its names, those that are durable, and the changes in between."""

    seen: dict[str, _File | _Names] = field(default_factory=dict)
    durable: dict[str, _File | _Names] = field(default_factory=dict)
    changes: list[dict[str, _File | _Names | None]] = field(default_factory=list)

    def put(self, names: dict[str, _File | _Names | None]) -> None:
        """Change names, all at once; those of None are removed."""
        _rename(self.seen, names)
        self.changes.append(names)

    def sync(self) -> None:
        self.durable = dict(self.seen)
        self.changes.clear()

    def after_cut(self, chance: random.Random) -> _Names:
        """Return what a power cut leaves of it."""
        found, kept = dict(self.durable), chance.choice([0.0, 0.5, 1.0])
        for change in self.changes:
            if chance.random() < kept:
                _rename(found, change)
        left = {name: node.after_cut(chance) for name, node in sorted(found.items())}
        return _Names(left, dict(left))


def _rename(names: dict[str, _File | _Names], change: dict[str, _File | _Names | None]) -> None:
    for name, node in change.items():
        names.pop(name, None)
        if node is not None:
            names[name] = node


class Folder(Faulty):
    """The folder `ROOT`, on which the faults of a schedule strike."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        super().__init__(faults)
        self.root = _Names()
        self._open: dict[int, tuple[Path, _File | _Names]] = {}

    def start(self) -> None:
        """End the process that runs, if one does, and have the disk work again."""
        self.crashed = False
        self.lasting.clear()
        self._open.clear()

    def names(self, path: Path) -> list[str]:
        """Return what is in a folder, without a call that could fail."""
        node = self._node(path)
        return sorted(node.seen) if isinstance(node, _Names) else []

    def _node(self, path: Path) -> _File | _Names | None:
        node: _File | _Names | None = self.root
        for part in path.relative_to(ROOT).parts:
            node = node.seen.get(part) if isinstance(node, _Names) else None
        return node

    def _within(self, path: Path) -> _Names:
        found = self._node(path.parent)
        if not isinstance(found, _Names):
            raise _error(errno.ENOENT, path)
        return found

    def _call(self, does: str, path: Path, *more: str) -> tuple[Fault, random.Random] | None:
        """Count a call. Raises OSError if a fault strikes it that is none of `more`, which are returned."""
        if self.crashed:
            raise _error(errno.EIO, path)
        strike = self._strikes(does, path.name, ("cut", "kill", "eio", *more))
        if strike is None or strike[0].kind in set(more) - {"full"}:
            return strike
        if strike[0].kind in {"cut", "kill"} and does != "write":
            self._crash(*strike)
        if does != "write":
            raise _error(errno.ENOSPC if strike[0].kind == "full" else errno.EIO, path)
        return strike

    def _crash(self, fault: Fault, chance: random.Random) -> None:
        self.crashed = True
        if fault.kind == "cut":
            self.root = self.root.after_cut(chance)

    # what `_durable` and `Path` call

    def open(self, path: Path, mode: str, opener: object = None) -> _Writing:
        assert mode == "wb"
        names = self._within(path)
        self._call("open", path, "full")
        node = names.seen.get(path.name)
        if not isinstance(node, _File):
            node = _File()
            names.put({path.name: node})
        node.seen, node.doomed = b"", False
        return _Writing(self, path, node)

    def write(self, path: Path, node: _File, data: bytes) -> None:
        strike = self._call("write", path, "full", "write")
        if strike is None:
            node.seen += data
            return
        fault, chance = strike
        node.seen += flipped(data, chance) if fault.kind == "write" and data else data[: chance.randint(0, len(data))]
        if fault.kind in {"cut", "kill"}:
            self._crash(fault, chance)
        if fault.kind != "write":
            raise _error(errno.ENOSPC if fault.kind == "full" else errno.EIO, path)

    def handle(self, path: Path) -> int:
        self._call("open", path)
        node = self._node(path)
        if node is None:
            raise _error(errno.ENOENT, path)
        self._open[number := len(self._open) + 1_000_000] = path, node
        return number

    def sync(self, number: int) -> None:
        path, node = self._open[number]
        strike = self._call("sync", path, "lie", *(["drop"] if isinstance(node, _File) else []))
        if strike is not None and strike[0].kind == "lie":
            return
        if not isinstance(node, _File):
            node.sync()
        elif strike is not None:
            node.doomed = True
            raise _error(errno.EIO, path)
        elif not node.doomed:
            node.durable = node.seen

    def replace(self, path: Path, target: Path) -> None:
        names = self._within(path)
        assert path.parent == target.parent
        self._call("rename", path)
        names.put({path.name: None, target.name: names.seen[path.name]})

    def unlink(self, path: Path, missing_ok: bool = False) -> None:
        self._call("unlink", path)
        names = self._node(path.parent)
        if isinstance(names, _Names) and path.name in names.seen:
            names.put({path.name: None})
        elif not missing_ok:
            raise _error(errno.ENOENT, path)

    def mkdir(self, path: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        self._call("mkdir", path, "full")
        names = self._within(path)
        if path.name not in names.seen:
            names.put({path.name: _Names()})

    def read_bytes(self, path: Path) -> bytes:
        strike = self._call("read", path, "read")
        node = self._node(path)
        if not isinstance(node, _File):
            raise _error(errno.ENOENT, path)
        return flipped(node.seen, strike[1]) if strike is not None and node.seen else node.seen

    def iterdir(self, path: Path) -> Iterator[Path]:
        self._call("list", path)
        return iter([path / name for name in self.names(path)])

    def exists(self, path: Path) -> bool:
        self._call("stat", path)
        return self._node(path) is not None

    def is_dir(self, path: Path) -> bool:
        self._call("stat", path)
        return isinstance(self._node(path), _Names)

    def mount(self, patch: pytest.MonkeyPatch) -> None:
        """Have `Path` and `_durable` use this folder for what is below `ROOT`."""
        patch.setattr(_durable, "open", self.open, raising=False)
        patch.setattr(
            _durable, "os", SimpleNamespace(open=lambda path, _: self.handle(path), fsync=self.sync, close=lambda _: None, O_RDONLY=os.O_RDONLY)
        )
        for name in ("replace", "unlink", "mkdir", "read_bytes", "iterdir", "exists", "is_dir"):
            patch.setattr(Path, name, _here(getattr(self, name), getattr(Path, name)))


class _Writing:
    """A file that is open for writing."""

    def __init__(self, folder: Folder, path: Path, node: _File) -> None:
        self._folder, self._path, self._node = folder, path, node

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, data: bytes) -> None:
        self._folder.write(self._path, self._node, bytes(data))

    def flush(self) -> None:
        pass

    def fileno(self) -> int:
        self._folder._open[number := len(self._folder._open) + 1_000_000] = self._path, self._node
        return number


def _here(mine: Callable[..., Any], usual: Callable[..., Any]) -> Callable[..., Any]:
    return lambda path, *given, **named: (mine if path.is_relative_to(ROOT) else usual)(path, *given, **named)


def _error(number: int, path: Path) -> OSError:
    return OSError(number, os.strerror(number), str(path))

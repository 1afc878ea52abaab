"""A disk in memory below SQLite, whose calls fail as a seeded schedule says: a VFS, in ctypes, in the library that `sqlite3` uses.

What has been written is seen at once by who reads, and survives a power cut only once its file was synced. At a cut each write
and truncation since the last sync is kept, lost, or torn between sectors of 512 bytes. A new file may be gone and a removed
one be back, until a file is synced for the first time: SQLite then syncs the folder too.

A fault strikes at the first call, from the one that the schedule numbers on, that it can strike:

======== ==========================================================================================================
cut      the power fails: what was not synced is kept in part, and nothing more works until the disk is started again
kill     the process dies: all that was written stays
full     a write, or a new file, finds no room; part of the write may be done
eio      a call fails, whatever it is
drop     a sync fails, and what it was to make durable never will be, as on Linux
lie      syncs succeed and do nothing: this one, or all until the next start
read     a bit of what is read is flipped, this once
write    a bit of what is written is flipped for good
======== ==========================================================================================================

Its limits: sectors are written whole, a write harms no bytes beside it, there is one process at a time, shared memory is never
damaged, and nothing is mapped into memory.
"""
# ruff: noqa: ARG002  (SQLite says which arguments there are)

from __future__ import annotations

import ctypes
import random
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_double, c_int, c_int64, c_void_p, memmove
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["KINDS", "Disk", "Fault", "Faulty", "NoVfsError", "drawn_faults", "flipped", "sectors"]

KINDS = ("cut", "kill", "full", "eio", "drop", "lie", "read", "write")
SECTOR = 512

_OK, _BUSY, _IOERR, _FULL, _NOTFOUND, _CANTOPEN = 0, 5, 10, 13, 12, 14
_SHORT_READ, _IOERR_NOENT = 522, 5898
_CREATE, _DELETE_ON_CLOSE = 0x4, 0x8
_LOCK, _SHARED = 2, 4
_POWERSAFE_OVERWRITE = 0x1000
# The name of what a call does, and the error it fails with.
_ERRORS = {
    "read": 266, "write": 778, "sync": 1034, "truncate": 1546, "size": 1802, "delete": 2570, "access": 3338, "lock": 3850, "open": _CANTOPEN,
    "map": 5386, "share": 5130,
}  # fmt: skip


class NoVfsError(Exception):
    """The SQLite of this Python cannot be reached: it is linked into it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault from a call on, counted from 1 over the whole schedule; what is left open about it follows from the seed.

    With `lasting`, it strikes each call that it can until the disk is started again.
    """

    kind: str
    call: int
    seed: int
    lasting: bool = False


def drawn_faults(chance: random.Random, calls: int) -> tuple[Fault, ...]:
    """Return one to three faults within so many calls, and after a lie or a forgetful sync a power cut."""
    faults = []
    for _ in range(chance.choice([1, 1, 2, 3])):
        kind, call = chance.choice(KINDS), chance.randint(1, calls)
        faults.append(Fault(kind, call, chance.randrange(1000), kind not in {"cut", "kill"} and chance.random() < 0.3))
        if kind in {"lie", "drop"}:
            faults.append(Fault("cut", chance.randint(call, calls), chance.randrange(1000)))
    return tuple(faults)


@dataclass(slots=True)
class Inode:
    """A file: what is seen of it, what is durable of it (None: not even its name), and the changes between the two.

    A change is an offset and bytes, or a length and None.
    """

    seen: bytearray = field(default_factory=bytearray)
    durable: bytearray | None = None
    changes: list[tuple[int, bytes | None]] = field(default_factory=list)
    locks: dict[int, int] = field(default_factory=dict)
    shared: list[Any] = field(default_factory=list)
    shared_locks: dict[int, dict[int, int]] = field(default_factory=dict)

    def sync(self) -> None:
        durable = bytearray() if self.durable is None else self.durable
        for change in self.changes:
            _apply(durable, change)
        self.durable = durable
        self.changes.clear()

    def after_cut(self, chance: random.Random) -> Inode | None:
        """Return what a power cut leaves of it; None if nothing."""
        if self.durable is None and chance.random() < 0.5:
            return None
        found = bytearray(self.durable or b"")
        kept = chance.choice([0.0, 0.5, 0.9, 1.0])
        for offset, data in self.changes:
            if data is None or chance.random() < 0.5:
                if chance.random() < kept:
                    _apply(found, (offset, data))
            else:
                for start, piece in sectors(offset, data):
                    if chance.random() < kept:
                        _apply(found, (start, piece))
        return Inode(bytearray(found), found)


@dataclass(slots=True)
class Handle:
    """An open file of a process; it works as long as the disk is in the life in which it was opened."""

    id: int
    name: str
    inode: Inode
    life: int
    memory: list[Any] = field(default_factory=list)
    gone_at_close: bool = False


class _Vfs(Structure):
    pass


class _Methods(Structure):
    pass


class _File(Structure):
    _fields_ = [("methods", POINTER(_Methods))]


def _calls(*names_types: tuple[str, tuple[Any, ...]]) -> list[tuple[str, Any]]:
    return [(name, CFUNCTYPE(c_int, c_void_p, *types)) for name, types in names_types]


_Methods._fields_ = [
    ("version", c_int),
    *_calls(
        ("close", ()),
        ("read", (c_void_p, c_int, c_int64)),
        ("write", (c_void_p, c_int, c_int64)),
        ("truncate", (c_int64,)),
        ("sync", (c_int,)),
        ("size", (POINTER(c_int64),)),
        ("lock", (c_int,)),
        ("unlock", (c_int,)),
        ("reserved", (POINTER(c_int),)),
        ("control", (c_int, c_void_p)),
        ("sector", ()),
        ("traits", ()),
        ("share_map", (c_int, c_int, c_int, POINTER(c_void_p))),
        ("share_lock", (c_int, c_int, c_int)),
        ("share_barrier", ()),
        ("share_unmap", (c_int,)),
    ),
]
_Vfs._fields_ = [
    ("version", c_int),
    ("file_size", c_int),
    ("longest_path", c_int),
    ("next", c_void_p),
    ("name", c_char_p),
    ("data", c_void_p),
    *_calls(
        ("open", (c_char_p, c_void_p, c_int, POINTER(c_int))),
        ("delete", (c_char_p, c_int)),
        ("access", (c_char_p, c_int, POINTER(c_int))),
        ("full_path", (c_char_p, c_int, c_void_p)),
        ("dl_open", (c_char_p,)),
        ("dl_error", (c_int, c_char_p)),
        ("dl_sym", (c_void_p, c_char_p)),
        ("dl_close", (c_void_p,)),
        ("randomness", (c_int, c_void_p)),
        ("sleep", (c_int,)),
        ("now", (POINTER(c_double),)),
        ("last_error", (c_int, c_char_p)),
    ),
]


class Faulty:
    """What counts the calls on a disk, and has the faults of a schedule strike them.

    Attributes
    ----------
    trace
        By call, the kinds of faults that could strike it.
    struck
        Each fault that has struck: its number in the schedule, the call, what that did, and the file.
    crashed
        Whether the power is off or the process dead: start the disk again.
    """

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self.waiting = sorted(enumerate(faults), key=lambda one: one[1].call)
        self.lasting: list[tuple[int, Fault]] = []
        self.trace: list[tuple[str, ...]] = []
        self.struck: list[tuple[int, int, str, str]] = []
        self.crashed = False

    @property
    def calls(self) -> int:
        """How many calls there were."""
        return len(self.trace)

    def _strikes(self, does: str, name: str, can: tuple[str, ...]) -> tuple[Fault, random.Random] | None:
        """Count a call, and return the fault that strikes it."""
        self.trace.append(can)
        found = next((one for one in self.lasting if one[1].kind in can), None)
        if found is None and self.waiting and self.waiting[0][1].call <= self.calls:
            found = next((one for one in self.waiting if one[1].call <= self.calls and one[1].kind in can), None)
            if found is not None:
                self.waiting.remove(found)
                self.struck.append((found[0], self.calls, does, name))
                if found[1].lasting:
                    self.lasting.append(found)
        return None if found is None else (found[1], random.Random(found[1].seed))


class Disk(Faulty):
    """A disk on which the faults of a schedule strike.

    Attributes
    ----------
    error
        What went wrong in here, which is a fault of this module.
    """

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        super().__init__(faults)
        self.files: dict[str, Inode] = {}
        self.removed: dict[str, Inode] = {}
        self.error: BaseException | None = None
        self._life = self._opened = 0
        self._random = random.Random(1)
        self._handles: dict[int, Handle] = {}

    @property
    def open_files(self) -> list[str]:
        """The names of the files that are open."""
        return sorted(handle.name for handle in self._handles.values())

    def start(self) -> None:
        """End the process that runs, if one does, and have the disk work again."""
        self.crashed = False
        self._life += 1
        self.lasting.clear()
        for inode in self.files.values():
            inode.locks, inode.shared, inode.shared_locks = {}, [], {}

    # faults

    def _crash(self, fault: Fault, chance: random.Random) -> None:
        self.crashed = True
        if fault.kind == "cut":
            names = {name: [inode] for name, inode in self.files.items()}
            for name, inode in self.removed.items():
                if name not in names and chance.random() < 0.5:
                    names[name] = [inode]
            left = {name: inode.after_cut(chance) for name, (inode,) in sorted(names.items())}
            self.files = {name: inode for name, inode in left.items() if inode is not None}
            self.removed.clear()

    def _fails(self, does: str, name: str, can: tuple[str, ...] = ("cut", "kill", "eio")) -> int:
        """Count a call that is done whole or not at all, and return what it fails with, or 0."""
        if self.crashed:
            return _ERRORS[does]
        strike = self._strikes(does, name, can)
        if strike is None:
            return _OK
        fault, chance = strike
        if fault.kind in {"cut", "kill"}:
            self._crash(fault, chance)
        return _FULL if fault.kind == "full" else _ERRORS[does]

    def _of(self, file: int) -> Handle | None:
        found = self._handles[file]
        return found if found.life == self._life and not self.crashed else None

    # files

    def open(self, vfs: int, name: bytes | None, file: int, flags: int, said: Any) -> int:
        named = f"temporary {self._opened}" if name is None else Path(name.decode()).name
        self._opened += 1
        _File.from_address(file).methods = POINTER(_Methods)()
        missing = named not in self.files
        if wrong := self._fails("open", named, ("cut", "kill", "eio", "full") if missing else ("cut", "kill", "eio")):
            return wrong
        if missing:
            if not flags & _CREATE:
                return _CANTOPEN
            self.files[named] = Inode()
        _shim().disks[file] = self
        self._handles[file] = Handle(self._opened, named, self.files[named], self._life, gone_at_close=bool(flags & _DELETE_ON_CLOSE))
        _File.from_address(file).methods = ctypes.pointer(_shim().methods)
        if said:
            said[0] = flags
        return _OK

    def delete(self, vfs: int, name: bytes, durably: int) -> int:
        named = Path(name.decode()).name
        if wrong := self._fails("delete", named):
            return wrong
        if named not in self.files:
            return _IOERR_NOENT
        inode = self.files.pop(named)
        if not durably and inode.durable is not None:
            self.removed[named] = inode
        return _OK

    def access(self, vfs: int, name: bytes, flags: int, said: Any) -> int:
        named = Path(name.decode()).name
        if wrong := self._fails("access", named):
            return wrong
        inode = self.files.get(named)
        said[0] = inode is not None and (flags != 0 or len(inode.seen) > 0)
        return _OK

    def full_path(self, vfs: int, name: bytes, room: int, out: int) -> int:
        memmove(out, name + b"\0", len(name) + 1)
        return _OK

    def randomness(self, vfs: int, count: int, out: int) -> int:
        memmove(out, self._random.randbytes(count), count)
        return count

    def sleep(self, vfs: int, micros: int) -> int:
        return micros

    def now(self, vfs: int, said: Any) -> int:
        said[0] = 2_460_000.5
        return _OK

    # an open file

    def close(self, file: int) -> int:
        handle = self._handles.pop(file)
        del _shim().disks[file]
        if handle.life == self._life:
            handle.inode.locks.pop(handle.id, None)
            if handle.gone_at_close and not self.crashed:
                self.files.pop(handle.name, None)
        return _OK

    def read(self, file: int, buffer: int, count: int, offset: int) -> int:
        handle = self._of(file)
        if handle is None:
            return _ERRORS["read"]
        data = bytes(handle.inode.seen[offset : offset + count])
        strike = self._strikes("read", handle.name, ("cut", "kill", "eio", "read") if data else ("cut", "kill", "eio"))
        if strike is not None:
            fault, chance = strike
            if fault.kind != "read":
                if fault.kind != "eio":
                    self._crash(fault, chance)
                return _ERRORS["read"]
            data = flipped(data, chance)
        memmove(buffer, data + bytes(count - len(data)), count)
        return _OK if len(data) == count else _SHORT_READ

    def write(self, file: int, buffer: int, count: int, offset: int) -> int:
        handle = self._of(file)
        if handle is None:
            return _ERRORS["write"]
        data = ctypes.string_at(buffer, count)
        strike = self._strikes("write", handle.name, ("cut", "kill", "eio", "full", "write"))
        if strike is None:
            self._put(handle.inode, offset, data)
            return _OK
        fault, chance = strike
        if fault.kind == "write":
            self._put(handle.inode, offset, flipped(data, chance))
            return _OK
        done = data if fault.kind == "cut" else data[: chance.choice([0, 0, count // SECTOR // 2 * SECTOR, chance.randint(0, count)])]
        self._put(handle.inode, offset, done)
        if fault.kind in {"cut", "kill"}:
            self._crash(fault, chance)
        return _FULL if fault.kind == "full" else _ERRORS["write"]

    def _put(self, inode: Inode, offset: int, data: bytes) -> None:
        if data:
            _apply(inode.seen, (offset, data))
            inode.changes.append((offset, data))

    def truncate(self, file: int, length: int) -> int:
        handle = self._of(file)
        if handle is None or self._fails("truncate", handle.name):
            return _ERRORS["truncate"]
        _apply(handle.inode.seen, (length, None))
        handle.inode.changes.append((length, None))
        return _OK

    def sync(self, file: int, flags: int) -> int:
        handle = self._of(file)
        if handle is None:
            return _ERRORS["sync"]
        strike = self._strikes("sync", handle.name, ("cut", "kill", "eio", "lie", "drop"))
        if strike is not None:
            fault, chance = strike
            if fault.kind == "lie":
                return _OK
            if fault.kind == "drop":
                handle.inode.changes.clear()
            elif fault.kind != "eio":
                self._crash(fault, chance)
            return _ERRORS["sync"]
        if handle.inode.durable is None:
            self.removed.clear()
        handle.inode.sync()
        return _OK

    def size(self, file: int, said: Any) -> int:
        handle = self._of(file)
        if handle is None or self._fails("size", handle.name):
            return _ERRORS["size"]
        said[0] = len(handle.inode.seen)
        return _OK

    def control(self, file: int, operation: int, data: int | None) -> int:
        return _NOTFOUND

    def sector(self, file: int) -> int:
        return 4096

    def traits(self, file: int) -> int:
        return _POWERSAFE_OVERWRITE

    # locks, and the memory that the processes on a file share

    def lock(self, file: int, level: int) -> int:
        handle = self._of(file)
        if handle is None or self._fails("lock", handle.name):
            return _ERRORS["lock"]
        highest = max((held for who, held in handle.inode.locks.items() if who != handle.id), default=0)
        # Shared goes beside reserved, and exclusive beside nothing.
        if highest > {1: 2, 2: 1, 3: 1, 4: 0}[level]:
            return _BUSY
        handle.inode.locks[handle.id] = max(level, handle.inode.locks.get(handle.id, 0))
        return _OK

    def unlock(self, file: int, level: int) -> int:
        handle = self._of(file)
        if handle is not None:
            handle.inode.locks[handle.id] = level
        return _OK

    def reserved(self, file: int, said: Any) -> int:
        handle = self._of(file)
        said[0] = handle is not None and any(held >= 2 for held in handle.inode.locks.values())
        return _OK

    def share_map(self, file: int, region: int, size: int, extend: int, said: Any) -> int:
        handle = self._of(file)
        said[0] = None
        if handle is None:
            return _ERRORS["map"]
        regions = handle.inode.shared
        if region >= len(regions):
            if not extend:
                return _OK
            if wrong := self._fails("map", handle.name, ("cut", "kill", "eio", "full")):
                return wrong
            regions.extend(ctypes.create_string_buffer(size) for _ in range(region + 1 - len(regions)))
        # SQLite may look at it for as long as the file is open.
        handle.memory.append(regions[region])
        said[0] = ctypes.addressof(regions[region])
        return _OK

    def share_lock(self, file: int, start: int, count: int, flags: int) -> int:
        handle = self._of(file)
        if handle is None or (flags & _LOCK and self._fails("share", handle.name)):
            return _ERRORS["share"]
        places = [handle.inode.shared_locks.setdefault(place, {}) for place in range(start, start + count)]
        for held in places:
            if flags & _LOCK and any(who != handle.id and (how == 2 or not flags & _SHARED) for who, how in held.items()):
                return _BUSY
        for held in places:
            if flags & _LOCK:
                held[handle.id] = 1 if flags & _SHARED else 2
            else:
                held.pop(handle.id, None)
        return _OK

    def share_barrier(self, file: int) -> int:
        return _OK

    def share_unmap(self, file: int, remove: int) -> int:
        handle = self._of(file)
        if handle is not None:
            for held in handle.inode.shared_locks.values():
                held.pop(handle.id, None)
        return _OK

    @staticmethod
    def prepare() -> None:
        """See that this process's SQLite can be had to use such disks. Raises NoVfsError if not."""
        _shim()

    @contextmanager
    def mounted(self) -> Iterator[None]:
        """Have this process's SQLite open all its files on this disk."""
        with _shim().serving(self):
            yield


def _apply(data: bytearray, change: tuple[int, bytes | None]) -> None:
    offset, written = change
    if len(data) < offset:
        data.extend(bytes(offset - len(data)))
    if written is None:
        del data[offset:]
    else:
        data[offset : offset + len(written)] = written


def sectors(offset: int, data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield what a write does to each sector."""
    start = offset
    while start < offset + len(data):
        end = min((start // SECTOR + 1) * SECTOR, offset + len(data))
        yield start, data[start - offset : end - offset]
        start = end


def flipped(data: bytes, chance: random.Random) -> bytes:
    """Return bytes with one bit of them flipped."""
    found = bytearray(data)
    used = [place for place, byte in enumerate(data) if byte] or range(len(data))
    place = chance.choice(chance.choice([used, range(len(data))]))
    found[place] ^= 1 << chance.randrange(8)
    return bytes(found)


class _Shim:
    """The VFS, which hands each call to the disk that is mounted."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library, self._disk = library, Disk()
        # A connection that nobody closed still has its files on the disk that it was opened on.
        self.disks: dict[int, Disk] = {}
        self._library.sqlite3_vfs_find.restype = c_void_p
        self._usual = c_void_p(self._library.sqlite3_vfs_find(None))
        self.methods = _Methods(version=2)
        self._vfs = _Vfs(version=1, file_size=ctypes.sizeof(_File), longest_path=512, name=b"headrace-faulty")
        for table, disk_of in ((self.methods, self.disks.get), (self._vfs, lambda _: self._disk)):
            for name, kind in table._fields_:
                if hasattr(kind, "_restype_") and hasattr(Disk, name):
                    setattr(table, name, kind(self._handing_on(name, disk_of)))
        self._library.sqlite3_vfs_register(ctypes.byref(self._vfs), 0)

    def _handing_on(self, name: str, disk_of: Callable[[int], Disk | None]) -> Callable[..., int]:
        method = getattr(Disk, name)

        def call(first: int, *given: Any) -> int:
            disk = disk_of(first) or self._disk
            try:
                return int(method(disk, first, *given))
            except BaseException as error:  # noqa: BLE001  (nothing may pass through SQLite)
                disk.error = disk.error or error
                return _IOERR

        return call

    @contextmanager
    def serving(self, disk: Disk) -> Iterator[None]:
        self._disk = disk
        self._library.sqlite3_vfs_register(ctypes.byref(self._vfs), 1)
        try:
            yield
        finally:
            self._library.sqlite3_vfs_register(self._usual, 1)


_made: list[_Shim] = []


def _shim() -> _Shim:
    if not _made:
        _made.append(_Shim(_library()))
    return _made[0]


def _library() -> ctypes.CDLL:
    """Return the SQLite that `sqlite3` uses. Raises NoVfsError if it cannot be told."""
    sqlite3.connect(":memory:").close()
    maps = Path("/proc/self/maps")
    loaded = re.findall(r"\S+/libsqlite3\.so\S*", maps.read_text()) if maps.exists() else []
    if not loaded:
        raise NoVfsError("sqlite3 uses no libsqlite3.so")
    return ctypes.CDLL(loaded[0])

"""The source of files that grow: each whole line once, over renames, truncations and `kill -9`."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import threading
import time
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from typing import Any, NamedTuple

import msgspec

from headrace._clock import now_ms
from headrace.connectors.following.followed import Followed, Line, shown
from headrace.connectors.following.known import END_BYTES, Known
from headrace.connectors.following.place import Format, Place, log_of
from headrace.connectors.following.records import Csv, Ndjson
from headrace.connectors.payload_records import Shape
from headrace.connectors.protocol import Event, Source, Unavailable

__all__ = ["Following"]

MOST_OPEN = 64
QUIET_NS = 300 * 1_000_000_000  # within this time a program may still write to a file that was renamed
COPYING_NS = 10 * 1_000_000_000  # a copy that is made before a truncation was written to within this time
_CUT_BYTES = 65_536
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)

_Key = tuple[int, int]
"""The device and inode of a file."""


class Following(Source):
    """The lines of files that grow.

    Parameters
    ----------
    place
        Which files.
    shapes
        What becomes of the lines of each format.
    interval
        How often to look for what is new, in seconds.
    most_bytes
        Longer lines cannot be records.
    """

    def __init__(self, place: Place, shapes: Mapping[Format, Shape], *, interval: float = 1.0, most_bytes: int = 1 << 20) -> None:
        self.name = f"file:{place.pattern}"
        self._place, self._shapes, self._most_bytes = place, shapes, most_bytes
        self._interval = self.pause_seconds = interval
        self._files: dict[tuple[int, int], Followed] = {}
        self._saved: dict[tuple[int, int], dict[str, Any]] = {}
        self._headers: list[bytes] = []
        self._open: dict[tuple[int, int], int] = {}  # descriptors, the last used at the end
        self._notes: list[str] = []
        self._lock = threading.Lock()  # a thread may still read when the events have been ended

    async def open(self, position: Mapping[str, Any] | None) -> AsyncGenerator[Event] | None:
        """Find the files. Raises Unavailable if there can be none."""
        why = await asyncio.to_thread(self._begin, position)
        self._tell()
        if why is not None:
            raise Unavailable(why, fix="is the path right?")
        return self._events()

    def _begin(self, position: Mapping[str, Any] | None) -> str | None:
        """Recognise the files of a position; return why none can be read."""
        with self._lock:
            self._headers, self._files = [], {}
            if position is not None:
                self._headers = [one.encode("latin-1") for one in position.get("headers", ())]
                for known in msgspec.convert([position, *position.get("others", ())], list[Known]):
                    one = Followed(known, self._records(known.path, known.header))
                    self._files.setdefault(one.key, one)
            self._look()
            if not self._files:
                return self._place.missing()
            if not self._place.several and len(self._files) == 1:
                try:
                    self._descriptor(next(iter(self._files.values())))
                except OSError as error:
                    return f"cannot be read: {(error.strerror or str(error)).lower()}"
            return None

    def _records(self, path: str, header: int | None = None, before: bytes | None = None) -> Csv | Ndjson:
        format = self._place.format_of(path) or "ndjson"
        if format == "ndjson":
            return Ndjson(self._shapes[format])
        return Csv(self._shapes[format], None if header is None else self._headers[header], before)

    async def _events(self) -> AsyncGenerator[Event]:
        while True:
            came = False
            for one in self._order():
                while one.at < one.size and (lines := await asyncio.to_thread(self._read, one)):
                    came = True
                    for event in self._events_of(one, lines):
                        yield event
            for one, line in await asyncio.to_thread(self._ended):
                for event in self._events_of(one, [line]):
                    yield event
            if not came:
                await self._pause()
            await asyncio.to_thread(self._look_again)
            self._tell()

    async def _pause(self) -> None:
        await asyncio.sleep(self._interval)

    def _tell(self) -> None:
        """Report what was noticed in a thread."""
        notes, self._notes = self._notes, []
        for note in notes:
            self.tell(note)

    def _order(self) -> list[Followed]:
        """Return the files in the order in which they are read: renamed ones first, then by the time of their last change."""
        return sorted(self._files.values(), key=lambda one: (one.listed, one.modified_ns, one.path))

    # records

    def _events_of(self, one: Followed, lines: Sequence[Line]) -> Iterator[Event]:
        others = [*self._saved.values()]
        at_ms, path, taken, one.made = now_ms(), shown(one.path), one.made, 0
        position, header = self._position(one, others), one.records.header
        for line in lines:
            if line.cut:
                what = f"{path}: a line has {line.end - line.begin:,} bytes, more than {self._most_bytes:,}; the first of them are here"
                yield Event(line.text[:_CUT_BYTES], {**position, "at": line.end}, malformed=what)
                continue
            made = one.records.records(path, line.text, at_ms, first=line.begin == 0)
            if one.records.header is not header:
                position, header = self._position(one, others), one.records.header
            last = len(made)
            for number, (value, key, malformed) in enumerate(made, 1):
                if number > taken:
                    place = {"at": line.end} if number == last else {"at": line.begin, "made": number}
                    yield Event(value, {**position, **place}, key, malformed=malformed)
            taken = 0
        self._save(one)

    def _save(self, one: Followed) -> None:
        """Note how far a file was read, for the positions of the others."""
        if one.to:
            self._saved[one.key] = msgspec.to_builtins(one.known(self._header_of(one)))

    def _position(self, one: Followed, others: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return where to resume in a file, and in the others, among which it may be too, with an earlier state."""
        known = msgspec.to_builtins(one.known(self._header_of(one)))
        position: dict[str, Any] = {**known, "others": others}
        if self._headers:
            position["headers"] = [header.decode("latin-1") for header in self._headers]
        return position

    def _header_of(self, one: Followed) -> int | None:
        header = one.records.header
        if header is None:
            return None
        if header not in self._headers:
            self._headers.append(header)
        return self._headers.index(header)

    # files, in threads

    def _read(self, one: Followed) -> list[Line]:
        """Return the next whole lines of a file."""
        with self._lock:
            try:
                return one.read(self._descriptor(one), self._most_bytes) if self._files.get(one.key) is one else []
            except OSError as error:
                self._complain(one, error)
                return []

    def _ended(self) -> list[tuple[Followed, Line]]:
        """Forget files that were renamed or removed and that nobody has written to for a while, and return what they end in without a line end."""
        found = []
        with self._lock:
            for one in [one for one in self._files.values() if not one.listed and time.time_ns() - one.changed_ns > QUIET_NS]:
                try:
                    file = self._descriptor(one)
                    state = os.fstat(file)
                    if (state.st_size, state.st_ctime_ns) != (one.size, one.changed_ns):
                        continue
                    found += [(one, line) for line in one.rest(file, self._most_bytes)]
                except OSError as error:
                    self._complain(one, error)
                del self._files[one.key]
                self._saved.pop(one.key, None)
                self._release(one.key)
        return found

    def _look_again(self) -> None:
        with self._lock:
            self._look()

    def _look(self) -> None:
        """Find the files that are known, wherever they are now, and those that are new."""
        listed: dict[_Key, _Seen] = {}
        for path, state in self._place.files().items():
            listed.setdefault((state.st_dev, state.st_ino), _Seen(path, state))
        folders = _Folders()
        found: dict[_Key, Followed] = {}
        missed = []
        for one in self._files.values():
            seen = listed.get(one.key) or self._elsewhere(one, folders)
            if seen is None or not self._is_same(one, seen):
                missed.append(one)
                continue
            one.move(seen.path, seen.state, listed=one.key in listed)
            found[one.key] = one
        before = self._headers_by_log(found.values(), missed)
        for one in missed:
            self._seek_copy(one, {**folders.files(one.path), **listed}, listed, found)
        heads: dict[_Key, bytes] = {}
        for key, seen in listed.items():
            if key not in found and not self._may_be_copy(seen, found.values(), heads):
                one = Followed(Known(seen.path, 0, *key), self._records(seen.path, before=before.get(log_of(seen.path))))
                one.move(seen.path, seen.state, listed=True)
                found[key] = one
        self._files, self._saved = found, {}
        for one in found.values():
            self._save(one)
        for key in self._open.keys() - found.keys():
            self._release(key)

    def _seek_copy(self, one: Followed, candidates: Mapping[_Key, _Seen], listed: Mapping[_Key, _Seen], found: dict[_Key, Followed]) -> None:
        """Go on in the copy of a file that is gone or was truncated, or report what is lost."""
        copy = next((seen for key, seen in candidates.items() if key not in found and self._is_copy(one, seen)), None)
        if copy is not None:
            one.move(copy.path, copy.state, listed=copy.key in listed)
            found[one.key] = one
        elif one.at < max(one.size, one.to):
            self._notes.append(f"{shown(one.path)} was removed or truncated before it was read to its end; what it had after byte {one.at:,} is lost")

    @staticmethod
    def _headers_by_log(found: Iterable[Followed], missed: Iterable[Followed]) -> dict[str, bytes]:
        """Return the last header line that the files of each log have, first of those that were truncated."""
        ordered = [*sorted(found, key=lambda one: one.modified_ns), *missed]
        return {log_of(one.path): one.records.header for one in ordered if one.records.header is not None}

    def _elsewhere(self, one: Followed, folders: _Folders) -> _Seen | None:
        """Return where a file is that the address does not mean: it was renamed, or removed while it was open."""
        if (file := self._open.get(one.key)) is not None:
            return _Seen(one.path, os.fstat(file))
        return folders.files(one.path).get(one.key)

    def _is_same(self, one: Followed, seen: _Seen) -> bool:
        if (seen.state.st_size, seen.state.st_ctime_ns) == (one.size, one.changed_ns) and not one.lost:
            return True
        if seen.state.st_size < one.to or one.lost:
            return False
        try:
            return one.same(self._descriptor(one, seen.path))
        except OSError as error:
            self._complain(one, error)
            return True

    def _may_be_copy(self, seen: _Seen, files: Iterable[Followed], heads: dict[_Key, bytes]) -> bool:
        """Return whether a new file may be the copy that is made of another one before that is truncated: it has nothing else in it so far.

        `heads` are the beginnings of the files, as far as they were read before.
        """
        size = seen.state.st_size
        if not size or abs(time.time_ns() - seen.state.st_ctime_ns) > COPYING_NS:
            return False
        folder = os.path.dirname(seen.path)  # noqa: PTH120
        others = [one for one in files if one.size >= size and os.path.dirname(one.path) == folder]  # noqa: PTH120
        if not others:
            return False
        with suppress(OSError), closing(_File(seen.path)) as new:
            head = new.read(END_BYTES, 0)
            for one in others:
                if one.key not in heads:
                    heads[one.key] = os.pread(self._descriptor(one), END_BYTES, 0)
                if heads[one.key].startswith(head):
                    count = min(END_BYTES, size)
                    if new.read(count, size - count) == os.pread(self._descriptor(one), count, size - count):
                        return True
        return False

    @staticmethod
    def _is_copy(one: Followed, seen: _Seen) -> bool:
        """Return whether a file begins with all that was read of another one, which is gone or was truncated."""
        if not one.to or seen.state.st_size < one.to:
            return False
        with suppress(OSError), closing(_File(seen.path)) as file:
            known = one.known(None)
            return known.has_ends(seen.state.st_size, file.read) and known.has_content(file.read)
        return False

    def _descriptor(self, one: Followed, path: str | None = None) -> int:
        """Return the open file. Raises OSError if it cannot be opened, or is not there any more."""
        file = self._open.pop(one.key, None)
        if file is None:
            file = os.open(path or one.path, _FLAGS)
            state = os.fstat(file)
            if (state.st_dev, state.st_ino) != one.key:
                os.close(file)
                raise OSError(errno.ESTALE, "another file has taken its place")
            for key in list(self._open)[: max(len(self._open) + 1 - MOST_OPEN, 0)]:
                if key not in self._files or self._files[key].listed:  # others may have no name any more
                    self._release(key)
        self._open[one.key] = file
        one.complained = False
        return file

    def _release(self, key: _Key) -> None:
        if (file := self._open.pop(key, None)) is not None:
            os.close(file)

    def _complain(self, one: Followed, error: OSError) -> None:
        if not one.complained and error.errno != errno.ESTALE:
            one.complained = True
            self._notes.append(f"{shown(one.path)} cannot be read: {(error.strerror or str(error)).lower()}; tried again")

    async def close(self) -> None:
        """Close the files."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        with self._lock:
            for key in list(self._open):
                self._release(key)


class _File:
    """A file that is open for a moment. Raises OSError."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, _FLAGS)

    def read(self, count: int, place: int) -> bytes:
        """Return so many bytes from a place on."""
        return os.pread(self._file, count, place)

    def close(self) -> None:
        """Close it."""
        os.close(self._file)


class _Seen(NamedTuple):
    """A file that there is."""

    path: str
    state: os.stat_result

    @property
    def key(self) -> _Key:
        return self.state.st_dev, self.state.st_ino


class _Folders:
    """The files of folders, each looked at once."""

    def __init__(self) -> None:
        self._known: dict[str, dict[_Key, _Seen]] = {}

    def files(self, path: str) -> dict[_Key, _Seen]:
        """Return the files in the folder of a path."""
        folder = os.path.dirname(path)  # noqa: PTH120
        if folder not in self._known:
            self._known[folder] = {seen.key: seen for seen in _files_of(folder or ".", folder)}
        return self._known[folder]


def _files_of(folder: str, prefix: str) -> Iterator[_Seen]:
    with suppress(OSError):
        for name in sorted(os.listdir(folder)):  # noqa: PTH208
            with suppress(OSError):
                path = os.path.join(prefix, name)  # noqa: PTH118
                state = os.stat(path)  # noqa: PTH116
                if stat.S_ISREG(state.st_mode):
                    yield _Seen(path, state)

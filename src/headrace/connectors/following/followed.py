"""A file that is followed: what of it is read, and up to where."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple
from zlib import crc32

from headrace.connectors.following.known import END_BYTES, Known, digest
from headrace.connectors.following.records import Csv, Ndjson

__all__ = ["CHUNK_BYTES", "Followed", "Line", "shown"]

CHUNK_BYTES = 1 << 20


class Line(NamedTuple):
    """A line without its end, the bytes at which it begins and at which the next one does, and whether only its beginning was read."""

    text: bytes
    begin: int
    end: int
    cut: bool = False


class Followed:
    """A file of which whole lines are read.

    Attributes
    ----------
    at, to, crc
        As in `Known`.
    made
        How many records of the next line were taken before.
    path
        Where it is.
    listed
        Whether the address means it; else it was renamed, or is gone, and is read to its end.
    size, modified_ns, changed_ns
        Those that it had when it was looked at last; a rename changes the last one too.
    lost
        Whether it no longer has the content that was read.
    """

    def __init__(self, known: Known, records: Csv | Ndjson) -> None:
        self.path, self.records, self.listed, self.lost = known.path, records, True, False
        self.device, self.inode = known.device, known.inode
        self.at, self.to, self.crc, self.made, self._ends = known.at, known.to, known.crc, known.made, known.ends
        self._head: bytes | None = b"" if not self.to else None
        self._tail = b""
        self._scanned = 0  # no line ends before this byte, from `at` on
        self.size = self.modified_ns = self.changed_ns = -1
        self.complained = False

    @property
    def key(self) -> tuple[int, int]:
        """The key that distinguishes it from other files."""
        return self.device, self.inode

    def known(self, header: int | None) -> Known:
        """Return how far it was read."""
        return Known(shown(self.path), self.at, self.device, self.inode, self.to, self.crc, self._ends, header, self.made)

    def move(self, path: str, state: os.stat_result, *, listed: bool) -> None:
        """Note that its content is in this file."""
        self.path, self.listed, self.lost = path, listed, False
        self.device, self.inode = state.st_dev, state.st_ino
        self.size, self.modified_ns, self.changed_ns = state.st_size, state.st_mtime_ns, state.st_ctime_ns

    def same(self, file: int) -> bool:
        """Return whether the file still has the content that was read, by both ends."""
        count = min(END_BYTES, self.to)
        if not count:
            return True
        head, tail = os.pread(file, count, 0), os.pread(file, count, self.to - count)
        if self._head is None and digest(head, tail) == self._ends:
            self._head, self._tail = head, tail
        return self._head == head and self._tail == tail

    def read(self, file: int, most: int) -> list[Line]:
        """Return the next whole lines; none if there is no whole one yet. A line that is longer than `most` bytes is returned cut.

        `lost` says that the file is another one now.
        """
        data = os.pread(file, CHUNK_BYTES, max(self.at, self._scanned))
        if os.fstat(file).st_size < self.to or not self.same(file):
            self.lost = True
            return []
        if self._scanned:
            return self._long_line(file, data, most)
        cut = data.rfind(b"\n") + 1
        if not cut:
            return self._long_line(file, data, most) if len(data) == CHUNK_BYTES else []
        begin, self.at = self.at, self.at + cut
        self._learn(data[:cut], begin)
        return list(_lines(data[: cut - 1], begin))

    def _long_line(self, file: int, data: bytes, most: int) -> list[Line]:
        """Return the line that begins at `at` and has no end in the bytes before `data`."""
        place = self._scanned or self.at
        while (cut := data.find(b"\n")) < 0 and len(data) == CHUNK_BYTES:
            place += len(data)
            data = os.pread(file, CHUNK_BYTES, place)
        if cut < 0:
            self._scanned = place
            return []
        return [self._up_to(file, place + cut + 1, most, 1)]

    def rest(self, file: int, most: int) -> list[Line]:
        """Return what follows the last whole line, as a line: of a file that gets no more."""
        size = os.fstat(file).st_size
        return [self._up_to(file, size, most, 0)] if size > self.at and self.same(file) else []

    def _up_to(self, file: int, end: int, most: int, line_end: int) -> Line:
        """Return what there is from `at` to a byte as one line, of which the last so many bytes are its end."""
        begin, self._scanned = self.at, 0
        while (part := min(CHUNK_BYTES, end - self.at)) > 0:
            self._learn(os.pread(file, part, self.at), self.at)
            self.at += part
        length = end - line_end - begin
        return Line(os.pread(file, min(length, most), begin).removesuffix(b"\r"), begin, end, length > most)

    def _learn(self, data: bytes, begin: int) -> None:
        """Note the content from a byte on, as far as it was not known."""
        fresh = data[max(self.to - begin, 0) :]
        if not fresh:
            return
        if self._head is not None and len(self._head) < END_BYTES:
            self._head = (self._head + fresh)[:END_BYTES]
        self._tail = (self._tail + fresh[-END_BYTES:])[-END_BYTES:]
        self.crc, self.to = crc32(fresh, self.crc), self.to + len(fresh)
        self._ends = digest(self._head or b"", self._tail)


def _lines(data: bytes, begin: int) -> Iterator[Line]:
    for line in data.split(b"\n"):
        end = begin + len(line) + 1
        yield Line(line[:-1] if line[-1:] == b"\r" else line, begin, end)
        begin = end


def shown(path: str) -> str:
    """Return a path as text, also one whose bytes are none."""
    return path.encode(errors="backslashreplace").decode()

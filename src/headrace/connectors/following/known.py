"""By what a file is recognised that was read up to some byte: sans-IO.

A name does not tell: a log is renamed, and another file takes its name. An inode does not tell either: it is reused, a file is truncated,
and a copy has another one. What tells is the content up to where it was read, of which a checksum and both ends are remembered.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from zlib import crc32

import msgspec

__all__ = ["END_BYTES", "Known", "digest"]

END_BYTES = 512


class Known(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a file was read, and by what it is recognised: a part of the position.

    Attributes
    ----------
    path
        Where it was last.
    at
        The byte at which the next line begins.
    device, inode
        Those of its file.
    to
        The byte up to which its content is known, not before `at`.
    crc
        The checksum of the bytes up to there.
    ends
        The digest of the first and the last of these bytes.
    header
        The number of its header line among the headers.
    made
        How many records of the next line were taken: a line may become several.
    """

    path: str
    at: int
    device: int
    inode: int
    to: int = 0
    crc: int = 0
    ends: str = ""
    header: int | None = None
    made: int = 0

    def has_ends(self, size: int, read: Callable[[int, int], bytes]) -> bool:
        """Return whether a file has both ends of the known content. `read` returns so many bytes from a place on."""
        if size < self.to:
            return False
        count = min(END_BYTES, self.to)
        return not self.to or digest(read(count, 0), read(count, self.to - count)) == self.ends

    def has_content(self, read: Callable[[int, int], bytes]) -> bool:
        """Return whether a file that has both ends has all of the known content."""
        crc, place = 0, 0
        while place < self.to:
            part = read(min(1 << 20, self.to - place), place)
            if not part:
                return False
            crc, place = crc32(part, crc), place + len(part)
        return crc == self.crc


def digest(head: bytes, tail: bytes) -> str:
    """Return the digest of both ends."""
    return blake2b(head + tail, digest_size=8).hexdigest()

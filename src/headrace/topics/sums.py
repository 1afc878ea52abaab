"""Checksums of the SQLite log's rows: CRC-32 as zlib has it, the fastest that is there without a further package.

A row's sum is taken over all its columns, its key included, so a changed bit in any of them shows. A block's body and keys
have sums of their own, which its row's sum covers: retention then reads no body, and a feed no keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zlib import crc32

import msgspec

__all__ = ["BLOCK", "UNSOUND", "block_is_sound", "body_sum", "row_sum", "sound"]

BLOCK = "seq, partition, first, count, arrived_ms, size, packed, keys_sum, body_sum, sum"
UNSOUND = -1  # no CRC-32 is negative

_encode = msgspec.msgpack.Encoder().encode


def row_sum(*values: object) -> int:
    """Return the checksum of a row's columns; `UNSOUND` of values that no row of ours has."""
    try:
        return crc32(_encode(values))
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError):
        return UNSOUND


def body_sum(data: object) -> int | None:
    """Return the checksum of a body or of keys; None of no keys."""
    if data is None:
        return None
    return crc32(data) if isinstance(data, bytes) else UNSOUND


def sound(found: object, *values: object) -> bool:
    """Return whether a row has the checksum of its columns."""
    expected = row_sum(*values)
    return expected != UNSOUND and found == expected


def block_is_sound(row: Sequence[Any], unsummed: int) -> bool:
    """Return whether the columns `BLOCK` of a block are as they were written. Blocks up to `unsummed` may have no checksums."""
    if row[-1] is None:
        return isinstance(row[0], int) and row[0] <= unsummed
    return sound(row[-1], *row[:-1])

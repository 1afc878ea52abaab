"""Values of registers: pure functions from the words of a response."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from headrace.connectors.modbus.registers import Register
from headrace.plant.quality import Quality

__all__ = ["Value", "bytes_of", "reader"]

Value = tuple[float | int | str | bool | None, int]
"""A value and its quality."""

_FORMATS = {"int16": "h", "uint16": "H", "int32": "i", "uint32": "I", "int64": "q", "uint64": "Q", "float32": "f", "float64": "d"}


def bytes_of(words: Sequence[int]) -> bytes:
    """Return the words of a response as they were sent: the high byte of each first."""
    return struct.pack(f">{len(words)}H", *words)


def reader(register: Register) -> Callable[[bytes, int], Value]:
    """Return what reads a register's value in the bytes of a response, at the place of its first byte."""
    if register.type == "bool":
        return _bit_reader(register)
    if register.type == "string":
        return _string_reader(register)
    return _number_reader(register)


def _number_reader(register: Register) -> Callable[[bytes, int], Value]:
    arranged = _arranger(register)
    # Low word first and low byte first together are little-endian as a whole.
    order = "<" if register.low_byte_first and (register.low_word_first or register.size == 1) else ">"
    unpack = struct.Struct(order + _FORMATS[register.type]).unpack_from
    scale, offset, scaled = register.scale, register.offset, register.scale is not None or register.offset is not None
    factor, shift = 1 if scale is None else scale, 0 if offset is None else offset

    def read(data: bytes, at: int) -> Value:
        (raw,) = unpack(data, at) if arranged is None else unpack(arranged(data, at))
        return (raw * factor + shift if scaled else raw), Quality.GOOD

    return read


def _arranger(register: Register) -> Callable[[bytes, int], bytes] | None:
    """Return what puts a number's bytes into the order of the struct that reads them; None where they are in order."""
    if register.low_word_first == register.low_byte_first or register.size == 1:
        return None
    size = 2 * register.size
    # One of the two orders is reversed. When that is undone, the struct reads the high byte first.
    if register.low_word_first:
        return lambda data, at: b"".join(data[one : one + 2] for one in range(at + size - 2, at - 2, -2))
    return lambda data, at: _swapped(data[at : at + size])


def _bit_reader(register: Register) -> Callable[[bytes, int], Value]:
    bit = (register.bit or 0) ^ (8 if register.low_byte_first else 0)
    place, mask = (0 if bit > 7 else 1), 1 << (bit & 7)
    return lambda data, at: (bool(data[at + place] & mask), Quality.GOOD)


def _string_reader(register: Register) -> Callable[[bytes, int], Value]:
    size, swapped = 2 * register.size, register.low_byte_first

    def read(data: bytes, at: int) -> Value:
        raw = data[at : at + size]
        text = (_swapped(raw) if swapped else raw).partition(b"\0")[0]
        try:
            return text.decode().rstrip(), Quality.GOOD
        except UnicodeDecodeError:
            return None, Quality.BAD_TYPE_MISMATCH

    return read


def _swapped(data: bytes) -> bytes:
    """Return bytes with the two of each word exchanged."""
    swapped = bytearray(len(data))
    swapped[0::2], swapped[1::2] = data[1::2], data[0::2]
    return bytes(swapped)

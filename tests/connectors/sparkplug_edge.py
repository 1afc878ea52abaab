"""An edge node of Sparkplug B for tests: it writes payloads with a schema of its own, so that both must agree with the specification."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

INT8, INT16, INT32, INT64, UINT64, FLOAT, DOUBLE, BOOLEAN, STRING = 1, 2, 3, 4, 8, 9, 10, 11, 12


def varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def tagged(number: int, wire: int, data: bytes) -> bytes:
    return varint(number << 3 | wire) + data


def whole(number: int, value: int) -> bytes:
    return tagged(number, 0, varint(value))


def sized(number: int, data: bytes) -> bytes:
    return tagged(number, 2, varint(len(data)) + data)


def value_of(datatype: int, value: Any) -> bytes:
    match datatype:
        case 1 | 2 | 3:
            return whole(10, value & 0xFFFFFFFF)
        case 4 | 8:
            return whole(11, value & (1 << 64) - 1)
        case 9:
            return tagged(12, 5, struct.pack("<f", value))
        case 10:
            return tagged(13, 1, struct.pack("<d", value))
        case 11:
            return whole(14, int(value))
        case 12:
            return sized(15, value.encode())
        case _:
            return sized(datatype, value)  # a field by its number: bytes, a data set, a template


def metric(
    name: str | None = None, value: Any = None, datatype: int = DOUBLE, *, alias: int | None = None, time: int | None = None,
    historical: bool = False, quality: int | None = None, unit: str | None = None,
) -> bytes:  # fmt: skip
    parts = [sized(1, name.encode())] if name is not None else []
    parts += [whole(2, alias)] if alias is not None else []
    parts += [whole(3, time)] if time is not None else []
    parts += [whole(4, datatype if datatype <= 19 else 0)]
    parts += [whole(5, 1)] if historical else []
    properties = []
    if quality is not None:
        properties.append(("Quality", whole(1, 3) + whole(3, quality)))
    if unit is not None:
        properties.append(("engUnit", whole(1, 12) + sized(8, unit.encode())))
    if properties:
        parts.append(sized(9, b"".join(sized(1, key.encode()) for key, _ in properties) + b"".join(sized(2, one) for _, one in properties)))
    parts += [whole(7, 1)] if value is None else [value_of(datatype, value)]
    return b"".join(parts)


def payload(*metrics: bytes, seq: int | None = None, time: int | None = 1000) -> bytes:
    head = whole(1, time) if time is not None else b""
    return head + b"".join(sized(2, one) for one in metrics) + (whole(3, seq) if seq is not None else b"")


class Edge:
    """An edge node with devices: it numbers its messages, and gives each metric an alias.

    `metrics` are the values of each device by name; the node's own are those of the device "".
    """

    def __init__(self, name: str, metrics: Mapping[str, Mapping[str, float]]) -> None:
        self.name, self.metrics = name, {device: dict(values) for device, values in metrics.items()}
        self.births = self.connections = 0
        self._seq = -1
        self.aliases: dict[tuple[str, str], int] = {}

    def _topic(self, kind: str, device: str = "") -> str:
        return f"spBv1.0/G/{kind}/{self.name}{'/' if device else ''}{device}"

    def _next(self) -> int:
        self._seq = (self._seq + 1) % 256
        return self._seq

    @property
    def will(self) -> tuple[str, bytes]:
        return self._topic("NDEATH"), payload(metric("bdSeq", self.connections, INT64))

    def birth(self) -> list[tuple[str, bytes]]:
        """Declare all again, under other aliases."""
        self.births += 1
        self._seq = -1
        names = [(device, name) for device, values in self.metrics.items() for name in values]
        self.aliases = {place: number + 100 * self.births for number, place in enumerate(names)}
        found = []
        for device, values in sorted(self.metrics.items()):
            declared = [metric(name, value, alias=self.aliases[device, name], unit="CEL") for name, value in values.items()]
            own = [] if device else [metric("bdSeq", self.connections, INT64), metric("Node Control/Rebirth", False, BOOLEAN)]
            found.append((self._topic("DBIRTH" if device else "NBIRTH", device), payload(*own, *declared, seq=self._next())))
        return found

    def data(self, device: str, values: Mapping[str, float], time: int = 2000) -> tuple[str, bytes]:
        self.metrics[device].update(values)
        sent = [metric(None, value, alias=self.aliases[device, name], time=time) for name, value in values.items()]
        return self._topic("DDATA" if device else "NDATA", device), payload(*sent, seq=self._next())

    def death(self, device: str) -> tuple[str, bytes]:
        return self._topic("DDEATH", device), payload(seq=self._next())


def asks_for_births(commands: Sequence[tuple[str, bytes]], edge: str) -> bool:
    return any(topic == f"spBv1.0/G/NCMD/{edge}" and b"Node Control/Rebirth" in data for topic, data in commands)

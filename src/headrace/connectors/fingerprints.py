"""Fingerprints as their records say them, and the names and texts of their files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from headrace.kernels.reading.record import Malformed, json_object, shown
from headrace.kernels.reading.rules import JsonNumber, read_value
from headrace.plan.schema import BIGINT, STRING

__all__ = ["LATEST_MS", "Fingerprint", "fingerprint_of", "iso_of"]

LATEST_MS = 253_402_300_799_999
_PLAIN_NAME = re.compile(r"[0-9A-Za-z-]{1,64}")

_contents = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A fingerprint as its topic has it; `content` is what stands in it, byte for byte."""

    uuid: str
    equip_id: str
    start_ms: int
    end_ms: int
    content: Mapping[str, msgspec.Raw]

    @property
    def file_name(self) -> str:
        """The name of its file."""
        return f"{self.uuid}_{self.start_ms}_{self.end_ms}.json"

    def document(self, readings: Iterable[str]) -> bytes:
        """Return the file's bytes: the fingerprint, and the readings as they came."""
        texts = [msgspec.Raw(reading) for reading in readings]
        window = {"start_ms": self.start_ms, "end_ms": self.end_ms, "start_time": iso_of(self.start_ms), "end_time": iso_of(self.end_ms)}
        data = {"equip_id": self.equip_id, "window": window, "readings": texts, "reading_count": len(texts)}
        return msgspec.json.encode({"fingerprint": self.content, "sensor_data": data}) + b"\n"


def fingerprint_of(raw: str | bytes) -> Fingerprint | Malformed:
    """Return the fingerprint that a record holds, or why it holds none.

    Its uuid becomes part of a file's name: letters, digits and hyphens only.
    """
    record = json_object(raw)
    if isinstance(record, Malformed):
        return record
    found = record.get("fingerprint")
    if not isinstance(found, dict):
        return Malformed("no object 'fingerprint'")
    try:
        equip_id = read_value(found.get("equip_id"), STRING)
        start, end = (read_value(found.get(name), BIGINT) for name in ("start_ms", "end_ms"))
    except RecursionError:
        return Malformed("nested too deeply to read")
    uuid = found.get("uuid")
    sound = {
        "uuid": isinstance(uuid, str) and not isinstance(uuid, JsonNumber) and _PLAIN_NAME.fullmatch(uuid) is not None,
        "equip_id": isinstance(equip_id, str),
        "type": isinstance(found.get("type"), str),
        "start_ms": isinstance(start, int) and start >= 0,
        "end_ms": isinstance(start, int) and isinstance(end, int) and start < end <= LATEST_MS,
        "data": isinstance(found.get("data"), dict),
    }
    for name, fits in sound.items():
        if not fits:
            return Malformed(f"{name} is {shown(found[name])}" if name in found else f"no {name}")
    return Fingerprint(str(uuid), equip_id, start, end, _contents(_contents(raw)["fingerprint"]))


def iso_of(time_ms: int) -> str:
    """Return a time as ISO 8601 in UTC; ms only where there are some."""
    seconds, ms = divmod(time_ms, 1000)
    text = f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"
    return f"{text}.{ms:03d}Z" if ms else f"{text}Z"

"""Dead letters: records that were set aside, and why."""

from __future__ import annotations

import base64
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

__all__ = ["DeadLetter", "dead_letter_record", "encode_dead_letter", "encode_event_letter"]

_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record set aside, and why."""

    topic: str
    partition: int
    offset: int
    reason: str
    detail: str
    arrived_ms: int | None
    raw: str | bytes


def dead_letter_record(pipeline: str, letter: DeadLetter) -> dict[str, Any]:
    """Return a dead letter as a record: with `raw`, or `raw_base64` where the record is not UTF-8."""
    value: dict[str, Any] = {
        "pipeline": pipeline, "topic": letter.topic, "partition": letter.partition, "offset": letter.offset, "reason": letter.reason,
        "detail": letter.detail, "arrived_ms": letter.arrived_ms,
    }  # fmt: skip
    if isinstance(letter.raw, str):
        value["raw"] = letter.raw
    else:
        value["raw_base64"] = base64.b64encode(letter.raw).decode()
    return value


def encode_dead_letter(pipeline: str, letter: DeadLetter) -> bytes:
    """Return a dead letter as one line of JSON."""
    return _encoder.encode(dead_letter_record(pipeline, letter)) + b"\n"


def encode_event_letter(pipeline: str, topic: str, detail: str, event: bytes) -> bytes:
    """Return the dead letter of an event that could not become a record of a topic, so that it has no partition and no offset."""
    raw: str | bytes = event
    with suppress(UnicodeDecodeError):
        raw = event.decode()
    letter = dead_letter_record(pipeline, DeadLetter(topic, 0, 0, "malformed", detail, None, raw))
    return _encoder.encode(letter | {"partition": None, "offset": None}) + b"\n"

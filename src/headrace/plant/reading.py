"""The canonical reading: one value of one tag at one time, with its quality."""

from __future__ import annotations

import math

import msgspec

from headrace.plant.quality import Quality, quality_of_text

__all__ = ["READING_SCHEMA", "Reading", "reading_of"]

READING_SCHEMA = {
    "tag": "STRING NOT NULL",
    "time": "BIGINT NOT NULL",
    "value": "DOUBLE",
    "quality": "BIGINT",
    "unit": "STRING",
    "source_time": "BIGINT",
    "arrival_time": "BIGINT",
}
"""The schema of a topic of readings with numeric values; where values are texts too, take STRING for `value`."""

_ENCODE = msgspec.json.Encoder().encode


class Reading(msgspec.Struct, frozen=True):
    """A value of a tag at a time.

    Attributes
    ----------
    tag
        The tag's path in the asset tree.
    time
        The event time: the source's time if it gives one, else the time of arrival. All times are ms since the epoch, UTC.
    value
        A number, a text or a truth value; None where there is no usable value. Never a number that JSON does not have.
    quality
        An OPC UA StatusCode.
    unit
        A UNECE code, if it is known.
    source_time, arrival_time
        When the source measured it, if it says so; when the connector received it.
    """

    tag: str
    time: int
    value: float | int | str | bool | None
    quality: int = Quality.GOOD
    unit: str | None = None
    source_time: int | None = None
    arrival_time: int | None = None

    def encode(self) -> bytes:
        """Return it as one JSON object."""
        return _ENCODE(self)


def reading_of(
    tag: str,
    value: object,
    arrival_time: int,
    *,
    source_time: int | None = None,
    quality: int = Quality.GOOD,
    unit: str | None = None,
) -> Reading:
    """Return a reading of a value as it came.

    A missing value, NaN, an infinity, "null" and "Bad Input" are bad quality without a value, never zero. A value whose quality is
    already bad keeps that quality. An integer beyond 64 bits becomes a float, and a text that is not Unicode is bad quality.

    Raises
    ------
    TypeError
        If the value is none of number, text, truth value and None.
    """
    given: float | int | str | bool | None
    if isinstance(value, int) and not isinstance(value, bool) and not -(1 << 63) <= value < 1 << 63:
        value = _float_of(value)
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        given, found = None, Quality.BAD_NO_DATA
    elif isinstance(value, str):
        found = quality_of_text(value)
        if not _is_unicode(value):
            found = Quality.BAD_TYPE_MISMATCH
        given = value if found == Quality.GOOD else None
    elif isinstance(value, (bool, int, float)):
        given, found = value, Quality.GOOD
    else:
        raise TypeError(type(value).__name__)
    if found != Quality.GOOD and not quality & Quality.BAD:
        quality = found
    return Reading(tag, arrival_time if source_time is None else source_time, given, quality, unit, source_time, arrival_time)


def _float_of(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

"""The quality of a reading: an OPC UA StatusCode.

The upper two bits are the severity: good, uncertain or bad. The codes and their names are those of OPC UA Part 4, 7.39, and Part 8.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Quality", "is_bad", "is_good", "is_uncertain", "quality_of_text", "worst"]


class Quality(IntEnum):
    """The StatusCodes that headrace itself sets. A reading may have any other."""

    GOOD = 0x00000000
    UNCERTAIN = 0x40000000
    UNCERTAIN_LAST_USABLE_VALUE = 0x40900000
    UNCERTAIN_ENGINEERING_UNITS_EXCEEDED = 0x40940000
    BAD = 0x80000000
    BAD_NO_COMMUNICATION = 0x80310000
    BAD_OUT_OF_RANGE = 0x803C0000
    BAD_TYPE_MISMATCH = 0x80740000
    BAD_CONFIGURATION_ERROR = 0x80890000
    BAD_NOT_CONNECTED = 0x808A0000
    BAD_DEVICE_FAILURE = 0x808B0000
    BAD_SENSOR_FAILURE = 0x808C0000
    BAD_OUT_OF_SERVICE = 0x808D0000
    BAD_NO_DATA = 0x809B0000


_SEVERITY = 0xC0000000
_NO_VALUE = frozenset({"", "null", "none", "nan", "bad", "bad input", "no data", "n/a", "#n/a"})


def is_good(quality: int) -> bool:
    """Return whether the value can be used."""
    return quality & _SEVERITY == Quality.GOOD


def is_uncertain(quality: int) -> bool:
    """Return whether the value may be wrong."""
    return quality & _SEVERITY == Quality.UNCERTAIN


def is_bad(quality: int) -> bool:
    """Return whether the value cannot be used."""
    return quality & Quality.BAD != 0


def worst(*qualities: int) -> int:
    """Return the worst of some qualities; the first of them if several are as bad. Good if there are none."""
    return max(qualities, key=lambda one: (one & _SEVERITY) >> 30, default=Quality.GOOD)


def quality_of_text(text: str) -> Quality:
    """Return the quality of a value that came as text: bad for what historians and gateways write where they have none."""
    return Quality.BAD_NO_DATA if text.strip().lower() in _NO_VALUE else Quality.GOOD

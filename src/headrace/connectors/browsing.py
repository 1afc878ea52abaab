"""Browsing, which `headrace browse` needs of a connector: `browse(address, ranges)` of its module returns a `Browse`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from headrace.connectors.protocol import Source

__all__ = ["Browse"]


@dataclass(frozen=True)
class Browse:
    """The content of an outside system.

    Attributes
    ----------
    source
        Its events are readings.
    listed
        Returns the text of a file to begin with, from the last reading of each tag.
    count
        Returns how many tags there are; None: it cannot be known.
    """

    source: Source
    listed: Callable[[Mapping[str, Mapping[str, Any]]], str]
    count: Callable[[], int] | None = None

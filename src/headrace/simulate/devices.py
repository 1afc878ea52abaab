"""What a simulated plant shows by the protocols of plants: devices with variables, and what they are worth after each of its lines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = ["Devices", "Message", "Variable"]


class Variable(NamedTuple):
    """A variable of a device. Its values are numbers.

    Attributes
    ----------
    unit
        The UNECE code of its unit; None if it has none.
    span
        The least and the greatest value; None if there is no range.
    """

    unit: str | None = None
    span: tuple[float, float] | None = None


class Message(NamedTuple):
    """The values of a device at a time, in seconds since the epoch. None is a value that cannot be had; a variable may be left out."""

    device: str
    time: float
    values: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Devices:
    """The devices of a plant.

    Attributes
    ----------
    variables
        By device and name.
    messages
        Gives what the devices say in a decoded line of the plant.
    empty_ms
        The time of variables until their first value; None: when they are asked for.
    """

    variables: Mapping[str, Mapping[str, Variable]]
    messages: Callable[[dict[str, Any]], Iterable[Message]]
    empty_ms: int | None = None

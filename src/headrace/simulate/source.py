"""A simulated plant as a source: a message a second from each equipment, in the present."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from headrace._clock import now_ms
from headrace.connectors.protocol import Event, Source
from headrace.errors import PlanError, near
from headrace.simulate.generators import Generators
from headrace.simulate.kiln import Kiln
from headrace.simulate.plc import Plc
from headrace.simulate.water import Water, named
from headrace.simulate.writing import LONGEST_MS

if TYPE_CHECKING:
    from headrace.simulate.writing import Plant

__all__ = ["Simulated", "source"]

_PLANTS = {"kiln": Kiln, "generators": Generators, "plc": Plc, "water": Water}
_EXAMPLE = "write simulate:kiln, or simulate:kiln?seed=2&interval=500"


def source(address: str) -> Simulated:
    """Return the source of `simulate:PLANT`, with the parameters `seed` and `interval`, in ms.

    `simulate:water` has two more: `scenarios`, its attacks and faults (`all`, or names with commas between them), and `after`, the seconds
    to the first of them. Its rows are marked.

    Raises
    ------
    PlanError
        If there is no such plant, or a parameter is wrong.
    """
    name, _, query = address.removeprefix("simulate:").partition("?")
    if name not in _PLANTS:
        raise PlanError(f"there is no simulated plant {name!r}", where="simulate:", fix=near(name, _PLANTS))
    is_water = name == "water"
    numbers = {"seed": 1, "interval": 1000, **({"after": 900} if is_water else {})}
    scenarios: tuple[str, ...] = ()
    for key, text in parse_qsl(query, keep_blank_values=True):
        if is_water and key == "scenarios":
            scenarios = named(text)
            continue
        if key not in numbers:
            raise PlanError(f"has no parameter {key!r}", where="simulate:", fix=near(key, [*numbers, "scenarios"] if is_water else numbers))
        most = LONGEST_MS if key == "interval" else (1 << 31) - 1
        if not (text.isascii() and text.isdigit() and 0 < int(text[:10]) <= most):
            raise PlanError(f"parameter {key} is {text!r}", where="simulate:", fix=_EXAMPLE)
        numbers[key] = int(text)
    plant = Water(numbers["seed"], scenarios, after_s=numbers["after"], marked=True) if is_water else _PLANTS[name](numbers["seed"])
    return Simulated(name, plant, numbers["interval"])


class Simulated(Source):
    """The messages of a simulated plant in real time. After a restart it continues in the present."""

    def __init__(self, name: str, plant: Plant, interval_ms: int) -> None:
        self.name = f"simulate:{name}"
        self._plant, self._interval_ms = plant, interval_ms

    async def open(self, position: object) -> AsyncGenerator[Event] | None:  # noqa: ARG002
        """Return its messages from now on."""
        return self._messages()

    async def _messages(self) -> AsyncGenerator[Event]:
        began = time.monotonic()
        for number, lines in enumerate(self._plant.line_batches(now_ms(), self._interval_ms)):
            for equipment, line in zip(self._plant.equipment, lines, strict=True):
                yield Event(line, key=str(equipment))
            await asyncio.sleep(max(began + (number + 1) * self._interval_ms / 1000 - time.monotonic(), 0))

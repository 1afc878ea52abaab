"""The controllers of the water plant, one for each stage, as servers show them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from headrace.simulate.devices import Devices, Message, Variable
from headrace.simulate.water.plant import NO_VALUE, water_tags

__all__ = ["devices"]

_STATES = {"Open": 2.0, "Closed": 1.0}


def devices() -> Devices:
    """Return them: a device for each stage with its tags; a valve is 2 (open) or 1, as a pump is 2 (on) or 1."""
    stages: dict[str, dict[str, Variable]] = {}
    for tag in water_tags():
        span = None if tag.low is None or tag.high is None else (tag.low, tag.high)
        stage = stages.setdefault(tag.path.split("/")[-2], {})
        stage[tag.name] = Variable(tag.unit, span)

    def messages(row: dict[str, Any]) -> Iterator[Message]:
        seconds = int(row["t_stamp"]) / 1e9
        for stage, variables in stages.items():
            yield Message(stage, seconds, {name: _number(row[name]) for name in variables})

    return Devices(stages, messages)


def _number(text: str) -> float | None:
    return None if text == NO_VALUE else _STATES[text] if text in _STATES else float(text)

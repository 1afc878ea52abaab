"""The process that hosts a detector on every engine: rows of a key go in; scores, conditions and what is unknown come out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import Any

import msgspec

from headrace.detect.model import Model
from headrace.detect.scorer import Scored, State, scorer_of
from headrace.kernels.reading.rules import double_of
from headrace.plan.process import Value

__all__ = ["Detector"]

Row = tuple[str, dict[str, Any]]
_SHOWN = 5  # tags of a score
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(State).decode


class Detector:
    """Scores the rows of each key. Columns are named as the tags are, or `values` is a column with all of them."""

    output = {
        "time": "BIGINT NOT NULL", "score": "DOUBLE", "threshold": "DOUBLE NOT NULL", "anomaly": "BOOLEAN NOT NULL",
        "contributions": "MAP<STRING, DOUBLE>", "missing": "ARRAY<STRING>", "version": "STRING NOT NULL",
    }  # fmt: skip
    side_outputs = {
        "conditions": {
            "definition": "STRING NOT NULL", "time": "BIGINT NOT NULL", "active": "BOOLEAN NOT NULL", "value": "DOUBLE",
            "threshold": "DOUBLE NOT NULL", "contributions": "MAP<STRING, DOUBLE>", "version": "STRING NOT NULL",
        },
        "unknown": {"time": "BIGINT NOT NULL", "unknown": "BOOLEAN NOT NULL", "missing": "ARRAY<STRING>"},
        "older": {"time": "BIGINT NOT NULL", "last_time": "BIGINT NOT NULL"},
    }  # fmt: skip
    state = {
        "memory": Value("STRING"),
        "version": Value("STRING"),
        "last_time": Value("BIGINT"),
        "active": Value("BOOLEAN", False),
        "unknown": Value("BOOLEAN", False),
    }

    def __init__(self, model: Model, definition: str, values: str | None) -> None:
        self.scorer, self.definition, self.values = scorer_of(model), definition, values
        self.version = model.version

    def on_record(self, row: Mapping[str, Any], state: Any) -> Iterator[Row]:  # noqa: ANN401
        """Score a row, unless it is older than the last one."""
        if state.last_time is not None and state.time < state.last_time:
            yield "older", {"time": state.time, "last_time": state.last_time}
            return
        state.last_time = state.time
        retained = State() if state.memory is None or state.version != self.version else _decode(state.memory)
        values, model = self._values_of(row), self.scorer.model
        found = self.scorer.score(values, state.time, retained)
        state.memory, state.version = _encode(retained).decode(), self.version
        missing = [tag for tag, value in zip(model.tags, values, strict=True) if value is None]
        if (unknown := self.scorer.is_unknown(len(missing))) != state.unknown:
            state.unknown = unknown
            yield "unknown", {"time": state.time, "unknown": unknown, "missing": missing}
        parts = _contributions(model.tags, found)
        about = {"threshold": model.threshold, "contributions": parts, "version": self.version}
        yield "", {"time": state.time, "score": found.score, "anomaly": found.anomaly, "missing": missing or None, **about}
        if found.score is not None and found.anomaly != state.active:
            state.active = found.anomaly
            condition = {"definition": self.definition, "time": state.time, "active": found.anomaly, "value": found.score}
            yield "conditions", {**condition, **about}

    def _values_of(self, row: Mapping[str, Any]) -> list[float | None]:
        """Return the values of the model's tags; None is missing."""
        given, states = row if self.values is None else row[self.values] or {}, self.scorer.model.states
        return [_value_of(given.get(tag), states.get(tag, ())) for tag in self.scorer.model.tags]


def _value_of(given: object, states: Sequence[str]) -> float | None:
    """Return a value, or the number of a state; None if it is neither, or not finite."""
    if states:
        return float(states.index(given)) if given in states else None
    if isinstance(given, str):
        return double_of(given)
    return float(given) if isinstance(given, int | float) and isfinite(given) else None


def _contributions(tags: Sequence[str], found: Scored) -> dict[str, float] | None:
    """Return the tags that contribute most, the greatest first, with their shares; None if the score is not above the threshold."""
    greatest = sorted(zip(found.shares, tags, strict=False), key=lambda one: (-one[0], one[1]))[:_SHOWN]
    return {tag: share for share, tag in greatest if share > 0} or None

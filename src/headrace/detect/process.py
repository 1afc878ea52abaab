"""The process that hosts a detector on every engine: rows of a key go in; scores, conditions and what is unknown come out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from math import isfinite
from operator import itemgetter
from typing import Any

import msgspec

from headrace.detect.model import Model
from headrace.detect.scorer import Scored, State, scorer_of
from headrace.kernels.reading.rules import double_of
from headrace.plan.process import Value

__all__ = ["Detector"]

Row = tuple[str, dict[str, Any]]
_SHOWN = 5  # tags of a score
_MANY = 16  # rows of a key from which on arrays pay
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
        retained, values = self._retained(state), self._values_of(row)
        found = self.scorer.score(values, state.time, retained)
        state.memory, state.version = _encode(retained).decode(), self.version
        yield from self._judged(found, [place for place, one in enumerate(values) if one is None], state.time, state)

    def _retained(self, state: Any) -> State:  # noqa: ANN401
        """Return what the scorer retains of earlier rows; nothing if another model has retained it."""
        return State() if state.memory is None or state.version != self.version else _decode(state.memory)

    def _judged(self, found: Scored, absent: Sequence[int], time: int, state: Any) -> Iterator[Row]:  # noqa: ANN401
        """Yield what a score of a row, of whose tags those at the places `absent` are missing, means."""
        model = self.scorer.model
        missing = [model.tags[place] for place in absent]
        if (unknown := self.scorer.is_unknown(len(missing))) != state.unknown:
            state.unknown = unknown
            yield "unknown", {"time": time, "unknown": unknown, "missing": missing}
        about = {"threshold": model.threshold, "contributions": _contributions(model.tags, found), "version": self.version}
        yield "", {"time": time, "score": found.score, "anomaly": found.anomaly, "missing": missing or None, **about}
        if found.score is not None and found.anomaly != state.active:
            state.active = found.anomaly
            condition = {"definition": self.definition, "time": time, "active": found.anomaly, "value": found.score}
            yield "conditions", {**condition, **about}

    # many rows at once

    @staticmethod
    def _in_batches(rows: int, keys: int) -> bool:
        """Whether so many rows of so many keys are scored at once: where there are many of each, and numpy."""
        return rows >= _MANY * keys and _has_numpy()

    def _on_rows(self, rows: Any, groups: Iterable[tuple[Any, Sequence[int]]]) -> dict[str, tuple[Sequence[int], dict[str, Any]]]:  # noqa: ANN401
        """Return for each output the places of the rows that have one, and its columns: the same as `on_record` emits row by row."""
        from headrace.detect.columns import matrix_of

        model = self.scorer.model
        matrix, times = matrix_of(rows, model.tags, model.states, self.values), rows["@time"].to_list()
        emitted: list[tuple[int, str, dict[str, Any]]] = []
        for state, places in groups:
            emitted += self._scored(matrix, times, places, state)
        emitted.sort(key=itemgetter(0))
        found: dict[str, tuple[Sequence[int], dict[str, Any]]] = {}
        for output, columns in {"": self.output, **self.side_outputs}.items():
            mine = [(place, row) for place, name, row in emitted if name == output]
            found[output] = [place for place, _ in mine], {column: [row[column] for _, row in mine] for column in columns}
        return found

    def _scored(self, matrix: Any, times: Sequence[int], places: Sequence[int], state: Any) -> Iterator[tuple[int, str, dict[str, Any]]]:  # noqa: ANN401
        """Yield what the rows of a key at these places emit."""
        import numpy as np

        taken = []
        for place in places:
            if state.last_time is not None and times[place] < state.last_time:
                yield place, "older", {"time": times[place], "last_time": state.last_time}
            else:
                state.last_time = times[place]
                taken.append(place)
        if not taken:
            return
        retained, values = self._retained(state), matrix[taken]
        scores = self.scorer.score_block(values, [times[place] for place in taken], retained)
        state.memory, state.version = _encode(retained).decode(), self.version
        there = np.isfinite(values)
        whole = there.all(axis=1)
        for number, (place, found) in enumerate(zip(taken, scores, strict=True)):
            absent = () if whole[number] else np.flatnonzero(~there[number]).tolist()
            yield from ((place, name, row) for name, row in self._judged(found, absent, times[place], state))

    def _values_of(self, row: Mapping[str, Any]) -> list[float | None]:
        """Return the values of the model's tags; None is missing."""
        given, states = row if self.values is None else row[self.values] or {}, self.scorer.model.states
        return [_value_of(given.get(tag), states.get(tag, ())) for tag in self.scorer.model.tags]


@cache
def _has_numpy() -> bool:
    return find_spec("numpy") is not None


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

"""Scores of rows by a model: the same to the byte row by row, in blocks of any size, and from any state that was saved.

Theory of operation
-------------------
A row becomes a vector (`vectors`), and a measure gives it a score (`measures`); kinds that measure values themselves are in `bounds`. Then the score
is smoothed, compared with the threshold, and counted for `k` of `n`. A value that is missing is left out, by a rule of each measure. A row of which
too many values are missing, or that has no score yet, changes nothing of this.

After a gap in time of more than `_GAP` periods everything that is retained begins anew: a forecast over a gap means nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import inf, isfinite
from typing import Any, NamedTuple, Protocol

import msgspec

from headrace.detect.adwin import Adwin
from headrace.detect.bounds import Range, Rate, Replayed, States, Stuck
from headrace.detect.charts import Cusum, Ewma, PageHinkley
from headrace.detect.measures import Distance, Largest, Measure
from headrace.detect.model import Model
from headrace.detect.novelty import Novelty
from headrace.detect.planes import Planes
from headrace.detect.vectors import Errors, Lagged, Scaled, Vectors

__all__ = ["Scored", "Scorer", "State", "scorer_of"]

_GAP = 10
_FEW = 8  # rows with the same values missing: up to so many are scored one by one

Values = Sequence[float | None]


class Scored(NamedTuple):
    """The score of a row, None if it has none; whether there is an anomaly; and each tag's share of the score, empty where none is above 0.

    Shares are computed of a score above the threshold alone.
    """

    score: float | None
    anomaly: bool
    shares: list[float]


class State(msgspec.Struct, array_like=True):
    """The state between rows: the last row's time, whether each of the last `n` scores was above the threshold, as bits; the moving average
    of scores; and the memory of vectors and of the measure.
    """  # noqa: D205

    time: int | None = None
    above: int = 0
    average: float | None = None
    vectors: list[Any] = msgspec.field(default_factory=list)
    measure: list[Any] = msgspec.field(default_factory=list)


class _Kind(Protocol):
    """A kind of detector."""

    def score(self, values: Values, time: int, state: State) -> float | None:
        """Return the score of a row; None if it has none."""

    def parts(self, values: Values, time: int, state: State) -> list[float]:
        """Return how much each tag contributes to the score that was computed last."""


class _OfVectors:
    """A measure of vectors."""

    def __init__(self, vectors: Vectors, measure: Measure) -> None:
        self.vectors, self.measure = vectors, measure
        self._last: Sequence[float | None] = ()

    def score(self, values: Values, time: int, state: State) -> float | None:  # noqa: ARG002
        """Return the score of a row."""
        vector = self.vectors.step(values, state.vectors)
        if vector is None:
            return None
        self._last = vector
        return self.measure.score(vector, state.measure)

    def parts(self, values: Values, time: int, state: State) -> list[float]:  # noqa: ARG002
        """Return how much each tag contributes."""
        return self.measure.parts(self._last, state.measure)

    def block(self, columns: Sequence[Any], state: State) -> tuple[list[float | None], list[Any]] | None:
        """Return the scores of complete rows, and the columns of the vectors of those that have a score; None if that cannot be vectorised."""
        if not self.measure.stateless or any(one is None for row in state.vectors for one in row):
            return None
        vectors, missing = self.vectors.block(columns, state.vectors)
        measure: Any = self.measure
        scores = measure.block(vectors) if len(vectors[0]) else None
        found: list[float | None] = [None] * missing
        return found + (scores.tolist() if scores is not None else [None] * len(vectors[0])), vectors

    @property
    def alone(self) -> bool:
        """Whether the score of a row is of that row alone."""
        return self.measure.stateless and isinstance(self.vectors, Scaled)

    def scores_alone(self, matrix: Any, there: Any, rows: Any) -> tuple[list[float | None], Any]:  # noqa: ANN401
        """Return the scores of those of the rows at places `rows`, each of which has one of its own, and the vectors of all."""
        import numpy as np

        measure: Any = self.measure
        columns, _ = self.vectors.block([*matrix.T], [])
        vectors = np.stack(columns, axis=1)
        found: list[float | None] = [None] * len(matrix)
        patterns, of = np.unique(there[rows], axis=0, return_inverse=True)
        for number, pattern in enumerate(patterns):
            mine = rows[of.reshape(-1) == number]
            if len(mine) <= _FEW:
                scores = [measure.score(_vector_of(vectors[row], pattern), []) for row in mine]
            else:
                block = measure.block([vectors[mine, place] if known else None for place, known in enumerate(pattern)])
                scores = [None] * len(mine) if block is None else block.tolist()
            for row, score in zip(mine.tolist(), scores, strict=True):
                found[row] = score
        return found, vectors

    def parts_of(self, vector: Sequence[float | None]) -> list[float]:
        """Return how much each tag contributes to the score of a vector."""
        return self.measure.parts(vector, [])


class _OfValues:
    """A measure of values."""

    def __init__(self, measure: Any) -> None:  # noqa: ANN401
        self.measure = measure

    def score(self, values: Values, time: int, state: State) -> float | None:
        """Return the score of a row."""
        found: float | None = self.measure.score(values, time, state.measure)
        return found

    def parts(self, values: Values, time: int, state: State) -> list[float]:
        """Return how much each tag contributes."""
        found: list[float] = self.measure.parts(values, time, state.measure)
        return found


class Scorer:
    """A model at work. It has no state of its own."""

    def __init__(self, model: Model) -> None:
        self.model, self._kind = model, _kind_of(model)
        self._gap = max(model.training.period, 1) * _GAP
        self._window = (1 << model.n) - 1

    def __repr__(self) -> str:
        return f"<{self.model.kind} of {len(self.model.tags)} tags, {self.model.version}>"

    def __reduce__(self) -> tuple[Any, tuple[Model]]:
        return scorer_of, (self.model,)

    @staticmethod
    def start() -> State:
        """Return the state before the first row."""
        return State()

    def score(self, values: Values, time: int, state: State) -> Scored:
        """Return the score of a row of the model's tags, in their order; None is missing. The state is changed.

        The time is in ms since the epoch, and must not be before that of the last row.
        """
        self._resume(time, state)
        if self.is_unknown(sum(one is None for one in values)):
            return Scored(None, self.is_anomaly(state), [])
        return self._scored(self._kind.score(values, time, state), lambda: self._kind.parts(values, time, state), state)

    def score_block(self, rows: Any, times: Sequence[int], state: State) -> list[Scored]:  # noqa: ANN401
        """Return the scores of rows in the order of time: an array of numpy or a list of lists. NaN is missing too. The state is changed.

        It needs numpy. Scores are computed for all rows at once where the kind of detector has no state of its own and no value is missing.
        """
        import numpy as np

        matrix = np.array(rows, dtype=np.float64).reshape(len(times), len(self.model.tags))
        there: Any = np.isfinite(matrix)
        complete = there.all(axis=1)
        moments = [int(one) for one in times]
        if isinstance(self._kind, _OfVectors) and self._kind.alone:
            with np.errstate(all="ignore"):
                return self._score_alone(self._kind, matrix, there, moments, state)
        joined = complete[1:] & complete[:-1] & (np.diff(moments) <= self._gap)
        edges = [0, *(np.flatnonzero(~joined) + 1).tolist(), len(moments)]
        found: list[Scored] = []
        with np.errstate(all="ignore"):  # what overflows is infinite, without a warning, as it is row by row
            for start, end in pairwise(edges):
                found += self._score_run(matrix[start:end], there[start:end], moments[start:end], state)
        return found

    def _score_alone(self, kind: _OfVectors, matrix: Any, there: Any, times: Sequence[int], state: State) -> list[Scored]:  # noqa: ANN401
        """Return the scores of rows whose scores depend on nothing but the row: those with the same values missing are computed together."""
        import numpy as np

        unknown = [self.is_unknown(count) for count in (~there).sum(axis=1).tolist()]
        raws, vectors = kind.scores_alone(matrix, there, np.flatnonzero(~np.array(unknown, dtype=bool)))
        found = []
        for place, (time, raw) in enumerate(zip(times, raws, strict=True)):
            self._resume(time, state)
            if unknown[place]:
                found.append(Scored(None, self.is_anomaly(state), []))
            else:
                found.append(self._scored(raw, lambda at=place: kind.parts_of(_vector_of(vectors[at], there[at])), state))  # type: ignore[misc]
        return found

    def _score_run(self, matrix: Any, there: Any, times: Sequence[int], state: State) -> list[Scored]:  # noqa: ANN401
        """Return the scores of rows without a gap between them, all of which are complete if there are several."""
        whole = isinstance(self._kind, _OfVectors) and bool(there.all())
        found: list[Scored] = []
        for place, time in enumerate(times):
            if whole:
                self._resume(time, state)
                block = self._kind.block([*matrix[place:].T], state)  # type: ignore[attr-defined]
                if block is not None:
                    state.time = times[-1]
                    scores, vectors = block
                    return found + self._judged(scores, vectors, state)
            values = [float(one) if known else None for one, known in zip(matrix[place], there[place], strict=True)]
            found.append(self.score(values, time, state))
        return found

    def _judged(self, scores: Sequence[float | None], vectors: Sequence[Any], state: State) -> list[Scored]:
        """Return what follows from the scores of a block; `vectors` has a column for each part, without the first rows, which have no score."""
        assert isinstance(self._kind, _OfVectors)
        kind, first = self._kind, len(scores) - len(vectors[0])
        return [
            self._scored(raw, lambda at=place - first: kind.parts_of([float(column[at]) for column in vectors]), state)  # type: ignore[misc]
            for place, raw in enumerate(scores)
        ]

    def is_anomaly(self, state: State) -> bool:
        """Whether there is an anomaly."""
        return state.above.bit_count() >= self.model.k

    def is_unknown(self, missing: int) -> bool:
        """Whether too many tags of a row are missing for a score."""
        count = len(self.model.tags)
        return missing == count or missing > self.model.max_missing * count

    def _resume(self, time: int, state: State) -> None:
        """Begin anew after a gap."""
        if state.time is not None and time - state.time > self._gap:
            state.above, state.average, state.vectors, state.measure = 0, None, [], []
        state.time = time

    def _scored(self, raw: float | None, parts: Callable[[], list[float]], state: State) -> Scored:
        if raw is None:
            return Scored(None, self.is_anomaly(state), [])
        model = self.model
        weight = model.smoothing
        state.average = score = raw if state.average is None or weight == 1.0 else state.average + weight * (raw - state.average)
        above = score > model.threshold
        state.above = (state.above << 1 | above) & self._window
        shares = _shares(parts()) if above else []
        return Scored(score, self.is_anomaly(state), shares)


def _vector_of(values: Any, there: Any) -> list[float | None]:  # noqa: ANN401
    """Return a vector of arrays as a list, None for what is missing."""
    return [value if known else None for value, known in zip(values.tolist(), there.tolist(), strict=True)]


def scorer_of(model: Model) -> Scorer:
    """Return a model at work."""
    return Scorer(model)


def _kind_of(model: Model) -> _Kind:
    fitted, parameters = model.fitted, model.parameters
    match model.kind:
        case "range" | "rate" | "stuck" | "states" | "replayed":
            return _OfValues(_measure_of_values(model))
    assert fitted.scale is not None
    scaled = Scaled(fitted.scale)
    vectors: Vectors = scaled if fitted.forecast is None else Errors(scaled, fitted.forecast)
    cap = 2.0 * model.threshold if isfinite(model.threshold) else inf
    match model.kind:
        case "robust_z" | "ar":
            return _OfVectors(vectors, Largest())
        case "mahalanobis" | "var":
            assert fitted.covariance is not None
            return _OfVectors(vectors, Distance(fitted.covariance))
        case "pca":
            return _OfVectors(vectors, Planes(fitted.planes, len(model.tags)))
        case "lagged_pca":
            return _OfVectors(Lagged(scaled, int(parameters["lags"])), Planes(fitted.planes, len(model.tags)))
        case "ewma":
            return _OfVectors(vectors, Ewma(float(parameters["weight"])))
        case "cusum":
            return _OfVectors(vectors, Cusum(float(parameters["slack"]), cap))
        case "page_hinkley":
            return _OfVectors(vectors, PageHinkley(float(parameters["slack"]), cap))
        case "novelty":
            return _OfVectors(vectors, Novelty(*(int(parameters[name]) for name in ("remembered", "level", "rest"))))
    return _OfVectors(vectors, Adwin(float(parameters["delta"])))


def _measure_of_values(model: Model) -> Any:  # noqa: ANN401
    bounds, parameters = model.fitted.bounds, model.parameters
    if model.kind == "replayed":
        assert model.fitted.scale is not None
        return Replayed(model.fitted.scale.spread, int(parameters["rows"]), float(parameters["tolerance"]))
    assert bounds is not None
    match model.kind:
        case "range":
            return Range(bounds)
        case "rate":
            return Rate(bounds)
        case "stuck":
            return Stuck(bounds)
    return States(bounds, len(model.tags), int(parameters["fewest"]))


def _shares(parts: Sequence[float]) -> list[float]:
    total = 0.0
    for one in parts:
        total += one
    return [one / total for one in parts] if 0.0 < total < inf else []

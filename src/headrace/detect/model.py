"""The model of a detector: plain data, in a JSON file.

Every engine computes scores from a model with the same operations in the same order, so a model gives the same scores wherever it runs.
"""

from __future__ import annotations

from hashlib import sha256

import msgspec

from headrace.detect.kinds import Parameter

__all__ = ["FORMAT", "Bounds", "Combination", "Covariance", "Fitted", "Forecast", "Model", "Plane", "Scale", "Training", "encoded"]

FORMAT = 1

Vector = tuple[float, ...]
Matrix = tuple[Vector, ...]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A part of a model."""


class Scale(_Part, frozen=True):
    """By tag: the value that counts as 0, and the distance from it that counts as 1."""

    center: Vector
    spread: Vector


class Forecast(_Part, frozen=True):
    """A linear forecast of the next row in units of `Scale`, from its `lags` predecessors, the newest first.

    `coefficients` has a row for each tag: of its own `lags` values, or, if it is `joint`, of the values of all tags for each lag.
    `deviation` is the deviation of the forecast's error by tag.
    """

    lags: int
    intercept: Vector
    coefficients: Matrix
    deviation: Vector
    joint: bool = False


class Covariance(_Part, frozen=True):
    """A covariance matrix of what is measured by a distance."""

    matrix: Matrix


class Plane(_Part, frozen=True):
    """Principal components of some columns: `components` are their directions, `variances` what they explain.

    `t2` and `q` are the limits of the distance within the plane and from it; None where that distance is not used.
    """

    columns: tuple[int, ...]
    components: Matrix
    variances: Vector
    t2: float | None = None
    q: float | None = None


class Combination(_Part, frozen=True):
    """A combination of states, how many rows had it, and the bounds of the other tags in it."""

    states: Vector
    rows: int
    low: Vector
    high: Vector


class Bounds(_Part, frozen=True):
    """The bounds of values in normal operation, by tag; empty where a kind does not need it.

    `rate` is the greatest change in 1/s, `unchanged` the longest time without a change in ms. `discrete` are the places of the tags that are
    states, whose combinations are in `combinations`.
    """

    low: Vector = ()
    high: Vector = ()
    rate: Vector = ()
    unchanged: Vector = ()
    discrete: tuple[int, ...] = ()
    combinations: tuple[Combination, ...] = ()


class Fitted(_Part, frozen=True):
    """A fitted model; a kind has the parts that it needs."""

    scale: Scale | None = None
    forecast: Forecast | None = None
    covariance: Covariance | None = None
    planes: tuple[Plane, ...] = ()
    bounds: Bounds | None = None


class Training(_Part, frozen=True):
    """Where a model comes from.

    Attributes
    ----------
    rows, held_out, excluded
        How many rows fitted the model, calibrated the threshold, and were left out because they are not normal.
    start, end
        The times of the first and the last of them, ms since the epoch.
    period
        The median time between two rows, ms.
    digest
        SHA-256 of the times and values of all of them.
    false_alarms
        The share of the held-out rows whose score is above the threshold.
    anomalies
        The share of them that are an anomaly by `k` of `n`.
    begun
        How many anomalies began in them.
    """

    rows: int
    held_out: int
    excluded: int
    start: int
    end: int
    period: int
    digest: str
    false_alarms: float
    anomalies: float
    begun: int


class Model(_Part, frozen=True):
    """A detector that was fitted.

    Attributes
    ----------
    name, kind
        What it is called, and which kind of detector it is.
    tags
        The tags of a row, in the order of their values.
    threshold
        A score above it counts as an anomaly of this row.
    fitted, training
        What was fitted, and to what.
    parameters
        What was chosen for the kind.
    k, n
        An anomaly begins when the scores of at least `k` of the last `n` rows are above the threshold, and ends when fewer are.
    smoothing
        The weight of a new score in the moving average of scores; 1: no average.
    max_missing
        A row of which a greater share of the tags is missing has no score.
    units
        The units of tags, as UNECE codes, where they are known.
    states
        The texts that are states of a tag, in the order of their numbers, from 0.
    """

    name: str
    kind: str
    tags: tuple[str, ...]
    threshold: float
    fitted: Fitted
    training: Training
    parameters: dict[str, Parameter]
    k: int = 1
    n: int = 1
    smoothing: float = 1.0
    max_missing: float = 0.5
    units: dict[str, str] = {}
    states: dict[str, tuple[str, ...]] = {}
    format: int = FORMAT

    @property
    def version(self) -> str:
        """A digest of the content."""
        return sha256(encoded(self)).hexdigest()[:12]


_encode = msgspec.json.Encoder().encode


def encoded(model: Model) -> bytes:
    """Return the text of a model: JSON, with `format` first and a line for each of its fields."""
    fields = {"format": model.format} | {name: getattr(model, name) for name in model.__struct_fields__ if name != "format"}
    lines = (f"  {_encode(name).decode()}: {_encode(value).decode()}" for name, value in fields.items())
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()

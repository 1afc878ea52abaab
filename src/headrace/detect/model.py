"""The model of a detector: plain data, in a JSON file.

Every engine computes scores from a model with the same operations in the same order, so a model gives the same scores wherever it runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any

import msgspec

from headrace._durable import put, write_fault
from headrace._json import NOT_JSON
from headrace.errors import EnvironmentFault, PlanError

__all__ = [
    "CHOICES",
    "FORMAT",
    "PARAMETERS",
    "Bounds",
    "Combination",
    "Covariance",
    "Fitted",
    "Forecast",
    "Model",
    "Parameter",
    "Plane",
    "Scale",
    "Training",
    "decoded",
    "encoded",
    "is_possible",
    "load",
    "save",
]

FORMAT = 1
_MOST_N = 60

Parameter = bool | int | float | str

PARAMETERS: dict[str, dict[str, Parameter]] = {
    "range": {"margin": 0.0},
    "rate": {},
    "stuck": {},
    "states": {"discrete": 5, "fewest": 30, "margin": 0.0},
    "robust_z": {},
    "ewma": {"weight": 0.1, "residual": "center", "lags": 1},
    "cusum": {"slack": 0.5, "residual": "center", "lags": 1},
    "page_hinkley": {"slack": 0.05, "residual": "center", "lags": 1},
    "ar": {"lags": 3},
    "var": {"lags": 2, "ridge": 0.001},
    "pca": {"variance": 0.9, "components": 0, "statistic": "both"},
    "mahalanobis": {},
    "lagged_pca": {"lags": 3, "variance": 0.9, "components": 0, "statistic": "both", "blocks": "all"},
    "adwin": {"delta": 0.002},
    "replayed": {"rows": 600, "tolerance": 0.01},
    "novelty": {"remembered": 6000, "level": 5, "rest": 0},
}
"""The parameters of each kind, with their defaults."""
CHOICES = {"residual": ("center", "robust", "ar", "var"), "statistic": ("both", "t2", "q"), "blocks": ("all", "each")}
_NEEDS = {
    "range": ("bounds",), "rate": ("bounds",), "stuck": ("bounds",), "states": ("bounds",), "robust_z": ("scale",), "ewma": ("scale",), "cusum": ("scale",),
    "page_hinkley": ("scale",), "ar": ("scale", "forecast"), "var": ("scale", "forecast", "covariance"), "pca": ("scale", "planes"),
    "mahalanobis": ("scale", "covariance"), "lagged_pca": ("scale", "planes"), "adwin": ("scale",), "replayed": ("scale",), "novelty": ("scale",),
}  # fmt: skip
_BOUNDS = {"range": ("low", "high"), "rate": ("rate",), "stuck": ("unchanged",), "states": ("low", "high", "discrete", "combinations")}

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


def save(model: Model, path: Path) -> None:
    """Write a model to a file, which is replaced as a whole.

    Raises
    ------
    EnvironmentFault
        If the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        put(path, encoded(model))
    except OSError as error:
        raise write_fault(path, error) from None


def load(path: Path | str) -> Model:
    """Return the model of a file.

    Raises
    ------
    EnvironmentFault
        If the file cannot be read.
    PlanError
        If it is not a model, or one of a format that this version does not know.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise EnvironmentFault(f"cannot be read: {error.strerror}", where=f"model {path}", fix="make it with headrace fit") from None
    return decoded(data, f"model {path}")


def decoded(data: bytes, where: str) -> Model:
    """Return the model of a text. Raises PlanError if the text is not a model."""
    fix = "fit it again with headrace fit"
    try:
        form = msgspec.json.decode(data, type=_Form)
    except NOT_JSON as error:
        raise PlanError(f"is not a model: {error}", where=where, fix=fix) from None
    if form.format != FORMAT:
        raise PlanError(f"has format {form.format}, and this version of headrace reads format {FORMAT}", where=where, fix=fix)
    try:
        model = msgspec.json.decode(data, type=Model)
    except NOT_JSON as error:
        raise PlanError(f"is not a model: {error}", where=where, fix=fix) from None
    if (wrong := next(_faults(model), None)) is not None:
        raise PlanError(f"is not a model: {wrong}", where=where, fix=fix)
    return model


class _Form(msgspec.Struct):
    format: int


def _faults(model: Model) -> Iterator[str]:
    """Yield what contradicts itself in a model, so that scoring cannot fail."""
    count, fitted = len(model.tags), model.fitted
    yield from _unlike_kind(model)
    if not count or len(set(model.tags)) < count:
        yield "it has no tags, or one of them twice"
    if not 1 <= model.k <= model.n <= _MOST_N:
        yield f"k is {model.k} and n is {model.n}; they are 1 to {_MOST_N}, and k is not greater than n"
    if not 0 < model.smoothing <= 1 or not 0 <= model.max_missing <= 1:
        yield "smoothing is not in (0, 1], or max_missing is not in [0, 1]"
    yield from (f"{name} does not fit the tags" for name in _misfits(fitted, count, count * (1 + _lags(model))))
    if not all(map(isfinite, _numbers(msgspec.to_builtins(model)))):
        yield "a number is not finite"
    if not model.name:
        yield "it has no name"
    if any(tag not in model.tags or len(set(texts)) < len(texts) for tag, texts in model.states.items()):
        yield "states are those of another tag, or one of them is there twice"


def is_possible(name: str, value: Parameter) -> bool:
    """Whether a parameter may have a value."""
    if isinstance(value, str):
        return value in CHOICES.get(name, ())
    match name:
        case "weight" | "variance":
            return 0 < value <= 1
        case "delta":
            return 0 < value < 1
        case "lags":
            return 1 <= value <= 100
        case "level":
            return 1 <= value <= 1000
        case "remembered" | "rows":
            return 10 <= value <= 10_000
        case "ridge" | "tolerance":
            return 0 < value < 1e6
        case "discrete" | "fewest":
            return 1 <= value <= 1_000_000
    return 0 <= value < 1e6


def _unlike_kind(model: Model) -> Iterator[str]:
    """Yield what a model lacks for its kind."""
    if model.kind not in PARAMETERS:
        yield f"unknown kind {model.kind!r}"
        return
    for name, default in PARAMETERS[model.kind].items():
        value = model.parameters.get(name)
        if value is None:
            yield f"{model.kind} needs the parameter {name!r}"
        elif type(value) is not type(default) or not is_possible(name, value):
            yield f"the parameter {name} is {value!r}"
    for part in _NEEDS[model.kind]:
        if not getattr(model.fitted, part):
            yield f"{model.kind} needs {part}"
        elif part == "bounds" and not all(getattr(model.fitted.bounds, one) for one in _BOUNDS[model.kind]):
            yield f"{model.kind} needs the bounds {' and '.join(_BOUNDS[model.kind])}"


def _misfits(fitted: Fitted, count: int, columns: int) -> Iterator[str]:
    """Yield the parts that are not of the size of a row."""
    scale, forecast, bounds = fitted.scale, fitted.forecast, fitted.bounds
    if scale is not None and not (len(scale.center) == len(scale.spread) == count and all(one > 0 for one in scale.spread)):
        yield "scale"
    if forecast is not None and not _fits_forecast(forecast, count):
        yield "forecast"
    if fitted.covariance is not None and not _is_matrix(fitted.covariance.matrix, count, count):
        yield "covariance"
    if not all(_fits_plane(plane, columns) for plane in fitted.planes):
        yield "a plane"
    if bounds is not None and not _fits_bounds(bounds, count):
        yield "bounds"


def _lags(model: Model) -> int:
    found = model.parameters.get("lags", 0) if model.kind == "lagged_pca" else 0
    return found if type(found) is int and found >= 0 else 0


def _is_matrix(matrix: Sequence[Sequence[float]], rows: int, columns: int) -> bool:
    return len(matrix) == rows and all(len(row) == columns for row in matrix)


def _fits_forecast(forecast: Forecast, count: int) -> bool:
    width = forecast.lags * (count if forecast.joint else 1)
    lengths = len(forecast.intercept) == len(forecast.deviation) == count
    return forecast.lags >= 1 and lengths and _is_matrix(forecast.coefficients, count, width) and all(one > 0 for one in forecast.deviation)


def _fits_plane(plane: Plane, columns: int) -> bool:
    places = all(0 <= one < columns for one in plane.columns) and all(a < b for a, b in pairwise(plane.columns))
    limits = all(one is None or one > 0 for one in (plane.t2, plane.q))
    sized = _is_matrix(plane.components, len(plane.variances), len(plane.columns))
    return places and limits and sized and bool(plane.variances) and all(one > 0 for one in plane.variances)


def _fits_bounds(bounds: Bounds, count: int) -> bool:
    others = count - len(bounds.discrete)
    lists = all(len(one) in {0, count} for one in (bounds.low, bounds.high, bounds.rate, bounds.unchanged))
    places = all(0 <= one < count for one in bounds.discrete) and len(set(bounds.discrete)) == len(bounds.discrete)
    divisors = all(one > 0 for one in (*bounds.rate, *bounds.unchanged))
    return lists and places and divisors and all(len(c.states) == count - others and len(c.low) == len(c.high) == others for c in bounds.combinations)


def _numbers(value: Any) -> Iterator[float]:  # noqa: ANN401
    if isinstance(value, float):
        yield value
    elif isinstance(value, dict | list | tuple):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _numbers(one)

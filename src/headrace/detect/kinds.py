"""The kinds of models: the parameters of each, their defaults, and which values they may have."""

from __future__ import annotations

__all__ = ["CHOICES", "PARAMETERS", "Parameter", "is_possible"]

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

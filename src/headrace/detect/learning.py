"""The packages of the extra `learn`, and numbers of theirs as plain data."""

from __future__ import annotations

from typing import Any

from headrace.errors import EnvironmentFault

__all__ = ["TINY", "learn", "matrix_of", "numpy", "vector_of"]

TINY = 1e-9


def vector_of(values: Any) -> tuple[float, ...]:  # noqa: ANN401
    """Return numbers as they are in a model."""
    return tuple(float(one) for one in values)


def matrix_of(values: Any) -> tuple[tuple[float, ...], ...]:  # noqa: ANN401
    """Return rows of numbers as they are in a model."""
    return tuple(vector_of(row) for row in values)


def numpy() -> Any:  # noqa: ANN401
    """Return numpy. Raises EnvironmentFault if it is missing."""
    try:
        import numpy as np
    except ModuleNotFoundError:
        raise EnvironmentFault("needs the package numpy", where="fit", fix="pip install 'headrace[learn]'") from None
    return np


class _Learn:
    """The part of scikit-learn that is used."""

    def __init__(self) -> None:
        from sklearn.covariance import LedoitWolf
        from sklearn.decomposition import PCA

        self.LedoitWolf, self.PCA = LedoitWolf, PCA


def learn() -> Any:  # noqa: ANN401
    """Return the part of scikit-learn that is used. Raises EnvironmentFault if it is missing."""
    try:
        return _Learn()
    except ModuleNotFoundError:
        raise EnvironmentFault("needs the package scikit-learn", where="fit", fix="pip install 'headrace[learn]'") from None

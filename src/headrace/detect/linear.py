"""Sums and matrices in plain Python, in a fixed order of operations: workers of clusters have no numpy, and results must be equal to the byte.

What takes a `Number` takes an array of numpy as well, and gives for each element what it gives for a float.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from math import sqrt
from operator import add, mul
from typing import Any

__all__ = ["Number", "dot", "factor", "inverse", "squares"]

Number = Any  # a float, or an array of floats
Rows = list[list[float]]


def dot(left: Iterable[Number], right: Iterable[Number]) -> Number:
    """Return the sum of products, added from the first to the last."""
    return reduce(add, map(mul, left, right), 0.0)  # sum() adds otherwise since Python 3.12


def squares(values: Sequence[Number]) -> Number:
    """Return the sum of squares."""
    return dot(values, values)


def factor(matrix: Sequence[Sequence[float]]) -> Rows | None:
    """Return the lower triangle W of a positive definite matrix with W' W its inverse; None if the matrix is not positive definite.

    The squares of W x add up to x' M^-1 x.
    """
    size = len(matrix)
    lower: Rows = []
    for i in range(size):
        row = list[float]()
        for j in range(i):
            row.append((matrix[i][j] - dot(row, lower[j])) / lower[j][j])
        rest = matrix[i][i] - squares(row)
        if not rest > 1e-12 * abs(matrix[i][i]):
            return None
        lower.append([*row, sqrt(rest)])
    found: Rows = []
    for i in range(size):
        row = [-dot(lower[i][j:i], [found[m][j] for m in range(j, i)]) / lower[i][i] for j in range(i)]
        found.append([*row, 1.0 / lower[i][i]])
    return found


def inverse(matrix: Sequence[Sequence[float]]) -> Rows | None:
    """Return the inverse of a positive definite matrix; None if it is none."""
    w = factor(matrix)
    if w is None:
        return None
    size = len(w)
    return [[dot([w[m][i] for m in range(max(i, j), size)], [w[m][j] for m in range(max(i, j), size)]) for j in range(size)] for i in range(size)]

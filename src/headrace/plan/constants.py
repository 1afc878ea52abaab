"""Constants of an expression: numbers as they are written, and settings."""

from __future__ import annotations

import math
import re

from headrace.errors import PlanError
from headrace.plan.expression import Literal
from headrace.plan.schema import BIGINT, BOOLEAN, DOUBLE, NULL, STRING

__all__ = ["constant_of", "number_of"]


def number_of(text: str) -> Literal:
    """Return a number as it is written: a BIGINT without a point, else a DOUBLE."""
    if re.fullmatch(r"-?\d+", text):
        value = int(text)
        if not -(2**63) <= value < 2**63:
            raise PlanError(f"{text} is beyond BIGINT", fix=f"write {text}.0 for a DOUBLE")
        return Literal(value, BIGINT)
    try:
        number = float(text)
    except ValueError:
        raise PlanError(f"{text!r} is not a number") from None
    if not math.isfinite(number):
        raise PlanError(f"{text} is beyond DOUBLE")
    return Literal(number, DOUBLE)


def constant_of(value: object, where: str) -> Literal:
    """Return a value of a setting as a constant."""
    match value:
        case bool():
            return Literal(value, BOOLEAN)
        case int() | float():
            return number_of(repr(value))
        case str():
            return Literal(value, STRING)
        case None:
            return Literal(None, NULL)
    raise PlanError(f"{where} is a {type(value).__name__}", fix="only text, numbers, booleans and None can stand in an expression")

"""Casts: which type can be made of which."""

from __future__ import annotations

from headrace.errors import PlanError
from headrace.plan.expression import Cast, Expression, Literal
from headrace.plan.schema import BIGINT, BOOLEAN, DOUBLE, NULL, STRING, TIMESTAMP, Type

__all__ = ["cast_to"]


_CASTS: dict[str, set[Type]] = {
    "BOOLEAN": {STRING, BIGINT}, "BIGINT": {DOUBLE, STRING, BOOLEAN}, "DOUBLE": {BIGINT, STRING},
    "STRING": {BOOLEAN, BIGINT, DOUBLE, TIMESTAMP}, TIMESTAMP.kind: {STRING},
}  # fmt: skip


def cast_to(argument: Expression, target: Type) -> Expression:
    """Return `argument` as a `target`: itself where it is one, else a cast.

    Raises
    ------
    PlanError
        If the one type cannot be made of the other.
    """
    if target in (argument.type, NULL):
        return argument
    if argument.type == NULL or (isinstance(argument, Literal) and argument.value is None):
        return Literal(None, target)
    if isinstance(argument, Literal) and argument.type == BIGINT and target == DOUBLE:
        return Literal(float(argument.value), DOUBLE)  # type: ignore[arg-type]
    if target not in _CASTS.get(argument.type.kind, ()):
        raise PlanError(f"a {argument.type} cannot be cast to {target}")
    return Cast(argument, target)

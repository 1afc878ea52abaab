"""From bound expressions to Polars expressions."""

from __future__ import annotations

import polars as pl

from headrace.errors import InternalError
from headrace.kernels.reading.text import polars_type, read_column
from headrace.plan.expression import Call, Cast, Column, Expression, FieldOf, Literal, Struct
from headrace.plan.functions import FUNCTIONS
from headrace.plan.schema import BIGINT, DOUBLE, STRING, TIMESTAMP, Type

__all__ = ["compile_expression"]


def compile_expression(expression: Expression) -> pl.Expr:
    """Return the Polars expression that gives what `expression` means."""
    match expression:
        case Column(name=name):
            return pl.col(name)
        case Literal(value=value, type=kind):
            return pl.lit(value, dtype=polars_type(kind))
        case Cast(argument=argument, type=kind):
            return _cast(compile_expression(argument), argument.type, kind)
        case Struct(values=values, type=kind):
            return pl.struct([compile_expression(value).alias(name) for name, value in zip(kind.names, values, strict=True)])
        case FieldOf(argument=argument, name=name):
            return compile_expression(argument).struct.field(name)
        case Call(function=name, arguments=arguments, aggregate=False):
            return FUNCTIONS[name].polars(*map(compile_expression, arguments))
    raise InternalError(f"no Polars expression for {expression}")


def _cast(value: pl.Expr, source: Type, target: Type) -> pl.Expr:
    if source == STRING:
        return value.map_batches(lambda text: read_column(text, target), return_dtype=polars_type(target), is_elementwise=True)
    if source == DOUBLE and target == BIGINT:
        return value.cast(pl.Int64, strict=False)
    if source == DOUBLE and target == STRING:
        return value.map_elements(repr, return_dtype=pl.String)
    if source == TIMESTAMP and target == STRING:
        return value.dt.strftime("%Y-%m-%d %H:%M:%S%.3f")
    return value.cast(polars_type(target))

"""From bound expressions to Spark SQL."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from headrace.engines.spark.words import bare, literal, name, text
from headrace.errors import PlanError
from headrace.plan.expression import Call, Cast, Column, Expression, FieldOf, Literal, Struct
from headrace.plan.functions import AGGREGATES, FUNCTIONS, Function, sql_call
from headrace.plan.schema import BIGINT, DOUBLE, STRING

__all__ = ["Row", "loose", "sql"]

Row = Mapping[str, str]

# Constants that stand for themselves in headrace and not in Spark: by function, the argument's position and what is put for it.
_WORD_FOR_WORD: dict[tuple[str, int], Callable[[str], str]] = {
    ("LIKE", 1): lambda pattern: pattern.replace("\\", "\\\\"),
    ("REGEXP_REPLACE", 2): lambda put: put.replace("\\", "\\\\").replace("$", "\\$"),
}
_CASTS = {
    ("STRING", "DOUBLE"): "hr_double({})",
    ("STRING", "BIGINT"): "hr_bigint({})",
    ("STRING", "BOOLEAN"): "hr_boolean({})",
    ("STRING", "TIMESTAMP_LTZ(3)"): "hr_timestamp({})",
    ("DOUBLE", "BIGINT"): "hr_whole({})",
    ("BIGINT", "DOUBLE"): "CAST({} AS DOUBLE)",
    ("BIGINT", "STRING"): "CAST({} AS STRING)",
    ("BIGINT", "BOOLEAN"): "CAST({} AS BOOLEAN)",
    ("BOOLEAN", "BIGINT"): "CAST({} AS BIGINT)",
    ("BOOLEAN", "STRING"): "CAST({} AS STRING)",
    ("TIMESTAMP_LTZ(3)", "STRING"): "DATE_FORMAT({}, 'yyyy-MM-dd HH:mm:ss.SSS')",
}


def sql(expression: Expression, row: Row, order: str = "") -> str:
    """Return the Spark SQL of an expression, which has its type also there.

    Parameters
    ----------
    row
        What stands for each column.
    order
        What the rows of an aggregate come in the order of.

    Raises
    ------
    PlanError
        If Spark SQL cannot say it.
    """
    match expression:
        case Column(name=named):
            return row[named]
        case Literal():
            return literal(expression)
        case Cast():
            return _cast(expression, row, order)
        case Struct(values=values, type=kind):
            pairs = (f"{text(field)}, {loose(value, row, order)}" for field, value in zip(kind.names, values, strict=True))
            return f"NAMED_STRUCT({', '.join(pairs)})"
        case FieldOf(argument=Struct(values=values, type=kind), name=field):
            return sql(values[kind.names.index(field)], row, order)
        case FieldOf(argument=argument, name=field):
            return f"{sql(argument, row, order)}.{name(field)}"
        case Call(function="UUID_V5", arguments=arguments):
            return f"hr_uuid_v5(CONCAT({', CHR(31), '.join(sql(argument, row, order) for argument in arguments)}))"
        case Call():
            return _call(expression, row, order)


def loose(expression: Expression, row: Row, order: str = "") -> str:
    """Return the Spark SQL of an expression that stands by itself, without parentheses around all of it; those of OR stay."""
    made = sql(expression, row, order)
    return made[1:-1] if isinstance(expression, Call) and expression.function != "OR" and _wrapped(FUNCTIONS.get(expression.function), made) else made


def _wrapped(function: Function | None, made: str) -> bool:
    """Return whether the outermost parentheses are those of the function's template."""
    if function is None or not made.startswith("("):
        return False
    templates = function.spark if isinstance(function.spark, tuple) else (function.spark,)
    return any(template is not None and template[:1] + template[-1:] == "()" for template in templates)


def _cast(made: Cast, row: Row, order: str) -> str:
    source, target = made.argument.type, made.type
    if isinstance(made.argument, Literal) and isinstance(whole := made.argument.value, int) and source == BIGINT:
        if target == DOUBLE:
            return literal(Literal(float(whole), DOUBLE))
        if target == STRING:
            return text(str(whole))
    template = _CASTS.get((source.kind, target.kind))
    if template is None:
        raise PlanError(f"a cast from {source} to {target} is not the same in Spark SQL", fix="write the number itself to the topic, not its text")
    return template.format(sql(made.argument, row, order))


def _call(call: Call, row: Row, order: str) -> str:
    function = (AGGREGATES if call.aggregate else FUNCTIONS)[call.function]
    arguments = []
    for position, argument in enumerate(call.arguments):
        if isinstance(function, Function) and position == function.pattern and isinstance(argument, Literal):
            arguments.append(text(function.java_pattern(str(argument.value), len(call.arguments))))
        elif isinstance(argument, Literal) and position in function.literal:
            put = _WORD_FOR_WORD.get((call.function, position))
            arguments.append(text(put(str(argument.value))) if put else bare(argument))
        else:
            arguments.append(sql(argument, row, order))
    if call.aggregate and call.function in ("MAP_AGG", "ARRAY_AGG") and "MAP<" in str(call.arguments[-1].type):
        raise PlanError(f"{call.function} of what holds a MAP: Spark cannot sort it", fix="gather what is in the MAP instead")
    return sql_call(function, "spark", arguments, [argument.type for argument in call.arguments], order)

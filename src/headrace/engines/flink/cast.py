"""Casts. Flink's own read more than a number's text: TRY_CAST makes 7 of '7d', 5 of '5.7' and a DOUBLE of 'NaN'."""

from __future__ import annotations

from headrace.errors import PlanError
from headrace.plan.functions import FUNCTIONS, sql_call
from headrace.plan.schema import STRING, TIMESTAMP, Type

__all__ = ["cast"]

_NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"
_WHOLE = r"^\s*[+-]?\d+(\.0*)?\s*$"
_TRUTH = r"^\s*(?i)(true|false)\s*$"
_GREATEST = "1.7976931348623157E308"
_BEYOND = "9.223372036854775808E18"

_CASTS = {
    ("STRING", "DOUBLE"): (
        f"CASE WHEN REGEXP({{0}}, '{_NUMBER}')\n  AND ABS(TRY_CAST({{0}} AS DOUBLE)) <= {_GREATEST}\n"
        "  THEN TRY_CAST({0} AS DOUBLE) END"
    ),
    ("STRING", "BIGINT"): f"CASE WHEN REGEXP({{0}}, '{_WHOLE}') THEN TRY_CAST(REGEXP_REPLACE({{0}}, '\\s', '') AS BIGINT) END",
    ("STRING", "BOOLEAN"): f"CASE WHEN REGEXP({{0}}, '{_TRUTH}') THEN REGEXP({{0}}, '(?i)true') END",
    ("DOUBLE", "BIGINT"): f"CASE WHEN {{0}} >= -{_BEYOND} AND {{0}} < {_BEYOND} THEN CAST({{0}} AS BIGINT) END",
    ("BIGINT", "DOUBLE"): "CAST({0} AS DOUBLE)",
    ("BIGINT", "STRING"): "CAST({0} AS STRING)",
    ("BIGINT", "BOOLEAN"): "CAST({0} AS BOOLEAN)",
    ("BOOLEAN", "BIGINT"): "CAST({0} AS BIGINT)",
    ("BOOLEAN", "STRING"): "LOWER(CAST({0} AS STRING))",
    ("TIMESTAMP_LTZ(3)", "STRING"): "CAST({0} AS STRING)",
}  # fmt: skip


def cast(argument: str, source: Type, target: Type) -> str:
    """Return `argument`, which is SQL, as a `target`; NULL where it cannot be read as one."""
    if (source, target) == (STRING, TIMESTAMP):
        return sql_call(FUNCTIONS["TO_TIMESTAMP_LTZ"], "flink", [argument], [STRING])
    template = _CASTS.get((source.kind, target.kind))
    if template is None:
        raise PlanError(f"a cast from {source} to {target} is not the same in Flink SQL", fix="write the number itself to the topic, not its text")
    return template.replace("{0}", argument)

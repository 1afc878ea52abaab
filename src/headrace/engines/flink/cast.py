"""Casts. Flink's own read more than a number's text: TRY_CAST makes 7 of '7d', 5 of '5.7' and a DOUBLE of 'NaN'."""

from __future__ import annotations

from headrace.errors import PlanError
from headrace.plan.schema import Type

__all__ = ["cast"]

_TRUTH = r"^\s*(?i)(true|false)\s*$"
_BEYOND = "9.223372036854775808E18"

_CASTS = {
    ("STRING", "DOUBLE"): "HR_DOUBLE({0})",
    ("STRING", "BIGINT"): "HR_BIGINT({0})",
    ("STRING", "TIMESTAMP_LTZ(3)"): "HR_TIMESTAMP({0})",
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
    template = _CASTS.get((source.kind, target.kind))
    if template is None:
        raise PlanError(f"a cast from {source} to {target} is not the same in Flink SQL", fix="write the number itself to the topic, not its text")
    return template.replace("{0}", argument)

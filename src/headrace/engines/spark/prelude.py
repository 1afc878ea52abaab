"""SQL functions that a script defines first: what Spark SQL has not, or has otherwise than headrace means it."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["FROM_MS", "FUNCTIONS", "JAVA", "definitions", "java_functions"]

_GREATEST = "1.7976931348623157E308D"
_FIRST_MS, _LAST_MS = -62_135_596_800_000, 253_402_300_799_999
FROM_MS = f"TIMESTAMP_MILLIS(CASE WHEN {{0}} BETWEEN {_FIRST_MS} AND {_LAST_MS} THEN {{0}} END)"
_INT = "CAST(CASE WHEN {0} > 1000000000L THEN 1000000000L WHEN {0} < -1000000000L THEN -1000000000L ELSE {0} END AS INT)"
_WHOLE = "CASE WHEN ABS(x) < 4503599627370496D THEN CAST({}(x) AS DOUBLE) ELSE x END"
_UUID = (
    "TRANSFORM(ARRAY(SHA1(CONCAT('headrace.uuid.v5', name))), h -> CONCAT(\n"
    "    SUBSTRING(h, 1, 8), '-', SUBSTRING(h, 9, 4), '-5', SUBSTRING(h, 14, 3), '-',\n"
    "    TRANSLATE(SUBSTRING(h, 17, 1), '0123456789abcdef', '89ab89ab89ab89ab'), SUBSTRING(h, 18, 3), '-', SUBSTRING(h, 21, 12)))[0]"
)

# By name: arguments, type and value; behind it what it is for.
FUNCTIONS: dict[str, tuple[str, str, str, str]] = {
    "hr_finite": (
        "x DOUBLE", "DOUBLE", f"CASE WHEN ABS(x) <= {_GREATEST} THEN x END",
        "NULL for NaN and infinity",
    ),
    "hr_boolean": (
        "value STRING", "BOOLEAN",
        r"CASE WHEN value RLIKE '^(?i)\\s*true\\s*$' THEN TRUE WHEN value RLIKE '^(?i)\\s*false\\s*$' THEN FALSE END",
        "true or false",
    ),
    "hr_whole": (
        "x DOUBLE", "BIGINT", "CASE WHEN x >= -9223372036854775808D AND x < 9223372036854775808D THEN CAST(x AS BIGINT) END",
        "cut off towards zero; NULL beyond 64 bits",
    ),
    "hr_timestamp_3": (
        "ms BIGINT", "TIMESTAMP", FROM_MS.format("ms"),
        "milliseconds since the epoch; NULL beyond the years 1 to 9999",
    ),
    "hr_timestamp_0": (
        "s BIGINT", "TIMESTAMP", FROM_MS.format("TRY_MULTIPLY(s, 1000L)"),
        "seconds since the epoch; NULL beyond the years 1 to 9999",
    ),
    "hr_time_text": (
        "t TIMESTAMP", "STRING", r"REGEXP_REPLACE(DATE_FORMAT(t, 'yyyy-MM-dd\'T\'HH:mm:ss.SSS\'Z\''), '\\.000Z$', 'Z')",
        "a time as JSON has it",
    ),
    "hr_shown": (
        "value STRING", "STRING",
        r"""CASE WHEN value IS NULL THEN 'None' WHEN CONTAINS(value, '\'') AND NOT CONTAINS(value, '"')
    THEN CONCAT('"', REPLACE(value, '\\', '\\\\'), '"') ELSE CONCAT('\'', REPLACE(REPLACE(value, '\\', '\\\\'), '\'', '\\\''), '\'') END""",
        "a text as a dead letter shows it",
    ),
    "hr_substring": (
        "value STRING, start BIGINT", "STRING",
        f"IF(start < -CHAR_LENGTH(value), '', SUBSTRING(value, {_INT.format('start')}))",
        "nothing stands before the start",
    ),
    "hr_substring_of": (
        "value STRING, start BIGINT, length BIGINT", "STRING",
        (
            "CASE WHEN length >= 0 THEN IF(start < -CHAR_LENGTH(value), '',\n"
            f"    SUBSTRING(value, {_INT.format('start')}, {_INT.format('length')})) END"
        ),
        "nothing stands before the start; NULL for a negative length",
    ),
    "hr_int": ("x BIGINT", "INT", _INT.format("x"), "a number of characters, cut to what a text may have"),
    "hr_ceil": ("x DOUBLE", "DOUBLE", _WHOLE.format("CEIL"), "a DOUBLE of any size"),
    "hr_floor": ("x DOUBLE", "DOUBLE", _WHOLE.format("FLOOR"), "a DOUBLE of any size"),
    "hr_uuid_v5": ("name STRING", "STRING", _UUID, "a UUID made of a name"),
}  # fmt: skip

# Those of the jar, which read texts by headrace's rule: class and type.
JAVA: dict[str, tuple[str, str]] = {
    "hr_double": ("headrace.spark.HrDouble", "DOUBLE"),
    "hr_bigint": ("headrace.spark.HrBigint", "BIGINT"),
    "hr_timestamp": ("headrace.spark.HrTimestamp", "TIMESTAMP"),
    "hr_timestamp_as": ("headrace.spark.HrTimestampAs", "TIMESTAMP"),
    "hr_timestamp_in": ("headrace.spark.HrTimestampIn", "TIMESTAMP"),
    "hr_regexp_extract": ("headrace.spark.HrRegexpExtract", "STRING"),
    "hr_split": ("headrace.spark.HrSplit", "ARRAY<STRING>"),
    "hr_split_index": ("headrace.spark.HrSplitIndex", "STRING"),
}

_NAMED = re.compile(r"\bhr_[a-z0-9_]+(?=\()")


def definitions(texts: Iterable[str]) -> list[str]:
    """Return the statements that define the functions named in SQL texts."""
    used = _used(texts)
    statements = []
    for function, (arguments, gives, value, why) in FUNCTIONS.items():
        if function in used:
            statements.append(f"-- {why}\nCREATE OR REPLACE TEMPORARY FUNCTION {function}({arguments}) RETURNS {gives}\n  RETURN {value}")
    return statements


def java_functions(texts: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return those of the jar that are named in SQL texts."""
    used = _used(texts)
    return {function: made for function, made in JAVA.items() if function in used}


def _used(texts: Iterable[str]) -> set[str]:
    return {found for text in texts for found in _NAMED.findall(text)}

"""Comparison, three-valued logic and choice."""

from __future__ import annotations

from functools import reduce
from operator import and_, eq, ge, gt, le, lt, ne, or_
from typing import TYPE_CHECKING

from headrace._lazy import lazy_import
from headrace.plan.functions.base import Function, signatures

if TYPE_CHECKING:
    import polars as pl
else:
    pl = lazy_import("polars")

__all__ = ["TABLE"]

_COMPARABLE = "S, S -> BOOLEAN"
_ORDERED = "; ".join(f"{kind}, {kind}… -> {kind}" for kind in ("BIGINT", "DOUBLE", "STRING", "TIMESTAMP_LTZ(3)"))
_NEVER_NULL = "never NULL"


def _in(value: pl.Expr, *choices: pl.Expr) -> pl.Expr:
    return reduce(or_, (value == choice for choice in choices))


def _first_known(*values: pl.Expr) -> pl.Expr:
    if values[0].meta.root_names():
        return pl.coalesce(*values)
    # What Polars coalesces from a constant has one row and is no scalar: a constant that is compared with it would not become a column.
    *others, last = values
    return reduce(lambda rest, value: pl.when(value.is_not_null()).then(value).otherwise(rest), reversed(others), last)


def _all_known(values: tuple[pl.Expr, ...], chosen: pl.Expr) -> pl.Expr:
    return pl.when(pl.all_horizontal([value.is_not_null() for value in values])).then(chosen)


TABLE = (
    Function(
        "=", signatures(_COMPARABLE),
        "Whether both are equal.",
        eq, flink="({0} = {1})",
        spark="({0} = {1})",
        cases=(
            ("1 = 1", True),
            ("1 = 1.0", True),
            ("'a' = 'A'", False),
            ("'é' = 'é'", True),
            ("0.0 = -0.0", True),
            ("TRUE = FALSE", False),
            ("NULL = 1", None),
            ("NULL = NULL", None),
            ("9007199254740993 = 9007199254740992", False),
            ("TO_TIMESTAMP_LTZ(1, 0) = TO_TIMESTAMP_LTZ(1000, 3)", True),
        ),
    ),
    Function(
        "<>", signatures(_COMPARABLE),
        "Whether the two differ.",
        ne, flink="({0} <> {1})",
        spark="({0} <> {1})",
        cases=(("1 <> 2", True), ("'a' <> 'a'", False), ("1 <> 1.5", True), ("TRUE <> FALSE", True), ("1 <> NULL", None)),
    ),
    Function(
        "<", signatures(_COMPARABLE),
        "Whether the first is less; text compares by code point, FALSE is less than TRUE.",
        lt, flink="({0} < {1})",
        spark="({0} < {1})",
        cases=(
            ("1 < 2", True),
            ("2 < 1.5", False),
            ("'Z' < 'a'", True),
            ("'z' < 'é'", True),
            ("FALSE < TRUE", True),
            ("NULL < 1", None),
        ),
    ),
    Function(
        "<=", signatures(_COMPARABLE),
        "Whether the first is less or equal.",
        le, flink="({0} <= {1})",
        spark="({0} <= {1})",
        cases=(("1 <= 1", True), ("'b' <= 'a'", False), ("'' <= 'a'", True), ("1 <= NULL", None)),
    ),
    Function(
        ">", signatures(_COMPARABLE),
        "Whether the first is greater.",
        gt, flink="({0} > {1})",
        spark="({0} > {1})",
        cases=(("2 > 1", True), ("1 > 1", False), ("'ab' > 'a'", True), ("NULL > NULL", None)),
    ),
    Function(
        ">=", signatures(_COMPARABLE),
        "Whether the first is greater or equal.",
        ge, flink="({0} >= {1})",
        spark="({0} >= {1})",
        cases=(
            ("1 >= 1", True),
            ("-1 >= 1", False),
            ("TO_TIMESTAMP_LTZ(2, 0) >= TO_TIMESTAMP_LTZ(1, 0)", True),
            ("2 BETWEEN 1 AND 2", True),
            ("2 BETWEEN 3 AND NULL", False),
            ("NULL >= 1", None),
        ),
    ),
    Function(
        "AND", signatures("BOOLEAN, BOOLEAN -> BOOLEAN"),
        "Whether both are true.",
        and_, flink="({0} AND {1})", nulls="FALSE if either is FALSE, else NULL if either is NULL",
        spark="({0} AND {1})",
        cases=(
            ("TRUE AND TRUE", True),
            ("TRUE AND FALSE", False),
            ("NULL AND FALSE", False),
            ("NULL AND TRUE", None),
            ("NULL AND NULL", None),
        ),
    ),
    Function(
        "OR", signatures("BOOLEAN, BOOLEAN -> BOOLEAN"),
        "Whether at least one is true.",
        or_, flink="({0} OR {1})", nulls="TRUE if either is TRUE, else NULL if either is NULL",
        spark="({0} OR {1})",
        cases=(("FALSE OR TRUE", True), ("FALSE OR FALSE", False), ("NULL OR TRUE", True), ("NULL OR FALSE", None), ("NULL OR NULL", None)),
    ),
    Function(
        "NOT", signatures("BOOLEAN -> BOOLEAN"),
        "The opposite.",
        lambda a: ~a, flink="(NOT {0})",
        spark="(NOT {0})",
        cases=(("NOT TRUE", False), ("NOT FALSE", True), ("NOT NULL", None), ("NOT 1 = 2", True)),
    ),
    Function(
        "IS NULL", signatures("T -> BOOLEAN"),
        "Whether there is no value.",
        lambda a: a.is_null(), flink="({0} IS NULL)", nulls=_NEVER_NULL,
        spark="({0} IS NULL)",
        cases=(("NULL IS NULL", True), ("1 IS NULL", False), ("'' IS NULL", False), ("1 / 0 IS NULL", True)),
    ),
    Function(
        "IS NOT NULL", signatures("T -> BOOLEAN"),
        "Whether there is a value.",
        lambda a: a.is_not_null(), flink="({0} IS NOT NULL)", nulls=_NEVER_NULL,
        spark="({0} IS NOT NULL)",
        cases=(("NULL IS NOT NULL", False), ("0 IS NOT NULL", True), ("'' IS NOT NULL", True)),
    ),
    Function(
        "IS DISTINCT FROM", signatures(_COMPARABLE),
        "Whether the two differ, NULL being like any other value.",
        lambda a, b: a.ne_missing(b), flink="({0} IS DISTINCT FROM {1})", nulls=_NEVER_NULL,
        spark="({0} IS DISTINCT FROM {1})",
        cases=(
            ("1 IS DISTINCT FROM 2", True),
            ("1 IS DISTINCT FROM 1.0", False),
            ("NULL IS DISTINCT FROM 1", True),
            ("NULL IS DISTINCT FROM NULL", False),
        ),
    ),
    Function(
        "IS NOT DISTINCT FROM", signatures(_COMPARABLE),
        "Whether both are equal, NULL being like any other value.",
        lambda a, b: a.eq_missing(b), flink="({0} IS NOT DISTINCT FROM {1})", nulls=_NEVER_NULL,
        spark="({0} IS NOT DISTINCT FROM {1})",
        cases=(
            ("1 IS NOT DISTINCT FROM 1", True),
            ("'a' IS NOT DISTINCT FROM 'b'", False),
            ("NULL IS NOT DISTINCT FROM 1", False),
            ("NULL IS NOT DISTINCT FROM NULL", True),
            ("NULL IS TRUE", False),
            ("FALSE IS NOT TRUE", True),
        ),
    ),
    Function(
        "IN", signatures("S, S… -> BOOLEAN"),
        "Whether the first is equal to one of the others.",
        _in, flink="({0} IN ({1…}))", nulls="TRUE if one is equal, else NULL if any argument is NULL",
        spark="({0} IN ({1…}))",
        cases=(
            ("1 IN (2, 1)", True),
            ("'a' IN ('A')", False),
            ("1 IN (0.5, 1.0)", True),
            ("1 IN (1, NULL)", True),
            ("1 IN (2, NULL)", None),
            ("NULL IN (1, 2)", None),
            ("1 NOT IN (2, 3)", True),
            ("1 NOT IN (2, NULL)", None),
        ),
    ),
    Function(
        "IF", signatures("BOOLEAN, T, T -> T"),
        "The second argument where the first is true, else the third; CASE is made of it.",
        lambda condition, yes, no: pl.when(condition).then(yes).otherwise(no), flink="CASE WHEN {0} THEN {1} ELSE {2} END",
        nulls="a NULL condition counts as false",
        spark="CASE WHEN {0} THEN {1} ELSE {2} END",
        cases=(
            ("IF(TRUE, 1, 2)", 1),
            ("IF(NULL, 'yes', 'no')", "no"),
            ("IF(1 > 2, 1, 2.5)", 2.5),
            ("IF(TRUE, NULL, 1)", None),
            ("CASE WHEN FALSE THEN 'a' WHEN TRUE THEN 'b' ELSE 'c' END", "b"),
            ("CASE 2 WHEN 1 THEN 'a' END", None),
            ("CASE WHEN 1 / 0 > 1 THEN 'a' ELSE 'b' END", "b"),
        ),
    ),
    Function(
        "COALESCE", signatures("T… -> T"),
        "The first argument that is not NULL.",
        _first_known, nulls="NULL if all arguments are NULL",
        cases=(("COALESCE(NULL, 1)", 1), ("COALESCE(1, 2.5)", 1.0), ("COALESCE(NULL, 'a', 'b')", "a"), ("COALESCE(NULL, NULL)", None)),
    ),
    Function(
        "IFNULL", signatures("T, T -> T"),
        "The first argument, or the second where that is NULL.",
        _first_known, nulls="NULL if both are NULL",
        cases=(
            ("IFNULL(1, 2)", 1),
            ("IFNULL(NULL, 2)", 2),
            ("IFNULL(1 / 0, -1)", -1),
            ("IFNULL('', 'a')", ""),
            ("IFNULL(NULL, NULL)", None),
        ),
    ),
    Function(
        "NULLIF", signatures("S, S -> S"),
        "The first argument, or NULL where both are equal.",
        lambda a, b: pl.when(a == b).then(None).otherwise(a), nulls="NULL if the first is NULL",
        cases=(
            ("NULLIF(1, 1)", None),
            ("NULLIF(1, 2)", 1),
            ("NULLIF('a', NULL)", "a"),
            ("NULLIF(NULL, 1)", None),
            ("NULLIF(2, 2.0)", None),
        ),
    ),
    Function(
        "GREATEST", signatures(_ORDERED),
        "The greatest of the arguments.",
        lambda *values: _all_known(values, pl.max_horizontal(*values)),
        spark="CASE WHEN FORALL(ARRAY({*}), v -> v IS NOT NULL) THEN GREATEST({*}) END",
        cases=(
            ("GREATEST(1, 3, 2)", 3),
            ("GREATEST(1, 2.5)", 2.5),
            ("GREATEST('z', 'é')", "é"),
            ("GREATEST(1, NULL)", None),
            ("YEAR(GREATEST(TO_TIMESTAMP_LTZ(0, 3), TO_TIMESTAMP_LTZ(1706123401, 0)))", 2024),
        ),
    ),
    Function(
        "LEAST", signatures(_ORDERED),
        "The least of the arguments.",
        lambda *values: _all_known(values, pl.min_horizontal(*values)),
        spark="CASE WHEN FORALL(ARRAY({*}), v -> v IS NOT NULL) THEN LEAST({*}) END",
        cases=(("LEAST(3, 1, 2)", 1), ("LEAST(-0.5, 1)", -0.5), ("LEAST('a', 'B')", "B"), ("LEAST(NULL, 1)", None)),
    ),
)  # fmt: skip

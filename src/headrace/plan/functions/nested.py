"""Maps and arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace._lazy import lazy_import
from headrace.plan.functions.base import Function, signatures

if TYPE_CHECKING:
    import polars as pl
else:
    pl = lazy_import("polars")

__all__ = ["TABLE"]


def _element(container: pl.Expr, which: pl.Expr) -> pl.Expr:
    def choose(inner: pl.Expr, kind: pl.DataType) -> pl.Expr:
        if isinstance(kind, pl.Map):
            return inner.map.get(which)
        return inner.list.get(pl.when(which >= 1).then(which - 1), null_on_oob=True)

    return container.pipe_with_dtype(choose)


def _cardinality(container: pl.Expr) -> pl.Expr:
    size = container.pipe_with_dtype(lambda inner, kind: inner.map.len() if isinstance(kind, pl.Map) else inner.list.len())
    return size.cast(pl.Int64)


def _split(text: pl.Expr, delimiter: pl.Expr) -> pl.Expr:
    known = pl.when(delimiter.is_not_null()).then(text)
    # A column of delimiters that holds an empty one would split off empty ends as well.
    parts = pl.when(delimiter == "").then(known.str.split("")).otherwise(known.str.split(delimiter))
    return pl.when(known == "").then(parts.list.head(0)).otherwise(parts)


def _pairs(text: pl.Expr) -> pl.Expr:
    pair = pl.element()
    pairs = text.str.split(",").list.filter(pair != "")
    return pairs.list.eval(pl.struct(key=pair.str.extract("(?s)^([^=]*)"), value=pair.str.extract("(?s)=(.*)$"))).list.to_map()


TABLE = (
    Function(
        "ELEMENT", signatures("MAP<STRING, T>, STRING -> T; ARRAY<T>, BIGINT -> T"),
        "The value of a map's key, or the element of an array at a position from 1, written `m['key']` and `a[1]`.",
        _element, flink=("{0}[{1}]", "{0}[CASE WHEN {1} BETWEEN 1 AND 2147483647 THEN CAST({1} AS INT) END]"),
        nulls="NULL if any argument is NULL or there is no such element",
        spark=("{0}[{1}]", "GET({0}, CASE WHEN {1} BETWEEN 1 AND 2147483647 THEN CAST({1} AS INT) - 1 END)"),
        cases=(
            ("STR_TO_MAP('a=1,b=2')['b']", "2"),
            ("STR_TO_MAP('é=😀')['é']", "😀"),
            ("STR_TO_MAP('a=1')['A']", None),
            ("STR_TO_MAP('a=1')[NULL]", None),
            ("STR_TO_MAP(NULL)['a']", None),
            ("SPLIT('a,b', ',')[1]", "a"),
            ("SPLIT('a,b', ',')[3]", None),
            ("SPLIT('a,b', ',')[0]", None),
            ("SPLIT('a,b', ',')[-1]", None),
            ("SPLIT('a,b', ',')[4294967297]", None),
            ("SPLIT('a,b', ',')[NULL]", None),
        ),
    ),
    Function(
        "CARDINALITY", signatures("MAP<STRING, T> -> BIGINT; ARRAY<T> -> BIGINT"),
        "The number of entries of a map or elements of an array.",
        _cardinality, flink="CAST(CARDINALITY({0}) AS BIGINT)",
        spark=("CAST(ARRAY_SIZE(MAP_KEYS({0})) AS BIGINT)", "CAST(ARRAY_SIZE({0}) AS BIGINT)"),
        cases=(
            ("CARDINALITY(SPLIT('a,b,c', ','))", 3),
            ("CARDINALITY(SPLIT('', ','))", 0),
            ("CARDINALITY(STR_TO_MAP('a=1,b=2'))", 2),
            ("CARDINALITY(STR_TO_MAP(''))", 0),
            ("CARDINALITY(STR_TO_MAP(NULL))", None),
        ),
    ),
    Function(
        "MAP_KEYS", signatures("MAP<STRING, T> -> ARRAY<STRING>"),
        "The keys of a map, sorted.",
        lambda pairs: pairs.map.keys().list.sort(), flink="ARRAY_SORT(MAP_KEYS({0}))",
        spark="SORT_ARRAY(MAP_KEYS({0}))",
        cases=(
            ("MAP_KEYS(STR_TO_MAP('b=1,a=2,é=3,Z=4'))", ["Z", "a", "b", "é"]),
            ("MAP_KEYS(STR_TO_MAP(''))", []),
            ("MAP_KEYS(STR_TO_MAP(NULL))", None),
        ),
    ),
    Function(
        "SPLIT", signatures("STRING, STRING -> ARRAY<STRING>"),
        "The parts of the first text between occurrences of the second; none of an empty text.",
        _split, flink="HR_SPLIT({0}, {1})",
        spark="hr_split({0}, {1})",
        cases=(
            ("SPLIT('a,b,,d', ',')", ["a", "b", "", "d"]),
            ("SPLIT('é::😀', '::')", ["é", "😀"]),
            ("SPLIT('abc', '')", ["a", "b", "c"]),
            ("SPLIT('a😀\n', '')", ["a", "😀", "\n"]),
            ("SPLIT(',a,', ',')", ["", "a", ""]),
            ("SPLIT('a.b\\Ec', '.b\\E')", ["a", "c"]),
            ("SPLIT('', ',')", []),
            ("SPLIT('a', NULL)", None),
            ("SPLIT(NULL, ',')", None),
        ),
    ),
    Function(
        "STR_TO_MAP", signatures("STRING -> MAP<STRING, STRING>"),
        "The map that a text such as `a=1,b=2` says; of a repeated key the last counts.",
        _pairs, nulls="NULL of NULL; the value of a key without `=` is NULL", flink_gaps=("STR_TO_MAP('a=1,,b=2')",),
        spark="MAP_FILTER(STR_TO_MAP({0}, ',', '='), (k, v) -> k <> '' OR v IS NOT NULL)",
        cases=(
            ("STR_TO_MAP('a=1,b=2')", {"a": "1", "b": "2"}),
            ("STR_TO_MAP('a=1,a=2')", {"a": "2"}),
            ("STR_TO_MAP('a,b=,c=x=y')", {"a": None, "b": "", "c": "x=y"}),
            ("STR_TO_MAP('a=1,,b=2')", {"a": "1", "b": "2"}),
            ("STR_TO_MAP('')", {}),
            ("STR_TO_MAP(NULL)", None),
        ),
    ),
)  # fmt: skip

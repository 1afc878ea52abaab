"""Lines of JSON that are even: objects with the same keys in the same order, and a text without escapes for each.

So are most rows of historians and control systems. The quotes alone say where their values are, so a reader of CSV with the quote as its separator
finds them, at a fraction of the price of a JSON decoder. That the lines are even is for a pattern to say: see `grammar.even_pattern`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from headrace.kernels.reading.grammar import is_plain_name
from headrace.kernels.reading.text import polars_type
from headrace.plan.schema import STRING, map_of

__all__ = ["columns_of_even", "keys_of_most", "map_of_columns"]


def keys_of_most(objects: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the keys of most of the objects that have texts alone, in their order; none if there are no such objects."""
    texts = (one for one in objects if all(type(value) is str for value in one.values()) and all(map(is_plain_name, one)))
    (keys, _), *_ = [*Counter(map(tuple, texts)).most_common(1), ((), 0)]
    return keys


def columns_of_even(text: bytes, keys: Sequence[str]) -> list[pl.Series]:
    """Return the values of each key, of lines that are even."""
    values = range(3, 4 * len(keys), 4)  # before each stand `{` or `,`, the key, and `:`
    cells = pl.read_csv(text, has_header=False, separator='"', quote_char=None, columns=[*values], infer_schema=False, empty_string_is_null=False)
    return cells.get_columns()


def map_of_columns(columns: Mapping[str, pl.Series], count: int) -> pl.Series:
    """Return texts by key as one MAP<STRING, STRING> of `count` rows."""
    target = polars_type(map_of(STRING, STRING))
    if not columns:
        return pl.Series([{}], dtype=target).new_from_index(0, count)
    names = [f"value {number}" for number in range(len(columns))]
    cells = pl.DataFrame([column.alias(name) for name, column in zip(names, columns.values(), strict=True)])
    values = cells.select(pl.concat_arr(names).explode().alias("value")).to_series()
    keys = pl.concat([pl.Series("key", [*columns], dtype=pl.String)] * count, rechunk=True)
    return pl.DataFrame([keys, values]).to_struct().reshape((count, len(names))).arr.to_list().cast(target)

"""Arrow data as Polars frames, with the types that Polars cannot take cast or left out."""

from __future__ import annotations

import re
from collections.abc import Mapping

import polars as pl
from arro3.core import DataType, Field, RecordBatch, Schema

__all__ = ["casts_for_polars", "frame_of"]

# Polars panics at decimals of other widths than 128 bits. In a column they are cast; inside others they cannot be.
_NESTED_DECIMAL = re.compile(r"\(.*Decimal(?:32|64|256)\(", re.DOTALL)
_DECIMAL = re.compile(r"Decimal(32|64|256)\(\d+, (-?\d+)\)")


def casts_for_polars(schema: Schema) -> dict[str, DataType | None]:
    """Return the types to cast columns to before Polars takes them; None where there is none. A wide decimal becomes a text."""
    casts: dict[str, DataType | None] = {}
    for place in range(len(schema)):
        field = schema.field(place)
        kind = str(field.type)
        if _NESTED_DECIMAL.search(kind):
            casts[field.name] = None
        elif found := _DECIMAL.search(kind):
            casts[field.name] = DataType.utf8() if found[1] == "256" else DataType.decimal128(38, int(found[2]))
    return casts


def frame_of(batch: RecordBatch, casts: Mapping[str, DataType | None]) -> pl.DataFrame:
    """Return a batch as a frame, with the casts made and the columns of no type left out."""
    for name, target in casts.items():
        place = batch.schema.get_field_index(name)
        batch = batch.remove_column(place) if target is None else batch.set_column(place, Field(name, target), batch.column(place).cast(target))
    return pl.DataFrame(batch)

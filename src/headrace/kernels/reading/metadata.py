"""Metadata that a topic has of its records, as columns."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from headrace.errors import InternalError
from headrace.kernels.reading.batch import Stamps
from headrace.kernels.reading.text import polars_type
from headrace.plan.operators import METADATA
from headrace.plan.schema import LAST_MS

__all__ = ["headers_of", "metadata_column"]

_HEADERS = polars_type(METADATA["headers"][0])


def metadata_column(kind: str, records: pl.Series, partition: int, first: int, stamps: Stamps | None) -> pl.Series:
    """Return a kind of metadata of records of a batch, which are given by their places there.

    `first` is the offset of the batch's first record, which counts where there are no `stamps`, as in files.
    """
    match kind:
        case "partition":
            return pl.Series([partition], dtype=pl.Int64).new_from_index(0, len(records))
        case "offset":
            return records.cast(pl.Int64) + first if stamps is None else stamps.offsets.gather(records).cast(pl.Int64)
        case "arrival_time" if stamps is not None:
            arrived = stamps.arrived_ms.gather(records).cast(pl.Int64)
            # Kafka's -1 is "unknown", and producers may write any other number.
            return arrived.set(~arrived.is_between(0, LAST_MS), None).cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")
        case "key" if stamps is not None and stamps.keys is not None:
            return _texts(stamps.keys.gather(records))
        case "headers" if stamps is not None and stamps.headers is not None:
            return stamps.headers.gather(records)
        case "key" | "headers" | "arrival_time":
            return pl.Series([None], dtype=polars_type(METADATA[kind][0])).new_from_index(0, len(records))
    raise InternalError(f"no column for metadata {kind!r}")


def headers_of(records: Iterable[Iterable[tuple[str, bytes | None]] | None]) -> pl.Series:
    """Return the headers of records as MAPs, names sorted: of a repeated name the last counts, and what is not UTF-8 is NULL."""
    maps = [{name: _text(value) for name, value in sorted(dict(headers or ()).items())} for headers in records]
    return pl.Series(maps, dtype=_HEADERS)


def _text(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _texts(values: pl.Series) -> pl.Series:
    try:
        return values.cast(pl.String)
    except pl.exceptions.ComputeError:
        return pl.Series([_text(value) for value in values], dtype=pl.String)

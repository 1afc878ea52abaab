"""The result of a run inside a Python program: tables by topic, dead letters and the ledger."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headrace.errors import PlanError, near

if TYPE_CHECKING:
    import arro3.core
    import polars as pl

__all__ = ["Ledger", "Result", "Row", "Table"]

Row = dict[str, Any]
Ledger = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of one topic, in the order in which they were written. It shows as its frame does.

    Libraries that take Arrow data take it as it is: `pyarrow.table(one)`, `pandas.DataFrame.from_arrow(one)`, `duckdb.from_arrow(one)`.

    Attributes
    ----------
    frame
        The rows as a Polars frame; a TIMESTAMP_LTZ(3) is a `Datetime("ms", "UTC")`.
    """

    frame: pl.DataFrame

    def rows(self) -> list[Row]:
        """Return the rows as dicts by column; times are `datetime` in UTC, maps and rows are dicts."""
        return self.frame.to_dicts()

    def arrow(self) -> arro3.core.Table:
        """Return the rows as an Arrow table."""
        from arro3.core import Table as ArrowTable

        return ArrowTable.from_arrow(self.frame)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self.frame.__arrow_c_stream__(requested_schema)

    def __len__(self) -> int:
        return len(self.frame)

    def __iter__(self) -> Iterator[Row]:
        return self.frame.iter_rows(named=True)

    def __repr__(self) -> str:
        return repr(self.frame)

    def _repr_html_(self) -> str:
        return self.frame._repr_html_()


@dataclass(frozen=True, eq=False)
class Result:
    """The result of a run. `result["topic"]` is the table of an output.

    Attributes
    ----------
    pipeline
        The pipeline's name.
    tables
        The rows written, by topic: of the outputs, then of late rows and of processes' failures.
    late
        Of these, the topics that the pipeline keeps late rows in. How many records were late stands in the ledger.
    dead_letters
        The records set aside, by partition and offset: `pipeline`, `topic`, `partition`, `offset`, `reason`, `detail`, `arrived_ms`, and the record
        as it came in `raw`, or in `raw_base64` if it is not UTF-8.
    ledger
        What became of the records received, by input topic: counts by name.
    """

    pipeline: str
    tables: Mapping[str, Table]
    late: Mapping[str, Table]
    dead_letters: Table
    ledger: Ledger

    def __getitem__(self, topic: str) -> Table:
        try:
            return self.tables[topic]
        except KeyError:
            raise PlanError(f"no topic {topic!r} is written", where=f"pipeline {self.pipeline}", fix=near(str(topic), self.tables)) from None

    def __contains__(self, topic: object) -> bool:
        return topic in self.tables

    def __iter__(self) -> Iterator[str]:
        return iter(self.tables)

    def __len__(self) -> int:
        return len(self.tables)

    def _lines(self) -> list[str]:
        from headrace.kernels.ledger import balance

        return [f"pipeline {self.pipeline}", *(f"{topic}: {balance(counts)}" for topic, counts in self.ledger.items())]

    def __repr__(self) -> str:
        return "\n".join([*self._lines(), *(f"{topic}: {len(table):,} rows" for topic, table in self.tables.items())])

    def _repr_html_(self) -> str:
        head = "<br>".join(html.escape(line) for line in self._lines())
        return f"<p>{head}</p>" + "".join(f"<p><b>{html.escape(topic)}</b></p>{table._repr_html_()}" for topic, table in self.tables.items())

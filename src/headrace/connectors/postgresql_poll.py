"""Rows of a table of PostgreSQL, by polling a column that increases; made by `postgresql`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg

from headrace.connectors.postgresql_rows import identifier
from headrace.connectors.postgresql_session import LOST, Session
from headrace.connectors.protocol import Unavailable
from headrace.connectors.sql_poll import Reads, Row, What
from headrace.errors import PlanError, near

__all__ = ["PolledTable"]

_LAG = {"number": "100", "time": "10s"}
_TIMES = re.compile(r"timestamp|date$")
_NUMBERS = re.compile(r"smallint|integer|bigint|numeric|real|double precision")
_TABLE = "SELECT to_regclass($1)::oid"
_COLUMNS = """SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped"""
_KEYS = """
SELECT array(SELECT attname::text FROM unnest(indkey) AS k(number) JOIN pg_attribute ON attrelid = indrelid AND attnum = number) AS names
FROM pg_index WHERE indrelid = $1 AND indisunique AND indisvalid AND indpred IS NULL AND indexprs IS NULL
"""


class PolledTable(Session, Reads):
    """Rows of a table of PostgreSQL, which makes them JSON itself.

    Parameters
    ----------
    what
        What is read.
    name
        The address without user and password.
    options
        Those of `asyncpg.connect`.
    example
        An address, for errors.
    """

    def __init__(self, what: What, name: str, options: Mapping[str, Any], example: str) -> None:
        self._what, self.name, self._options, self._example = what, name, options, example
        self._table = ".".join(map(identifier, what.table))
        self._columns = (what.after, *what.key)
        self._kinds: Mapping[str, str] = {}

    async def page(self, begin: Any, last: Row | None, most: int) -> Sequence[Row]:  # noqa: ANN401
        """Return rows, as `Reads` says."""
        await self._connect()
        # A bare name after ORDER BY would be that of the text.
        order, after = ", ".join(f"t.{identifier(one)}" for one in self._columns), f"t.{identifier(self._what.after)}"
        where, values = f"{after} IS NOT NULL", [begin]
        if last is not None:
            values += [last.after, *last.key]
            where = f"({order}) > ({', '.join(f'${number}::text::{self._kinds[one]}' for number, one in enumerate(self._columns, 2))})"
        elif begin is not None:
            where = f"{after} >= {self._before()}"
        later = f"{after} > $1::text::{self._kinds[self._what.after]}"
        texts = ", ".join(f"t.{identifier(one)}::text" for one in self._columns)
        sql = f"SELECT {later}, {texts}, row_to_json(t)::text FROM {self._table} AS t WHERE {where} ORDER BY {order} LIMIT {most}"  # noqa: S608
        rows = await self._fetch(sql, values)
        return [Row(row[1], tuple(row[2:-1]), row[-1].encode(), row[0] is not False) for row in rows]

    async def repeated(self, begin: Any) -> int:  # noqa: ANN401
        """Return how many rows are read again."""
        await self._connect()
        after, kind = identifier(self._what.after), self._kinds[self._what.after]
        sql = f"SELECT count(*) FROM {self._table} WHERE {after} >= {self._before()} AND {after} <= $1::text::{kind}"  # noqa: S608
        ((count,),) = await self._fetch(sql, [begin])
        return int(count)

    def _before(self) -> str:
        """Return the value from which rows are read again, of the first argument."""
        kind = self._kinds[self._what.after]
        value = f"$1::text::{kind}"
        lag = self._what.lag
        if _TIMES.match(kind):
            return f"{value} - '{lag or _LAG['time']}'::interval"
        return f"{value} - {lag or _LAG['number']}" if _NUMBERS.match(kind) else value

    async def _fetch(self, sql: str, values: Sequence[Any]) -> list[Any]:
        assert self._connection is not None
        try:
            return list(await self._connection.fetch(sql, *values))
        except asyncpg.PostgresError as error:
            raise self._fault(error) from None
        except LOST as error:
            raise self._lost(error) from None

    async def _connect(self) -> None:
        if self._connection is not None:
            return
        try:
            await self._open(application_name="headrace", default_transaction_read_only="on")
        except asyncpg.PostgresError as error:
            raise self._fault(error) from None
        except LOST as error:
            raise self._lost(error) from None
        await self._describe()

    async def _describe(self) -> None:
        """Look at the table. Raises PlanError unless it has the columns, and the key tells its rows apart."""
        what = self._what
        ((oid,),) = await self._fetch(_TABLE, [self._table])
        if oid is None:
            names = [row[0] for row in await self._fetch("SELECT relname::text FROM pg_class WHERE pg_table_is_visible(oid)", [])]
            raise PlanError(f"has no table {'.'.join(what.table)!r}", where=self.name, fix=near(what.table[-1], names))
        self._kinds = dict(await self._fetch(_COLUMNS, [oid]))
        for name in self._columns:
            if name not in self._kinds:
                raise PlanError(f"has no column {name!r}", where=self.name, fix=near(name, self._kinds))
        keys = [set(names) for (names,) in await self._fetch(_KEYS, [oid])]
        ((kind,),) = await self._fetch("SELECT relkind::text FROM pg_class WHERE oid = $1", [oid])
        if kind in {"r", "p"} and not any(key <= set(self._columns) for key in keys):
            said = f"has no unique index on {', '.join(self._columns)}, so rows could not be told apart"
            raise PlanError(said, where=self.name, fix="give id= the columns of the primary key")

    def _fault(self, error: asyncpg.PostgresError) -> Unavailable | PlanError:
        return self._refused(error, {"42501": f"GRANT SELECT ON {self._table} to this user"}, "check the parameters of the address")

"""SQLite: rows of a table into a topic, by polling a column that increases."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import threading
from collections.abc import Sequence
from datetime import datetime, timedelta
from math import ceil
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from headrace.connectors.address import local, seconds
from headrace.connectors.protocol import Unavailable
from headrace.connectors.sql_poll import PARAMETERS_IN, Increasing, Reads, Row, What, increasing, reads_of
from headrace.errors import DataError, PlanError, near

__all__ = ["TAKES_TAGS", "source"]

TAKES_TAGS = True

_EXAMPLE = "sqlite:plant.db?table=measurements&after=id"
_WAIT_SECONDS = 5.0
_LAG_NUMBER, _LAG_SECONDS = 100, 10.0
_FIRST_NUMBER = -(2**63)


def source(address: str) -> Increasing:
    """Return the rows of an address `sqlite:PATH?table=…&after=…`.

    Raises
    ------
    PlanError
        If the address is wrong.
    """
    path, one = local(address, PARAMETERS_IN, _EXAMPLE)
    what = reads_of(one)
    name = f"sqlite:{path}?table={quote('.'.join(what.table))}&after={quote(what.after)}"
    return increasing(one, name, _Sqlite(Path(path), what, name), what)


class _Sqlite(Reads):
    """Rows of a table of SQLite."""

    def __init__(self, path: Path, what: What, name: str) -> None:
        self._path, self._what, self._name = path, what, name
        self._table = ".".join(map(_quoted, what.table))
        self._order = ", ".join(map(_quoted, (what.after, *what.key)))
        self._db: sqlite3.Connection | None = None
        self._lock = threading.Lock()

    async def page(self, begin: Any, last: Row | None, most: int) -> Sequence[Row]:  # noqa: ANN401
        """Return rows, as `Reads` says."""
        return await asyncio.to_thread(self._page, begin, last, most)

    def _page(self, begin: Any, last: Row | None, most: int) -> Sequence[Row]:  # noqa: ANN401
        after = _quoted(self._what.after)
        where, values = f"{after} IS NOT NULL", [begin]
        if last is not None:
            where = f"({self._order}) > ({', '.join('?' * (1 + len(last.key)))})"
            values += [last.after, *last.key]
        elif begin is not None:
            where = f"{after} >= ?"
            values += [self._before(begin)]
        sql = f"SELECT {after} > ?, {self._order}, * FROM {self._table} WHERE {where} ORDER BY {self._order} LIMIT {most}"  # noqa: S608
        return [self._row(*one) for one in self._rows(sql, values)]

    def _row(self, columns: Sequence[str], values: Sequence[Any]) -> Row:
        first = 2 + len(self._what.key)
        value = msgspec.json.encode(dict(zip(columns[first:], values[first:], strict=True)))
        return Row(_of_json(values[1]), tuple(values[2:first]), value, values[0] in {1, None})

    async def repeated(self, begin: Any) -> int:  # noqa: ANN401
        """Return how many rows are read again."""
        after = _quoted(self._what.after)
        sql = f"SELECT count(*) FROM {self._table} WHERE {after} >= ? AND {after} <= ?"  # noqa: S608
        ((_, (count,)),) = await asyncio.to_thread(self._rows, sql, [self._before(begin), begin])
        return int(count)

    def _before(self, value: Any) -> Any:  # noqa: ANN401
        """Return the value from which rows are read again."""
        lag = self._what.lag
        if isinstance(value, int):  # not by floats, which would round it up
            return max(value - (_LAG_NUMBER if lag is None else ceil(seconds(lag) or 0)), _FIRST_NUMBER)
        if isinstance(value, float):
            return value - (_LAG_NUMBER if lag is None else seconds(lag) or 0)
        taken = timedelta(seconds=_LAG_SECONDS if lag is None else seconds(lag) or 0)
        if not taken:
            return value
        try:
            moment = datetime.fromisoformat(value) - taken
        except (ValueError, TypeError, OverflowError):
            said = f"column {self._what.after!r} has {str(value)[:40]!r}, and a lag needs numbers or ISO times"
            raise PlanError(said, where=self._name, fix="give lag=0 if no row appears late") from None
        separator = value[10:11] or "T"
        text = moment.isoformat(separator, "microseconds" if "." in value else "seconds")
        return (text.removesuffix("+00:00") + "Z" if value.endswith("Z") else text)[: max(len(value), 10)]

    def _rows(self, sql: str, values: Sequence[Any]) -> list[tuple[Sequence[str], Sequence[Any]]]:
        with self._lock:
            try:
                if self._db is None:
                    self._db = self._opened()
                cursor = self._db.execute(sql, values)
                columns = [one[0] for one in cursor.description]
                return [(columns, row) for row in cursor]
            except sqlite3.OperationalError as error:
                self._end()
                raise self._fault(str(error)) from None
            except sqlite3.DatabaseError as error:
                self._end()
                raise DataError(f"cannot be read: {error}", where=self._name, fix="is it a database of SQLite?") from None

    def _opened(self) -> sqlite3.Connection:
        if not self._path.exists():
            raise Unavailable("there is no such file", fix="is the path right?")
        db = sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True, timeout=_WAIT_SECONDS, check_same_thread=False)
        try:
            db.text_factory = _text
            self._check(db)
        except BaseException:
            db.close()
            raise
        return db

    def _check(self, db: sqlite3.Connection) -> None:
        """Raise PlanError unless the table has the columns, and the key tells its rows apart."""
        what = self._what
        columns = {row[1]: row[5] for row in db.execute(f"PRAGMA table_info({_quoted(what.table[-1])})")}
        if not columns:
            tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")]
            raise PlanError(f"has no table {'.'.join(what.table)!r}", where=self._name, fix=near(what.table[-1], tables))
        for name in (what.after, *what.key):
            if name not in columns:
                raise PlanError(f"has no column {name!r}", where=self._name, fix=near(name, columns))
        kind = db.execute("SELECT type FROM sqlite_master WHERE name = ?", [what.table[-1]]).fetchone()
        indexes = [row[1] for row in db.execute(f"PRAGMA index_list({_quoted(what.table[-1])})") if row[2]]
        keys = [{row[2] for row in db.execute(f"PRAGMA index_info({_quoted(index)})")} for index in indexes]
        keys += [{name for name, place in columns.items() if place}]
        if kind == ("table",) and not any(key and key <= {what.after, *what.key} for key in keys):
            listed = ", ".join((what.after, *what.key))
            said = f"has no unique index on {listed}, so rows could not be told apart"
            raise PlanError(said, where=self._name, fix="give id= the columns of the primary key")

    def _fault(self, said: str) -> Unavailable | PlanError:
        if re.search(r"locked|busy|unable to open|disk I/O", said):
            return Unavailable(said)
        return PlanError(f"answers: {said}", where=self._name, fix="check the parameters table, after and id")

    def _end(self) -> None:
        if self._db is not None:
            db, self._db = self._db, None
            db.close()

    async def close(self) -> None:
        """Close the file."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        with self._lock:
            self._end()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(given: bytes) -> str | bytes:
    """Return a text of SQLite, which may be no UTF-8: then its bytes, as if it were a BLOB."""
    try:
        return given.decode()
    except UnicodeDecodeError:
        return given


def _of_json(value: Any) -> Any:  # noqa: ANN401
    return value.hex() if isinstance(value, bytes) else value

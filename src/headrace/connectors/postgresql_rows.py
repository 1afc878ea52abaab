"""Records to rows of a table of PostgreSQL: which columns a record has, and the statement that writes such records. Sans-IO.

PostgreSQL itself reads the values: a statement gets records as one JSON array, and `json_to_recordset` reads each member by the type
of its column. So every type of the server is written, numbers keep all of their digits, and there is one rule of what fits: the server's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import msgspec

from headrace.connectors.objects import Unfit, object_of

__all__ = ["PER_SECOND", "Column", "LacksColumn", "Row", "Rows", "Table", "array", "identifier", "parts"]

PER_SECOND = {"ms": 1_000, "s": 1, "us": 1_000_000, "ns": 1_000_000_000}
_MOST_SHAPES = 1000
_NUMBER = "^[-+]?[0-9]+([.][0-9]+)?([eE][-+]?[0-9]+)?$"
_INTEGERS = ("smallint", "integer", "bigint")
_EXACT: Mapping[str, type] = {"text": str, "character varying": str, **dict.fromkeys(_INTEGERS, int)}
_INTEGER = re.compile(r"\s*[-+]?[0-9]+\s*", re.ASCII)
_OF_TIMESTAMP = {"timestamptz": "{}", "timestamp": "({} AT TIME ZONE 'UTC')", "date": "({} AT TIME ZONE 'UTC')::date"}


class LacksColumn(Unfit):
    """The table has no column for a field of a record."""


class Column(NamedTuple):
    """A column that can be written.

    Attributes
    ----------
    type
        As PostgreSQL writes it.
    moment
        `timestamptz`, `timestamp` or `date` for a column of times; nothing for others.
    """

    type: str
    moment: str = ""


class Row(NamedTuple):
    """A record as a row.

    Attributes
    ----------
    columns
        The columns that it has.
    key
        Rows with equal keys are the same row of the table.
    exact
        Whether those with other keys are other rows. The server may take unequal texts for the same time, say.
    json
        Its object, as bytes.
    """

    columns: tuple[str, ...]
    key: tuple[Any, ...]
    exact: bool
    json: bytes


@dataclass(frozen=True)
class Table:
    """A table as its server describes it.

    Attributes
    ----------
    name
        With quotes, as a statement has it.
    columns
        Those that can be written, by name.
    key
        The columns that identify a row.
    """

    name: str
    columns: Mapping[str, Column]
    key: tuple[str, ...]

    @cached_property
    def key_types(self) -> Sequence[tuple[str, str]]:
        """The columns of the key with their types, these without a length."""
        return [(name, self.columns[name].type.partition("(")[0]) for name in self.key]

    def insert(self, columns: Sequence[str], time_unit: str, *, update: bool) -> str:
        """Return the statement that writes a JSON array of objects with these columns, its only parameter.

        Parameters
        ----------
        time_unit
            What a number in a column of times counts since 1970.
        update
            Whether a row replaces the values of one with its key; otherwise that stays as it is.
        """
        names = [identifier(name) for name in columns]
        kinds = [self.columns[name] for name in columns]
        types = ", ".join(f"{name} {'text' if kind.moment else kind.type}" for name, kind in zip(names, kinds, strict=True))
        values = ", ".join(_value(name, kind, time_unit) for name, kind in zip(names, kinds, strict=True))
        others = [identifier(name) for name in columns if name not in self.key]
        action = f"UPDATE SET {', '.join(f'{name} = EXCLUDED.{name}' for name in others)}" if update and others else "NOTHING"
        key = ", ".join(map(identifier, self.key))
        return (
            f"INSERT INTO {self.name} ({', '.join(names)}) SELECT {values} FROM json_to_recordset($1::json) AS r({types})"  # noqa: S608  (quoted)
            f" ON CONFLICT ({key}) DO {action}"
        )


@dataclass(frozen=True)
class Rows:
    """Makes rows of records.

    Attributes
    ----------
    table
        Where they go.
    fields
        The fields of a record that are written; None: all of them.
    id_column
        The column that gets the record's id, if there is one.
    """

    table: Table
    fields: frozenset[str] | None = None
    id_column: str | None = None
    _shapes: dict[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict)

    def row(self, value: bytes, id_: str) -> Row:
        """Return the row of a record. Raises Unfit if it cannot be one."""
        content = object_of(value)
        names = tuple(content)
        columns = self._shapes.get(names) or self._shape(names)
        if self.id_column is not None:
            more = value.lstrip()[1:]
            value = b'{%s:"%s"%s%s' % (msgspec.json.encode(self.id_column), id_.encode(), b"," if names else b"", more)
            content[self.id_column] = id_
        key, exact = [], True
        for name, kind in self.table.key_types:
            part, is_exact = _part(name, kind, content.get(name))
            key.append(part)
            exact = exact and is_exact
        return Row(columns, tuple(key), exact, value)

    def _shape(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return the columns of records with these fields."""
        found = []
        for name in names:
            if self.fields is not None and name not in self.fields:
                continue
            if name not in self.table.columns:
                what = f"has the field {name[:80]!r}, and the table has no such column to write; fields= names those that are written"
                raise LacksColumn(what)
            if name == self.id_column:
                raise Unfit(f"has the field {name[:80]!r}, which is the column of the record's id")
            found.append(name)
        if self.id_column is not None:
            found.append(self.id_column)
        columns = tuple(sorted(found))
        if len(self._shapes) >= _MOST_SHAPES:
            self._shapes.clear()
        self._shapes[names] = columns
        return columns


def _part(name: str, kind: str, value: Any) -> tuple[Any, bool]:  # noqa: ANN401  (a value of JSON)
    """Return a part of a key, and whether the server takes values for the same if and only if their parts are equal."""
    if value is None:
        raise Unfit(f"has no value in {name!r}, which is part of the key")
    if kind in _INTEGERS and type(value) is str and _INTEGER.fullmatch(value):
        value = int(value)
    if type(value) is str or type(value) is int:
        return value, type(value) is _EXACT.get(kind)
    return repr(value).encode(errors="replace"), False  # true is not 1, and 1.0 is not 1


def _value(name: str, kind: Column, time_unit: str) -> str:
    if not kind.moment:
        return f"r.{name}"
    counted = f"to_timestamp(r.{name}::double precision / {PER_SECOND[time_unit]})"
    return f"CASE WHEN r.{name} ~ '{_NUMBER}' THEN {_OF_TIMESTAMP[kind.moment].format(counted)} ELSE r.{name}::{kind.moment} END"


def parts(rows: Sequence[Row], *, update: bool) -> Iterator[Mapping[tuple[str, ...], Sequence[bytes]]]:
    """Yield rows in parts, to be written one after the other; within one no two rows have the same key. Rows are by their columns.

    Of several rows with the same key only the one that counts is written: the last if rows are updated, else the first. Where their
    columns differ each is written, because the columns that a later one lacks stay as they are. Rows that may be the same although
    their keys differ are written in their order: all of a part have the same columns.
    """
    part: dict[tuple[str, ...], list[bytes]] = {}
    seen: dict[tuple[Any, ...], tuple[tuple[str, ...], int]] = {}
    exact = True
    for row in rows:
        columns = row.columns
        before = seen.get(row.key)
        if before is not None:
            if not update:
                continue
            if before[0] == columns:
                part[columns][before[1]] = row.json
                continue
        if before is not None or not ((exact and row.exact) or part.keys() <= {columns}):
            yield part
            part, seen, exact = {}, {}, True
        exact = exact and row.exact
        of_columns = part.setdefault(columns, [])
        seen[row.key] = columns, len(of_columns)
        of_columns.append(row.json)
    yield part


def array(objects: Sequence[bytes]) -> str:
    """Return JSON objects as one array."""
    return f"[{b','.join(objects).decode()}]"


def identifier(name: str) -> str:
    """Return a name as a statement has it: between quotes."""
    return '"' + name.replace('"', '""') + '"'

"""PostgreSQL: records of a topic as rows of a table, and rows of a table that is polled as records."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

import asyncpg

from headrace.connectors.address import Address
from headrace.connectors.halving import halved
from headrace.connectors.objects import fitting
from headrace.connectors.postgresql_rows import PER_SECOND, Column, LacksColumn, Row, Rows, Table, array, identifier, parts
from headrace.connectors.postgresql_session import LOST, Session, said
from headrace.connectors.protocol import Record, Target, Unavailable
from headrace.connectors.sql_poll import PARAMETERS_IN, Increasing, increasing, reads_of
from headrace.errors import PlanError, near

__all__ = ["TAKES_TAGS", "Upserts", "source", "target"]

TAKES_TAGS = True

_PARAMETERS = frozenset({"table", "key", "fields", "id", "conflict", "time_unit", "create", "hypertable", "sslmode", "sslrootcert"})
_EXAMPLE = "postgresql://scada@127.0.0.1:5432/plant?table=readings&key=tag,time"
_EXAMPLE_IN = "postgresql://scada@127.0.0.1:5432/plant?table=measurements&after=id"
_MOST_RECORDS = 5000
_LOCK_SECONDS = 5.0
_READING = "tag text, time timestamptz, value double precision, quality bigint, unit text, source_time timestamptz, arrival_time timestamptz"
_COLUMN = re.compile(r"\s*(\w+)\s+([\w ]+(?:\(\s*\d+\s*(?:,\s*\d+\s*)?\))?[\w ]*(?:\[\])*)\s*", re.ASCII)
_COMMA = re.compile(r",(?![^(]*\))")
_UNFIT = frozenset({"21", "22", "23", "44", "54", "P0"})

_TABLE = "SELECT to_regclass($1)::oid"
_TABLES = "SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'f') AND pg_table_is_visible(oid)"
_COLUMNS = """
SELECT attname, format_type(atttypid, atttypmod) AS type,
       CASE atttypid WHEN 1184 THEN 'timestamptz' WHEN 1114 THEN 'timestamp' WHEN 1082 THEN 'date' ELSE '' END AS moment
FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped AND attgenerated = '' AND attidentity <> 'a' ORDER BY attnum
"""
_KEYS = """
SELECT indisprimary, array(SELECT attname::text FROM unnest(indkey) WITH ORDINALITY AS k(number, place) JOIN pg_attribute
                           ON attrelid = indrelid AND attnum = number WHERE place <= indnkeyatts ORDER BY place) AS names
FROM pg_index WHERE indrelid = $1 AND indisunique AND indisvalid AND indimmediate AND indpred IS NULL AND indexprs IS NULL
"""


def source(address: str) -> Increasing:
    """Return the rows of an address `postgresql://user@host:port/database?table=…&after=…`, with the environment's as for the target."""
    from headrace.connectors.postgresql_poll import PolledTable

    one = Address(address, PARAMETERS_IN | {"sslmode", "sslrootcert"}, _EXAMPLE_IN)
    what = reads_of(one)
    name, options = _place(one, {"table": ".".join(what.table), "after": what.after})
    return increasing(one, name, PolledTable(what, name, options, _EXAMPLE_IN), what)


def target(address: str) -> Upserts:
    """Return what writes records to an address `postgresql://user@host:port/database?table=…`.

    What it leaves out is the environment's, as for psql: PGHOST, PGPORT, PGUSER, PGDATABASE, PGPASSWORD, PGPASSFILE and ~/.pgpass.
    """
    one = Address(address, _PARAMETERS, _EXAMPLE, "TO")
    if one.scheme != "postgresql" or one.path.count("/") > 1:
        raise one.wrong("is not the address of a database of PostgreSQL")
    table = one.get("table")
    if table is None:
        raise PlanError("names no table", where=one.where, fix="give table=NAME, or table=SCHEMA.NAME")
    into = _Into(
        tuple(table.split(".")),
        one.names("key"),
        one.get("id"),
        one.names("fields"),
        one.choice("conflict", ["update", "nothing"]) == "update",
        one.choice("time_unit", list(PER_SECOND)),
        _created(one),
        one.get("hypertable"),
    )
    if "" in into.table or len(into.table) > 2:
        raise PlanError(f"parameter table is {table!r}", where=one.where, fix="give table=NAME, or table=SCHEMA.NAME")
    into.check(one)
    name, options = _place(one, {"table": table})
    return Upserts(name, into, options)


def _place(one: Address, named: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """Return the name of an address, without user and password, and what `asyncpg.connect` needs of it."""
    if one.scheme != "postgresql" or one.path.count("/") > 1:
        raise one.wrong("is not the address of a database of PostgreSQL")
    database = one.path.strip("/") or None
    host = None if one.host is None else f"[{one.host}]" if ":" in one.host else one.host
    query = urlencode(named, quote_via=quote)
    name = f"postgresql://{'' if host is None else host + (f':{one.port}' if one.port else '')}/{database or ''}?{query}"
    options = {"host": one.host, "port": one.port, "user": one.user, "password": one.password, "database": database, "dsn": _tls(one)}
    return name, {option: value for option, value in options.items() if value is not None}


class _Into:
    """Where rows go, and how.

    Attributes
    ----------
    table
        Its name, with its schema if that is given.
    key
        The columns that identify a row; None: those of the primary key.
    id_column
        The column of the record's id.
    fields
        The fields that are written; None: all of them.
    update
        Whether a row replaces one with its key.
    time_unit
        What a number in a column of times counts.
    created
        The columns of a table that is created where there is none, each with its type; None: it is not created.
    hypertable
        The column of the time of a table that is created, where TimescaleDB is installed.
    """

    def __init__(
        self,
        table: tuple[str, ...],
        key: tuple[str, ...] | None,
        id_column: str | None,
        fields: tuple[str, ...] | None,
        update: bool,  # noqa: FBT001
        time_unit: str,
        created: Mapping[str, str] | None,
        hypertable: str | None,
    ) -> None:
        self.table, self.id_column, self.update, self.time_unit = table, id_column, update, time_unit
        self.key = (id_column,) if key is None and id_column is not None else key
        self.fields, self.created, self.hypertable = fields, created, hypertable

    @property
    def quoted(self) -> str:
        """The table's name in statements."""
        return ".".join(map(identifier, self.table))

    def check(self, one: Address) -> None:
        """Raise PlanError if parameters do not fit together."""
        for name in self.key or ():
            if self.created is not None and name not in self.created:
                raise PlanError(f"parameter create lacks {name!r}, which is part of the key", where=one.where, fix="add it to create")
        if self.created is not None and self.key is None:
            raise PlanError("names no key for the table to be created", where=one.where, fix="give key=NAME,NAME or id=NAME")
        if self.hypertable is not None and self.hypertable not in (self.created or ()):
            raise PlanError("parameter hypertable names no column of create", where=one.where, fix="give create= with the column of the time")


class Upserts(Session, Target):
    """Records as rows of a table, written by `INSERT … ON CONFLICT`. So a record that is written again changes nothing.

    Parameters
    ----------
    name
        The address without user and password.
    into
        Where rows go.
    options
        Those of `asyncpg.connect` that say where the server is, and who we are.
    """

    most_records = _MOST_RECORDS
    _example = _EXAMPLE

    def __init__(self, name: str, into: _Into, options: Mapping[str, Any]) -> None:
        self.name, self._into, self._options = name, into, options
        self._who = f"headrace {secrets.token_hex(8)}"  # so that sessions that were given up are found, and ended
        self._rows: Rows | None = None
        self._statements: dict[tuple[str, ...], str] = {}
        self._changed = False

    async def send(self, records: Sequence[Record]) -> Mapping[int, str] | None:
        """Write records, and return when the server has committed them."""
        never: dict[int, str] = {}
        try:
            if self._connection is None:
                await self._connect(records[0].topic)
            made, lacking = fitting(records, self._row)
            if any(isinstance(unfit, LacksColumn) for _, unfit in lacking):
                await self._describe()  # the table may have got the column
                made, lacking = fitting(records, self._row)
            never.update((place, str(unfit)) for place, unfit in lacking)
            if made:
                await halved(made, self._write, never)
        except asyncpg.PostgresError as error:
            raise self._fault(error) from None
        except LOST as error:
            raise self._lost(error) from None
        self._changed = False
        return never

    def _row(self, record: Record) -> Row:
        assert self._rows is not None
        return self._rows.row(record.value, record.id)

    async def _write(self, rows: Sequence[Row]) -> str | None:
        """Write rows, and return why the server does not take them; None if it does."""
        assert self._connection is not None
        try:
            for part in parts(rows, update=self._into.update):
                for columns, objects in part.items():
                    await self._connection.execute(self._statement(columns), array(objects))
        except asyncpg.PostgresError as error:
            if (error.sqlstate or "")[:2] in _UNFIT:
                return f"the server refuses it: {said(error)}"
            raise
        return None

    def _statement(self, columns: tuple[str, ...]) -> str:
        found = self._statements.get(columns)
        if found is None:
            assert self._rows is not None
            found = self._statements[columns] = self._rows.table.insert(columns, self._into.time_unit, update=self._into.update)
        return found

    # sessions

    async def _connect(self, topic: str) -> None:
        """Open a session, when none that was given up can write any more, and look at the table."""
        session = await self._open(application_name=self._who, tcp_keepalives_idle="30", tcp_keepalives_interval="10")
        await session.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1 AND pid <> pg_backend_pid()", self._who
        )
        await self._describe()
        try:
            await session.execute("SELECT pg_advisory_lock(hashtextextended($1, 0))", f"headrace {topic} {self._into.quoted}", timeout=_LOCK_SECONDS)
        except TimeoutError:
            self._give_up()
            raise Unavailable("another session writes this topic into this table, or has not ended yet") from None

    async def _describe(self) -> None:
        """Look at the table, and create it if that is asked for."""
        assert self._connection is not None
        into, oid = self._into, await self._found()
        columns = {name: Column(kind, moment) for name, kind, moment in await self._connection.fetch(_COLUMNS, oid)}
        keys = await self._connection.fetch(_KEYS, oid)
        key = into.key or next((tuple(names) for primary, names in keys if primary), None)
        if key is None:
            fix = "give key=NAME,NAME of a unique index, or id=NAME of a unique text column for each record's id"
            raise PlanError("has no primary key, so a record that is sent again would be there twice", where=self.name, fix=fix)
        self._check(columns, key, [set(names) for _, names in keys])
        self._rows = Rows(Table(into.quoted, columns, key), None if into.fields is None else frozenset(into.fields), into.id_column)
        self._statements = {}

    async def _found(self) -> int:
        """Return the id of the table, created if that is asked for."""
        assert self._connection is not None
        into = self._into
        oid: int | None = await self._connection.fetchval(_TABLE, into.quoted)
        if oid is None and into.created is not None:
            await self._create(into.created)
            oid = await self._connection.fetchval(_TABLE, into.quoted)
        if oid is None:
            names = [name for (name,) in await self._connection.fetch(_TABLES) if not name.startswith(("pg_", "information_schema."))]
            fix = f"{near('.'.join(into.table), names)}; create it, or give create=NAME TYPE,…"
            raise PlanError("has no such table", where=self.name, fix=fix)
        return oid

    def _check(self, columns: Mapping[str, Column], key: Sequence[str], unique: Sequence[set[str]]) -> None:
        """Raise PlanError if columns are not there to be written, or the key is none of the table's."""
        into = self._into
        for name in (*key, *(into.fields or ())):
            if name not in columns:
                raise PlanError(f"has no column {name!r} to write", where=self.name, fix=near(name, columns))
        for name in key:
            if into.fields is not None and name not in {*into.fields, into.id_column}:
                raise PlanError(f"parameter fields lacks {name!r}, which is part of the key", where=self.name, fix="add it to fields")
        if set(key) not in unique:
            listed = ", ".join(map(identifier, key))
            raise PlanError(f"has no unique index on {listed}", where=self.name, fix=f"CREATE UNIQUE INDEX ON {into.quoted} ({listed})")

    async def _create(self, columns: Mapping[str, str]) -> None:
        assert self._connection is not None
        into = self._into
        listed = ", ".join(f"{identifier(name)} {kind}" for name, kind in columns.items())
        key = ", ".join(map(identifier, into.key or ()))
        await self._connection.execute(f"CREATE TABLE IF NOT EXISTS {into.quoted} ({listed}, PRIMARY KEY ({key}))")
        if into.hypertable is not None and await self._connection.fetchval("SELECT true FROM pg_extension WHERE extname = 'timescaledb'"):
            await self._connection.execute(
                "SELECT create_hypertable($1::text::regclass, $2::text::name, if_not_exists => true)", into.quoted, into.hypertable
            )

    def _fault(self, error: asyncpg.PostgresError) -> Unavailable | PlanError:
        """Return what an error of the server means for all records."""
        code = error.sqlstate or ""
        if code[:2] == "42" and code != "42501" and not self._changed and self._rows is not None:
            self._changed, self._rows = True, None  # the table is another than it was: the next try looks at it
            self._give_up()
            return Unavailable(f"answers: {said(error)}")
        fixes = {"42501": f"GRANT SELECT, INSERT, UPDATE ON {self._into.quoted} to this user"}
        if self._into.created is not None:
            fixes["42704"] = "check the types in create"
        return self._refused(error, fixes, "check the table and the parameters of the address")


# addresses


def _created(one: Address) -> Mapping[str, str] | None:
    """Return the columns of a table to be created."""
    text = one.get("create")
    if text is None:
        return None
    found = [_COLUMN.fullmatch(part) for part in _COMMA.split(_READING if text == "reading" else text)]
    columns = {match[1]: match[2].strip() for match in found if match is not None}
    if None in found or len(columns) < len(found):
        fix = "give reading, or names with their types, such as tag text, time timestamptz, value double precision"
        raise PlanError(f"parameter create is {text!r}", where=one.where, fix=fix)
    return columns


def _tls(one: Address) -> str | None:
    """Return what asyncpg reads of TLS from an address."""
    given = {name: text for name in ("sslmode", "sslrootcert") if (text := one.get(name)) is not None}
    if "sslmode" in given:
        one.choice("sslmode", ["prefer", "disable", "allow", "require", "verify-ca", "verify-full"])
    elif given:
        given["sslmode"] = "verify-full"
    return f"postgresql:///?{urlencode(given)}" if given else None

"""The tables of the SQLite log, and the steps from format 1, which had no checksums, and format 2, whose tables were not tied."""

from __future__ import annotations

import sqlite3
from zlib import crc32

from headrace.topics.sums import UNSOUND, row_sum, sound

__all__ = ["FORMAT", "ROWS", "SMALL_TABLES", "create", "tie_of", "upgrade"]

FORMAT = 3
# The small tables and their columns; the last is the checksum of the others.
_HEAD = "id, seq, arrived_ms, trusted_ms, leapt_ms, held_ms, catalog, unsummed"
ROWS = {
    "log": f"{_HEAD}, tie, sum",
    "topics": "id, name, retention_ms, retention_bytes, sum",
    "partitions": "id, topic, number, first, next, bytes, sum",
    "cursors": "reader, partition, next, sum",
    "pipelines": "name, epoch, owner, manifest, checksum",
}
SMALL_TABLES = tuple(ROWS)
_TIED = SMALL_TABLES[1:]
_LOG = """CREATE TABLE log (
    id INTEGER PRIMARY KEY, seq INTEGER NOT NULL, arrived_ms INTEGER NOT NULL, trusted_ms INTEGER NOT NULL, leapt_ms INTEGER NOT NULL,
    held_ms INTEGER NOT NULL, catalog INTEGER NOT NULL, unsummed INTEGER NOT NULL, sum INTEGER NOT NULL,
    tie INTEGER NOT NULL DEFAULT 0)"""
_SCHEMA = """CREATE TABLE topics (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, retention_ms INTEGER, retention_bytes INTEGER, sum INTEGER);
CREATE TABLE partitions (
    id INTEGER PRIMARY KEY AUTOINCREMENT, topic INTEGER NOT NULL REFERENCES topics, number INTEGER NOT NULL,
    first INTEGER NOT NULL DEFAULT 0, next INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0, sum INTEGER, UNIQUE (topic, number));
CREATE TABLE blocks (
    seq INTEGER PRIMARY KEY, partition INTEGER NOT NULL, first INTEGER NOT NULL, count INTEGER NOT NULL, arrived_ms INTEGER NOT NULL,
    size INTEGER NOT NULL, packed INTEGER NOT NULL, keys_sum INTEGER, body_sum INTEGER, sum INTEGER, keys BLOB, body BLOB NOT NULL);
CREATE UNIQUE INDEX blocks_of_partition ON blocks (partition, first);
CREATE TABLE cursors (
    reader TEXT NOT NULL, partition INTEGER NOT NULL, next INTEGER NOT NULL, sum INTEGER, PRIMARY KEY (reader, partition)) WITHOUT ROWID;
CREATE TABLE pipelines (name TEXT PRIMARY KEY, epoch INTEGER NOT NULL, owner TEXT NOT NULL, manifest BLOB, checksum INTEGER);
CREATE TABLE state (pipeline TEXT NOT NULL, name TEXT NOT NULL, checksum INTEGER NOT NULL, data BLOB NOT NULL, UNIQUE (pipeline, name))"""
_UPGRADE = """ALTER TABLE topics ADD COLUMN sum INTEGER;
ALTER TABLE partitions ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE partitions ADD COLUMN sum INTEGER;
ALTER TABLE cursors ADD COLUMN sum INTEGER;
ALTER TABLE blocks ADD COLUMN keys_sum INTEGER;
ALTER TABLE blocks ADD COLUMN body_sum INTEGER;
ALTER TABLE blocks ADD COLUMN sum INTEGER;
UPDATE partitions SET bytes = (SELECT COALESCE(SUM(size), 0) FROM blocks WHERE partition = partitions.id)"""


def create(db: sqlite3.Connection) -> None:
    """Make the tables of a new log, within a transaction."""
    _run(db, _LOG)
    _run(db, _SCHEMA)
    _put_head(db, seq=0, arrived_ms=0, unsummed=0)
    _put_tie(db)


def upgrade(db: sqlite3.Connection, found: int) -> None:
    """Make a log of an earlier format one of today's, within a transaction."""
    if found == 1:
        _add_sums(db)
    else:
        db.execute("ALTER TABLE log ADD COLUMN tie INTEGER NOT NULL DEFAULT 0")
    _put_tie(db)


def tie_of(db: sqlite3.Connection) -> int:
    """Return the checksums of all rows of the small tables, put together: the log's row has it, so that no table is of another commit."""
    tie = 0
    for table in _TIED:
        for (checksum,) in db.execute(f"SELECT {ROWS[table].rsplit(', ', 1)[1]} FROM {table}"):  # noqa: S608  (names of our own)
            tie ^= checksum if isinstance(checksum, int) else UNSOUND
    return tie


def _add_sums(db: sqlite3.Connection) -> None:
    """Give a log of format 1 checksums. Its blocks stay as they are and have none."""
    _run(db, _LOG)
    _run(db, _UPGRADE)
    seq, arrived = db.execute("SELECT seq, arrived_ms FROM blocks ORDER BY seq DESC LIMIT 1").fetchone() or (0, 0)
    (counted,) = db.execute("SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence WHERE name = 'blocks'").fetchone()
    _put_head(db, seq=max(seq, counted), arrived_ms=arrived, unsummed=max(seq, counted))
    for table, columns, key in (
        ("topics", "id, name, retention_ms, retention_bytes", "id"),
        ("partitions", "id, topic, number, first, next, bytes", "id"),
        ("cursors", "reader, partition, next", "reader, partition"),
    ):
        keys = len(key.split(", "))
        rows = db.execute(f"SELECT {columns} FROM {table}").fetchall()  # noqa: S608  (names of our own)
        db.executemany(
            f"UPDATE {table} SET sum = ? WHERE ({key}) = ({', '.join('?' * keys)})",  # noqa: S608
            [(row_sum(*row), *row[:keys]) for row in rows],
        )
    for name, epoch, owner, manifest, checksum in db.execute("SELECT name, epoch, owner, manifest, checksum FROM pipelines").fetchall():
        whole = manifest is None or crc32(manifest) == checksum
        found = row_sum(name, epoch, owner, manifest) if whole else UNSOUND
        db.execute("UPDATE pipelines SET checksum = ? WHERE name = ?", (found, name))
    for pipeline, name in db.execute("SELECT pipeline, name FROM state").fetchall():
        data, checksum = db.execute("SELECT data, checksum FROM state WHERE pipeline = ? AND name = ?", (pipeline, name)).fetchone()
        found = row_sum(pipeline, name, checksum) if crc32(data) == checksum else UNSOUND
        db.execute("UPDATE state SET checksum = ? WHERE pipeline = ? AND name = ?", (found, pipeline, name))


def _run(db: sqlite3.Connection, statements: str) -> None:
    for statement in statements.split(";\n"):
        db.execute(statement)


def _put_head(db: sqlite3.Connection, *, seq: int, arrived_ms: int, unsummed: int) -> None:
    head = (1, seq, arrived_ms, arrived_ms, 0, 0, 1, unsummed)
    db.execute(f"INSERT INTO log ({_HEAD}, sum) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (*head, row_sum(*head)))  # noqa: S608  (names of our own)


def _put_tie(db: sqlite3.Connection) -> None:
    for *head, checksum in db.execute(f"SELECT {_HEAD}, sum FROM log").fetchall():  # noqa: S608  (names of our own)
        tie = tie_of(db)
        db.execute("UPDATE log SET tie = ?, sum = ?", (tie, row_sum(*head, tie) if sound(checksum, *head) else UNSOUND))
    db.execute(f"PRAGMA user_version = {FORMAT}")

"""The tables of the SQLite log, and the step from format 1, which had no checksums."""

from __future__ import annotations

import sqlite3
from zlib import crc32

from headrace.topics.sums import UNSOUND, row_sum

__all__ = ["FORMAT", "SMALL_TABLES", "create", "upgrade"]

FORMAT = 2
SMALL_TABLES = ("log", "topics", "partitions", "cursors", "pipelines")
_LOG = """CREATE TABLE log (
    id INTEGER PRIMARY KEY, seq INTEGER NOT NULL, arrived_ms INTEGER NOT NULL, trusted_ms INTEGER NOT NULL, leapt_ms INTEGER NOT NULL,
    held_ms INTEGER NOT NULL, catalog INTEGER NOT NULL, unsummed INTEGER NOT NULL, sum INTEGER NOT NULL)"""
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


def upgrade(db: sqlite3.Connection) -> None:
    """Make a log of format 1 one of today's, within a transaction. Its blocks stay as they are and have no checksums."""
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
    db.execute("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (*head, row_sum(*head)))
    db.execute(f"PRAGMA user_version = {FORMAT}")

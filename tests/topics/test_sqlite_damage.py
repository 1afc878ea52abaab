"""A damaged SQLite log: what a flipped bit may do, and the step from format 1, which had no checksums."""

from __future__ import annotations

import random
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from headrace.engines.embedded.live import Limits, Live, run_live
from headrace.errors import EnvironmentFault, HeadraceError
from headrace.topics.look import Look
from headrace.topics.protocol import Commit
from headrace.topics.sqlite import SqliteLog
from headrace.topics.sqlite_schema import ROWS
from headrace.topics.sums import row_sum
from topics.test_logs import plan, readings

MARK = "m"
IN = f"in-{MARK}"
PAGE = 8192


def records() -> list[bytes]:
    return [one for one in readings(900, 7) if one]


def begun(folder: Path) -> Path:
    """Make a log in which a pipeline has worked through two thirds of its input."""
    with closing(SqliteLog(folder / "log.db")) as log:
        log.create(IN)
        for start in range(0, 600, 50):
            log.append(IN, records()[start : start + 50], [b"k%d" % (n % 5) for n in range(len(records()[start : start + 50]))])
        run_live(Live(plan(MARK), log, batch_records=100), Limits(records=400), commit_seconds=0)
        log.move("a reader", {(IN, 0): 123})
    return folder / "log.db"


def outcome(path: Path) -> dict[str, Any]:
    """Append the rest, let the pipeline go on to the end, and return all that the log then holds."""
    give_up_at = time.monotonic() + 60
    with closing(SqliteLog(path)) as log:
        log.append(IN, records()[600:])
        live = Live(plan(MARK), log, latest=True, batch_records=100)
        run_live(live, stop=lambda: time.monotonic() > give_up_at, commit_seconds=0.2)
        assert time.monotonic() < give_up_at, "the run does not end"
        values = {info.name: [(e.offset, e.key, e.value) for e in log.entries(info.name, 0, 0, 10_000)] for info in log.topics()}
        dead = {f"{IN}.dead-letter"}
        shown = {name: rows for name, rows in values.items() if not name.endswith(".clock") and name not in dead}
        return {
            **shown,
            "dead": [len(values[name]) for name in dead],
            "cursors": log.cursors(),
            "topics": [(one.name, one.retention_ms, one.retention_bytes) for one in log.topics()],
            "ledger": {topic: account.counts() for topic, account in live.run.ledger.items()},
        }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, Any]]:
    """The bytes of a log, and what comes of it."""
    folder = tmp_path_factory.mktemp("whole")
    path = begun(folder)
    data = path.read_bytes()
    return data, outcome(path)


def flips(data: bytes, count: int, seed: int) -> Iterator[int]:
    """Choose bits: most in bytes that are used, some anywhere, and more on the first pages, where the small tables lie."""
    chance = random.Random(seed)
    used = [place for place, byte in enumerate(data) if byte]
    small = [place for place in used if place < 12 * PAGE]
    for _ in range(count):
        place = chance.choice(chance.choice([used, small, range(len(data))]))
        yield place * 8 + chance.randrange(8)


def judged(folder: Path, data: bytes, bit: int) -> dict[str, Any] | str:
    """Return what comes of a log with a flipped bit, or how it was told."""
    folder.mkdir()
    path = folder / "log.db"
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    path.write_bytes(damaged)
    try:
        return outcome(path)
    except HeadraceError as error:
        return str(error)
    finally:
        shutil.rmtree(folder)


def check_flips(tmp_path: Path, whole: tuple[bytes, dict[str, Any]], count: int, seed: int) -> None:
    data, expected = whole
    told = 0
    for bit in flips(data, count, seed):
        found = judged(tmp_path / "flipped", data, bit)
        told += isinstance(found, str)
        if not isinstance(found, str):
            assert found == expected, f"bit {bit}, on page {bit // 8 // PAGE + 1}, changed the output silently"
    assert told > count / 10, "too few flips mattered for this to be a test"


def test_a_flipped_bit_is_told_or_changes_nothing(tmp_path: Path, whole: tuple[bytes, dict[str, Any]]) -> None:
    check_flips(tmp_path, whole, 30, seed=1)


def test_a_damaged_schema_is_told(tmp_path: Path, whole: tuple[bytes, dict[str, Any]]) -> None:
    path = tmp_path / "log.db"
    at = whole[0].index(b"CREATE TABLE blocks") + 7
    path.write_bytes(whole[0][:at] + b"\xce" + whole[0][at + 1 :])
    with pytest.raises(EnvironmentFault, match=r"log\.db.*is damaged"):
        SqliteLog(path)
    with pytest.raises(sqlite3.Error):
        Look(path).faults(60)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10))
def test_many_flipped_bits_are_told_or_change_nothing(tmp_path: Path, whole: tuple[bytes, dict[str, Any]], seed: int) -> None:
    check_flips(tmp_path, whole, 400, seed=100 + seed)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("UPDATE blocks SET arrived_ms = arrived_ms - 1 WHERE seq = 3", "the block of records at offset 100 or after it (number 3 of the file)"),
        ("UPDATE blocks SET body = CAST(replace(body, 's1', 's2') AS BLOB) WHERE seq = 3", "records 100 to 149 are damaged"),
        ("UPDATE blocks SET partition = 9 WHERE seq = 3", "records 100 to 149 are missing"),
        ("DELETE FROM blocks WHERE seq = 3", "records 100 to 149 are missing"),
        ("DELETE FROM blocks WHERE seq = 12", "records 550 to 599 are missing"),
        ("UPDATE blocks SET keys = NULL WHERE seq = 3", None),
        ("UPDATE partitions SET first = 100 WHERE id = 1", "its row, with its first and next offsets, is damaged"),
    ],
)
def test_a_damaged_block_is_named_with_its_offsets(tmp_path: Path, damage: str, says: str | None) -> None:
    path = tmp_path / "log.db"
    with closing(SqliteLog(path)) as log:
        log.create(IN)
        for start in range(0, 600, 50):
            log.append(IN, records()[start : start + 50], [b"k"] * 50)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(damage)
    faults = Look(path).faults(60)
    assert faults
    with closing(SqliteLog(path)) as log:
        if says is not None:
            with pytest.raises(EnvironmentFault) as told:
                run_live(Live(plan(MARK), log, latest=True))
            assert says in str(told.value)
            assert f"{IN} partition 0" in str(told.value)
        with pytest.raises(EnvironmentFault, match=f"{IN} partition 0.*(damaged|missing)"):
            log.entries(IN, 0, 0, 1_000)


@pytest.mark.parametrize("lost", ["topic = 1", "topic = 1 AND number = 0", "topic = 1 AND number = 1"])
def test_a_topic_that_lacks_a_partition_is_told(tmp_path: Path, lost: str) -> None:
    path = tmp_path / "log.db"
    with closing(SqliteLog(path)) as log:
        log.create(IN, 3)
    with closing(SqliteLog(path)) as log, closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"DELETE FROM partitions WHERE {lost}")
        with pytest.raises(EnvironmentFault, match=f"topic '{IN}': a row of its partitions is missing"):
            log.append(IN, [b"1", b"2"], [b"a", b"b"])
    with pytest.raises(EnvironmentFault, match=r"log\.db: is damaged: its tables are of different commits"):
        SqliteLog(path)
    assert Look(path).faults(60) == ["its tables are of different commits"]


def test_a_damaged_name_of_a_part_of_state_is_told(tmp_path: Path) -> None:
    with closing(SqliteLog(tmp_path / "log.db")) as log:
        claim = log.claim("p")
        claim.commit(Commit(b"m", {"a": b"1"}, {"a"}, [], {}))
        log.file.db.execute("UPDATE state SET name = CAST(x'61e3' AS TEXT)")
        with pytest.raises(EnvironmentFault, match=r"log\.db: is damaged: surrogates not allowed"):
            claim.commit(Commit(b"m", {"b": b"2"}, {"b"}, [], {}))
        claim.release()


@pytest.mark.parametrize("kept", ["topics", "partitions", "cursors", "pipelines", "log"])
def test_a_table_of_an_earlier_commit_is_told(tmp_path: Path, kept: str) -> None:
    """As of a disk that acknowledges a sync, loses it, and keeps what came before and after."""
    path = begun(tmp_path)
    old = tmp_path / "old.db"
    shutil.copy(path, old)
    with closing(SqliteLog(path)) as log:
        log.create("more")
        log.append(IN, records()[600:])
        run_live(Live(plan(MARK), log, latest=True))
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("ATTACH ? AS old", (str(old),))
        db.executescript(f"DELETE FROM {kept}; INSERT INTO {kept} SELECT * FROM old.{kept};")
    with pytest.raises(EnvironmentFault, match=r"log\.db: is damaged: its tables are of different commits"):
        SqliteLog(path)


def test_a_log_whose_damaged_rows_were_written_anew_is_whole(tmp_path: Path) -> None:
    path = begun(tmp_path)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE pipelines SET checksum = checksum + 1")
    with closing(SqliteLog(path)) as log:
        log.append(IN, records()[600:])
        run_live(Live(plan(MARK), log, latest=True, anew=True))
    with closing(SqliteLog(path)) as log:
        log.delete(IN)
    assert Look(path).faults(60) == []


def test_a_log_of_format_2_is_tied_together(tmp_path: Path) -> None:
    path = begun(tmp_path)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        *head, _, _ = db.execute(f"SELECT {ROWS['log']} FROM log").fetchone()
        db.execute("ALTER TABLE log DROP COLUMN tie")
        db.execute("UPDATE log SET sum = ?", (row_sum(*head),))
        db.execute("PRAGMA user_version = 2")
    outcome(path)
    assert (Look(path).format()[0], Look(path).faults(60)) == (3, [])


def test_a_block_that_is_there_twice_is_told_as_damage(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with closing(SqliteLog(path)) as log:
        log.create(IN)
        log.append(IN, [b"1"])
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE blocks SET seq = 2")
    with closing(SqliteLog(path)) as log, pytest.raises(EnvironmentFault, match="is damaged or no log: UNIQUE constraint failed"):
        log.append(IN, [b"2"])


# Format 1

OLD_SCHEMA = """
CREATE TABLE topics (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, retention_ms INTEGER, retention_bytes INTEGER);
CREATE TABLE partitions (
    id INTEGER PRIMARY KEY AUTOINCREMENT, topic INTEGER NOT NULL REFERENCES topics, number INTEGER NOT NULL,
    first INTEGER NOT NULL DEFAULT 0, next INTEGER NOT NULL DEFAULT 0, UNIQUE (topic, number));
CREATE TABLE blocks (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, partition INTEGER NOT NULL, first INTEGER NOT NULL, count INTEGER NOT NULL,
    arrived_ms INTEGER NOT NULL, size INTEGER NOT NULL, packed INTEGER NOT NULL, keys BLOB, body BLOB NOT NULL);
CREATE UNIQUE INDEX blocks_of_partition ON blocks (partition, first);
CREATE TABLE cursors (reader TEXT NOT NULL, partition INTEGER NOT NULL, next INTEGER NOT NULL, PRIMARY KEY (reader, partition)) WITHOUT ROWID;
CREATE TABLE pipelines (name TEXT PRIMARY KEY, epoch INTEGER NOT NULL, owner TEXT NOT NULL, manifest BLOB, checksum INTEGER);
CREATE TABLE state (pipeline TEXT NOT NULL, name TEXT NOT NULL, checksum INTEGER NOT NULL, data BLOB NOT NULL, UNIQUE (pipeline, name));
PRAGMA user_version = 1;
"""
OLD_COLUMNS = {
    "topics": "id, name, retention_ms, retention_bytes",
    "partitions": "id, topic, number, first, next",
    "blocks": "seq, partition, first, count, arrived_ms, size, packed, keys, body",
    "cursors": "reader, partition, next",
    "pipelines": "name, epoch, owner, manifest, crc32(manifest)",
    "state": "pipeline, name, crc32(data), data",
}


def aged(path: Path, old: Path) -> Path:
    """Make of a log one of format 1 with the same rows."""
    with closing(sqlite3.connect(path)) as new, closing(sqlite3.connect(old)) as db:
        new.create_function("crc32", 1, lambda data: None if data is None else crc32(data))
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(OLD_SCHEMA)
        for table, columns in OLD_COLUMNS.items():
            rows = new.execute(f"SELECT {columns} FROM {table}").fetchall()
            db.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(columns.split(', ')))})", rows)
        db.commit()
    return old


def test_a_log_of_format_1_is_upgraded_and_its_pipelines_go_on(tmp_path: Path, whole: tuple[bytes, dict[str, Any]]) -> None:
    path = tmp_path / "new.db"
    path.write_bytes(whole[0])
    old = aged(path, tmp_path / "log.db")
    assert outcome(old) == whole[1]
    assert Look(old).format()[0] == 3
    assert Look(old).faults(60) == []
    with closing(SqliteLog(old)) as log:
        log.append(IN, [b"more"])
        log.alter(IN, retention_ms=None, retention_bytes=10)
        log.expire_now()
        assert [one.value for one in log.entries(IN, 0, 0, 9)] == [b"more"]


def test_damaged_state_of_format_1_stays_damaged(tmp_path: Path, whole: tuple[bytes, dict[str, Any]]) -> None:
    path = tmp_path / "new.db"
    path.write_bytes(whole[0])
    old = aged(path, tmp_path / "log.db")
    with closing(sqlite3.connect(old, isolation_level=None)) as db:
        db.execute("UPDATE pipelines SET manifest = CAST(replace(manifest, 'epoch', 'epoca') AS BLOB)")
    with closing(SqliteLog(old)) as log, pytest.raises(EnvironmentFault, match="the last commit of pipeline kiln-m is damaged"):
        Live(plan(MARK), log)

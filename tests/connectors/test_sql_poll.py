"""Rows of a table that is polled: each once, those that appear late too. On SQLite, and on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from outside import FaultyLog, values_of

from headrace.cli import main
from headrace.cli.bridge import source_of
from headrace.connectors import sql_poll
from headrace.connectors.ingest import Ingest
from headrace.errors import PlanError
from headrace.topics.protocol import Log
from headrace.topics.sqlite import SqliteLog
from postgres import Postgres, postgres

__all__ = ["postgres"]

LIMIT = 400.0


@pytest.fixture(autouse=True)
def folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("PG")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home.parent))
    return home.parent


class Database:
    """A database in which statements are run, and its address."""

    def __init__(self, address: str, run: Callable[[str], Any]) -> None:
        self.address, self.sql = address, run


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    if request.param == "sqlite":
        with closing(sqlite3.connect("plant.db", isolation_level=None)) as db:
            yield Database("sqlite:plant.db", lambda statement: db.execute(statement).fetchall())
        return
    server: Postgres = request.getfixturevalue("postgres")

    def run(statement: str) -> Any:
        async def once() -> Any:
            connection = await asyncpg.connect(f"{server.address}/postgres", timeout=LIMIT)
            try:
                return [tuple(row) for row in await connection.fetch(statement)]
            finally:
                await connection.close()

        return asyncio.run(once())

    yield Database(f"{server.address}/postgres", run)
    run("DROP TABLE IF EXISTS t")


def bridge(log: Log, address: str, records: int | None = None, stop: Callable[[], bool] = lambda: False) -> int:
    source = source_of(f"{address}&interval=10ms")
    with closing(Ingest(log, source, "t", patience=LIMIT, told=lambda _: None)) as one:
        return asyncio.run(asyncio.wait_for(one.run(stop, records=records), LIMIT))


def numbers(log: Log) -> list[int]:
    return [json.loads(value)["n"] for value in values_of(log, "t")]


def test_rows_come_once_over_restarts(database: Database, log: SqliteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_poll, "PAGE_ROWS", 3)
    address = f"{database.address}?table=t&after=n"
    database.sql("CREATE TABLE t (n INTEGER PRIMARY KEY, name TEXT, v DOUBLE PRECISION)")
    database.sql("INSERT INTO t VALUES (8, 'a', 1.5), (9, NULL, NULL), (10, 'ü', -2), (11, 'b', 0)")
    assert bridge(log, address, records=4) == 4
    assert [json.loads(value) for value in values_of(log, "t")][:3] == [
        {"n": 8, "name": "a", "v": 1.5},
        {"n": 9, "name": None, "v": None},
        {"n": 10, "name": "ü", "v": -2},
    ]
    database.sql("INSERT INTO t SELECT n + 100, 'c', 0 FROM t")
    for _ in range(2):
        assert bridge(log, address, records=2) == 2
    database.sql("INSERT INTO t VALUES (50, 'late', 0), (500, 'd', 0)")
    assert bridge(log, address, records=2) == 2
    assert numbers(log) == [8, 9, 10, 11, 108, 109, 110, 111, 50, 500]


def test_rows_with_equal_times_and_rows_that_were_changed_come(database: Database, log: SqliteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_poll, "PAGE_ROWS", 2)
    address = f"{database.address}?table=t&after=at&id=n"
    kind = "TEXT" if database.address.startswith("sqlite") else "TIMESTAMPTZ"
    database.sql(f"CREATE TABLE t (n INTEGER PRIMARY KEY, at {kind})")
    database.sql("INSERT INTO t VALUES (1, '2026-01-01T08:00:00Z'), (2, '2026-01-01T08:00:00Z'), (3, '2026-01-01T08:00:00Z'), (4, NULL)")
    assert bridge(log, address, records=3) == 3
    database.sql("INSERT INTO t VALUES (5, '2026-01-01T08:00:00Z'), (6, '2026-01-01T07:59:55Z')")
    assert bridge(log, address, records=2) == 2
    database.sql("UPDATE t SET at = '2026-01-01T08:00:01Z' WHERE n = 2")
    assert bridge(log, address, records=1) == 1
    assert numbers(log) == [1, 2, 3, 6, 5, 2]


def test_a_row_that_is_committed_late_is_not_lost(postgres: Postgres, log: SqliteLog) -> None:
    address = f"{postgres.address}/postgres?table=t&after=n"

    async def scenario() -> None:
        first, second = [await asyncpg.connect(f"{postgres.address}/postgres", timeout=LIMIT) for _ in range(2)]
        try:
            await first.execute("CREATE TABLE t (n BIGSERIAL PRIMARY KEY, x INT)")
            pending = first.transaction()
            await pending.start()
            await first.execute("INSERT INTO t (x) VALUES (1)")
            await second.execute("INSERT INTO t (x) VALUES (2)")
            assert await asyncio.to_thread(bridge, log, address, 1) == 1
            await pending.commit()
            assert await asyncio.to_thread(bridge, log, address, 1) == 1
            assert numbers(log) == [2, 1]
        finally:
            await first.execute("DROP TABLE t")
            await first.close()
            await second.close()

    asyncio.run(scenario())


@pytest.mark.usefixtures("quick")
def test_a_session_that_is_ended_is_made_anew(postgres: Postgres, log: SqliteLog) -> None:
    async def scenario() -> None:
        one = await asyncpg.connect(f"{postgres.address}/postgres", timeout=LIMIT)
        try:
            await one.execute("CREATE TABLE t (n BIGSERIAL PRIMARY KEY)")
            await one.execute("INSERT INTO t DEFAULT VALUES")
            running = asyncio.create_task(asyncio.to_thread(bridge, log, f"{postgres.address}/postgres?table=t&after=n", 2))
            while not await one.fetchval(  # noqa: ASYNC110
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'headrace'"
            ):
                await asyncio.sleep(0.01)
            await one.execute("INSERT INTO t DEFAULT VALUES")
            assert await running == 2
            assert numbers(log) == [1, 2]
        finally:
            await one.execute("DROP TABLE t")
            await one.close()

    asyncio.run(scenario())


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(3, 100))])
def test_late_rows_restarts_and_faults_of_the_log_lose_and_repeat_nothing(seed: int, log: SqliteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    dice = random.Random(seed)
    monkeypatch.setattr(sql_poll, "PAGE_ROWS", dice.choice([1, 3, 1000]))
    faulty, count, written = FaultyLog(log, dice, 0.2), 0, set[int]()
    with closing(sqlite3.connect("plant.db", isolation_level=None)) as db:
        db.execute("CREATE TABLE t (n INTEGER, k INTEGER, PRIMARY KEY (n, k))")
        for _ in range(12):
            for _ in range(dice.randrange(1, 6)):
                place = max(0, count - dice.randrange(0, 20)) if dice.random() < 0.5 else count
                db.execute("INSERT INTO t VALUES (?, ?)", (place, len(written)))
                written.add(len(written))
                count += dice.randrange(3)
            taken = len(values_of(log, "t")) if "t" in {info.name for info in log.topics()} else 0
            bridge(faulty, "sqlite:plant.db?table=t&after=n&id=k&lag=20", records=dice.randrange(1, len(written) - taken + 1))  # type: ignore[arg-type]
            # What is behind must not fall out of the lag.
            rest = len(written) - len(values_of(log, "t"))
            if rest and dice.random() < 0.7:
                bridge(log, "sqlite:plant.db?table=t&after=n&id=k&lag=20", records=rest)
        rest = len(written) - len(values_of(log, "t"))
        if rest:
            bridge(log, "sqlite:plant.db?table=t&after=n&id=k&lag=20", records=rest)
    assert sorted(json.loads(value)["k"] for value in values_of(log, "t")) == sorted(written)


def test_rows_whose_keys_look_alike_are_told_apart(database: Database, log: SqliteLog) -> None:
    database.sql("CREATE TABLE t (n INTEGER, a VARCHAR(9), b VARCHAR(9), PRIMARY KEY (n, a, b))")
    database.sql("INSERT INTO t VALUES (1, 'a/b', 'c'), (1, 'a', 'b/c'), (1, 'a~1b', 'c')")
    bridge(log, f"{database.address}?table=t&after=n&id=a,b", records=3)
    assert sorted(json.loads(value)["a"] for value in values_of(log, "t")) == ["a", "a/b", "a~1b"]


def test_large_numbers_lose_no_row_that_follows_closely(database: Database, log: SqliteLog) -> None:
    first = 2**60 + 65  # as a float it would be 2**60 + 128 or more
    database.sql("CREATE TABLE t (n BIGINT PRIMARY KEY)")
    database.sql(f"INSERT INTO t VALUES ({-(2**63)})")
    bridge(log, f"{database.address}?table=t&after=n", records=1)
    for number in (first, first + 200, first + 201):
        database.sql(f"INSERT INTO t VALUES ({number})")
        bridge(log, f"{database.address}?table=t&after=n&lag=0", records=1)
    assert numbers(log) == [-(2**63), first, first + 200, first + 201]


def test_a_text_of_sqlite_that_is_no_utf_8_stops_no_other_row(log: SqliteLog) -> None:
    with closing(sqlite3.connect("plant.db", isolation_level=None)) as db:
        db.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, v TEXT)")
        db.execute("INSERT INTO t VALUES (1, CAST(x'ff41' AS TEXT)), (2, 'b')")
    bridge(log, "sqlite:plant.db?table=t&after=n", records=2)
    assert [json.loads(value)["v"] for value in values_of(log, "t")] == ["/0E=", "b"]


def test_many_rows_with_one_number_and_bytes_as_a_key_are_read_on(log: SqliteLog) -> None:
    with closing(sqlite3.connect("plant.db", isolation_level=None)) as db:
        db.execute("CREATE TABLE t (n INTEGER, k BLOB, PRIMARY KEY (n, k))")
        db.executemany("INSERT INTO t VALUES (1, ?)", [[number.to_bytes(2)] for number in range(sql_poll.PAGE_ROWS + 5)])
    count = bridge(log, "sqlite:plant.db?table=t&after=n&id=k", records=sql_poll.PAGE_ROWS + 5)
    assert len({*values_of(log, "t")}) == count == sql_poll.PAGE_ROWS + 5


def test_more_rows_than_can_be_told_apart_are_refused(database: Database, log: SqliteLog) -> None:
    database.sql("CREATE TABLE t (n INTEGER PRIMARY KEY)")
    database.sql("INSERT INTO t VALUES (1), (2), (3), (4)")
    with pytest.raises(PlanError, match="4 rows lie within the lag before the last one, more than the 3 that are told apart; give remember=8"):
        bridge(log, f"{database.address}?table=t&after=n&remember=3")


def test_what_a_database_lacks_is_said(database: Database, log: SqliteLog) -> None:
    database.sql("CREATE TABLE t (n INTEGER PRIMARY KEY, at TEXT)")
    for query, says in [
        ("table=tt&after=n", "has no table 'tt'; did you mean 't'?"),
        ("table=t&after=m", "has no column 'm'"),
        ("table=t&after=at", "has no unique index on at, so rows could not be told apart; give id= the columns of the primary key"),
    ]:
        with pytest.raises(PlanError) as found:
            bridge(log, f"{database.address}?{query}")
        assert says in str(found.value)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("sqlite:?table=t&after=n", "names no file"),
        ("sqlite:a%00b?table=t&after=n", "names no file"),
        ("sqlite:a.db?after=n", "names no table"),
        ("sqlite:a.db?table=t", "names no column that increases"),
        ("sqlite:a.db?table=t&after=n&lag=x", "parameter lag is 'x'"),
        ("sqlite:a.db?table=t&after=n&id=a,", "parameter id has an empty name"),
        ("sqlite:a.db?table=t&after=n", "there is no such file, for 0.01 s; is the path right?"),
        ("sqlite:none.txt?table=t&after=n", "cannot be read: file is not a database; is it a database of SQLite?"),
        ("postgresql://127.0.0.1:1/x?table=t&after=n", "connection refused, for 0.01 s"),
    ],
)
def test_wrong_use_is_said(address: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("none.txt").write_text("no database at all, and long enough to be read as one" * 20)
    assert main(["bridge", address, "topic:t", "--give-up-after", "10ms"]) != 0
    assert says in capsys.readouterr().err

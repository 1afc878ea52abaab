"""PostgreSQL out: every record is in the table once, or a dead letter. Against a real server."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
from contextlib import closing, suppress
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from outside import told_while_away
from test_mqtt import came
from test_mqtt_out import fill

from forking import Forked, started
from headrace.cli import main
from headrace.cli.bridge import target_of
from headrace.connectors import postgresql, postgresql_session
from headrace.connectors.forward import Forward
from headrace.connectors.postgresql import Upserts
from headrace.connectors.progress import ledger_of
from headrace.connectors.protocol import Record, Unavailable
from headrace.errors import EnvironmentFault, PlanError
from headrace.topics.protocol import Log
from headrace.topics.sqlite import SqliteLog
from ports import free_port
from postgres import Postgres, postgres
from waiting import wait_for

__all__ = ["postgres"]

LIMIT = 400.0
T0 = 1_700_000_000_000
READINGS = "table=readings&key=tag,time&create=reading"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("PG")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


def sql(server: Postgres, *statements: str) -> list[tuple[Any, ...]]:
    """Run statements, and return the rows of the last one."""

    async def run() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(f"{server.address}/postgres", timeout=LIMIT)
        try:
            for statement in statements:
                rows = await connection.fetch(statement)
            return [tuple(row) for row in rows]
        finally:
            await connection.close()

    return asyncio.run(run())


@pytest.fixture
def database(postgres: Postgres) -> Postgres:
    """Return the server with an empty schema."""
    sql(postgres, "DROP SCHEMA IF EXISTS public CASCADE", "CREATE SCHEMA public", "GRANT ALL ON SCHEMA public TO public")
    return postgres


def send(log: Log, topic: str, address: str, *, anew: bool = False) -> list[str]:
    told: list[str] = []
    with closing(Forward(log, topic, target_of(address), f"forward:{topic}:postgresql", latest=True, anew=anew, told=told.append)) as one:
        asyncio.run(asyncio.wait_for(one.run(), LIMIT))
    return told


def reading(number: int, **more: Any) -> dict[str, Any]:
    return {"tag": f"kiln {number % 3}", "time": T0 + number, "value": number / 4, "quality": 0, "unit": "CEL"} | more


def at(ms: float) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def test_readings_are_rows_of_a_table_that_is_created(log: SqliteLog, database: Postgres) -> None:
    records = [reading(number, source_time=None, arrival_time=T0 + number + 3) for number in range(2500)]
    fill(log, "in", *records)
    assert send(log, "in", f"{database.address}/postgres?{READINGS}") == []
    rows = [(one["tag"], at(one["time"]), one["value"], 0, "CEL", None, at(one["arrival_time"])) for one in records]
    assert sql(database, "SELECT * FROM readings ORDER BY time") == rows
    assert ledger_of(log.manifest("forward:in:postgresql") or b"") == {"in": {"received": 2500, "accepted": 2500, "refused": 0}}
    send(log, "in", f"{database.address}/postgres?table=public.readings", anew=True)  # the key is the primary key
    assert sql(database, "SELECT * FROM readings ORDER BY time") == rows


@pytest.mark.parametrize(
    ("kind", "value", "stored"),
    [
        ("double precision", 0.1, 0.1),
        ("double precision", "100.5", 100.5),
        ("numeric", b"12345678901234567890.123456789012345678901", Decimal("12345678901234567890.123456789012345678901")),
        ("numeric(6,2)", 1234.567, Decimal("1234.57")),
        ("bigint", 2**63 - 1, 2**63 - 1),
        ("smallint", -32768, -32768),
        ("boolean", True, True),
        ("boolean", "off", False),
        ("text", 'a\\b"\n\té', 'a\\b"\n\té'),
        ("text", 12.5, "12.5"),
        ("text", {"a": [1]}, '{"a": [1]}'),
        ("jsonb", {"b": 1, "a": [None]}, '{"a": [null], "b": 1}'),
        ("double precision[]", [1.5, None], [1.5, None]),
        ("text[]", ["a,b", '"'], ["a,b", '"']),
        ("timestamptz", T0 + 1, at(T0 + 1)),
        ("timestamptz", T0 + 0.25, at(T0 + 0.25)),
        ("timestamptz", -1, at(-1)),
        ("timestamptz", str(T0), at(T0)),
        ("timestamptz", "2026-01-01T08:00:00+02:00", datetime(2026, 1, 1, 6, tzinfo=UTC)),
        ("timestamptz", "2026-01-01 08:00:00.123456", datetime(2026, 1, 1, 8, 0, 0, 123456, UTC)),
        ("timestamp", T0, datetime.fromisoformat("2023-11-14T22:13:20")),
        ("timestamp", "2026-01-01T08:00:00", datetime.fromisoformat("2026-01-01T08:00:00")),
        ("date", T0, date(2023, 11, 14)),
        ("date", "2026-01-01", date(2026, 1, 1)),
        ("bytea", "\\x00ff", b"\x00\xff"),
        ("text", None, None),
    ],
)  # fmt: skip
def test_values_are_read_by_the_type_of_their_column(log: SqliteLog, database: Postgres, kind: str, value: Any, stored: Any) -> None:
    sql(database, f'CREATE TABLE "T b" ("i""d" int PRIMARY KEY, "v ä" {kind})')
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    fill(log, "in", b'{"i\\"d": 1, "v \\u00e4": %s}' % text)
    assert send(log, "in", f"{database.address}/postgres?table=T%20b") == []
    assert sql(database, 'SELECT * FROM "T b"') == [(1, stored)]


def test_what_a_number_counts_is_a_parameter(log: SqliteLog, database: Postgres) -> None:
    sql(database, "CREATE TABLE t (unit text PRIMARY KEY, time timestamptz)")
    for unit, count in {"s": 1_700_000_000, "us": 1_700_000_000_123_456, "ns": 1_700_000_000_123_456_789}.items():
        fill(log, unit, {"unit": unit, "time": count})
        send(log, unit, f"{database.address}/postgres?table=t&time_unit={unit}")
    us = datetime(2023, 11, 14, 22, 13, 20, 123456, UTC)
    assert dict(sql(database, "SELECT * FROM t")) == {"s": at(T0), "us": us, "ns": us.replace(microsecond=123457)}


BAD: list[tuple[Any, str]] = [
    (b"[1]", "is not a JSON object"),
    (b"{", "is not JSON"),
    (b"\xff", "is not JSON"),
    ({"k": 1000, "v": "off"}, 'the server refuses it: invalid input syntax for type double precision: "off"'),
    ({"k": 1001, "v": 1.5, "extra": 1}, "has the field 'extra', and the table has no such column to write; fields= names those that are written"),
    ({"k": 1002, "made": 1}, "has the field 'made', and the table has no such column to write; fields= names those that are written"),
    ({"v": 1}, "has no value in 'k', which is part of the key"),
    ({"k": None}, "has no value in 'k', which is part of the key"),
    ({"k": 1.5}, 'the server refuses it: invalid input syntax for type integer: "1.5"'),
    ({"k": True}, 'the server refuses it: invalid input syntax for type integer: "true"'),
    ({"k": 2**40}, 'the server refuses it: value "1099511627776" is out of range for type integer'),
    ({"k": 1003, "v": -1}, 'the server refuses it: new row for relation "t" violates check constraint "t_v_check"'),
    ({"k": 1004, "s": "toolong"}, "the server refuses it: value too long for type character varying(5)"),
    ({"k": 1005, "s": "a\0"}, "the server refuses it: unsupported Unicode escape sequence (\\u0000 cannot be converted to text.)"),
    (b'{"k": 1006, "s": "\\ud800"}', "is not JSON"),
    ({"k": 1007, "u": 3}, 'the server refuses it: duplicate key value violates unique constraint "t_u_key" (Key (u)=(3) already exists.)'),
    ({"k": 1008, "p": 7}, 'the server refuses it: insert or update on table "t" violates foreign key constraint "t_p_fkey" (Key (p)=(7) is not present'),
    ({"k": 1009, "at": "soon"}, 'the server refuses it: invalid input syntax for type timestamp with time zone: "soon"'),
    ({"k": 1010, "at": 1e300}, 'the server refuses it: timestamp out of range: "1e+297"'),
    ({"k": 1011, "n": None}, 'the server refuses it: null value in column "n" of relation "t" violates not-null constraint'),
    ({"k": 1012, "s": "x", "v": {"a": 1}}, "the server refuses it: invalid input syntax for type double precision"),
    (b'{"k": 1013, "j": %s}' % (b"[" * 500_000 + b"]" * 500_000), "is not JSON"),
]  # fmt: skip


def test_what_the_table_does_not_take_is_a_dead_letter_and_its_neighbours_are_written(log: SqliteLog, database: Postgres) -> None:
    sql(
        database,
        "CREATE TABLE p (id int PRIMARY KEY)",
        "CREATE TABLE t (k int PRIMARY KEY, v double precision CHECK (v >= 0), s varchar(5), u int UNIQUE, p int REFERENCES p, at timestamptz,"
        " n int NOT NULL DEFAULT 4, j jsonb, made int GENERATED ALWAYS AS (7) STORED)",
    )
    good = [{"k": number, "v": number / 4, "u": number} for number in range(300)]
    fill(log, "in", *good[:100], *(record for record, _ in BAD), *good[100:])
    told = send(log, "in", f"{database.address}/postgres?table=t")
    letters = came(log, len(BAD), "in.dead-letter")
    assert [letter["detail"][: len(why)] for letter, (_, why) in zip(letters, BAD, strict=True)] == [why for _, why in BAD]
    assert len(told) == 6  # the first five, and how many more
    assert sql(database, "SELECT k, v, s, u, n, made FROM t ORDER BY k") == [(number, number / 4, None, number, 4, 7) for number in range(300)]
    assert ledger_of(log.manifest("forward:in:postgresql") or b"") == {"in": {"received": 300 + len(BAD), "accepted": 300, "refused": len(BAD)}}


def test_a_record_has_the_columns_of_its_fields_and_others_stay_as_they_are(log: SqliteLog, database: Postgres) -> None:
    sql(database, "CREATE TABLE t (id serial, k text PRIMARY KEY, a int, b int DEFAULT 9)")
    fill(log, "in", {"k": "x", "a": 1}, {"k": "y", "b": None}, {"b": 2, "k": "x"}, {"k": "x", "a": 3, "c": 1}, {"k": "z", "a": 1}, {"k": "z", "a": 2})
    send(log, "in", f"{database.address}/postgres?table=t&fields=k,a,b")
    assert sql(database, "SELECT k, a, b FROM t ORDER BY k") == [("x", 3, 2), ("y", None, None), ("z", 2, 9)]


# Values of a column of the key, numbered so that those have one number which the server takes for the same; and its number of them.
ALIKE: dict[str, tuple[dict[Any, int], str]] = {
    "int": ({1: 1, 2: 2, "2": 2, "03": 3, " +3": 3}, "l"),
    "text": ({"1": 1, 1: 1, "2": 2}, "l::int"),
    "timestamptz": (
        {"2024-01-01T00:00:00Z": 1, "2024-01-01 01:00+01": 1, 1_704_067_200_001: 2, "2024-01-01T00:00:00.001Z": 2},
        "(1000 * extract(epoch FROM l))::bigint - 1704067199999",
    ),
}


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 40))])
@pytest.mark.parametrize("kind", ALIKE)
def test_rows_are_those_of_records_written_one_after_the_other(log: SqliteLog, database: Postgres, kind: str, seed: int) -> None:
    dice, (alike, number_of) = random.Random(seed), ALIKE[kind]
    sql(database, f"CREATE TABLE t (k text, l {kind}, a int, b int CHECK (b < 5), UNIQUE (l, k))")
    records: list[Any] = []
    for _ in range(1200):
        one: dict[str, Any] = {"k": dice.choice("abc"), "l": dice.choice([*alike])}
        one |= {name: dice.randrange(6) if dice.random() < 0.97 else "?" for name in dice.sample("ab", dice.randrange(3))}
        records.append(one if dice.random() < 0.98 else b"?")
    for update in (True, False):
        fill(log, str(update), *records)
        rows: dict[tuple[str, int], dict[str, int]] = {}
        refused = []
        for number, one in enumerate(records):
            if isinstance(one, bytes) or "?" in one.values() or one.get("b") == 5:
                refused.append(number)
                continue
            key = one["k"], alike[one["l"]]
            if key in rows and not update:
                continue
            rows.setdefault(key, {}).update({name: one[name] for name in "ab" if name in one})
        sql(database, "TRUNCATE t")
        send(log, str(update), f"{database.address}/postgres?table=t&key=k,l&conflict={'update' if update else 'nothing'}")
        assert {(k, n): (a, b) for k, n, a, b in sql(database, f"SELECT k, {number_of}, a, b FROM t")} == {
            key: (row.get("a"), row.get("b")) for key, row in rows.items()
        }
        counts = ledger_of(log.manifest(f"forward:{update}:postgresql") or b"")[str(update)]
        letters = {one["offset"] for one in came(log, counts["refused"], f"{update}.dead-letter")}
        assert letters <= set(refused)  # the others are beside another record of their key in one batch, and that one counts
        assert {number for number in refused if isinstance(records[number], bytes)} <= letters


def test_a_table_without_a_key_of_the_records_gets_their_ids(log: SqliteLog, database: Postgres) -> None:
    fill(log, "in", {"v": 1}, {"v": 1}, b" {} ", {"id": "mine"})
    address = f"{database.address}/postgres?table=events&id=id&create=id%20text,v%20numeric(5,2)"
    for anew in (False, True):
        send(log, "in", address, anew=anew)
        assert sql(database, "SELECT * FROM events ORDER BY id") == [("in/0/0", Decimal("1.00")), ("in/0/1", Decimal("1.00")), ("in/0/2", None)]
    assert {one["detail"] for one in came(log, 2, "in.dead-letter")} == {"has the field 'id', which is the column of the record's id"}


@pytest.mark.parametrize(
    ("prepare", "query", "says"),
    [
        ("", "table=t", "has no such table; there is: other; create it, or give create=NAME TYPE,…"),
        ("", "table=othr", "has no such table; did you mean 'other'?; create it"),
        ("CREATE TABLE t (a int)", "table=t", "has no primary key, so a record that is sent again would be there twice; give key=NAME,NAME"),
        ("CREATE TABLE t (a int)", "table=t&key=b", "has no column 'b' to write; there is: a"),
        ("CREATE TABLE t (a int)", "table=t&key=a", 'has no unique index on "a"; CREATE UNIQUE INDEX ON "t" ("a")'),
        ("CREATE TABLE t (a int UNIQUE, b int)", "table=t&key=a,b", 'has no unique index on "a", "b"; CREATE UNIQUE INDEX ON "t" ("a", "b")'),
        ("CREATE TABLE t (a int PRIMARY KEY, b int)", "table=t&fields=b", "parameter fields lacks 'a', which is part of the key; add it to fields"),
        ("CREATE TABLE t (a int PRIMARY KEY, b int)", "table=t&fields=a,c", "has no column 'c' to write; there is: a, b"),
        ("CREATE TABLE t (a int GENERATED ALWAYS AS IDENTITY PRIMARY KEY)", "table=t", "has no column 'a' to write"),
        ("CREATE TABLE t (a int PRIMARY KEY)", "table=no.t", "has no such table"),
        ("", "table=t&key=a&create=a%20integr", 'answers: type "integr" does not exist; check the types in create'),
    ],
)
def test_a_table_that_does_not_fit_ends_the_bridge_with_one_line(
    log: SqliteLog, database: Postgres, capsys: pytest.CaptureFixture[str], prepare: str, query: str, says: str
) -> None:
    sql(database, "CREATE TABLE other (a int)", prepare)
    fill(log, "in", {"a": 1})
    assert main(["bridge", "topic:in", f"{database.address}/postgres?{query}", "--until", "latest"]) == 2
    err = capsys.readouterr().err
    assert f"postgresql://127.0.0.1:{database.port}/postgres?{query.partition('&')[0]}: {says}" in err
    assert err.count("\n") == 1


def test_a_wrong_user_password_or_database_ends_the_bridge_with_one_line(
    log: SqliteLog, database: Postgres, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    sql(
        database,
        "DROP ROLE IF EXISTS guarded",
        "DROP ROLE IF EXISTS reader",
        "CREATE ROLE guarded LOGIN PASSWORD 'geheim'",
        "CREATE ROLE reader LOGIN",
        "CREATE TABLE t (a int PRIMARY KEY)",
        "GRANT SELECT, INSERT, UPDATE ON t TO guarded",
        "GRANT SELECT ON t TO reader",
    )
    fill(log, "in", {"a": 1})
    host, shown = f"127.0.0.1:{database.port}", f"postgresql://127.0.0.1:{database.port}"

    def bridge(address: str, status: int) -> str:
        assert main(["bridge", "topic:in", address, "--until", "latest"]) == status
        return capsys.readouterr().err

    wrong = f'{shown}/postgres?table=t: answers: password authentication failed for user "guarded"; export PGPASSWORD=…, or write a line of ~/.pgpass'
    assert wrong in bridge(f"postgresql://guarded@{host}/postgres?table=t", 2)
    monkeypatch.setenv("PGPASSWORD", "falsch")
    said = bridge(f"postgresql://guarded@{host}/postgres?table=t", 2)
    assert wrong in said
    assert "falsch" not in said
    monkeypatch.delenv("PGPASSWORD")
    assert 'answers: database "no" does not exist; create the database' in bridge(f"postgresql://postgres@{host}/no?table=t", 2)
    assert 'answers: role "nobody" does not exist; check the user' in bridge(f"postgresql://nobody@{host}/postgres?table=t", 2)
    denied = bridge(f"postgresql://reader@{host}/postgres?table=t", 2)
    assert 'answers: permission denied for table t; GRANT SELECT, INSERT, UPDATE ON "t" to this user' in denied
    refused = bridge(f"postgresql://postgres@{host}/postgres?table=t&sslmode=require", 2)
    assert "rejected SSL upgrade" in refused
    assert refused.count("\n") == 1

    monkeypatch.setenv("WORD", "geheim")
    (tmp_path / ".pgpass").write_text(f"127.0.0.1:{database.port}:*:guarded:geheim\n")
    (tmp_path / ".pgpass").chmod(0o600)
    for number, address in enumerate([f"postgresql://guarded:${{WORD}}@{host}/postgres?table=t", f"postgresql://guarded@{host}/postgres?table=t"]):
        fill(log, "in", {"a": 2 + number})
        assert bridge(address, 0) == f"headrace: {2 - number} records sent\n"
    monkeypatch.setenv("PGPASSWORD", "geheim")
    for name, value in {"HOST": "127.0.0.1", "PORT": str(database.port), "USER": "guarded", "DATABASE": "postgres"}.items():
        monkeypatch.setenv(f"PG{name}", value)
    fill(log, "in", {"a": 9})
    assert bridge("postgresql:?table=t", 2).startswith("headrace: name forward:in:postgresql: has been used to send records to postgresql://127")
    with closing(Forward(log, "in", target_of("postgresql:?table=t"), "another", latest=True)) as one:
        assert asyncio.run(asyncio.wait_for(one.run(), LIMIT)) == 4
    assert sql(database, "SELECT a FROM t ORDER BY a") == [(1,), (2,), (3,), (9,)]
    assert "geheim" not in repr(log.manifest("forward:in:postgresql"))


@pytest.mark.usefixtures("quick")
def test_a_table_that_is_changed_meanwhile_is_looked_at_again(log: SqliteLog, database: Postgres) -> None:
    sql(database, "CREATE TABLE t (a int PRIMARY KEY)")
    told: list[str] = []
    target = target_of(f"{database.address}/postgres?table=t")

    async def run() -> None:
        async def more(record: Any, *statements: str) -> None:
            if statements:
                await asyncio.to_thread(sql, database, *statements)
            fill(log, "in", record)
            await one.run(records=1)

        with closing(Forward(log, "in", target, "f", told=told.append)) as one:
            close, target.close = target.close, lambda: asyncio.sleep(0)  # type: ignore[method-assign]
            try:
                await more({"a": 1})
                await more({"a": 2, "b": 1}, "ALTER TABLE t ADD b int")
                await more({"a": 3, "b": 2}, "ALTER TABLE t RENAME TO old", "CREATE TABLE t (a bigint PRIMARY KEY, b text)")
                await more({"a": 4}, "ALTER TABLE t RENAME b TO c")
                assert told == []
                await more({"a": 5, "b": 1})
                assert len(told) == 2
                with pytest.raises(PlanError, match="has no such table"):
                    await more({"a": 6}, "DROP TABLE t")
            finally:
                await close()

    log.create("in")
    asyncio.run(asyncio.wait_for(run(), LIMIT))
    assert sql(database, "SELECT * FROM old ORDER BY a") == [(1, None), (2, 1)]
    assert 'answers: column "b" of relation "t" does not exist' in told[0]
    assert "has the field 'b', and the table has no such column" in told[1]


@pytest.mark.usefixtures("quick")
def test_a_server_that_cannot_write_now_is_waited_for(log: SqliteLog, database: Postgres) -> None:
    sql(
        database,
        "DROP ROLE IF EXISTS later",
        "CREATE ROLE later LOGIN",
        "ALTER ROLE later SET default_transaction_read_only = on",
        "CREATE TABLE t (a int PRIMARY KEY)",
        "GRANT ALL ON t TO later",
    )
    fill(log, "in", {"a": 1})
    told: list[str] = []

    def note(line: str) -> None:
        told.append(line)
        asyncio.get_running_loop().run_in_executor(None, sql, database, "ALTER ROLE later RESET default_transaction_read_only")

    target = target_of(f"postgresql://later@127.0.0.1:{database.port}/postgres?table=t")
    with closing(Forward(log, "in", target, "f", latest=True, told=note)) as one:
        asyncio.run(asyncio.wait_for(one.run(), LIMIT))
    assert told == [f"{target.name}: answers: cannot execute INSERT in a read-only transaction; tried again until it answers"]
    assert sql(database, "SELECT * FROM t") == [(1,)]


def test_a_server_that_is_away_is_waited_for(log: SqliteLog) -> None:
    fill(log, "in", {"a": 1})
    away = f"postgresql://127.0.0.1:{free_port()}/plant?table=t"
    assert told_while_away(log, "in", target_of(away)) == [f"{away}: connection refused; tried again until it answers"]


def record(number: int, **content: Any) -> Record:
    return Record("in", 0, number, 0, None, json.dumps(content).encode())


def test_a_session_that_was_given_up_cannot_write_afterwards(database: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql, "_LOCK_SECONDS", 0.2)
    monkeypatch.setattr(postgresql_session, "ANSWER_SECONDS", 1.0)
    sql(database, "CREATE TABLE last (tag text PRIMARY KEY, v int)")
    target = target_of(f"{database.address}/postgres?table=last")
    assert isinstance(target, Upserts)

    async def until_written(one: Record) -> None:
        while True:
            with suppress(Unavailable):
                assert await target.send([one]) == {}
                return
            await asyncio.sleep(0.02)

    async def run() -> None:
        await until_written(record(0, tag="a", v=0))
        assert target._connection is not None
        pid = target._connection.get_server_pid()
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(Unavailable, match="does not answer in time"):
                await target.send([record(1, tag="a", v=1)])
            with pytest.raises(Unavailable, match=r"another session writes this topic into this table, or has not ended yet|does not answer in time"):
                await target.send([record(1, tag="a", v=1)])
            assert await asyncio.to_thread(sql, database, "SELECT * FROM last") == [("a", 0)]
        finally:
            os.kill(pid, signal.SIGCONT)
        for number in (1, 2):
            await until_written(record(number, tag="a", v=number))
        await target.close()

    asyncio.run(asyncio.wait_for(run(), LIMIT))
    assert sql(database, "SELECT * FROM last") == [("a", 2)]


def test_two_bridges_of_a_topic_do_not_write_at_once(database: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql, "_LOCK_SECONDS", 0.1)
    first, second = (target_of(f"{database.address}/postgres?{READINGS}") for _ in range(2))

    async def run() -> None:
        assert await first.send([record(0, **reading(0))]) == {}
        with pytest.raises(Unavailable, match="another session writes this topic"):
            await second.send([record(0, **reading(0))])
        await first.close()
        while True:
            with suppress(Unavailable):
                assert await second.send([record(0, **reading(0))]) == {}
                break
        await second.close()

    asyncio.run(asyncio.wait_for(run(), LIMIT))


def test_a_hypertable_is_a_plain_table_without_timescaledb(log: SqliteLog, database: Postgres) -> None:
    fill(log, "in", reading(0))
    assert send(log, "in", f"{database.address}/postgres?{READINGS}&hypertable=time") == []
    assert sql(database, "SELECT count(*) FROM readings") == [(1,)]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 20))])
def test_nothing_is_lost_or_twice_when_the_bridge_is_killed_and_the_server_crashes(log: SqliteLog, database: Postgres, seed: int) -> None:
    dice, count = random.Random(seed), 40_000
    records: list[dict[str, Any]] = [reading(number) for number in range(count)]
    bad = set(dice.sample(range(count), 5))
    for number in bad:
        records[number]["value"] = "off"
    fill(log, "in", *records)
    sql(database, "CREATE TABLE marks (name text PRIMARY KEY, mark int)")

    def bridge() -> Forked:
        command = ["bridge", "topic:in", f"{database.address}/postgres?{READINGS}"]
        return started(*command, stderr=subprocess.DEVNULL)

    def sent() -> int:
        return next((cursor.offset for cursor in log.cursors() if cursor.group == "forward:in:postgresql"), 0)

    process = bridge()
    try:
        for fault in dice.sample(["kill", "restart", "crash", "pause", "stop"], 5):
            goal = min(sent() + dice.randrange(1, 8000), count)
            wait_for(lambda goal=goal: sent() >= goal, "records are sent", seconds=LIMIT, every=0.002)
            if fault == "kill":
                process.kill()
                process.wait()
                process = bridge()
            elif fault == "restart":
                database.end(signal.SIGINT)
                database.start()
            elif fault == "crash":
                database.crash()
                database.start()
            elif fault == "pause":
                database.signal(signal.SIGSTOP)
                process.kill()
                process.wait()
                process = bridge()
                database.signal(signal.SIGCONT)
            else:
                process.send_signal(signal.SIGSTOP)
                database.crash()
                process.send_signal(signal.SIGCONT)
                database.start()
        wait_for(lambda: sent() == count, "all records are sent", seconds=LIMIT)
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
        process.kill()
        process.communicate()
    rows = [(one["tag"], at(one["time"]), one["value"]) for number, one in enumerate(records) if number not in bad]
    assert sql(database, "SELECT tag, time, value FROM readings ORDER BY time") == rows
    assert {one["offset"] for one in came(log, 5, "in.dead-letter")} == bad
    assert ledger_of(log.manifest("forward:in:postgresql") or b"") == {"in": {"received": count, "accepted": count - 5, "refused": 5}}


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("postgresql://h/d", "TO: names no table; give table=NAME, or table=SCHEMA.NAME"),
        ("postgresql://h/d/e?table=t", "TO: is not the address of a database of PostgreSQL; give an address such as postgresql://scada@"),
        ("postgresql+x://h/d?table=t", "TO: is not the address of a database"),
        ("postgresql://h/d?table=a.b.c", "TO: parameter table is 'a.b.c'"),
        ("postgresql://h/d?table=.c", "TO: parameter table is '.c'"),
        ("postgresql://h/d?table=t&keys=a", "TO: has no parameter 'keys'; did you mean 'key'?"),
        ("postgresql://h/d?table=t&key=a,,b", "TO: parameter key is 'a,,b'; give names"),
        ("postgresql://h/d?table=t&conflict=replace", "TO: parameter conflict is 'replace'"),
        ("postgresql://h/d?table=t&time_unit=m", "TO: parameter time_unit is 'm'"),
        ("postgresql://h/d?table=t&create=reading", "TO: names no key for the table to be created; give key=NAME,NAME or id=NAME"),
        ("postgresql://h/d?table=t&key=b&create=a%20int", "TO: parameter create lacks 'b', which is part of the key"),
        ("postgresql://h/d?table=t&id=b&create=a%20int", "TO: parameter create lacks 'b', which is part of the key"),
        ("postgresql://h/d?table=t&key=a&create=a%20int,a%20text", "TO: parameter create is 'a int,a text'"),
        ("postgresql://h/d?table=t&key=a&create=a%20int);DROP%20TABLE%20x", "TO: parameter create is 'a int);DROP TABLE x'; give reading, or names"),
        ("postgresql://h/d?table=t&hypertable=time", "TO: parameter hypertable names no column of create"),
        ("postgresql://h/d?table=t&sslmode=on", "TO: parameter sslmode is 'on'"),
        ("postgresql://u:${NO_WORD}@h/d?table=t", "TO: the variable NO_WORD is not set"),
    ],
)
def test_a_wrong_address_is_one_line(address: str, says: str) -> None:
    with pytest.raises((PlanError, EnvironmentFault)) as raised:
        target_of(address)
    assert says in str(raised.value)


def test_the_name_of_a_target_has_neither_user_nor_password() -> None:
    assert target_of("postgresql://u:p@[::1]:5/d?table=s.t&key=a").name == "postgresql://[::1]:5/d?table=s.t"
    assert target_of("postgresql:?table=t").name == "postgresql:///?table=t"

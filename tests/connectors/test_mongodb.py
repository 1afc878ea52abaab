"""MongoDB out: every record is a document once, or a dead letter. Against a server that speaks MongoDB's protocol."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from datetime import UTC, datetime
from typing import Any

import pymongo
import pytest
from outside import told_while_away
from pymongo import errors
from test_mqtt import came
from test_mqtt_out import fill

from forking import Forked, started
from headrace.cli import main
from headrace.cli.bridge import target_of
from headrace.connectors import mongodb
from headrace.connectors.forward import Forward
from headrace.connectors.mongodb import Documents
from headrace.connectors.progress import ledger_of
from headrace.connectors.protocol import Record, Unavailable
from headrace.errors import EnvironmentFault, PlanError
from headrace.topics.protocol import Log
from headrace.topics.sqlite import SqliteLog
from mongo import Mongo, mongo
from ports import free_port
from waiting import wait_for

__all__ = ["mongo"]

LIMIT = 400.0
FAILED = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed"
T0 = 1_706_123_400


@pytest.fixture
def database(mongo: Mongo) -> Iterator[pymongo.database.Database[Any]]:
    """Return the database `factory`, which is empty."""
    with mongo.client() as client:
        client.drop_database("factory")
        yield client.factory


def send(log: Log, topic: str, address: str, *, anew: bool = False) -> list[str]:
    told: list[str] = []
    with closing(Forward(log, topic, target_of(address), f"forward:{topic}:mongodb", latest=True, anew=anew, told=told.append)) as one:
        asyncio.run(asyncio.wait_for(one.run(), LIMIT))
    return told


def found(database: pymongo.database.Database[Any], collection: str) -> list[dict[str, Any]]:
    return sorted(database[collection].find(), key=lambda one: str(one["_id"]))


def plc(number: int, **more: Any) -> dict[str, Any]:
    return {"plc_id": f"plc-{number % 2}", "timestamp": T0 + number / 4, "motor_speed": 1500 + number} | more


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def test_the_factorys_readings_are_processed_data(log: SqliteLog, mongo: Mongo, database: pymongo.database.Database[Any]) -> None:
    fill(log, "plc_data", *(plc(number) for number in range(40)))
    address = f"{mongo.address}/factory?collection=processed_data&dates=timestamp&time_unit=s&ttl=3650d&index=plc_id,-timestamp;motor_speed"
    whole = [{"_id": f"plc_data/0/{number}", **plc(number, timestamp=at(T0 + number / 4))} for number in range(40)]
    for anew in (False, True):
        assert send(log, "plc_data", address, anew=anew) == []
        assert sorted(found(database, "processed_data"), key=lambda one: one["timestamp"]) == whole
    assert ledger_of(log.manifest("forward:plc_data:mongodb") or b"") == {"plc_data": {"received": 40, "accepted": 40, "refused": 0}}
    indexes = {tuple(one["key"].items()): one.get("expireAfterSeconds") for one in database.processed_data.list_indexes()}
    assert indexes == {
        (("_id", 1),): None, (("plc_id", 1), ("timestamp", -1)): None, (("motor_speed", 1),): None, (("timestamp", 1),): 3650 * 86_400,
    }  # fmt: skip


def test_a_time_series_collection_has_each_record_once(log: SqliteLog, mongo: Mongo, database: pymongo.database.Database[Any]) -> None:
    fill(log, "in", *(plc(number) for number in range(40)), {"plc_id": "a"}, plc(40, timestamp="soon"))
    query = "collection=s&timeseries=timestamp&meta=plc_id&granularity=minutes&time_unit=s&ttl=3650d"
    for anew in (False, True, True):
        assert len(send(log, "in", f"{mongo.address}/factory?{query}", anew=anew)) == 2
        assert [one["motor_speed"] for one in database.s.find(sort=[("timestamp", 1)])] == [1500 + number for number in range(40)]
    (given,) = database.list_collections(filter={"name": "s"})
    assert given["options"]["timeseries"] | {"bucketMaxSpanSeconds": 0} == {
        "timeField": "timestamp", "metaField": "plc_id", "granularity": "minutes", "bucketMaxSpanSeconds": 0,
    }  # fmt: skip
    assert given["options"]["expireAfterSeconds"] == 3650 * 86_400
    assert [one["detail"] for one in came(log, 2, "in.dead-letter")][:2] == [
        "has no time: nothing is in 'timestamp'", "has an unreadable time in 'timestamp': 'soon'",
    ]  # fmt: skip


@pytest.mark.parametrize("conflict", ["update", "nothing"])
def test_a_record_replaces_the_document_with_its_key(log: SqliteLog, mongo: Mongo, database: pymongo.database.Database[Any], conflict: str) -> None:
    fill(log, "in", *({"k": number % 3, "l": "x", "v": number} for number in range(9)), {"k": "0", "l": "x"}, {"k": 1, "v": 1}, {"k": None, "l": 1})
    address = f"{mongo.address}/factory?collection=last&key=k,l&conflict={conflict}"
    for anew in (False, True):
        assert len(send(log, "in", address, anew=anew)) == 2
        assert found(database, "last") == [
            {"_id": {"k": "0", "l": "x"}, "k": "0", "l": "x"},
            *({"_id": {"k": k, "l": "x"}, "k": k, "l": "x", "v": k + (6 if conflict == "update" else 0)} for k in range(3)),
        ]
    assert {one["detail"] for one in came(log, 4, "in.dead-letter")} == {
        "has no value in 'l', which is part of the key", "has no value in 'k', which is part of the key",
    }  # fmt: skip


def test_what_cannot_be_a_document_is_a_dead_letter_and_its_neighbours_are_written(
    log: SqliteLog, mongo: Mongo, database: pymongo.database.Database[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mongodb, "_MOST_BYTES", 1000)
    database.create_collection("t", validator={"v": {"$type": "number"}})
    database.t.create_index("u", unique=True, sparse=True)
    good = [{"v": number, "text": "é\n", "nested": {"a": [None, True]}} for number in range(20)]
    bad: list[tuple[Any, str]] = [
        (b"[1]", "is not a JSON object"),
        (b"{", "is not JSON"),
        ({"v": "x"}, "the server refuses it: Document failed validation (code 121)"),
        ({"v": 2**64}, "has a value or name that MongoDB does not have: MongoDB can only handle up to 8-byte ints"),
        ({"v": 1, "a\0b": 1}, "has a value or name that MongoDB does not have: "),
        ({"v": 1, "_id": 1}, "has the field '_id', which is the record's id; key=_id makes it the key"),
        ({"v": 1, "u": 7}, "the server refuses it: E11000 duplicate key error collection: factory.t index: u_1"),
        ({"v": 1, "text": "x" * 1000}, "makes a document of 1,0"),
    ]
    fill(log, "in", {"v": 0, "u": 7}, *good[:10], *(record for record, _ in bad), *good[10:])
    send(log, "in", f"{mongo.address}/factory?collection=t")
    letters = came(log, len(bad), "in.dead-letter")
    assert [letter["detail"][: len(why)] for letter, (_, why) in zip(letters, bad, strict=True)] == [why for _, why in bad]
    documents = sorted(database.t.find({}, {"_id": 0}), key=lambda one: (one["v"], "u" not in one))
    assert documents == [{"v": 0, "u": 7}, *good]


class Answering:
    """Stands for a collection whose server fails in a way that cannot be had from a real one."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def insert_many(self, *_: Any, **__: Any) -> None:
        raise self._error


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (errors.AutoReconnect("127.0.0.1:1: [Errno 111] Connection refused, Timeout: 10s, Topology Description: …"), "connection refused"),
        (errors.NetworkTimeout("timed out"), "does not answer: timed out"),
        (errors.NotPrimaryError("not primary"), "does not answer: not primary"),
        (errors.OperationFailure("interrupted at shutdown", 11600), "answers: interrupted at shutdown"),
        (errors.BulkWriteError({"writeErrors": [{"index": 0, "code": 112, "errmsg": "WriteConflict"}]}), "answers: WriteConflict"),
        (errors.BulkWriteError({"writeErrors": [], "writeConcernErrors": [{"code": 64, "errmsg": "waiting timed out"}]}), "answers: waiting"),
        (errors.OperationFailure("not authorized", 13), "answers: not authorized; give the user the role readWrite on this database"),
        (errors.OperationFailure("Authentication failed.", 18, {}), "answers: Authentication failed.; check user and password"),
        (errors.ServerSelectionTimeoutError(f"h:1: {FAILED}: certificate has expired (_ssl.c:1), Timeout: 5s"), "authority, has expired"),
        (errors.ServerSelectionTimeoutError(f"h:1: {FAILED}: self-signed certificate (_ssl.c:1)"), "is not accepted: self-signed certificate"),
    ],
)
def test_an_error_says_whose_fault_it_is(error: Exception, says: str) -> None:
    one = target_of("mongodb://h/factory?collection=t")
    assert isinstance(one, Documents)
    one._collection = Answering(error)  # type: ignore[assignment]
    with pytest.raises((Unavailable, PlanError)) as raised:
        asyncio.run(one.send([Record("in", 0, 0, 0, None, b"{}")]))
    assert says in str(raised.value)
    assert isinstance(raised.value, Unavailable) == ("; " not in says)


def test_collections_that_do_not_fit_end_the_bridge_with_one_line(
    log: SqliteLog, mongo: Mongo, database: pymongo.database.Database[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    database.create_collection("plain")
    database.create_collection("series", timeseries={"timeField": "time"})
    fill(log, "in", plc(0))
    for query, says in {
        "collection=plain&timeseries=timestamp": "collection=plain: is no time series collection; name another collection",
        "collection=series&timeseries=timestamp": "collection=series: is a time series by 'time'; name another collection",
        "collection=series": "collection=series: is a time series collection; give timeseries=time",
    }.items():
        assert main(["bridge", "topic:in", f"{mongo.address}/factory?{query}", "--until", "latest"]) == 2
        err = capsys.readouterr().err
        assert says in err
        assert err.count("\n") == 1
        log.claim("forward:in:mongodb").release()


def test_a_server_that_is_away_is_waited_for(log: SqliteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mongodb, "_SELECT_MS", 50)
    fill(log, "in", {"a": 1})
    away = f"mongodb://127.0.0.1:{free_port()}/factory?collection=t"
    assert told_while_away(log, "in", target_of(away)) == [f"{away}: connection refused; tried again until it answers"]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 20))])
def test_nothing_is_lost_or_twice_when_the_bridge_is_killed_and_the_server_crashes(
    log: SqliteLog, mongo: Mongo, database: pymongo.database.Database[Any], seed: int
) -> None:
    dice, count = random.Random(seed), 2000
    for first in range(0, count, 200):  # blocks of the topic are batches of the bridge
        fill(log, "in", *(plc(number) for number in range(first, first + 200)))

    def bridge() -> Forked:
        command = ["bridge", "topic:in", f"{mongo.address}/factory?collection=processed_data&dates=timestamp&time_unit=s"]
        return started(*command, stderr=subprocess.DEVNULL)

    def sent() -> int:
        return next((cursor.offset for cursor in log.cursors() if cursor.group == "forward:in:mongodb"), 0)

    process = bridge()
    try:
        for fault in dice.sample(["kill", "restart", "crash", "pause"], 4) if seed else ["kill", "crash"]:
            goal = min(sent() + dice.randrange(1, 500), count)
            wait_for(lambda goal=goal: sent() >= goal, "records are sent", seconds=LIMIT, every=0.002)
            if fault == "kill":
                process.kill()
                process.wait()
                process = bridge()
            elif fault == "pause":
                process.send_signal(signal.SIGSTOP)
                mongo.end()
                process.send_signal(signal.SIGCONT)
                mongo.start()
            else:
                mongo.end(signal.SIGTERM if fault == "restart" else signal.SIGKILL)
                mongo.start()
        wait_for(lambda: sent() == count, "all records are sent", seconds=LIMIT)
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
        process.kill()
        process.communicate()
    documents: list[Mapping[str, Any]] = list(database.processed_data.find(sort=[("motor_speed", 1)]))
    assert documents == [{"_id": f"in/0/{number}", **plc(number, timestamp=at(T0 + number / 4))} for number in range(count)]
    assert ledger_of(log.manifest("forward:in:mongodb") or b"") == {"in": {"received": count, "accepted": count, "refused": 0}}


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("mongodb://h/d", "TO: names no collection; give collection=NAME"),
        ("mongodb://h?collection=c", "TO: is not the address of a database of MongoDB; give an address such as mongodb://127"),
        ("mongodb:?collection=c", "TO: is not the address of a database"),
        ("mongodb://h/d/e?collection=c", "TO: is not the address of a database"),
        ("mongodb://h/d?collection=c&keys=a", "TO: has no parameter 'keys'; did you mean 'key'?"),
        ("mongodb://h/d?collection=c&timeseries=t&key=a", "TO: parameter key is not for time series"),
        ("mongodb://h/d?collection=c&meta=a", "TO: parameters meta and granularity are only for time series; give timeseries=FIELD"),
        ("mongodb://h/d?collection=c&ttl=1d", "TO: parameter ttl needs the time of a document; give dates=FIELD"),
        ("mongodb://h/d?collection=c&dates=t&ttl=1y", "TO: parameter ttl is '1y'"),
        ("mongodb://h/d?collection=c&index=a,,b", "TO: parameter index is 'a,,b'"),
        ("mongodb://h/d?collection=c&tls=on", "TO: parameter tls is 'on'"),
        ("mongodb://u:${NO_WORD}@h/d?collection=c", "TO: the variable NO_WORD is not set"),
    ],
)
def test_a_wrong_address_is_one_line(address: str, says: str) -> None:
    with pytest.raises((PlanError, EnvironmentFault)) as raised:
        target_of(address)
    assert says in str(raised.value)


def test_the_name_of_a_target_has_neither_user_nor_password() -> None:
    assert target_of("mongodb://u:p@[::1]:5/d?collection=c&key=a").name == "mongodb://[::1]:5/d?collection=c"
    assert json.dumps("p@") not in target_of("mongodb+srv://u:p@h.example/d?collection=c").name

"""Files that are rolled: the same names and bytes whatever failed, each record in one file, and what cannot be written is set aside."""

from __future__ import annotations

import asyncio
import csv
import errno
import io
import json
import os
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

import polars as pl
import pytest
from outside import LIMIT, SEEDS, run_with_kills, value, values_of

from headrace.cli import main
from headrace.connectors.files import RolledFiles, target
from headrace.connectors.forward import Forward
from headrace.connectors.progress import ledger_of
from headrace.connectors.protocol import Record, Unavailable
from headrace.errors import EnvironmentFault, PlanError
from headrace.topics.sqlite import SqliteLog

pytestmark = pytest.mark.usefixtures("quick")
PARQUET = "format=parquet&columns=" + quote("number BIGINT NOT NULL,key STRING,nested MAP<STRING, DOUBLE>")


def send(one: RolledFiles, records: Sequence[Record]) -> dict[int, str]:
    async def work() -> dict[int, str]:
        try:
            return dict(await one.send(records) or {})
        finally:
            await one.close()

    return asyncio.run(work())


def records(values: Iterable[object], *, step_ms: int = 1000) -> list[Record]:
    return [Record("t", 0, place, place * step_ms, None, json.dumps(one).encode()) for place, one in enumerate(values)]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] != "."}


def pending(folder: Path) -> list[bytes]:
    """The records of the journals, in the order of their partitions."""
    found = []
    for path in sorted(folder.glob(".*.journal")):
        found += [line.split(b" ", 3)[3] for line in path.read_bytes().splitlines()[1:]]
    return found


def rolled(one: Sequence[Record], roll: dict[str, float]) -> list[list[Record]]:
    """A plain model: the whole files of one partition."""
    done: list[list[Record]] = []
    mine: list[Record] = []
    for record in one:
        if mine and record.arrived_ms // roll.get("ms", 1e18) > mine[0].arrived_ms // roll.get("ms", 1e18):
            done, mine = [*done, mine], []
        mine = [*mine, record]
        if len(mine) >= roll.get("records", 1e18) or sum(len(other.value) + 1 for other in mine) >= roll.get("bytes", 1e18):
            done, mine = [*done, mine], []
    return done


# when a file ends


@pytest.mark.parametrize(
    ("roll", "meant"),
    [("7", {"records": 7}), ("1kB", {"bytes": 1000}), ("20s", {"ms": 20_000}), ("1KiB,30s,25", {"bytes": 1024, "ms": 30_000, "records": 25})],
)
def test_a_file_ends_by_records_size_or_time(tmp_path: Path, roll: str, meant: dict[str, float]) -> None:
    dice = Random(roll)
    sent, now = [], 0
    for offset in range(200):
        now += dice.choice([0, 100, 1000, 3000, -500])
        sent.append(Record("t", 0, offset * 2, max(now, 0), None, json.dumps({"number": offset, "text": "x" * dice.randrange(60)}).encode()))
    for at in range(0, 200, 33):
        assert send(target(f"files:{tmp_path}?roll={roll}"), sent[at : at + 33]) == {}
    wanted = {
        f"t.0.{part[0].offset:012d}-{part[-1].offset:012d}.ndjson": b"".join(record.value + b"\n" for record in part) for part in rolled(sent, meant)
    }
    assert len(wanted) > 2
    assert files(tmp_path) == wanted
    assert pending(tmp_path) == [record.value for record in sent[sum(content.count(b"\n") for content in wanted.values()) :]]


# what fails


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("form", ["format=ndjson", "format=csv", PARQUET])
def test_whatever_fails_the_files_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, seed: int) -> None:
    """The disk fails at any write that makes something durable, processes end, tails are torn, and batches are sent again."""
    dice = Random(f"{form} {seed}")
    offsets = [0, 0]
    sent = []
    for number in range(80):
        part = dice.randrange(2)
        offsets[part] += dice.choice([1, 1, 1, 3])
        sent.append(Record("t", part, offsets[part], number * 700, None, b"poison" if dice.random() < 0.1 else value(number)))
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    wanted = send(target(f"files:{calm}?{form}&roll=9,20s"), sent)
    assert set(wanted) == {place for place, record in enumerate(sent) if record.value == b"poison"}

    real, failing = os.fsync, True

    def fsync(handle: int) -> None:
        if failing and dice.random() < 0.2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    refused: dict[int, str] = {}
    at = failures = 0
    while at < len(sent):
        width = dice.randrange(1, 40)
        lengths = {path: path.stat().st_size for path in rough.glob(".*.journal")}
        try:
            found = send(target(f"files:{rough}?{form}&roll=9,20s"), sent[at : at + width])
        except Unavailable as fault:
            assert "cannot be written: No space left on device" in str(fault)
            failures += 1
            continue
        if dice.random() < 0.4:  # killed before the commit, with the tail of the journal written in part
            for path, length in lengths.items():
                if (size := path.stat().st_size) > length and path.read_bytes()[:length].count(b"\n") > 1 and dice.random() < 0.5:
                    os.truncate(path, dice.randrange(size - 10, size))
            continue
        refused.update((at + place, reason) for place, reason in found.items())
        at += width
    failing = False
    assert failures > 0
    assert refused == wanted
    assert files(rough) == files(calm)
    assert len(files(calm)) > 4
    assert pending(rough) == pending(calm)


def test_a_full_disk_is_told_in_one_line_and_tried_again(log: SqliteLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log.create("numbers", 1)
    log.append("numbers", [value(number) for number in range(25)])
    real, left, told = os.fsync, 3, list[str]()

    def fsync(handle: int) -> None:
        nonlocal left
        if left and os.path.realpath(f"/dev/fd/{handle}").startswith(str(tmp_path / "out")):
            left -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    if not Path("/dev/fd").is_dir():
        pytest.skip("the system does not name open files")
    monkeypatch.setattr(os, "fsync", fsync)
    with closing(Forward(log, "numbers", target("files:out?roll=10"), "f", latest=True, told=told.append)) as one:
        assert asyncio.run(asyncio.wait_for(one.run(), LIMIT)) == 25
    assert left == 0
    assert told == [f"files:{tmp_path}/out?format=ndjson&roll=10: cannot be written: No space left on device; tried again until it answers"]
    assert sorted(files(tmp_path / "out")) == ["numbers.0.000000000000-000000000009.ndjson", "numbers.0.000000000010-000000000019.ndjson"]


def test_a_folder_that_cannot_be_one_is_the_environments_fault(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(Unavailable, match="cannot be written: "):
        send(target(f"files:{tmp_path}/out"), records([{}]))


CHILD = """
import asyncio
import sys
from contextlib import closing
from pathlib import Path

from forking import begin
from headrace.connectors.files import target
from headrace.connectors.forward import Forward
from headrace.topics.sqlite import SqliteLog

folder = Path(sys.argv[1])
files = target(f"files:{folder / 'out'}?format=csv&roll=37")
files.most_records = 20
with closing(SqliteLog(folder / "log.db")) as log, closing(Forward(log, "numbers", files, "f", latest=True)) as one:
    begin()
    asyncio.run(one.run())
"""


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 12))])
def test_kill_9_at_any_moment_leaves_the_same_files(tmp_path: Path, seed: int) -> None:
    sent = [b"[17]" if number % 500 == 17 else value(number) for number in range(3000)]
    with closing(SqliteLog(tmp_path / "log.db")) as log:
        log.create("numbers", 1)
        log.append("numbers", sent)
        run_with_kills(CHILD, tmp_path, dice=Random(seed), longest=0.12)
        assert ledger_of(log.manifest("f") or b"") == {"numbers": {"received": 3000, "accepted": 2994, "refused": 6}}
        assert len(values_of(log, "numbers.dead-letter")) == 6
    fit = [(offset, json.loads(one)) for offset, one in enumerate(sent) if one != b"[17]"]
    wanted = {}
    for at in range(0, len(fit) - 36, 37):
        part = fit[at : at + 37]
        lines = "".join(f"{one['number']},{one['key']}\n" for _, one in part)
        wanted[f"numbers.0.{part[0][0]:012d}-{part[-1][0]:012d}.csv"] = f"number,key\n{lines}".encode()
    assert files(tmp_path / "out") == wanted
    assert len(pending(tmp_path / "out")) == len(fit) % 37


# formats


def test_csv_has_the_columns_of_the_first_record_and_sets_aside_a_record_with_others(tmp_path: Path) -> None:
    sent: list[Any] = [
        [],
        {},
        {"tag": 'a "b", c', "value": 12345678901234567890.5},
        {"value": None, "tag": "line\nfeed"},
        {"tag": "x", "unit": "bar"},
    ]
    sent += [{"value": [1, {"a": True}]}, {"tag": "ä", "value": False}]
    refused = send(target(f"files:{tmp_path}?format=csv&roll=2"), records(sent))
    assert {place: reason.partition(":")[0] for place, reason in refused.items()} == {
        0: "is not a JSON object",
        1: "has no fields",
        4: "field 'unit' is not a column",
    }
    found = [list(csv.reader(io.StringIO(content.decode(), newline=""))) for _, content in sorted(files(tmp_path).items())]
    assert found[0] == [["tag", "value"], ['a "b", c', "1.2345678901234567e+19"], ["line\nfeed", ""]]
    assert found[1] == [["tag", "value"], ["", '[1, {"a": true}]'], ["ä", "false"]]


def test_csv_with_columns_has_these_fields_and_no_others(tmp_path: Path) -> None:
    assert send(target(f"files:{tmp_path}?format=csv&roll=2&columns=b,a"), records([{"a": 1, "c": 2}, {}])) == {}
    assert files(tmp_path) == {"t.0.000000000000-000000000001.csv": b"b,a\n,1\n,\n"}


def test_parquet_has_the_declared_types_and_sets_aside_what_cannot_be_read(tmp_path: Path) -> None:
    columns = quote("tag STRING NOT NULL,value DOUBLE,at TIMESTAMP_LTZ(3),more MAP<STRING, DOUBLE>")
    sent = [{"tag": "a", "value": "1.5", "at": "2024-01-15T10:30:01Z", "more": {"x": 1}, "odd": 1}, {"value": 1}, {"tag": "b"}]
    refused = send(target(f"files:{tmp_path}?format=parquet&roll=2&columns={columns}"), records(sent))
    assert list(refused) == [1]
    (path,) = (path for path in tmp_path.iterdir() if path.suffix == ".parquet")
    assert path.name == "t.0.000000000000-000000000002.parquet"
    rows = pl.read_parquet(path)
    assert rows.columns == ["tag", "value", "at", "more"]
    assert rows["tag"].to_list() == ["a", "b"]
    assert rows["value"].to_list() == [1.5, None]
    assert str(rows["at"][0]) == "2024-01-15 10:30:01+00:00"


def test_a_line_feed_in_a_record_does_not_break_its_line(tmp_path: Path) -> None:
    assert send(target(f"files:{tmp_path}?roll=1"), [Record("t", 3, 5, 0, None, b'{\n"a": 1}')]) == {}
    assert files(tmp_path) == {"t.3.000000000005-000000000005.ndjson": b'{ "a": 1}\n'}


# addresses and folders


@pytest.mark.parametrize(
    ("address", "wrong"),
    [
        ("files:", "names no folder"),
        ("files:out?format=xml", "parameter format is 'xml'"),
        ("files:out?rol=5", "has no parameter 'rol'"),
        ("files:out?roll=0", "parameter roll is '0'"),
        ("files:out?roll=5,6", "parameter roll is '5,6'"),
        ("files:out?roll=5TB", "parameter roll is '5TB'"),
        ("files:out?columns=a", "only for csv and parquet"),
        ("files:out?format=csv&columns=a,a", "parameter columns is 'a,a'"),
        ("files:out?format=parquet", "names no columns"),
        ("files:out?format=parquet&columns=a", "parameter columns has 'a'"),
        ("files:out?format=parquet&columns=a%20DUBLE", "DUBLE"),
    ],
)
def test_a_wrong_address_is_refused_before_anything_starts(address: str, wrong: str) -> None:
    with pytest.raises(PlanError) as caught:
        target(address)
    assert wrong in str(caught.value)
    assert caught.value.fix


def test_files_of_other_settings_are_not_touched(tmp_path: Path) -> None:
    send(target(f"files:{tmp_path}?roll=2"), records([{"a": 1}]))
    with pytest.raises(PlanError, match="has files of format=ndjson&roll=2"):
        send(target(f"files:{tmp_path}?roll=3"), records([{"a": 1}]))


def test_one_process_at_a_time_writes_the_files_of_a_topic(tmp_path: Path) -> None:
    async def work() -> None:
        first, second = target(f"files:{tmp_path}?roll=2"), target(f"files:{tmp_path}?roll=2")
        try:
            await first.send(records([{"a": 1}]))
            with pytest.raises(EnvironmentFault, match=f"process {os.getpid()} writes files of t there"):
                await second.send(records([{"a": 1}]))
        finally:
            await first.close()
            await second.close()

    asyncio.run(work())


def test_the_command_bridges_a_topic_into_files_and_resumes(log: SqliteLog, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log.create("numbers", 1)
    for first in (0, 15):
        log.append("numbers", [value(number) for number in range(first, first + 15)])
        assert main(["bridge", "topic:numbers", "files:out?roll=10", "--until", "latest"]) == 0
    assert capfd.readouterr().err.count("15 records sent") == 2
    assert [content.count(b"\n") for content in files(tmp_path / "out").values()] == [10, 10, 10]
    assert sorted(b"".join(files(tmp_path / "out").values()).splitlines()) == sorted(value(number) for number in range(30))

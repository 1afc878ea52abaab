"""Each fingerprint has one whole file, with the readings that came before it, whatever happens to the saver."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from forking import Forked, program
from headrace.apps.fingerprint import fingerprint
from headrace.cli.saver import save
from headrace.connectors import fingerprint_files
from headrace.connectors.fingerprint_readings import Judge
from headrace.connectors.fingerprint_saver import SAVER, FingerprintSaver
from headrace.connectors.fingerprints import fingerprint_of
from headrace.engines.embedded.live import Live, run_live
from headrace.errors import EnvironmentFault, PlanError
from headrace.kernels.reading.record import Malformed
from headrace.topics.protocol import Log
from headrace.topics.sqlite import SqliteLog

T0 = 1_706_123_400_000
MINUTE = 60_000
SECONDS = 180
"""How long any child may take."""


@pytest.fixture
def log(tmp_path: Path) -> Iterable[SqliteLog]:
    with closing(SqliteLog(tmp_path / "home/log.db")) as log:
        log.create("sensor-data")
        log.create("fingerprint-output")
        yield log


def reading(equip_id: Any, time_ms: int, data: Any = None) -> bytes:
    return json.dumps({"equip_id": equip_id, "timestamp": time_ms, "data": {"0001": "45.234"} if data is None else data}).encode()


def a_fingerprint(equip_id: str = "110", start_ms: int = T0, length: int = MINUTE, **other: Any) -> bytes:
    name = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{equip_id} {start_ms}"))
    data = {"0001": {"min": 45.234, "max": 45.234, "median": 45.234, "mean": 45.234, "std_dev": 0.0}}
    content = {"uuid": name, "equip_id": equip_id, "type": "kiln", "start_ms": start_ms, "end_ms": start_ms + length, "data": data}
    return json.dumps({"fingerprint": content | other}).encode()


def saved(log: Log, folder: Path, warned: list[str] | None = None, **options: Any) -> dict[str, bytes]:
    """Save all that is there, and return the folder's files."""
    with closing(FingerprintSaver(log, folder, latest=True, warn=(warned if warned is not None else []).append, **options)) as saver:
        saver.run(duration=SECONDS)
        assert saver.finished
    return files(folder)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".saver.lock"}


def only(found: dict[str, bytes]) -> dict[str, Any]:
    (text,) = found.values()
    return json.loads(text)


def cursors(log: Log) -> dict[tuple[str, int], int]:
    return {(one.topic, one.partition): one.offset for one in log.cursors() if one.group == SAVER}


# the join


def test_a_file_is_the_fingerprint_and_the_readings_of_its_equipment_and_window(log: SqliteLog, tmp_path: Path) -> None:
    inside = [reading(110, T0), reading(110, T0 + MINUTE - 1)]
    outside = [reading(110, T0 - 1), reading(110, T0 + MINUTE), reading(111, T0 + 5)]
    log.append("sensor-data", [outside[0], inside[0], outside[2], inside[1], outside[1]])
    log.append("fingerprint-output", [a_fingerprint()])
    found = saved(log, tmp_path / "output")
    record = json.loads(a_fingerprint())["fingerprint"]
    assert list(found) == [f"{record['uuid']}_{T0}_{T0 + MINUTE}.json"]
    assert only(found) == {
        "fingerprint": record,
        "sensor_data": {
            "equip_id": "110",
            "window": {"start_ms": T0, "end_ms": T0 + MINUTE, "start_time": "2024-01-24T19:10:00Z", "end_time": "2024-01-24T19:11:00Z"},
            "readings": [json.loads(one) for one in inside],
            "reading_count": 2,
        },
    }
    assert list(only(found)) == ["fingerprint", "sensor_data"]


def test_readings_stand_in_the_file_as_they_came(log: SqliteLog, tmp_path: Path) -> None:
    lines = [
        b'{"equip_id":110,"timestamp":%d,"data":{"0001":"null","0002":null,"0003":1.10,"0004":1e2}}' % T0,
        b' {"timestamp" : %d, "equip_id" : "110", "data":{}, "more":[12345678901234567890123]} ' % T0,
        b'{"equip_id":110,"timestamp":"%d"}' % T0,
    ]
    log.append("sensor-data", lines)
    log.append("fingerprint-output", [a_fingerprint()])
    (text,) = saved(log, tmp_path / "output").values()
    assert b'"readings":[' + b",".join(line.strip() for line in lines) + b'],"reading_count":3' in text


def test_what_the_pipeline_cannot_read_is_left_out(log: SqliteLog, tmp_path: Path) -> None:
    bad = [b"{", b"[]", b"\xff", b"", reading(None, T0), reading(110, T0, data=[1]), reading(110, T0 * 1000), b'{"equip_id":110,"timestamp":"soon"}']
    log.append("sensor-data", [*bad, reading(110, T0), *bad])
    log.append("fingerprint-output", [a_fingerprint()])
    assert only(saved(log, tmp_path / "output"))["sensor_data"]["reading_count"] == 1


def test_what_is_readable_is_judged_as_the_pipeline_does() -> None:
    (source,) = fingerprint.plan().sources
    mine = Judge("sensor-data")._intake.source
    assert (mine.declared, mine.event_time, mine.range_ms) == (source.declared, source.event_time, source.range_ms)


@pytest.mark.parametrize(
    ("equip_id", "texts"),
    [("110", ["110", '"110"']), ("110.0", ["110.0", "1.1e2", '"110.0"']), ("kiln / ü", ['"kiln / ü"', '"kiln \\/ \\u00fc"']), ("0110", ['"0110"'])],
)
def test_equipment_is_compared_as_text_by_the_contract(log: SqliteLog, tmp_path: Path, equip_id: str, texts: list[str]) -> None:
    every = ["110", '"110"', "110.0", "1.1e2", '"110.0"', '"kiln / ü"', '"kiln \\/ \\u00fc"', '"0110"', "true"]
    log.append("sensor-data", [f'{{"equip_id":{text},"timestamp":{T0},"data":{{"a":1}}}}'.encode() for text in every])
    log.append("fingerprint-output", [a_fingerprint(equip_id)])
    found = only(saved(log, tmp_path / "output"))["sensor_data"]
    assert found["equip_id"] == equip_id
    assert found["readings"] == [json.loads(f'{{"equip_id":{text},"timestamp":{T0},"data":{{"a":1}}}}') for text in texts]


def test_readings_of_several_partitions_stand_by_partition_and_offset(tmp_path: Path) -> None:
    with closing(SqliteLog(tmp_path / "log.db")) as log:
        log.create("sensor-data", 3)
        log.create("fingerprint-output", 2)
        sent = 0
        for key in [b"a", b"b", b"c", b"d", b"e", b"f"] * 3:
            log.append("sensor-data", [reading(110, T0 + sent)], [key])
            sent += 1
        for minute in range(4):
            log.append("fingerprint-output", [a_fingerprint(start_ms=T0 + minute * MINUTE)], [str(minute).encode()])
        places = {json.loads(e.value)["timestamp"]: (e.partition, e.offset) for number in range(3) for e in log.entries("sensor-data", number, 0, 99)}
        assert len({partition for partition, _ in places.values()}) > 1
        found = saved(log, tmp_path / "output")
    assert len(found) == 4
    (first,) = (json.loads(text)["sensor_data"] for text in found.values() if json.loads(text)["fingerprint"]["start_ms"] == T0)
    times = [one["timestamp"] for one in first["readings"]]
    assert len(times) == sent
    assert [places[time] for time in times] == sorted(places.values())


def test_only_what_came_before_the_fingerprint_is_in_its_file(log: SqliteLog, tmp_path: Path) -> None:
    log.append("sensor-data", [reading(110, T0), reading(110, T0 + MINUTE)])
    log.append("sensor-data", [reading(110, T0 + 1)])  # late, but there
    log.append("fingerprint-output", [a_fingerprint()])
    log.append("sensor-data", [reading(110, T0 + 2)])
    assert [one["timestamp"] for one in only(saved(log, tmp_path / "output"))["sensor_data"]["readings"]] == [T0, T0 + 1]


def test_a_revision_takes_the_files_place(log: SqliteLog, tmp_path: Path) -> None:
    log.append("sensor-data", [reading(110, T0)])
    log.append("fingerprint-output", [a_fingerprint()])
    saved(log, tmp_path / "output")
    log.append("sensor-data", [reading(110, T0 + 1)])
    log.append("fingerprint-output", [a_fingerprint(data={"0001": {"min": 1.0}})])
    found = only(saved(log, tmp_path / "output"))
    assert found["fingerprint"]["data"] == {"0001": {"min": 1.0}}
    assert found["sensor_data"]["reading_count"] == 2


def test_the_fingerprints_of_the_pipeline_itself_are_saved(tmp_path: Path) -> None:
    with closing(SqliteLog(tmp_path / "log.db")) as log:
        log.create("sensor-data")
        log.append("sensor-data", [reading(equip, T0 + second * 1000) for second in range(150) for equip in (110, "kiln a")])
        run_live(Live(fingerprint.plan(), log, latest=True))
        found = [json.loads(text) for text in saved(log, tmp_path / "output").values()]
    counts = {(one["fingerprint"]["equip_id"], one["fingerprint"]["start_ms"]): one["sensor_data"]["reading_count"] for one in found}
    assert counts == {(equip, T0 + n * MINUTE): count for equip in ("110", "kiln a") for n, count in enumerate([60, 60, 30])}


def test_records_ahead_of_their_time_are_left_out_as_a_live_pipeline_does(tmp_path: Path) -> None:
    now = T0 - 2 * 3_600_000
    with closing(SqliteLog(tmp_path / "log.db", clock=lambda: now)) as log:
        log.create("sensor-data")
        log.create("fingerprint-output")
        log.append("sensor-data", [reading(110, T0)])
        now = T0
        log.append("sensor-data", [reading(110, T0 + 1)])
        log.append("fingerprint-output", [a_fingerprint()])
        log.append("sensor-data", [reading(111, T0 + 2 * 3_600_000)])
        # A pipeline over what is there takes records from any time.
        log.append("fingerprint-output", [a_fingerprint("111", T0 + 2 * 3_600_000)])
        found = {one["fingerprint"]["equip_id"]: one["sensor_data"] for one in map(json.loads, saved(log, tmp_path / "output").values())}
    assert [one["timestamp"] for one in found["110"]["readings"]] == [T0 + 1]
    assert found["111"]["reading_count"] == 1


def test_a_window_that_ends_ahead_of_all_arrivals_has_all_its_readings(tmp_path: Path) -> None:
    with closing(SqliteLog(tmp_path / "log.db", clock=lambda: T0 + 30_000 - 3_600_000)) as log:
        log.create("sensor-data")
        log.create("fingerprint-output")
        log.append("sensor-data", [reading(110, T0 + 10_000), reading(110, T0 + 50_000)])
        log.append("fingerprint-output", [a_fingerprint()])
        assert only(saved(log, tmp_path / "output"))["sensor_data"]["reading_count"] == 2


def test_a_fingerprint_waits_for_the_readings_that_came_before_it(log: SqliteLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log.append("sensor-data", [reading(110, T0)])
    log.append("fingerprint-output", [a_fingerprint()])
    with closing(FingerprintSaver(log, tmp_path / "output")) as saver:
        with monkeypatch.context() as lagging:
            lagging.setattr(saver.forward._feed, "lag", lambda: {("sensor-data", 0): 1})
            assert saver.step() == 0
        assert saver.step() == 1


# what is no fingerprint


def spoilt(**other: Any) -> bytes:
    record = json.loads(a_fingerprint())
    return json.dumps({"fingerprint": record["fingerprint"] | other}).encode()


def without(name: str) -> bytes:
    record = json.loads(a_fingerprint())
    del record["fingerprint"][name]
    return json.dumps(record).encode()


BAD = [
    b"",
    b"{",
    b"\xff",
    b"[]",
    b"{}",
    b'{"fingerprint":[]}',
    b'{"fingerprint":' * 3000,
    *(without(name) for name in ("uuid", "equip_id", "type", "start_ms", "end_ms", "data")),
    *(spoilt(uuid=name) for name in ("../evil", "/tmp/evil", "a/b", "a\\b", "..", ".", "", "a\0b", "a\n", "x" * 65, 7, 1.5, None, ["a"])),
    spoilt(start_ms="soon"),
    spoilt(start_ms=-MINUTE),
    spoilt(start_ms=True),
    spoilt(end_ms=T0),
    spoilt(end_ms=10**17),
    spoilt(data=[]),
    spoilt(equip_id=None),
]


@pytest.mark.parametrize("record", BAD, ids=range(len(BAD)))
def test_a_record_that_is_no_fingerprint_says_why(record: bytes) -> None:
    found = fingerprint_of(record)
    assert isinstance(found, Malformed)
    assert found.detail


def test_bad_records_are_counted_and_reported_and_stop_nothing(log: SqliteLog, tmp_path: Path) -> None:
    log.append("sensor-data", [reading(110, T0)])
    for record in BAD:
        log.append("fingerprint-output", [record])
    log.append("fingerprint-output", [a_fingerprint()])
    before = {*tmp_path.rglob("*")}
    warned: list[str] = []
    assert len(saved(log, tmp_path / "a/b/output", warned)) == 1
    assert {path.parent for path in {*tmp_path.rglob("*")} - before if path.suffix == ".json"} == {tmp_path / "a/b/output"}
    assert warned[0] == "fingerprint-output partition 0 offset 0: no fingerprint: not JSON: it ends too early or holds a lone surrogate"
    assert warned[-1] == f"fingerprint-output: {len(BAD) - 5} more were set aside; {len(BAD)} so far"
    assert len(warned) == 6
    assert cursors(log)["fingerprint-output", 0] == len(BAD) + 1


# restarts


def history(minutes: int = 12, equipment: int = 3) -> Iterable[tuple[str, list[bytes]]]:
    """Give what is appended, in its order: readings in disorder, a few late ones, and fingerprints after each window."""
    dice = random.Random(7)
    for minute in range(minutes + 1):
        start = T0 + minute * MINUTE
        for second in range(0, 60, 4):
            times = [start + second * 1000 - dice.randrange(9_000) for _ in range(equipment)]
            yield "sensor-data", [reading(110 + number, time) for number, time in enumerate(times)]
            if second == 12 and minute:
                yield "fingerprint-output", [a_fingerprint(str(110 + number), start - MINUTE) for number in range(equipment)]
        if minute == 5:
            yield "fingerprint-output", [b"broken", a_fingerprint("110", T0 + MINUTE)]
            yield "sensor-data", [reading(110, T0 + 2), b"broken"]
    yield "fingerprint-output", [a_fingerprint("110", T0)]


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, bytes]:
    """What an unbroken run leaves."""
    with closing(filled(tmp_path / "whole")) as log:
        return saved(log, tmp_path / "whole/output")


def filled(folder: Path) -> SqliteLog:
    log = SqliteLog(folder / "log.db")
    log.create("sensor-data")
    log.create("fingerprint-output")
    for topic, records in history():
        log.append(topic, records)
    return log


@pytest.fixture(params=["large", "small"])
def memory(request: pytest.FixtureRequest, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> str:  # noqa: ARG001
    """Room for all readings, or, once it is known what to expect, for hardly any."""
    if request.param == "small":
        monkeypatch.setattr(fingerprint_files, "MOST_BYTES", 8_000)
        monkeypatch.setattr(fingerprint_files, "GRACE_MS", 0)
        monkeypatch.setattr(fingerprint_files, "WINDOWS_KEPT", 0)
    return str(request.param)


def test_an_unbroken_run_has_for_each_fingerprint_what_came_before_its_last_revision(expected: dict[str, bytes]) -> None:
    came: list[dict[str, Any]] = []
    should_be: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for topic, records in history():
        for record in records:
            if record == b"broken":
                continue
            found = json.loads(record)
            if topic == "sensor-data":
                came.append(found)
                continue
            found = found["fingerprint"]
            mine = [one for one in came if str(one["equip_id"]) == found["equip_id"] and found["start_ms"] <= one["timestamp"] < found["end_ms"]]
            should_be[found["equip_id"], found["start_ms"]] = mine
    are = {
        (one["fingerprint"]["equip_id"], one["fingerprint"]["start_ms"]): one["sensor_data"]["readings"] for one in map(json.loads, expected.values())
    }
    assert len(are) == 36
    assert are == should_be
    assert T0 + 2 in [one["timestamp"] for one in are["110", T0]], "the last revision has the late reading"


@pytest.mark.usefixtures("memory")
def test_neither_room_nor_batches_change_the_files(tmp_path: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint_files, "FILES_AT_ONCE", 1)
    with closing(filled(tmp_path / "again")) as log:
        assert saved(log, tmp_path / "again/output") == expected


def test_a_new_saver_at_every_step_leaves_the_same_files(
    tmp_path: Path, expected: dict[str, bytes], memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint_files, "FILES_AT_ONCE", 2)
    folder = tmp_path / "broken"
    with closing(SqliteLog(folder / "log.db")) as log:
        log.create("sensor-data")
        log.create("fingerprint-output")
        for topic, records in history():
            log.append(topic, records)
            if topic == "sensor-data" and memory == "large" and len(records) > 2:
                continue
            with closing(FingerprintSaver(log, folder / "output", warn=[].append)) as saver:
                saver.step()
        assert saved(log, folder / "output") == expected


@pytest.mark.usefixtures("memory")
def test_a_saver_that_runs_along_leaves_the_same_files(tmp_path: Path, expected: dict[str, bytes]) -> None:
    with closing(SqliteLog(tmp_path / "log.db")) as log:
        log.create("sensor-data")
        log.create("fingerprint-output")
        with closing(FingerprintSaver(log, tmp_path / "output", warn=[].append)) as saver:
            for topic, records in history():
                log.append(topic, records)
                while not saver.idle:
                    saver.step()
                saver.idle = False
    assert files(tmp_path / "output") == expected


CHILD = """
import os, signal, sys
from pathlib import Path
from headrace.connectors import fingerprint_files
from headrace.cli.saver import save
from headrace.topics.sqlite import SqliteClaim, SqliteLog

left = int(sys.argv[2])

def dying(work):
    def passed(*arguments, **options):
        global left
        for moment in ("before", "after"):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            if moment == "before":
                result = work(*arguments, **options)
        return result
    return passed

os.fsync = dying(os.fsync)
Path.replace = dying(Path.replace)
Path.open = dying(Path.open)
SqliteClaim.commit = dying(SqliteClaim.commit)
fingerprint_files.FILES_AT_ONCE = 3
folder = Path(sys.argv[1])
save(SqliteLog(folder / "log.db"), folder / "output", stop=lambda: False, duration=60, records=None, latest=True)
"""


UNBUFFERED = "import sys; sys.stdout.reconfigure(line_buffering=True)\n"


def test_kills_at_ten_moments_change_no_byte(tmp_path: Path, expected: dict[str, bytes]) -> None:
    dice = random.Random(1)
    folder = tmp_path / "killed"
    filled(folder).close()
    for _ in range(10):
        assert run_child(folder, dice.randrange(1, 40)) == -signal.SIGKILL
        for name, text in files(folder / "output").items():
            assert name.startswith(".") or json.loads(text)["sensor_data"]["reading_count"], "what has its name is whole"
    assert run_child(folder, 10**9) == 0
    assert files(folder / "output") == expected


def run_child(folder: Path, moment: int) -> int:
    return Forked(program, CHILD, str(folder), str(moment)).wait(SECONDS)


def test_kills_from_outside_change_no_byte(tmp_path: Path, expected: dict[str, bytes]) -> None:
    dice = random.Random(2)
    folder = tmp_path / "killed"
    filled(folder).close()
    for _ in range(4):
        child = Forked(program, UNBUFFERED + CHILD, str(folder), "1000000000", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert child.stdout is not None
        for _ in range(dice.randrange(1, 12)):
            if not child.stdout.readline():
                break
        child.kill()
        child.wait(SECONDS)
        child.stdout.close()
    assert run_child(folder, 10**9) == 0
    assert files(folder / "output") == expected


def test_a_restart_reads_only_what_may_still_be_asked_for(log: SqliteLog, tmp_path: Path) -> None:
    for minute in range(30):
        log.append("sensor-data", [reading(110, T0 + minute * MINUTE + n) for n in range(10)])
        log.append("fingerprint-output", [a_fingerprint(start_ms=T0 + minute * MINUTE)])
    assert len(saved(log, tmp_path / "output")) == 30
    kept = fingerprint_files.WINDOWS_KEPT + fingerprint_files.GRACE_MS // MINUTE + 1
    assert cursors(log) == {("sensor-data", 0): (30 - kept) * 10, ("fingerprint-output", 0): 30}


def test_memory_is_bounded_by_the_newest_fingerprint_and_by_bytes(log: SqliteLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint_files, "MOST_BYTES", 50_000)
    with closing(FingerprintSaver(log, tmp_path / "output")) as saver:
        for minute in range(100):
            log.append("sensor-data", [reading(110, T0 + minute * MINUTE + n) for n in range(10)])
            saver.step()
            assert saver.target.buffer.cost <= 50_000
        filled_up = saver.target.buffer.cost
        assert filled_up > 40_000
        log.append("fingerprint-output", [a_fingerprint(start_ms=T0 + 98 * MINUTE)])
        saver.step()
        assert saver.target.buffer.cost < filled_up
        log.append("fingerprint-output", [a_fingerprint(start_ms=T0)])
        assert saver.step() == 1
    old = next(json.loads(text) for text in files(tmp_path / "output").values() if json.loads(text)["fingerprint"]["start_ms"] == T0)
    assert old["sensor_data"]["reading_count"] == 10, "what was let go is read again"


def test_readings_that_would_not_fit_are_read_again_a_few_fingerprints_at_a_time(
    log: SqliteLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint_files, "MOST_BYTES", 1)
    for minute in range(5):
        log.append("sensor-data", [reading(110, T0 + minute * MINUTE + n) for n in range(10)])
    log.append("fingerprint-output", [a_fingerprint(start_ms=T0 + minute * MINUTE) for minute in range(5)])
    found = saved(log, tmp_path / "output")
    assert [json.loads(text)["sensor_data"]["reading_count"] for text in found.values()] == [10] * 5


def test_a_fingerprint_from_far_ahead_lets_nothing_go(log: SqliteLog, tmp_path: Path) -> None:
    log.append("sensor-data", [reading(110, T0)])
    warned: list[str] = []
    with closing(FingerprintSaver(log, tmp_path / "output", warn=warned.append)) as saver:
        log.append("fingerprint-output", [a_fingerprint("9", T0 + 10**11)])
        assert saver.step() == 1
        assert warned[0].endswith("no readings of its equipment and window came before it in sensor-data")
        assert saver.target.buffer.cost


def let_go_of(log: SqliteLog, folder: Path) -> None:
    """Save the windows of an hour, so that the first ones are let go of."""
    for minute in range(60):
        log.append("sensor-data", [reading(110, T0 + minute * MINUTE + n) for n in range(3)])
        log.append("fingerprint-output", [a_fingerprint(start_ms=T0 + minute * MINUTE)])
    saved(log, folder)


def times_of(found: dict[str, bytes], start_ms: int) -> list[int]:
    (one,) = (one for one in map(json.loads, found.values()) if one["fingerprint"]["start_ms"] == start_ms)
    return [one["timestamp"] for one in one["sensor_data"]["readings"]]


def test_a_late_reading_of_a_window_let_go_is_not_taken_for_all_of_it(log: SqliteLog, tmp_path: Path) -> None:
    let_go_of(log, tmp_path / "output")
    log.append("sensor-data", [reading(110, T0 + 7)])
    log.append("fingerprint-output", [a_fingerprint()])
    log.append("sensor-data", [reading(110, T0 + 8)])
    assert times_of(saved(log, tmp_path / "output"), T0) == [T0, T0 + 1, T0 + 2, T0 + 7]


def test_cursors_that_someone_moved_are_gone_by(log: SqliteLog, tmp_path: Path) -> None:
    let_go_of(log, tmp_path / "output")
    log.append("sensor-data", [reading(110, T0 + 7)])
    log.append("fingerprint-output", [a_fingerprint()])
    expected = saved(log, tmp_path / "output")
    log.move(SAVER, {("fingerprint-output", 0): 60, ("sensor-data", 0): 177})
    assert times_of(saved(log, tmp_path / "other"), T0) == [T0, T0 + 1, T0 + 2, T0 + 7]
    log.move(SAVER, {("fingerprint-output", 0): 0})
    assert saved(log, tmp_path / "other") == expected


def test_what_retention_took_is_told(tmp_path: Path) -> None:
    now = T0
    warned: list[str] = []
    with closing(SqliteLog(tmp_path / "log.db", clock=lambda: now)) as log:
        log.create("sensor-data", retention_ms=1000)
        log.create("fingerprint-output")
        log.append("sensor-data", [reading(110, T0)])
        saved(log, tmp_path / "output", warned)
        log.append("fingerprint-output", [b"broken"])
        saved(log, tmp_path / "output", warned)
        assert cursors(log)["sensor-data", 0] == 0
        now += 2000
        log.append("sensor-data", [reading(110, T0 + 1)])
        log.expire_now(now)
        log.append("fingerprint-output", [a_fingerprint()])
        found = only(saved(log, tmp_path / "output", warned))
    assert [one["timestamp"] for one in found["sensor_data"]["readings"]] == [T0 + 1]
    assert warned[1:] == ["sensor-data partition 0: records 0 to 0 are gone, by retention: files of their windows lack them"]


def test_what_retention_took_from_a_saver_that_lags_is_told_and_mixes_up_nothing(tmp_path: Path) -> None:
    now = T0
    warned: list[str] = []
    with closing(SqliteLog(tmp_path / "log.db", clock=lambda: now)) as log:
        log.create("sensor-data", retention_ms=1000)
        log.create("fingerprint-output")
        log.append("sensor-data", [reading(110, T0)])
        with closing(FingerprintSaver(log, tmp_path / "output", warn=warned.append)) as saver:
            saver.step()
            log.append("sensor-data", [reading(110, T0 + n) for n in range(1, 4)])
            now += 2000
            log.append("sensor-data", [reading(110, T0 + 4), reading(111, T0 + 5)])
            log.expire_now(now)
            log.append("fingerprint-output", [a_fingerprint()])
            assert saver.step() == 1
            assert saver.target.buffer.lowest(0) == 0
            assert [one.offset for one in saver.target.buffer.of(fingerprint_of(a_fingerprint("111")))] == [5]  # type: ignore[arg-type]
    assert [one["timestamp"] for one in only(files(tmp_path / "output"))["sensor_data"]["readings"]] == [T0, T0 + 4]
    assert warned == ["sensor-data partition 0: records 1 to 3 are gone, by retention: files of their windows lack them"]


# faults of the surroundings


def test_a_full_disk_is_said_and_what_was_not_saved_is_saved_next_time(log: SqliteLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log.append("sensor-data", [reading(110, T0), reading(111, T0)])
    log.append("fingerprint-output", [a_fingerprint("110"), a_fingerprint("111")])
    synced: list[int] = []

    def full(number: int) -> None:
        synced.append(number)
        if len(synced) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as broken, closing(FingerprintSaver(log, tmp_path / "output", latest=True)) as saver:
        broken.setattr(os, "fsync", full)
        with pytest.raises(EnvironmentFault, match="No space left on device; make room") as caught:
            saver.step()
        assert str(tmp_path / "output") in str(caught.value)
    assert cursors(log) == {}
    assert len(files(tmp_path / "output")) == 1, "nothing half written is left"
    assert len(saved(log, tmp_path / "output")) == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to_is_said(log: SqliteLog, tmp_path: Path) -> None:
    (tmp_path / "output").mkdir(mode=0o500)
    with pytest.raises(EnvironmentFault, match="cannot be written: Permission denied; let this user write there"):
        FingerprintSaver(log, tmp_path / "output")


def test_a_folder_that_may_no_longer_be_written_to_is_said(log: SqliteLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log.append("fingerprint-output", [a_fingerprint()])

    def forbidden(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with closing(FingerprintSaver(log, tmp_path / "output", warn=[].append)) as saver:
        monkeypatch.setattr(Path, "replace", forbidden)
        with pytest.raises(EnvironmentFault, match=r"\.json: cannot be written: Permission denied; let this user write there"):
            saver.step()


def test_a_file_where_the_folder_should_be_is_said(log: SqliteLog, tmp_path: Path) -> None:
    (tmp_path / "output").write_text("")
    with pytest.raises(EnvironmentFault, match="cannot be written: File exists; name a folder"):
        FingerprintSaver(log, tmp_path / "output")


def test_a_second_saver_is_refused(log: SqliteLog, tmp_path: Path) -> None:
    with closing(SqliteLog(tmp_path / "elsewhere/log.db")) as other:
        other.create("sensor-data")
        other.create("fingerprint-output")
        with closing(FingerprintSaver(log, tmp_path / "output")):
            with pytest.raises(EnvironmentFault, match=f"process {os.getpid()} saves fingerprints there already; end that one first"):
                FingerprintSaver(other, tmp_path / "output")
            with pytest.raises(EnvironmentFault, match=f"pipeline {SAVER}: is run by process {os.getpid()} already"):
                FingerprintSaver(log, tmp_path / "output2")
        FingerprintSaver(other, tmp_path / "output").close()


def test_a_topic_that_is_not_there_is_said_and_leaves_no_folder(tmp_path: Path) -> None:
    with closing(SqliteLog(tmp_path / "log.db")) as log:
        log.create("sensor-data")
        with pytest.raises(PlanError, match="no topic 'fingerprint-output'"):
            FingerprintSaver(log, tmp_path / "output")
    assert not (tmp_path / "output").exists()


def test_what_a_killed_saver_left_half_written_is_removed(log: SqliteLog, tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()
    (tmp_path / "output/.a_1_2.json.part").write_text("{")
    (tmp_path / "output/mine.json").write_text("{}")
    assert list(saved(log, tmp_path / "output")) == ["mine.json"]


# running


def test_it_ends_after_so_many_records_or_seconds_or_when_told(log: SqliteLog, tmp_path: Path) -> None:
    log.append("sensor-data", [reading(110, T0 + n * MINUTE) for n in range(5)])
    log.append("fingerprint-output", [a_fingerprint(start_ms=T0 + n * MINUTE) for n in range(5)])
    with closing(FingerprintSaver(log, tmp_path / "output")) as saver:
        assert saver.run(stop=lambda: True) == 0
        assert saver.run(records=2) == 2
        assert saver.run(records=1) == 1
        assert cursors(log)["fingerprint-output", 0] == 3
        time = iter(range(100))
        slept: list[float] = []
        assert saver.run(duration=10, poll_seconds=0.5, sleep=slept.append, tick=lambda: next(time)) == 2
        assert set(slept) == {0.5}


def test_the_command_tells_of_each_file(log: SqliteLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    log.append("sensor-data", [reading(110, T0), reading(110, T0 + 1), reading(111, T0)])
    log.append("fingerprint-output", [a_fingerprint("110"), a_fingerprint("111"), b"broken"])
    never: Callable[[], bool] = lambda: False  # noqa: E731
    assert save(log, Path("output"), stop=never, duration=SECONDS, records=None, latest=True) == 2
    told = capsys.readouterr()
    one, other = (json.loads(a_fingerprint(equip))["fingerprint"]["uuid"] for equip in ("110", "111"))
    assert told.out.splitlines() == [
        f"Saved output/{one}_{T0}_{T0 + MINUTE}.json (2 readings)",
        f"Saved output/{other}_{T0}_{T0 + MINUTE}.json (1 reading)",
    ]
    assert told.err.splitlines()[-1] == "headrace: 1 of 3 records were no fingerprints"

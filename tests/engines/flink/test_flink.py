"""Pipelines on a real Flink give what the embedded engine gives: from files and from Kafka, stopped and started again."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import islice
from pathlib import Path

import pytest

import headrace as hr
from broker import Shared
from conformance.engine import Outcome, differences, left
from flink import BUILD, missing
from headrace.apps.fingerprint import fingerprint
from headrace.cli import main
from headrace.engines.embedded.run import run_files as run_embedded
from headrace.engines.entries import added_up
from headrace.engines.flink.kept import Kept
from headrace.engines.flink.places import Kafka
from headrace.engines.flink.rest import JobFailed, Rest, root_cause
from headrace.engines.flink.run import run_files, run_topics, savepoint, submit, wait
from headrace.engines.flink.script import flink_script
from headrace.engines.folder_jobs import FolderJob
from headrace.errors import EnvironmentFault
from headrace.plan.pipeline import Plan
from headrace.simulate.kiln import Kiln
from headrace.topics.kafka import KafkaLog

confluent_kafka = pytest.importorskip("confluent_kafka", reason="the package confluent-kafka is not installed")

import flink_topics  # noqa: E402
from flink_topics import jobs_command, wait_for  # noqa: E402

from known import METADATA, counted, in_ms, known_rows, send_known  # noqa: E402

START = 1_706_123_400_000
PLAN = fingerprint.plan()


def lines(seed: int, count: int) -> list[bytes]:
    """Return messages that are late, spoilt, or have numbers among their texts."""
    return list(islice(Kiln(seed=seed, disorder_ms=20_000, bad_share=0.02, number_share=0.3).lines(START), count))


def outcome(folder: Path) -> Outcome:
    return left(folder, ["sensor-data"])


def files(folder: Path, partitions: Sequence[Sequence[bytes]]) -> dict[str, list[Path]]:
    folder.mkdir(parents=True)
    paths = [folder / f"{number}.ndjson" for number in range(len(partitions))]
    for path, records in zip(paths, partitions, strict=True):
        path.write_bytes(b"".join(record + b"\n" for record in records))
    return {"sensor-data": paths}


def same(got: Outcome, expected: Outcome) -> None:
    found = differences(got, expected)
    assert not found, "\n".join(found[:5])


# Those of one subtask repeat what the conformance suite shows.
@pytest.mark.parametrize(
    ("partitions", "parallelism"),
    [pytest.param(1, 1, marks=pytest.mark.long), (1, 2), pytest.param(3, 1, marks=pytest.mark.long), (3, 2), (3, 4)],
)
def test_files_give_what_the_embedded_engine_gives(flink: Rest, tmp_path: Path, partitions: int, parallelism: int) -> None:
    inputs = files(tmp_path / "in", [lines(seed, 1500) for seed in range(partitions)])
    run_embedded(PLAN, inputs, tmp_path / "expected")
    (tmp_path / "out").mkdir()
    run_files(FolderJob(PLAN, inputs, tmp_path / "out"), flink, parallelism=parallelism)
    same(outcome(tmp_path / "out"), expected := outcome(tmp_path / "expected"))
    assert expected.ledger["sensor-data"]["late"]
    assert expected.ledger["sensor-data"]["malformed"]
    assert not (tmp_path / "out" / ".flink").exists()


@hr.pipeline("epoch", version="1")
def epoch(delay: int = 0) -> dict[str, hr.Stream]:
    schema, time = {"k": "STRING", "t": "BIGINT", "v": "BIGINT"}, "TO_TIMESTAMP_LTZ(t, 3)"
    rows = hr.stream("rows", schema=schema, event_time=time, watermark=hr.milliseconds(delay), event_time_range=("1969-01-01", "1971-01-01"))
    windows = {"tumbling": hr.tumbling(hr.seconds(2)), "sliding": hr.sliding(hr.seconds(3), hr.seconds(1))}
    return {name: rows.window(window, by=["k"]).late_to(f"{name}-late").aggregate(n="COUNT(*)", total="SUM(v)") for name, window in windows.items()}


@pytest.mark.parametrize("delay", [0, 1, 700])
def test_windows_on_both_sides_of_1970_with_many_equal_times_are_those_of_the_embedded_engine(flink: Rest, tmp_path: Path, delay: int) -> None:
    """In one file a watermark stands behind each record, so that Flink's own rule of lateness is in force too."""
    draw = random.Random(delay)
    plan = epoch.plan(delay=delay)
    records = []
    for number in range(600):
        time = (number * 20 - 6000 + draw.choice([0, 0, 0, -900, 400, -5000])) // 500 * 500 - draw.randint(0, 1)
        bad = draw.random() < 0.05
        records.append(b"{" if bad else b'{"k": "%s", "t": %d, "v": %d}' % (draw.choice([b"a", b"b"]), time, number))
    (tmp_path / "rows.ndjson").write_bytes(b"\n".join(records))
    inputs = {"rows": [tmp_path / "rows.ndjson"]}
    run_embedded(plan, inputs, tmp_path / "expected")
    run_files(FolderJob(plan, inputs, tmp_path / "out"), flink)
    got, expected = (left(tmp_path / folder, ["rows"]) for folder in ("out", "expected"))
    same(got, expected)
    assert expected.ledger["rows"]["late"]
    assert expected.ledger["rows"]["malformed"]


# Kafka


class Topics(flink_topics.Topics):
    """The fingerprint's topics."""

    def send(self, records: Sequence[bytes]) -> None:
        self.log.append(f"{self.prefix}sensor-data", records, [f"{number % 7}".encode() for number in range(len(records))])

    def outcome(self) -> Outcome:
        dead = {"sensor-data": [{**letter, "arrived_ms": None} for letter in self.rows("sensor-data.dead-letter")]}
        return Outcome({"fingerprint-output": self.rows("fingerprint-output")}, dead, dict(added_up(PLAN, self.rows("fingerprint.ledger"))))

    def expected(self, folder: Path) -> Outcome:
        """Return what the embedded engine makes of the same partitions."""
        run_embedded(PLAN, files(folder / "in", [self.values("sensor-data", number) for number in range(self.partitions)]), folder / "expected")
        return outcome(folder / "expected")


@pytest.fixture
def topics(kafka: Shared, tmp_path: Path) -> Iterator[Topics]:
    made = Topics(kafka.servers, tmp_path / "home", PLAN, 3)
    with closing(made.log):
        yield made


def test_topics_up_to_their_end_give_what_the_embedded_engine_gives(flink: Rest, topics: Topics, tmp_path: Path) -> None:
    """With more tasks than partitions too, which must not be dealt the records of one out of their order."""
    topics.send(lines(1, 3000))
    run_topics(PLAN, topics.places(bounded=True, parallelism=4), flink, tmp_path / "kept")
    same(topics.outcome(), topics.expected(tmp_path))
    assert not (tmp_path / "kept").exists()


def metadata_plan(known: dict[str, str], event_time: str) -> Plan:
    stream = hr.stream("readings", schema={"v": "BIGINT NOT NULL"}, metadata=known, event_time=event_time)
    counts = stream.window(hr.tumbling(hr.hours(876_000)), by=["part"]).aggregate(n="COUNT(*)", last="MAX(v)")
    return hr.pipeline("known", version="1")(lambda: {"out": stream, "counts": counts.select("part", "n", "last")}).plan()


def test_of_files_the_partition_of_records_is_known_and_the_rest_is_null(flink: Rest, tmp_path: Path) -> None:
    plan = metadata_plan({kind: kind for kind in ("key", "headers", "arrival_time")} | {"part": "partition"}, "TO_TIMESTAMP_LTZ(v, 3)")
    inputs = {"readings": files(tmp_path / "in", [[b'{"v":%d}' % (START + number) for number in range(20)] for _ in range(2)])["sensor-data"]}
    run_embedded(plan, inputs, tmp_path / "expected")
    (tmp_path / "out").mkdir()
    run_files(FolderJob(plan, inputs, tmp_path / "out"), flink)
    got, expected = (left(tmp_path / folder, ["readings"]) for folder in ("out", "expected"))
    same(got, expected)
    assert {row["part"] for row in expected.written["out"]} == {0, 1}


def test_metadata_of_records_is_what_kafka_has_and_can_be_the_event_time(flink: Rest, kafka: Shared, tmp_path: Path) -> None:
    plan = metadata_plan(METADATA, "received")
    topics = flink_topics.Topics(kafka.servers, tmp_path / "home", plan, 2)
    with closing(topics.log):
        send_known(kafka.servers, f"{topics.prefix}readings")
        run_topics(plan, topics.places(bounded=True), flink, tmp_path / "kept")
        expected = known_rows(kafka.servers, f"{topics.prefix}readings")
        assert in_ms(topics.rows("out")) == expected
        counts = sorted(topics.rows("counts"), key=lambda row: int(row["part"]))
        assert [(row["part"], row["n"]) for row in counts] == [(row["part"], row["n"]) for row in counted(expected)]
        assert [letter["detail"] for letter in topics.rows("readings.dead-letter")] == ["NULL in NOT NULL column 'v'"]
        assert added_up(plan, topics.rows("known.ledger"))["readings"]["received"] == len(expected) + 1, "a tombstone is not received"


def test_branches_without_rows_and_tombstones_do_not_disturb_a_live_job(flink: Rest, kafka: Shared, tmp_path: Path) -> None:
    """Flink's planner folds a branch that cannot have rows; the job starts, stops with a savepoint, resumes and is drained all the same."""
    rows = hr.stream("rows", schema={"t": "BIGINT", "v": "BIGINT"}, event_time="TO_TIMESTAMP_LTZ(t, 3)")
    none = rows.where("FALSE")
    window = hr.tumbling(hr.seconds(10))
    sinks = {
        "all": rows.select("v"),
        "none": none.select("v"),
        "no-windows": none.window(window, by=["v"]).aggregate(n="COUNT(*)"),
        "windows": rows.union(none).window(window, by=[]).aggregate(n="COUNT(*)"),
    }
    plan = hr.pipeline("folded", version="1")(lambda: sinks).plan()
    topics = flink_topics.Topics(kafka.servers, tmp_path / "home", plan, 1)
    with closing(topics.log):

        def received() -> int:
            return sum(entry.get("received") or 0 for entry in topics.rows("folded.ledger"))

        for part in (0, 1, 2):
            topics.log.append(
                f"{topics.prefix}rows", [b'{"t":%d,"v":%d}' % (START + 4000 * number, number) for number in range(5 * part, 5 * part + 5)]
            )
            producer = confluent_kafka.Producer({"bootstrap.servers": kafka.servers})
            producer.produce(f"{topics.prefix}rows", None, b"a tombstone", 0)
            producer.produce(f"{topics.prefix}rows", b"", b"an empty value", 0)
            assert producer.flush(60) == 0
            wanted = 6 * (part + 1)
            run_topics(
                plan,
                topics.places(),
                flink,
                tmp_path / "kept",
                stop=lambda wanted=wanted: received() >= wanted,
                drain=part == 2,
                seconds=flink_topics.LIMIT,
            )
        assert sorted(row["v"] for row in topics.rows("all")) == list(range(15))
        assert (topics.rows("none"), topics.rows("no-windows")) == ([], [])
        assert sum(row["n"] for row in topics.rows("windows")) == 15
        assert [letter["offset"] for letter in topics.rows("rows.dead-letter")] == [6, 13, 20]
        assert received() == 18


def test_a_live_run_that_is_stopped_goes_on_where_it_was(flink: Rest, topics: Topics, tmp_path: Path) -> None:
    records = lines(2, 3000)
    for part in (records[:1000], records[1000:2000], records[2000:]):
        topics.send(part)
        seen = len(topics.rows("fingerprint-output"))
        run_topics(PLAN, topics.places(), flink, tmp_path / "kept", stop=lambda seen=seen: len(topics.rows("fingerprint-output")) > seen)
    topics.send([])
    run_topics(PLAN, topics.places(), flink, tmp_path / "kept", stop=topics.all_counted, drain=True, seconds=flink_topics.LIMIT)
    got, expected = topics.outcome(), topics.expected(tmp_path)
    same(Outcome(got.written, got.dead, {}), Outcome(expected.written, expected.dead, {}))


def test_a_stop_writes_the_ledger_of_all_that_was_read(flink: Rest, topics: Topics, tmp_path: Path) -> None:
    """Its entries are committed with the dead letters of the records that they count."""
    topics.send(lines(6, 600))
    run_topics(PLAN, topics.places(), flink, tmp_path / "kept", stop=lambda: bool(topics.rows("sensor-data.dead-letter")))
    ledger = topics.outcome().ledger["sensor-data"]
    assert ledger["malformed"] == len(topics.rows("sensor-data.dead-letter")) > 0
    assert ledger["received"] == sum(count for fate, count in ledger.items() if fate != "received" and count) > 0


def test_a_drained_job_gives_the_last_windows_of_a_topic_that_has_been_silent(flink: Rest, topics: Topics, tmp_path: Path) -> None:
    topics.send(lines(3, 300))
    expected = topics.expected(tmp_path)
    silent_since: list[float] = []

    def silent() -> bool:
        if not silent_since and len(topics.rows("sensor-data.dead-letter")) >= len(expected.dead["sensor-data"]):
            silent_since.append(time.monotonic())
        return bool(silent_since) and time.monotonic() > silent_since[0] + 5

    run_topics(PLAN, topics.places(idle_after_ms=500), flink, tmp_path / "kept", stop=silent, drain=True, seconds=200)
    got = topics.outcome()
    same(Outcome(got.written, got.dead, {}), Outcome(expected.written, expected.dead, {}))


def test_the_state_of_other_windows_is_not_taken(flink: Rest, topics: Topics, tmp_path: Path) -> None:
    kept = Kept(tmp_path / "kept")
    kept.note(fingerprint.plan(window_size_minutes=5), lambda: "a" * 32, bounded=False)
    (tmp_path / "kept/checkpoints" / ("a" * 32) / "chk-1").mkdir(parents=True)
    (tmp_path / "kept/checkpoints" / ("a" * 32) / "chk-1/_metadata").touch()
    with pytest.raises(EnvironmentFault, match=r"cannot keep its state: window changed .*--anew"):
        run_topics(PLAN, topics.places(), flink, tmp_path / "kept")


def test_jobs_of_the_cluster_from_the_command_line(
    flink: Rest, topics: Topics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = jobs_command(flink, topics, tmp_path / "home", monkeypatch, capsys)

    topics.send(lines(3, 1500))
    job = run("submit", "fingerprint", "--engine", "flink", "--kafka-servers", topics.servers, "--max-ahead", "never", "--commit-every", "1s")
    wait_for(lambda: topics.rows("fingerprint-output"))
    assert job in run("list")
    assert "RUNNING" in run("status", job[:12])
    figures = {line.rpartition(" ")[0]: line.rpartition(" ")[2] for line in run("metrics", job).splitlines()}
    assert any(one.startswith("flink_task_write_records{task=") for one in figures)
    assert len(figures["flink_job_runningTime"].lstrip("-")) < 12
    assert len(figures["flink_job_lastCheckpointCompletedTimestamp"]) == len("1706123400000")
    assert run("logs", job) == ""
    where = run("savepoint", job, "--stop")
    assert where.startswith("file:")
    wait_for(lambda: flink.state(job) == "FINISHED")
    again = run(
        "submit", "fingerprint", "--engine", "flink", "--kafka-servers", topics.servers, "--max-ahead", "never", "--from-savepoint", where
    )  # fmt: skip
    wait_for(lambda: flink.state(again) == "RUNNING")
    assert run("cancel", again, "--timeout", "60s") == f"{again}: CANCELED"
    for command in (["cancel", again], ["savepoint", again], ["savepoint", again, "--stop"]):
        assert main(["jobs", *command]) == 1
        assert capsys.readouterr().err == (
            f"headrace: Flink job {again}: has ended: it is CANCELED; headrace jobs list --running shows those that run\n"
        )
    uuids = [row["fingerprint"]["uuid"] for row in topics.rows("fingerprint-output")]
    assert len(uuids) == len(set(uuids))


def _javas(folder: Path) -> list[int]:
    """Return the processes of a cluster whose files are below a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str(folder).encode() in (entry / "cmdline").read_bytes() and b"org.apache.flink" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def test_a_cluster_ends_with_a_run_that_is_killed(tmp_path: Path) -> None:
    if (why := missing()) is not None:
        pytest.skip(why)
    inputs = files(tmp_path / "in", [lines(5, 100)])
    command = [
        Path(sys.executable).with_name("headrace"),
        "run",
        "fingerprint",
        "--engine",
        "flink",
        "--input",
        inputs["sensor-data"][0],
        "--output",
        tmp_path / "o",
    ]
    environment = os.environ | {"HEADRACE_HOME": str(tmp_path / "home"), "HEADRACE_ENGINES": str(BUILD / "engines")}
    environment.pop("FLINK_REST_URL", None)
    process = subprocess.Popen([str(one) for one in command], env=environment, stderr=subprocess.DEVNULL)
    wait_for(lambda: len(_javas(tmp_path)) == 2)
    process.kill()
    process.wait(180)
    wait_for(lambda: not _javas(tmp_path))


# what can be wrong


def test_a_topic_that_is_not_there_is_told_before_anything_starts(
    kafka: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HEADRACE_TOPIC_PREFIX", f"none{uuid.uuid4().hex[:8]}.")
    assert main(["run", "fingerprint", "--engine", "flink", "--kafka-servers", kafka.servers]) == 2
    assert "sensor-data" in capsys.readouterr().err


def test_a_cluster_without_a_connector_is_told_which_jar_it_lacks(flink: Rest) -> None:
    script = flink_script(PLAN, Kafka("127.0.0.1:9", "fingerprint")).replace("'connector' = 'kafka'", "'connector' = 'none'")
    with pytest.raises(JobFailed, match=r"lacks a connector: put the jar of connector 'none' into the lib folder"):
        submit(flink, script)


def test_a_job_that_fails_says_why_in_one_line(flink: Rest) -> None:
    script = flink_script(PLAN, Kafka("127.0.0.1:9", "fingerprint", {"sensor-data": 1}, bounded=True))
    script = script.replace("fixed-delay.attempts' = '10'", "fixed-delay.attempts' = '0'").replace("'60000'", "'2000'")
    script = script.replace("'properties.group.id'", "'properties.default.api.timeout.ms' = '2000',\n  'properties.group.id'")
    with pytest.raises(JobFailed, match=r"Flink job \w+: .*Exception: ") as failure:
        wait(flink, submit(flink, script))
    assert "\n" not in str(failure.value)
    assert len(str(failure.value)) < 400


class _Old(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"flink-version": "1.20.1"}')

    def log_message(self, *_: object) -> None:
        """Be silent."""


def test_a_cluster_of_another_version_is_refused() -> None:
    with HTTPServer(("127.0.0.1", 0), _Old) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(EnvironmentFault, match=r"is Flink 1.20.1; name a cluster of Flink 2.3"):
            Rest(f"127.0.0.1:{server.server_port}").check_version()
        server.shutdown()


class _Declining(BaseHTTPRequestHandler):
    """A cluster whose first savepoint is declined."""

    answer, asked = "", 0

    def do_POST(self) -> None:
        type(self).asked += 1
        self._tell({"request-id": f"{self.asked}"})

    def do_GET(self) -> None:
        trace = f"a.CompletionException: b.CheckpointException: outer\nCaused by: b.CheckpointException: {self.answer}\n\tat x"
        done = {"location": "file:/made"} if self.path.endswith("/2") else {"failure-cause": {"stack-trace": trace}}
        self._tell({"status": {"id": "COMPLETED"}, "operation": done})

    def _tell(self, what: dict[str, object]) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(what).encode())

    def log_message(self, *_: object) -> None:
        """Be silent."""


@pytest.mark.parametrize(
    ("answer", "again"),
    [
        ("Task S (1/1) is not being executed at the moment. Failure reason: Not all required tasks are currently running.", True),
        ("Checkpoint was declined (task is closing)", True),
        ("TaskManager received a checkpoint request for unknown task 7. Failure reason: Task local checkpoint failure.", True),
        ("Task local checkpoint failure.", True),
        ("IllegalArgumentException: Checkpoint needs at least one vertex that commits the checkpoint", True),
        ("Failed to create savepoint directory at --checkpointing-directory", False),
    ],
)
def test_a_savepoint_that_is_declined_while_tasks_start_or_end_is_asked_for_again(monkeypatch: pytest.MonkeyPatch, answer: str, again: bool) -> None:
    monkeypatch.setattr(_Declining, "answer", answer)
    monkeypatch.setattr(_Declining, "asked", 0)
    with HTTPServer(("127.0.0.1", 0), _Declining) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        rest = Rest(f"127.0.0.1:{server.server_port}")
        if again:
            assert savepoint(rest, "job", None, stop=True) == "file:/made"
        else:
            with pytest.raises(JobFailed, match="Failed to create savepoint directory"):
                savepoint(rest, "job", None, stop=True)
        assert _Declining.asked == 1 + again
        server.shutdown()


class _Page(BaseHTTPRequestHandler):
    status, body = 200, b"<!DOCTYPE html><html><body>Sign in</body></html>"

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        """Be silent."""


@pytest.mark.parametrize(
    ("status", "body", "sent"),
    [
        (200, _Page.body, "sends HTML"),
        (502, _Page.body, "sends status 502 and HTML"),
        (404, b"not found", "sends status 404 and b?'not found', which is no JSON"),
        (404, b"", "sends status 404 and nothing"),
        (404, b'{"detail": "no job"}', "sends status 404 and "),
        (200, b"[]", "tells no version of Flink"),
        (200, b'{"name": "something else"}', "tells no version of Flink"),
    ],
)
def test_what_is_no_flink_is_told_in_one_line_before_any_topic_is_made(
    status: int, body: bytes, sent: str, kafka: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = type("_Other", (_Page,), {"status": status, "body": body})
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HEADRACE_TOPIC_PREFIX", prefix := f"other{uuid.uuid4().hex[:8]}.")
    (tmp_path / "home" / "flink" / "fingerprint").mkdir(parents=True)
    options = ["fingerprint", "--engine", "flink", "--kafka-servers", kafka.servers, "--anew", "--yes"]
    with closing(KafkaLog(kafka.servers, tmp_path / "home")) as log, HTTPServer(("127.0.0.1", 0), handler) as server:
        log.create(f"{prefix}sensor-data")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        for command in (["run", *options, "--cluster", url], ["jobs", "submit", *options, "--cluster", url], ["jobs", "list", "--cluster", url]):
            assert main(command) == 1
            lines = capsys.readouterr().err.splitlines()
            (told,) = [line for line in lines if not line.startswith("headrace: --anew forgets")]
            assert re.search(rf"{url}: what answers there is no Flink cluster: it {sent}.*; give the address of the REST interface", told), told
        server.shutdown()
        assert [info.name for info in log.topics() if info.name.startswith(prefix)] == [f"{prefix}sensor-data"]
    assert (tmp_path / "home" / "flink" / "fingerprint").exists()


@pytest.mark.parametrize("address", ["127.0.0.1:9", "http://127.0.0.1:x", "http://[::1", "http://a b"])
def test_what_is_no_address_is_told_in_one_line(address: str) -> None:
    with pytest.raises(EnvironmentFault, match=r": no Flink cluster answers there: .*FLINK_REST_URL"):
        Rest(address).jobs()


def test_a_server_that_speaks_no_http_is_told_in_one_line(kafka: Shared) -> None:
    with pytest.raises(EnvironmentFault, match=r": no Flink cluster answers there: .*FLINK_REST_URL"):
        Rest(kafka.servers).jobs()


def test_where_no_cluster_is_it_says_so() -> None:
    with pytest.raises(EnvironmentFault, match=r"http://127.0.0.1:9: no Flink cluster answers there: .*FLINK_REST_URL"):
        Rest("127.0.0.1:9").jobs()


@pytest.mark.parametrize(
    ("trace", "cause"),
    [
        ("a.b.CException: outer\n\tat x\nCaused by: d.EException: inner words\n\tat y", "EException: inner words"),
        (
            "a.b.CException: outer\n\tat x\nCaused by: java.lang.NullPointerException\n\tat y.Z.run(Z.java:7)\n\tat w\n\t... 3 more",
            "CException: outer, caused by NullPointerException at y.Z.run(Z.java:7)",
        ),
        (
            "a.AException: outer\nCaused by: b.BException: java.lang.NullPointerException\nCaused by: java.lang.NullPointerException: \n\tat y.Z",
            "AException: outer, caused by NullPointerException at y.Z",
        ),
        ("a.b.CException: outer\nCaused by: java.lang.ArithmeticException", "CException: outer, caused by ArithmeticException"),
        ("Caused by: java.lang.NullPointerException\n\tat y", "NullPointerException at y"),
        (
            'j.RuntimeException: Error received: Traceback (most recent call last):\n  File "a.py", line 1\nAssertionError\n\n\tat x.Y',
            "RuntimeException: Error received, caused by AssertionError",
        ),
        ("no trace at all", "no trace at all"),
        (
            "j.JobException: no restart\nCaused by: j.NoResourceAvailableException: Could not acquire the minimum required resources.",
            "the cluster has too few free slots: end a job, start another task manager, or run with a smaller --parallelism",
        ),
        (
            "j.JobException: no restart\nCaused by: java.lang.NullPointerException\n\tat t.binary.BytesMap.initBucketSegments(BytesMap.java:122)",
            "a slot has too little managed memory for so many windows: raise taskmanager.memory.managed.size, or have fewer plans in a job",
        ),
        (
            "a.AException: Exceeded checkpoint tolerable failure threshold. The latest checkpoint failed due to It\nbroke., view the History\n\tat a.b",
            "no checkpoint can be made (It broke): look whether their disk is full or cannot be written; Flink's job manager says it in its log",
        ),
        (
            "Caused by: x.ValidationException: Could not find any factory for identifier 'kafka' that implements 'a.b.DynamicTableFactory' in",
            "the cluster lacks a connector: put flink-sql-connector-kafka-5.0.0-2.2.jar into the lib folder of Flink, on every machine, and start it again",
        ),
        (
            "Caused by: x.ValidationException: Could not find any factory for identifier 'jdbc' that implements 'a.b.DynamicTableFactory' in",
            "the cluster lacks a connector: put the jar of connector 'jdbc' into the lib folder of Flink, on every machine, and start it again",
        ),
        (
            "j.IllegalStateException: Failed to rollback to checkpoint/savepoint f. Cannot map checkpoint/savepoint state for operator 4 to the\n\tat a.B.c",
            "the savepoint has an operator that this job does not have: start from it the pipeline that made it, or start without it",
        ),
    ],
)
def test_the_innermost_cause_that_says_something_is_told(trace: str, cause: str) -> None:
    assert root_cause(trace) == cause

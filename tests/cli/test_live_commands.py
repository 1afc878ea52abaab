"""The commands of live runs: run on topics, demo, prove, ledger."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import waiting
from calling import called
from forking import started
from headrace.cli import main
from headrace.topics.sqlite import SqliteClaim, SqliteLog
from ports import free_port

HEADRACE = str(Path(sys.executable).with_name("headrace"))
LIMIT = 400.0

SABOTAGE = """
from dataclasses import replace

import headrace as hr
import headrace.topics.sqlite as sqlite

whole = sqlite.SqliteClaim.commit

def torn(self, commit):
    with self._log.catalog.writing():
        for one in commit.outgoing:
            self._put(one)
    whole(self, replace(commit, outgoing=[]))

sqlite.SqliteClaim.commit = torn

@hr.pipeline("torn", version="1")
def torn_apart():
    events = hr.stream("events", schema={"t": "BIGINT", "v": "DOUBLE"}, event_time="TO_TIMESTAMP_LTZ(t, 3)")
    return {"out": events.select("v")}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("HEADRACE_HOME", "KAFKA_SERVERS", "EQUIPMENT_IDS", "SENSOR_IDS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def log(folder: Path) -> Iterator[SqliteLog]:
    made = SqliteLog(folder / ".headrace" / "log.db")
    yield made
    made.close()


def headrace(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = called(*arguments)
    assert done.returncode == status, done.stderr
    return done


def fingerprints(log: SqliteLog) -> list[Any]:
    return [json.loads(entry.value)["fingerprint"] for entry in log.entries("fingerprint-output", 0, 0, 10**6)]


wait_for = partial(waiting.wait_for, seconds=LIMIT)


def get(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
        return bytes(answer.read())


def test_a_generator_a_live_pipeline_and_its_graceful_end(log: SqliteLog) -> None:
    sent = headrace("simulate", "kiln", "--to", "topic:sensor-data", "--history", "5m", "--duration", "1s").stdout
    assert "Topic: sensor-data" in sent
    assert "Sent 5 messages (equip_ids: 110-114)" in sent
    child = started("run", "fingerprint", stderr=subprocess.PIPE, text=True)
    wait_for(lambda: any(info.name == "fingerprint-output" and info.partitions[0].end for info in log.topics()))
    child.send_signal(signal.SIGTERM)
    _, said = child.communicate(timeout=LIMIT)
    assert child.returncode == 0
    events = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert [event["event"] for event in events] == ["started", "stopped"]
    count = sent.count("Sent 5 messages") * 5
    assert events[1]["offsets"]["sensor-data"][0] == events[1]["ledger"]["sensor-data"]["received"] == count
    prints = fingerprints(log)
    assert {one["equip_id"] for one in prints} == {"110", "111", "112", "113", "114"}
    assert f"{count:,}" in headrace("ledger", "fingerprint").stdout
    # Drained, the windows that were open close.
    headrace("run", "fingerprint", "--drain", "--duration", "0s")
    assert len(fingerprints(log)) > len(prints)


def test_a_run_until_the_topics_present_end(log: SqliteLog) -> None:
    headrace("simulate", "kiln", "--to", "topic:sensor-data", "--records", "1000", "--start", "2024-01-15T10:30:00Z")
    assert "sensor-data: 1,000 received = 1,000 accepted" in headrace("run", "fingerprint", "--until", "latest").stderr
    assert len(fingerprints(log)) == 20
    assert headrace("run", "fingerprint", "--until", "latest").returncode == 0
    assert len(fingerprints(log)) == 20


def test_a_live_run_warns_of_records_that_it_sets_aside_and_a_bounded_one_of_nothing_else_fails(log: SqliteLog) -> None:
    log.create("sensor-data")
    log.append("sensor-data", [b'{"equip_id":"110","timestamp":1705314600,"data":{"1":"2"}}', b"{}"])
    said = headrace("run", "fingerprint", "--records", "2").stderr.splitlines()
    events = [json.loads(line) for line in said if line.startswith("{")]
    assert [event["event"] for event in events] == ["started", "records set aside and none accepted", "stopped"]
    assert {key: events[1][key] for key in ("level", "topic", "received", "accepted", "malformed", "partition", "offset")} == {
        "level": "warning", "topic": "sensor-data", "received": 2, "accepted": 0, "malformed": 2, "partition": 0, "offset": 0,
    }  # fmt: skip
    assert events[1]["first"].endswith("1705314600 looks like seconds: write TO_TIMESTAMP_LTZ(timestamp, 0)")
    said = headrace("run", "fingerprint", "--until", "latest", status=1).stderr
    assert "pipeline fingerprint: no record could be used of 2 received" in said
    headrace("run", "fingerprint", "--until", "latest", "--allow-nothing-accepted")


def test_a_run_of_so_many_records_and_the_next_goes_on(log: SqliteLog) -> None:
    headrace("simulate", "kiln", "--to", "topic:sensor-data", "--records", "1000", "--start", "2024-01-15T10:30:00Z")
    assert "sensor-data: 333 received" in headrace("run", "fingerprint", "--records", "333").stderr
    assert "sensor-data: 1,000 received" in headrace("run", "fingerprint", "--until", "latest").stderr
    assert len(fingerprints(log)) == 20


def test_anew_says_what_it_does_and_is_refused_where_nobody_can_be_asked(log: SqliteLog) -> None:
    headrace("simulate", "kiln", "--to", "topic:sensor-data", "--records", "1000", "--start", "2024-01-15T10:30:00Z")
    arguments = ("run", "fingerprint", "--until", "latest", "--anew")
    assert "--anew" not in headrace(*arguments).stderr, "there is nothing to forget"
    does = (
        "forgets what pipeline fingerprint has committed: 1,000 records of sensor-data are read again; "
        "results are written again to fingerprint-output, behind the 20 records that it has"
    )
    asks = f"headrace: --anew: {does}; add --yes if that is meant; without a terminal nobody can be asked\n"
    assert headrace(*arguments, status=2).stderr == asks
    assert headrace("jobs", "submit", *arguments[1:], status=2).stderr == asks
    assert len(fingerprints(log)) == 20
    assert f"headrace: --anew {does}\n" in headrace(*arguments, "--yes").stderr
    assert len(fingerprints(log)) == 40


@pytest.mark.parametrize(("answer", "written"), [("y\n", 40), ("yes\n", 40), ("\n", 20), ("n\n", 20), ("\x04", 20)])
def test_anew_asks_on_a_terminal(log: SqliteLog, answer: str, written: int) -> None:
    headrace("simulate", "kiln", "--to", "topic:sensor-data", "--records", "1000", "--start", "2024-01-15T10:30:00Z")
    headrace("run", "fingerprint", "--until", "latest")
    ours, theirs = pty.openpty()
    with subprocess.Popen([HEADRACE, "run", "fingerprint", "--until", "latest", "--anew"], stdin=theirs, stdout=theirs, stderr=theirs) as asking:
        os.close(theirs)
        said = b""

        def asked() -> bool:
            nonlocal said
            said += os.read(ours, 10_000)
            return b"Start anew? [y/N] " in said

        wait_for(asked)
        os.write(ours, answer.encode())
        assert asking.wait(LIMIT) == (0 if written == 40 else 1)
    os.close(ours)
    assert len(fingerprints(log)) == written


def test_metrics_are_served_and_left_in_a_file(folder: Path) -> None:
    port = free_port()
    headrace("simulate", "kiln", "--to", "topic:sensor-data", "--history", "3m", "--records", "905")
    environment = {**os.environ, "HEADRACE_METRICS_FILE": str(folder / "metrics.prom")}
    child = started("run", "fingerprint", "--metrics-port", str(port), env=environment, stderr=subprocess.DEVNULL)
    try:
        text = wait_for(lambda: (folder / "metrics.prom").exists() and get(port, "/metrics").decode())
    finally:
        child.terminate()
        child.wait(timeout=LIMIT)
    for line in (
        'headrace_ledger_records{fate="accepted",pipeline="fingerprint",topic="sensor-data"} 905.0',
        'headrace_lag_records{pipeline="fingerprint"} 0.0',
        'headrace_commit_seconds_count{pipeline="fingerprint"}',
        'headrace_watermark_seconds{pipeline="fingerprint",topic="sensor-data"}',
        'headrace_commit_state_bytes{pipeline="fingerprint"}',
        'headrace_batch_records_bucket{le="1000.0",pipeline="fingerprint"} 1.0',
    ):
        assert line in text
    assert "headrace_written_records_total" in (folder / "metrics.prom").read_text()


def test_a_metrics_port_that_is_in_use() -> None:
    headrace("topics", "create", "sensor-data")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = headrace("run", "fingerprint", "--metrics-port", str(port), status=1).stderr
    assert said == f"headrace: metrics on port {port}: cannot be served: Address already in use; name a free --metrics-port\n"


def test_the_ledger_of_a_run_that_was_killed(log: SqliteLog) -> None:
    headrace("simulate", "kiln", "--to", "topic:sensor-data", "--history", "3m", "--records", "900")
    child = started("run", "fingerprint", stderr=subprocess.DEVNULL)
    wait_for(lambda: (manifest := log.manifest("fingerprint")) and json.loads(manifest)["ledger"]["sensor-data"]["received"] == 900)
    child.kill()
    child.wait(timeout=LIMIT)
    assert "900" in headrace("ledger", "fingerprint").stdout


def test_the_ledger_of_a_run_on_a_cluster_is_that_of_its_topic_while_it_goes_on(log: SqliteLog, folder: Path) -> None:
    headrace("topics", "create", "fingerprint.ledger")
    counts = {"topic": "sensor-data", "malformed": 1, "future": 0, "reached": 110, "accepted": 100}
    for received in (200, 511):
        log.append("fingerprint.ledger", [json.dumps({**counts, "received": received}).encode()], [None])
    fates = dict(line.split() for line in headrace("ledger", "fingerprint").stdout.splitlines()[1:])
    assert (fates["received"], fates["accepted"], fates["late"], fates["filtered"]) == ("711", "200", "20", "489")
    begins = folder / ".headrace" / "ledgers" / "fingerprint.begins.json"
    begins.parent.mkdir(parents=True, exist_ok=True)
    begins.write_text('{"log": "", "offsets": {"0": 1}}')
    assert "511" in headrace("ledger", "fingerprint").stdout
    begins.write_text('{"log": "another:9092", "offsets": {"0": 1}}')
    assert "711" in headrace("ledger", "fingerprint").stdout
    headrace("simulate", "kiln", "--records", "5", "--to", "kiln.ndjson")
    headrace("run", "fingerprint", "--input", "kiln.ndjson", "--output", "out")
    assert "711" not in headrace("ledger", "fingerprint").stdout


@pytest.mark.parametrize("options", [[], ["--records", "100000000"]], ids=["paced", "at full speed"])
def test_sigterm_ends_a_simulation_between_two_batches(folder: Path, options: list[str]) -> None:
    child = started("simulate", "kiln", "--to", "out.ndjson", *options, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(lambda: (folder / "out.ndjson").exists() and (folder / "out.ndjson").stat().st_size)
    child.send_signal(signal.SIGTERM)
    _, said = child.communicate(timeout=LIMIT)
    assert (child.returncode, said) == (0, b"")
    lines = (folder / "out.ndjson").read_bytes().splitlines(keepends=True)
    assert len(lines) % 5 == 0
    assert all(line.endswith(b"}\n") for line in lines)


def test_sigterm_ends_a_simulation_of_a_topic_whose_messages_are_all_there(log: SqliteLog) -> None:
    child = started("simulate", "kiln", "--to", "topic:sent", "--history", "1m", stdout=subprocess.PIPE, text=True)
    wait_for(lambda: any(info.name == "sent" and info.partitions[0].end for info in log.topics()))
    child.send_signal(signal.SIGTERM)
    said, _ = child.communicate(timeout=LIMIT)
    assert child.returncode == 0
    assert log.topic("sent").partitions[0].end == 5 * said.count("Sent 5 messages")


# demo


def test_the_demo_shows_fingerprints_at_once_and_ends_by_itself() -> None:
    bare = {**os.environ, "PATH": "/usr/bin:/bin"}  # as after `make demo` in a shell that knows no headrace
    with subprocess.Popen([HEADRACE, "demo", "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=bare) as child:
        try:
            assert child.stdout is not None
            first = child.stdout.readline()
            assert first.startswith("headrace demo: http://127.0.0.1:")
            shown = [child.stdout.readline() for _ in range(5)]
            assert "headrace alarms ack water/stage3/DPIT301/HH" in shown[-1]
            listing = shown[2].partition("in a terminal: ")[2]
            subprocess.run(listing, shell=True, check=True, timeout=LIMIT, env=bare)
            check_page(int(first.split(":")[3].partition("/")[0]))
            second = headrace("demo", "--for", "1s", "--port", "0", status=1).stderr
            assert "another demo runs there; end it, or set HEADRACE_HOME" in second
            check_alarm(int(first.split(":")[3].partition("/")[0]))
            child.terminate()
            err = child.communicate(timeout=LIMIT)[1]
            assert "sensor-data: 3," in err
            assert re.search(r"^scada.normal: ([\d,]+) received = \1 accepted$", err, re.MULTILINE)
            assert child.returncode == 0
        finally:
            child.kill()
    assert re.match(r"sensor-data: ([\d,]+) received = \1 accepted$", headrace("demo", "--for", "1s", "--port", "0").stderr, re.MULTILINE)


def check_page(port: int) -> None:
    state = wait_for(lambda: (found := json.loads(get(port, "/state")))["latest"] and found["ledger"]["sensor-data"]["received"] >= 3_000 and found)
    assert json.loads(get(port, "/health")) == {"status": "ok"}
    assert b"<title>headrace" in get(port, "/")
    assert b"Kiln fingerprints" in get(port, "/kiln")
    assert b"headrace_ledger_records" in get(port, "/metrics")
    assert len(state["latest"]) == 10
    assert state["latest"][0]["data"].keys() == {"0001", "0002", "0003", "0004", "0005"}
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(port, "/etc/passwd")


def check_alarm(port: int) -> None:
    """Follow the attack on the water plant to its alarm, the explanation, the acknowledgement and the ledger."""
    name = "water/stage3/DPIT301/HH"

    def alarm() -> Any:
        return next((one for one in json.loads(get(port, "/api/alarms"))["alarms"] if one["alarm_id"] == name), None)

    assert wait_for(alarm)["state"] == "unacknowledged"
    assert b"DPIT301" in get(port, "/picture.svg")
    explained = json.loads(get(port, f"/api/explanation?topic=alarms&alarm={name}"))
    assert {one["value"] > 60 for one in explained["readings"] if one["evidence"]} == {True}
    body = json.dumps({"alarm": name, "command": "acknowledge", "by": "ada"}).encode()
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/api/command", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=LIMIT) as answer:
        assert json.load(answer)["outcome"] in {"done", "pending"}
    assert wait_for(lambda: (found := alarm()) and found["state"] == "acknowledged" and found)["by"] == "ada"
    wait_for(lambda: json.loads(get(port, "/api/state"))["ledgers"]["alarms"]["ledger"]["scada.normal"]["accepted"] > 600)


def test_the_demo_empties_only_a_folder_of_its_own(folder: Path) -> None:
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    demo = folder / ".headrace" / "demo"
    demo.mkdir(parents=True)
    (demo / "thesis.tex").touch()
    said = headrace("demo", "--for", "0.1s", "--port", "0", status=1).stderr
    assert "demo: was not made by headrace demo: it has files and no headrace-demo; move it away, or set HEADRACE_HOME" in said
    assert [path.name for path in demo.iterdir()] == ["thesis.tex"]
    (demo / "thesis.tex").unlink()
    headrace("demo", "--for", "0.1s", "--port", "0")
    (demo / "left").touch()
    (demo / "link").symlink_to(elsewhere)
    headrace("demo", "--for", "0.1s", "--port", "0")
    assert not (demo / "left").exists()
    assert not (demo / "link").is_symlink()
    assert (elsewhere / "kept").exists()


def test_the_demo_on_a_port_that_is_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = headrace("demo", "--for", "1s", "--port", str(port), status=1).stderr
    assert said.startswith(f"headrace: port {port}: cannot be served: ")
    assert "--port 8001" in said


# prove


def test_the_fingerprint_pipeline_is_proved_by_kills(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["prove", "fingerprint", "--kills", "6", "--seed", "3", "--records", "8000"]) == 0
    out = capfd.readouterr().out
    assert "(6 of 6)" in out
    assert "fingerprint: proved. 6 kills at random, 6 at the steps of a commit" in out


@pytest.fixture
def fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the commit whole again for other tests: to prove a pipeline, its file is run in this process too."""
    monkeypatch.setattr(SqliteClaim, "commit", SqliteClaim.commit)


@pytest.mark.usefixtures("fixed")
def test_a_commit_that_is_not_whole_is_found(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "torn.py").write_text(SABOTAGE)
    (folder / "events.ndjson").write_bytes(b"".join(b'{"t":%d,"v":%d}\n' % (1_700_000_000_000 + n, n) for n in range(20_000)))
    assert main(["prove", "torn.py", "--kills", "3", "--input", "events.ndjson"]) == 1
    said = capfd.readouterr().err
    assert "headrace: topic 'out' partition 0: differs after a kill at commit." in said


@pytest.mark.usefixtures("fixed")
def test_a_pipeline_that_fails_is_not_proved(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "bad.py").write_text(SABOTAGE.replace("whole(self, replace(commit, outgoing=[]))", "raise OSError('no')"))
    (folder / "events.ndjson").write_bytes(b'{"t":1700000000000,"v":1}\n')
    assert main(["prove", "bad.py", "--kills", "1", "--input", "events.ndjson"]) == 1
    assert "pipeline torn: ended with status 1: " in capfd.readouterr().err

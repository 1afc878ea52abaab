"""`headrace doctor`: on a sound home all is well, and each thing that is not is told with where and how to fix it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from headrace.cli import doctor, main
from headrace.cli.apps import plan_of
from headrace.cli.checks import brokers, kafka
from headrace.cli.checks import case as cases
from headrace.cli.checks import log as log_checks
from headrace.cli.checks.brokers import Cluster
from headrace.cli.checks.case import Case, Finding
from headrace.cli.checks.filesystem import check_filesystem
from headrace.engines.embedded.live import Live, run_live
from headrace.topics.look import Look
from headrace.topics.sqlite import SqliteLog

LOG = Path(".headrace/log.db")
NOBODY = 65_534
PIPELINE = """
import headrace as hr

@hr.pipeline("means", version="1")
def means(limit: float = 1.0):
    readings = hr.stream("readings", schema={"k": "STRING", "t": "BIGINT", "v": "DOUBLE"}, event_time="TO_TIMESTAMP_LTZ(t, 3)")
    return {"means": readings.where("v > :limit").window(hr.tumbling(hr.minutes(1)), by=["k"]).aggregate(mean="AVG(v)").select("k", "mean")}
"""


def system_says(monkeypatch: pytest.MonkeyPatch, file: str, text: str) -> None:
    read = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, **options: text if str(path) == file else read(path, **options))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("HEADRACE_HOME", "KAFKA_SERVERS", "KAFKA_BOOTSTRAP_SERVERS", "LIMIT", "WINDOW_SIZE_MINUTES", "WATERMARK_SECONDS"):
        monkeypatch.delenv(name, raising=False)
    system_says(monkeypatch, "/proc/mounts", "/dev/a / ext4 rw 0 0\n")  # the tests' folder may be in memory
    Path("own.py").write_text(PIPELINE)
    return tmp_path


@pytest.fixture
def found(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, list[Finding]]]:
    """Call `headrace doctor --json`; give what each check found. The exit status says whether any failed."""

    def call(*arguments: str) -> dict[str, list[Finding]]:
        status = main(["doctor", "--json", *arguments])
        out, err = capsys.readouterr()
        findings: dict[str, list[Finding]] = {}
        for line in out.splitlines():
            row = json.loads(line)
            findings.setdefault(row.pop("check"), []).append(Finding(**row))
        failed = sum(one.state == "FAIL" for some in findings.values() for one in some)
        assert status == bool(failed), err
        assert err.startswith(f"headrace: doctor: {failed} of ") if failed else not err
        for one in (one for some in findings.values() for one in some if one.state != "ok"):
            assert one.fix, f"{one} says how to fix it"
        return findings

    return call


Found = Callable[..., dict[str, list[Finding]]]


def bad(findings: list[Finding]) -> Finding:
    (one,) = [finding for finding in findings if finding.state != "ok"]
    return one


@pytest.fixture
def log() -> Iterator[SqliteLog]:
    """A log with the topic that the pipeline reads and some records."""
    with closing(SqliteLog(LOG)) as made:
        made.create("readings")
        made.append("readings", [b'{"k":"a","t":%d,"v":%d}' % (1_705_314_600_000 + n * 1000, n) for n in range(90)])
        yield made


@pytest.fixture
def committed(log: SqliteLog) -> SqliteLog:
    """The log after a run of the pipeline that has windows open."""
    live = Live(plan_of("own.py", []), log)
    end = time.monotonic() + 180
    run_live(live, stop=lambda: live.received == 90 or time.monotonic() > end)
    assert live.received == 90
    return log


def files() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file() and "__pycache__" not in path.parts}


# all is well


def test_on_an_empty_folder_all_is_well_and_nothing_is_left_behind(found: Found) -> None:
    findings = found()
    assert list(findings) == ["python", "packages", "home", "disk", "log", "memory", "clock", "open files"]
    assert not Path(".headrace").exists()
    assert set(files()) == {"own.py"}


def test_a_line_says_how_it_is_and_where(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"ok    Python: {sys.version.split()[0]}, headrace ")
    assert f"ok    SQLite: {sqlite3.sqlite_version}" in lines
    assert "ok    .headrace/log.db: is not there yet; headrace topics create makes it" in lines


def test_the_log_is_looked_at_without_a_change_to_the_home(found: Found, log: SqliteLog) -> None:
    assert ".headrace/log.db-wal" in files()
    assert found()["log"][0].what.startswith("whole, format 3, ")
    log.close()
    before = files()
    assert set(before) == {"own.py", ".headrace/log.db"}
    assert found()["log"][0].what.endswith(" MB, 1 topic")
    assert files() == before, "no -wal or -shm of this user lies in the way of another"


def test_a_log_that_somebody_opens_meanwhile_is_read_once_more(log: SqliteLog) -> None:
    log.close()
    asked = []

    def ask(db: sqlite3.Connection) -> int:
        asked.append(db)
        if len(asked) == 1:
            LOG.with_name("log.db-wal").touch()
            raise sqlite3.DatabaseError("torn")
        return 5

    assert Look(LOG).read(ask) == 5
    with pytest.raises(sqlite3.DatabaseError, match="torn"):
        asked.clear()
        LOG.with_name("log.db-wal").unlink()
        Look(LOG).read(lambda _: exec("import sqlite3; raise sqlite3.DatabaseError('torn')"))


def test_a_pipeline_and_what_it_committed_are_whole(found: Found, committed: SqliteLog) -> None:
    assert [str(one) for one in found("own.py")["app"]] == [
        "ok    pipeline means: version 1 is sound",
        "ok    topic readings: pipeline means reads it",
        "ok    state of pipeline means: whole, of version 1; 0 records are to be read",
    ]
    committed.append("readings", [b"{}"] * 3)
    assert found("own.py")["app"][-1].what.endswith("3 records are to be read")


# packages, disk, memory, files, clocks


def test_a_package_that_cannot_be_imported_is_named(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "arro3.io", None)
    one = bad(found()["packages"])
    assert (one.state, one.where, one.fix) == ("FAIL", "package arro3-io", "install it again: pip install arro3-io")
    assert one.what.startswith("cannot be imported: ModuleNotFoundError")


def test_an_old_sqlite_is_refused(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    assert bad(found()["python"]).fix == "use a Python that comes with 3.35 or newer"


@pytest.mark.parametrize(("free", "state"), [(99 * 10**6, "FAIL"), (999 * 10**6, "warn"), (10**9, "ok")])
def test_room_on_the_disk(found: Found, monkeypatch: pytest.MonkeyPatch, free: int, state: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    (one,) = found()["disk"]
    assert (one.state, one.what) == (state, f"{free / 10**6:,.0f} MB of the disk are free")


def test_a_slow_disk_is_told(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: time.sleep(0.12))
    assert bad(found()["home"]).what.startswith("a small durable write takes 1")


def test_a_disk_that_is_full_is_told_and_the_probe_is_gone(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert bad(found()["home"]).what == "cannot be written: No space left on device"
    assert set(files()) == {"own.py"}


@pytest.mark.parametrize(
    ("mounts", "state", "says"),
    [
        ("/dev/a / ext4 rw 0 0\n", "ok", "is on ext4"),
        ("/dev/a / ext4 rw 0 0\nserver:/x {} nfs4 rw 0 0\n", "warn", "is on nfs4, over which SQLite's locks and WAL may fail"),
        ("//nas/x {} cifs rw 0 0\n/dev/a / ext4 rw 0 0\n", "warn", "is on cifs, over"),
        ("x@y: {} fuse.sshfs rw 0 0\n", "warn", "is on fuse.sshfs, over"),
        ("/dev/b {} fuseblk rw 0 0\n", "ok", "is on fuseblk"),
        ("server:/x {} nfs rw 0 0\n/dev/b {} ext4 rw 0 0\n", "ok", "is on ext4"),
        ("server:/x {}/elsewhere nfs rw 0 0\n/dev/a / ext4 rw 0 0\n", "ok", "is on ext4"),
        ("tmpfs {} tmpfs rw 0 0\n", "warn", "is on tmpfs, in memory: nothing outlasts a restart of the machine"),
    ],
)
def test_the_kind_of_filesystem(monkeypatch: pytest.MonkeyPatch, folder: Path, mounts: str, state: str, says: str) -> None:
    place = folder / "with space"
    place.mkdir()
    text = mounts.replace("{}", str(place).replace(" ", "\\040"))
    system_says(monkeypatch, "/proc/mounts", text)
    (one,) = check_filesystem(place)
    assert (one.state, one.what[: len(says)]) == (state, says)


def test_little_memory_is_told(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "MemTotal: 1000000 kB\nMemAvailable:     400000 kB\n"
    system_says(monkeypatch, "/proc/meminfo", text)
    assert str(bad(found()["memory"])) == "warn  memory: 410 MB are available; end what needs it, or give the machine more"


def test_few_open_files_are_told(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (256, 4096))
    assert str(bad(found()["open files"])) == "warn  open files: a process may have 256; raise it: ulimit -n 4096"


def test_a_clock_that_was_set_back_is_told_with_by_how_much(found: Found) -> None:
    with closing(SqliteLog(LOG, lambda: time.time_ns() // 1_000_000 + 3_600_000)) as log:
        log.create("a")
        log.append("a", [b"1"])
    one = bad(found()["clock"])
    assert one.state == "warn"
    assert one.what in {f"is {seconds:,} s behind the last record of the log: it was set back" for seconds in range(3540, 3601)}


def test_a_clock_that_was_never_set_is_told(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 5 * 10**9)
    assert str(bad(found()["clock"])) == "FAIL  clock: says 1970-01-01; set the clock, and have it kept by the network"


def test_a_check_that_breaks_hides_no_other(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Case) -> Iterator[Finding]:
        raise PermissionError(13, "Permission denied")
        yield

    monkeypatch.setitem(doctor._CHECKS, "disk", broken)
    findings = found()
    assert bad(findings["disk"]).what == "cannot be checked: PermissionError: [Errno 13] Permission denied"
    assert findings["clock"][0].state == "ok"


# the home and the log


def test_a_home_that_is_a_file_is_told(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("file").write_text("")
    monkeypatch.setenv("HEADRACE_HOME", "file")
    assert str(bad(found()["home"])) == "FAIL  file: is no folder; remove the file, or set HEADRACE_HOME to a folder"


def test_a_home_that_may_not_be_written_is_told(log: SqliteLog, tmp_path: Path) -> None:
    log.close()
    for path in (tmp_path, *list(tmp_path.parents)[:2]):
        path.chmod(0o755)
    LOG.parent.chmod(0o555)
    LOG.chmod(0o444)
    drop = f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})" if os.getuid() == 0 else ""
    script = f"import os, sys, headrace.cli.doctor, headrace.topics.sqlite; from headrace.cli import main; {drop}; sys.exit(main(['doctor']))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=180)
    LOG.parent.chmod(0o755)
    lines = done.stdout.splitlines()
    assert done.returncode == 1
    assert "FAIL  .headrace: cannot be written: Permission denied; let this user write there, or set HEADRACE_HOME" in lines
    assert "FAIL  .headrace/log.db: cannot be written by this user; let this user write it and its folder, or set HEADRACE_HOME" in lines
    assert done.stderr.startswith("headrace: doctor: ")


def test_a_file_that_is_no_database_is_told(found: Found) -> None:
    LOG.parent.mkdir()
    LOG.write_bytes(b"no database" * 1000)
    one = bad(found("own.py")["log"])
    assert one.what == "is damaged or cannot be read: file is not a database"
    assert one.fix == "restore a backup, or name another HEADRACE_HOME"


def test_a_damaged_log_is_told(found: Found, log: SqliteLog) -> None:
    log.append("readings", [b"x" * 100_000])
    log.close()
    data = bytearray(LOG.read_bytes())
    for page in range(2, len(data) // 8192):
        data[page * 8192 : page * 8192 + 200] = b"\x5a" * 200
    LOG.write_bytes(data)
    one = bad(found()["log"])
    assert one.state == "FAIL"
    assert one.what.startswith("is damaged or cannot be read: ")


def test_a_log_of_another_version_and_another_database_are_told(found: Found, log: SqliteLog) -> None:
    log.file.db.execute("PRAGMA user_version = 9")
    one = bad(found()["log"])
    assert (one.what, one.fix) == ("is a log of format 9, not 3", "use the headrace that made it, or name another HEADRACE_HOME")
    log.file.db.execute("PRAGMA user_version = 0")
    assert bad(found()["log"]).what == "is a database, but no log"


def test_an_empty_log_is_well(found: Found) -> None:
    LOG.parent.mkdir()
    LOG.touch()
    assert [one.what for one in found()["log"]] == ["is empty"]


def test_a_check_that_takes_too_long_ends(found: Found, log: SqliteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    log.append("readings", [b"x" * 200] * 200_000)
    monkeypatch.setattr(log_checks, "_MOST_SECONDS", -1)
    handler = sqlite3.Connection.set_progress_handler

    class Often(sqlite3.Connection):
        def set_progress_handler(self, function: Any, _: int) -> None:
            handler(self, function, 1)

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *given, **options: connect(*given, factory=Often, **options))
    assert bad(found()["log"]).what.startswith("is too large to be checked in ")


@pytest.mark.usefixtures("log")
def test_a_large_wal_is_told(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_checks, "_LARGE_WAL", 1000)
    one = bad(found()["log"])
    assert (one.state, one.where) == ("warn", ".headrace/log.db-wal")


# settings


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "[fingerprint]\nwindow_size_minuts = 5\n",
            "FAIL  headrace.toml [fingerprint]: unknown setting 'window_size_minuts'; did you mean 'window_size_minutes'?",
        ),
        ("[fingerprint]\nwindow_size_minutes = 'two'\n", "FAIL  headrace.toml [fingerprint]: setting window_size_minutes = 'two' is no int: "),
        (
            "[fingerprnt]\nwindow_size_minutes = 5\n",
            "warn  headrace.toml [fingerprnt]: no pipeline 'fingerprnt' is known here; did you mean 'fingerprint'?; ",
        ),
        ("window_size_minutes = 5\n", "warn  headrace.toml window_size_minutes: stands in no table and is not read; write [PIPELINE] above"),
        ("[fingerprint\n", "FAIL  headrace.toml: cannot be read: "),
        ("[means]\nlimt = 5\n", "warn  headrace.toml [means]: no pipeline 'means' is known here; there is: "),
    ],
)
def test_a_setting_of_the_file_that_is_wrong_is_told(found: Found, text: str, says: str) -> None:
    Path("headrace.toml").write_text(text)
    assert str(bad(found()["settings"])).startswith(says)


def test_a_sound_file_of_settings_is_well(found: Found) -> None:
    Path("headrace.toml").write_text("[fingerprint]\nWINDOW_SIZE_MINUTES = 5\n")
    assert [str(one) for one in found()["settings"]] == ["ok    headrace.toml: settings of fingerprint"]


def test_the_settings_of_a_pipeline_that_is_named_are_known(found: Found) -> None:
    Path("headrace.toml").write_text("[means]\nlimt = 5\n")
    findings = found("own.py:means")
    assert bad(findings["settings"]).what == "unknown setting 'limt'"
    assert bad(findings["app"]).what == "unknown setting 'limt'", "a run would end with the same"


# a pipeline


def test_an_unknown_pipeline_is_told(found: Found) -> None:
    assert str(bad(found("fingerprnt")["app"])).startswith("FAIL  app: no app 'fingerprnt'; did you mean 'fingerprint'?")


def test_a_pipeline_of_which_a_topic_is_missing_is_told(found: Found, log: SqliteLog) -> None:
    log.create("sensr-data")
    assert str(bad(found("fingerprint")["app"])) == (
        "warn  topic sensor-data: is not there; pipeline fingerprint needs it to run live;"
        " did you mean 'sensr-data'? or make it: headrace topics create sensor-data"
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.replace('version="1"', 'version="2"'), "was made with version '1', not '2'"),
        (
            lambda text: text.replace("minutes(1)", "minutes(2)"),
            "window:k cannot keep its state: window changed from tumbling 0:01:00 to tumbling 0:02:00",
        ),
    ],
)
@pytest.mark.usefixtures("committed")
def test_state_that_another_pipeline_made_is_told(found: Found, change: Callable[[str], str], says: str) -> None:
    Path("own.py").write_text(change(PIPELINE))
    one = bad(found("own.py")["app"])
    assert (one.where, one.what) == ("state of pipeline means", says)
    assert one.fix == "bring back what it was made with, or start with headrace run own.py --anew, which forgets it"


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("UPDATE pipelines SET checksum = 0", "its last commit is damaged"),
        ("UPDATE state SET data = X'00'", "is damaged"),
        ("DELETE FROM state", "is damaged"),
        ("UPDATE partitions SET first = 100, next = 120", "is to go on at 90 of readings partition 0, which has 100 to 120"),
        ("UPDATE partitions SET next = 5", "is to go on at 90 of readings partition 0, which has 0 to 5"),
        ("INSERT INTO partitions (topic, number) VALUES (1, 1)", "was made with 1 partitions of topic readings, not 2"),
    ],
)
def test_state_from_which_no_run_would_go_on_is_told(found: Found, committed: SqliteLog, statement: str, says: str) -> None:
    committed.file.db.execute(statement)
    one = bad(found("own.py")["app"])
    assert one.state == "FAIL"
    assert says in one.what


# Kafka


def test_servers_that_are_no_addresses_are_told(found: Found) -> None:
    assert str(bad(found("--kafka-servers", "localhost")["kafka"])).startswith("FAIL  --kafka-servers: 'localhost' is not HOST:PORT; ")


def test_kafka_that_cannot_be_reached_is_told(found: Found) -> None:
    with socket.socket() as one:  # bound and not listening: nobody else takes the port, and it is closed
        one.bind(("127.0.0.1", 0))
        servers = f"127.0.0.1:{one.getsockname()[1]}"
        assert str(bad(found("--kafka-servers", servers)["kafka"])) == (
            f"FAIL  Kafka {servers}: cannot be reached: Connection refused; start it, or fix --kafka-servers"
        )


def test_kafka_of_the_environment_is_checked(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        monkeypatch.setenv("KAFKA_SERVERS", f"127.0.0.1:{one.getsockname()[1]}")
        assert bad(found()["kafka"]).fix == "start it, or fix environment KAFKA_SERVERS"


def test_a_server_that_does_not_answer_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brokers, "ANSWER_SECONDS", 0.2)
    ended = threading.Event()

    def stall(*_: object, **__: object) -> socket.socket:
        ended.wait(180)
        return socket.socket()

    monkeypatch.setattr(socket, "create_connection", stall)
    began = time.monotonic()
    assert brokers.fault_of_connection("nowhere", 1) == "no answer within 0 s"
    assert time.monotonic() - began < 120
    ended.set()
    for thread in threading.enumerate():
        if "(connect)" in thread.name:
            thread.join(180)


def test_a_server_that_is_no_kafka_is_told(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("confluent_kafka")
    monkeypatch.setattr(brokers, "ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = bad(found("--kafka-servers", f"127.0.0.1:{server.getsockname()[1]}")["kafka"])
    assert one.what.startswith("takes connections, but says nothing of its topics: ")


def test_a_broker_and_its_topics_are_well_on_loopback(found: Found) -> None:
    confluent = pytest.importorskip("confluent_kafka")
    broker = confluent.Producer({"bootstrap.servers": "", "test.mock.num.brokers": 1, "log_level": 0})
    ((place,),) = [[f"{one.host}:{one.port}" for one in broker.list_topics(timeout=180).brokers.values()]]
    findings = found("fingerprint", "--kafka-servers", place)
    assert [one.state for one in findings["kafka"]] == ["ok", "ok"]
    assert findings["kafka"][1].what.startswith("1 broker, ")
    assert findings["packages"][-1].where == "package confluent-kafka"
    assert bad(findings["app"]).fix == f"make it: headrace topics create sensor-data --kafka-servers {place}"
    assert broker.flush(180) == 0


def test_brokers_that_others_can_reach_are_told(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "described", lambda _: Cluster((("plant.example", 9092), ("localhost", 1)), {}))
    with socket.create_server(("127.0.0.1", 0)) as server:
        findings = found("--kafka-servers", f"127.0.0.1:{server.getsockname()[1]}")
    assert str(bad(findings["kafka"])) == (
        "warn  Kafka plant.example:9092: is open to the network at plant.example: PLAINTEXT, without a password; bind it to 127.0.0.1, or shut the port to others"
    )


@pytest.mark.parametrize(
    ("family", "address", "outside"),
    [
        (socket.AF_INET, "127.0.0.1", None),
        (socket.AF_INET, "0.0.0.0", "0.0.0.0"),
        (socket.AF_INET6, "::1", None),
        (socket.AF_INET6, "::", "::"),
        (socket.AF_INET6, "::ffff:127.0.0.1", None),
    ],
)
def test_where_a_port_is_bound_is_read_from_the_system(family: socket.AddressFamily, address: str, outside: str | None) -> None:
    try:
        server = socket.create_server((address, 0), family=family)
    except OSError:
        pytest.skip("this machine has no such address")
    with server:
        assert kafka._listens_outside(server.getsockname()[1]) == outside


@pytest.mark.usefixtures("log")
def test_a_home_that_others_may_read_is_told(found: Found) -> None:
    assert [one.what for one in found()["home"] if "read" in one.what] == ["only its owner may read it"]
    LOG.chmod(0o644)
    assert bad(found()["home"]).what == "may be read by other users: 1 file of the home, .headrace/log.db the first"
    LOG.parent.chmod(0o755)
    assert bad(found()["home"]).fix == "keep them out: chmod -R go= .headrace"

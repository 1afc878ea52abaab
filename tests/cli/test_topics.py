"""`headrace topics`: what each command does with the SQLite log, how tail ends, and what is said of wrong use."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from headrace.cli import main
from headrace.cli.logs import KafkaOptions, addresses, asked_cluster, open_log
from headrace.cli.values import duration_ms
from headrace.errors import EnvironmentFault, PlanError
from headrace.topics.protocol import Entry
from headrace.topics.sqlite import SqliteLog

HEADRACE = str(Path(sys.executable).with_name("headrace"))
LOG = Path(".headrace/log.db")
NOBODY = 65_534


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("HEADRACE_HOME", "KAFKA_SERVERS", "KAFKA_BOOTSTRAP_SERVERS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def topics(capfdbinary: pytest.CaptureFixture[bytes]) -> Callable[..., bytes]:
    """Call `headrace topics`, which does as it is told; give what it printed."""

    def call(*arguments: str) -> bytes:
        status = main(["topics", *arguments])
        out, err = capfdbinary.readouterr()
        assert (status, err) == (0, b"")
        return out

    return call


@pytest.fixture
def run(run: Callable[..., tuple[int, str, str]]) -> Callable[..., tuple[int, str, str]]:
    """Call `headrace topics`, for `refused`."""
    return partial(run, "topics")


class Clock:
    def __init__(self) -> None:
        self.now = 1000

    def __call__(self) -> int:
        self.now += 1
        return self.now


@pytest.fixture
def log() -> Iterator[SqliteLog]:
    """A log with a topic `one` of one partition, and `two` of two."""
    with closing(SqliteLog(LOG, Clock())) as made:
        made.create("one")
        made.create("two", 2)
        yield made


def keyed(partition: int) -> bytes:
    """Return a key of a partition of two."""
    from zlib import crc32

    return next(key for key in (str(n).encode() for n in range(100)) if crc32(key) % 2 == partition)


# create, list, describe, delete


def test_a_topic_may_be_made_if_it_is_missing(topics: Callable[..., bytes], refused: Callable[..., str]) -> None:
    assert topics("create", "one", "--partitions", "2", "--if-missing") == b"Created topic one.\n"
    assert topics("create", "one", "--if-missing") == b"There is a topic one already.\n"
    assert json.loads(topics("list", "--json"))["partitions"] == 2
    assert "already" in refused("create", "one")
    assert "cannot be used" in refused("create", "a/b", "--if-missing")


def test_a_topic_is_made_listed_described_and_deleted(topics: Callable[..., bytes]) -> None:
    said = topics("create", "sensor-data", "--partitions", "2", "--retention", "7d", "--retention-bytes", "5000000")
    assert said == b"Created topic sensor-data.\n"
    assert topics("create", "fingerprint-output") == b"Created topic fingerprint-output.\n"
    with closing(SqliteLog(LOG)) as log:
        log.append("sensor-data", [b"{}"] * 1500)
    assert topics("list").decode().splitlines() == [
        "TOPIC               PARTITIONS  RECORDS  BYTES  REPLICATION  RETENTION",
        "fingerprint-output           1        0      0            1  for ever",
        "sensor-data                  2    1,500  4,499            1  7d, 5,000,000 bytes a partition",
    ]
    assert topics("describe", "sensor-data").decode().splitlines() == [
        "topic        sensor-data",
        "records      1,500",
        "replication  1",
        "retention    7d, 5,000,000 bytes a partition",
        "",
        "PARTITION  FIRST    END  RECORDS  BYTES",
        "        0      0  1,500    1,500  4,499",
        "        1      0      0        0      0",
    ]
    assert topics("delete", "sensor-data") == b"Deleted topic sensor-data: 2 partitions, 1,500 records.\n"
    assert [json.loads(line)["topic"] for line in topics("list", "--json").splitlines()] == ["fingerprint-output"]


def test_json_says_the_same_as_numbers(topics: Callable[..., bytes]) -> None:
    topics("create", "a", "--retention", "90s")
    whole = {"topic": "a", "partitions": 1, "records": 0, "bytes": 0, "replication": 1, "retention_ms": 90_000, "retention_bytes": None}
    assert json.loads(topics("list", "--json")) == whole
    part = {"partition": 0, "first": 0, "end": 0, "records": 0, "bytes": 0}
    assert json.loads(topics("describe", "a", "--json")) == whole | {"partitions": [part]}


@pytest.mark.parametrize(
    ("given", "shown"), [("1500ms", "1500ms"), ("30s", "30s"), ("90m", "90m"), ("120m", "2h"), ("48h", "2d"), ("0.5d", "12h"), ("7d", "7d")]
)
def test_retention_is_shown_as_a_duration_that_can_be_given(topics: Callable[..., bytes], given: str, shown: str) -> None:
    topics("create", "a", "--retention", given)
    assert f"retention    {shown}\n" in topics("describe", "a").decode()
    assert duration_ms(shown, "") == duration_ms(given, "")


def test_groups_show_how_far_readers_have_come_and_delete_says_that_it_forgets_them(topics: Callable[..., bytes], log: SqliteLog) -> None:
    log.append("one", [b"x"] * 12)
    log.move("fingerprint", {("one", 0): 5, ("two", 1): 0})
    assert topics("groups").decode().splitlines() == [
        "GROUP        TOPIC  PARTITION  OFFSET  END  LAG",
        "fingerprint  one            0       5   12    7",
        "fingerprint  two            1       0    0    0",
    ]
    first = json.loads(topics("groups", "--json").splitlines()[0])
    assert first == {"group": "fingerprint", "topic": "one", "partition": 0, "offset": 5, "end": 12, "lag": 7}
    assert topics("delete", "one") == b"Deleted topic one: 1 partition, 12 records, and how far fingerprint had come.\n"
    assert b"one" not in topics("groups")


@pytest.mark.parametrize(("command", "header"), [(["list"], "TOPIC"), (["groups"], "GROUP"), (["list", "--json"], ""), (["groups", "--json"], "")])
def test_without_a_log_there_are_no_topics_and_none_is_made(capsys: pytest.CaptureFixture[str], command: list[str], header: str) -> None:
    assert main(["topics", *command]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(header)
    assert out.count("\n") == bool(header)
    assert err == "headrace: .headrace: no topics yet; make one: headrace topics create TOPIC\n"
    assert not Path(".headrace").exists()


# wrong use, and what else goes wrong


@pytest.mark.parametrize("command", ["append", "describe", "tail", "delete"])
def test_without_a_log_no_topic_is_known_and_none_is_made(refused: Callable[..., str], command: str) -> None:
    assert refused(command, "sensor-data") == ".headrace: no topics yet; make one: headrace topics create TOPIC"
    assert not Path(".headrace").exists()


@pytest.mark.parametrize("command", ["append", "describe", "tail", "delete"])
def test_an_unknown_topic_is_told_with_what_it_may_have_been_meant_to_be(
    refused: Callable[..., str], topics: Callable[..., bytes], command: str
) -> None:
    topics("create", "sensor-data")
    assert refused(command, "sensor-dta") == ".headrace/log.db: no topic 'sensor-dta'; did you mean 'sensor-data'?"
    assert b"sensor-data" in topics("list")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["create", "one"], ".headrace/log.db: there is a topic 'one' already; delete it first, or name another"),
        (["create", "a/b"], "topic name 'a/b' cannot be used; use letters"),
        (["create", "a", "--partitions", "0"], "topic 'a': partitions is 0; give 1 or more"),
        (["create", "a", "--partitions", "1000000000"], "--partitions: 1,000,000,000 partitions are too many; give at most 10,000"),
        (["create", "a", "--replication", "3"], "topic 'a': a replication of 3; the SQLite log is one file: give 1, or use Kafka"),
        (["create", "a", "--retention", "a week"], "--retention: 'a week' is not a duration"),
        (["create", "a", "--retention", "0s"], "topic 'a': retention is 0; give 1 or more"),
        (["create", "a", "--retention", "9" * 30 + "d"], f"--retention: '{'9' * 30}d' is too long; write 365000d at most"),
        (["create", "a", "--retention", "9" * 400 + "d"], f"--retention: '{'9' * 40}' is too long; write 365000d at most"),
        (["create", "a", "--retention-bytes", "0"], "topic 'a': retention bytes is 0; give 1 or more"),
        (["create", "a", "--retention-bytes", "9" * 30], "--retention-bytes: 9"),
        (["tail", "one", "--lines=-1"], "--lines: -1 is no number of records; give 0 or more"),
        (["tail", "one", "--max-records", "0"], "--max-records: 0 is no number of records; give 1 or more"),
        (["tail", "one", "--timeout", "5s"], "--timeout: is for --follow; add --follow, or leave it out"),
        (["tail", "one", "--follow", "--timeout", "soon"], "--timeout: 'soon' is not a duration"),
        (["tail", "one", "--from-beginning", "--lines", "3"], "--from-beginning --lines: all records and the last ones are asked for; leave one out"),
        (["tail", "two", "--partition", "2"], "topic 'two': no partition 2; it has 2, from 0"),
        (["list", "--kafka-servers", "localhost"], "--kafka-servers: 'localhost' is not HOST:PORT; write localhost:9092"),
        (["list", "--kafka-servers", "a:1,b:70000"], "--kafka-servers: 'b:70000' is not HOST:PORT"),
    ],
    ids=lambda given: " ".join(given)[:60] if isinstance(given, list) else "",
)
def test_wrong_use_is_one_line_and_exit_status_2(refused: Callable[..., str], log: SqliteLog, arguments: list[str], says: str) -> None:
    assert refused(*arguments).startswith(says)
    assert [info.name for info in log.topics()] == ["one", "two"]


def test_a_damaged_log_is_named(refused: Callable[..., str]) -> None:
    LOG.parent.mkdir()
    LOG.write_bytes(b"no database" * 1000)
    said = refused("list", status=1)
    assert said.startswith(".headrace/log.db: is damaged or no log: ")
    assert said.endswith("; restore a backup, or name another HEADRACE_HOME")


def test_without_permission_the_home_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, *list(tmp_path.parents)[:2]):
        path.chmod(0o755)
    Path("home").mkdir(mode=0o555)
    drop = f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})" if os.getuid() == 0 else ""
    script = f"import os, sys, headrace.cli.topics, headrace.topics.sqlite; from headrace.cli import main; {drop}; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, "topics", "create", "a"]
    done = subprocess.run(command, env={**os.environ, "HEADRACE_HOME": "home"}, capture_output=True, text=True, check=False, timeout=180)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("headrace: home/log.db: cannot be opened for writing: ")


# append


def test_the_lines_of_a_file_are_appended_as_they_are(topics: Callable[..., bytes], log: SqliteLog) -> None:
    log.append("two", [b"first"])
    Path("lines").write_bytes(b'\xef\xbb\xbf{"n": 1}\r\n\n  \t\r\nno JSON \xff\n{"n":2}')
    assert topics("append", "two", "lines") == b"Appended 3 records to topic two.\n"
    assert topics("tail", "two", "--keys") == b'null\tfirst\nnull\t{"n": 1}\nnull\tno JSON \xff\nnull\t{"n":2}\n'
    assert [part.end for part in log.topic("two").partitions] == [4, 0]


def test_the_lines_of_a_csv_file_become_objects_and_a_line_that_does_not_fit_stays_as_it_is(topics: Callable[..., bytes], log: SqliteLog) -> None:
    Path("valve.csv").write_text('at;T 1;note\n1;2.50;"a ""b"""\n\n2;;\n3;1\n4;"open;x\n')
    assert topics("append", "one", "valve.csv") == b"Appended 4 records to topic one.\n"
    values = [entry.value for entry in log.entries("one", 0, 0, 10)]
    assert values == [b'{"at":"1","T 1":"2.50","note":"a \\"b\\""}', b'{"at":"2"}', b"3;1", b'4;"open;x']


@pytest.mark.parametrize(
    ("held", "count"), [(b"", "0 records"), (b"\n \n\r\n", "0 records"), (b"a", "1 record"), (b"a\n", "1 record"), (b"\na\n\nb\n\n", "2 records")]
)
def test_blank_lines_are_no_records(topics: Callable[..., bytes], log: SqliteLog, held: bytes, count: str) -> None:
    Path("lines").write_bytes(held)
    assert topics("append", "one", "lines") == f"Appended {count} to topic one.\n".encode()
    assert [entry.value for entry in log.entries("one", 0, 0, 10)] == held.split()


def test_long_files_and_lines_are_appended_piece_by_piece(topics: Callable[..., bytes], log: SqliteLog) -> None:
    lines = [b"%d" % n * 100 for n in range(20_000)] + [b"x" * 9_000_000, b"last"]
    Path("lines").write_bytes(b"\n".join(lines))
    assert topics("append", "one", "lines") == b"Appended 20,002 records to topic one.\n"
    assert log.topic("one").partitions[0].end == 20_002
    assert topics("tail", "one", "--from-beginning") == b"\n".join([*lines, b""])


def test_appending_what_comes_ends_with_ctrl_c_and_tells_what_was_appended(log: SqliteLog) -> None:
    process = subprocess.Popen([HEADRACE, "topics", "append", "one"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    guard = threading.Timer(180, process.kill)  # no wait is without end
    guard.start()
    try:
        assert process.stdin is not None
        process.stdin.write(b"a\nb\nbegun")
        process.stdin.flush()
        while not log.entries("one", 0, 0, 10) and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(180) == 130
        assert process.stdout is not None
        assert process.stdout.read() == b"Appended 2 records to topic one.\n"
    finally:
        guard.cancel()
        process.kill()
        process.communicate()


@pytest.mark.parametrize("named", [[], ["-"]])
def test_what_comes_on_standard_input_is_appended_as_it_comes(log: SqliteLog, named: list[str]) -> None:
    process = subprocess.Popen([HEADRACE, "topics", "append", "one", *named], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    guard = threading.Timer(180, process.kill)  # no wait is without end
    guard.start()
    try:
        assert process.stdin is not None
        process.stdin.write(b"a\nb\nbeg")
        process.stdin.flush()
        while not (there := log.entries("one", 0, 0, 10)) and process.poll() is None:
            time.sleep(0.05)
        assert [entry.value for entry in there] == [b"a", b"b"]
        out, err = process.communicate(b"un", timeout=180)
        assert (process.returncode, out, err) == (0, b"Appended 3 records to topic one.\n", b"")
        assert log.entries("one", 0, 2, 10)[0].value == b"begun"
    finally:
        guard.cancel()
        process.kill()
        process.wait()


def test_what_could_be_appended_before_a_fault_is_told(
    run: Callable[..., tuple[int, str, str]], log: SqliteLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headrace.cli import records as module

    monkeypatch.setattr(module, "_PIECE_BYTES", 4)
    append = SqliteLog.append

    def full(log: SqliteLog, topic: str, values: Sequence[bytes]) -> None:
        if b"c" in values:
            raise EnvironmentFault("cannot be written: the disk is full", where=str(log.path))
        append(log, topic, values)

    monkeypatch.setattr(SqliteLog, "append", full)
    Path("lines").write_bytes(b"a\nb\nlonger\nc\n")
    assert run("append", "one", "lines") == (
        1,
        "Appended 3 records to topic one.\n",
        "headrace: .headrace/log.db: cannot be written: the disk is full\n",
    )
    assert log.topic("one").partitions[0].end == 3


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["one", "nowhere"], 1, "nowhere: cannot be read: No such file or directory; name a file that exists"),
        (["one", "."], 1, ".: cannot be read: Is a directory; name a file that this user may read"),
        (["oen", "nowhere"], 2, ".headrace/log.db: no topic 'oen'; did you mean 'one'?"),
        (["one", "lines", "more"], 2, "unexpected argument 'more'"),
        (["one", "rows.parquet"], 2, "rows.parquet: a topic takes lines, and the rows of a Parquet file are none; convert the file to NDJSON first"),
    ],
)
def test_what_cannot_be_appended_is_one_line(refused: Callable[..., str], log: SqliteLog, arguments: list[str], status: int, says: str) -> None:
    assert refused("append", *arguments, status=status).startswith(says)
    assert log.entries("one", 0, 0, 1) == []


# where the log is


def servers(given: str | None = None) -> str | None:
    cluster = asked_cluster(KafkaOptions(kafka_servers=given))
    return None if cluster is None else cluster.servers


def test_the_servers_come_from_the_option_then_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert servers() is None
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "c:3")
    assert servers() == "c:3"
    monkeypatch.setenv("KAFKA_SERVERS", "a:1, b:2")
    assert servers() == "a:1,b:2"
    assert servers("[::1]:9092") == "[::1]:9092"
    assert addresses("[::1]:9092,localhost:1", "") == [("::1", 9092), ("localhost", 1)]
    monkeypatch.setenv("KAFKA_SERVERS", "nowhere")
    with pytest.raises(PlanError, match="environment KAFKA_SERVERS: 'nowhere' is not HOST:PORT"):
        open_log()


def test_the_log_lies_in_the_home(topics: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_HOME", "elsewhere")
    topics("create", "a")
    assert Path("elsewhere/log.db").exists()
    assert not Path(".headrace").exists()


# tail


def test_tail_prints_the_last_ten_as_they_are(topics: Callable[..., bytes], log: SqliteLog) -> None:
    values = [b'{"n":%d}' % n for n in range(12)] + [b"two\nlines", b"\xff\x00", b""]
    log.append("one", values)
    assert topics("tail", "one") == b"".join(value + b"\n" for value in values[-10:])
    assert topics("tail", "one", "--lines", "2") == b"\xff\x00\n\n"
    assert topics("tail", "one", "--lines", "0") == b""
    assert topics("tail", "one", "--lines", "1000") == topics("tail", "one", "--from-beginning") == b"".join(value + b"\n" for value in values)
    assert topics("tail", "one", "--from-beginning", "--max-records", "2") == b'{"n":0}\n{"n":1}\n'


def test_the_last_records_are_found_where_offsets_are_missing(topics: Callable[..., bytes], log: SqliteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    log.append("one", [b"%d" % n for n in range(100)])
    entries = SqliteLog.entries

    def marked(log: SqliteLog, *given: Any) -> list[Entry]:
        """Give what Kafka gives where most offsets belong to the marks of transactions."""
        return [entry for entry in entries(log, *given) if entry.offset % 10 == 0]

    monkeypatch.setattr(SqliteLog, "entries", marked)
    assert topics("tail", "one", "--lines", "1") == b"90\n"
    assert topics("tail", "one", "--lines", "3") == b"70\n80\n90\n"
    assert topics("tail", "one").count(b"\n") == 10
    assert topics("tail", "one", "--lines", "11").count(b"\n") == 10


def test_partitions_merge_by_arrival_and_one_may_be_chosen(topics: Callable[..., bytes], log: SqliteLog) -> None:
    zero, one = keyed(0), keyed(1)
    for n in range(6):
        log.append("two", [b"%d" % n], [one if n % 2 else zero])
    log.append("two", [b"of one", b"of zero"], [one, zero])
    assert topics("tail", "two", "--from-beginning").split(b"\n")[:-1] == [b"0", b"1", b"2", b"3", b"4", b"5", b"of zero", b"of one"]
    assert topics("tail", "two", "--lines", "3") == b"5\nof zero\nof one\n"
    assert topics("tail", "two", "--partition", "1", "--lines", "2") == b"5\nof one\n"
    assert topics("tail", "two", "--lines", "2", "--keys") == zero + b"\tof zero\n" + one + b"\tof one\n"


def test_a_record_without_a_key_has_null_for_one(topics: Callable[..., bytes], log: SqliteLog) -> None:
    log.append("one", [b"a", b"b"], [b"k", None])
    assert topics("tail", "one", "--keys") == b"k\ta\nnull\tb\n"


def test_all_of_a_large_topic_is_printed_piece_by_piece(topics: Callable[..., bytes], log: SqliteLog) -> None:
    for start in range(0, 30_000, 7_000):
        log.append("two", [b"%d" % n for n in range(start, start + 7_000)], [keyed(n % 2) for n in range(7_000)])
    log.append("two", [b"x" * 3_000_000] * 3)
    printed = topics("tail", "two", "--from-beginning").split(b"\n")[:-1]
    assert sorted(map(int, printed[:-3])) == list(range(35_000))
    assert [len(value) for value in printed[-3:]] == [3_000_000] * 3


def test_tail_reads_on_where_retention_has_dropped_the_first(topics: Callable[..., bytes], log: SqliteLog) -> None:
    for n in range(5):
        log.append("one", [b"%d" % n])
    log.alter("one", retention_ms=None, retention_bytes=2)
    log.expire_now(0)
    assert topics("tail", "one", "--from-beginning") == topics("tail", "one") == b"3\n4\n"


def test_following_ends_after_its_time_or_so_many_records(topics: Callable[..., bytes], log: SqliteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    from headrace.cli import topics as module

    log.append("one", [b"a", b"b"])
    began = time.monotonic()
    assert topics("tail", "one", "--follow", "--timeout", "300ms") == b"a\nb\n"
    assert time.monotonic() - began >= 0.3
    when_followed(monkeypatch, module, lambda: log.append("one", [b"c", b"d", b"e"]))
    assert topics("tail", "one", "-f", "--lines", "1", "--max-records", "3", "--timeout", "180s") == b"b\nc\nd\n"


def when_followed(monkeypatch: pytest.MonkeyPatch, module: Any, change: Callable[[], object], coming: Any = None) -> None:
    """Have something happen as soon as `tail` has shown what is there and follows the topic."""
    coming = coming or module._coming

    def changed(*given: Any) -> Iterator[Entry]:
        change()
        return coming(*given)

    monkeypatch.setattr(module, "_coming", changed)


def test_following_shows_what_comes_while_it_waits_and_ends_with_a_signal(log: SqliteLog) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        process = subprocess.Popen([HEADRACE, "topics", "tail", "two", "--follow", "--lines", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        guard = threading.Timer(180, process.kill)  # no wait is without end
        guard.start()
        try:
            assert process.stdout is not None
            sent = threading.Event()

            def send(sent: threading.Event = sent) -> None:
                while not sent.wait(0.2):
                    log.append("two", [b"hello"], [keyed(1)])

            sender = threading.Thread(target=send)
            sender.start()
            line = process.stdout.readline()
            sent.set()
            sender.join()
            assert line == b"hello\n"
            process.send_signal(number)
            _, err = process.communicate(timeout=180)
            assert (process.returncode, err) == (0, b"")
        finally:
            guard.cancel()
            process.kill()
            process.wait()


def test_whoever_reads_may_leave(log: SqliteLog) -> None:
    log.append("one", [b"x" * 1000] * 1000)
    process = subprocess.Popen([HEADRACE, "topics", "tail", "one", "--from-beginning"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(180) == 0
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()


def test_a_topic_that_is_deleted_or_made_anew_while_it_is_followed_is_told(
    refused: Callable[..., str], log: SqliteLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headrace.cli import topics as module

    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.2)
    coming = module._coming
    log.append("one", [b"a"])

    def anew() -> None:
        log.delete("one")
        log.create("one")

    for change, status, says in (
        (anew, 1, "topic 'one': has been deleted and made anew; start tail again"),
        (lambda: log.delete("one"), 2, "no topic 'one'"),
    ):
        log.append("one", [b"a"])
        when_followed(monkeypatch, module, change, coming)
        assert says in refused("tail", "one", "--follow", "--lines", "0", "--timeout", "180s", status=status)


def test_retention_is_altered_and_room_is_given_back(topics: Callable[..., bytes], refused: Callable[..., str], log: SqliteLog) -> None:
    for n in range(20):
        log.append("one", [b"%d" % n * 50_000])
    assert topics("alter", "one", "--retention", "7d") == b"Topic one keeps its records: 7d.\n"
    assert topics("alter", "one", "--retention-bytes", "1000") == b"Topic one keeps its records: 7d, 1,000 bytes a partition.\n"
    assert len(log.entries("one", 0, 0, 99)) == 1
    gave = topics("compact")
    assert gave.startswith(b"Gave back ")
    assert int(gave.split()[2].replace(b",", b"")) > 500_000
    assert topics("alter", "one", "--retention", "none", "--retention-bytes", "none") == b"Topic one keeps its records: for ever.\n"
    assert "nothing to change" in refused("alter", "one")
    assert "'x' is no number of bytes" in refused("alter", "one", "--retention-bytes", "x")
    assert refused("alter", "nine", "--retention", "1d").startswith(".headrace/log.db: no topic 'nine'")

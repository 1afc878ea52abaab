"""What the SQLite log promises of its own: clocks that leap, retention, files that go away, room that is given back."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from headrace.engines.embedded.live import Live, run_live
from headrace.errors import EnvironmentFault
from headrace.topics.protocol import Commit, Outgoing
from headrace.topics.sqlite import SqliteLog
from headrace.topics.store import Store
from topics.test_logs import Clock, plan, values

HOUR, DAY = 3_600_000, 86_400_000


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(tmp_path: Path, clock: Clock) -> Iterator[SqliteLog]:
    with closing(SqliteLog(tmp_path / "home" / "log.db", clock)) as log:
        yield log


def fill(log: SqliteLog, clock: Clock, count: int, step: int = HOUR // 2) -> None:
    for number in range(count):
        log.append("t", [b"%d" % number])
        clock.now += step


def arrivals(log: SqliteLog) -> list[int]:
    return [entry.arrived_ms for entry in log.entries("t", 0, 0, 10_000)]


# a clock that leaps


def test_a_leap_of_the_clock_expires_nothing_and_a_clock_set_right_is_followed(
    log: SqliteLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    log.create("t", retention_ms=7 * DAY)
    fill(log, clock, 20)
    right = clock.now
    clock.now += 30 * DAY
    with caplog.at_level(logging.WARNING):
        fill(log, clock, 5)
    assert "The clock is 30.0 days past the last arrival" in caplog.text
    assert caplog.text.count("past the last arrival") == 1
    assert len(values(log, "t")) == 25
    assert arrivals(log)[-1] > right + 30 * DAY
    clock.now = right + HOUR
    fill(log, clock, 20)
    assert "The clock was set back by 30.0 days" in caplog.text
    assert arrivals(log)[25:] == [right + HOUR + n * HOUR // 2 for n in range(20)], "so records of the future are told again"
    assert len(values(log, "t")) == 45
    fill(log, clock, 340)
    assert arrivals(log)[0] > right + 12 * HOUR, "what arrived under the wrong clock holds nothing back"
    assert len(values(log, "t")) > 330


def test_after_a_long_silence_the_clock_is_believed_and_a_day_later_retention_goes_on(log: SqliteLog, clock: Clock) -> None:
    log.create("t", retention_ms=7 * DAY)
    fill(log, clock, 20)
    clock.now += 90 * DAY
    back = clock.now
    fill(log, clock, 46)
    assert arrivals(log)[20:] == [back + n * HOUR // 2 for n in range(46)]
    assert len(values(log, "t")) == 66
    clock.now = back + DAY
    fill(log, clock, 3)
    assert len(values(log, "t")) == 49
    assert log.topic("t").partitions[0].first == 20


def test_a_clock_that_starts_in_the_past_is_not_followed(log: SqliteLog, clock: Clock) -> None:
    log.create("t", retention_ms=7 * DAY)
    fill(log, clock, 3)
    last = arrivals(log)[-1]
    clock.now = 0
    fill(log, clock, 3)
    assert arrivals(log)[3:] == [last] * 3
    clock.now = last + 60 * DAY
    log.append("t", [b"leapt"])
    clock.now = 0
    log.append("t", [b"a dead battery"])
    assert arrivals(log)[-1] == last + 60 * DAY


def test_gaps_between_shifts_count_when_they_are_a_day_old(log: SqliteLog, clock: Clock) -> None:
    log.create("t", retention_ms=3 * DAY)
    for _ in range(20):
        fill(log, clock, 16)
        clock.now += 16 * HOUR
    assert 3 * 16 <= len(values(log, "t")) <= 6 * 16


# files that go away


@pytest.mark.parametrize("name", ["log.db", "log.db-wal", "log.db-shm"])
@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_of_the_log_that_is_removed_or_replaced_ends_all_who_use_it(
    tmp_path: Path, log: SqliteLog, monkeypatch: pytest.MonkeyPatch, name: str, replaced: bool
) -> None:
    log.create("t")
    log.append("t", [b"1"])
    claim = log.claim("p")
    feed = log.feed(["t"])
    assert feed.fetch()
    file = tmp_path / "home" / name
    if replaced:
        shutil.copy(file, tmp_path / "aside")
        (tmp_path / "aside").replace(file)
    else:
        file.unlink()
    says = f"{name}: was removed or replaced while it was open"
    with pytest.raises(EnvironmentFault, match=says):
        log.append("t", [b"2"])
    with pytest.raises(EnvironmentFault, match=says):
        claim.commit(Commit(b"m", {}, [], [Outgoing("t", b"{}", 1)], {("t", 0): 1}))
    monkeypatch.setattr("headrace.topics.sqlite_file._LOOK_SECONDS", 0)
    with pytest.raises(EnvironmentFault, match=says):
        feed.fetch()
    claim.release()


def test_a_file_removed_in_a_commit_is_told_by_that_commit(tmp_path: Path, log: SqliteLog) -> None:
    log.create("t")
    with pytest.raises(EnvironmentFault, match="removed or replaced"), log.catalog.writing():
        log.appending.append("t", [b"1"], None)
        (tmp_path / "home" / "log.db").unlink()


# retention


def test_what_retention_costs_follows_what_it_drops(log: SqliteLog, clock: Clock) -> None:
    log.create("t", 2, retention_ms=DAY, retention_bytes=1_000_000)
    with log.catalog.writing():
        for n in range(5_000):
            log.appending.insert(log.catalog.partitions_of("t")[0], 1, b"%d" % n, None, clock.now)
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    log.file.db.set_progress_handler(count, 100)
    log.expire_now()
    assert steps < 10
    log.file.db.set_progress_handler(None, 0)
    assert len(values(log, "t")) == 5_000
    log.alter("t", retention_ms=None, retention_bytes=100)
    assert len(values(log, "t")) == 3_000, "a few thousand blocks at once: writers do not wait for long"
    for _ in range(2):
        log.append("t", [b"more"])
        clock.now += 1
    assert 20 < len(values(log, "t")) < 40
    assert log.topic("t").partitions[0].size == sum(map(len, values(log, "t")))


def test_a_pipeline_that_begins_behind_expired_records_says_so_once(log: SqliteLog) -> None:
    log.create("in-m", retention_bytes=10)
    for _ in range(4):
        log.append("in-m", [b"{}" * 5])
    log.expire_now()
    live = Live(plan("m"), log, latest=True)
    assert live.expired == {"in-m partition 0": 3}
    run_live(live)
    live = Live(plan("m"), log, latest=True)
    assert live.expired == {}
    live.close()


# room that is given back, and rights


def test_compact_gives_room_back_while_others_read_and_write(tmp_path: Path, log: SqliteLog, clock: Clock) -> None:
    log.create("t", retention_bytes=100_000)
    for _ in range(100):
        log.append("t", [b"x" * 100_000])
    clock.now += 60_000
    log.append("t", [b"last"])
    with closing(SqliteLog(tmp_path / "home" / "log.db", clock)) as other:
        assert other.compact() > 9_000_000
        log.append("t", [b"more"])
    assert (tmp_path / "home" / "log.db").stat().st_size < 1_000_000
    assert values(log, "t")[-2:] == [b"last", b"more"]


def test_a_home_and_its_files_are_for_their_owner_alone(tmp_path: Path, log: SqliteLog) -> None:
    log.create("t")
    log.claim("p").release()
    Store(tmp_path / "home", "p").write(1, b"m", {"a": b"x"}, ["a"])
    found = [tmp_path / "home", *(tmp_path / "home").rglob("*")]
    assert len(found) >= 8
    assert {path.name for path in found if path.stat().st_mode & 0o077} == set()


def test_a_second_log_of_the_process_does_not_take_the_locks_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    opening = "import sys; from pathlib import Path; from headrace.topics.sqlite import SqliteLog; SqliteLog(Path(sys.argv[1])).close()"
    with closing(SqliteLog(path)) as first:
        first.create("t")
        first.append("t", [b"1"])
        with closing(SqliteLog(path)) as second:
            subprocess.run([sys.executable, "-c", opening, str(path)], check=True)
            assert path.with_name("log.db-wal").exists(), "another process has ended WAL mode under a log that is open"
            second.append("t", [b"2"])
        subprocess.run([sys.executable, "-c", opening, str(path)], check=True)
        assert path.with_name("log.db-wal").exists()
        first.append("t", [b"3"])
        assert [one.value for one in first.entries("t", 0, 0, 10)] == [b"1", b"2", b"3"]
